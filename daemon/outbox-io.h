/* outbox-io.h: the few disk calls of the outbox as a table, so that a test can bring its own disk.
 * Each call returns what the system call would, with -errno in place of -1. Paths are relative to dir_fd. The
 * table may be used from several threads at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct OutboxIo OutboxIo;

struct OutboxIo {
        void *userdata;

        int (*open_dir)(const OutboxIo *io, const char *path); /* makes it where missing, mode 0700; locked (flock) or -EBUSY */
        int (*openat)(const OutboxIo *io, int dir_fd, const char *name, int flags, mode_t mode);
        int (*close)(const OutboxIo *io, int fd);
        ssize_t (*pread)(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset);
        ssize_t (*pwrite)(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset);
        int (*ftruncate)(const OutboxIo *io, int fd, uint64_t size);
        /* After a failure what is read is what the disk has, no longer what was written. */
        int (*fdatasync)(const OutboxIo *io, int fd);
        int (*fsync)(const OutboxIo *io, int fd); /* files and the directory itself */
        int (*renameat)(const OutboxIo *io, int dir_fd, const char *from, const char *to);
        int (*unlinkat)(const OutboxIo *io, int dir_fd, const char *name);
        int (*mkdirat)(const OutboxIo *io, int dir_fd, const char *name, mode_t mode);
        int (*fsize)(const OutboxIo *io, int fd, uint64_t *ret); /* -ENOENT: it has no name any more, and ends with its descriptors */
        /* Calls f for each name except "." and ".."; stops at the first negative result and returns it. */
        int (*list)(const OutboxIo *io, int dir_fd, int (*f)(const char *name, void *userdata), void *userdata);
        /* Size of the file system and bytes free to unprivileged users. */
        int (*statfs)(const OutboxIo *io, int dir_fd, uint64_t *ret_size, uint64_t *ret_free);
};

extern const OutboxIo outbox_io_real; /* outbox-io.c */
