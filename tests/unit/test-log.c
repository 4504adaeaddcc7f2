/* Goal: a line is one line wherever it comes from, levels and rates hold, and nothing of the
 * caller's state changes. Method: stderr goes to a pipe. */
#include "daemon/log.h"

#include <fcntl.h>

#include "tests/support/test.h"

static int pipe_fds[2];

static void catch_stderr(int max_level) {
        ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
        ck_assert_int_ge(dup2(pipe_fds[1], STDERR_FILENO), 0);
        log_setup(LOG_TARGET_STDERR, max_level);
}

static const char *caught(void) {
        static char text[16384];
        ssize_t n = read(pipe_fds[0], text, sizeof(text) - 1);

        text[n < 0 ? 0 : n] = 0;
        return text;
}

TEST(a_line_is_one_line_and_keeps_errno) {
        errno = ENOENT;
        catch_stderr(LOG_INFO);
        errno = ENOENT;
        log_info("name %s", "a\nb\x1b[31mc");
        ck_assert_int_eq(errno, ENOENT);
        ck_assert_str_eq(caught(), "name a b [31mc\n");
}

TEST(errno_texts_come_from_the_argument) {
        catch_stderr(LOG_INFO);
        ck_assert_int_eq(log_error_errno(-EROFS, "Cannot write: %m"), -EROFS);
        ck_assert_str_eq(caught(), "Cannot write: Read-only file system\n");
}

TEST(levels_below_the_limit_are_silent) {
        catch_stderr(LOG_WARNING);
        log_info("no");
        log_debug("no");
        log_event(LOG_NOTICE, MSG_STARTED, NULL, "no");
        ck_assert_str_eq(caught(), "");
        log_warning("yes");
        ck_assert_str_eq(caught(), "yes\n");
}

TEST(an_endless_line_is_cut) {
        _cleanup_free_ char *s = malloc(10001);

        ck_assert_ptr_nonnull(s);
        memset(s, 'x', 10000);
        s[10000] = 0;
        catch_stderr(LOG_INFO);
        log_info("%s", s);
        ck_assert_uint_lt(strlen(caught()), 2100);
}

TEST(names_of_targets_and_levels) {
        ck_assert_int_eq(log_target_from_string("auto"), LOG_TARGET_AUTO);
        ck_assert_int_eq(log_target_from_string("journal"), LOG_TARGET_JOURNAL);
        ck_assert_int_eq(log_target_from_string("stderr"), LOG_TARGET_STDERR);
        ck_assert_int_lt(log_target_from_string("syslog"), 0);
        ck_assert_int_eq(log_level_from_string("debug"), LOG_DEBUG);
        ck_assert_int_eq(log_level_from_string("err"), LOG_ERR);
        ck_assert_int_lt(log_level_from_string("loud"), 0);
        ck_assert_int_lt(log_level_from_string(NULL), 0);
}

TEST(a_rate_counts_what_it_held_back) {
        LogRate rate = { .burst = 3, .interval_sec = 3600 };
        uint64_t n = 99;

        for (int i = 0; i < 3; i++) {
                ck_assert(log_rate_pass(&rate, &n));
                ck_assert_uint_eq(n, 0);
        }
        for (int i = 0; i < 5; i++)
                ck_assert(!log_rate_pass(&rate, &n));
        rate.window_start_usec = 0; /* as after the interval */
        ck_assert(log_rate_pass(&rate, &n));
        ck_assert_uint_eq(n, 5);
}
