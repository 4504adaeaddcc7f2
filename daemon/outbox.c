/* The outbox as its users see it: opening, turns, figures. How it works: outbox-append.c and outbox-admit.c (into the open
 * batch), outbox-plan.c and outbox-commit.c (to the disk), outbox-lane.c and outbox-delivery.c (through the queue),
 * outbox-end.c, outbox-reject.c and outbox-drop.c (how messages end), outbox-recovery.c (start-up); docs/outbox-format.md. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/random.h>

#include "daemon/log.h"
#include "daemon/outbox-dead-letter.h"
#include "daemon/outbox-receipts.h"

#define MAX_SIZE_DEFAULT (UINT64_C(1) << 30)
#define MAX_SIZE_MIN (UINT64_C(1) << 20)
#define FS_CHECK_USEC USEC_PER_SEC
#define RECEIPTS_JOBS_MAX 4U
#define ROUNDS_MAX 64           /* turns of outbox_process() before the loop gets its chance */

static const char *const lane_names[] = { "urgent", "normal", "bulk" };
static const char *const end_names[] = { "queued", "confirmed", "expired", "dropped", "rejected" };

const char *outbox_lane_to_string(OutboxLane lane) {
        return lane >= 0 && lane < _OUTBOX_LANE_MAX ? lane_names[lane] : NULL;
}

OutboxLane outbox_lane_from_string(const char *s) {
        for (unsigned i = 0; s && i < ELEMENTSOF(lane_names); i++)
                if (streq(s, lane_names[i]))
                        return (OutboxLane) i;
        return _OUTBOX_LANE_INVALID;
}

const char *outbox_end_to_string(OutboxEnd end) {
        return end >= 0 && end < _OUTBOX_END_MAX ? end_names[end] : NULL;
}

/* --- small things that the other files use --- */

static usec_t real_boottime(void *userdata) {
        return now_usec(CLOCK_BOOTTIME);
}

static usec_t real_realtime(void *userdata) {
        return now_usec(CLOCK_REALTIME);
}

usec_t outbox_now_boottime(Outbox *o) {
        return o->clock.boottime(o->clock.userdata);
}

usec_t outbox_now_realtime(Outbox *o) {
        return o->clock.realtime(o->clock.userdata);
}

bool outbox_realtime_plausible(Outbox *o, usec_t realtime_usec) {
        return realtime_usec >= TIME_OF_RELEASE_USEC && realtime_usec >= o->newest_realtime_usec;
}

void outbox_notice(Outbox *o, int priority, const char *message_id, const char *format, ...) {
        OutboxNotice *n;
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap); /* cut where it is too long */
        va_end(ap);
        if (!o->events.on_notice || o->n_notices >= OUTBOX_NOTICES_MAX)
                return;
        n = malloc(sizeof(*n) + strlen(text) + 1);
        if (!n)
                return; /* the state that it tells of is in the figures, too */
        *n = (OutboxNotice) { .priority = priority, .message_id = message_id };
        memcpy(n->text, text, strlen(text) + 1);
        *o->notices_end = n;
        o->notices_end = &n->next;
        o->n_notices++;
        outbox_wake(o);
}

static void tell_notices(Outbox *o) {
        while (o->notices) {
                OutboxNotice *n = o->notices;

                o->notices = n->next;
                if (!o->notices)
                        o->notices_end = &o->notices;
                o->n_notices--;
                o->events.on_notice(n->priority, n->message_id, n->text, o->events.userdata);
                free(n);
        }
}

void outbox_wake(Outbox *o) {
        uint64_t one = 1;

        if (o->in_process)
                o->wake_again = true;
        else
                (void) !write(o->event_fd, &one, sizeof(one)); /* fails only when the counter is full: then it is readable */
}

void outbox_dirty(Outbox *o) {
        if (o->dirty_since == USEC_INFINITY) {
                o->dirty_since = outbox_now_boottime(o);
                outbox_wake(o); /* the caller's timer is to be set */
        } else if (!o->running && o->n_unrecorded >= MAX(o->options.position_messages / 2, 1U))
                outbox_wake(o);
}

void outbox_check_fs(Outbox *o, bool now) {
        usec_t t = outbox_now_boottime(o);

        if (!now && o->fs_checked_at != USEC_INFINITY && t < usec_add(o->fs_checked_at, FS_CHECK_USEC))
                return;
        (void) o->io->statfs(o->io, o->dir_fd, &o->fs_size, &o->fs_free); /* on failure the last answer holds */
        o->fs_checked_at = t;
        outbox_remove_again(o);
}

uint64_t outbox_used_bytes(Outbox *o) {
        uint64_t n = (uint64_t) o->n_positions * OUTBOX_POSITION_SEGMENT_SIZE + o->segment_bytes +
                     outbox_evidence_bytes(o) + o->unremoved_bytes;

        if (o->receipts)
                n += outbox_receipts_bytes(o->receipts);
        return n + o->dead_letter_bytes;
}

int outbox_calls_add(OutboxCall **calls, size_t *n, size_t *allocated, const OutboxCall *c) {
        if (*n == *allocated) {
                size_t want = *allocated ? 2 * *allocated : 64;
                OutboxCall *a = reallocarray(*calls, want, sizeof(*a));

                if (!a)
                        return -ENOMEM;
                *calls = a;
                *allocated = want;
        }
        (*calls)[(*n)++] = *c;
        return 0;
}

static uint64_t queued(Outbox *o) {
        uint64_t n = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += o->lanes[lane].n_queued;
        return n;
}

/* What counts as queued and will not be handed out any more. */
static uint64_t ending(Outbox *o) {
        uint64_t n = o->n_rejecting;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += o->lanes[lane].n_deciding;
        return n;
}

/* --- open and free --- */

static uint64_t scaled_segment_size(uint64_t max_size) {
        uint64_t size = max_size / 256;

        /* Large enough that a file is opened rarely, small enough that one is scanned in no time. */
        size = MAX(size, UINT64_C(4) << 20);
        size = MIN(size, UINT64_C(64) << 20);
        return MIN(size, max_size / 16); /* many enough to be recycled */
}

static void choose_sizes(Outbox *o) {
        OutboxOptions *p = &o->options;
        uint64_t segment_size, reserved;

        outbox_check_fs(o, true);
        o->max_size = p->max_size ? p->max_size : MIN(MAX_SIZE_DEFAULT, o->fs_size / 10);
        o->max_size = MAX(o->max_size, MAX_SIZE_MIN);
        o->keep_free = p->keep_free != UINT64_MAX ? p->keep_free : MIN(MAX_SIZE_DEFAULT, o->fs_size / 100 * 15);

        segment_size = p->segment_size ? p->segment_size : scaled_segment_size(o->max_size);
        segment_size = MIN(segment_size, o->max_size / 8);
        segment_size = MAX(segment_size, (uint64_t) OUTBOX_SEGMENT_SIZE_MIN);
        segment_size = MIN(segment_size, (uint64_t) OUTBOX_SEGMENT_SIZE_MAX);
        o->segment_size = (uint32_t) (segment_size / 4096 * 4096);

        p->n_receipts = (unsigned) MIN((uint64_t) p->n_receipts, o->max_size / 16 / OUTBOX_RECEIPT_SIZE);
        p->dead_letter_size = MIN(p->dead_letter_size, o->max_size / 8);
        reserved = 2 * OUTBOX_POSITION_SEGMENT_SIZE + (uint64_t) p->n_receipts * OUTBOX_RECEIPT_SIZE + p->dead_letter_size;
        if (o->max_size < reserved + o->segment_size) {
                /* Too small for conveniences. */
                p->n_receipts = 0;
                p->dead_letter_size = 0;
                reserved = 2 * OUTBOX_POSITION_SEGMENT_SIZE;
        }
        o->n_segments_max = (unsigned) ((o->max_size - reserved) / o->segment_size);
}

static int read_boot_id(uint8_t ret[static 16]) {
        char text[64];
        ssize_t n;
        int fd;
        size_t k = 0;

        fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        n = read(fd, text, sizeof(text) - 1);
        (void) close(fd); /* read only */
        if (n < 0)
                return -errno;
        text[n] = 0;
        for (const char *p = text; *p && k < 16; p++) {
                unsigned byte;

                if (*p == '-')
                        continue;
                if (sscanf(p, "%2x", &byte) != 1)
                        break;
                ret[k++] = (uint8_t) byte;
                p++;
        }
        return k == 16 ? 0 : -EIO;
}

/* The two position segments exist from the start, so that there is room for positions on a full disk. */
static int make_position_segments(Outbox *o) {
        while (o->n_positions < 2) {
                OutboxSegment *s = outbox_segment_new(o, true, o->next_number, OUTBOX_POSITION_SEGMENT_SIZE);
                char name[OUTBOX_SEGMENT_NAME_MAX];
                int r;

                if (!s)
                        return -ENOMEM;
                o->next_number++;
                o->positions[o->n_positions++] = s;
                s->state = OUTBOX_SEGMENT_CLOSED;
                outbox_segment_name(true, s->number, name);
                r = outbox_segment_create(o->io, o->dir_fd, name, s->size);
                if (r < 0)
                        return r == -ENOMEM ? r : 0; /* the first batch tries again, and says so */
                s->on_disk = true;
        }
        return 0;
}

static int open_rest(Outbox *o) {
        int r;

        r = outbox_recover(o);
        if (r < 0)
                return r;
        while (o->outbox_id == 0)
                if (getrandom(&o->outbox_id, sizeof(o->outbox_id), 0) < 0)
                        return -errno;
        r = make_position_segments(o);
        if (r < 0)
                return r;
        r = outbox_receipts_new(o->io, o->dir_fd, o->options.n_receipts,
                                o->totals.confirmed + o->totals.expired + o->totals.dropped + o->totals.rejected, &o->receipts);
        if (r < 0)
                return r;
        r = outbox_dead_letters_new(o->io, o->dir_fd, o->options.dead_letter_size, &o->dead_letters);
        if (r < 0)
                return r;
        o->n_dead_letters = outbox_dead_letters_count(o->dead_letters);
        o->dead_letter_bytes = outbox_dead_letters_bytes(o->dead_letters);
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                r = outbox_settled_set_copy(&o->lanes[lane].recorded, &o->lanes[lane].settled);
                if (r < 0)
                        return r;
                o->lanes[lane].read_next = 1;
        }
        r = outbox_worker_new(o->options.threaded, o->event_fd, "outbox-commit", &o->commit);
        if (r >= 0)
                r = outbox_worker_new(o->options.threaded, o->event_fd, "outbox-reader", &o->background);
        if (r < 0)
                return r;
        outbox_admission_reset(o);
        o->need_checkpoint = true;
        outbox_wake(o);
        return 0;
}

int outbox_open(const char *path, const OutboxOptions *options, const OutboxEvents *events, Outbox **ret) {
        _cleanup_(outbox_freep) Outbox *o = NULL;
        int r;

        assert(path);
        assert(options);
        assert(ret);

        o = malloc(sizeof(*o));
        if (!o)
                return -ENOMEM;
        *o = (Outbox) {
                .options = *options,
                .events = events ? *events : (OutboxEvents) { 0 },
                .io = options->io ? options->io : &outbox_io_real,
                .dir_fd = -EBADF,
                .event_fd = -EBADF,
                .next_seq = 1,
                .next_batch = 1,
                .next_number = 1,
                .fs_checked_at = USEC_INFINITY,
                .dirty_since = USEC_INFINITY,
        };
        o->notices_end = &o->notices;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                o->lanes[lane].next_lane_seq = 1;
        if (options->clock)
                o->clock = *options->clock;
        else {
                o->clock = (OutboxClock) { .boottime = real_boottime, .realtime = real_realtime };
                r = read_boot_id(o->clock.boot_id);
                if (r < 0)
                        return r;
        }
        o->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (o->event_fd < 0)
                return -errno;
        o->streams = outbox_stream_table_new();
        if (!o->streams)
                return -ENOMEM;
        o->dir_fd = o->io->open_dir(o->io, path);
        if (o->dir_fd < 0)
                return o->dir_fd;
        choose_sizes(o);
        r = open_rest(o);
        /* What can fail here only reads: whoever answers that like this is not full but broken. */
        if (r == -ENOSPC || r == -EDQUOT || r == -EROFS)
                r = -EIO;
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

static void finish_jobs(Outbox *o) {
        OutboxJob *j;

        while (o->running) {
                outbox_worker_wait(o->commit);
                j = outbox_worker_take(o->commit);
                if (j)
                        outbox_commit_complete(o, container_of(j, OutboxBatch, job));
        }
        while (outbox_worker_busy(o->background)) {
                outbox_worker_wait(o->background);
                j = outbox_worker_take(o->background);
                if (j) {
                        OutboxBackgroundJob *b = container_of(j, OutboxBackgroundJob, job);

                        b->done(o, b);
                }
        }
}

typedef struct ReceiptsJob {
        OutboxBackgroundJob job;
        OutboxReceiptsBlock block;
} ReceiptsJob;

static void receipts_run(OutboxJob *job) {
        outbox_receipts_write(&container_of(job, ReceiptsJob, job.job)->block);
}

static void receipts_done(Outbox *o, OutboxBackgroundJob *job) {
        ReceiptsJob *j = container_of(job, ReceiptsJob, job);

        o->n_receipts_jobs--;
        outbox_receipts_written(o->receipts, &j->block);
        free(j);
}

void outbox_write_receipts(Outbox *o) {
        ReceiptsJob *j;

        /* Behind a disk that is this slow the oldest are given up, not memory. */
        if (!o->receipts || o->n_receipts_jobs >= RECEIPTS_JOBS_MAX)
                return;
        j = malloc(sizeof(*j));
        if (!j)
                return; /* the next call tries again */
        *j = (ReceiptsJob) { .job = { .job = { .run = receipts_run }, .done = receipts_done } };
        if (!outbox_receipts_take(o->receipts, &j->block)) {
                free(j);
                return;
        }
        o->n_receipts_jobs++;
        outbox_worker_submit(o->background, &j->job.job);
}

static void tell_ready_calls(Outbox *o, int error) {
        OutboxCall *calls = TAKE_PTR(o->ready_calls);
        size_t n = o->n_ready_calls;

        o->n_ready_calls = o->ready_calls_allocated = 0;
        for (size_t i = 0; i < n; i++)
                if (calls[i].callback)
                        calls[i].callback(error, calls[i].first, calls[i].last, calls[i].n_duplicates, calls[i].userdata);
        free(calls);
}

/* A clean end is a position record behind everything else. */
static void finish(Outbox *o) {
        o->closing = true;
        finish_jobs(o);
        outbox_commit_cancel_open(o, -ECANCELED);
        tell_ready_calls(o, 0);
        outbox_tell_confirmed(o);
        if (o->disk_error == 0 && (o->need_checkpoint || o->unsealed || o->want_full || o->n_ends > 0 ||
                                   o->dirty_since != USEC_INFINITY || o->n_checkpoint_calls > 0))
                (void) outbox_commit_position_now(o); /* on failure the next start repeats what was confirmed last */
        finish_jobs(o);
        for (size_t i = 0; i < o->n_checkpoint_calls; i++)
                if (o->checkpoint_calls[i].callback)
                        o->checkpoint_calls[i].callback(-ECANCELED, 0, 0, 0, o->checkpoint_calls[i].userdata);
        outbox_write_receipts(o);
        finish_jobs(o);
        outbox_lost_tell(o);
        tell_notices(o);
}

Outbox *outbox_free(Outbox *o) {
        if (!o)
                return NULL;
        if (o->commit && o->background) {
                o->in_process = true;
                finish(o);
        }
        outbox_worker_free(o->commit);
        outbox_worker_free(o->background);
        for (size_t i = 0; i < o->n_drops; i++)
                outbox_settled_set_done(&o->drops[i].before);
        for (size_t i = 0; i < o->n_ends; i++)
                free(o->ends[i].reason);
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                outbox_lane_done(o, &o->lanes[lane]);
        for (size_t i = 0; i < o->n_spares; i++)
                outbox_segment_free(o, o->spares[i]);
        for (size_t i = 0; i < o->n_positions; i++)
                outbox_segment_free(o, o->positions[i]);
        outbox_unremoved_free(o);
        outbox_rejects_free(o);
        outbox_batch_free(o->open);
        outbox_batch_free(o->running);
        outbox_batch_free(o->idle_batch);
        outbox_stream_table_free(o->streams);
        outbox_receipts_free(o->receipts);
        outbox_dead_letters_free(o->dead_letters);
        while (o->notices) {
                OutboxNotice *n = o->notices;

                o->notices = n->next;
                free(n);
        }
        free(o->tells);
        free(o->spares);
        free(o->drops);
        free(o->ends);
        free(o->ready_calls);
        free(o->checkpoint_calls);
        free(o->hub);
        free(o->device);
        free(o->wanted_hub);
        free(o->wanted_device);
        if (o->dir_fd >= 0)
                (void) o->io->close(o->io, o->dir_fd); /* gives the lock back */
        if (o->event_fd >= 0)
                (void) close(o->event_fd); /* nothing to lose */
        free(o);
        return NULL;
}

int outbox_fd(Outbox *o) {
        return o->event_fd;
}

/* --- process --- */

/* What was confirmed and not recorded is sent again after a crash: no more is handed out until the disk caught up,
 * unless it fails, because then delivery goes on. */
bool outbox_gate_open(const Outbox *o) {
        return o->disk_error < 0 || o->n_unrecorded < MAX(o->options.position_messages, 1U);
}

static bool is_deliverable(Outbox *o) {
        if (o->held || !o->identity_known || !outbox_gate_open(o))
                return false;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                if (o->lanes[lane].n_ready > 0 || outbox_lane_peek(o, (OutboxLane) lane) > 0)
                        return true;
        return false;
}

static void tell_deliverable(Outbox *o) {
        if (!o->starved || !is_deliverable(o))
                return;
        o->starved = false;
        if (o->events.on_deliverable)
                o->events.on_deliverable(o->events.userdata);
}

static void note_room(Outbox *o) {
        if (!o->is_full)
                return;
        outbox_check_fs(o, false);
        if (!outbox_has_room(o))
                return;
        o->is_full = false;
        outbox_notice(o, LOG_NOTICE, MSG_OUTBOX_ROOM, "The outbox has room again");
}

static bool take_jobs(Outbox *o) {
        OutboxJob *j;
        bool any = false;

        if (o->running && (j = outbox_worker_take(o->commit))) {
                outbox_commit_complete(o, container_of(j, OutboxBatch, job));
                any = true;
        }
        if (outbox_worker_busy(o->background) && (j = outbox_worker_take(o->background))) {
                OutboxBackgroundJob *b = container_of(j, OutboxBackgroundJob, job);

                b->done(o, b);
                any = true;
        }
        return any;
}

/* A read that failed may be tried again from now on, by whoever wants the message: nobody may for hours, and until
 * then its time must not be a deadline that has passed. */
static void read_again(Outbox *o) {
        usec_t now = outbox_now_boottime(o);

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                if (o->lanes[lane].reader.error < 0 && now >= o->lanes[lane].reader.retry_at)
                        o->lanes[lane].reader.error = 0;
}

int outbox_process(Outbox *o) {
        uint64_t n;
        bool more = true;

        assert(!o->in_process);
        (void) !read(o->event_fd, &n, sizeof(n)); /* nothing to read is fine */
        o->in_process = true;
        read_again(o);
        for (unsigned round = 0; more && round < ROUNDS_MAX; round++) {
                o->wake_again = false;
                more = take_jobs(o);
                if (o->n_ready_calls > 0)
                        tell_ready_calls(o, 0);
                outbox_tell_confirmed(o);
                (void) outbox_expire(o); /* what is left waits for the record of what was taken */
                outbox_drops_tell(o);
                outbox_rejects_retry(o, /* now= */ false);
                note_room(o);
                outbox_commit_submit(o);
                tell_deliverable(o);
                outbox_lost_tell(o);
                tell_notices(o);
                /* Without threads what was submitted runs in the next round. */
                more = more || (!o->options.threaded && (o->running || outbox_worker_busy(o->background)));
                more = more || o->wake_again || o->n_ready_calls > 0;
        }
        o->in_process = false;
        if (more)
                outbox_wake(o);
        return 0;
}

usec_t outbox_next_deadline(Outbox *o) {
        usec_t deadline = MIN(outbox_commit_deadline(o), outbox_expire_deadline(o));

        deadline = MIN(deadline, outbox_rejects_deadline(o));
        return MIN(deadline, outbox_drops_deadline(o));
}

/* --- identity --- */

static int set_identity(Outbox *o, const char *hub, const char *device) {
        char *h = strdup(hub), *d = strdup(device);

        if (!h || !d) {
                free(h);
                free(d);
                return -ENOMEM;
        }
        free(o->hub);
        free(o->device);
        o->hub = h;
        o->device = d;
        o->held = false;
        o->want_full = true;
        outbox_dirty(o);
        if (o->starved)
                outbox_wake(o);
        return 0;
}

int outbox_set_identity(Outbox *o, const char *hub, const char *device, bool adopt) {
        bool same = o->hub && streq(o->hub, hub) && streq(o->device, device);
        char *h, *d;

        o->identity_known = true;
        if (same) {
                o->held = false;
                if (o->starved)
                        outbox_wake(o);
                return 0;
        }
        if (!o->hub || adopt || queued(o) == 0)
                return set_identity(o, hub, device);

        h = strdup(hub);
        d = strdup(device);
        if (!h || !d) {
                free(h);
                free(d);
                return -ENOMEM;
        }
        free(o->wanted_hub);
        free(o->wanted_device);
        o->wanted_hub = h;
        o->wanted_device = d;
        if (!o->held)
                outbox_notice(o, LOG_WARNING, MSG_OUTBOX_OTHER_DEVICE,
                              "%" PRIu64 " messages wait for %s at %s, but the credentials name %s at %s", queued(o), o->device,
                              o->hub, device, hub);
        o->held = true;
        return -EREMCHG;
}

void outbox_identity_check(Outbox *o) {
        if (o->held && queued(o) == 0)
                (void) set_identity(o, o->wanted_hub, o->wanted_device); /* without memory it stays held */
}

/* --- figures --- */

static const OutboxEntry *oldest(OutboxLaneState *l) {
        if (l->n_entries > 0)
                return outbox_lane_entry(l, 0);
        return l->peeked ? &l->peek : NULL;
}

static void lane_stats(Outbox *o, OutboxLaneState *l, OutboxLaneStats *ret) {
        const OutboxEntry *e = oldest(l);

        *ret = (OutboxLaneStats) {
                .n_queued = l->n_queued,
                .queued_bytes = l->queued_bytes,
                .oldest_accepted_realtime_usec = USEC_INFINITY,
                .oldest_age_usec = USEC_INFINITY,
        };
        if (!e)
                return;
        ret->oldest_accepted_realtime_usec = e->accepted_realtime_usec;
        ret->oldest_age_usec = e->same_boot ? usec_sub(outbox_now_boottime(o), e->accepted_boottime_usec)
                                            : usec_sub(outbox_now_realtime(o), e->accepted_realtime_usec);
}

void outbox_get_stats(Outbox *o, OutboxStats *ret) {
        usec_t a = outbox_worker_busy_since(o->commit), b = outbox_worker_busy_since(o->background);

        *ret = (OutboxStats) {
                .accepted = o->totals.accepted,
                .confirmed = o->totals.confirmed,
                .expired = o->totals.expired,
                .dropped = o->totals.dropped,
                .rejected = o->totals.rejected,
                .queued = queued(o),
                .ending = ending(o),
                .in_flight = o->n_in_flight,
                .sent_again = o->n_sent_again,
                .used_bytes = outbox_used_bytes(o),
                .max_bytes = o->max_size,
                .keep_free_bytes = o->keep_free,
                .fs_free_bytes = o->fs_free,
                .full = o->options.full,
                .disk_error = o->disk_error,
                .is_full = o->is_full,
                .n_lost_records = o->totals.lost,
                .n_dead_letters = o->n_dead_letters,
                .newest_realtime_usec = o->newest_realtime_usec,
                .last_seq = o->next_seq - 1,
                .durable_seq = o->durable_seq,
                .n_syncs = o->n_syncs,
                .n_batches = o->n_batches,
                .bytes_written = o->bytes_written,
                .busy_since_boottime_usec = a == 0 || (b != 0 && b < a) ? b : a,
        };
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                lane_stats(o, &o->lanes[lane], &ret->lanes[lane]);
}

static bool batch_reaches(const OutboxBatch *b, uint64_t seq) {
        return b && b->first_seq > 0 && b->first_seq <= seq;
}

bool outbox_settled_up_to(Outbox *o, uint64_t seq) {
        if (batch_reaches(o->running, seq) || batch_reaches(o->open, seq))
                return false;
        for (size_t i = 0; i < o->n_ends; i++)
                if (o->ends[i].entry.seq <= seq)
                        return false;
        for (size_t i = 0; i < o->n_drops; i++)
                if (!o->drops[i].recorded && o->drops[i].segment->first_seq <= seq)
                        return false;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                const OutboxEntry *e;

                if (l->n_queued == l->n_deciding)
                        continue;
                (void) outbox_lane_peek(o, (OutboxLane) lane); /* without it the answer is no */
                e = oldest(l);
                if (!e || e->seq <= seq)
                        return false;
        }
        return true;
}

int outbox_checkpoint(Outbox *o, OutboxDurableCallback on_done, void *userdata) {
        OutboxCall c = { .callback = on_done, .userdata = userdata };
        int r;

        if (o->closing)
                return -ECANCELED;
        if (o->disk_error < 0)
                return o->disk_error;
        r = outbox_calls_add(&o->checkpoint_calls, &o->n_checkpoint_calls, &o->checkpoint_calls_allocated, &c);
        if (r >= 0)
                outbox_wake(o);
        return r;
}
