/* utf8.h: strict UTF-8 (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

bool utf8_is_valid(const void *data, size_t n);
