/* line-log.h: a file of text lines that only grows. A line is there whole or not at all: one that a crash cut short is removed at the next opening.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/macro.h"

typedef struct LineLog {
        int fd;
} LineLog;

#define LINE_LOG_INIT ((LineLog) { .fd = -EBADF })

/* Opens or creates; mode applies as given (no umask). Bytes behind the last newline are cut off,
 * their count goes to *ret_torn_bytes (may be NULL). 0 or -errno. */
int line_log_open(int dir_fd, const char *name, mode_t mode, LineLog *ret,
                  uint64_t *ret_torn_bytes);
void line_log_done(LineLog *l);

/* Appends whole lines; data ends with a newline. Visible to every reader, and safe from the death
 * of this process, when it returns 0; not from a power cut before line_log_sync(). On -errno the
 * file is as before. */
int line_log_append(LineLog *l, const void *data, size_t n);
int line_log_sync(LineLog *l);
