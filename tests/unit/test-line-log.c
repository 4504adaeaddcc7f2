/* Goal: a line is in the file whole or not at all, whatever ended the writer or stopped the disk.
 * Method: a file cut at each of its bytes; a limit on the file's size that hits a write at each of
 * its bytes. */

#include "tests/support/test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "emulator/line-log.h"
#include "lib/fd-util.h"

static int open_dir(void) {
        _cleanup_free_ char *path = test_tempdir();
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        return fd;
}

static void assert_content(int dir_fd, const char *want, size_t n) {
        _cleanup_free_ char *text = NULL;
        size_t size;

        assert_ok(read_file_at(dir_fd, "log", 1024, &text, &size));
        ck_assert_uint_eq(size, n);
        ck_assert_mem_eq(text, want, n);
}

TEST(a_line_cut_at_any_byte_is_removed_and_the_others_stay) {
        static const char text[] = "one\n\nthree\nfour\n";
        _cleanup_close_ int dir_fd = open_dir();

        for (size_t n = 0; n <= strlen(text); n++) {
                _cleanup_(line_log_done) LineLog l = LINE_LOG_INIT;
                uint64_t torn = 99;
                size_t whole = n;

                while (whole > 0 && text[whole - 1] != '\n')
                        whole--;
                assert_ok(replace_file_at(dir_fd, "log", text, n, 0600));
                assert_ok(line_log_open(dir_fd, "log", 0640, &l, &torn));
                ck_assert_uint_eq(torn, n - whole);
                assert_content(dir_fd, text, whole);
        }
}

TEST(a_torn_line_is_cut_also_when_it_is_long) {
        static const size_t sizes[] = { 1, 65534, 65535, 65536, 65537, 200000 };
        _cleanup_close_ int dir_fd = open_dir();

        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_free_ char *text = malloc(8 + sizes[i]);
                _cleanup_(line_log_done) LineLog l = LINE_LOG_INIT;
                uint64_t torn = 99;

                memcpy(text, "one\ntwo\n", 8);
                memset(text + 8, 'x', sizes[i]);
                assert_ok(replace_file_at(dir_fd, "log", text, 8 + sizes[i], 0600));
                assert_ok(line_log_open(dir_fd, "log", 0600, &l, &torn));
                ck_assert_uint_eq(torn, sizes[i]);
                assert_content(dir_fd, "one\ntwo\n", 8);
        }
}

TEST(the_mode_is_as_given) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(line_log_done) LineLog l = LINE_LOG_INIT;
        struct stat st;

        umask(0077);
        assert_ok(line_log_open(dir_fd, "log", 0640, &l, NULL));
        ck_assert_int_eq(fstatat(dir_fd, "log", &st, 0), 0);
        ck_assert_uint_eq(st.st_mode & 0777, 0640);
}

TEST(a_full_disk_leaves_no_half_line) {
        _cleanup_close_ int dir_fd = open_dir();
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
        signal(SIGXFSZ, SIG_IGN);
        for (rlim_t room = 0; room < 9; room++) {
                _cleanup_(line_log_done) LineLog l = LINE_LOG_INIT;

                assert_ok(replace_file_at(dir_fd, "log", "before\n", 7, 0600));
                assert_ok(line_log_open(dir_fd, "log", 0600, &l, NULL));
                limit.rlim_cur = 7 + room;
                ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
                assert_error(line_log_append(&l, "too long\n", 9), -EFBIG);
                assert_content(dir_fd, "before\n", 7);
                limit.rlim_cur = limit.rlim_max;
                ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
                assert_ok(line_log_append(&l, "after\n", 6));
                assert_content(dir_fd, "before\nafter\n", 13);
        }
}
