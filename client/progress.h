/* progress.h: how far a long work has come, on standard error: a line that is written over on a terminal,
 * a line every half a minute elsewhere. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/time-util.h"

typedef struct Progress {
        const char *what; /* "devices imported" */
        uint64_t total;   /* 0: not known */
        usec_t begin_usec, next_usec;
        bool terminal, shown;
} Progress;

void progress_begin(Progress *p, const char *what, uint64_t total);

/* Cheap where it is not yet time for a line. */
void progress_show(Progress *p, uint64_t done, uint64_t failed, bool paused);

/* Clears the line on a terminal. */
void progress_end(Progress *p);

/* "1234 devices imported, 3 failed, 4100/s, 12s left" into buf; for tests and progress_show(). */
char *progress_format(char *buf, size_t size, const Progress *p, uint64_t done, uint64_t failed,
                      bool paused, usec_t now_usec);
