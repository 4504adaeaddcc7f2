/* credentials-file.h: reads the small files that credentials come from, and says what an
 * administrator can do about one that cannot be read. No sentence holds anything of a file's
 * content. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/macro.h"

/* Gives error back with a sentence without a period in *reterr_problem, which is the caller's;
 * -ENOMEM where there is no memory for it. */
int credentials_fail(int error, char **reterr_problem, const char *format, ...) _printf_(3, 4);

/* Reads a file of at most max bytes and without NUL. what: "the connection string of the device",
 * how the sentence calls the content; how: where it comes from, in parentheses, or "". A secret
 * that everyone may read is told in the log. 0, or -errno with the sentence: -ENOENT, -EACCES,
 * -EFBIG, -EINVAL (no text), ... *ret: erase_and_free(). */
int credentials_read_file(const char *path, size_t max, bool is_secret, const char *what,
                          const char *how, char **ret, char **reterr_problem);

/* The path of a systemd credential ($CREDENTIALS_DIRECTORY/NAME), NULL where the manager passes
 * none. It may be missing. *ret is the caller's. 0 or -ENOMEM. */
int credentials_systemd_path(const char *name, char **ret);

/* Whether path is in $CREDENTIALS_DIRECTORY: a copy made when the service started, which only a
 * restart renews. */
bool credentials_is_snapshot(const char *path);

/* Extends the sentence about such a file by that remedy, where there is memory for it. */
void credentials_add_restart(const char *path, char **problem);
