/* Drop-oldest: whole segments give way, bulk before normal, never urgent, never what is in flight. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>

#define TELL_MAX 256U /* messages read and told in one turn */
#define TELL_TRIES 5U /* half a minute in all, before the rest goes untold: senders may wait for the segment */

static bool drop_has_protected(OutboxLaneState *l, const OutboxSegment *s) {
        for (size_t i = 0; i < l->n_entries; i++) {
                const OutboxEntry *e = outbox_lane_entry(l, i);

                if (e->segment == s && e->state != OUTBOX_ENTRY_READY)
                        return true;
        }
        return false;
}

static void drop_entries(OutboxLaneState *l, const OutboxSegment *s) {
        for (size_t i = 0; i < l->n_entries;)
                if (outbox_lane_entry(l, i)->segment == s)
                        outbox_lane_remove_entry(l, i);
                else
                        i++;
        if (l->peeked && l->peek.segment == s)
                l->peeked = false;
}

static OutboxSegment *drop_candidate(Outbox *o, OutboxLane lane) {
        OutboxLaneState *l = &o->lanes[lane];

        for (size_t i = 0; i < l->n_segments; i++) {
                OutboxSegment *s = l->segments[i];

                if (s->state == OUTBOX_SEGMENT_CLOSED && s->last_lane_seq >= s->first_lane_seq && s->n_pins == 0 &&
                    outbox_settled_set_missing(&l->settled, s->first_lane_seq, s->last_lane_seq) > 0 &&
                    !drop_has_protected(l, s))
                        return s;
        }
        return NULL;
}

static int drop_segment(Outbox *o, OutboxLane lane, OutboxSegment *s) {
        OutboxLaneState *l = &o->lanes[lane];
        OutboxDrop d = { .segment = s, .lane = lane, .offset = OUTBOX_SEGMENT_HEADER_SIZE };
        int r;

        if (o->n_drops == o->drops_allocated) {
                size_t n = o->drops_allocated ? 2 * o->drops_allocated : 4;
                OutboxDrop *drops = reallocarray(o->drops, n, sizeof(*drops));

                if (!drops)
                        return -ENOMEM;
                o->drops = drops;
                o->drops_allocated = n;
        }
        d.n = outbox_settled_set_missing(&l->settled, s->first_lane_seq, s->last_lane_seq);
        /* The bytes are known only by reading; the average of the lane is near enough for a figure in the status. */
        d.bytes = l->n_queued > 0 ? (uint64_t) ((double) l->queued_bytes / (double) l->n_queued * (double) d.n) : 0;
        r = outbox_settled_set_copy(&d.before, &l->settled);
        if (r < 0)
                return r;
        r = outbox_settled_set_reserve(&l->settled, l->n_entries + 4);
        if (r < 0) {
                outbox_settled_set_done(&d.before);
                return r;
        }
        (void) outbox_settled_set_add(&l->settled, s->first_lane_seq, s->last_lane_seq); /* reserved */
        drop_entries(l, s);
        s->n_pins++;
        o->deciding[OUTBOX_END_DROPPED] += d.n;
        l->n_deciding += d.n;
        l->deciding_bytes += d.bytes;
        o->drops[o->n_drops++] = d;
        outbox_wake(o);
        return 0;
}

bool outbox_drop_oldest(Outbox *o) {
        static const OutboxLane order[] = { OUTBOX_LANE_BULK, OUTBOX_LANE_NORMAL };

        for (size_t i = 0; i < ELEMENTSOF(order); i++) {
                OutboxSegment *s = drop_candidate(o, order[i]);

                if (s)
                        return drop_segment(o, order[i], s) >= 0;
        }
        return false;
}

/* Reads some of the dropped messages, on the background thread: the segment is an old one. */
typedef struct OutboxTellJob {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        OutboxSegment *segment;
        uint64_t salt, offset, end, next_offset;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        OutboxEntry entries[TELL_MAX];
        size_t n;
        bool finished;
        int error;
} OutboxTellJob;

static void tell_run(OutboxJob *job) {
        OutboxTellJob *j = container_of(job, OutboxTellJob, job.job);
        OutboxSegmentScan scan;
        OutboxRecord record;
        uint64_t offset;
        int fd;

        fd = j->io->openat(j->io, j->dir_fd, j->name, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0) {
                j->error = fd;
                return;
        }
        outbox_segment_scan_file(&scan, j->io, fd, j->salt, j->offset, j->end);
        j->finished = true;
        while (outbox_segment_scan_next(&scan, &record, &offset) > 0) {
                OutboxMessageRecord m;

                if (outbox_message_record_decode(&record, &m) >= 0)
                        outbox_entry_from_record(&m, NULL, offset, (uint32_t) record.size, &j->entries[j->n++]);
                j->next_offset = offset + record.size;
                if (j->n == TELL_MAX) {
                        j->finished = false;
                        break;
                }
        }
        if (scan.unreadable)
                j->error = -EIO;
        outbox_segment_scan_done(&scan);
        (void) j->io->close(j->io, fd); /* read only */
}

static void drop_finish(Outbox *o, OutboxDrop *d) {
        d->segment->n_pins--;
        outbox_settled_set_done(&d->before);
        memmove(d, d + 1, (size_t) (o->drops + o->n_drops - d - 1) * sizeof(*d));
        o->n_drops--;
        outbox_release_segments(o);
}

static void tell_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxTellJob *j = container_of(job, OutboxTellJob, job);
        OutboxDrop *d = &o->drops[0]; /* they are told in order, one at a time */

        if (j->error < 0 && j->error != -ENOENT && d->n_failures < TELL_TRIES) {
                /* The disk may come back, and who waits for these messages wants to hear of them. */
                d->telling = false;
                d->retry_at = usec_add(outbox_now_boottime(o), USEC_PER_SEC << d->n_failures++);
                free(j);
                return;
        }
        for (size_t i = 0; i < j->n; i++) {
                const OutboxEntry *e = &j->entries[i];

                if (e->lane_seq >= d->segment->first_lane_seq && e->lane_seq <= d->segment->last_lane_seq &&
                    !outbox_settled_set_contains(&d->before, e->lane_seq)) {
                        /* A record can be there twice only behind the end of what was durable: not here. */
                        outbox_tell(o, d->lane, e, OUTBOX_END_DROPPED, "the outbox was full");
                        d = &o->drops[0]; /* a callback may have added one */
                }
        }
        d->offset = j->next_offset;
        d->telling = false;
        if (j->finished || j->error < 0) {
                drop_finish(o, d);
                outbox_write_receipts(o);
        }
        free(j);
        outbox_wake(o);
}

bool outbox_drops_tell(Outbox *o) {
        OutboxTellJob *j;
        OutboxDrop *d;

        if (o->n_drops == 0)
                return false;
        d = &o->drops[0];
        if (!d->recorded || d->telling || outbox_now_boottime(o) < d->retry_at)
                return false;
        j = malloc(sizeof(*j));
        if (!j)
                return false; /* the next turn tries again */
        *j = (OutboxTellJob) {
                .job = { .job = { .run = tell_run }, .done = tell_done },
                .io = o->io,
                .dir_fd = o->dir_fd,
                .segment = d->segment,
                .salt = d->segment->salt,
                .offset = d->offset,
                .next_offset = d->offset,
                .end = d->segment->end,
        };
        outbox_segment_name(false, d->segment->number, j->name);
        d->telling = true;
        outbox_worker_submit(o->background, &j->job.job);
        return true;
}

usec_t outbox_drops_deadline(Outbox *o) {
        return o->n_drops > 0 && o->drops[0].recorded && !o->drops[0].telling && o->drops[0].retry_at > 0 ? o->drops[0].retry_at
                                                                                                     : USEC_INFINITY;
}
