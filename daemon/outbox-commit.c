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

#include "daemon/log.h"

#define BUFFER_KEPT_MAX (256U * 1024U)
#define PROBE_DELAY_MIN USEC_PER_SEC
#define PROBE_DELAY_MAX (30 * USEC_PER_SEC)

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
                        if (!outbox_segment_is_done(l->segments[i], &l->settled)) {
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
        r = outbox_plan_position(o, b, full || o->want_full || o->n_checkpoint_calls > 0 || release_wants_full(o));
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
        r = outbox_plan_messages(o, b);
        if (r >= 0) {
                o->next_batch++;
                o->open = NULL;
                hand_over(o, b);
                return;
        }
        if (r == -ENOSPC && outbox_segments_releasable(o) > 0) {
                /* What was counted on is not free yet: its end is recorded first, then told, then it is free. */
                for (size_t i = 0; i < o->n_drops; i++)
                        if (o->drops[i].recorded) {
                                /* The telling may wait for a disk that does not read; what is due is recorded meanwhile. */
                                if (outbox_position_due(o, outbox_now_boottime(o)))
                                        (void) submit_position(o, true); /* without memory: the next turn tries again */
                                return;
                        }
                if (release_wants_full(o) || outbox_position_due(o, USEC_INFINITY - 1)) {
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
        else if (outbox_position_due(o, now))
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
                outbox_discard_segment(o, s, true);
        else if (s->damaged || s->unlinked || s->failed || s->size != o->segment_size || o->n_spares >= spares_wanted(o))
                outbox_discard_segment(o, s, false);
        else
                outbox_spare_add(o, s);
}

void outbox_release_segments(Outbox *o) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; i < l->n_segments;) {
                        OutboxSegment *s = l->segments[i];

                        if (s->n_pins == 0 && outbox_segment_is_done(s, &l->recorded) && s->last_batch < o->full_recorded_batch)
                                release_segment(o, l, s);
                        else if (l->recorded.n == 0 && !outbox_segment_is_done(s, &l->recorded))
                                break;
                        else
                                i++;
                }
        }
        while (o->n_spares > 0 && o->fs_free < o->keep_free)
                outbox_discard_segment(o, o->spares[--o->n_spares], false);
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
                outbox_block_create(o);
                outbox_segment_free(o, j->segment);
        } else {
                o->create_blocked_until = 0;
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
        if (!outbox_spare_may_be_made(o))
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
                outbox_block_create(o);
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
                        outbox_discard_segment(o, s, false);
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
                r = outbox_plan_messages(o, b);
        } else
                r = outbox_plan_position(o, b, true);
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
