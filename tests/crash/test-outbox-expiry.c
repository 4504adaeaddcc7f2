/* What expires while clocks step and processes die, on a simulated disk beside the model. */
#include "tests/support/outbox-rig.h"
#include "tests/support/test.h"

/* Goal: P2: an end that was decided while both clocks could be trusted stands, though the wall clock steps back before it
 * is recorded; what lies behind it need not wait for that. Method: after a boot, so that the wall clock judges; the end is
 * decided when the next message is asked for. */
TEST(decided_expiry_stands_when_the_clock_steps_back) {
        OutboxOptions options = base_options();
        ModelMessage *x;
        Rig g;

        rig_open(&g, &options, 1, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 50, 100 * USEC_PER_SEC));
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 2, 50, USEC_INFINITY));
        outbox_model_crash(g.model, MODEL_REBOOTED);
        reopen(&g, false);
        ck_assert_uint_eq(outbox_model_n_queued(g.model), 3);

        outbox_model_advance(g.model, 200 * USEC_PER_SEC);
        assert_ok(outbox_model_next(g.model, &x)); /* decides */
        ck_assert_uint_eq(x->serial, 1);
        ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_EXPIRED], 0); /* and has not told yet */
        outbox_model_step_realtime(g.model, -(int64_t) (300 * USEC_PER_SEC));
        assert_ok(outbox_model_next(g.model, &x));
        ck_assert_uint_eq(x->serial, 2);
        outbox_model_run(g.model);
        ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_EXPIRED], 1);
        ck_assert(g.model->messages[0]->end == OUTBOX_END_EXPIRED);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* One message is confirmed and that is told; a crash forgets it, and at the next start its time is over. The power goes
 * again at the n-th call of that start. Returns whether it did. */
static bool forgotten_confirmation_expires(uint64_t n, uint64_t *ret_confirmed, uint64_t *ret_expired) {
        OutboxOptions options = base_options();
        ModelMessage *x;
        OutboxStats s;
        bool crashed;
        Rig g;

        rig_open(&g, &options, 2 + n, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 50, 100 * USEC_PER_SEC));
        assert_ok(outbox_model_next(g.model, &x));
        outbox_model_settle(g.model, x, OUTBOX_END_CONFIRMED);
        outbox_model_run(g.model);
        ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_CONFIRMED], 1);
        outbox_model_crash(g.model, MODEL_REBOOTED);

        outbox_model_advance(g.model, 200 * USEC_PER_SEC);
        sim_disk_crash_at(g.disk, n);
        if (outbox_model_open(g.model) == 0)
                outbox_model_verify_start(g.model, false);
        crashed = sim_disk_is_crashed(g.disk);
        outbox_model_crash(g.model, MODEL_KILLED);
        reopen(&g, false); /* balances the books */
        outbox_get_stats(g.model->outbox, &s);
        ck_assert_uint_eq(s.accepted, 1);
        ck_assert_uint_eq(s.queued, 0);
        *ret_confirmed += s.confirmed;
        *ret_expired += s.expired;
        outbox_model_close(g.model);
        rig_done(&g);
        return crashed;
}

/* Goal: P2: a confirmation that a crash took back is in the books as what became of the message then, wherever the start
 * that judged it is cut. */
TEST(forgotten_confirmation_that_expires_is_counted_once) {
        uint64_t confirmed = 0, expired = 0, n = 0;

        while (forgotten_confirmation_expires(n, &confirmed, &expired))
                ck_assert_uint_lt(++n, 1000);
        ck_assert_uint_eq(confirmed, 0);
        ck_assert_uint_eq(expired, n + 1);
        ck_assert_uint_gt(n, 10);
}
