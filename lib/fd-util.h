/* fd-util.h: file descriptors and whole files. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#include "lib/macro.h"

/* Closes, keeps errno, accepts a negative fd. Returns -EBADF, to be assigned. */
int safe_close(int fd);

/* Fills descriptors 0 to 2 where the caller of the program left them closed: otherwise the next file that is opened
 * becomes standard error, and what is said there ends up in it. Reading 0, writing 1 or 2 then fails with EBADF, as
 * it would have. The first thing in main(). 0 or -errno. */
int standard_fds_fill(void);

/* A listening unix stream socket, not blocking, in place of whatever has that name. The descriptor or -errno. */
int listen_unix_stream(const char *path);

/* Writes all n bytes, going on after EINTR and short writes. 0 or -errno. */
int write_all(int fd, const void *data, size_t n);
int pwrite_all(int fd, const void *data, size_t n, off_t offset);

/* Reads exactly n bytes unless the file ends. Returns the count read or -errno. */
ssize_t pread_full(int fd, void *data, size_t n, off_t offset);

/* Reads a file of at most max bytes; a NUL is added behind the content (not counted in ret_size).
 * 0, -EFBIG (longer than max), or -errno. *ret is the caller's to free; erase it if it holds a secret. */
int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_size);
int read_file(const char *path, size_t max, char **ret, size_t *ret_size);

/* Replaces a file so that a reader, also after a power cut, sees the old content or the new, whole:
 * temporary file in the same folder, fsync, rename, fsync of the folder. mode applies as given (no umask).
 * 0 or -errno; on failure the old file is as it was and no temporary file stays. Only when the last step, the sync of
 * the folder, fails, the new file is in place and a power cut may bring the old one back. */
int replace_file_at(int dir_fd, const char *path, const void *data, size_t n, mode_t mode);
int replace_file(const char *path, const void *data, size_t n, mode_t mode);
