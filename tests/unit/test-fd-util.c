/* Whole files: what is read is all of it, what is replaced is never half. */
#include "tests/support/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/fd-util.h"

static char *path_in(const char *dir, const char *name) {
        char *p;

        ck_assert_int_ge(asprintf(&p, "%s/%s", dir, name), 0);
        return p;
}

static unsigned n_entries(const char *dir) {
        DIR *d = opendir(dir);
        unsigned n = 0;

        ck_assert_ptr_nonnull(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n - 2;
}

TEST(a_file_never_gets_the_number_of_a_closed_standard_descriptor) {
        int status;
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                bool good;
                char c;
                int fd;

                for (fd = 0; fd <= 2; fd++)
                        close(fd);
                good = standard_fds_fill() == 0;
                fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
                good = good && fd > 2 && read(0, &c, 1) < 0 && errno == EBADF;
                for (fd = 1; fd <= 2; fd++)
                        good = good && write(fd, "x", 1) < 0 && errno == EBADF;
                _exit(good ? 0 : 1);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
}

TEST(open_standard_descriptors_stay_as_they_are) {
        struct stat before[3], after[3];

        for (int fd = 0; fd <= 2; fd++)
                ck_assert_int_eq(fstat(fd, &before[fd]), 0);
        assert_ok(standard_fds_fill());
        for (int fd = 0; fd <= 2; fd++) {
                ck_assert_int_eq(fstat(fd, &after[fd]), 0);
                ck_assert(before[fd].st_ino == after[fd].st_ino && before[fd].st_dev == after[fd].st_dev);
        }
}

TEST(a_replaced_file_holds_the_new_content_and_its_mode) {
        _cleanup_free_ char *dir = test_tempdir(), *path = path_in(dir, "f"), *content = NULL;
        struct stat st;
        size_t n;

        umask(077);
        assert_ok(replace_file(path, "old", 3, 0640));
        assert_ok(replace_file(path, "newer", 5, 0664)); /* the umask does not count */
        assert_ok(read_file(path, 100, &content, &n));
        ck_assert_uint_eq(n, 5);
        ck_assert_str_eq(content, "newer");
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0664);
        ck_assert_uint_eq(n_entries(dir), 1);
}

TEST(replacing_works_relative_to_a_folder) {
        _cleanup_free_ char *dir = test_tempdir(), *path = path_in(dir, "sub"), *content = NULL;
        _cleanup_close_ int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        ck_assert_int_eq(mkdir(path, 0700), 0);
        assert_ok(replace_file_at(dir_fd, "f", "1", 1, 0600));
        assert_ok(replace_file_at(dir_fd, "sub/g", "2", 1, 0600));
        assert_ok(read_file_at(dir_fd, "f", 10, &content, NULL));
        ck_assert_str_eq(content, "1");
        free(content);
        assert_ok(read_file_at(dir_fd, "sub/g", 10, &content, NULL));
        ck_assert_str_eq(content, "2");
}

/* A name that is taken by a folder makes the rename fail, after the temporary file was written. */
TEST(a_failed_replacement_leaves_no_trace) {
        _cleanup_free_ char *dir = test_tempdir(), *folder = path_in(dir, "folder"), *inner = path_in(folder, "x");

        ck_assert_int_eq(mkdir(folder, 0700), 0);
        assert_ok(replace_file(inner, "keep", 4, 0600));
        ck_assert_int_lt(replace_file(folder, "data", 4, 0600), 0);
        ck_assert_uint_eq(n_entries(dir), 1);
        ck_assert_uint_eq(n_entries(folder), 1);
        assert_error(replace_file("/nonexistent/f", "x", 1, 0600), -ENOENT);
        assert_error(replace_file("/tmp/", "x", 1, 0600), -EISDIR);
}

#define SWAPS 200

static void *swap_contents(void *path) {
        static char a[70000], b[100];

        memset(a, 'a', sizeof(a));
        memset(b, 'b', sizeof(b));
        for (unsigned i = 0; i < SWAPS; i++)
                if (replace_file(path, i % 2 ? a : b, i % 2 ? sizeof(a) : sizeof(b), 0600) < 0)
                        abort();
        return NULL;
}

TEST(a_reader_sees_the_old_content_or_the_new_never_a_mixture) {
        _cleanup_free_ char *dir = test_tempdir(), *path = path_in(dir, "f");
        pthread_t thread;

        assert_ok(replace_file(path, "bb", 2, 0600));
        ck_assert_int_eq(pthread_create(&thread, NULL, swap_contents, path), 0);
        while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
                _cleanup_free_ char *content = NULL;
                size_t n;

                assert_ok(read_file(path, 100000, &content, &n));
                ck_assert_msg(n == 2 || n == 100 || n == 70000, "%zu bytes", n);
                ck_assert_uint_eq(strspn(content, n == 70000 ? "a" : "b"), n);
        }
}

TEST(a_file_is_read_up_to_the_limit_and_not_one_byte_more) {
        _cleanup_free_ char *dir = test_tempdir(), *path = path_in(dir, "f");
        static char data[20000];

        memset(data, 'x', sizeof(data));
        for (size_t size = 0; size <= sizeof(data); size += size < 10 ? 1 : 1999) {
                char *content = NULL;
                size_t n;

                assert_ok(replace_file(path, data, size, 0600));
                assert_ok(read_file(path, size, &content, &n));
                ck_assert_uint_eq(n, size);
                ck_assert_int_eq(content[n], 0);
                free(content);
                if (size > 0) {
                        content = NULL;
                        assert_error(read_file(path, size - 1, &content, &n), -EFBIG);
                        ck_assert_ptr_null(content);
                }
        }
}

static void *feed_pipe(void *fd) {
        char piece[1000];

        memset(piece, 'p', sizeof(piece));
        for (unsigned i = 0; i < 50; i++)
                if (write_all(*(int *) fd, piece, sizeof(piece)) < 0)
                        abort();
        close(*(int *) fd);
        return NULL;
}

/* A pipe tells no size and gives short reads: what a credential from a process substitution looks like. */
TEST_LOOP(a_pipe_is_read_to_its_end, 2) {
        size_t max = _i == 0 ? 50000 : 49999, n;
        char path[64], *content = NULL;
        pthread_t thread;
        int fds[2];

        ck_assert_int_eq(pipe(fds), 0);
        ck_assert_int_eq(fcntl(fds[1], F_SETPIPE_SZ, 65536), 65536); /* so that the writer ends if nobody reads on */
        ck_assert_int_eq(pthread_create(&thread, NULL, feed_pipe, &fds[1]), 0);
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
        if (_i == 0) {
                assert_ok(read_file(path, max, &content, &n));
                ck_assert_uint_eq(n, 50000);
                ck_assert_uint_eq(strspn(content, "p"), n);
                free(content);
        } else
                assert_error(read_file(path, max, &content, &n), -EFBIG);
        pthread_join(thread, NULL);
        close(fds[0]);
}

TEST(reading_what_is_no_file_is_an_error) {
        char *content = NULL;
        size_t n;

        assert_error(read_file("/nonexistent", 10, &content, &n), -ENOENT);
        assert_error(read_file("/tmp", 10, &content, &n), -EISDIR);
        ck_assert_ptr_null(content);
}

TEST(positioned_reads_and_writes_meet) {
        _cleanup_free_ char *dir = test_tempdir(), *path = path_in(dir, "f");
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        char buf[20];

        assert_ok(pwrite_all(fd, "hello", 5, 10));
        ck_assert_int_eq(pread_full(fd, buf, 5, 10), 5);
        ck_assert_mem_eq(buf, "hello", 5);
        ck_assert_int_eq(pread_full(fd, buf, sizeof(buf), 12), 3); /* the file ends */
        ck_assert_int_eq(pread_full(fd, buf, sizeof(buf), 100), 0);
        assert_error((int) pread_full(-1, buf, 1, 0), -EBADF);
        assert_error(write_all(-1, "x", 1), -EBADF);
        assert_error(pwrite_all(-1, "x", 1, 0), -EBADF);
}

TEST(closing_keeps_errno_and_takes_a_negative_descriptor) {
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        errno = EPERM;
        ck_assert_int_eq(safe_close(fd), -EBADF);
        ck_assert_int_eq(safe_close(-EBADF), -EBADF);
        ck_assert_int_eq(errno, EPERM);
        ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
