/* json-text.h: JSON as text, for hot paths that build no objects of it. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/buffer.h"

/* A JSON string with its quotes. s is valid UTF-8, which passes as it is, so that the common case
 * is one copy; quotes, backslashes and control characters, those of two bytes among them, are
 * escaped. 0 or -ENOMEM. */
int json_text_append_string(Buffer *out, const char *s, size_t n);

/* Whether the text is exactly one JSON value (RFC 8259) in valid UTF-8, nested at most depth deep.
 */
bool json_text_is_valid(const char *s, size_t n, unsigned depth);
