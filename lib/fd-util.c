#include "lib/fd-util.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

int safe_close(int fd) {
        closep(&fd);
        return -EBADF;
}

int standard_fds_fill(void) {
        for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
                if (fcntl(fd, F_GETFD) < 0 &&
                    open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0)
                        return -errno;
        return 0;
}

int listen_unix_stream(const char *path) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (unlink(path) < 0 && errno != ENOENT)
                return -errno;
        if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 || listen(fd, SOMAXCONN) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int write_all(int fd, const void *data, size_t n) {
        const char *p = data;

        while (n > 0) {
                ssize_t k = write(fd, p, n);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                p += k;
                n -= (size_t) k;
        }
        return 0;
}

int pwrite_all(int fd, const void *data, size_t n, off_t offset) {
        const char *p = data;

        while (n > 0) {
                ssize_t k = pwrite(fd, p, n, offset);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                p += k;
                n -= (size_t) k;
                offset += k;
        }
        return 0;
}

ssize_t pread_full(int fd, void *data, size_t n, off_t offset) {
        char *p = data;
        size_t done = 0;

        while (done < n) {
                ssize_t k = pread(fd, p + done, n - done, offset + (off_t) done);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (k == 0)
                        break;
                done += (size_t) k;
        }
        return (ssize_t) done;
}

/* Grows by copying, so that the old block can be erased: the content may be a key. */
static int grow_erasing(char **data, size_t used, size_t size) {
        char *larger = malloc(size);

        if (!larger)
                return -ENOMEM;
        if (used > 0)
                memcpy(larger, *data, used);
        if (*data)
                explicit_bzero(*data, used);
        free(*data);
        *data = larger;
        return 0;
}

/* *data and *used tell what was read also on failure, for the caller to erase. */
static int read_to_end(int fd, size_t size_hint, size_t max, char **data, size_t *used) {
        size_t size = MIN(size_hint, max);

        for (;;) {
                ssize_t k;
                int r;

                /* Room for one byte above the limit (to notice it) and the NUL. */
                size = *used == 0 ? size + 2 : MIN(2 * size, max) + 2;
                r = grow_erasing(data, *used, size);
                if (r < 0)
                        return r;
                while (*used < size - 1) {
                        k = read(fd, *data + *used, size - 1 - *used);
                        if (k < 0) {
                                if (errno == EINTR)
                                        continue;
                                return -errno;
                        }
                        if (k == 0) {
                                (*data)[*used] = 0;
                                return 0;
                        }
                        *used += (size_t) k;
                        if (*used > max)
                                return -EFBIG;
                }
        }
}

int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_size) {
        _cleanup_close_ int fd = -EBADF;
        char *data = NULL;
        struct stat st;
        size_t size = 0;
        int r;

        assert(max < SIZE_MAX / 4);

        fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (S_ISREG(st.st_mode) && (uint64_t) st.st_size > max)
                return -EFBIG;
        r = read_to_end(fd, S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t) st.st_size : 4096, max, &data, &size);
        if (r < 0) {
                if (data)
                        explicit_bzero(data, size);
                free(data);
                return r;
        }
        *ret = data;
        if (ret_size)
                *ret_size = size;
        return 0;
}

int read_file(const char *path, size_t max, char **ret, size_t *ret_size) {
        return read_file_at(AT_FDCWD, path, max, ret, ret_size);
}

/* The folder of a path, opened, and what comes behind its last slash. */
static int open_folder(int dir_fd, const char *path, const char **ret_name) {
        _cleanup_free_ char *folder = NULL;
        const char *slash = strrchr(path, '/');
        int fd;

        if (slash && slash[1] == 0)
                return -EISDIR;
        folder = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t) (slash - path));
        if (!folder)
                return -ENOMEM;
        fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        *ret_name = slash ? slash + 1 : path;
        return fd;
}

static int write_and_sync(int fd, const void *data, size_t n, mode_t mode) {
        int r = write_all(fd, data, n);

        if (r < 0)
                return r;
        if (fchmod(fd, mode) < 0)
                return -errno;
        return fsync(fd) < 0 ? -errno : 0;
}

int replace_file_at(int dir_fd, const char *path, const void *data, size_t n, mode_t mode) {
        _cleanup_close_ int folder_fd = -EBADF, fd = -EBADF;
        _cleanup_free_ char *temporary = NULL;
        const char *name = NULL;
        uint64_t random;
        int r;

        folder_fd = open_folder(dir_fd, path, &name);
        if (folder_fd < 0)
                return folder_fd;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
                return -errno;
        if (asprintf(&temporary, ".#%s.%016llx", name, (unsigned long long) random) < 0) {
                temporary = NULL;
                return -ENOMEM;
        }
        /* 0600 until the content is in: mode may be wider, but never earlier than wanted. */
        fd = openat(folder_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        r = write_and_sync(fd, data, n, mode);
        if (r >= 0 && renameat(folder_fd, temporary, folder_fd, name) < 0)
                r = -errno;
        if (r < 0) {
                (void) unlinkat(folder_fd, temporary, 0); /* the first error is the one to tell */
                return r;
        }
        return fsync(folder_fd) < 0 ? -errno : 0;
}

int replace_file(const char *path, const void *data, size_t n, mode_t mode) {
        return replace_file_at(AT_FDCWD, path, data, n, mode);
}
