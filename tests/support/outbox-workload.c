#include "tests/support/outbox-workload.h"

#include <inttypes.h>

#define KIB ((uint64_t) 1024)
#define MIB (1024 * KIB)
#define QUEUED_MAX 1000U  /* a start takes everything out at once, and the outbox hands out no more than 2,048 */
#define READ_AGAIN_USEC (35 * USEC_PER_SEC) /* within which a read that failed has to be tried again */
#define STREAMS_LIVE 6U /* that the workload goes on with; older ones are left as they are */

typedef struct Workload {
        OutboxModel *model;
        SimDisk *disk;
        Random random;
        uint64_t capacity;
        bool with_trouble, with_full_disk, trace;
        WorkloadTotals *totals;
} Workload;

static uint64_t below(Workload *w, uint64_t n) {
        return random_below(&w->random, n);
}

static OutboxLane any_lane(Workload *w) {
        return (OutboxLane) below(w, _OUTBOX_LANE_MAX);
}

static usec_t any_ttl(Workload *w) {
        return below(w, 8) == 0 ? below(w, 20) * USEC_PER_SEC : USEC_INFINITY;
}

/* How a run is set up: each seed its own mix of limits and policies. */
static OutboxOptions any_options(Workload *w) {
        static const uint64_t segment_sizes[] = { 512 * KIB, MIB, 0 };
        static const unsigned intervals[] = { 1, 10, 1000 };
        uint64_t segment = segment_sizes[below(w, ELEMENTSOF(segment_sizes))];

        return (OutboxOptions) {
                .max_size = segment > 0 ? segment * (16 + below(w, 32)) : 128 * MIB,
                .keep_free = 0,
                .segment_size = segment,
                .full = below(w, 2) ? OUTBOX_FULL_REJECT : OUTBOX_FULL_DROP_OLDEST,
                .time_to_live_usec = below(w, 4) ? USEC_INFINITY : 60 * USEC_PER_SEC,
                .dead_letter_size = MIB,
                .n_receipts = 100 + (unsigned) below(w, 400),
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = intervals[below(w, ELEMENTSOF(intervals))],
        };
}

static void append(Workload *w) {
        size_t n = 1 + (below(w, 3) ? below(w, 4) : below(w, 40));
        ModelMessage *messages[40];
        OutboxLane lane = any_lane(w);

        for (size_t i = 0; i < n; i++)
                messages[i] = outbox_model_message_new(w->model, below(w, 10) ? lane : any_lane(w),
                                                       below(w, 200) ? SIZE_MAX : 40000 + below(w, 200000), any_ttl(w));
        w->totals->n_appended += n;
        if (outbox_model_append(w->model, messages, n) == -ENOSPC)
                w->totals->n_full++;
}

static ModelStream *any_stream(Workload *w) {
        OutboxModel *m = w->model;

        if (m->n_streams == 0 || below(w, 30) == 0)
                return outbox_model_stream_new(m, any_lane(w));
        return m->streams[m->n_streams - 1 - below(w, MIN(m->n_streams, STREAMS_LIVE))];
}

static void append_stream(Workload *w) {
        ModelStream *s = any_stream(w);
        size_t n = 1 + below(w, 12);
        uint64_t next;

        switch (below(w, 12)) {
        case 0: outbox_model_append_foreign(w->model, s); return;
        case 1: /* a gap, where the outbox cannot know what lies between */
                outbox_model_append_stream(w->model, s, s->n_messages + 1 + below(w, 5), n);
                return;
        case 2: /* from the start of what it has not confirmed to us, or from the very start */
                (void) outbox_model_append_stream(w->model, s, below(w, 2) ? s->n_durable : 0, n);
                return;
        case 3:
                next = outbox_model_stream_next(w->model, s);
                (void) outbox_model_append_stream(w->model, s, next, n);
                return;
        default: (void) outbox_model_append_stream(w->model, s, s->n_pending, n); return;
        }
}

static void take(Workload *w) {
        for (size_t n = below(w, 20); n > 0; n--)
                if (outbox_model_next(w->model, NULL) < 0)
                        return;
}

static void settle(Workload *w) {
        for (size_t n = 1 + below(w, 25); n > 0; n--) {
                size_t in_flight = outbox_model_n_in_flight(w->model);
                ModelMessage *x = outbox_model_in_flight(w->model, below(w, 3) ? 0 : below(w, in_flight));

                if (!x)
                        return;
                outbox_model_settle(w->model, x, below(w, 30) ? OUTBOX_END_CONFIRMED : OUTBOX_END_REJECTED);
                if (below(w, 50) == 0)
                        outbox_model_settle(w->model, x, OUTBOX_END_CONFIRMED);
        }
}

static void disturb(Workload *w) {
        static const int errors[] = { EIO, ENOSPC, EROFS };
        static const unsigned kinds[] = { SIM_CALLS_WRITING, 1U << SIM_FDATASYNC, SIM_CALLS_ALL, 1U << SIM_OPENAT,
                                          1U << SIM_PREAD };
        OutboxModel *m = w->model;

        if (!w->with_trouble)
                return;
        m->trouble = true;
        switch (below(w, 6)) {
        case 0: sim_disk_set_read_only(w->disk, true); break;
        case 1: sim_disk_set_capacity(w->disk, sim_disk_used(w->disk) + below(w, 5) * 4096); break;
        default:
                sim_disk_fail_at(w->disk, kinds[below(w, ELEMENTSOF(kinds))], below(w, 8),
                                 below(w, 4) ? 1 + below(w, 4) : UINT64_MAX, errors[below(w, ELEMENTSOF(errors))]);
        }
}

static void soothe(Workload *w) {
        if (!w->model->trouble)
                return;
        w->totals->n_failed_calls += sim_disk_n_failed(w->disk);
        sim_disk_fail_at(w->disk, 0, 0, 0, 0);
        sim_disk_set_read_only(w->disk, false);
        sim_disk_set_capacity(w->disk, w->capacity);
        outbox_model_advance(w->model, READ_AGAIN_USEC);
        outbox_model_recover(w->model);
}

static void meddle(Workload *w) {
        ModelMessage *x = outbox_model_in_flight(w->model, below(w, 4));

        switch (below(w, 4)) {
        case 0: outbox_model_requeue(w->model); break;
        case 1:
                if (x)
                        outbox_model_note_cut(w->model, x);
                break;
        case 2:
                if (x && !w->model->trouble)
                        outbox_model_set_aside(w->model, x, true);
                break;
        default:
                for (size_t i = 0; i < w->model->n_messages; i++)
                        if (w->model->messages[i]->aside)
                                outbox_model_set_aside(w->model, w->model->messages[i], false);
        }
}

static void pass_time(Workload *w) {
        switch (below(w, 8)) {
        case 0: outbox_model_advance(w->model, below(w, 30) * USEC_PER_SEC); break;
        case 1:
                /* The wall clock jumps: back, far back before any build, or ahead a little. */
                outbox_model_step_realtime(w->model, below(w, 2) ? -(int64_t) (below(w, 100) * USEC_PER_SEC)
                                                                 : (int64_t) (below(w, 5) * USEC_PER_SEC));
                break;
        default: outbox_model_advance(w->model, below(w, 400) * USEC_PER_MSEC);
        }
}

static void look_up(Workload *w) {
        OutboxModel *m = w->model;
        ModelMessage *x = m->n_messages > 0 ? m->messages[below(w, m->n_messages)] : NULL;

        if (x && x->seq != 0 && x->state == MODEL_DURABLE)
                outbox_model_lookup(m, x, below(w, 2));
}

static void step(Workload *w) {
        uint64_t n = below(w, 100);

        if (n < 36 && outbox_model_n_queued(w->model) > QUEUED_MAX)
                n = 36 + n; /* run, take, settle */
        if (w->trace)
                printf("# step %" PRIu64 "\n", n);
        if (n < 18)
                append(w);
        else if (n < 36)
                append_stream(w);
        else if (n < 58)
                outbox_model_run(w->model);
        else if (n < 70)
                take(w);
        else if (n < 82)
                settle(w);
        else if (n < 85)
                meddle(w);
        else if (n < 90)
                pass_time(w);
        else if (n < 92)
                look_up(w);
        else if (n < 93)
                outbox_model_checkpoint(w->model);
        else if (n < 96)
                disturb(w);
        else if (n < 98)
                soothe(w);
        else if (!w->model->trouble)
                outbox_model_next_all(w->model);
}

/* One life of the process. Returns whether it ended in order. */
static bool session(Workload *w, bool clean) {
        uint64_t n_steps = below(w, 4) ? below(w, 60) : below(w, 300);
        int r;

        outbox_model_verify_start(w->model, clean);
        if (!sim_disk_is_crashed(w->disk) && below(w, 3))
                sim_disk_crash_at(w->disk, below(w, 200));
        for (uint64_t i = 0; i < n_steps && !sim_disk_is_crashed(w->disk); i++)
                step(w);
        r = below(w, 4) == 0;
        if (r && !sim_disk_is_crashed(w->disk)) {
                soothe(w);
                outbox_model_close(w->model);
                if (!sim_disk_is_crashed(w->disk)) {
                        sim_disk_crash_at(w->disk, UINT64_MAX);
                        if (below(w, 3) == 0)
                                sim_disk_reboot(w->disk); /* the power goes after an orderly end */
                        return true;
                }
        }
        return false;
}

void outbox_workload_run(uint64_t seed, unsigned n_crashes, const char *repeat, WorkloadTotals *totals) {
        Workload w = { .random = { .state = seed }, .totals = totals, .trace = getenv("OUTBOX_MODEL_TRACE") != NULL };
        OutboxOptions options = any_options(&w);
        bool clean = true;

        w.capacity = below(&w, 4) ? UINT64_MAX : options.max_size * 2;
        w.with_trouble = below(&w, 2);
        w.disk = sim_disk_new(seed + 1, w.capacity);
        w.model = outbox_model_new(w.disk, &options, seed, repeat);
        for (unsigned n = 0; n < n_crashes;) {
                if (outbox_model_open(w.model) == 0)
                        clean = session(&w, clean);
                else
                        clean = false;
                if (clean) {
                        totals->n_clean_restarts++;
                        continue;
                }
                w.model->trouble = false;
                sim_disk_set_capacity(w.disk, w.capacity);
                outbox_model_crash(w.model, (ModelCrash) below(&w, 3));
                totals->n_crashes++;
                n++;
                if (below(&w, 4) == 0) {
                        sim_disk_crash_at(w.disk, below(&w, 60));
                        totals->n_starts_crashed++;
                }
        }
        if (outbox_model_open(w.model) == 0) {
                outbox_model_verify_start(w.model, clean);
                outbox_model_close(w.model);
        } else
                outbox_model_crash(w.model, MODEL_CUT);
        for (OutboxEnd e = 0; e < _OUTBOX_END_MAX; e++)
                totals->n_settled[e] += w.model->n_settled_total[e];
        totals->n_came_back += w.model->n_came_back;
        for (size_t i = 0; i < w.model->n_messages; i++)
                totals->n_durable += w.model->messages[i]->state == MODEL_DURABLE;
        outbox_model_free(w.model);
        sim_disk_free(w.disk);
}
