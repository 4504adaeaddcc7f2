/* line-reader.h: bytes in, lines out, without copying lines that arrived whole. Knows no
 * descriptor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"

typedef enum LineMode {
        LINE_MODE_NEWLINE,
        LINE_MODE_NUL,
        LINE_MODE_WHOLE, /* all there is, as one */
        _LINE_MODE_MAX,
        _LINE_MODE_INVALID = -EINVAL,
} LineMode;

/* Zero-initialised plus mode and bytes_max is ready to use. */
typedef struct LineReader {
        LineMode mode;
        size_t bytes_max; /* of one line without its end; longer ones are skipped, not kept */

        /* Gets all bytes of a line that is skipped, without its end, in pieces; may be NULL. */
        void (*on_too_long)(const char *data, size_t n, void *userdata);
        void *userdata;

        Buffer partial;   /* of a line whose end has not come yet */
        bool handed_out;  /* partial is what the last call returned */
        bool too_long;    /* the line under way passed bytes_max */
        uint64_t line;    /* number of the line that was returned last, from 1; empty ones count */
        uint64_t n_empty; /* skipped */
} LineReader;

/* The next line of *data, which is advanced; a line that began in an earlier call is put together.
 * Empty lines are counted and skipped. 1: *ret_line is valid until the next call; 0: *data is used
 * up; -EMSGSIZE: line number r->line was longer than bytes_max, go on; -ENOMEM. */
int line_reader_next(LineReader *r, const char **data, size_t *size, const char **ret_line,
                     size_t *ret_size);

/* After the end of the input: the last line if it had no end. 1, 0, -EMSGSIZE as above. */
int line_reader_finish(LineReader *r, const char **ret_line, size_t *ret_size);

void line_reader_done(LineReader *r);
