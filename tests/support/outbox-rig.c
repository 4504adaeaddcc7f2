#include "tests/support/outbox-rig.h"

#include <errno.h>

#include "tests/support/test.h"

void rig_done(Rig *g) {
        outbox_model_free(g->model);
        sim_disk_free(g->disk);
}

OutboxOptions base_options(void) {
        return (OutboxOptions) {
                .max_size = 24 * MIB,
                .segment_size = 512U << 10,
                .full = OUTBOX_FULL_REJECT,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = MIB,
                .n_receipts = 64,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 100,
        };
}

void rig_open(Rig *g, const OutboxOptions *options, uint64_t seed, uint64_t capacity) {
        g->disk = sim_disk_new(seed, capacity);
        g->model = outbox_model_new(g->disk, options, seed, program_invocation_short_name);
        assert_ok(outbox_model_open(g->model));
        outbox_model_verify_start(g->model, true);
}

void reopen(Rig *g, bool clean) {
        assert_ok(outbox_model_open(g->model));
        outbox_model_verify_start(g->model, clean);
}

int append_some(OutboxModel *m, OutboxLane lane, size_t n, size_t body_size, usec_t ttl) {
        ModelMessage *x[64];
        int r;

        for (size_t i = 0; i < n; i++)
                x[i] = outbox_model_message_new(m, lane, body_size, ttl);
        r = outbox_model_append(m, x, n);
        outbox_model_run(m);
        return r;
}

size_t confirm_all(OutboxModel *m) {
        ModelMessage *x;
        size_t n = 0;

        do {
                for (n += outbox_model_next_all(m); (x = outbox_model_in_flight(m, 0));)
                        outbox_model_settle(m, x, OUTBOX_END_CONFIRMED);
                outbox_model_run(m);
        } while (outbox_model_n_queued(m) > 0);
        return n;
}
