/* base64.h: RFC 4648 section 4, strict: standard alphabet, padding required, no white space, no stray bits. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* *ret is NUL-terminated and the caller's. 0 or -ENOMEM. */
int base64_encode(const void *data, size_t n, char **ret, size_t *ret_size);

/* *ret is the caller's (a NUL follows the content). 0, -EINVAL or -ENOMEM. */
int base64_decode(const char *s, size_t n, void **ret, size_t *ret_size);
