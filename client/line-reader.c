#include "lib/macro.h"
#include "client/line-reader.h"

static int end_of_line(LineReader *r, const char *line, size_t size, const char **ret_line,
                       size_t *ret_size) {
        const bool too_long = r->too_long;

        r->line++;
        r->too_long = false;
        if (too_long)
                return -EMSGSIZE;
        if (size == 0) {
                r->n_empty++;
                return 0;
        }
        *ret_line = line;
        *ret_size = size;
        return 1;
}

static void skip(LineReader *r, const char *data, size_t n) {
        if (r->on_too_long && n > 0)
                r->on_too_long(data, n, r->userdata);
}

static int keep_partial(LineReader *r, const char *data, size_t n) {
        if (!r->too_long && n > r->bytes_max - r->partial.size) {
                r->too_long = true;
                skip(r, (const char *) r->partial.data, r->partial.size);
                r->partial.size = 0;
        }
        if (!r->too_long)
                return buffer_append(&r->partial, data, n);
        skip(r, data, n);
        return 0;
}

int line_reader_next(LineReader *r, const char **data, size_t *size, const char **ret_line,
                     size_t *ret_size) {
        const int delimiter = r->mode == LINE_MODE_NUL ? '\0' : '\n';
        int k;

        if (r->handed_out)
                r->partial.size = 0;
        r->handed_out = false;
        while (*size > 0) {
                const bool whole = r->mode == LINE_MODE_WHOLE;
                const char *line = *data, *end = whole ? NULL : memchr(line, delimiter, *size);
                size_t n = end ? (size_t) (end - line) : *size;

                *data += n + (end != NULL);
                *size -= n + (end != NULL);
                if (!end)
                        return keep_partial(r, line, n);

                if (r->partial.size > 0 || r->too_long || n > r->bytes_max) {
                        /* One that is too long and came whole goes this way too, to be told in
                         * one place. */
                        k = keep_partial(r, line, n);
                        if (k < 0)
                                return k;
                        line = (const char *) r->partial.data;
                        n = r->partial.size;
                }
                k = end_of_line(r, line, n, ret_line, ret_size);
                if (k != 0) {
                        r->handed_out = true;
                        return k;
                }
        }
        return 0;
}

int line_reader_finish(LineReader *r, const char **ret_line, size_t *ret_size) {
        if (r->handed_out || (r->partial.size == 0 && !r->too_long && r->mode != LINE_MODE_WHOLE))
                return 0;
        r->handed_out = true;
        return end_of_line(r, (const char *) r->partial.data, r->partial.size, ret_line, ret_size);
}

void line_reader_done(LineReader *r) {
        buffer_done(&r->partial);
}
