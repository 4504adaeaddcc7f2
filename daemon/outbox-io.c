#include "daemon/outbox-io.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/macro.h"

/* Makes the entry of path in its parent durable. A parent that we may not read, or a read-only file system, holds
 * nothing of ours that could be lost. */
static int sync_parent(const char *path) {
        char parent[PATH_MAX];
        _cleanup_close_ int fd = -EBADF;
        char *slash;

        if (snprintf(parent, sizeof(parent), "%s", path) >= (int) sizeof(parent))
                return -ENAMETOOLONG;
        slash = strrchr(parent, '/');
        if (!slash)
                (void) snprintf(parent, sizeof(parent), ".");
        else if (slash == parent)
                slash[1] = 0;
        else
                *slash = 0;

        fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return errno == EACCES ? 0 : -errno;
        if (fsync(fd) < 0 && errno != EROFS && errno != EINVAL)
                return -errno;
        return 0;
}

/* mkdir -p, each new entry synced: a message is only as safe as the directory that leads to it. */
static int make_path(const char *path) {
        char partial[PATH_MAX];
        int r;

        if (snprintf(partial, sizeof(partial), "%s", path) >= (int) sizeof(partial))
                return -ENAMETOOLONG;
        for (char *p = partial + 1;; p++) {
                char c = *p;

                if (c != '/' && c != 0)
                        continue;
                *p = 0;
                if (mkdir(partial, 0700) >= 0) {
                        r = sync_parent(partial);
                        if (r < 0)
                                return r;
                } else if (errno != EEXIST && errno != EROFS)
                        return -errno;
                if (c == 0)
                        break;
                *p = c;
                if (p[1] == 0)
                        break;
        }
        return sync_parent(path); /* also when it was there: its maker may have crashed before the sync */
}

static int real_open_dir(const OutboxIo *io, const char *path) {
        _cleanup_close_ int fd = -EBADF;
        int r;

        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) {
                if (errno != ENOENT)
                        return -errno;
                r = make_path(path);
                if (r < 0)
                        return r;
                fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd < 0)
                        return -errno;
        } else {
                r = sync_parent(path);
                if (r < 0)
                        return r;
        }
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;
        return TAKE_FD(fd);
}

static int real_openat(const OutboxIo *io, int dir_fd, const char *name, int flags, mode_t mode) {
        int fd = openat(dir_fd, name, flags, mode);

        return fd < 0 ? -errno : fd;
}

static int real_close(const OutboxIo *io, int fd) {
        return close(fd) < 0 ? -errno : 0;
}

static ssize_t real_pread(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset) {
        ssize_t k = pread(fd, data, n, (off_t) offset);

        return k < 0 ? -errno : k;
}

static ssize_t real_pwrite(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset) {
        ssize_t k = pwrite(fd, data, n, (off_t) offset);

        return k < 0 ? -errno : k;
}

static int real_ftruncate(const OutboxIo *io, int fd, uint64_t size) {
        return ftruncate(fd, (off_t) size) < 0 ? -errno : 0;
}

/* After a failed sync the pages are clean and may still hold what the disk never got (fsync(2), "EIO"; P. Rebello et
 * al., USENIX ATC 2020): a later start would read it from there and count on it. Dropped, it is read from the disk. */
static int sync_failed(int fd) {
        int r = -errno;

        (void) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* what stays was asked for, and is no worse than before */
        return r;
}

static int real_fdatasync(const OutboxIo *io, int fd) {
        return fdatasync(fd) < 0 ? sync_failed(fd) : 0;
}

static int real_fsync(const OutboxIo *io, int fd) {
        return fsync(fd) < 0 ? sync_failed(fd) : 0;
}

static int real_renameat(const OutboxIo *io, int dir_fd, const char *from, const char *to) {
        return renameat(dir_fd, from, dir_fd, to) < 0 ? -errno : 0;
}

static int real_unlinkat(const OutboxIo *io, int dir_fd, const char *name) {
        return unlinkat(dir_fd, name, 0) < 0 ? -errno : 0;
}

static int real_mkdirat(const OutboxIo *io, int dir_fd, const char *name, mode_t mode) {
        return mkdirat(dir_fd, name, mode) < 0 ? -errno : 0;
}

static int real_fsize(const OutboxIo *io, int fd, uint64_t *ret) {
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_nlink == 0)
                return -ENOENT;
        *ret = (uint64_t) st.st_size;
        return 0;
}

static void closedirp(DIR **d) {
        if (*d)
                (void) closedir(*d); /* opened for reading */
}

static int real_list(const OutboxIo *io, int dir_fd, int (*f)(const char *name, void *userdata), void *userdata) {
        _cleanup_(closedirp) DIR *d = NULL;
        int fd, r;

        fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        d = fdopendir(fd);
        if (!d) {
                r = -errno;
                (void) close(fd);
                return r;
        }
        for (;;) {
                struct dirent *e;

                errno = 0;
                e = readdir(d);
                if (!e)
                        return -errno;
                if (streq(e->d_name, ".") || streq(e->d_name, ".."))
                        continue;
                r = f(e->d_name, userdata);
                if (r < 0)
                        return r;
        }
}

static int real_statfs(const OutboxIo *io, int dir_fd, uint64_t *ret_size, uint64_t *ret_free) {
        struct statvfs s;

        if (fstatvfs(dir_fd, &s) < 0)
                return -errno;
        *ret_size = (uint64_t) s.f_blocks * s.f_frsize;
        *ret_free = (uint64_t) s.f_bavail * s.f_frsize;
        return 0;
}

const OutboxIo outbox_io_real = {
        .open_dir = real_open_dir,
        .openat = real_openat,
        .close = real_close,
        .pread = real_pread,
        .pwrite = real_pwrite,
        .ftruncate = real_ftruncate,
        .fdatasync = real_fdatasync,
        .fsync = real_fsync,
        .renameat = real_renameat,
        .unlinkat = real_unlinkat,
        .mkdirat = real_mkdirat,
        .fsize = real_fsize,
        .list = real_list,
        .statfs = real_statfs,
};
