/* Goal: the journal hears of what changed, not of each time that it flickered, and nothing is left out without being
 * counted. Method: lines are collected; the time that a state must be over is a parameter, and the loop is waited on. */
#include "daemon/notices.h"

#include <systemd/sd-event.h>

#include "daemon/log.h"
#include "tests/support/test.h"

#define LINES_MAX 64U

static struct {
        const char *message_id;
        int priority;
        char text[512];
} lines[LINES_MAX];
static size_t n_lines;

static void take_line(int priority, const char *message_id, const char *text, void *userdata) {
        ck_assert_uint_lt(n_lines, LINES_MAX);
        lines[n_lines].message_id = message_id;
        lines[n_lines].priority = priority;
        (void) snprintf(lines[n_lines].text, sizeof(lines[n_lines].text), "%s", text);
        n_lines++;
}

static sd_event *event;

static Notices *begin(usec_t settle_usec) {
        Notices *n;

        n_lines = 0;
        ck_assert_int_ge(sd_event_new(&event), 0);
        ck_assert_int_eq(notices_new(event, settle_usec, take_line, NULL, &n), 0);
        return n;
}

static void end(Notices *n) {
        (void) notices_free(n);
        sd_event_unref(event);
}

static void full(Notices *n) {
        notices_pass(n, LOG_WARNING, MSG_OUTBOX_FULL, "full");
}

static void room(Notices *n) {
        notices_pass(n, LOG_NOTICE, MSG_OUTBOX_ROOM, "room");
}

static void run_until(size_t n) {
        while (n_lines < n)
                ck_assert_int_ge(sd_event_run(event, UINT64_MAX), 0);
}

TEST(a_state_that_comes_back_at_once_is_told_once) {
        Notices *n = begin(USEC_PER_SEC * 3600);

        for (unsigned i = 0; i < 1000; i++) {
                full(n);
                room(n);
        }
        ck_assert_uint_eq(n_lines, 1);
        ck_assert_str_eq(lines[0].message_id, MSG_OUTBOX_FULL);
        ck_assert_int_eq(lines[0].priority, LOG_WARNING);
        end(n); /* nothing is lost with the process */
        ck_assert_uint_eq(n_lines, 2);
        ck_assert_str_eq(lines[1].message_id, MSG_OUTBOX_ROOM);
        ck_assert_ptr_nonnull(strstr(lines[1].text, "room (after "));
        ck_assert_ptr_nonnull(strstr(lines[1].text, "began 1000 times"));
}

TEST(the_end_of_a_state_is_told_when_it_has_lasted) {
        Notices *n = begin(1000);

        full(n);
        room(n);
        ck_assert_uint_eq(n_lines, 1);
        run_until(2);
        ck_assert_str_eq(lines[1].message_id, MSG_OUTBOX_ROOM);
        ck_assert_int_eq(lines[1].priority, LOG_NOTICE);
        ck_assert_ptr_null(strstr(lines[1].text, "times"));
        full(n); /* a new one */
        ck_assert_uint_eq(n_lines, 3);
        end(n);
        ck_assert_uint_eq(n_lines, 3);
}

TEST(a_state_that_goes_on_has_no_end) {
        Notices *n = begin(1000);

        full(n);
        room(n);
        full(n);
        end(n);
        ck_assert_uint_eq(n_lines, 1);
}

TEST(states_of_two_kinds_do_not_meet) {
        Notices *n = begin(USEC_PER_SEC * 3600);

        full(n);
        notices_pass(n, LOG_ERR, MSG_OUTBOX_DISK_ERROR, "disk");
        room(n);
        ck_assert_uint_eq(n_lines, 2);
        end(n);
        ck_assert_uint_eq(n_lines, 3);
        ck_assert_str_eq(lines[2].message_id, MSG_OUTBOX_ROOM);
}

TEST(an_end_without_a_beginning_is_a_line_as_any) {
        Notices *n = begin(USEC_PER_SEC * 3600);

        room(n);
        ck_assert_uint_eq(n_lines, 1);
        ck_assert_str_eq(lines[0].text, "room");
        end(n);
}

TEST(what_is_left_out_is_counted_and_the_last_is_told) {
        Notices *n = begin(USEC_PER_SEC * 3600);
        char text[32];

        for (unsigned i = 0; i < 100; i++) {
                (void) snprintf(text, sizeof(text), "expired %u", i);
                notices_pass(n, LOG_NOTICE, MSG_OUTBOX_EXPIRED, text);
        }
        ck_assert_uint_eq(n_lines, NOTICES_BURST);
        notices_pass(n, LOG_ERR, MSG_OUTBOX_DAMAGE, "another kind passes");
        ck_assert_uint_eq(n_lines, NOTICES_BURST + 1);
        end(n);
        ck_assert_uint_eq(n_lines, NOTICES_BURST + 2);
        ck_assert_ptr_nonnull(strstr(lines[n_lines - 1].text, "expired 99 (the last of 95 such lines"));
}
