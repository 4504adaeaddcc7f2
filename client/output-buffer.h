/* output-buffer.h: standard output that never makes its writer wait: what the reader does not take
 * yet stays here, and the writer asks how much that is before it makes more. */
#pragma once

#include <stdbool.h>

#include "lib/buffer.h"

#define OUTPUT_BUFFER_FULL ((size_t) 256 * 1024) /* from then on its writer makes no more */

/* Append to data; all else is its own. Zero-initialised, then opened. */
typedef struct OutputBuffer {
        Buffer data;
        size_t n_written; /* of data */
        int fd;
        bool own_fd, is_socket;
} OutputBuffer;

/* On standard output. A pipe or a terminal is opened anew for that, because the flag that makes
 * writing not wait would be its other users' too. Where that is not possible, writing may wait. */
void output_buffer_open(OutputBuffer *o);
void output_buffer_close(OutputBuffer *o);

static inline size_t output_buffer_pending(const OutputBuffer *o) {
        return o->data.size - o->n_written;
}

/* Writes what can be written now. 0, -EPIPE (the reader went away), or another error of the system.
 */
int output_buffer_flush(OutputBuffer *o);
