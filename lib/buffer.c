#include "lib/buffer.h"

#include <assert.h>
#include <stdarg.h>

#define BUFFER_BYTES_MIN ((size_t) 256)
#define BUFFER_KEPT_MAX ((size_t) 64 * 1024) /* an idle connection may keep this much without being asked for it back */

void buffer_done(Buffer *b) {
        free(b->data);
        *b = (Buffer) {};
}

int buffer_reserve(Buffer *b, size_t n) {
        size_t need, want;
        uint8_t *data;

        if (n <= b->allocated - b->size)
                return 0;
        if (__builtin_add_overflow(b->size, n, &need))
                return -ENOMEM;
        want = b->allocated <= SIZE_MAX / 2 ? b->allocated + b->allocated / 2 : need;
        want = MAX(want, need);
        want = MAX(want, BUFFER_BYTES_MIN);
        data = realloc(b->data, want);
        if (!data)
                return -ENOMEM;
        b->data = data;
        b->allocated = want;
        return 0;
}

int buffer_append(Buffer *b, const void *data, size_t n) {
        int r;

        if (n == 0)
                return 0;
        r = buffer_reserve(b, n);
        if (r < 0)
                return r;
        memcpy(b->data + b->size, data, n);
        b->size += n;
        return 0;
}

int buffer_append_string(Buffer *b, const char *s) {
        return buffer_append(b, s, strlen(s));
}

int buffer_appendf(Buffer *b, const char *format, ...) {
        size_t room = b->allocated - b->size;
        va_list ap;
        int n, r;

        /* Most of the time it fits, and is formatted once. */
        va_start(ap, format);
        n = vsnprintf(room > 0 ? (char *) b->data + b->size : NULL, room, format, ap);
        va_end(ap);
        if (n < 0)
                return -ENOMEM;
        if ((size_t) n >= room) {
                r = buffer_reserve(b, (size_t) n + 1);
                if (r < 0)
                        return r;
                va_start(ap, format);
                n = vsnprintf((char *) b->data + b->size, (size_t) n + 1, format, ap);
                va_end(ap);
        }
        b->size += (size_t) n; /* the NUL lies behind the content */
        return 0;
}

void buffer_consume(Buffer *b, size_t n) {
        size_t keep;
        uint8_t *data;

        assert(n <= b->size);

        b->size -= n;
        if (b->size > 0 && n > 0)
                memmove(b->data, b->data + n, b->size);
        if (b->allocated <= BUFFER_KEPT_MAX || b->size > b->allocated / 4)
                return;
        keep = MAX(b->size, BUFFER_BYTES_MIN);
        data = realloc(b->data, keep);
        if (!data) /* then it stays large */
                return;
        b->data = data;
        b->allocated = keep;
}
