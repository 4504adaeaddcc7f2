/* Goal: the uplink always comes back, never spins and never waits longer than its bounds (promise
 * P6). Method: a hub and a clock that exist only here misbehave from a seed; each decision is
 * checked as it is made. */
#include "tests/support/test.h"

#include <inttypes.h>

#include "daemon/uplink-state.h"
#include "tests/support/random.h"

#define SEEDS 300

static const UplinkTimes times = {
        .connect_timeout_usec = 30 * USEC_PER_SEC,
        .ack_timeout_usec = 120 * USEC_PER_SEC,
        .backoff = { .min_usec = USEC_PER_SEC,
                     .max_usec = 60 * USEC_PER_SEC,
                     .cut_max_usec = 300 * USEC_PER_SEC,
                     .refused_max_usec = 600 * USEC_PER_SEC },
};

typedef enum HubMode {
        HUB_WELL,
        HUB_NO_NAME,    /* look-ups hang */
        HUB_CLOSED,     /* the port is closed */
        HUB_SILENT,     /* SYNs get no answer */
        HUB_REFUSES,    /* CONNACK 5 */
        HUB_CUTS_EARLY, /* before CONNACK */
        HUB_OVER_QUOTA, /* CONNACK 0, cut at the first publish */
        HUB_NEVER_CONFIRMS,
        HUB_CUTS_AT_RANDOM,
        _HUB_MODE_MAX,
} HubMode;

typedef struct World {
        UplinkMachine machine;
        uint64_t seed;
        Random rng;
        usec_t now;
        HubMode mode;
        bool link;        /* an attempt or connection exists */
        unsigned step;    /* how far it is */
        usec_t link_usec; /* when its next event is due; USEC_INFINITY: never */
        bool goodbye, stopped;
        uint64_t backlog, n_unconfirmed, n_confirmed;
        usec_t last_connect_usec;
        bool prodded; /* from outside since the last connect: a quick try is right */
        bool last_proven;
        unsigned n_connects;
} World;

static void feed(World *w, UplinkEvent e);

static void start_link(World *w) {
        usec_t wait = w->now - w->last_connect_usec;

        /* Never spins: without a success or a prod at least half of the smallest delay lies between
         * two tries. */
        if (w->n_connects > 0 && !w->prodded && !w->last_proven)
                ck_assert_msg(wait >= times.backoff.min_usec / 2,
                              "seed %" PRIu64 ": tries again after %" PRIu64 " us", w->seed, wait);
        ck_assert_msg(!w->link, "seed %" PRIu64 ": two connections", w->seed);
        w->n_connects++;
        w->last_connect_usec = w->now;
        w->prodded = w->last_proven = false;
        w->link = true;
        w->step = 0;
        w->goodbye = false;
        w->link_usec = w->mode == HUB_NO_NAME ? USEC_INFINITY
                                              : w->now + random_u64(&w->rng) % USEC_PER_SEC;
}

static void end_link(World *w) {
        w->link = false;
        w->link_usec = USEC_INFINITY;
        w->backlog += w->n_unconfirmed;
        w->n_unconfirmed = 0;
}

static void check(const World *w) {
        const UplinkMachine *m = &w->machine;
        usec_t deadline = uplink_machine_deadline(m), bound = times.backoff.refused_max_usec;

        ck_assert_msg(m->state == UPLINK_STATE_STOPPED || m->state == UPLINK_STATE_CONNECTED ||
                              deadline != USEC_INFINITY,
                      "seed %" PRIu64 ": %s for ever", w->seed, uplink_state_to_string(m->state));
        if (m->state == UPLINK_STATE_CONNECTED && m->n_in_flight > 0)
                ck_assert_msg(deadline <= w->now + times.ack_timeout_usec,
                              "seed %" PRIu64 ": waits for PUBACKs", w->seed);
        if (m->state == UPLINK_STATE_BACKOFF)
                ck_assert_msg(m->deadline_usec <= w->now + bound,
                              "seed %" PRIu64 ": waits too long", w->seed);
        ck_assert_uint_eq(m->n_in_flight, w->n_unconfirmed);
}

/* As uplink.c does: hands over what there is, a window of 10. */
static void pump(World *w) {
        uint64_t room = 10 - w->n_unconfirmed, n = MIN(w->backlog, room);

        if (!w->link || !uplink_machine_may_send(&w->machine))
                return;
        if (n == 0) {
                if (w->n_unconfirmed == 0 && w->backlog == 0)
                        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_EMPTY });
                return;
        }
        w->backlog -= n;
        w->n_unconfirmed += n;
        if (w->link_usec == USEC_INFINITY && w->mode != HUB_NEVER_CONFIRMS)
                w->link_usec = w->now + 1000 + random_u64(&w->rng) % USEC_PER_SEC;
        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_SENT, .n = n });
}

static void feed(World *w, UplinkEvent e) {
        UplinkDecision d = uplink_decide(&w->machine, &times, &e, w->now, random_u64(&w->rng));

        w->last_proven = w->last_proven || w->machine.proven;
        w->machine = d.machine;
        if (d.actions & UPLINK_ACTION_ABANDON)
                end_link(w);
        if (d.actions & UPLINK_ACTION_CONNECT)
                start_link(w);
        if (d.actions & UPLINK_ACTION_DISCONNECT) {
                w->goodbye = true;
                if (w->mode != HUB_NEVER_CONFIRMS)
                        w->link_usec = w->now + 1000;
        }
        if (d.actions & UPLINK_ACTION_STOPPED) {
                ck_assert(!w->stopped);
                w->stopped = true;
        }
        check(w);
}

static void fail_link(World *w, UplinkErrorClass class) {
        end_link(w);
        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_ENDED, .class = class });
}

static void connecting_step(World *w) {
        w->step++;
        w->link_usec = w->now + random_u64(&w->rng) % USEC_PER_SEC;
        if (w->step == 1) {
                feed(w, (UplinkEvent) { .type = UPLINK_EVENT_RESOLVED });
                return;
        }
        switch (w->mode) {
        case HUB_CLOSED: fail_link(w, UPLINK_ERROR_NETWORK); return;
        case HUB_REFUSES: fail_link(w, UPLINK_ERROR_REFUSED); return;
        case HUB_CUTS_EARLY: fail_link(w, UPLINK_ERROR_CUT); return;
        case HUB_SILENT: w->link_usec = USEC_INFINITY; return;
        default:
                w->link_usec = USEC_INFINITY;
                feed(w,
                     (UplinkEvent) { .type = UPLINK_EVENT_CONNECTED, .span_usec = USEC_PER_HOUR });
        }
}

static void connected_step(World *w) {
        uint64_t n = w->n_unconfirmed;

        w->link_usec = USEC_INFINITY;
        if (w->goodbye) {
                end_link(w);
                feed(w, (UplinkEvent) { .type = UPLINK_EVENT_ENDED, .class = UPLINK_ERROR_NONE });
                return;
        }
        if (w->mode == HUB_OVER_QUOTA ||
            (w->mode == HUB_CUTS_AT_RANDOM && random_u64(&w->rng) % 3 == 0)) {
                fail_link(w, UPLINK_ERROR_CUT);
                return;
        }
        if (w->mode == HUB_NEVER_CONFIRMS || n == 0)
                return;
        n = 1 + random_u64(&w->rng) % n;
        w->n_unconfirmed -= n;
        w->n_confirmed += n;
        if (w->n_unconfirmed > 0)
                w->link_usec = w->now + 1000 + random_u64(&w->rng) % USEC_PER_SEC;
        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_CONFIRMED, .n = n });
}

static void prod(World *w) {
        static const UplinkEventType prods[] = { UPLINK_EVENT_LINK_UP, UPLINK_EVENT_CREDENTIALS,
                                                 UPLINK_EVENT_CLOCK_STEPPED };

        w->prodded = true;
        feed(w, (UplinkEvent) { .type = prods[random_u64(&w->rng) % ELEMENTSOF(prods)] });
}

/* Lives until a time; what happens outside of the uplink is up to the caller. */
static void live(World *w, usec_t until) {
        while (w->now < until && !w->stopped) {
                usec_t timer = uplink_machine_deadline(&w->machine), next;

                pump(w);
                next = MIN(w->link_usec, timer);
                if (next > until) {
                        w->now = until;
                        return;
                }
                w->now = MAX(w->now, next);
                if (w->link_usec <= w->now) {
                        if (uplink_machine_may_send(&w->machine) || w->goodbye ||
                            w->machine.state == UPLINK_STATE_DRAINING)
                                connected_step(w);
                        else
                                connecting_step(w);
                } else
                        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_TIMER });
        }
}

static void begin(World *w, uint64_t seed) {
        *w = (World) { .seed = seed,
                      .rng = { seed * 7919 + 1 },
                      .now = USEC_PER_HOUR,
                      .link_usec = USEC_INFINITY,
                      .backlog = 200 };
        uplink_machine_init(&w->machine, w->now);
        feed(w, (UplinkEvent) { .type = UPLINK_EVENT_START });
}

TEST_LOOP(comes_back_after_whatever_the_hub_did, SEEDS) {
        /* The longest wait there is, plus a connection attempt that hangs and the drain. */
        usec_t patience =
                times.backoff.refused_max_usec + 2 * times.ack_timeout_usec + 60 * USEC_PER_SEC;
        uint64_t total;
        World w;

        begin(&w, (uint64_t) _i);
        for (unsigned i = 0; i < 40; i++) {
                w.mode = (HubMode) (random_u64(&w.rng) % _HUB_MODE_MAX);
                w.backlog += random_u64(&w.rng) % 20;
                if (random_u64(&w.rng) % 8 == 0)
                        prod(&w);
                live(&w, w.now + random_u64(&w.rng) % (20 * USEC_PER_MINUTE));
        }
        w.mode = HUB_WELL;
        total = w.n_confirmed + w.n_unconfirmed + w.backlog;
        live(&w, w.now + patience);
        ck_assert_msg(w.n_confirmed == total,
                      "seed %d: %" PRIu64 " of %" PRIu64 " confirmed, state %s", _i, w.n_confirmed,
                      total, uplink_state_to_string(w.machine.state));
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
}

TEST_LOOP(tries_ever_more_rarely_while_the_hub_is_away, _HUB_MODE_MAX) {
        World w;

        if (_i == HUB_WELL || _i == HUB_CUTS_AT_RANDOM)
                return;
        begin(&w, (uint64_t) _i);
        w.mode = (HubMode) _i;
        live(&w, w.now + 24 * USEC_PER_HOUR);
        /* The caps leave at most one try in 30 s, and more in the first minutes. */
        ck_assert_msg(w.n_connects < 24 * 120 + 20, "mode %d: %u tries in a day", _i, w.n_connects);
        ck_assert_msg(w.n_connects > 24 * 4, "mode %d: only %u tries in a day", _i, w.n_connects);
}

TEST(refused_credentials_are_tried_more_slowly_than_a_closed_port) {
        unsigned n[2];

        for (unsigned i = 0; i < 2; i++) {
                World w;

                begin(&w, 1);
                w.mode = i == 0 ? HUB_REFUSES : HUB_CLOSED;
                live(&w, w.now + 4 * USEC_PER_HOUR);
                n[i] = w.n_connects;
        }
        ck_assert_uint_lt(n[0] * 4, n[1]);
}

TEST(connack_alone_does_not_reset_the_backoff) {
        World w;

        begin(&w, 1);
        w.mode = HUB_OVER_QUOTA;
        live(&w, w.now + USEC_PER_HOUR);
        ck_assert_uint_gt(w.machine.attempt, UPLINK_CUTS_LATE);
        ck_assert_uint_lt(w.n_connects, 60);
}

static void fail_for_ten_minutes(World *w, uint64_t seed) {
        begin(w, seed);
        w->mode = HUB_CLOSED;
        live(w, w->now + 10 * USEC_PER_MINUTE);
        ck_assert_uint_gt(w->machine.attempt, 5);
        w->mode = HUB_WELL;
}

TEST(puback_resets_the_backoff) {
        World w;

        fail_for_ten_minutes(&w, 1);
        while (w.n_confirmed == 0)
                live(&w, w.now + USEC_PER_SEC);
        ck_assert_uint_lt(w.now, w.machine.since_usec + UPLINK_QUIET_USEC);
        ck_assert_uint_eq(w.machine.attempt, 0);
}

TEST(quiet_minute_resets_the_backoff) {
        World w;

        fail_for_ten_minutes(&w, 2);
        w.backlog = 0;
        while (w.machine.state != UPLINK_STATE_CONNECTED)
                live(&w, w.now + USEC_PER_SEC);
        ck_assert_uint_gt(w.machine.attempt, 5);
        live(&w, w.machine.since_usec + UPLINK_QUIET_USEC);
        ck_assert_uint_eq(w.machine.attempt, 0);
}

TEST(connection_that_lived_is_tried_again_at_once) {
        World w;
        usec_t cut;

        begin(&w, 3);
        live(&w, w.now + USEC_PER_HOUR / 2);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
        cut = w.now;
        fail_link(&w, UPLINK_ERROR_CUT);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_BACKOFF);
        ck_assert_uint_le(w.machine.deadline_usec, cut + times.backoff.min_usec);
}

TEST(second_holder_of_the_identity_slows_us_down) {
        unsigned n_cuts = 0;
        World w;

        begin(&w, 13);
        w.backlog = 1000000;
        for (usec_t end = w.now + USEC_PER_HOUR; w.now < end;) {
                live(&w, w.now + 5 * USEC_PER_SEC);
                if (w.machine.state != UPLINK_STATE_CONNECTED || !w.machine.proven)
                        continue;
                n_cuts++;
                fail_link(&w, UPLINK_ERROR_CUT);
        }
        ck_assert_uint_lt(n_cuts, 3600 / 12); /* once in 8 to 16 s, and the time to connect */
        ck_assert_uint_gt(n_cuts, 3600 / 30);
        live(&w, w.now + 2 * USEC_PER_MINUTE);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
        fail_link(&w, UPLINK_ERROR_CUT);
        ck_assert_uint_le(w.machine.deadline_usec, w.now + times.backoff.min_usec);
}

TEST_LOOP(token_is_renewed_between_75_and_80_percent_of_its_life, 50) {
        World w;
        usec_t connected;

        begin(&w, (uint64_t) _i);
        live(&w, w.now + USEC_PER_MINUTE);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
        connected = w.machine.since_usec;
        ck_assert_uint_ge(w.machine.renew_usec, connected + USEC_PER_HOUR / 100 * 75);
        ck_assert_uint_le(w.machine.renew_usec, connected + USEC_PER_HOUR / 100 * 80);
        live(&w, connected + USEC_PER_HOUR / 100 * 80 + USEC_PER_MINUTE);
        ck_assert_uint_eq(w.n_connects, 2);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
}

TEST(renewal_waits_for_pubacks_but_not_longer_than_its_limit) {
        World w;
        usec_t renew;

        begin(&w, 5);
        live(&w, w.now + USEC_PER_MINUTE);
        renew = w.machine.renew_usec;
        live(&w, renew - USEC_PER_SEC);
        w.mode = HUB_NEVER_CONFIRMS;
        w.backlog = 5;
        live(&w, renew + 1);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_DRAINING);
        ck_assert_uint_eq(w.n_unconfirmed, 5);
        w.mode = HUB_WELL;
        live(&w, renew + UPLINK_DRAIN_USEC + UPLINK_GOODBYE_USEC + 30 * USEC_PER_SEC);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
        ck_assert_uint_eq(w.n_unconfirmed + w.backlog, 0);
}

TEST(ready_made_token_is_not_renewed) {
        UplinkEvent connected = { .type = UPLINK_EVENT_CONNECTED, .span_usec = USEC_INFINITY };
        UplinkMachine m;
        UplinkDecision d;

        uplink_machine_init(&m, 1);
        d = uplink_decide(&m, &times, &(UplinkEvent) { .type = UPLINK_EVENT_START }, 2, 0);
        d = uplink_decide(&d.machine, &times, &connected, 3, 0);
        ck_assert_uint_eq(d.machine.renew_usec, USEC_INFINITY);
}

TEST(connection_without_pubacks_is_dead_after_the_ack_timeout) {
        World w;

        begin(&w, 7);
        w.mode = HUB_NEVER_CONFIRMS;
        live(&w, w.now + 5 * USEC_PER_SEC);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_CONNECTED);
        ck_assert_uint_gt(w.n_unconfirmed, 0);
        live(&w, w.machine.ack_usec);
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_BACKOFF);
        ck_assert_int_eq(w.machine.last_class, UPLINK_ERROR_UNCONFIRMED);
        ck_assert(!w.link);
}

TEST(link_that_comes_up_cuts_the_wait_short_without_spinning) {
        World w;
        unsigned before;

        begin(&w, 9);
        w.mode = HUB_CLOSED;
        live(&w, w.now + 30 * USEC_PER_MINUTE);
        before = w.n_connects;
        for (unsigned i = 0; i < 1000; i++) { /* ten a second */
                w.prodded = true;
                feed(&w, (UplinkEvent) { .type = UPLINK_EVENT_LINK_UP });
                live(&w, w.now + 100 * USEC_PER_MSEC);
        }
        ck_assert_uint_gt(w.n_connects, before);
        ck_assert_uint_le(w.n_connects, before + 201); /* 100 s, at least half of min between two */
}

TEST(links_that_come_up_all_the_time_let_the_waits_behind_them_grow) {
        UplinkMachine m;
        usec_t now = USEC_PER_HOUR;

        uplink_machine_init(&m, now);
        for (unsigned i = 0; i < 10; i++) { /* one a minute; each try fails at once */
                UplinkEvent up = { .type = UPLINK_EVENT_LINK_UP },
                            failed = { .type = UPLINK_EVENT_ENDED, .class = UPLINK_ERROR_NETWORK };

                m.state = UPLINK_STATE_RESOLVING;
                m = uplink_decide(&m, &times, &failed, now, 0).machine;
                m = uplink_decide(&m, &times, &up, now, 0).machine;
                if (i == 4) /* since the first */
                        ck_assert_uint_eq(m.n_failed, 4);
                now += USEC_PER_MINUTE;
        }
        ck_assert_uint_eq(m.n_failed, 4); /* five minutes later they were made short again, once */
}

TEST(links_that_come_up_all_the_time_do_not_hurry_a_hub_that_refuses) {
        World w;
        unsigned before;

        begin(&w, 9);
        w.mode = HUB_REFUSES;
        live(&w, w.now + 30 * USEC_PER_MINUTE);
        before = w.n_connects;
        for (unsigned i = 0; i < 1200; i++) { /* one a second */
                feed(&w, (UplinkEvent) { .type = UPLINK_EVENT_LINK_UP });
                live(&w, w.now + USEC_PER_SEC);
        }
        ck_assert_uint_le(w.n_connects, before + 5); /* 20 min, at least half of 10 between two */
}

TEST(links_that_come_up_all_the_time_leave_a_slow_attempt_its_time) {
        World w;

        begin(&w, 9);
        w.mode = HUB_NO_NAME;
        fail_link(&w, UPLINK_ERROR_NETWORK);
        for (unsigned i = 0; w.machine.state != UPLINK_STATE_CONNECTED; i++) {
                ck_assert_uint_lt(i, 60);
                w.prodded = true;
                feed(&w, (UplinkEvent) { .type = UPLINK_EVENT_LINK_UP });
                live(&w, w.now + 2 * USEC_PER_SEC);
                /* The name server takes five seconds. */
                if (w.machine.state == UPLINK_STATE_RESOLVING &&
                    w.now - w.machine.since_usec > 5 * USEC_PER_SEC) {
                        w.mode = HUB_WELL;
                        w.link_usec = w.now;
                }
        }
}

TEST(holding_looks_again_and_goes_on_when_credentials_come) {
        UplinkEvent hold = { .type = UPLINK_EVENT_HOLD }, timer = { .type = UPLINK_EVENT_TIMER },
                    credentials = { .type = UPLINK_EVENT_CREDENTIALS };
        UplinkMachine m;
        UplinkDecision d;

        uplink_machine_init(&m, 0);
        d = uplink_decide(&m, &times, &(UplinkEvent) { .type = UPLINK_EVENT_START }, 0, 0);
        d = uplink_decide(&d.machine, &times, &hold, 0, 0);
        ck_assert_int_eq(d.machine.state, UPLINK_STATE_HOLDING);
        ck_assert_uint_eq(
                uplink_decide(&d.machine, &times, &timer, UPLINK_HOLD_USEC - 1, 0).actions, 0);
        ck_assert_uint_eq(uplink_decide(&d.machine, &times, &timer, UPLINK_HOLD_USEC, 0).actions,
                          UPLINK_ACTION_CONNECT);
        ck_assert_uint_eq(uplink_decide(&d.machine, &times, &credentials, 1, 0).actions,
                          UPLINK_ACTION_CONNECT);
}

TEST_LOOP(stop_ends_within_its_time_whatever_the_hub_does, SEEDS) {
        usec_t timeout, start;
        World w;

        begin(&w, (uint64_t) _i);
        w.mode = (HubMode) (random_u64(&w.rng) % _HUB_MODE_MAX);
        live(&w, w.now + random_u64(&w.rng) % (10 * USEC_PER_MINUTE));
        timeout = random_u64(&w.rng) % (30 * USEC_PER_SEC);
        start = w.now;
        feed(&w, (UplinkEvent) { .type = UPLINK_EVENT_STOP, .span_usec = timeout });
        live(&w, start + timeout + UPLINK_GOODBYE_USEC + 1);
        ck_assert_msg(w.stopped, "seed %d: still %s", _i, uplink_state_to_string(w.machine.state));
        ck_assert_int_eq(w.machine.state, UPLINK_STATE_STOPPED);
}

TEST(stop_sends_what_is_queued_first) {
        World w;

        begin(&w, 11);
        live(&w, w.now + 2 * USEC_PER_MINUTE);
        w.backlog = 30;
        feed(&w, (UplinkEvent) { .type = UPLINK_EVENT_STOP, .span_usec = 60 * USEC_PER_SEC });
        live(&w, w.now + 60 * USEC_PER_SEC);
        ck_assert(w.stopped);
        ck_assert_uint_eq(w.backlog + w.n_unconfirmed, 0);
}

static UplinkMachine refuse(UplinkMachine m, usec_t now) {
        UplinkEvent e = { .type = UPLINK_EVENT_ENDED, .class = UPLINK_ERROR_REFUSED, .refused = true };

        ck_assert_int_eq(m.state, UPLINK_STATE_RESOLVING);
        return uplink_decide(&m, &times, &e, now, UINT64_MAX).machine;
}

static UplinkMachine feed_type(UplinkMachine m, UplinkEventType type, usec_t now) {
        return uplink_decide(&m, &times, &(UplinkEvent) { .type = type }, now, 0).machine;
}

TEST(refused_key_gives_way_to_the_other_at_once_and_then_they_take_turns_slowly) {
        UplinkMachine m;

        uplink_machine_init(&m, 0);
        m.n_keys = 2;
        m = refuse(feed_type(m, UPLINK_EVENT_START, 0), 0);
        ck_assert_uint_eq(m.key, 1);
        ck_assert_uint_lt(m.deadline_usec, times.backoff.min_usec);
        for (unsigned i = 0; i < 20; i++) {
                usec_t now = m.deadline_usec;

                m = refuse(feed_type(m, UPLINK_EVENT_TIMER, now), now);
                ck_assert_uint_eq(m.key, i % 2);
                ck_assert_uint_ge(m.deadline_usec - now, 9 * USEC_PER_SEC);
        }
        /* The one that works stays. */
        m = feed_type(m, UPLINK_EVENT_TIMER, m.deadline_usec);
        m = feed_type(m, UPLINK_EVENT_CONNECTED, m.since_usec);
        ck_assert_uint_eq(m.key, 1);
        ck_assert_uint_eq(m.refused_keys, 1);
        m = feed_type(m, UPLINK_EVENT_ENDED, m.since_usec + USEC_PER_HOUR);
        ck_assert_uint_eq(m.key, 1);
        /* New credentials begin with the first. */
        m = feed_type(m, UPLINK_EVENT_CREDENTIALS, m.since_usec);
        ck_assert_uint_eq(m.key, 0);
        ck_assert_uint_eq(m.refused_keys, 0);
}

TEST(start_waits_for_a_plausible_clock_but_not_for_ever) {
        UplinkEvent start = { .type = UPLINK_EVENT_START, .span_usec = 120 * USEC_PER_SEC },
                    step = { .type = UPLINK_EVENT_CLOCK_STEPPED, .clock_wrong = true };
        UplinkMachine m;
        UplinkDecision d;

        uplink_machine_init(&m, 0);
        d = uplink_decide(&m, &times, &start, 10, 0);
        m = d.machine;
        ck_assert_int_eq(m.state, UPLINK_STATE_CLOCK);
        ck_assert_uint_eq(d.actions, 0);
        ck_assert_uint_eq(uplink_machine_deadline(&m), 10 + 120 * USEC_PER_SEC);
        ck_assert_uint_eq(uplink_decide(&m, &times, &step, 20, 0).actions, 0);
        step.clock_wrong = false;
        ck_assert_uint_eq(uplink_decide(&m, &times, &step, 20, 0).actions, UPLINK_ACTION_CONNECT);
        ck_assert_int_eq(feed_type(m, UPLINK_EVENT_LINK_UP, 20).state, UPLINK_STATE_CLOCK);
        ck_assert_int_eq(feed_type(m, UPLINK_EVENT_CREDENTIALS, 20).state, UPLINK_STATE_RESOLVING);
        ck_assert_int_eq(feed_type(m, UPLINK_EVENT_TIMER, 120 * USEC_PER_SEC).state,
                         UPLINK_STATE_CLOCK);
        ck_assert_int_eq(feed_type(m, UPLINK_EVENT_TIMER, 10 + 120 * USEC_PER_SEC).state,
                         UPLINK_STATE_RESOLVING);
        ck_assert_int_eq(feed_type(m, UPLINK_EVENT_STOP, 20).state, UPLINK_STATE_STOPPED);
}

TEST(late_confirmations_before_a_cut_slow_us_down_although_there_were_some) {
        UplinkMachine m;
        usec_t now = 0, last = 0;

        uplink_machine_init(&m, 0);
        m = feed_type(m, UPLINK_EVENT_START, 0);
        for (unsigned i = 0; i < 6; i++) {
                m = feed_type(m, UPLINK_EVENT_CONNECTED, now);
                m.n_in_flight = 1;
                m = uplink_decide(&m, &times, &(UplinkEvent) { UPLINK_EVENT_CONFIRMED, .n = 1 },
                                  now, 0).machine;
                now += 20 * USEC_PER_SEC;
                m = uplink_decide(&m, &times,
                                  &(UplinkEvent) { UPLINK_EVENT_ENDED,
                                                   .class = UPLINK_ERROR_THROTTLED },
                                  now, 0).machine;
                ck_assert_uint_ge(m.deadline_usec - now, MAX(last, 30 * USEC_PER_SEC));
                last = m.deadline_usec - now;
                now = m.deadline_usec;
                m = feed_type(m, UPLINK_EVENT_TIMER, now);
        }
        ck_assert_uint_eq(last, 150 * USEC_PER_SEC);
}

TEST(names_of_states_are_all_there) {
        for (int i = 0; i < _UPLINK_STATE_MAX; i++)
                ck_assert_ptr_nonnull(uplink_state_to_string((UplinkState) i));
        ck_assert_ptr_null(uplink_state_to_string(_UPLINK_STATE_INVALID));
}
