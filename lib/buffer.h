/* buffer.h: a growable run of bytes. Plain data, zero-initialised is empty; buffer_done() frees it.
 * Not NUL-terminated unless a caller appends the NUL. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

typedef struct Buffer {
        uint8_t *data;
        size_t size;
        size_t allocated;
} Buffer;

void buffer_done(Buffer *b);

/* Makes room for n more bytes. 0 or -ENOMEM; the content is untouched on failure. */
int buffer_reserve(Buffer *b, size_t n);

/* 0 or -ENOMEM; the content is untouched on failure. */
int buffer_append(Buffer *b, const void *data, size_t n);
int buffer_append_string(Buffer *b, const char *s); /* without its NUL */
int buffer_appendf(Buffer *b, const char *format, ...) _printf_(2, 3);

/* Drops the first n bytes (n <= size) and gives memory back when far more is allocated than held. */
void buffer_consume(Buffer *b, size_t n);
