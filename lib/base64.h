/* base64.h: RFC 4648 section 4, strict: standard alphabet, padding required, no white space, no stray bits. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* *ret is NUL-terminated and the caller's. 0 or -ENOMEM. */
int base64_encode(const void *data, size_t n, char **ret, size_t *ret_size);

/* *ret is the caller's (a NUL follows the content). 0, -EINVAL or -ENOMEM. */
int base64_decode(const char *s, size_t n, void **ret, size_t *ret_size);

/* The same into room for n / 4 * 3 bytes, which may be s itself. No NUL follows. 0 or -EINVAL; the room
 * is overwritten anyway. */
int base64_decode_to(const char *s, size_t n, void *data, size_t *ret_size);
