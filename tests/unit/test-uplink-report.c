/* Goal: the journal is not filled by an unsteady link, and its last word about it is never of a failure that is over.
 * Method: news by hand, the lines in a file. */
#include "tests/support/test.h"

#include <fcntl.h>

#include "daemon/log.h"
#include "daemon/uplink-report.h"
#include "lib/fd-util.h"

static const UplinkReportAbout about = { .hub = "hub", .device = "device", .next_try_in_usec = USEC_INFINITY };

/* Of many failures, each cured; returns the lines. */
static char *tell_of_an_unsteady_link(unsigned n) {
        _cleanup_free_ char *folder = test_tempdir(), *path = NULL;
        const UplinkNews failed = { .type = UPLINK_NEWS_FAILED, .class = UPLINK_ERROR_NETWORK, .n_tries = 1 },
                         cured = { .type = UPLINK_NEWS_CURED, .class = UPLINK_ERROR_NETWORK, .n_tries = 1 };
        UplinkReport r;
        char *text;
        int fd;

        ck_assert_int_gt(asprintf(&path, "%s/log", folder), 0);
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        close(fd);
        log_setup(LOG_TARGET_STDERR, LOG_INFO);
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
