/* Group commit. Calls gather in the open batch while the one before it is on its way to the disk. When that is done
 * the open batch is planned (which records go to which place of which segment), handed to the commit thread, which
 * writes and syncs it, and completed back here. One batch is under way at a time: so whatever is found on disk of
 * batch k + 1 proves that batch k was synced.
 *
 * A batch that fails is written once more, from memory, to new segments; the old ones get nothing any more. If that
 * fails too, its senders and those of the open batch get the error, and appends are refused until a position record
 * could be written again, which also says that those messages do not count. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/random.h>

#include "daemon/log.h"
#include "daemon/outbox-receipts.h"

#define POSITION_SLACK 4096U       /* what a full position may grow by between admission and plan */
#define BUFFER_KEPT_MAX (256U * 1024U)
#define PROBE_DELAY_MIN USEC_PER_SEC
#define PROBE_DELAY_MAX (30 * USEC_PER_SEC)
#define CREATE_BLOCKED_USEC (5 * USEC_PER_SEC)

OutboxBatch *outbox_batch_free(OutboxBatch *b) {
        if (!b)
                return NULL;
        for (size_t i = 0; i < ELEMENTSOF(b->data); i++)
                buffer_done(&b->data[i]);
        for (size_t i = 0; i < b->n_writes; i++)
                free(b->writes[i].head);
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++)
                outbox_settled_set_done(&b->recorded[i]);
        free(b->writes);
        free(b->calls);
        free(b);
        return NULL;
}

/* Ready for the next use; buffers of usual size stay. */
static void batch_reset(OutboxBatch *b) {
        for (size_t i = 0; i < ELEMENTSOF(b->data); i++) {
                b->data[i].size = 0;
                if (b->data[i].allocated > BUFFER_KEPT_MAX)
                        buffer_done(&b->data[i]);
        }
        for (size_t i = 0; i < b->n_writes; i++)
                free(b->writes[i].head);
        b->n_writes = 0;
        b->n_calls = 0;
        if (b->calls_allocated > 4096) {
                free(b->calls);
                b->calls = NULL;
                b->calls_allocated = 0;
        }
        memset(b->n_messages, 0, sizeof(b->n_messages));
        memset(b->bytes, 0, sizeof(b->bytes));
        memset(b->last_lane_seq, 0, sizeof(b->last_lane_seq));
        b->first_seq = b->last_seq = 0;
        b->attempt = 0;
        b->seal = b->has_position = b->position_full = false;
        b->n_ends = 0;
        b->n_unrecorded = 0;
        b->result = 0;
        b->bytes_written = b->n_syncs = 0;
}

int outbox_batch_open(Outbox *o) {
        if (o->open)
                return 0;
        if (o->idle_batch)
                o->open = TAKE_PTR(o->idle_batch);
        else {
                o->open = calloc(1, sizeof(*o->open));
                if (!o->open)
                        return -ENOMEM;
        }
        return 0;
}

static void batch_recycle(Outbox *o, OutboxBatch *b) {
        batch_reset(b);
        if (o->idle_batch)
                outbox_batch_free(b);
        else
                o->idle_batch = b;
}

/* --- on the commit thread --- */

static int segment_open_write(OutboxBatch *b, OutboxSegment *s) {
        char name[OUTBOX_SEGMENT_NAME_MAX];
        bool made = !s->on_disk;
        int r;

        if (s->write_fd >= 0)
                return 0;
        outbox_segment_name(s->position, s->number, name);
        if (made) {
                r = outbox_segment_create(b->io, b->dir_fd, name, s->size);
                if (r < 0)
                        return r;
                s->on_disk = true;
                b->bytes_written += s->size;
                b->n_syncs += 2;
        }
        s->write_fd = b->io->openat(b->io, b->dir_fd, name, O_RDWR | O_CLOEXEC, 0);
        if (s->write_fd == -ENOENT && !made) {
                /* Somebody removed it. What is opened here is at the begin of a use: nothing in it was needed. */
                s->on_disk = false;
                return segment_open_write(b, s);
        }
        return s->write_fd < 0 ? s->write_fd : 0;
}

/* A file whose name somebody removed takes writes and keeps none of them. */
static int check_name(OutboxBatch *b, OutboxWrite *w) {
        uint64_t size;
        int r;

        r = b->io->fsize(b->io, w->segment->write_fd, &size);
        w->unlinked = r == -ENOENT;
        return r;
}

static int write_run(OutboxBatch *b, OutboxWrite *w) {
        int r;

        r = segment_open_write(b, w->segment);
        if (r < 0)
                return r;
        for (size_t at = 0; at < w->size; at += outbox_record_size(w->data + at))
                outbox_record_finish(w->data + at, w->segment->salt, b->number);
        if (w->head_size > 0) {
                r = outbox_write_full(b->io, w->segment->write_fd, w->head, w->head_size, 0);
                if (r < 0)
                        return r;
        }
        r = outbox_write_full(b->io, w->segment->write_fd, w->data, w->size, w->offset);
        if (r >= 0)
                b->bytes_written += w->head_size + w->size;
        return r;
}

/* Says that the batch was synced, without a sync of its own: after the process was killed it is there, and a hole in
 * the batch is then known to be damage and not a torn write. The next batch overwrites it. */
static void seal_run(OutboxBatch *b) {
        OutboxWrite *w = &b->writes[b->n_writes - 1];
        uint8_t seal[OUTBOX_RECORD_PREFIX_SIZE];

        if (w->offset + w->size + sizeof(seal) > w->segment->size)
                return;
        outbox_record_start(seal, sizeof(seal), OUTBOX_RECORD_SEAL, w->segment->lane, 0);
        outbox_record_finish(seal, w->segment->salt, b->number);
        (void) outbox_write_full(b->io, w->segment->write_fd, seal, sizeof(seal), w->offset + w->size); /* a hint */
}

void outbox_batch_run(OutboxJob *j) {
        OutboxBatch *b = container_of(j, OutboxBatch, job);
        int r = 0;

        if (b->sync_dir) {
                r = b->io->fsync(b->io, b->dir_fd);
                b->n_syncs++;
        }
        for (size_t i = 0; i < b->n_writes && r >= 0; i++)
                r = write_run(b, &b->writes[i]);
        /* No sync twice, whatever it says: after a failed one the kernel may drop the dirty pages, and the next
         * would succeed for data that is lost. Writes to one segment are neighbours in the plan. */
        for (size_t i = 0; i < b->n_writes && r >= 0; i++) {
                if (i + 1 < b->n_writes && b->writes[i + 1].segment == b->writes[i].segment)
                        continue;
                r = check_name(b, &b->writes[i]);
                if (r < 0)
                        break;
                r = b->io->fdatasync(b->io, b->writes[i].segment->write_fd);
                b->n_syncs++;
        }
        if (r >= 0 && b->seal)
                seal_run(b);
        b->result = r;
}

/* --- files that are not needed any more --- */

/* A file that is not needed any more, removed or renamed off the event loop. */
typedef struct OutboxFileJob {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        char from[OUTBOX_SEGMENT_NAME_MAX], to[OUTBOX_SEGMENT_NAME_MAX]; /* to empty: removed */
        int result;
        uint32_t size;
        bool counted; /* in unremoved_bytes */
        struct OutboxFileJob *next;
} OutboxFileJob;

static void file_run(OutboxJob *job) {
        OutboxFileJob *j = container_of(job, OutboxFileJob, job.job);

        j->result = j->to[0] ? j->io->renameat(j->io, j->dir_fd, j->from, j->to)
                             : j->io->unlinkat(j->io, j->dir_fd, j->from);
}

void outbox_evidence_name(uint32_t number, char ret[static OUTBOX_SEGMENT_NAME_MAX]) {
        (void) snprintf(ret, OUTBOX_SEGMENT_NAME_MAX, "damaged-%08x", number);
}

int outbox_evidence_name_parse(const char *name, uint32_t *ret_number) {
        const char *digits = startswith(name, "damaged-");

        if (!digits || strlen(digits) != 8 || strspn(digits, "0123456789abcdef") != 8)
                return -EINVAL;
        *ret_number = (uint32_t) strtoul(digits, NULL, 16);
        return 0;
}

void outbox_evidence_add(Outbox *o, uint32_t number, uint32_t size) {
        if (o->n_evidence == OUTBOX_EVIDENCE_MAX)
                return;
        o->evidence[o->n_evidence].number = number;
        o->evidence[o->n_evidence++].size = size;
}

uint64_t outbox_evidence_bytes(const Outbox *o) {
        uint64_t n = 0;

        for (unsigned i = 0; i < o->n_evidence; i++)
                n += o->evidence[i].size;
        return n;
}

static void evidence_forget(Outbox *o, const char *name) {
        uint32_t number;

        if (outbox_evidence_name_parse(name, &number) < 0)
                return;
        for (unsigned i = 0; i < o->n_evidence; i++)
                if (o->evidence[i].number == number) {
                        memmove(o->evidence + i, o->evidence + i + 1, (o->n_evidence - i - 1) * sizeof(*o->evidence));
                        o->n_evidence--;
                        return;
                }
}

/* What could not be renamed waits for the next start, which finds it. What could not be removed takes room until it is,
 * and counts as a segment that long. */
static void file_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxFileJob *j = container_of(job, OutboxFileJob, job);

        if (j->result == -ENOENT && j->to[0])
                evidence_forget(o, j->to); /* somebody removed it before us */
        if (j->result < 0 && j->result != -ENOENT && !j->to[0]) {
                if (!j->counted) {
                        j->counted = true;
                        o->unremoved_bytes += j->size;
                }
                j->next = o->unremoved;
                o->unremoved = j;
                return;
        }
        if (j->counted) {
                o->unremoved_bytes -= j->size;
                outbox_wake(o);
        }
        free(j);
}

void outbox_remove_again(Outbox *o) {
        OutboxFileJob *j = TAKE_PTR(o->unremoved);

        while (j) {
                OutboxFileJob *next = TAKE_PTR(j->next);

                outbox_worker_submit(o->background, &j->job.job);
                j = next;
        }
}

void outbox_unremoved_free(Outbox *o) {
        while (o->unremoved) {
                OutboxFileJob *j = o->unremoved;

                o->unremoved = j->next;
                free(j);
        }
}

static void submit_file_job(Outbox *o, const char *from, const char *to, uint32_t size) {
        OutboxFileJob *j = malloc(sizeof(*j));

        if (!j)
                return; /* as if it had failed */
        *j = (OutboxFileJob) {
                .job = { .job = { .run = file_run }, .done = file_done },
                .io = o->io,
                .dir_fd = o->dir_fd,
                .size = size,
        };
        (void) snprintf(j->from, sizeof(j->from), "%s", from);
        (void) snprintf(j->to, sizeof(j->to), "%s", strempty(to));
        outbox_worker_submit(o->background, &j->job.job);
}

/* Evidence gives way before anyone is refused. */
static bool sacrifice_evidence(Outbox *o) {
        char name[OUTBOX_SEGMENT_NAME_MAX];

        if (o->n_evidence == 0)
                return false;
        o->n_evidence--;
        outbox_evidence_name(o->evidence[o->n_evidence].number, name);
        submit_file_job(o, name, NULL, o->evidence[o->n_evidence].size);
        return true;
}

static void discard_segment(Outbox *o, OutboxSegment *s, bool as_evidence) {
        char name[OUTBOX_SEGMENT_NAME_MAX], aside[OUTBOX_SEGMENT_NAME_MAX];

        outbox_segment_name(s->position, s->number, name);
        outbox_evidence_name(s->number, aside);
        if (s->on_disk) {
                if (as_evidence)
                        outbox_evidence_add(o, s->number, s->size);
                submit_file_job(o, name, as_evidence ? aside : NULL, s->size);
        }
        outbox_segment_free(o, s);
}

/* --- admission --- */

/* Bytes of segments that are being made: the file system may not show them yet. */
static uint64_t unmade_bytes(Outbox *o) {
        unsigned n = o->creating + o->n_plan_new;

        for (size_t i = 0; o->running && i < o->running->n_writes; i++)
                n += o->running->writes[i].fresh && !o->running->writes[i].segment->position;
        return (uint64_t) n * o->segment_size;
}

/* A segment could not be made although statfs showed room: it is not tried again at once, unless there is more room. */
static void block_create(Outbox *o) {
        outbox_check_fs(o, true);
        o->create_blocked_until = usec_add(outbox_now_boottime(o), CREATE_BLOCKED_USEC);
        o->create_blocked_free = o->fs_free;
}

static bool create_is_blocked(Outbox *o) {
        return outbox_now_boottime(o) < o->create_blocked_until &&
               o->fs_free < o->create_blocked_free + o->segment_size;
}

static unsigned segments_creatable(Outbox *o) {
        uint64_t taken = o->keep_free + unmade_bytes(o), free_bytes = o->fs_free > taken ? o->fs_free - taken : 0;
        uint64_t allowed = (uint64_t) o->n_segments_max * o->segment_size,
                 used = o->segment_bytes + outbox_evidence_bytes(o) + o->unremoved_bytes;

        if (used >= allowed || create_is_blocked(o))
                return 0;
        return (unsigned) (MIN(allowed - used, free_bytes) / o->segment_size);
}

static bool segment_is_done(const OutboxSegment *s, const OutboxSettledSet *set) {
        return s->state == OUTBOX_SEGMENT_CLOSED && outbox_settled_set_contains_all(set, s->first_lane_seq, s->last_lane_seq);
}

/* Segments of which every message has ended: they are free as soon as a position says so. */
static unsigned segments_releasable(Outbox *o) {
        uint64_t bytes = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                for (size_t i = 0; i < o->lanes[lane].n_segments; i++)
                        if (segment_is_done(o->lanes[lane].segments[i], &o->lanes[lane].settled))
                                bytes += o->lanes[lane].segments[i]->size;
        return (unsigned) (bytes / o->segment_size);
}

static unsigned segments_available(Outbox *o) {
        unsigned n = (unsigned) o->n_spares + segments_creatable(o);

        if (n <= o->n_new_planned)
                n += segments_releasable(o);
        return n;
}

/* In a small outbox the lanes may hold all segments there are: one whose messages have all ended gives its segment up.
 * Messages on their way to it keep it. */
static void close_done_lanes(Outbox *o) {
        bool any = false;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                OutboxSegment *s = l->active;

                if (!s || (o->open && o->open->data[lane].size > 0) || (o->running && o->running->n_messages[lane] > 0) ||
                    !outbox_settled_set_contains_all(&l->settled, s->first_lane_seq, s->last_lane_seq))
                        continue;
                outbox_lane_close_active(o, l);
                l->room = 0;
                any = true;
        }
        if (any)
                outbox_release_segments(o); /* a position may have recorded all of it already */
}

/* Thousands of gaps between messages that still wait, from failures of the disk that alternate with successes, or from
 * damage: a position that tells them all would leave no room beside it. What is delivered closes them. */
bool outbox_has_too_many_gaps(const Outbox *o) {
        size_t n = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += o->lanes[lane].settled.n;
        return n >= OUTBOX_POSITION_RANGES_MAX;
}

static bool new_segment_available(Outbox *o) {
        if (segments_available(o) > o->n_new_planned)
                return true;
        /* Expired messages make room before anyone is refused. */
        (void) outbox_expire(o);
        if (segments_available(o) <= o->n_new_planned)
                close_done_lanes(o);
        if (segments_available(o) <= o->n_new_planned && (o->n_evidence > 0 || o->options.full == OUTBOX_FULL_DROP_OLDEST))
                outbox_check_fs(o, true); /* what gives way is gone for good: not for an answer of a second ago */
        while (segments_available(o) <= o->n_new_planned)
                if (!sacrifice_evidence(o) && (o->options.full != OUTBOX_FULL_DROP_OLDEST || !outbox_drop_oldest(o)))
                        return false;
        return true;
}

bool outbox_has_room(Outbox *o) {
        if (outbox_has_too_many_gaps(o))
                return false;
        if (segments_available(o) <= o->n_new_planned)
                close_done_lanes(o);
        return segments_available(o) > o->n_new_planned;
}

static void position_borrow(Outbox *o, bool full, OutboxPosition *ret) {
        *ret = (OutboxPosition) {
                .full = full,
                .outbox_id = o->outbox_id,
                .next_seq = o->next_seq,
                .totals = o->totals,
                .newest_realtime_usec = o->newest_realtime_usec,
                .hub = o->hub,
                .device = o->device,
        };
        ret->totals.expired += o->deciding[OUTBOX_END_EXPIRED];
        ret->totals.dropped += o->deciding[OUTBOX_END_DROPPED];
        ret->totals.rejected += o->deciding[OUTBOX_END_REJECTED];
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                OutboxLaneState *l = &o->lanes[i];

                ret->lanes[i] = (OutboxPositionLane) {
                        .settled = l->settled,
                        .tail = l->tail,
                        .queued_bytes = l->queued_bytes - MIN(l->queued_bytes, l->deciding_bytes),
                };
        }
}

static size_t full_position_size(Outbox *o) {
        OutboxPosition p;

        position_borrow(o, true, &p);
        return outbox_position_size(&p, o->streams);
}

/* What a new segment has for messages. */
static uint64_t fresh_room(Outbox *o) {
        uint64_t taken = OUTBOX_SEGMENT_HEADER_SIZE + full_position_size(o) + POSITION_SLACK;

        return o->segment_size > taken ? o->segment_size - taken : 0;
}

bool outbox_admit(Outbox *o, OutboxLane lane, size_t size) {
        OutboxLaneState *l = &o->lanes[lane];

        if (outbox_has_too_many_gaps(o))
                return false;
        if (l->room < size) {
                if (fresh_room(o) < size || !new_segment_available(o))
                        return false;
                o->n_new_planned++;
                l->room = fresh_room(o);
        }
        l->room -= size;
        return true;
}

/* Where the open batch begins: behind what is planned already. What is in it is counted again. */
void outbox_admission_reset(Outbox *o) {
        uint64_t fresh = fresh_room(o);

        o->n_new_planned = 0;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                const Buffer *data = o->open ? &o->open->data[lane] : NULL;

                l->room = l->active ? l->active->size - l->active->end : 0;
                for (size_t i = 0; o->running && i < o->running->n_writes; i++) {
                        const OutboxWrite *w = &o->running->writes[i];

                        if (w->segment->lane == lane && !w->segment->position)
                                l->room = w->segment->size - w->offset - w->size;
                }
                for (size_t at = 0; data && at < data->size;) {
                        size_t size = outbox_record_size(data->data + at);

                        if (l->room < size) {
                                l->room = MAX(fresh, (uint64_t) size); /* where it does not fit the plan will say so */
                                o->n_new_planned++;
                        }
                        l->room -= size;
                        at += size;
                }
        }
}

/* --- plan --- */

static OutboxWrite *add_write(OutboxBatch *b) {
        if (b->n_writes == b->writes_allocated) {
                size_t n = b->writes_allocated ? 2 * b->writes_allocated : 4;
                OutboxWrite *w = reallocarray(b->writes, n, sizeof(*w));

                if (!w)
                        return NULL;
                b->writes = w;
                b->writes_allocated = n;
        }
        b->writes[b->n_writes] = (OutboxWrite) { 0 };
        return &b->writes[b->n_writes++];
}

static int random_salt(uint64_t *ret) {
        do {
                ssize_t k = getrandom(ret, sizeof(*ret), 0);

                if (k != sizeof(*ret))
                        return k < 0 ? -errno : -EIO;
        } while (*ret == 0);
        return 0;
}

/* A segment for the batch: a spare, or a new file. */
static int take_segment(Outbox *o, OutboxSegment **ret) {
        OutboxSegment *s;

        if (o->n_spares > 0)
                s = o->spares[--o->n_spares];
        else {
                outbox_check_fs(o, true);
                if (segments_creatable(o) == 0)
                        return -ENOSPC;
                s = outbox_segment_new(o, false, o->next_number, o->segment_size);
                if (!s)
                        return -ENOMEM;
                o->next_number++;
                o->n_plan_new++;
        }
        s->state = OUTBOX_SEGMENT_TAKEN;
        *ret = s;
        return 0;
}

void outbox_spare_add(Outbox *o, OutboxSegment *s) {
        if (o->n_spares == o->spares_allocated) {
                size_t n = o->spares_allocated ? 2 * o->spares_allocated : 8;
                OutboxSegment **a = reallocarray(o->spares, n, sizeof(*a));

                if (!a) {
                        outbox_segment_free(o, s); /* the file is found at the next start */
                        return;
                }
                o->spares = a;
                o->spares_allocated = n;
        }
        outbox_segment_close_fds(o, s);
        s->state = OUTBOX_SEGMENT_SPARE;
        s->damaged = false;
        s->first_lane_seq = 1;
        s->last_lane_seq = 0;
        o->spares[o->n_spares++] = s;
}

/* Starts a new use of a segment: header and full position, which this batch makes durable before anything that the
 * position releases is overwritten. */
static int start_use(Outbox *o, OutboxBatch *b, OutboxSegment *s, unsigned lane, uint64_t first_seq, uint64_t first_lane_seq,
                     OutboxWrite *w) {
        OutboxPosition p;
        size_t size;
        int r;

        r = random_salt(&s->salt);
        if (r < 0)
                return r;
        s->lane = lane;
        s->first_batch = b->number;
        s->attempt = b->attempt;
        s->same_boot = true;
        s->failed = s->damaged = false;
        s->first_seq = first_seq;
        s->first_lane_seq = first_lane_seq;
        s->last_lane_seq = first_lane_seq - 1;
        s->end = 0;

        position_borrow(o, true, &p);
        size = outbox_position_size(&p, o->streams);
        w->head_size = OUTBOX_SEGMENT_HEADER_SIZE + size;
        w->head = malloc(w->head_size);
        if (!w->head)
                return -ENOMEM;
        OutboxSegmentHeader h = {
                .number = s->number,
                .size = s->size,
                .lane = lane,
                .salt = s->salt,
                .batch = b->number,
                .attempt = b->attempt,
                .first_lane_seq = first_lane_seq,
                .first_seq = first_seq,
                .outbox_id = o->outbox_id,
        };
        memcpy(h.boot_id, o->clock.boot_id, sizeof(h.boot_id));
        outbox_segment_header_encode(&h, w->head);
        outbox_position_encode(&p, o->streams, lane, w->head + OUTBOX_SEGMENT_HEADER_SIZE);
        outbox_record_finish(w->head + OUTBOX_SEGMENT_HEADER_SIZE, s->salt, b->number);
        w->segment = s;
        w->fresh = true;
        w->offset = w->head_size;
        b->has_position = b->position_full = true;
        return 0;
}

/* Gives the segments of a plan back, as if it had not been made. */
static void plan_undo(Outbox *o, OutboxBatch *b) {
        for (size_t i = 0; i < b->n_writes; i++) {
                OutboxWrite *w = &b->writes[i];

                free(w->head);
                if (!w->fresh)
                        continue;
                if (w->segment->position)
                        w->segment->state = OUTBOX_SEGMENT_CLOSED;
                else if (w->segment->on_disk)
                        outbox_spare_add(o, w->segment);
                else
                        outbox_segment_free(o, w->segment);
        }
        b->n_writes = 0;
}

/* How many whole records, from at on, fit into room bytes. */
static size_t fitting(const Buffer *data, size_t at, uint64_t room, uint64_t *ret_last_lane_seq) {
        size_t end = at;

        while (end < data->size) {
                size_t size = outbox_record_size(data->data + end);

                if (end - at + size > room)
                        break;
                if (data->data[end + 28] == OUTBOX_RECORD_MESSAGE)
                        *ret_last_lane_seq = get_le64(data->data + end + 40);
                end += size;
        }
        return end - at;
}

static int plan_lane(Outbox *o, OutboxBatch *b, unsigned lane) {
        OutboxLaneState *l = &o->lanes[lane];
        OutboxSegment *s = l->active;
        uint64_t offset = s ? s->end : 0;
        Buffer *data = &b->data[lane];
        size_t at = 0;
        int r;

        r = outbox_lane_reserve_segments(l, data->size / OUTBOX_SEGMENT_SIZE_MIN * 2 + 2);
        if (r < 0)
                return r;
        while (at < data->size) {
                uint64_t last_lane_seq = 0;
                OutboxWrite *w;
                size_t n;

                w = add_write(b);
                if (!w)
                        return -ENOMEM;
                n = s ? fitting(data, at, s->size - offset, &last_lane_seq) : 0;
                if (n == 0) {
                        r = take_segment(o, &s);
                        if (r < 0) {
                                b->n_writes--;
                                return r;
                        }
                        w->segment = s;
                        w->fresh = true; /* so that undoing gives it back */
                        r = start_use(o, b, s, lane, get_le64(data->data + at + 32), get_le64(data->data + at + 40), w);
                        if (r < 0)
                                return r;
                        offset = w->offset;
                        n = offset < s->size ? fitting(data, at, s->size - offset, &last_lane_seq) : 0;
                        if (n == 0)
                                return -ENOSPC; /* the position before it has grown that much since it was admitted */
                }
                w->segment = s;
                w->offset = offset;
                w->data = data->data + at;
                w->size = n;
                w->last_lane_seq = last_lane_seq;
                offset += n;
                at += n;
        }
        return 0;
}

/* Notes what the position of this batch covers; what changes from now on is for the next. */
static int snapshot(Outbox *o, OutboxBatch *b) {
        int r;

        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                r = outbox_settled_set_copy(&b->recorded[i], &o->lanes[i].settled);
                if (r < 0)
                        return r;
        }
        b->n_ends = o->n_ends;
        for (size_t i = 0; i < o->n_drops; i++)
                if (!o->drops[i].recorded)
                        o->drops[i].batch = b->number;
        b->n_unrecorded = o->n_unrecorded;
        return 0;
}

static int append_position(Outbox *o, OutboxBatch *b, bool full, unsigned lane, Buffer *data) {
        OutboxPosition p;
        size_t size;
        int r;

        position_borrow(o, full, &p);
        size = outbox_position_size(&p, o->streams);
        r = buffer_reserve(data, size);
        if (r < 0)
                return r;
        outbox_position_encode(&p, o->streams, lane, data->data + data->size);
        data->size += size;
        b->has_position = true;
        b->position_full = full;
        return 0;
}

static bool position_due(Outbox *o, usec_t now) {
        if (o->n_ends > 0 || o->n_checkpoint_calls > 0 || o->n_unrecorded >= MAX(o->options.position_messages / 2, 1U))
                return true;
        for (size_t i = 0; i < o->n_drops; i++)
                if (!o->drops[i].recorded)
                        return true;
        return now >= usec_add(o->dirty_since, o->options.position_interval_usec);
}

/* A position rides with messages where it costs little: when it is due or half due, or small beside them. */
static bool position_rides(Outbox *o, const OutboxBatch *b, size_t size, usec_t now) {
        uint64_t bytes = 0;

        if (position_due(o, now))
                return true;
        if (o->dirty_since == USEC_INFINITY)
                return false;
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++)
                bytes += b->bytes[i];
        return bytes >= 16 * size || now >= usec_add(o->dirty_since, o->options.position_interval_usec / 2);
}

/* Adds a small position at the end of the lane that is written last, if it fits behind the messages. */
static int plan_riding_position(Outbox *o, OutboxBatch *b) {
        OutboxWrite *w = &b->writes[b->n_writes - 1];
        unsigned lane = w->segment->lane;
        OutboxPosition p;
        size_t size, before = b->data[lane].size;
        int r;

        position_borrow(o, false, &p);
        size = outbox_position_size(&p, o->streams);
        if (!position_rides(o, b, size, outbox_now_boottime(o)) || w->offset + w->size + size > w->segment->size)
                return 0;
        r = append_position(o, b, false, lane, &b->data[lane]);
        if (r < 0)
                return r;
        /* The buffer may have moved. */
        for (size_t i = 0, at = 0; i < b->n_writes; i++)
                if (b->writes[i].segment->lane == lane) {
                        b->writes[i].data = b->data[lane].data + at;
                        at += b->writes[i].size;
                }
        w->size += b->data[lane].size - before;
        return 0;
}

static int plan_messages(Outbox *o, OutboxBatch *b) {
        int r = 0;

        o->n_plan_new = 0;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES && r >= 0; lane++)
                r = plan_lane(o, b, lane);
        /* The file system is asked once a second, and a fast disk fills keep_free in less. */
        if (r >= 0)
                o->fs_free -= MIN(o->fs_free, (uint64_t) o->n_plan_new * o->segment_size);
        o->n_plan_new = 0;
        if (r >= 0 && !b->has_position)
                r = plan_riding_position(o, b);
        if (r >= 0 && b->has_position)
                r = snapshot(o, b);
        if (r < 0) {
                plan_undo(o, b);
                b->has_position = b->position_full = false;
        }
        return r;
}

/* A position segment that is not needed: never the one with the newest durable position. */
static OutboxSegment *take_position_segment(Outbox *o) {
        OutboxSegment *s = NULL;

        for (size_t i = 0; i < o->n_positions; i++) {
                OutboxSegment *c = o->positions[i];

                if (c == o->newest_position || c == o->newest_full || c == o->active_position)
                        continue;
                if (!s || (s->failed && !c->failed) || (s->failed == c->failed && c->first_batch < s->first_batch))
                        s = c;
        }
        if ((!s || s->failed) && o->n_positions < ELEMENTSOF(o->positions)) {
                OutboxSegment *c = outbox_segment_new(o, true, o->next_number, OUTBOX_POSITION_SEGMENT_SIZE);

                if (c) {
                        o->next_number++;
                        o->positions[o->n_positions++] = s = c;
                }
        }
        if (s)
                s->state = OUTBOX_SEGMENT_TAKEN;
        return s;
}

static int plan_position(Outbox *o, OutboxBatch *b, bool full) {
        OutboxSegment *s = o->active_position;
        OutboxPosition p;
        OutboxWrite *w;
        size_t size;
        int r;

        position_borrow(o, full, &p);
        size = outbox_position_size(&p, o->streams);
        w = add_write(b);
        if (!w)
                return -ENOMEM;
        if (s && o->position_offset + size <= s->size) {
                Buffer *data = &b->data[OUTBOX_LANE_POSITION];

                data->size = 0;
                r = append_position(o, b, full, OUTBOX_LANE_POSITION, data);
                *w = (OutboxWrite) { .segment = s, .offset = o->position_offset, .data = data->data, .size = data->size };
        } else {
                s = take_position_segment(o);
                if (!s) {
                        b->n_writes--;
                        return -ENOMEM;
                }
                w->segment = s;
                w->fresh = true;
                /* Larger than usual only when damage has left thousands of gaps. */
                s->size = (uint32_t) MAX((uint64_t) s->size, OUTBOX_SEGMENT_HEADER_SIZE + (uint64_t) size);
                outbox_segment_close_fds(o, s);
                r = start_use(o, b, s, OUTBOX_LANE_POSITION, o->next_seq, 1, w);
        }
        if (r >= 0)
                r = snapshot(o, b);
        if (r < 0)
                plan_undo(o, b);
        return r;
}

/* --- submit --- */

static bool batch_has_messages(const OutboxBatch *b) {
        return b && b->first_seq > 0;
}

static void hand_over(Outbox *o, OutboxBatch *b) {
        if (b->has_position) {
                o->dirty_since = USEC_INFINITY;
                if (b->position_full)
                        o->want_full = false;
        }
        b->io = o->io;
        b->dir_fd = o->dir_fd;
        b->sync_dir = o->dir_unsynced;
        b->job.run = outbox_batch_run;
        o->running = b;
        if (batch_has_messages(b))
                outbox_admission_reset(o);
        outbox_worker_submit(o->commit, &b->job);
}

/* A closed segment whose messages have all ended waits for a full position that is newer than its last batch. */
static bool release_wants_full(Outbox *o) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; i < l->n_segments; i++) {
                        if (!segment_is_done(l->segments[i], &l->settled)) {
                                if (l->settled.n == 0)
                                        break; /* nothing behind it has ended */
                        } else if (l->segments[i]->last_batch >= o->full_recorded_batch)
                                return true;
                }
        }
        return false;
}

static int submit_position(Outbox *o, bool full) {
        OutboxBatch *b;
        int r;

        b = o->idle_batch ? TAKE_PTR(o->idle_batch) : calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->number = o->next_batch;
        r = plan_position(o, b, full || o->want_full || o->n_checkpoint_calls > 0 || release_wants_full(o));
        if (r < 0) {
                batch_recycle(o, b);
                return r;
        }
        o->next_batch++;
        /* A checkpoint is told when this is durable. */
        for (size_t i = 0; i < o->n_checkpoint_calls; i++)
                if (outbox_calls_add(&b->calls, &b->n_calls, &b->calls_allocated, &o->checkpoint_calls[i]) < 0)
                        break;
        if (o->n_checkpoint_calls > b->n_calls)
                memmove(o->checkpoint_calls, o->checkpoint_calls + b->n_calls,
                        (o->n_checkpoint_calls - b->n_calls) * sizeof(*o->checkpoint_calls));
        o->n_checkpoint_calls -= b->n_calls;
        hand_over(o, b);
        return 0;
}

static void tell_calls(OutboxCall *calls, size_t n, int error) {
        for (size_t i = 0; i < n; i++)
                if (calls[i].callback)
                        calls[i].callback(error, error < 0 ? 0 : calls[i].first, error < 0 ? 0 : calls[i].last,
                                          error < 0 ? 0 : calls[i].n_duplicates, calls[i].userdata);
}

/* The lane sequence numbers given out since the newest durable message will not be used: they count as settled, so
 * that nobody misses them, and are not given out again, so that what may be on disk of them stays void. */
static void void_pending(Outbox *o) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                if (l->next_lane_seq <= l->tail + 1)
                        continue;
                if (outbox_settled_set_reserve(&l->settled, l->n_entries + 4) < 0) {
                        l->next_lane_seq = l->tail + 1; /* without memory: rather used again than taken for lost */
                        continue;
                }
                (void) outbox_settled_set_add(&l->settled, l->tail + 1, l->next_lane_seq - 1); /* reserved */
                l->tail = l->next_lane_seq - 1;
        }
        outbox_dirty(o);
}

/* Ends the open batch with an error. The open batch is another one before the first callback runs. */
void outbox_commit_cancel_open(Outbox *o, int error) {
        OutboxBatch *b = TAKE_PTR(o->open);

        assert(!o->running);
        /* Nothing of it was written: its lane sequence numbers may be given out again. */
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                o->lanes[lane].next_lane_seq = o->lanes[lane].tail + 1;
        outbox_stream_rollback(o->streams);
        outbox_admission_reset(o);
        if (b) {
                tell_calls(b->calls, b->n_calls, error);
                batch_recycle(o, b);
        }
}

static void submit_messages(Outbox *o) {
        OutboxBatch *b = o->open;
        int r;

        b->number = o->next_batch;
        outbox_check_fs(o, false);
        r = plan_messages(o, b);
        if (r >= 0) {
                o->next_batch++;
                o->open = NULL;
                hand_over(o, b);
                return;
        }
        if (r == -ENOSPC && segments_releasable(o) > 0) {
                /* What was counted on is not free yet: its end is recorded first, then told, then it is free. */
                for (size_t i = 0; i < o->n_drops; i++)
                        if (o->drops[i].recorded) {
                                /* The telling may wait for a disk that does not read; what is due is recorded meanwhile. */
                                if (position_due(o, outbox_now_boottime(o)))
                                        (void) submit_position(o, true); /* without memory: the next turn tries again */
                                return;
                        }
                if (release_wants_full(o) || position_due(o, USEC_INFINITY - 1)) {
                        if (submit_position(o, true) >= 0)
                                return;
                }
        }
        outbox_commit_cancel_open(o, r);
}

void outbox_commit_submit(Outbox *o) {
        usec_t now;

        if (o->running)
                return;
        now = outbox_now_boottime(o);
        if (o->disk_error < 0) {
                if (now >= o->probe_at && submit_position(o, true) < 0)
                        o->probe_at = usec_add(now, o->probe_delay);
                return;
        }
        if (o->need_checkpoint) {
                if (submit_position(o, true) < 0)
                        outbox_commit_cancel_open(o, -ENOMEM);
                return;
        }
        if (batch_has_messages(o->open))
                submit_messages(o);
        else if (position_due(o, now))
                (void) submit_position(o, false); /* without memory: the next turn tries again */
}

usec_t outbox_commit_deadline(Outbox *o) {
        usec_t deadline;

        if (o->running)
                return USEC_INFINITY;
        if (o->disk_error < 0)
                return o->probe_at;
        deadline = usec_add(o->dirty_since, o->options.position_interval_usec);
        if (o->is_full)
                deadline = MIN(deadline, usec_add(o->fs_checked_at, USEC_PER_SEC));
        return deadline;
}

/* --- complete --- */

static unsigned spares_wanted(Outbox *o) {
        unsigned n_lanes = 0, n_most;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                if (o->lanes[lane].n_segments > 0 || o->lanes[lane].next_lane_seq > 1)
                        n_lanes++;
        if (o->fs_free < o->keep_free)
                return 0;
        n_most = MAX(o->n_segments_max / 4, 1U);
        return MIN(2 * n_lanes, n_most);
}

static void release_segment(Outbox *o, OutboxLaneState *l, OutboxSegment *s) {
        outbox_lane_remove_segment(l, s);
        outbox_segment_close_fds(o, s);
        if (s->damaged && !s->unlinked && !s->gone && o->n_evidence < OUTBOX_EVIDENCE_MAX)
                discard_segment(o, s, true);
        else if (s->damaged || s->unlinked || s->failed || s->size != o->segment_size || o->n_spares >= spares_wanted(o))
                discard_segment(o, s, false);
        else
                outbox_spare_add(o, s);
}

void outbox_release_segments(Outbox *o) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; i < l->n_segments;) {
                        OutboxSegment *s = l->segments[i];

                        if (s->n_pins == 0 && segment_is_done(s, &l->recorded) && s->last_batch < o->full_recorded_batch)
                                release_segment(o, l, s);
                        else if (l->recorded.n == 0 && !segment_is_done(s, &l->recorded))
                                break;
                        else
                                i++;
                }
        }
        while (o->n_spares > 0 && o->fs_free < o->keep_free)
                discard_segment(o, o->spares[--o->n_spares], false);
}

/* A new segment, made before it is needed, so that no batch waits for it. */
typedef struct OutboxCreateJob {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        OutboxSegment *segment;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        int result;
} OutboxCreateJob;

static void create_run(OutboxJob *job) {
        OutboxCreateJob *j = container_of(job, OutboxCreateJob, job.job);

        j->result = outbox_segment_create(j->io, j->dir_fd, j->name, j->segment->size);
}

static void create_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxCreateJob *j = container_of(job, OutboxCreateJob, job);

        o->creating = false;
        if (j->result < 0) {
                block_create(o);
                outbox_segment_free(o, j->segment);
        } else {
                j->segment->on_disk = true;
                outbox_spare_add(o, j->segment);
        }
        free(j);
}

/* Keeps one spare ahead of a lane whose segment is half full. */
static void create_spare(Outbox *o) {
        OutboxCreateJob *j;
        bool wanted = false;

        if (o->n_spares > 0 || o->creating || o->closing || o->disk_error < 0)
                return;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                if (o->lanes[lane].active && o->lanes[lane].active->end > o->segment_size / 2)
                        wanted = true;
        if (!wanted)
                return;
        outbox_check_fs(o, true);
        if (segments_creatable(o) <= o->n_new_planned)
                return;
        j = malloc(sizeof(*j));
        if (!j)
                return; /* the batch that needs it makes it */
        *j = (OutboxCreateJob) {
                .job = { .job = { .run = create_run }, .done = create_done },
                .io = o->io,
                .dir_fd = o->dir_fd,
                .segment = outbox_segment_new(o, false, o->next_number, o->segment_size),
        };
        if (!j->segment) {
                free(j);
                return;
        }
        outbox_segment_name(false, o->next_number++, j->name);
        o->creating = true;
        outbox_worker_submit(o->background, &j->job.job);
}

static void complete_writes(Outbox *o, OutboxBatch *b) {
        for (size_t i = 0; i < b->n_writes; i++) {
                OutboxWrite *w = &b->writes[i];
                OutboxSegment *s = w->segment;
                OutboxLaneState *l;

                s->end = w->offset + w->size;
                s->last_batch = b->number;
                if (s->position) {
                        if (o->active_position && o->active_position != s) {
                                o->active_position->state = OUTBOX_SEGMENT_CLOSED;
                                outbox_segment_close_fds(o, o->active_position);
                        }
                        s->state = OUTBOX_SEGMENT_ACTIVE;
                        o->active_position = s;
                        o->position_offset = s->end;
                        continue;
                }
                l = &o->lanes[s->lane];
                if (w->last_lane_seq > 0)
                        s->last_lane_seq = w->last_lane_seq;
                if (w->fresh) {
                        outbox_lane_close_active(o, l);
                        s->state = OUTBOX_SEGMENT_ACTIVE;
                        l->active = s;
                        outbox_lane_add_segment(l, s); /* the plan reserved it */
                }
        }
}

static void complete_messages(Outbox *o, OutboxBatch *b) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                if (b->n_messages[lane] == 0)
                        continue;
                l->tail = b->last_lane_seq[lane];
                l->n_queued += b->n_messages[lane];
                l->queued_bytes += b->bytes[lane];
                o->totals.accepted += b->n_messages[lane];
        }
        if (batch_has_messages(b)) {
                o->durable_seq = b->last_seq;
                o->newest_realtime_usec = b->newest_realtime_usec;
                o->unsealed = true;
        }
        for (size_t i = 0; i < b->n_calls; i++) {
                OutboxStreamEntry *e;

                if (!b->calls[i].has_stream)
                        continue;
                e = outbox_stream_find(o->streams, b->calls[i].stream);
                if (e)
                        e->next = MAX(e->next, b->calls[i].stream_next);
        }
}

static void complete_position(Outbox *o, OutboxBatch *b) {
        OutboxSegment *position = b->writes[0].segment->position ? b->writes[0].segment : NULL;

        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                OutboxSettledSet t = o->lanes[i].recorded;

                o->lanes[i].recorded = b->recorded[i];
                b->recorded[i] = t;
        }
        o->newest_position = position;
        if (b->position_full) {
                o->full_recorded_batch = b->number;
                o->newest_full = position;
        }
        if (position)
                o->need_checkpoint = o->unsealed = false;
        o->n_unrecorded -= b->n_unrecorded;
}

static void disk_works(Outbox *o) {
        if (o->disk_error == 0)
                return;
        o->disk_error = 0;
        o->probe_delay = 0;
        outbox_notice(o, LOG_NOTICE, MSG_OUTBOX_DISK_OK, "The disk of the outbox takes writes again");
        outbox_rejects_retry(o, /* now= */ true);
}

static void disk_failed(Outbox *o, int error) {
        usec_t now = outbox_now_boottime(o);
        bool first = o->disk_error == 0;

        o->disk_error = error;
        o->need_checkpoint = true;
        o->probe_delay = o->probe_delay ? MIN(2 * o->probe_delay, PROBE_DELAY_MAX) : PROBE_DELAY_MIN;
        o->probe_at = usec_add(now, o->probe_delay);
        if (error == -ENOSPC || error == -EDQUOT)
                block_create(o);
        for (size_t i = 0; i < o->n_positions; i++)
                o->positions[i]->failed = false; /* the next try may take any of them */
        if (first)
                outbox_notice(o, LOG_ERR, MSG_OUTBOX_DISK_ERROR,
                              "Cannot write to the outbox, refusing new messages until it works again: %s", strerror(-error));
}

/* The segments that a failed batch touched get nothing any more. */
static void abandon_segments(Outbox *o, OutboxBatch *b) {
        for (size_t i = 0; i < b->n_writes; i++) {
                OutboxWrite *w = &b->writes[i];
                OutboxSegment *s = w->segment;

                free(w->head);
                w->head = NULL;
                s->unlinked = s->unlinked || w->unlinked;
                if (i + 1 < b->n_writes && b->writes[i + 1].segment == s)
                        continue;
                s->failed = true;
                if (s->position) {
                        s->state = OUTBOX_SEGMENT_CLOSED;
                        outbox_segment_close_fds(o, s);
                        if (o->active_position == s)
                                o->active_position = NULL;
                        continue;
                }
                /* Also the active one that a fresh one was to follow: a later message in it would lie behind the
                 * first of the fresh one, which may stay on the disk and speak for it. */
                outbox_lane_close_active(o, &o->lanes[s->lane]);
                if (w->fresh)
                        discard_segment(o, s, false);
        }
        b->n_writes = 0;
}

static bool retry(Outbox *o, OutboxBatch *b) {
        bool messages = batch_has_messages(b);
        int r;

        abandon_segments(o, b);
        if (b->attempt++ > 0)
                return false;
        b->has_position = b->position_full = false;
        /* The number stays: a new one would call the first try synced, and a crash now would leave half of a call as if
         * it had been promised. That this is the newer of the two is in the headers of its segments. */
        if (messages) {
                for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                        b->data[lane].size = b->bytes[lane]; /* without a position that rode along */
                        for (size_t at = 0; at < b->data[lane].size; at += outbox_record_size(b->data[lane].data + at))
                                outbox_record_reopen(b->data[lane].data + at);
                }
                r = plan_messages(o, b);
        } else
                r = plan_position(o, b, true);
        if (r < 0)
                return false;
        hand_over(o, b);
        return true;
}

static void complete_failure(Outbox *o, OutboxBatch *b) {
        int error = b->result;

        if (retry(o, b))
                return;
        outbox_dirty(o);
        disk_failed(o, error);
        void_pending(o);
        tell_calls(b->calls, b->n_calls, error);
        batch_recycle(o, b);
        outbox_commit_cancel_open(o, error);
}

void outbox_commit_complete(Outbox *o, OutboxBatch *b) {
        assert(b == o->running);
        o->running = NULL;
        o->n_batches++;
        o->n_syncs += b->n_syncs;
        o->bytes_written += b->bytes_written;
        b->n_syncs = b->bytes_written = 0;
        if (b->result < 0) {
                complete_failure(o, b);
                return;
        }

        if (b->sync_dir)
                o->dir_unsynced = false;
        complete_writes(o, b);
        if (b->has_position)
                complete_position(o, b);
        complete_messages(o, b);
        disk_works(o);
        outbox_release_segments(o);
        create_spare(o);
        tell_calls(b->calls, b->n_calls, 0);
        if (b->has_position) {
                outbox_ends_recorded(o, b->number, b->n_ends);
                outbox_write_receipts(o); /* also of the ends that were told just now */
        }
        batch_recycle(o, b);
}

int outbox_commit_position_now(Outbox *o) {
        int r;

        assert(!o->running);
        r = submit_position(o, true);
        while (r >= 0 && o->running) {
                OutboxJob *j;

                outbox_worker_wait(o->commit);
                j = outbox_worker_take(o->commit);
                if (j)
                        outbox_commit_complete(o, container_of(j, OutboxBatch, job));
        }
        return r < 0 ? r : o->disk_error;
}
