/* Goal: the journal is not filled by an unsteady link, and its last word about it is never of a failure that is over.
 * Method: news by hand, the lines in a file. */
#include "tests/support/test.h"

#include <fcntl.h>

#include "daemon/log.h"
#include "daemon/uplink-report.h"
#include "lib/fd-util.h"

static const UplinkReportAbout about = { .hub = "hub", .device = "device", .next_try_in_usec = USEC_INFINITY };

/* From now on lines go to a file of the folder. Returns its path. */
static char *log_to_file(const char *folder) {
        char *path;
        int fd;

        ck_assert_int_gt(asprintf(&path, "%s/log", folder), 0);
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        close(fd);
        log_setup(LOG_TARGET_STDERR, LOG_INFO);
        return path;
}

/* Of many failures, each cured; returns the lines. */
static char *tell_of_an_unsteady_link(unsigned n) {
        _cleanup_free_ char *folder = test_tempdir(), *path = log_to_file(folder);
        const UplinkNews failed = { .type = UPLINK_NEWS_FAILED, .class = UPLINK_ERROR_NETWORK, .n_tries = 1 },
                         cured = { .type = UPLINK_NEWS_CURED, .class = UPLINK_ERROR_NETWORK, .n_tries = 1 };
        UplinkReport r;
        char *text;

        uplink_report_init(&r);
        for (unsigned i = 0; i < n; i++) {
                uplink_report_error(&r, UPLINK_ERROR_NETWORK, /* disconnected= */ true, "the cable is out");
                uplink_report_news(&r, &failed, &about);
                if (i != 0) /* so that the last line within the limit is a failure */
                        uplink_report_news(&r, &cured, &about);
        }
        assert_ok(read_file(path, 1 << 20, &text, NULL));
        return text;
}

static unsigned count(const char *text, const char *part) {
        unsigned n = 0;

        for (const char *p = text; (p = strstr(p, part)); p++)
                n++;
        return n;
}

TEST(the_last_word_of_an_unsteady_link_is_that_it_is_well_again) {
        _cleanup_free_ char *text = tell_of_an_unsteady_link(1000);
        const char *failure = NULL;

        for (const char *p = text; (p = strstr(p, "the cable is out")); p++)
                failure = p;
        ck_assert_ptr_nonnull(failure);
        ck_assert_ptr_nonnull(strstr(failure, "Connected again to hub as device"));
}

TEST(an_unsteady_link_does_not_fill_the_journal) {
        _cleanup_free_ char *text = tell_of_an_unsteady_link(1000);

        ck_assert_uint_ge(count(text, "\n"), 10);
        ck_assert_uint_le(count(text, "\n"), 42);
}

/* Goal: "after" tells how long the link was away this time, not since the first of several short breaks. */
TEST(each_break_of_an_unsteady_link_is_told_by_its_own_length) {
        _cleanup_free_ char *folder = test_tempdir(), *path = log_to_file(folder), *text = NULL;
        UplinkTrouble t = { 0 };
        UplinkReport r;
        usec_t now = USEC_PER_HOUR;

        uplink_report_init(&r);
        for (unsigned i = 0; i < 3; i++, now += 10 * USEC_PER_SEC) {
                for (unsigned k = 0; k <= i; k++, now += USEC_PER_SEC)
                        (void) uplink_trouble_on_failed(&t, UPLINK_ERROR_NETWORK, now);
                UplinkNews news = uplink_trouble_on_cure(&t, UPLINK_CURE_CONFIRMED, now);

                ck_assert_int_eq(news.type, UPLINK_NEWS_CURED);
                ck_assert_uint_eq(news.n_tries_last, i + 1);
                ck_assert_uint_eq(news.span_last_usec, (i + 1) * USEC_PER_SEC);
                uplink_report_news(&r, &news, &about);
        }
        assert_ok(read_file(path, 1 << 20, &text, NULL));
        ck_assert_ptr_nonnull(strstr(text, "after 1s and 1 try (network)\n"));
        ck_assert_ptr_nonnull(strstr(text, "after 2s and 2 tries (network), 2 times in 13s\n"));
        ck_assert_ptr_nonnull(strstr(text, "after 3s and 3 tries (network), 3 times in 26s\n"));
}
