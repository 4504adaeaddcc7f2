/* Goal: the uplink always comes back, never spins, never waits longer than its bounds, is never connected
 * but idle, condemns no good message, and names the cause (promises P2, P3, P6). Method: years of a hub, a
 * network and clocks that misbehave from a seed (tests/support/sim-hub.h); the invariants are checked at
 * each decision, and in the calm after each storm all must be well again.
 *
 *   test-uplink-simulation [--seed N] [--years N] [part of a test's name]
 *
 * repeats a run, or makes it longer. */
#include "tests/support/test.h"

#include <stdlib.h>

#include "tests/support/sim-hub.h"

#define SEEDS 24

/* In the calm the longest wait there may still be ends, a try that hangs in front of it too, and what was
 * found out under the trouble is forgotten. */
#define CALM_USEC (45 * USEC_PER_MINUTE)

/* A connection's start and a wait that is left from before. */
#define BACK_USEC (600 * USEC_PER_SEC + 2 * 30 * USEC_PER_SEC + 120 * USEC_PER_SEC + 10 * USEC_PER_SEC)

/* For bad messages to be found. */
#define BAD_USEC (12 * USEC_PER_HOUR)

static usec_t years(void) {
        const char *text = getenv("IOTHUBD_TEST_YEARS");

        return text ? strtoull(text, NULL, 0) : 1;
}

/* What was accepted before the calm has to be gone. */
static void check_calm(Sim *s, uint64_t last_seq) {
        const UplinkLogic *l = &s->logic;

        if (l->machine.state != UPLINK_STATE_CONNECTED && l->machine.state != UPLINK_STATE_DRAINING &&
            l->machine.state != UPLINK_STATE_RESOLVING && l->machine.state != UPLINK_STATE_CONNECTING)
                sim_fail(s, "not back after the calm");
        for (size_t i = 0; i < s->n_messages; i++)
                if (s->messages[i].seq <= last_seq)
                        sim_fail(s, "%s message %" PRIu64 " of before the calm still waits",
                                 s->messages[i].poison ? "bad" : "good", s->messages[i].seq);
        if (uplink_trouble_is_on(&l->trouble))
                sim_fail(s, "trouble %s is still told",
                         uplink_error_class_to_string(l->trouble.class));
        if (l->suspects.n_items > 0)
                sim_fail(s, "%zu messages are still under suspicion", l->suspects.n_items);
        if (l->pace.window != SIM_WINDOW)
                sim_fail(s, "the window is still %u", l->pace.window);
}

static bool has_bad(const Sim *s) {
        for (size_t i = 0; i < s->n_messages; i++)
                if (s->messages[i].poison)
                        return true;
        return false;
}

static void calm(Sim *s) {
        uint64_t last_seq = s->last_seq, n_confirmed = s->n_confirmed;
        bool bad;

        sim_clear_faults(s);
        bad = has_bad(s);
        sim_set_interval(s, 10 * USEC_PER_SEC);
        sim_run(s, BACK_USEC);
        /* Each bad message costs a few cuts, at first after the long waits that are left from before. */
        for (usec_t end = s->now_usec + BAD_USEC; bad && has_bad(s) && s->now_usec < end;)
                sim_run(s, 10 * USEC_PER_MINUTE);
        if (s->n_confirmed == n_confirmed)
                sim_fail(s, "nothing confirmed after all causes were gone");
        sim_run(s, CALM_USEC);
        check_calm(s, last_seq);
        sim_set_interval(s, 10 * USEC_PER_MINUTE);
}

static SimFault random_fault(Sim *s) {
        return (SimFault) random_below(&s->rng, _SIM_FAULT_MAX);
}

/* Up to three faults at a time that come and go, and shocks. */
static void storm(Sim *s) {
        unsigned n_phases = 1 + (unsigned) random_below(&s->rng, 8);

        sim_set_interval(s, USEC_PER_SEC + random_below(&s->rng, 20 * USEC_PER_MINUTE));
        for (unsigned i = 0; i < n_phases; i++) {
                sim_set_fault(s, random_fault(s), random_below(&s->rng, 2));
                if (random_below(&s->rng, 3) == 0)
                        sim_clear_faults(s);
                for (unsigned n = (unsigned) random_below(&s->rng, 4); n > 0; n--) {
                        sim_shock(s, (SimShock) random_below(&s->rng, _SIM_SHOCK_MAX));
                        sim_run(s, 1 + random_below(&s->rng, 10 * USEC_PER_MINUTE));
                }
                sim_run(s, 1 + random_below(&s->rng, 4 * USEC_PER_HOUR));
        }
}

TEST_FULL(years_of_storms_and_calms, 600, SEEDS) {
        const char *text = getenv("IOTHUBD_TEST_SEED");
        Sim *s = malloc(sizeof(*s));
        usec_t end;

        ck_assert_ptr_nonnull(s);
        if (text && _i > 0)
                goto out; /* that seed alone */
        sim_begin(s, text ? strtoull(text, NULL, 0) : (uint64_t) _i);
        end = years() * 365 * USEC_PER_DAY;
        while (s->now_usec < end) {
                storm(s);
                calm(s);
                sim_run(s, random_below(&s->rng, USEC_PER_DAY));
        }
        if (text)
                printf("# seed %" PRIu64 ": %" PRIu64 " decisions, %" PRIu64 " tries, %" PRIu64
                       " restarts, %" PRIu64 " accepted, %" PRIu64 " rejected, %" PRIu64
                       " writes of the memory\n",
                       s->seed, s->n_decisions, s->n_connects, s->n_restarts, s->n_accepted,
                       s->n_rejected, s->n_written);
out:
        free(s);
}

/* One cause that lasts is named, and by nothing else. */
static const struct {
        SimFault fault;
        UplinkErrorClass class;
        unsigned connects_per_hour_max; /* once it lasts */
} causes[] = {
        { SIM_DNS_HANGS, UPLINK_ERROR_DNS, 62 },
        { SIM_DNS_FAILS, UPLINK_ERROR_DNS, 122 },
        { SIM_LINK_DOWN, UPLINK_ERROR_DNS, 122 },
        { SIM_PORT_CLOSED, UPLINK_ERROR_NETWORK, 122 },
        { SIM_SILENT, UPLINK_ERROR_TIMEOUT, 62 },
        { SIM_NO_CONNACK, UPLINK_ERROR_TIMEOUT, 62 },
        { SIM_TLS_ISSUER, UPLINK_ERROR_TLS_ISSUER, 122 },
        { SIM_REFUSES, UPLINK_ERROR_REFUSED, 13 },
        { SIM_UNAVAILABLE, UPLINK_ERROR_UNAVAILABLE, 122 },
        { SIM_CUTS_EARLY, UPLINK_ERROR_THROTTLED, 25 },
        { SIM_QUOTA, UPLINK_ERROR_QUOTA, 25 },
        { SIM_THROTTLES, UPLINK_ERROR_THROTTLED, 25 },
        { SIM_TAKEN_OVER, UPLINK_ERROR_TAKEN_OVER, 450 },
        { SIM_NO_PUBACK, UPLINK_ERROR_UNCONFIRMED, 25 },
        { SIM_BOTH_WRONG, UPLINK_ERROR_REFUSED, 13 },
        { SIM_CLOCK_WRONG, UPLINK_ERROR_CLOCK, 122 },
};

TEST_FULL(each_cause_is_named_tried_as_its_law_says_and_heals, 120, ELEMENTSOF(causes)) {
        for (uint64_t seed = 0; seed < 20; seed++) {
                Sim *s = malloc(sizeof(*s));
                UplinkErrorClass class;
                uint64_t n;

                ck_assert_ptr_nonnull(s);
                sim_begin(s, seed);
                calm(s);
                sim_set_interval(s, 10 * USEC_PER_SEC);
                sim_set_fault(s, causes[_i].fault, true);
                if (causes[_i].fault != SIM_TAKEN_OVER)
                        sim_shock(s, SIM_CUT);
                sim_run(s, 2 * USEC_PER_HOUR);
                n = s->n_connects;
                sim_run(s, 2 * USEC_PER_HOUR);
                class = s->logic.trouble.class;
                if (class != causes[_i].class)
                        sim_fail(s, "%s is named %s", sim_fault_to_string(causes[_i].fault),
                                 strempty(uplink_error_class_to_string(class)));
                if (!uplink_trouble_is_on(&s->logic.trouble))
                        sim_fail(s, "told as over"); /* connected in between or not */
                n = s->n_connects - n;
                if (n > 2 * causes[_i].connects_per_hour_max)
                        sim_fail(s, "%" PRIu64 " tries in two hours", n);
                if (n < 2 * causes[_i].connects_per_hour_max / 6)
                        sim_fail(s, "only %" PRIu64 " tries in two hours", n);
                if (s->now_usec - s->logic.trouble.since_usec < 3 * USEC_PER_HOUR)
                        sim_fail(s, "since %" PRIu64 " us only", s->now_usec - s->logic.trouble.since_usec);
                sim_clear_faults(s);
                if (causes[_i].fault == SIM_CLOCK_WRONG || causes[_i].fault == SIM_LINK_DOWN) {
                        sim_run(s, 10 * USEC_PER_SEC); /* the kernel tells */
                        if (s->logic.machine.state != UPLINK_STATE_CONNECTED)
                                sim_fail(s, "not connected at once");
                }
                calm(s);
                free(s);
        }
}

TEST_LOOP(bad_messages_on_a_bad_link_are_found_and_no_good_one_is_condemned, 10) {
        Sim *s = malloc(sizeof(*s));

        ck_assert_ptr_nonnull(s);
        sim_begin(s, (uint64_t) _i);
        for (unsigned i = 0; i < 50; i++) {
                sim_set_interval(s, 5 * USEC_PER_SEC);
                sim_set_fault(s, SIM_POISON, true);
                sim_run(s, 2 * USEC_PER_MINUTE);
                sim_set_fault(s, SIM_POISON, false);
                sim_set_fault(s, SIM_BAD_LINK, i % 2 == 0);
                sim_run(s, USEC_PER_HOUR);
                calm(s);
        }
        ck_assert_uint_gt(s->n_rejected, 10);
        free(s);
}

TEST_LOOP(secondary_key_is_in_use_seconds_after_the_primary_was_refused, 20) {
        Sim *s = malloc(sizeof(*s));

        ck_assert_ptr_nonnull(s);
        sim_begin(s, (uint64_t) _i);
        calm(s);
        sim_set_fault(s, SIM_PRIMARY_WRONG, true);
        sim_shock(s, SIM_CUT);
        sim_run(s, 10 * USEC_PER_SEC);
        if (s->logic.machine.state != UPLINK_STATE_CONNECTED || s->logic.machine.key != 1)
                sim_fail(s, "not connected with the secondary key");
        sim_run(s, 10 * USEC_PER_HOUR); /* through renewals */
        if (s->logic.machine.key != 1)
                sim_fail(s, "went back to a key that is refused");
        calm(s);
        free(s);
}

TEST_LOOP(crash_loop_is_no_storm_of_connections, 10) {
        Sim *s = malloc(sizeof(*s));
        uint64_t n;

        ck_assert_ptr_nonnull(s);
        sim_begin(s, (uint64_t) _i);
        sim_run(s, USEC_PER_MINUTE);
        n = s->n_connects;
        for (usec_t end = s->now_usec + USEC_PER_HOUR; s->now_usec < end;) {
                sim_shock(s, SIM_CRASH);
                while (s->logic.machine.state != UPLINK_STATE_CONNECTED)
                        sim_run(s, USEC_PER_SEC);
        }
        n = s->n_connects - n;
        if (n > 140)
                sim_fail(s, "%" PRIu64 " connections in an hour", n);
        calm(s);
        free(s);
}
