#include "tests/support/outbox-model.h"

#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>

#include "daemon/log.h"

#define TURNS_MAX 2000U /* of outbox_process() until it has to be at rest */
#define ROOM_AGAIN_USEC (10 * USEC_PER_SEC) /* within which room on a disk that was full has to be seen */
#define REJECT_AGAIN_USEC (61 * USEC_PER_SEC) /* within which a dead letter that failed has to be tried again */
#define START_REALTIME ((usec_t) 1767225600 * USEC_PER_SEC) /* 2026-01-01, after any build date that matters */

typedef struct Call {
        OutboxModel *model;
        ModelMessage **messages;
        size_t n_messages;
        unsigned n_reports;
} Call;

static void *must(void *p) {
        if (!p)
                abort();
        return p;
}

void outbox_model_fail(const OutboxModel *m, const char *format, ...) {
        va_list ap;

        printf("# the outbox broke its word: ");
        va_start(ap, format);
        vprintf(format, ap);
        va_end(ap);
        printf("\n# repeat with: %s\n", m->repeat);
        fflush(stdout);
        if (getenv("OUTBOX_MODEL_ABORT"))
                abort();
        _exit(1);
}

/* What a message is called in a failure. */
static const char *name_of(const ModelMessage *x) {
        static char names[4][160];
        static unsigned next;
        char *s = names[next++ % ELEMENTSOF(names)];

        snprintf(s, sizeof(names[0]), "message %" PRIu64 " (%s, seq %" PRIu64 ", state %d, end %d%s%s)", x->serial,
                 outbox_lane_to_string(x->lane), x->seq, (int) x->state, (int) x->end, x->stream ? ", of a stream" : "",
                 x->in_flight ? ", in flight" : "");
        return s;
}

static usec_t clock_boottime(void *userdata) {
        return ((OutboxModel *) userdata)->boottime_usec;
}

static usec_t clock_realtime(void *userdata) {
        return ((OutboxModel *) userdata)->realtime_usec;
}

/* seq to message */

static struct SeqSlot *seq_slot(const OutboxModel *m, uint64_t seq) {
        size_t mask = m->n_by_seq - 1, i = (size_t) (seq * UINT64_C(0x9e3779b97f4a7c15) >> 20) & mask;

        while (m->by_seq[i].seq != 0 && m->by_seq[i].seq != seq)
                i = (i + 1) & mask;
        return &m->by_seq[i];
}

static void seq_add(OutboxModel *m, ModelMessage *x, uint64_t seq) {
        struct SeqSlot *s;

        if (m->n_by_seq_used * 2 >= m->n_by_seq) {
                struct SeqSlot *old = m->by_seq;
                size_t n = m->n_by_seq;

                m->n_by_seq = n > 0 ? n * 2 : 1024;
                m->by_seq = must(calloc(m->n_by_seq, sizeof(struct SeqSlot)));
                for (size_t i = 0; i < n; i++)
                        if (old[i].seq != 0)
                                *seq_slot(m, old[i].seq) = old[i];
                free(old);
        }
        s = seq_slot(m, seq);
        if (s->seq != 0 && s->message != x && s->message->state != MODEL_GONE)
                outbox_model_fail(m, "seq %" PRIu64 " was given to %s and to %s", seq, name_of(s->message), name_of(x));
        m->n_by_seq_used += s->seq == 0;
        *s = (struct SeqSlot) { seq, x };
        x->seq = seq;
}

static ModelMessage *message_by_seq(const OutboxModel *m, uint64_t seq) {
        return m->n_by_seq > 0 && seq != 0 ? seq_slot(m, seq)->message : NULL;
}

static usec_t ttl_of(const OutboxModel *m, const ModelMessage *x) {
        return x->time_to_live_usec == USEC_INFINITY ? m->options.time_to_live_usec : x->time_to_live_usec;
}

static bool may_expire(const OutboxModel *m, const ModelMessage *x) {
        usec_t ttl = ttl_of(m, x);

        if (ttl == USEC_INFINITY)
                return false;
        if (x->boot == m->boot)
                return m->boottime_usec >= usec_add(x->appended_boottime_usec, ttl);
        return m->realtime_usec >= usec_add(x->appended_realtime_usec, ttl);
}

/* An end that was recorded and never told counts, also where the clock of a later boot would not give it. */
static void note_expiry(OutboxModel *m) {
        for (size_t i = 0; i < m->n_messages; i++)
                m->messages[i]->could_expire = m->messages[i]->could_expire || may_expire(m, m->messages[i]);
}

static bool must_expire(const OutboxModel *m, const ModelMessage *x) {
        usec_t ttl = ttl_of(m, x);

        return ttl != USEC_INFINITY && x->boot == m->boot && x->state == MODEL_DURABLE && x->durable_run > 0 &&
               m->boottime_usec > usec_add(x->durable_boottime_usec, ttl);
}

static bool is_queued(const ModelMessage *x) {
        return x->state == MODEL_DURABLE && x->end == OUTBOX_END_QUEUED;
}

static void message_durable(OutboxModel *m, ModelMessage *x, uint64_t seq) {
        if (seq != 0)
                seq_add(m, x, seq);
        x->state = MODEL_DURABLE;
        x->durable_run = m->n_runs;
        x->durable_boottime_usec = m->boottime_usec;
        x->durable_realtime_usec = m->realtime_usec;
}

/* Callbacks */

static void stream_durable(OutboxModel *m, ModelMessage *x) {
        ModelStream *s = x->stream;

        for (uint64_t p = s->n_durable; p <= x->position; p++) {
                ModelMessage *y = s->messages[p];

                /* A repeat of what a crash had kept: it was there all along. */
                if (y->state == MODEL_UNKNOWN)
                        message_durable(m, y, 0);
                if (y->state != MODEL_DURABLE)
                        outbox_model_fail(m, "%s is reported durable, but its stream lacks %s", name_of(x), name_of(y));
        }
        s->n_durable = MAX(s->n_durable, x->position + 1);
}

static void call_succeeded(Call *c, uint64_t first, uint64_t last, uint64_t n_duplicates) {
        OutboxModel *m = c->model;
        size_t n_stored = c->n_messages - (size_t) n_duplicates;

        if (n_duplicates > c->n_messages || (n_duplicates > 0 && !c->messages[0]->stream))
                outbox_model_fail(m, "%" PRIu64 " duplicates in a call of %zu messages", n_duplicates, c->n_messages);
        if (n_stored == 0 ? first != 0 || last != 0 : last - first + 1 != n_stored)
                outbox_model_fail(m, "%zu messages stored under %" PRIu64 " to %" PRIu64, n_stored, first, last);
        if (n_stored > 0 && first <= m->max_durable_seq)
                outbox_model_fail(m, "seq %" PRIu64 " was given out before, up to %" PRIu64, first, m->max_durable_seq);
        for (size_t i = 0; i < c->n_messages; i++) {
                ModelMessage *x = c->messages[i];

                if (i < n_duplicates) {
                        /* Stored by an earlier call: reported there, or found, or a crash hid the report. */
                        if (x->state != MODEL_DURABLE && x->state != MODEL_UNKNOWN)
                                outbox_model_fail(m, "%s is called a duplicate", name_of(x));
                        stream_durable(m, x);
                        continue;
                }
                if (x->state == MODEL_DURABLE)
                        outbox_model_fail(m, "%s is stored twice", name_of(x));
                if (x->state != MODEL_PENDING)
                        outbox_model_fail(m, "%s is reported durable but was not pending", name_of(x));
                message_durable(m, x, first + (i - n_duplicates));
                m->n_durable++;
                if (x->stream)
                        stream_durable(m, x);
        }
        m->max_durable_seq = MAX(m->max_durable_seq, last);
        m->n_durable_batches++;
}

static void on_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        Call *c = userdata;
        OutboxModel *m = c->model;

        if (c->n_reports++ > 0)
                outbox_model_fail(m, "on_durable was called twice for one call");
        if (error == 0)
                call_succeeded(c, first, last, n_duplicates);
        for (size_t i = 0; error != 0 && i < c->n_messages; i++) {
                ModelMessage *x = c->messages[i];

                if (x->handed_out && x->state == MODEL_PENDING)
                        outbox_model_fail(m, "%s was handed out and then failed with %d", name_of(x), error);
                if (x->state != MODEL_PENDING)
                        continue;
                if (x->stream)
                        x->stream->n_pending = MIN(x->stream->n_pending, x->position);
                x->state = sim_disk_is_crashed(m->disk) ? MODEL_UNKNOWN : MODEL_FAILED;
                x->failed_after = m->n_durable_batches;
        }
        if (error == -ENOSPC && m->boottime_usec < usec_add(m->calm_since_usec, ROOM_AGAIN_USEC))
                ; /* it was told that the disk is full, and does not ask at every message whether that is over */
        else if (error != 0 && error != -ECANCELED && !m->trouble && !sim_disk_is_crashed(m->disk))
                outbox_model_fail(m, "an append failed with %s and the disk works", strerror(-error));
        free(c->messages);
        free(c);
}

/* Which message an end belongs to that was never reported or handed out. */
static ModelMessage *identify(OutboxModel *m, const OutboxSettled *s) {
        ModelMessage *x = message_by_seq(m, s->seq);
        uint64_t serial;

        if (x && x->state != MODEL_GONE)
                return x;
        for (size_t i = 0; s->has_stream && i < m->n_streams; i++)
                if (memcmp(m->streams[i]->id.id, s->stream, 16) == 0 && s->position < m->streams[i]->n_messages)
                        return m->streams[i]->messages[s->position];
        if (s->message_id && sscanf(s->message_id, "given-%" SCNu64, &serial) == 1 && serial < m->n_messages)
                return m->messages[serial];
        return NULL;
}

static void check_settled(OutboxModel *m, ModelMessage *x, const OutboxSettled *s) {
        if (m->verifying && x->end == OUTBOX_END_CONFIRMED && !x->end_recorded) {
                /* It came back and met another end before anybody could see it. */
                m->n_came_back++;
                x->end = OUTBOX_END_QUEUED;
        }
        if (x->end != OUTBOX_END_QUEUED)
                outbox_model_fail(m, "%s ended twice, now as %s", name_of(x), outbox_end_to_string(s->end));
        if ((x->state == MODEL_FAILED && !m->verifying) || x->state == MODEL_GONE)
                outbox_model_fail(m, "%s ended as %s", name_of(x), outbox_end_to_string(s->end));
        if (s->lane != x->lane || s->has_stream != (x->stream != NULL) ||
            (x->stream && (memcmp(s->stream, x->stream->id.id, 16) != 0 || s->position != x->position)))
                outbox_model_fail(m, "the end of %s has another lane or stream position", name_of(x));
        if (!s->message_id || (x->message_id && !streq(s->message_id, x->message_id)))
                outbox_model_fail(m, "the end of %s says id %s", name_of(x), s->message_id ? s->message_id : "NULL");
        if (x->boot == m->boot && x->durable_run > 0 && x->handed_out &&
            (s->accepted_realtime_usec < MIN(x->appended_realtime_usec, x->durable_realtime_usec) ||
             s->accepted_realtime_usec > MAX(x->appended_realtime_usec, x->durable_realtime_usec)) &&
            !x->found_at_start)
                outbox_model_fail(m, "the end of %s has another time of acceptance", name_of(x));
        if (s->end == OUTBOX_END_CONFIRMED && !x->confirming)
                outbox_model_fail(m, "%s is confirmed, by nobody", name_of(x));
        if (s->end == OUTBOX_END_REJECTED && !x->rejecting)
                outbox_model_fail(m, "%s is rejected, by nobody", name_of(x));
        if (s->end == OUTBOX_END_EXPIRED && !may_expire(m, x) && !x->could_expire)
                outbox_model_fail(m, "%s expired early", name_of(x));
        if (s->end == OUTBOX_END_DROPPED && (m->options.full != OUTBOX_FULL_DROP_OLDEST || x->lane == OUTBOX_LANE_URGENT))
                outbox_model_fail(m, "%s was dropped", name_of(x));
        if (s->end == OUTBOX_END_DROPPED && x->in_flight)
                outbox_model_fail(m, "%s was dropped in flight", name_of(x));
}

static void on_settled(const OutboxSettled *s, void *userdata) {
        OutboxModel *m = userdata;
        ModelMessage *x = identify(m, s);

        if (s->end <= OUTBOX_END_QUEUED || s->end >= _OUTBOX_END_MAX)
                outbox_model_fail(m, "seq %" PRIu64 " ended as %d", s->seq, (int) s->end);
        m->n_settled[s->end]++;
        m->n_settled_total[s->end]++;
        if (!x) {
                /* Without id and stream it cannot be told which of those that the crash left open it was. */
                if (m->n_starts <= 1)
                        outbox_model_fail(m, "seq %" PRIu64 " ended and is no message of ours", s->seq);
                return;
        }
        check_settled(m, x, s);
        if (x->state != MODEL_DURABLE)
                message_durable(m, x, s->seq);
        x->end = s->end;
        x->in_flight = x->aside = x->confirming = x->rejecting = false;
        x->end_recorded = s->end != OUTBOX_END_CONFIRMED;
        x->told_boottime_usec = m->boottime_usec;
        x->told_run = m->n_runs;
        x->told_ordinal = m->n_confirmed += s->end == OUTBOX_END_CONFIRMED;
}

static void on_deliverable(void *userdata) {
        ((OutboxModel *) userdata)->deliverable = true;
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
        OutboxModel *m = userdata;

        m->n_notices++;
        if (message_id && streq(message_id, MSG_OUTBOX_DAMAGE)) {
                m->n_damage_notices++;
                snprintf(m->damage_notice, sizeof(m->damage_notice), "%s", text);
        }
        if (getenv("OUTBOX_MODEL_TRACE"))
                printf("# notice %d: %s\n", priority, text);
}

/* Life */

OutboxModel *outbox_model_new(SimDisk *disk, const OutboxOptions *options, uint64_t seed, const char *repeat) {
        OutboxModel *m = must(calloc(1, sizeof(OutboxModel)));

        m->disk = disk;
        m->options = *options;
        m->random.state = seed ^ UINT64_C(0x6d6f64656c);
        m->repeat = repeat;
        m->clock = (OutboxClock) { .boottime = clock_boottime, .realtime = clock_realtime, .userdata = m };
        m->options.threaded = false;
        m->options.io = sim_disk_io(disk);
        m->options.clock = &m->clock;
        m->boot = 1;
        m->boottime_usec = 10 * USEC_PER_SEC;
        m->realtime_usec = START_REALTIME;
        return m;
}

OutboxModel *outbox_model_free(OutboxModel *m) {
        if (!m)
                return NULL;
        for (size_t i = 0; i < m->n_messages; i++) {
                free(m->messages[i]->message_id);
                free(m->messages[i]->bag);
                free(m->messages[i]->body);
                free(m->messages[i]);
        }
        for (size_t i = 0; i < m->n_streams; i++) {
                free(m->streams[i]->messages);
                free(m->streams[i]);
        }
        free(m->messages);
        free(m->streams);
        free(m->by_seq);
        free(m);
        return NULL;
}

int outbox_model_open(OutboxModel *m) {
        OutboxEvents events = {
                .on_settled = on_settled, .on_deliverable = on_deliverable, .on_notice = on_notice, .userdata = m
        };
        int r;

        memset(m->clock.boot_id, (int) m->boot, sizeof(m->clock.boot_id));
        memset(m->n_settled, 0, sizeof(m->n_settled));
        m->n_durable = 0;
        m->n_starts++;
        m->deliverable = m->lookup_running = false;
        m->verifying = true;
        r = outbox_open("box", &m->options, &events, &m->outbox);
        if (r < 0 && sim_disk_is_crashed(m->disk))
                return -SIM_DISK_CRASHED;
        if (r < 0 && m->trouble && (!m->was_open || (r != -ENOSPC && r != -EROFS))) {
                if (sim_disk_n_open(m->disk) > 0)
                        outbox_model_fail(m, "a start that failed leaves %u descriptors open", sim_disk_n_open(m->disk));
                return r;
        }
        if (r < 0)
                outbox_model_fail(m, "open failed: %s", strerror(-r));
        m->was_open = true;
        r = outbox_set_identity(m->outbox, "hub.example", "device", /* adopt= */ false);
        if (sim_disk_is_crashed(m->disk))
                return -SIM_DISK_CRASHED;
        if (r < 0 && !m->trouble)
                outbox_model_fail(m, "the identity was refused: %s", strerror(-r));
        return 0;
}

static void after_end_of_process(OutboxModel *m) {
        for (size_t i = 0; i < m->n_messages; i++) {
                ModelMessage *x = m->messages[i];

                if (x->state == MODEL_PENDING)
                        outbox_model_fail(m, "no report about %s", name_of(x));
                x->in_flight = x->aside = x->out_of_order = x->handed_out = x->overtaken = false;
        }
        if (sim_disk_n_open(m->disk) > 0)
                outbox_model_fail(m, "%u descriptors stay open", sim_disk_n_open(m->disk));
}

void outbox_model_close(OutboxModel *m) {
        m->outbox = outbox_free(m->outbox);
        if (sim_disk_is_crashed(m->disk))
                return;
        after_end_of_process(m);
        for (size_t i = 0; i < m->n_messages && !m->trouble; i++)
                m->messages[i]->end_recorded = m->messages[i]->end != OUTBOX_END_QUEUED;
}

void outbox_model_crash(OutboxModel *m, ModelCrash how) {
        note_expiry(m);
        sim_disk_crash_now(m->disk);
        m->outbox = outbox_free(m->outbox);
        for (size_t i = 0; i < m->n_messages; i++) {
                /* The report was on its way to a process that is dead. */
                if (m->messages[i]->state == MODEL_PENDING)
                        m->messages[i]->state = MODEL_UNKNOWN;
        }
        after_end_of_process(m);
        if (how == MODEL_KILLED)
                sim_disk_kill(m->disk);
        else
                sim_disk_reboot(m->disk);
        if (how == MODEL_REBOOTED) {
                m->boot++;
                m->calm_since_usec = 0;
                m->boottime_usec = 5 * USEC_PER_SEC;
                m->realtime_usec += 30 * USEC_PER_SEC;
        }
}

/* Confirmations that are older than the options allow, or followed by more than they allow, have to be on the disk. */
static void mark_recorded(OutboxModel *m) {
        for (size_t i = 0; i < m->n_messages; i++) {
                ModelMessage *x = m->messages[i];

                if (x->end == OUTBOX_END_CONFIRMED && x->told_run < m->n_runs &&
                    (x->told_ordinal + m->options.position_messages <= m->n_confirmed ||
                     m->boottime_usec >= usec_add(x->told_boottime_usec, m->options.position_interval_usec)))
                        x->end_recorded = true;
        }
}

/* With a disk that works nothing is left open when nothing is due. */
static void check_rest(const OutboxModel *m) {
        for (size_t i = 0; i < m->n_messages; i++) {
                const ModelMessage *x = m->messages[i];

                if (x->state == MODEL_PENDING)
                        outbox_model_fail(m, "no report about %s", name_of(x));
                if (x->overtaken && is_queued(x))
                        outbox_model_fail(m, "%s was overtaken, and not because it ended", name_of(x));
                if (x->confirming || x->rejecting)
                        outbox_model_fail(m, "no end is told of %s, settled as %s", name_of(x),
                                          x->rejecting ? "rejected" : "confirmed");
        }
}

void outbox_model_run(OutboxModel *m) {
        unsigned turns = 0;

        if (!m->outbox)
                return;
        m->n_runs++;
        note_expiry(m);
        for (;;) {
                struct pollfd p = { .fd = outbox_fd(m->outbox), .events = POLLIN };
                int r;

                if (sim_disk_is_crashed(m->disk))
                        return;
                if (poll(&p, 1, 0) < 0)
                        outbox_model_fail(m, "poll: %s", strerror(errno));
                if (!(p.revents & POLLIN) && outbox_next_deadline(m->outbox) > m->boottime_usec)
                        break;
                r = outbox_process(m->outbox);
                if (r < 0)
                        outbox_model_fail(m, "outbox_process: %s", strerror(-r));
                if (++turns > TURNS_MAX)
                        outbox_model_fail(m, "outbox_process() does not come to rest");
        }
        if (!m->trouble && !m->verifying) { /* what the last process left open is still to be seen */
                check_rest(m);
                mark_recorded(m);
        }
        outbox_model_check_books(m);
}

static void check_lane(OutboxModel *m, const OutboxStats *s, OutboxLane lane, uint64_t n) {
        if (s->lanes[lane].n_queued != n)
                outbox_model_fail(m, "lane %s says %" PRIu64 " queued, %" PRIu64 " are", outbox_lane_to_string(lane),
                                  s->lanes[lane].n_queued, n);
}

void outbox_model_check_books(OutboxModel *m) {
        uint64_t per_lane[_OUTBOX_LANE_MAX] = {}, queued = 0, untold;
        OutboxStats s;

        if (!m->outbox || sim_disk_is_crashed(m->disk))
                return;
        outbox_get_stats(m->outbox, &s);
        if (s.accepted != s.confirmed + s.expired + s.dropped + s.rejected + s.queued)
                outbox_model_fail(m, "the books: %" PRIu64 " accepted, %" PRIu64 " confirmed, %" PRIu64 " expired, %" PRIu64
                                  " dropped, %" PRIu64 " rejected, %" PRIu64 " queued", s.accepted, s.confirmed, s.expired,
                                  s.dropped, s.rejected, s.queued);
        if (!m->bounds_checked_by_caller && m->options.max_size > 0 && sim_disk_used(m->disk) > m->options.max_size)
                outbox_model_fail(m, "the files take %" PRIu64 " bytes, allowed are %" PRIu64, sim_disk_used(m->disk),
                                  m->options.max_size);
        if (m->verifying)
                return;
        for (size_t i = 0; i < m->n_messages; i++)
                if (is_queued(m->messages[i])) {
                        per_lane[m->messages[i]->lane]++;
                        queued++;
                }
        /* What was dropped is read again to be told; a disk that fails delays that. */
        untold = s.dropped - m->books.dropped - m->n_settled[OUTBOX_END_DROPPED];
        if (untold > queued || (untold > 0 && !m->trouble))
                outbox_model_fail(m, "%" PRIu64 " are dropped and not told", untold);
        if (s.queued != queued - untold)
                outbox_model_fail(m, "%" PRIu64 " queued, says the outbox; %" PRIu64 " are", s.queued, queued - untold);
        for (OutboxLane lane = 0; lane < _OUTBOX_LANE_MAX && untold == 0; lane++)
                check_lane(m, &s, lane, per_lane[lane]);
        if (s.accepted != m->books.accepted + m->n_durable)
                outbox_model_fail(m, "%" PRIu64 " accepted, after %" PRIu64 " at the start and %" PRIu64 " since", s.accepted,
                                  m->books.accepted, m->n_durable);
        if (s.confirmed != m->books.confirmed + m->n_settled[OUTBOX_END_CONFIRMED] ||
            s.expired != m->books.expired + m->n_settled[OUTBOX_END_EXPIRED] ||
            s.rejected != m->books.rejected + m->n_settled[OUTBOX_END_REJECTED])
                outbox_model_fail(m, "the counters are not what was told since the start");
        if (s.in_flight != outbox_model_n_in_flight(m))
                outbox_model_fail(m, "%" PRIu64 " in flight, says the outbox; %zu are", s.in_flight,
                                  outbox_model_n_in_flight(m));
        if (s.durable_seq < m->max_durable_seq)
                outbox_model_fail(m, "durable up to %" PRIu64 ", says the outbox; %" PRIu64 " was reported", s.durable_seq,
                                  m->max_durable_seq);
}

/* Appending */

ModelMessage *outbox_model_message_new(OutboxModel *m, OutboxLane lane, size_t body_size, usec_t time_to_live_usec) {
        ModelMessage *x = must(calloc(1, sizeof(ModelMessage)));
        bool empty = body_size == 0;

        *x = (ModelMessage) { .serial = m->n_messages, .lane = lane, .time_to_live_usec = time_to_live_usec };
        if (body_size == SIZE_MAX) {
                empty = random_one_in(&m->random, 40);
                body_size = empty                             ? 0
                            : random_one_in(&m->random, 30) ? random_below(&m->random, 20000)
                                                              : random_below(&m->random, 300);
        }
        x->body_size = empty ? 0 : MAX(body_size, sizeof(uint64_t));
        x->body = must(malloc(x->body_size + 1));
        if (!empty && random_one_in(&m->random, 8) && sim_disk_n_files(m->disk) > 0) {
                /* A payload that is a piece of the outbox's own files: no reader may take it for records. */
                const char *name = sim_disk_file_name(m->disk, random_below(&m->random, sim_disk_n_files(m->disk)));
                uint64_t at = random_below(&m->random, MIN(sim_disk_file_size(m->disk, name), UINT64_C(16384)) + 1);

                sim_disk_file_read(m->disk, name, at, x->body, x->body_size);
        } else
                for (size_t i = 0; i < x->body_size; i++)
                        x->body[i] = (uint8_t) random_u64(&m->random);
        if (!empty)
                memcpy(x->body, &x->serial, sizeof(uint64_t));
        if (empty || random_one_in(&m->random, 2))
                if (asprintf(&x->message_id, "given-%" PRIu64, x->serial) < 0)
                        abort();
        if (random_one_in(&m->random, 2) && asprintf(&x->bag, "n=%" PRIu64 "&unit=m%%2Fs", x->serial) < 0)
                abort();
        m->messages = must(reallocarray(m->messages, m->n_messages + 1, sizeof(ModelMessage *)));
        m->messages[m->n_messages++] = x;
        x->state = MODEL_GONE; /* until it is appended */
        return x;
}

static void message_appended(OutboxModel *m, ModelMessage *x) {
        if (x->state == MODEL_DURABLE || x->state == MODEL_UNKNOWN || x->state == MODEL_PENDING)
                return; /* a repeat */
        x->state = MODEL_PENDING;
        x->could_expire = false;
        x->seq = 0;
        x->boot = m->boot;
        x->appended_boottime_usec = m->boottime_usec;
        x->appended_realtime_usec = m->realtime_usec;
}

static int append_common(OutboxModel *m, ModelMessage *const *messages, size_t n, const OutboxStream *stream, uint32_t uid,
                         uint64_t *reterr_next) {
        OutboxMessage *in = must(calloc(n, sizeof(OutboxMessage)));
        Call *c = must(calloc(1, sizeof(Call)));
        int r;

        *c = (Call) { .model = m, .n_messages = n, .messages = must(calloc(n, sizeof(ModelMessage *))) };
        for (size_t i = 0; i < n; i++) {
                const ModelMessage *x = messages[i];

                c->messages[i] = messages[i];
                in[i] = (OutboxMessage) { .lane = x->lane, .message_id = x->message_id, .bag = x->bag,
                                          .bag_size = x->bag ? strlen(x->bag) : 0, .body = x->body,
                                          .body_size = x->body_size, .time_to_live_usec = x->time_to_live_usec };
        }
        r = outbox_append(m->outbox, in, n, stream, uid, on_durable, c, reterr_next);
        for (size_t i = 0; r == 0 && i < n; i++)
                message_appended(m, messages[i]);
        if (r != 0) {
                free(c->messages);
                free(c);
        }
        free(in);
        return r;
}

/* Which refusals can be right at all. */
static void check_refusal(OutboxModel *m, int r, size_t body_size_max) {
        OutboxStats s;

        if (sim_disk_is_crashed(m->disk) || r == -ENOBUFS)
                return;
        if (r == -EMSGSIZE && body_size_max > 256 * 1024)
                return; /* larger than what the hub takes */
        outbox_get_stats(m->outbox, &s);
        if (r == -ENOSPC ? !s.is_full && s.disk_error == 0 && !m->trouble : !m->trouble)
                outbox_model_fail(m, "an append was refused: %s", strerror(-r));
}

int outbox_model_append(OutboxModel *m, ModelMessage *const *messages, size_t n) {
        size_t body_size_max = 0;
        uint64_t next = 0;
        int r;

        for (size_t i = 0; i < n; i++)
                body_size_max = MAX(body_size_max, messages[i]->body_size);
        r = append_common(m, messages, n, NULL, 1000, &next);
        if (r < 0)
                check_refusal(m, r, body_size_max);
        else if (r > 0)
                outbox_model_fail(m, "outbox_append: %d", r);
        return r;
}

ModelStream *outbox_model_stream_new(OutboxModel *m, OutboxLane lane) {
        ModelStream *s = must(calloc(1, sizeof(ModelStream)));

        s->lane = lane;
        s->uid = 1000 + (uint32_t) random_below(&m->random, 3);
        for (size_t i = 0; i < sizeof(s->id.id); i++)
                s->id.id[i] = (uint8_t) random_u64(&m->random);
        m->streams = must(reallocarray(m->streams, m->n_streams + 1, sizeof(ModelStream *)));
        m->streams[m->n_streams++] = s;
        return s;
}

/* Positions that the outbox has, durable or pending. */
static bool stream_has_up_to(const ModelStream *s, uint64_t position) {
        for (uint64_t p = s->n_durable; p < position; p++)
                if (p >= s->n_messages || (s->messages[p]->state != MODEL_PENDING && s->messages[p]->state != MODEL_DURABLE &&
                                           s->messages[p]->state != MODEL_UNKNOWN))
                        return false;
        return true;
}

int outbox_model_append_stream(OutboxModel *m, ModelStream *s, uint64_t position, size_t n) {
        ModelMessage **all = must(calloc(n, sizeof(ModelMessage *)));
        OutboxStream stream = s->id;
        uint64_t next = UINT64_MAX;
        bool gap = !stream_has_up_to(s, position);
        int r;

        stream.position = position;
        while (s->n_messages < position + n) {
                ModelMessage *x = outbox_model_message_new(m, s->lane, SIZE_MAX, USEC_INFINITY);

                x->stream = s;
                x->position = s->n_messages;
                s->messages = must(reallocarray(s->messages, s->n_messages + 1, sizeof(ModelMessage *)));
                s->messages[s->n_messages++] = x;
        }
        memcpy(all, s->messages + position, n * sizeof(ModelMessage *));
        r = append_common(m, all, n, &stream, s->uid, &next);
        free(all);
        if (r == -ESTALE) {
                if (next >= position || next < s->n_durable)
                        outbox_model_fail(m, "a gap at %" PRIu64 " is told with next %" PRIu64 ", %" PRIu64 " are durable",
                                          position, next, s->n_durable);
                if (!gap && !sim_disk_is_crashed(m->disk) && !m->trouble)
                        outbox_model_fail(m, "no gap at %" PRIu64 ", yet the outbox says next is %" PRIu64, position, next);
        } else if (r < 0)
                check_refusal(m, r, 0);
        else if (gap)
                outbox_model_fail(m, "a gap in a stream was accepted");
        else
                s->n_pending = MAX(s->n_pending, position + n);
        return r;
}

void outbox_model_append_foreign(OutboxModel *m, ModelStream *s) {
        OutboxStream stream = s->id;
        ModelMessage *x;
        uint64_t next;
        int r;

        if (s->n_durable == 0)
                return; /* a stream belongs to whom it is heard from first */
        x = outbox_model_message_new(m, s->lane, 20, USEC_INFINITY);
        stream.position = s->n_durable;
        r = append_common(m, &x, 1, &stream, s->uid + 77, &next);
        if (r == 0 || (r != -EPERM && !sim_disk_is_crashed(m->disk) && !m->trouble))
                outbox_model_fail(m, "another user's append to a stream: %d", r);
}

uint64_t outbox_model_stream_next(OutboxModel *m, ModelStream *s) {
        uint64_t next = 0;
        int r;

        r = outbox_stream_next(m->outbox, s->id.id, s->uid, &next);
        if (r < 0)
                outbox_model_fail(m, "outbox_stream_next: %s", strerror(-r));
        if (next < s->n_durable)
                outbox_model_fail(m, "a stream goes on at %" PRIu64 ", %" PRIu64 " were reported durable", next, s->n_durable);
        if (next > s->n_messages)
                outbox_model_fail(m, "a stream goes on at %" PRIu64 ", only %zu were ever sent", next, s->n_messages);
        return next;
}

/* Delivering */

static ModelMessage *message_of_delivery(const OutboxModel *m, const OutboxDelivery *d) {
        uint64_t serial = UINT64_MAX;

        if (d->body_size >= sizeof(serial))
                memcpy(&serial, d->body, sizeof(serial));
        else if (!d->message_id || sscanf(d->message_id, "given-%" SCNu64, &serial) != 1)
                serial = UINT64_MAX;
        if (serial >= m->n_messages)
                outbox_model_fail(m, "seq %" PRIu64 " holds what nobody appended", d->seq);
        return m->messages[serial];
}

static bool is_made_id(const char *id, uint64_t seq) {
        char tail[32];
        size_t n = strlen(id);

        snprintf(tail, sizeof(tail), "-%" PRIu64, seq);
        return n <= OUTBOX_MADE_ID_MAX && n == 16 + strlen(tail) && strspn(id, "0123456789abcdef") == 16 &&
               streq(id + 16, tail);
}

static void check_content(const OutboxModel *m, const ModelMessage *x, const OutboxDelivery *d) {
        if (d->lane != x->lane || d->body_size != x->body_size || memcmp(d->body, x->body, x->body_size) != 0)
                outbox_model_fail(m, "%s came back with other bytes or in another lane", name_of(x));
        if (d->bag_size != (x->bag ? strlen(x->bag) : 0) || (x->bag && !streq(d->bag, x->bag)))
                outbox_model_fail(m, "%s came back with another bag", name_of(x));
        if (!d->message_id || (x->message_id ? !streq(d->message_id, x->message_id) : !is_made_id(d->message_id, d->seq)))
                outbox_model_fail(m, "%s came back with the id %s", name_of(x), d->message_id ? d->message_id : "NULL");
        if (x->seq != 0 && d->seq != x->seq)
                outbox_model_fail(m, "%s came back as seq %" PRIu64, name_of(x), d->seq);
        if (d->sent_before != x->handed_out)
                outbox_model_fail(m, "%s: sent_before is %d", name_of(x), d->sent_before);
}

/* Whether a message may appear that was not reported durable, or that had ended. */
static void check_may_appear(OutboxModel *m, ModelMessage *x) {
        switch (x->state) {
        case MODEL_DURABLE:
        case MODEL_PENDING: break;
        case MODEL_UNKNOWN:
                if (!m->verifying)
                        outbox_model_fail(m, "%s appears late", name_of(x));
                break;
        case MODEL_FAILED:
                /* The process died before it could write anything that takes the failed batch back. */
                if (!m->verifying || x->failed_after != m->n_durable_batches)
                        outbox_model_fail(m, "%s was reported failed and is there", name_of(x));
                break;
        case MODEL_GONE: outbox_model_fail(m, "%s was gone and is back", name_of(x));
        }
        if (x->end == OUTBOX_END_QUEUED)
                return;
        if (!m->verifying || x->end_recorded)
                outbox_model_fail(m, "%s has ended and is back", name_of(x));
        /* Confirmed, not recorded in time: it is queued again, and the books must say so. */
        m->n_came_back++;
        x->end = OUTBOX_END_QUEUED;
}

static bool may_be_dropped(const OutboxModel *m, const ModelMessage *x) {
        return m->options.full == OUTBOX_FULL_DROP_OLDEST && x->lane != OUTBOX_LANE_URGENT;
}

/* P3 is about messages that have not ended. Expired and dropped are decided first, which lets those behind go, then
 * recorded and only then told (P2). So whoever may have got such an end may be overtaken, also when a clock that has
 * stepped back since would not give it any more; but then it has that end, and is never handed out again. */
static bool may_be_ending(const OutboxModel *m, const ModelMessage *x) {
        return may_expire(m, x) || x->could_expire || may_be_dropped(m, x);
}

static void check_order(OutboxModel *m, ModelMessage *x) {
        if (x->overtaken)
                outbox_model_fail(m, "%s was overtaken, and not because it ended", name_of(x));
        if (x->out_of_order)
                return;
        for (size_t i = 0; i < m->n_messages; i++) {
                ModelMessage *y = m->messages[i];

                if (y->lane != x->lane || !is_queued(y) || y->seq == 0 || y->seq >= x->seq || y->in_flight || y->aside ||
                    y->out_of_order || y->rejecting || y->confirming)
                        continue;
                if (!may_be_ending(m, y))
                        outbox_model_fail(m, "%s was handed out before %s", name_of(x), name_of(y));
                y->overtaken = true; /* it will say so */
        }
}

int outbox_model_next(OutboxModel *m, ModelMessage **ret) {
        _cleanup_(outbox_delivery_freep) OutboxDelivery *d = NULL;
        ModelMessage *x;
        int r;

        r = outbox_next(m->outbox, &d);
        if (r < 0) {
                if (r != -EAGAIN && !sim_disk_is_crashed(m->disk) && !m->trouble)
                        outbox_model_fail(m, "outbox_next: %s", strerror(-r));
                return -EAGAIN;
        }
        x = message_of_delivery(m, d);
        check_content(m, x, d);
        if (x->in_flight)
                outbox_model_fail(m, "%s is handed out twice", name_of(x));
        if (x->aside)
                outbox_model_fail(m, "%s is set aside and handed out", name_of(x));
        if (must_expire(m, x))
                outbox_model_fail(m, "%s has expired and is handed out", name_of(x));
        check_may_appear(m, x);
        if (x->seq == 0 || x->state != MODEL_DURABLE)
                seq_add(m, x, d->seq);
        if (m->verifying) {
                if (x->state != MODEL_DURABLE)
                        message_durable(m, x, d->seq);
                x->found_at_start = m->n_starts;
                m->max_durable_seq = MAX(m->max_durable_seq, d->seq);
        }
        check_order(m, x);
        x->in_flight = x->handed_out = true;
        if (ret)
                *ret = x;
        return 0;
}

size_t outbox_model_next_all(OutboxModel *m) {
        size_t n = 0;

        for (;;) {
                if (outbox_model_next(m, NULL) == 0) {
                        n++;
                        continue;
                }
                m->deliverable = false;
                outbox_model_run(m);
                if (!m->deliverable || sim_disk_is_crashed(m->disk))
                        break;
        }
        if (m->verifying || sim_disk_is_crashed(m->disk) || m->trouble)
                return n;
        for (size_t i = 0; i < m->n_messages; i++) {
                const ModelMessage *x = m->messages[i];

                if (is_queued(x) && !x->in_flight && !x->aside && !x->rejecting && !x->confirming && !may_expire(m, x))
                        outbox_model_fail(m, "%s is kept back", name_of(x));
        }
        return n;
}

void outbox_model_settle(OutboxModel *m, ModelMessage *x, OutboxEnd end) {
        bool again = !x->in_flight || x->confirming || x->rejecting;
        int r;

        /* Before the call: the end may be told inside it. */
        if (!again) {
                x->confirming = end == OUTBOX_END_CONFIRMED;
                x->rejecting = end == OUTBOX_END_REJECTED;
                x->in_flight = false;
        }
        r = outbox_settle(m->outbox, x->seq, end, end == OUTBOX_END_REJECTED ? "the hub says no" : NULL);
        if (sim_disk_is_crashed(m->disk))
                return;
        if (again && r != -ENOENT)
                outbox_model_fail(m, "settling %s a second time: %d", name_of(x), r);
        if (!again && r < 0)
                outbox_model_fail(m, "settling %s: %s", name_of(x), strerror(-r));
}

void outbox_model_requeue(OutboxModel *m) {
        outbox_requeue(m->outbox);
        for (size_t i = 0; i < m->n_messages; i++)
                m->messages[i]->in_flight = false;
}

void outbox_model_note_cut(OutboxModel *m, ModelMessage *x) {
        unsigned n = outbox_note_cut(m->outbox, x->seq);

        x->n_cuts++;
        if (n == 0)
                outbox_model_fail(m, "a cut of %s was not counted", name_of(x));
}

void outbox_model_set_aside(OutboxModel *m, ModelMessage *x, bool aside) {
        int r;

        r = aside ? outbox_set_aside(m->outbox, x->seq) : outbox_unset_aside(m->outbox, x->seq);
        if (r < 0 && r != -ENOENT)
                outbox_model_fail(m, "setting %s aside: %s", name_of(x), strerror(-r));
        if (r < 0)
                return;
        if (!is_queued(x))
                outbox_model_fail(m, "%s has ended and can be set aside", name_of(x));
        x->aside = aside;
        x->in_flight = false;
        x->out_of_order = true;
}

typedef struct Lookup {
        OutboxModel *model;
        ModelMessage *message;
} Lookup;

static void on_lookup(int error, const OutboxSettled *s, void *userdata) {
        Lookup *l = userdata;
        OutboxModel *m = l->model;
        ModelMessage *x = l->message;

        m->lookup_running = false;
        free(l);
        if (sim_disk_is_crashed(m->disk) || m->trouble || error == -ECANCELED)
                return;
        if (!s) {
                if (is_queued(x) && x->seq != 0 && !x->confirming)
                        outbox_model_fail(m, "%s is queued and was not found: %s", name_of(x), strerror(-error));
                return;
        }
        if (s->seq != x->seq || s->lane != x->lane)
                outbox_model_fail(m, "a look-up of %s found seq %" PRIu64, name_of(x), s->seq);
        if (s->end != x->end && !x->confirming && !x->rejecting && !x->end_unsure)
                outbox_model_fail(m, "a look-up of %s says %s", name_of(x), outbox_end_to_string(s->end));
}

void outbox_model_lookup(OutboxModel *m, ModelMessage *x, bool by_id) {
        Lookup *l = must(calloc(1, sizeof(Lookup)));
        int r;

        *l = (Lookup) { m, x };
        r = outbox_lookup(m->outbox, x->seq, by_id ? x->message_id : NULL, on_lookup, l);
        if (r < 0) {
                free(l);
                if (r != -EBUSY || !m->lookup_running)
                        outbox_model_fail(m, "outbox_lookup: %s", strerror(-r));
                return;
        }
        m->lookup_running = true;
}

static void on_checkpoint(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        OutboxModel *m = userdata;

        if (error == 0 || error == -ECANCELED)
                return;
        if (!m->trouble && !sim_disk_is_crashed(m->disk))
                outbox_model_fail(m, "a checkpoint failed: %s", strerror(-error));
}

void outbox_model_checkpoint(OutboxModel *m) {
        (void) outbox_checkpoint(m->outbox, on_checkpoint, m);
}

void outbox_model_advance(OutboxModel *m, usec_t usec) {
        m->boottime_usec += usec;
        m->realtime_usec += usec;
}

void outbox_model_step_realtime(OutboxModel *m, int64_t usec) {
        note_expiry(m); /* what was decided by the clock before stays decided */
        m->realtime_usec = (usec_t) ((int64_t) m->realtime_usec + usec);
}

/* A rejection that the disk failed is tried again, if not at once then soon. */
static void wait_for_rejections(OutboxModel *m) {
        usec_t until = usec_add(m->boottime_usec, REJECT_AGAIN_USEC);

        for (size_t i = 0; i < m->n_messages && !sim_disk_is_crashed(m->disk); i++)
                while (m->messages[i]->rejecting && !sim_disk_is_crashed(m->disk)) {
                        if (m->boottime_usec >= until)
                                outbox_model_fail(m, "the disk works again, and no end is told of %s",
                                                  name_of(m->messages[i]));
                        outbox_model_advance(m, USEC_PER_SEC);
                        outbox_model_run(m);
                }
}

void outbox_model_recover(OutboxModel *m) {
        for (unsigned turn = 0; turn < 400; turn++) {
                ModelMessage *x;
                usec_t deadline;
                OutboxStats s;
                int r;

                outbox_model_run(m);
                if (sim_disk_is_crashed(m->disk))
                        return;
                x = outbox_model_message_new(m, OUTBOX_LANE_URGENT, 20, USEC_INFINITY);
                r = outbox_model_append(m, &x, 1);
                outbox_model_run(m);
                outbox_get_stats(m->outbox, &s);
                if (sim_disk_is_crashed(m->disk))
                        return;
                if (x->state == MODEL_DURABLE || (r == -ENOSPC && s.is_full && s.disk_error == 0))
                        break;
                if (turn == 399)
                        outbox_model_fail(m, "the disk works again and the outbox does not (disk_error %d)", s.disk_error);
                deadline = outbox_next_deadline(m->outbox);
                outbox_model_advance(m, deadline == USEC_INFINITY || deadline <= m->boottime_usec
                                                ? USEC_PER_SEC
                                                : MIN(deadline - m->boottime_usec, 10 * USEC_PER_SEC));
        }
        wait_for_rejections(m);
        m->trouble = false;
        m->calm_since_usec = m->boottime_usec;
}

/* After a start */

static bool may_have_ended_untold(const OutboxModel *m, const ModelMessage *x) {
        return x->rejecting || x->confirming || x->could_expire ||
               may_be_dropped(m, x);
}

/* A durable message that was not handed out: only an end that nobody could be told excuses it. */
static void message_missing(OutboxModel *m, ModelMessage *x, bool clean) {
        if (x->could_expire) {
                x->end = OUTBOX_END_EXPIRED;
                x->end_recorded = true;
                return;
        }
        if (!may_have_ended_untold(m, x) || (clean && !x->rejecting && !x->confirming && !may_be_dropped(m, x)))
                outbox_model_fail(m, "%s was reported durable and is lost", name_of(x));
        x->end = x->rejecting ? OUTBOX_END_REJECTED : x->confirming ? OUTBOX_END_CONFIRMED : OUTBOX_END_DROPPED;
        x->end_recorded = true;
}

static void verify_stream(OutboxModel *m, ModelStream *s) {
        uint64_t next = outbox_model_stream_next(m, s);

        for (uint64_t p = 0; p < next; p++) {
                ModelMessage *x = s->messages[p];

                if (x->state == MODEL_DURABLE || (x->state == MODEL_UNKNOWN && may_have_ended_untold(m, x)))
                        continue;
                outbox_model_fail(m, "a stream goes on at %" PRIu64 ", but %s is not stored", next, name_of(x));
        }
        if (next < s->n_messages && s->messages[next]->state == MODEL_DURABLE)
                outbox_model_fail(m, "a stream goes on at %" PRIu64 ", but %s is stored", next, name_of(s->messages[next]));
        s->n_durable = s->n_pending = next;
}

/* Told as confirmed and not recorded in time, it was queued again after a crash (P2 allows that), and the next process
 * may have recorded that it expired, and died before it told: the books then have it there. */
static bool may_have_expired_since(const OutboxModel *m, const ModelMessage *x) {
        return x->state == MODEL_DURABLE && x->end == OUTBOX_END_CONFIRMED && x->found_at_start != m->n_starts &&
               !x->end_recorded && x->could_expire;
}

/* The books have n fewer confirmed than were told. Which of those that may have expired since, nobody can tell. */
static void confirmed_expired(OutboxModel *m, uint64_t n) {
        for (size_t i = 0; i < m->n_messages && n > 0; i++)
                if (m->messages[i]->end_unsure && m->messages[i]->end == OUTBOX_END_CONFIRMED) {
                        m->messages[i]->end = OUTBOX_END_EXPIRED;
                        n--;
                }
}

static void verify_books(OutboxModel *m, uint64_t n_open, uint64_t n_unsure) {
        uint64_t n[_OUTBOX_END_MAX] = {}, n_durable = 0;
        OutboxStats s;

        outbox_get_stats(m->outbox, &s);
        for (size_t i = 0; i < m->n_messages; i++)
                if (m->messages[i]->state == MODEL_DURABLE) {
                        n_durable++;
                        n[m->messages[i]->end]++;
                }
        if (s.queued != n[OUTBOX_END_QUEUED])
                outbox_model_fail(m, "after the start %" PRIu64 " are queued, says the outbox; found were %" PRIu64, s.queued,
                                  n[OUTBOX_END_QUEUED]);
        n_durable += m->n_unseen;
        if (s.accepted < n_durable || s.accepted > n_durable + n_open)
                outbox_model_fail(m, "after the start %" PRIu64 " are accepted, says the outbox; %" PRIu64
                                  " were, and of %" PRIu64 " it is not known", s.accepted, n_durable, n_open);
        m->n_unseen += s.accepted - n_durable;
        if (s.confirmed > n[OUTBOX_END_CONFIRMED] || s.confirmed + n_unsure < n[OUTBOX_END_CONFIRMED])
                outbox_model_fail(m, "after the start %" PRIu64 " are confirmed, says the outbox; %" PRIu64
                                  " were, and %" PRIu64 " of them may have expired since",
                                  s.confirmed, n[OUTBOX_END_CONFIRMED], n_unsure);
        confirmed_expired(m, n[OUTBOX_END_CONFIRMED] - s.confirmed);
        if (s.n_lost_records > 0)
                outbox_model_fail(m, "%" PRIu64 " records are called damaged, on a disk without damage", s.n_lost_records);
}

static void requeue_all(OutboxModel *m) {
        outbox_model_requeue(m);
        m->verifying = false;
        outbox_get_stats(m->outbox, &m->books);
        memset(m->n_settled, 0, sizeof(m->n_settled));
        m->n_durable = 0;
}

/* Waits for reads that failed and are tried again. */
static void wait_for_disk(OutboxModel *m) {
        OutboxStats s;

        for (unsigned i = 0; i < 50 && !sim_disk_is_crashed(m->disk); i++) {
                usec_t deadline = outbox_next_deadline(m->outbox);

                outbox_get_stats(m->outbox, &s);
                if (s.queued == s.in_flight || deadline == USEC_INFINITY)
                        break;
                outbox_model_advance(m, usec_sub(deadline, m->boottime_usec));
                outbox_model_run(m);
                outbox_model_next_all(m);
        }
}

void outbox_model_verify_start(OutboxModel *m, bool clean) {
        uint64_t n_open = 0, n_unsure = 0;

        outbox_model_run(m);
        outbox_model_next_all(m);
        if (m->trouble)
                wait_for_disk(m);
        outbox_model_run(m);
        if (sim_disk_is_crashed(m->disk))
                return;
        for (size_t i = 0; i < m->n_streams; i++)
                verify_stream(m, m->streams[i]);
        for (size_t i = 0; i < m->n_messages; i++) {
                ModelMessage *x = m->messages[i];

                if (is_queued(x) && x->found_at_start != m->n_starts)
                        message_missing(m, x, clean);
                if (may_have_expired_since(m, x)) {
                        x->end_unsure = true;
                        n_unsure++;
                }
                x->confirming = x->rejecting = false;
                x->end_recorded = x->end != OUTBOX_END_QUEUED; /* what has not come back by now may not do so later */
                if (x->state != MODEL_UNKNOWN && x->state != MODEL_FAILED)
                        continue;
                n_open += may_have_ended_untold(m, x);
                x->state = MODEL_GONE;
        }
        verify_books(m, n_open, n_unsure);
        requeue_all(m);
}

size_t outbox_model_n_in_flight(const OutboxModel *m) {
        size_t n = 0;

        for (size_t i = 0; i < m->n_messages; i++)
                n += m->messages[i]->in_flight;
        return n;
}

size_t outbox_model_n_queued(const OutboxModel *m) {
        size_t n = 0;

        for (size_t i = 0; i < m->n_messages; i++)
                n += is_queued(m->messages[i]);
        return n;
}

ModelMessage *outbox_model_in_flight(OutboxModel *m, size_t i) {
        for (size_t k = 0; k < m->n_messages; k++)
                if (m->messages[k]->in_flight && i-- == 0)
                        return m->messages[k];
        return NULL;
}
