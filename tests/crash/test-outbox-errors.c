/* Goal: no disk call that fails, whichever it is, makes the outbox break a promise, and it works again by itself.
 * Method: the same small life of an outbox again and again, with the n-th disk call failing for n = 0, 1, 2, ... until
 * a run ends in which none failed. A failure names n, the error and the kind; OUTBOX_ERRORS_N=n repeats that n alone. */
#include <inttypes.h>

#include "tests/support/outbox-model.h"
#include "tests/support/test.h"

#define N_CALLS_MAX 20000U /* a run that makes more calls than this never ends */

typedef struct Trial {
        int error;
        uint64_t count; /* calls that fail, one after another */
        bool crash;     /* the power goes at the end of the first life */
} Trial;

static const Trial trials[] = {
        { EIO, 1, false }, { ENOSPC, 1, false }, { EROFS, 1, false },
        { EIO, 4, false }, { ENOSPC, 40, false }, { EROFS, 40, false },
        { EIO, 1, true },  { ENOSPC, 3, true },   { EROFS, 3, true },
};

static const OutboxOptions base_options = {
        .max_size = 24U << 20,
        .segment_size = 512U << 10,
        .full = OUTBOX_FULL_REJECT,
        .time_to_live_usec = USEC_INFINITY,
        .dead_letter_size = 1U << 20,
        .n_receipts = 64,
        .position_interval_usec = USEC_PER_SEC,
        .position_messages = 20,
};

static void append_each_lane(OutboxModel *m, size_t body_size, usec_t ttl) {
        for (OutboxLane lane = 0; lane < _OUTBOX_LANE_MAX; lane++) {
                ModelMessage *x[4];

                for (size_t i = 0; i < ELEMENTSOF(x); i++)
                        x[i] = outbox_model_message_new(m, lane, body_size, ttl);
                (void) outbox_model_append(m, x, ELEMENTSOF(x)); /* what is refused is checked there */
                outbox_model_run(m);
        }
}

static void settle_all(OutboxModel *m, size_t n_rejected) {
        ModelMessage *x;

        while ((x = outbox_model_in_flight(m, 0))) {
                outbox_model_settle(m, x, n_rejected > 0 ? OUTBOX_END_REJECTED : OUTBOX_END_CONFIRMED);
                n_rejected -= n_rejected > 0;
        }
        outbox_model_run(m);
}

static void live(OutboxModel *m) {
        ModelStream *s = outbox_model_stream_new(m, OUTBOX_LANE_NORMAL);

        append_each_lane(m, 100, USEC_INFINITY);
        (void) outbox_model_append_stream(m, s, 0, 5);
        outbox_model_run(m);
        (void) outbox_model_append_stream(m, s, outbox_model_stream_next(m, s), 5);
        outbox_model_next_all(m);
        settle_all(m, 2);
        append_each_lane(m, 50, 3 * USEC_PER_SEC);
        outbox_model_advance(m, 2 * USEC_PER_SEC);
        outbox_model_run(m);
        outbox_model_advance(m, 2 * USEC_PER_SEC);
        outbox_model_run(m);
        for (int i = 0; i < 3; i++) { /* on to a second segment in each lane, and a recycled one */
                append_each_lane(m, 60000, USEC_INFINITY);
                outbox_model_next_all(m);
                outbox_model_requeue(m);
                outbox_model_next_all(m);
                settle_all(m, 0);
                outbox_model_advance(m, USEC_PER_SEC);
        }
        append_each_lane(m, 30, USEC_INFINITY);
        outbox_model_checkpoint(m);
        outbox_model_run(m);
}

static void open_and_verify(OutboxModel *m, bool clean) {
        int r = -EIO;

        /* A start may fail on the call that fails; the service manager starts it again. */
        for (int i = 0; i < 50 && r < 0; i++)
                r = outbox_model_open(m);
        if (r < 0)
                outbox_model_fail(m, "the start does not succeed again: %s", strerror(-r));
        outbox_model_verify_start(m, clean);
}

/* Whether a call failed. */
static bool try_one(const Trial *t, uint64_t n) {
        char repeat[256];
        SimDisk *disk = sim_disk_new(n * 7 + (uint64_t) t->error, 200U << 20);
        OutboxModel *m;
        bool failed;

        (void) snprintf(repeat, sizeof(repeat), "OUTBOX_ERRORS_N=%" PRIu64 " test-outbox-errors (%s, %" PRIu64 " calls%s)", n,
                        strerror(t->error), t->count, t->crash ? ", then a crash" : "");
        m = outbox_model_new(disk, &base_options, 42, repeat);
        m->trouble = true;
        /* A directory that is there is opened on a full and on a read-only disk alike. */
        sim_disk_fail_at(disk, t->error == EIO ? SIM_CALLS_ALL : SIM_CALLS_ALL & ~(1U << SIM_OPEN_DIR), n, t->count, t->error);
        open_and_verify(m, true);
        live(m);
        if (t->crash)
                outbox_model_crash(m, MODEL_CUT);
        else
                outbox_model_close(m);
        open_and_verify(m, false);
        append_each_lane(m, 100, USEC_INFINITY);
        outbox_model_close(m);
        failed = sim_disk_n_failed(disk) > 0;

        sim_disk_fail_at(disk, 0, 0, 0, 0);
        open_and_verify(m, false);
        outbox_model_recover(m);
        live(m);
        outbox_model_close(m);
        open_and_verify(m, true);
        outbox_model_close(m);
        outbox_model_free(m);
        sim_disk_free(disk);
        return failed;
}

TEST_FULL(every_disk_call_may_fail, 600, (int) ELEMENTSOF(trials)) {
        const char *only = getenv("OUTBOX_ERRORS_N");
        uint64_t n;

        if (only) {
                (void) try_one(&trials[_i], strtoull(only, NULL, 10));
                return;
        }
        for (n = 0; try_one(&trials[_i], n); n++)
                ck_assert_uint_lt(n, N_CALLS_MAX);
        ck_assert_uint_gt(n, 50); /* else the life above is no longer one */
        printf("# %s, %" PRIu64 " in a row: each of %" PRIu64 " calls\n", strerror(trials[_i].error), trials[_i].count, n);
        fflush(stdout);
}
