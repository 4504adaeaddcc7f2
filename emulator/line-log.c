#include "emulator/line-log.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/fd-util.h"

#define BACKWARD_BLOCK 65536

/* Offset just behind the last newline before end, 0 where there is none. */
static int64_t line_start(int fd, off_t end) {
        _cleanup_free_ char *block = NULL;

        block = malloc(BACKWARD_BLOCK);
        if (!block)
                return -ENOMEM;

        while (end > 0) {
                off_t begin = end > BACKWARD_BLOCK ? end - BACKWARD_BLOCK : 0;
                const char *newline;
                ssize_t n;

                n = pread_full(fd, block, (size_t) (end - begin), begin);
                if (n < 0)
                        return n;
                newline = memrchr(block, '\n', (size_t) n);
                if (newline)
                        return begin + (newline - block) + 1;
                end = begin;
        }
        return 0;
}

int line_log_open(int dir_fd, const char *name, mode_t mode, LineLog *ret,
                  uint64_t *ret_torn_bytes) {
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int64_t end;

        assert(name);
        assert(ret);

        fd = openat(dir_fd, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, mode);
        if (fd < 0)
                return -errno;
        if (fchmod(fd, mode) < 0 || fstat(fd, &st) < 0)
                return -errno;

        end = line_start(fd, st.st_size);
        if (end < 0)
                return (int) end;
        if (end < st.st_size && ftruncate(fd, end) < 0)
                return -errno;

        if (ret_torn_bytes)
                *ret_torn_bytes = (uint64_t) (st.st_size - end);
        *ret = (LineLog) { .fd = TAKE_FD(fd) };
        return 0;
}

void line_log_done(LineLog *l) {
        l->fd = safe_close(l->fd);
}

int line_log_append(LineLog *l, const void *data, size_t n) {
        const char *p = data;
        size_t written = 0;

        assert(n > 0 && p[n - 1] == '\n');

        while (written < n) {
                ssize_t k = write(l->fd, p + written, n - written);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0) {
                        int r = k < 0 ? -errno : -EIO;
                        struct stat st;

                        /* Half a line would swallow the next one. */
                        if (written > 0 && fstat(l->fd, &st) == 0 &&
                            ftruncate(l->fd, st.st_size - (off_t) written) < 0)
                                return -errno;
                        return r;
                }
                written += (size_t) k;
        }
        return 0;
}

int line_log_sync(LineLog *l) {
        return fdatasync(l->fd) < 0 ? -errno : 0;
}
