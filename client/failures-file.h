/* failures-file.h: the lines of an import that have to be given again. They gather in a file of their own beside
 * PATH and take its place at the end: until then PATH may still be read, and a run that is killed leaves it. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "lib/buffer.h"
#include "lib/macro.h"

typedef struct FailuresFile {
        char *path;      /* as it was named, for people */
        char *target;    /* the file behind links */
        char *temporary; /* NULL: not begun, or written in place */
        FILE *stream;    /* NULL: no line yet */
        Buffer header;   /* the first line, with its end; empty: none */
        bool in_place;   /* PATH is no regular file, such as a terminal: nothing to rename or remove */
        bool within_line;
        int error; /* -errno of the first that failed: all that follows fails so */
} FailuresFile;

/* Opens nothing yet. 0, -ENOMEM or -errno. */
int failures_file_init(FailuresFile *f, const char *path);

/* A part of a line, as it is; the first one begins the file. 0 or -errno. */
int failures_file_write(FailuresFile *f, const void *data, size_t n);
int failures_file_end_line(FailuresFile *f);

typedef enum FailuresEnd {
        FAILURES_REPLACE, /* PATH has what is left to do; where nothing is, it stays as it was */
        FAILURES_REMOVE,  /* likewise, but where nothing is left to do, PATH goes */
        FAILURES_BACK_UP, /* PATH may have been the input, which was not read to its end: it is kept as PATH~ */
} FailuresEnd;

/* 0 or -errno: PATH is as it was, and f->temporary, where there is one, has what could be written. */
int failures_file_finish(FailuresFile *f, FailuresEnd end);

void failures_file_done(FailuresFile *f);
