/* Goal: a message that makes the hub cut is found and rejected, and no good message ever is
 * (promises P2, P3). Method: a queue and a hub that exist only here play the rules; then every
 * mixture of bad messages up to a length. */
#include "tests/support/test.h"

#include <inttypes.h>

#include "daemon/uplink-suspect.h"

#define N 24

typedef struct Play {
        UplinkSuspects suspects;
        bool bad[N + 1], aside[N + 1], ended[N + 1], rejected[N + 1];
        bool quota;
        unsigned n_cuts;
} Play;

static void carry_out(Play *p, const UplinkSuspectPlan *plan) {
        for (size_t i = 0; i < plan->n_steps; i++) {
                uint64_t s = plan->steps[i].seq;

                ck_assert_uint_ge(s, 1);
                ck_assert_uint_le(s, N);
                ck_assert(!p->ended[s]);
                switch (plan->steps[i].verb) {
                case UPLINK_SUSPECT_SET_ASIDE:
                        ck_assert(!p->aside[s]);
                        p->aside[s] = true;
                        break;
                case UPLINK_SUSPECT_UNSET_ASIDE:
                        ck_assert(p->aside[s]);
                        p->aside[s] = false;
                        break;
                case UPLINK_SUSPECT_REJECT:
                        ck_assert(!p->aside[s]);
                        p->ended[s] = p->rejected[s] = true;
                        break;
                }
        }
}

static uint64_t first(const Play *p) {
        for (uint64_t s = 1; s <= N; s++)
                if (!p->ended[s] && !p->aside[s])
                        return s;
        return 0;
}

static bool done(const Play *p) {
        for (uint64_t s = 1; s <= N; s++)
                if (!p->ended[s])
                        return false;
        return true;
}

/* One message is handed over and either confirmed or cut. */
static void turn(Play *p) {
        UplinkSuspectPlan plan;
        uint64_t s = first(p);

        if (s == 0)
                uplink_suspects_on_nothing_else(&p->suspects, &plan);
        else if (p->quota || p->bad[s]) {
                p->n_cuts++;
                uplink_suspects_on_cut(&p->suspects, s, /* n_in_flight= */ 1, /* age_usec= */ 0,
                                       &plan);
        } else {
                p->ended[s] = true;
                uplink_suspects_on_confirmed(&p->suspects, &s, 1, &plan);
        }
        carry_out(p, &plan);
}

TEST(one_bad_message_is_rejected_after_a_trial_and_the_others_pass) {
        Play p = { .bad[5] = true };

        for (unsigned i = 0; i < 200 && !done(&p); i++)
                turn(&p);
        ck_assert(done(&p));
        for (uint64_t s = 1; s <= N; s++)
                ck_assert_int_eq(p.rejected[s], p.bad[s]);
        ck_assert_uint_eq(p.n_cuts, UPLINK_SUSPECT_CUTS + UPLINK_SUSPECT_TRIALS);
}

TEST(used_up_quota_rejects_nothing_is_named_and_all_is_sent_when_it_ends) {
        for (unsigned n_turns = 0; n_turns < 200; n_turns++) { /* it may end at any point */
                Play p = { .quota = true };

                for (unsigned i = 0; i < n_turns; i++)
                        turn(&p);
                if (n_turns == UPLINK_SUSPECT_CUTS + 1)
                        ck_assert(p.suspects.unexplained);
                p.quota = false;
                for (unsigned i = 0; i < 200 && !done(&p); i++)
                        turn(&p);
                ck_assert_msg(done(&p), "quota that ended after %u cuts", n_turns);
                for (uint64_t s = 1; s <= N; s++)
                        ck_assert_msg(!p.rejected[s],
                                      "quota that ended after %u cuts: %" PRIu64 " rejected",
                                      n_turns, s);
                ck_assert(!p.suspects.unexplained);
        }
}

TEST_LOOP(runs_of_bad_messages_are_found_wherever_they_are, 12) {
        /* Three others behind them are enough for two trials. */
        for (unsigned from = 1; from + (unsigned) _i < N - 1; from++) {
                Play p = {};

                for (unsigned s = from; s < from + (unsigned) _i; s++)
                        p.bad[s] = true;
                for (unsigned i = 0; i < 2000 && !done(&p); i++)
                        turn(&p);
                ck_assert_msg(done(&p), "%d bad ones from %u", _i, from);
                for (uint64_t s = 1; s <= N; s++)
                        ck_assert_int_eq(p.rejected[s], p.bad[s]);
        }
}

TEST(cuts_with_different_messages_first_suspect_none) {
        UplinkSuspects s = {};
        UplinkSuspectPlan plan;

        for (uint64_t seq = 1; seq < 100; seq++) {
                uplink_suspects_on_cut(&s, seq, 1, 0, &plan);
                ck_assert_uint_eq(plan.n_steps, 0);
        }
}

TEST(single_message_on_a_hub_over_quota_goes_back_and_is_kept) {
        Play p = { .quota = true };

        for (uint64_t s = 2; s <= N; s++)
                p.ended[s] = true;
        for (unsigned i = 0; i < 100; i++)
                turn(&p);
        ck_assert(!p.rejected[1]);
        ck_assert(p.suspects.unexplained);
        p.quota = false;
        for (unsigned i = 0; i < 3; i++)
                turn(&p);
        ck_assert(p.ended[1] && !p.rejected[1]);
}

TEST(message_that_expires_meanwhile_is_forgotten) {
        UplinkSuspects s = {};
        UplinkSuspectPlan plan;

        for (unsigned i = 0; i < UPLINK_SUSPECT_CUTS; i++)
                uplink_suspects_on_cut(&s, 1, 1, 0, &plan);
        ck_assert_uint_eq(plan.n_steps, 1);
        uplink_suspects_forget(&s, 1);
        uplink_suspects_on_confirmed(&s, (uint64_t[]) { 2 }, 1, &plan);
        ck_assert_uint_eq(plan.n_steps, 0);
}
