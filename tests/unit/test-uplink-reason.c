/* Goal: whatever keeps the uplink from delivering is named, with a remedy, and told when it begins,
 * changes and ends (promise P6). Method: the pure parts one by one: table of classes, diagnosis from
 * symptoms, trouble over its life, pace of sending. */
#include "tests/support/test.h"

#include "daemon/uplink-diagnosis.h"
#include "daemon/uplink-logic.h"
#include "daemon/uplink-pace.h"
#include "daemon/uplink-reason.h"
#include "daemon/uplink-state.h"
#include "daemon/uplink-trouble.h"

TEST(each_class_has_a_name_a_sentence_a_remedy_and_a_law) {
        for (UplinkErrorClass c = UPLINK_ERROR_DNS; c < _UPLINK_ERROR_MAX; c++) {
                const UplinkReason *r = uplink_reason(c);

                ck_assert_ptr_nonnull(r);
                ck_assert(r->name && r->what && r->remedy);
                ck_assert_str_eq(uplink_error_class_to_string(c), r->name);
                ck_assert_int_ne(r->law, BACKOFF_LIVED); /* it would spin */
                ck_assert_int_ne(r->what[strlen(r->what) - 1], '.');
                ck_assert_int_ne(r->remedy[strlen(r->remedy) - 1], '.');
                for (UplinkErrorClass d = UPLINK_ERROR_DNS; d < c; d++)
                        ck_assert_str_ne(r->name, uplink_reason(d)->name);
        }
        ck_assert_ptr_null(uplink_reason(UPLINK_ERROR_NONE));
        ck_assert_ptr_null(uplink_reason(_UPLINK_ERROR_MAX));
        ck_assert_ptr_null(uplink_reason(_UPLINK_ERROR_INVALID));
}

TEST(the_diagnosis_follows_the_table_of_patterns) {
        const UplinkSymptoms cut = { .class = UPLINK_ERROR_CUT, .was_connected = true },
                             early = { .class = UPLINK_ERROR_CUT };
        UplinkSymptoms s;

        ck_assert_int_eq(uplink_diagnose(&cut), UPLINK_ERROR_CUT);
        s = cut, s.n_short = UPLINK_SHORT_MAX;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_CUT);
        s.n_short++;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_TAKEN_OVER);
        s.one_message = true; /* it is the message */
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_CUT);
        s.late = true;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_THROTTLED);
        s.quota = true;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_QUOTA);

        s = early, s.n_cuts_early = UPLINK_CUTS_EARLY;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_CUT);
        s.n_cuts_early++;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_THROTTLED);

        s = (UplinkSymptoms) { .class = UPLINK_ERROR_REFUSED };
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_REFUSED);
        s.clock_wrong = true;
        ck_assert_int_eq(uplink_diagnose(&s), UPLINK_ERROR_CLOCK);
        for (UplinkErrorClass c = 0; c < _UPLINK_ERROR_MAX; c++) {
                s.class = c;
                if (c != UPLINK_ERROR_CUT && c != UPLINK_ERROR_REFUSED)
                        ck_assert_int_eq(uplink_diagnose(&s), c);
        }
}

TEST(a_clock_before_the_release_or_the_newest_message_is_wrong) {
        usec_t release = TIME_OF_RELEASE_USEC, later = release + 100 * USEC_PER_DAY;

        ck_assert(uplink_clock_wrong(0, 0));
        ck_assert(uplink_clock_wrong(release - UPLINK_CLOCK_SLACK_USEC - 1, 0));
        ck_assert(!uplink_clock_wrong(release - UPLINK_CLOCK_SLACK_USEC, 0));
        ck_assert(!uplink_clock_wrong(release, release - USEC_PER_DAY));
        ck_assert(uplink_clock_wrong(release, later));
        ck_assert(uplink_clock_wrong(later - UPLINK_CLOCK_SLACK_USEC - 1, later));
        ck_assert(!uplink_clock_wrong(later - UPLINK_CLOCK_SLACK_USEC, later));
        /* It was ahead when the newest was stored: the certificate says that now it is right. */
        ck_assert(uplink_clock_wrong_after_tls(release, later));
        ck_assert(uplink_clock_wrong(release, release + 56 * 365 * USEC_PER_DAY));
        ck_assert(!uplink_clock_wrong_after_tls(release, release + 56 * 365 * USEC_PER_DAY));
        ck_assert(!uplink_clock_wrong(later + 56 * 365 * USEC_PER_DAY, later));
}

TEST(trouble_is_told_at_its_start_its_change_ever_more_rarely_and_at_its_end) {
        unsigned n_told = 0, n_tries_told = 0;
        UplinkTrouble t = {};
        usec_t now = 1000;
        UplinkNews n;

        n = uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, now);
        ck_assert_int_eq(n.type, UPLINK_NEWS_CONNECTED);
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, now).type, UPLINK_NEWS_NONE);

        for (unsigned i = 0; i < 1000; i++) {
                now += 10 * USEC_PER_SEC;
                n = uplink_trouble_on_failed(&t, UPLINK_ERROR_DNS, now);
                n_told += n.type != UPLINK_NEWS_NONE;
                n_tries_told += n.type != UPLINK_NEWS_NONE ? n.n_tries : 0;
                if (i == 0)
                        ck_assert_int_eq(n.type, UPLINK_NEWS_FAILED);
        }
        ck_assert_uint_eq(n_told, 5); /* 1, 4, 16, 64, 256 more */
        ck_assert_uint_eq(n_tries_told, 1 + 4 + 16 + 64 + 256);
        ck_assert(uplink_trouble_is_on(&t));
        ck_assert_uint_eq(t.since_usec, 1000 + 10 * USEC_PER_SEC);
        ck_assert_uint_eq(t.n_tries, 1000);

        n = uplink_trouble_on_failed(&t, UPLINK_ERROR_REFUSED, now);
        ck_assert_int_eq(n.type, UPLINK_NEWS_FAILED);
        n = uplink_trouble_on_failed(&t, UPLINK_ERROR_REFUSED, now + UPLINK_TROUBLE_TELL_USEC);
        ck_assert_int_eq(n.type, UPLINK_NEWS_STILL); /* at least daily */
        ck_assert_uint_eq(n.span_usec, UPLINK_TROUBLE_TELL_USEC);

        now += UPLINK_TROUBLE_TELL_USEC;
        n = uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, now);
        ck_assert_int_eq(n.type, UPLINK_NEWS_CURED);
        ck_assert_uint_eq(n.n_tries, 1002);
        ck_assert_uint_eq(n.span_usec, now - t.since_usec);
        ck_assert(!uplink_trouble_is_on(&t));
}

TEST(trouble_that_comes_back_within_a_minute_is_the_same) {
        UplinkTrouble t = {};

        (void) uplink_trouble_on_failed(&t, UPLINK_ERROR_CUT, 100);
        (void) uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, 200);
        (void) uplink_trouble_on_failed(&t, UPLINK_ERROR_TAKEN_OVER, 300);
        ck_assert_uint_eq(t.since_usec, 100);
        ck_assert_uint_eq(t.n_tries, 2);
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, 400).type, UPLINK_NEWS_NONE);
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_CONFIRMED, 500).type, UPLINK_NEWS_NONE);
        ck_assert(uplink_trouble_is_on(&t)); /* PUBACKs don't cure what is taken over */
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_LIVED, 600).type, UPLINK_NEWS_CURED);
        (void) uplink_trouble_on_failed(&t, UPLINK_ERROR_CUT, 700);
        ck_assert_uint_eq(t.since_usec, 700);
        ck_assert_uint_eq(t.n_tries, 1);
}

TEST(quota_is_cured_by_a_confirmation_and_not_by_connack) {
        UplinkTrouble t = {};

        (void) uplink_trouble_on_failed(&t, UPLINK_ERROR_QUOTA, 100);
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_CONNECTED, 200).type, UPLINK_NEWS_NONE);
        ck_assert(uplink_trouble_is_on(&t));
        ck_assert_int_eq(uplink_trouble_on_cure(&t, UPLINK_CURE_CONFIRMED, 300).type, UPLINK_NEWS_CURED);
}

static void confirm_one(UplinkPace *p, uint64_t seq, usec_t sent, usec_t confirmed) {
        uplink_pace_on_sent(p, seq, sent);
        uplink_pace_on_confirmed(p, &seq, 1, confirmed);
}

TEST(the_window_halves_when_confirmations_are_late_and_grows_back_slowly) {
        usec_t now = USEC_PER_HOUR;
        unsigned n_grown = 0;
        UplinkPace p;

        uplink_pace_init(&p, 200);
        uplink_pace_on_connected(&p, now);
        confirm_one(&p, 1, now, now + UPLINK_PACE_LATE_USEC);
        ck_assert_uint_eq(p.window, 200);
        now += USEC_PER_MINUTE;
        confirm_one(&p, 2, now, now + UPLINK_PACE_LATE_USEC + 1);
        ck_assert_uint_eq(p.window, 100);
        ck_assert(!uplink_pace_is_late(&p, now + 6 * USEC_PER_SEC)); /* once may be the link */
        for (uint64_t seq = 3; seq < 20; seq++) {
                confirm_one(&p, seq, now, now + 10 * USEC_PER_SEC);
                now += 10 * USEC_PER_SEC;
        }
        ck_assert_uint_eq(p.window, UPLINK_PACE_MIN);
        ck_assert(uplink_pace_is_late(&p, now));
        ck_assert(!uplink_pace_is_late(&p, now + USEC_PER_MINUTE));
        uplink_pace_on_connected(&p, now);
        ck_assert(!uplink_pace_is_late(&p, now));
        for (uint64_t seq = 20; p.window < 200; seq++, n_grown++) {
                unsigned before = p.window;

                confirm_one(&p, seq, now, now + USEC_PER_SEC);
                ck_assert_uint_le(p.window, before + 200 / 16);
                now += USEC_PER_SEC;
        }
        ck_assert_uint_ge(n_grown, 100); /* seconds */
        ck_assert_uint_eq(p.window, 200);
}

/* A connection that is sent n messages, confirms the first, and is cut after a second. seq: counts on. */
static void cut_with_in_flight(UplinkLogic *l, uint64_t n, uint64_t *seq, usec_t *now) {
        uint64_t first = ++*seq;
        UplinkSuspectPlan plan;
        UplinkNews news;
        UplinkEvent e;

        (void) uplink_logic_decide(l, &(UplinkEvent) { UPLINK_EVENT_RESOLVED }, *now, 0, &news);
        (void) uplink_logic_decide(l, &(UplinkEvent) { UPLINK_EVENT_CONNECTED, .span_usec = USEC_INFINITY }, *now, 0, &news);
        uplink_logic_on_sent(l, first, *now);
        (void) uplink_logic_decide(l, &(UplinkEvent) { UPLINK_EVENT_SENT, .n = n }, *now, 0, &news);
        uplink_logic_on_confirmed(l, &first, 1, *now, &plan);
        (void) uplink_logic_decide(l, &(UplinkEvent) { UPLINK_EVENT_CONFIRMED, .n = 1 }, *now, 0, &news);
        *now += USEC_PER_SEC;
        e = uplink_logic_on_ended(l, &(UplinkEnd) { .class = UPLINK_ERROR_CUT, .first_seq = first + 1 }, *now, &plan);
        (void) uplink_logic_decide(l, &e, *now, 0, &news);
        *now = uplink_machine_deadline(&l->machine);
        (void) uplink_logic_decide(l, &(UplinkEvent) { UPLINK_EVENT_TIMER }, *now, 0, &news);
}

/* Goal: a hub that cuts full windows time and again is sent less at a time, down to what it takes; one cut, or cuts of a
 * few messages, change nothing. */
TEST(the_window_halves_when_full_ones_are_cut_time_and_again) {
        const UplinkTimes t = { .connect_timeout_usec = 10 * USEC_PER_SEC, .ack_timeout_usec = USEC_PER_MINUTE,
                                .backoff = { USEC_PER_SEC, USEC_PER_MINUTE, USEC_PER_MINUTE, USEC_PER_MINUTE } };
        usec_t now = USEC_PER_HOUR;
        uint64_t seq = 0;
        UplinkLogic l;
        UplinkNews news;

        uplink_logic_init(&l, &t, 200, now);
        (void) uplink_logic_decide(&l, &(UplinkEvent) { UPLINK_EVENT_START }, now, 0, &news);
        for (unsigned i = 0; i < 5; i++)
                cut_with_in_flight(&l, 20, &seq, &now);
        ck_assert_uint_eq(uplink_logic_window(&l), 200);

        uplink_logic_init(&l, &t, 200, now);
        (void) uplink_logic_decide(&l, &(UplinkEvent) { UPLINK_EVENT_START }, now, 0, &news);
        cut_with_in_flight(&l, 200, &seq, &now);
        ck_assert_uint_eq(uplink_logic_window(&l), 200);
        cut_with_in_flight(&l, 200, &seq, &now);
        ck_assert_uint_eq(uplink_logic_window(&l), 100);
        for (unsigned i = 0; i < 12; i++)
                cut_with_in_flight(&l, uplink_logic_window(&l), &seq, &now);
        ck_assert_uint_eq(uplink_logic_window(&l), UPLINK_PACE_MIN);
}

TEST(one_window_that_is_confirmed_slowly_is_late_and_halves_once) {
        usec_t now = USEC_PER_HOUR;
        UplinkPace p;

        uplink_pace_init(&p, 200);
        uplink_pace_on_connected(&p, now);
        uplink_pace_on_sent(&p, 1, now);
        uplink_pace_on_sent(&p, 100, now);
        for (uint64_t seq = 1; seq <= 100; seq++) { /* 6 a second */
                usec_t t = now + seq * USEC_PER_SEC / 6;

                uplink_pace_on_confirmed(&p, &seq, 1, t);
                ck_assert(uplink_pace_is_late(&p, t) == (p.n_late >= 2));
        }
        ck_assert_uint_ge(p.n_late, 2);
        ck_assert_uint_eq(p.window, 100 + 200 / 16); /* and 10 s later it grew */
}

TEST(a_link_that_stood_still_and_lets_all_go_at_once_is_not_late) {
        usec_t now = USEC_PER_HOUR;
        UplinkPace p;

        uplink_pace_init(&p, 200);
        uplink_pace_on_connected(&p, now);
        uplink_pace_on_sent(&p, 1, now);
        uplink_pace_on_sent(&p, 100, now);
        for (uint64_t seq = 1; seq <= 100; seq++)
                uplink_pace_on_confirmed(&p, &seq, 1,
                                         now + 30 * USEC_PER_SEC + seq * USEC_PER_MSEC);
        ck_assert(!uplink_pace_is_late(&p, now + 31 * USEC_PER_SEC));
        ck_assert_uint_eq(p.window, 100);
}

TEST(a_small_window_stays_as_it_is) {
        for (unsigned max = 1; max <= 4; max++) {
                UplinkPace p;

                uplink_pace_init(&p, max);
                for (uint64_t seq = 1; seq < 10; seq++)
                        confirm_one(&p, seq, 0, USEC_PER_HOUR);
                ck_assert_uint_eq(p.window, max);
        }
}
