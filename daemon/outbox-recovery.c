/* Start-up. Reads the header of every segment, finds the newest full position among their first records, and scans
 * only the segments that can hold something newer: the last of each lane and the position segments, as each new
 * segment starts with a full position. What is done with each kind of damage: docs/outbox-format.md. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/random.h>

#include "daemon/log.h"

#define READ_TRIES 3U /* before a part that cannot be read is taken for damage */

typedef struct FoundSegment {
        OutboxSegment *segment;
        uint32_t number;
        bool position;
        bool scan;
        bool header_damaged;
        bool unreadable;      /* in part, time and again */
} FoundSegment;

/* A message of the last batch, which nothing proves to be synced. */
typedef struct LastMessage {
        uint64_t seq, lane_seq, position;
        usec_t realtime_usec;
        uint32_t size, uid;
        uint8_t lane;
        bool first_of_call, last_of_call, has_stream, keep;
        uint8_t stream[16];
} LastMessage;

typedef struct Recovery {
        Outbox *o;
        FoundSegment *found;
        size_t n_found, n_allocated;
        bool boot_known;
        uint64_t full_batch;          /* of the newest full position known */
        uint64_t position_batch;
        uint64_t last_batch;          /* the newest seen */
        uint64_t synced_batch;        /* the newest known to be synced */
        uint8_t *full, *position;     /* copies of the newest records */
        OutboxSegment *newest_position, *newest_full;
        uint64_t last_seq;            /* the newest seen */
        uint64_t newest_seq;          /* the newest kept */
        uint64_t n_lost;
        uint64_t outbox_id;           /* from a header */
        LastMessage *last;
        size_t n_last, last_allocated;

        /* of the lane that the second pass is at */
        uint64_t expected;            /* the next lane_seq */
        uint64_t position_tail, last_seen;
        int error;
} Recovery;

static void recovery_done(Recovery *r) {
        for (size_t i = 0; i < r->n_found; i++)
                outbox_segment_free(r->o, r->found[i].segment);
        free(r->found);
        free(r->full);
        free(r->position);
        free(r->last);
}

static int found_file(const char *name, void *userdata) {
        Recovery *r = userdata;
        uint32_t number;
        bool position;

        if (outbox_evidence_name_parse(name, &number) >= 0) {
                r->o->next_number = MAX(r->o->next_number, number + 1);
                outbox_evidence_add(r->o, number, r->o->segment_size); /* as long as nobody has looked */
                return 0;
        }
        if (outbox_segment_name_parse(name, &position, &number) < 0)
                return 0; /* not ours to judge */
        if (r->n_found == r->n_allocated) {
                size_t n = r->n_allocated ? 2 * r->n_allocated : 64;
                FoundSegment *f = reallocarray(r->found, n, sizeof(*f));

                if (!f)
                        return -ENOMEM;
                r->found = f;
                r->n_allocated = n;
        }
        r->found[r->n_found++] = (FoundSegment) { .number = number, .position = position };
        r->o->next_number = MAX(r->o->next_number, number + 1);
        return 0;
}

static int segment_open(Outbox *o, OutboxSegment *s) {
        char name[OUTBOX_SEGMENT_NAME_MAX];

        if (s->read_fd >= 0)
                return 0;
        outbox_segment_name(s->position, s->number, name);
        s->read_fd = o->io->openat(o->io, o->dir_fd, name, O_RDONLY | O_CLOEXEC, 0);
        return s->read_fd < 0 ? s->read_fd : 0;
}

static void segment_close(Outbox *o, OutboxSegment *s) {
        if (s->read_fd >= 0)
                (void) o->io->close(o->io, s->read_fd); /* read only */
        s->read_fd = -EBADF;
}

static void learn_from_record(OutboxSegment *s, const OutboxRecord *record) {
        OutboxMessageRecord m;

        if (s->salt == 0 || (record->salt != s->salt && record->batch > s->last_batch)) {
                s->salt = record->salt;
                s->lane = record->lane;
                s->first_batch = record->batch;
                s->first_lane_seq = 0;
        }
        if (record->salt != s->salt)
                return;
        s->last_batch = MAX(s->last_batch, record->batch);
        if (s->first_lane_seq == 0 && outbox_message_record_decode(record, &m) >= 0) {
                s->first_lane_seq = m.lane_seq;
                s->first_seq = m.seq;
        }
}

/* Without a header the records tell, those of the newest use. A payload cannot imitate one of them as long as its own
 * record is whole, because the scan steps over whole records. 1: in use; 0: no record; -EIO. */
static int segment_from_records(OutboxSegment *s, const OutboxIo *io) {
        bool unreadable = true;
        int r = 0;

        for (unsigned i = 0; i < READ_TRIES && unreadable; i++) {
                OutboxSegmentScan scan;
                OutboxRecord record;
                uint64_t offset;

                s->salt = s->first_lane_seq = s->last_batch = 0;
                outbox_segment_scan_file(&scan, io, s->read_fd, 0, OUTBOX_SEGMENT_HEADER_SIZE, s->end);
                while ((r = outbox_segment_scan_next(&scan, &record, &offset)) > 0)
                        learn_from_record(s, &record);
                unreadable = scan.unreadable;
                if (r == 0 && unreadable && !scan.readable)
                        r = -EIO; /* the disk is away, or as good as */
                outbox_segment_scan_done(&scan);
        }
        if (r < 0)
                return r;
        s->first_lane_seq = MAX(s->first_lane_seq, (uint64_t) 1); /* positions only */
        return s->salt != 0;
}

static ssize_t read_header(const OutboxIo *io, int fd, uint8_t data[static OUTBOX_SEGMENT_HEADER_SIZE]) {
        ssize_t n = -EIO;

        for (unsigned i = 0; i < READ_TRIES && n < 0; i++)
                n = outbox_read_full(io, fd, data, OUTBOX_SEGMENT_HEADER_SIZE, 0);
        return n;
}

/* 1: a segment in use; 0: a spare; -EBADMSG: nothing to be had from it. */
static int segment_load(Recovery *r, FoundSegment *f) {
        uint8_t data[OUTBOX_SEGMENT_HEADER_SIZE];
        OutboxSegment *s = f->segment;
        OutboxSegmentHeader h;
        uint64_t size;
        int q;

        q = r->o->io->fsize(r->o->io, s->read_fd, &size);
        if (q < 0)
                return q;
        s->on_disk = true;
        s->state = OUTBOX_SEGMENT_CLOSED;
        if (size < OUTBOX_SEGMENT_HEADER_SIZE)
                return -EBADMSG;
        q = read_header(r->o->io, s->read_fd, data) == (ssize_t) sizeof(data) ? outbox_segment_header_decode(data, &h) : -EBADMSG;
        if (q == -EPROTONOSUPPORT)
                return q;
        if (q < 0) {
                bool zeros = q == -ENODATA;

                outbox_segment_set_size(r->o, s, (uint32_t) MIN(size, (uint64_t) OUTBOX_SEGMENT_SIZE_MAX));
                s->end = s->size;
                f->header_damaged = true;
                q = segment_from_records(s, r->o->io);
                /* Zeros as far as one can see are a file that was never used. */
                return q != 0 ? q : zeros ? 0 : -EBADMSG;
        }
        outbox_segment_set_size(r->o, s, h.size);
        s->end = MIN(size, (uint64_t) h.size);
        s->damaged = size < h.size; /* the size of a segment never changes */
        s->lane = h.lane;
        s->salt = h.salt;
        s->first_batch = s->last_batch = h.batch;
        s->attempt = h.attempt;
        s->first_lane_seq = h.first_lane_seq;
        s->first_seq = h.first_seq;
        s->same_boot = memcmp(h.boot_id, r->o->clock.boot_id, sizeof(h.boot_id)) == 0;
        r->outbox_id = h.outbox_id;
        return 1;
}

static int remember(uint8_t **copy, const OutboxRecord *record) {
        uint8_t *p = realloc(*copy, record->size);

        if (!p)
                return -ENOMEM;
        memcpy(p, record->data, record->size);
        *copy = p;
        return 0;
}

static int see_position(Recovery *r, const OutboxRecord *record, OutboxSegment *s) {
        bool full;
        int q = 0;

        if (!outbox_position_is(record, &full))
                return 0;
        if (record->batch >= r->position_batch) {
                r->position_batch = record->batch;
                r->newest_position = s->position ? s : NULL;
                q = remember(&r->position, record);
        }
        if (q >= 0 && full && record->batch >= r->full_batch) {
                r->full_batch = record->batch;
                r->newest_full = s->position ? s : NULL;
                q = remember(&r->full, record);
        }
        return q;
}

/* The first record of a use is a full position: the newest use has the newest, unless it is damaged. */
static int see_first_records(Recovery *r) {
        uint64_t below = UINT64_MAX;

        while (!r->full) {
                OutboxSegmentScan scan;
                OutboxSegment *s = NULL;
                OutboxRecord record;
                uint64_t offset, batch = 0;
                int q;

                for (size_t i = 0; i < r->n_found; i++)
                        if (r->found[i].segment->first_batch < below && r->found[i].segment->first_batch >= batch) {
                                s = r->found[i].segment;
                                batch = s->first_batch;
                        }
                if (!s)
                        break;
                below = s->first_batch;
                for (size_t i = 0; i < r->n_found; i++) {
                        s = r->found[i].segment;
                        if (s->first_batch != below)
                                continue;
                        q = segment_open(r->o, s);
                        if (q < 0)
                                return q;
                        outbox_segment_scan_file(&scan, r->o->io, s->read_fd, s->salt, OUTBOX_SEGMENT_HEADER_SIZE, s->end);
                        q = outbox_segment_scan_next(&scan, &record, &offset);
                        if (q > 0)
                                q = see_position(r, &record, s);
                        outbox_segment_scan_done(&scan);
                        segment_close(r->o, s);
                        if (q < 0)
                                return q;
                }
        }
        return 0;
}

static int compare_found(const void *a, const void *b) {
        const OutboxSegment *x = ((const FoundSegment *) a)->segment, *y = ((const FoundSegment *) b)->segment;

        if (x->lane != y->lane)
                return x->lane < y->lane ? -1 : 1;
        if (x->first_lane_seq != y->first_lane_seq && x->lane != OUTBOX_LANE_POSITION)
                return x->first_lane_seq < y->first_lane_seq ? -1 : 1;
        if (x->first_batch != y->first_batch)
                return x->first_batch < y->first_batch ? -1 : 1;
        if (x->attempt != y->attempt)
                return x->attempt < y->attempt ? -1 : 1;
        return x->number < y->number ? -1 : x->number > y->number;
}

/* A file that holds nothing that is needed: a spare, or something that cannot be used. */
static int keep_or_remove(Recovery *r, OutboxSegment *s, bool spare) {
        Outbox *o = r->o;
        char name[OUTBOX_SEGMENT_NAME_MAX], aside[OUTBOX_SEGMENT_NAME_MAX];

        if (spare && s->position && s->size == OUTBOX_POSITION_SEGMENT_SIZE && o->n_positions < ELEMENTSOF(o->positions)) {
                o->positions[o->n_positions++] = s;
                return 0;
        }
        if (spare && !s->position && s->size == o->segment_size) {
                outbox_spare_add(o, s);
                return 0;
        }
        /* A first write that was torn, a file that was not finished, or damage that left no record. */
        outbox_segment_name(s->position, s->number, name);
        if (!spare && !s->position && o->n_evidence < OUTBOX_EVIDENCE_MAX) {
                outbox_evidence_name(s->number, aside);
                if (o->io->renameat(o->io, o->dir_fd, name, aside) >= 0)
                        outbox_evidence_add(o, s->number, s->size);
        } else
                (void) o->io->unlinkat(o->io, o->dir_fd, name); /* the next start tries again */
        outbox_segment_free(o, s);
        return 0;
}

static void measure_evidence(Outbox *o) {
        for (unsigned i = 0; i < o->n_evidence; i++) {
                char name[OUTBOX_SEGMENT_NAME_MAX];
                uint64_t size;
                int fd;

                outbox_evidence_name(o->evidence[i].number, name);
                fd = o->io->openat(o->io, o->dir_fd, name, O_RDONLY | O_CLOEXEC, 0);
                if (fd < 0)
                        continue; /* the usual size is a fair guess */
                if (o->io->fsize(o->io, fd, &size) >= 0)
                        o->evidence[i].size = (uint32_t) MIN(size, (uint64_t) OUTBOX_SEGMENT_SIZE_MAX);
                (void) o->io->close(o->io, fd); /* read only */
        }
}

/* Opens what is there: segments in use stay in found, spares go to the spares. A spare may be the work of a process that
 * was killed, known to the page cache alone: after a power cut it would be shorter, and a segment that is shorter than its
 * header says is taken for a damaged one. */
static int load_segments(Recovery *r) {
        Outbox *o = r->o;
        size_t n = 0;
        int q = 0;

        for (size_t i = 0; i < r->n_found && q >= 0; i++) {
                FoundSegment f = r->found[i];

                f.segment = outbox_segment_new(o, f.position, f.number, f.position ? OUTBOX_POSITION_SEGMENT_SIZE : o->segment_size);
                if (!f.segment) {
                        q = -ENOMEM;
                        break;
                }
                q = segment_open(o, f.segment);
                if (q >= 0)
                        q = segment_load(r, &f);
                if (q == 0 && o->io->fdatasync(o->io, f.segment->read_fd) < 0)
                        q = -EBADMSG;
                segment_close(o, f.segment);
                if (q > 0 && (f.position ? f.segment->lane != OUTBOX_LANE_POSITION
                                         : f.segment->lane >= OUTBOX_N_MESSAGE_LANES))
                        q = -EBADMSG; /* whatever it is, it is no file of this name */
                if (q == 0 || q == -EBADMSG)
                        q = keep_or_remove(r, f.segment, q == 0);
                else
                        r->found[n++] = f; /* also on failure, so that it is freed */
        }
        r->n_found = n;
        if (q >= 0 && n > 1)
                qsort(r->found, n, sizeof(*r->found), compare_found);
        return q < 0 ? q : 0;
}

/* 0; 1: a part could not be read; or -errno. */
static int for_each_record(Recovery *r, size_t i, int (*f)(Recovery *r, size_t i, const OutboxRecord *record)) {
        OutboxSegment *s = r->found[i].segment;
        OutboxSegmentScan scan;
        OutboxRecord record;
        uint64_t offset;
        int q;

        q = segment_open(r->o, s);
        if (q < 0)
                return q;
        outbox_segment_scan_file(&scan, r->o->io, s->read_fd, s->salt, OUTBOX_SEGMENT_HEADER_SIZE, s->end);
        while ((q = outbox_segment_scan_next(&scan, &record, &offset)) > 0) {
                q = f(r, i, &record);
                if (q < 0)
                        break;
        }
        if (q == 0 && scan.unreadable)
                q = scan.readable ? 1 : -EIO; /* nothing at all: the disk is away */
        outbox_segment_scan_done(&scan);
        segment_close(r->o, s);
        return q;
}

/* Of a batch that failed and was tried again in other segments, those of the first try may still be there, or be back:
 * nobody waits until a name is gone from the disk. They hold nothing else, so they go again; else what they hold of the
 * batch, torn, would count in place of the whole. */
static void remove_abandoned(Recovery *r, size_t i) {
        OutboxSegment *s = r->found[i].segment;
        char name[OUTBOX_SEGMENT_NAME_MAX];

        outbox_segment_name(s->position, s->number, name);
        (void) r->o->io->unlinkat(r->o->io, r->o->dir_fd, name); /* the next start tries again */
        outbox_segment_free(r->o, s);
        r->found[i].segment = NULL;
}

static int see_lane_seq(Recovery *r, size_t i, const OutboxRecord *record) {
        OutboxMessageRecord m;

        if (outbox_message_record_decode(record, &m) >= 0)
                r->last_seen = MAX(r->last_seen, m.lane_seq);
        return 0;
}

/* Without its header a segment does not tell which try it is from. The last try is one row of messages without an overlap.
 * 1 or 0; or -errno. */
static int begins_inside(Recovery *r, size_t i, size_t from, size_t to, uint32_t attempt) {
        uint64_t lane_seq = r->found[i].segment->first_lane_seq;

        for (size_t k = from; k < to; k++) {
                OutboxSegment *s = r->found[k].segment;
                int q;

                if (!s || r->found[k].header_damaged || s->attempt != attempt || s->first_lane_seq > lane_seq)
                        continue;
                r->last_seen = 0;
                q = for_each_record(r, k, see_lane_seq);
                if (q < 0)
                        return q;
                if (r->last_seen >= lane_seq)
                        return 1;
        }
        return 0;
}

/* Segments that one batch began are neighbours. */
static int drop_abandoned(Recovery *r) {
        size_t n = 0;

        for (size_t from = 0, to; from < r->n_found; from = to) {
                unsigned lane = r->found[from].segment->lane;
                uint64_t batch = r->found[from].segment->first_batch;
                uint32_t attempt = 0;

                for (to = from; to < r->n_found && r->found[to].segment->lane == lane &&
                                r->found[to].segment->first_batch == batch;
                     to++)
                        if (!r->found[to].header_damaged)
                                attempt = MAX(attempt, r->found[to].segment->attempt);
                for (size_t i = from; i < to && attempt > 0 && lane != OUTBOX_LANE_POSITION; i++) {
                        int q = r->found[i].header_damaged ? begins_inside(r, i, from, to, attempt)
                                                           : r->found[i].segment->attempt < attempt;

                        if (q < 0)
                                return q;
                        if (q > 0)
                                remove_abandoned(r, i);
                }
        }
        for (size_t i = 0; i < r->n_found; i++)
                if (r->found[i].segment)
                        r->found[n++] = r->found[i];
        r->n_found = n;
        return 0;
}

static bool same_lane(const Recovery *r, size_t i, size_t j) {
        return j < r->n_found && r->found[i].segment->lane == r->found[j].segment->lane;
}

/* Which segments can hold a record of the newest full position's batch or later. */
static void choose_scans(Recovery *r) {
        for (size_t i = 0; i < r->n_found; i++) {
                OutboxSegment *s = r->found[i].segment;

                r->found[i].scan = s->position || !same_lane(r, i, i + 1) || s->first_batch >= r->full_batch ||
                                   r->found[i + 1].segment->first_batch >= r->full_batch;
        }
}

/* A process that was killed leaves what it had not synced in the page cache, where it reads like the rest. What is
 * taken over from it has to be as safe as what was reported, so it is synced first. */
static int sync_scanned(Recovery *r) {
        /* Also the names: a file that it had just made becomes a spare now, and then holds messages. On failure the
         * first batch has to. */
        r->o->dir_unsynced = r->o->io->fsync(r->o->io, r->o->dir_fd) < 0;
        for (size_t i = 0; i < r->n_found; i++) {
                OutboxSegment *s = r->found[i].segment;
                int q;

                if (!r->found[i].scan)
                        continue;
                q = segment_open(r->o, s);
                if (q < 0)
                        return q;
                (void) r->o->io->fdatasync(r->o->io, s->read_fd); /* a disk that cannot write has nothing to lose here */
                segment_close(r->o, s);
        }
        return 0;
}

/* First pass: positions, and how far batches are known to be synced. A valid record of batch k proves that all
 * before were; a seal proves its own. A truncated file was not cut by a torn write, so it proves what it holds. */
static int see_record(Recovery *r, size_t i, const OutboxRecord *record) {
        OutboxSegment *s = r->found[i].segment;
        OutboxMessageRecord m;

        r->last_batch = MAX(r->last_batch, record->batch);
        s->last_batch = MAX(s->last_batch, record->batch);
        if (record->batch > 0)
                r->synced_batch = MAX(r->synced_batch, record->batch - 1);
        if (record->kind == OUTBOX_RECORD_SEAL || (s->damaged && s->end < s->size))
                r->synced_batch = MAX(r->synced_batch, record->batch);
        if (outbox_message_record_decode(record, &m) >= 0)
                r->last_seq = MAX(r->last_seq, m.seq);
        return see_position(r, record, s);
}

/* A part that cannot be read may be a disk that comes back: only what stays unreadable is taken for damage. */
static int see_records(Recovery *r) {
        for (size_t i = 0; i < r->n_found; i++) {
                int q = r->found[i].scan;

                for (unsigned k = 0; k < READ_TRIES && q > 0; k++)
                        q = for_each_record(r, i, see_record);
                if (q < 0)
                        return q;
                r->found[i].unreadable = q > 0;
        }
        return 0;
}

static void learn_stream(Recovery *r, const uint8_t id[static 16], uint64_t position, uint32_t uid, unsigned lane) {
        OutboxStreamEntry *e = outbox_stream_find(r->o->streams, id);

        if (!e)
                e = outbox_stream_add(r->o->streams, id, uid, lane);
        if (!e)
                return; /* without memory: a repeat is stored twice */
        if (position + 1 > e->next)
                outbox_stream_touch(r->o->streams, e);
        e->next = e->pending_next = MAX(e->next, position + 1);
}

static int collect_last(Recovery *r, const OutboxMessageRecord *m, const OutboxRecord *record) {
        if (r->n_last == r->last_allocated) {
                size_t n = r->last_allocated ? 2 * r->last_allocated : 256;
                LastMessage *l = reallocarray(r->last, n, sizeof(*l));

                if (!l)
                        return -ENOMEM;
                r->last = l;
                r->last_allocated = n;
        }
        r->last[r->n_last] = (LastMessage) {
                .seq = m->seq,
                .lane_seq = m->lane_seq,
                .position = m->position,
                .realtime_usec = m->accepted_realtime_usec,
                .size = (uint32_t) record->size,
                .uid = m->uid,
                .lane = (uint8_t) record->lane,
                .first_of_call = m->first_of_call,
                .last_of_call = m->last_of_call,
                .has_stream = m->has_stream,
        };
        memcpy(r->last[r->n_last++].stream, m->stream, 16);
        return 0;
}

static void accept(Recovery *r, unsigned lane, uint64_t seq, uint64_t lane_seq, uint32_t size, usec_t realtime_usec) {
        OutboxLaneState *l = &r->o->lanes[lane];

        if (lane_seq <= l->tail)
                return; /* the position counted it */
        l->tail = lane_seq;
        if (seq > r->newest_seq) {
                r->newest_seq = seq;
                r->o->newest_realtime_usec = realtime_usec;
        }
        if (outbox_settled_set_contains(&l->settled, lane_seq))
                return; /* void: its sender got an error */
        l->n_queued++;
        l->queued_bytes += size;
}

/* Leaves the books: totals are balanced by what is there at the end. */
static void lose(Recovery *r, unsigned lane, OutboxSegment *s, uint64_t first, uint64_t last) {
        OutboxLaneState *l = &r->o->lanes[lane];
        uint64_t n = outbox_settled_set_missing(&l->settled, first, last);
        uint64_t n_counted = outbox_settled_set_missing(&l->settled, first, MIN(last, r->position_tail));

        if (n == 0)
                return;
        if (outbox_settled_set_add(&l->settled, first, last) < 0) {
                r->error = -ENOMEM;
                return;
        }
        if (s)
                s->damaged = true;
        r->o->totals.lost += n;
        r->n_lost += n;
        l->n_queued -= MIN(l->n_queued, n_counted);
}

/* Second pass, over the scanned segments of a lane. */
static int replay_record(Recovery *r, size_t i, const OutboxRecord *record) {
        OutboxSegment *s = r->found[i].segment;
        OutboxMessageRecord m;
        uint64_t limit = same_lane(r, i, i + 1) ? r->found[i + 1].segment->first_lane_seq : UINT64_MAX;

        if (outbox_message_record_decode(record, &m) < 0 || record->lane != s->lane)
                return 0;
        r->last_seen = MAX(r->last_seen, m.lane_seq);
        if (m.lane_seq >= limit)
                return 0; /* the next segment has it whole */
        if (record->batch > r->synced_batch)
                return m.lane_seq > r->o->lanes[s->lane].tail ? collect_last(r, &m, record) : 0;
        if (m.has_stream && record->batch >= r->full_batch)
                learn_stream(r, m.stream, m.position, m.uid, record->lane);
        if (m.lane_seq < r->expected)
                return 0;
        if (m.lane_seq > r->expected)
                lose(r, s->lane, s, r->expected, m.lane_seq - 1);
        accept(r, s->lane, m.seq, m.lane_seq, (uint32_t) record->size, m.accepted_realtime_usec);
        r->expected = m.lane_seq + 1;
        return r->error;
}

static int recover_lane(Recovery *r, unsigned lane) {
        OutboxLaneState *l = &r->o->lanes[lane];
        OutboxSegment *last = NULL;
        uint64_t known;
        bool started = false;
        int q;

        r->position_tail = l->tail;
        r->last_seen = r->expected = 0;
        for (size_t i = 0; i < r->n_found; i++) {
                OutboxSegment *s = r->found[i].segment;

                if (s->lane != lane)
                        continue;
                if (r->found[i].scan) {
                        /* What lies before the first segment that is read is left to the reader. */
                        if (!started)
                                r->expected = last ? s->first_lane_seq : l->settled.watermark + 1;
                        else if (s->first_lane_seq > r->expected) {
                                /* Missing before a segment of the last batch: torn with it, unless a position knew it. */
                                lose(r, lane, r->found[i].header_damaged ? s : last, r->expected,
                                     s->first_batch <= r->synced_batch ? s->first_lane_seq - 1
                                                                       : MIN(s->first_lane_seq - 1, r->position_tail));
                                r->expected = s->first_lane_seq;
                        }
                        started = true;
                        q = for_each_record(r, i, replay_record);
                        if (q > 0 && !r->found[i].unreadable)
                                q = -EIO; /* it could be read a moment ago */
                        if (q < 0)
                                return q;
                }
                last = s;
        }
        if (started && r->position_tail >= r->expected)
                lose(r, lane, last, r->expected, r->position_tail);
        known = l->settled.n > 0 ? l->settled.ranges[l->settled.n - 1].last : l->settled.watermark;
        known = MAX(known, r->last_seen);
        l->next_lane_seq = MAX(known, l->tail) + 1;
        return r->error;
}

static int compare_last(const void *a, const void *b) {
        const LastMessage *x = a, *y = b;

        return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* A call is kept whole or not at all, and a stream goes on without a gap. */
static bool call_is_whole(Recovery *r, size_t first, size_t *ret_end) {
        const LastMessage *m = &r->last[first];
        OutboxStreamEntry *e;
        size_t end = first;

        while (end < r->n_last && r->last[end].seq == m->seq + (end - first) && (end == first || !r->last[end].first_of_call)) {
                end++;
                if (r->last[end - 1].last_of_call)
                        break;
        }
        *ret_end = end;
        if (!m->first_of_call || !r->last[end - 1].last_of_call)
                return false;
        if (!m->has_stream)
                return true;
        e = outbox_stream_find(r->o->streams, m->stream);
        if (e)
                return m->position == e->next;
        return m->position == 0 || !r->full; /* where no position is left, nobody knows how far the stream was */
}

/* The last batch: what is whole is kept, what is not was never promised. */
static int recover_last_batch(Recovery *r) {
        Outbox *o = r->o;
        size_t n = 0;

        if (r->n_last > 1)
                qsort(r->last, r->n_last, sizeof(*r->last), compare_last);
        for (size_t i = 0; i < r->n_last; i++)
                if (n == 0 || r->last[n - 1].seq != r->last[i].seq)
                        r->last[n++] = r->last[i];
        r->n_last = n;
        for (size_t i = 0, end; i < n; i = end) {
                bool keep = call_is_whole(r, i, &end);

                for (size_t k = i; k < end; k++) {
                        r->last[k].keep = keep;
                        if (keep && r->last[k].has_stream)
                                learn_stream(r, r->last[k].stream, r->last[k].position, r->last[k].uid, r->last[k].lane);
                }
        }

        for (size_t i = 0; i < n; i++) {
                LastMessage *m = &r->last[i];
                OutboxLaneState *l = &o->lanes[m->lane];
                int q;

                if (!m->keep)
                        continue;
                /* What lies between is void: it was part of this batch, and torn. */
                q = outbox_settled_set_add(&l->settled, l->tail + 1, m->lane_seq - 1);
                if (q < 0)
                        return q;
                accept(r, m->lane, m->seq, m->lane_seq, m->size, m->realtime_usec);
        }
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                int q = outbox_settled_set_add(&l->settled, l->tail + 1, l->next_lane_seq - 1);

                if (q < 0)
                        return q;
                l->tail = l->next_lane_seq - 1;
        }
        return 0;
}

/* Takes the newest position that was found over. */
static int apply_position(Recovery *r) {
        _cleanup_(outbox_position_done) OutboxPosition p = { 0 }, full = { 0 };
        Outbox *o = r->o;
        OutboxRecord record;
        int q;

        if (r->full && outbox_record_decode(r->full, outbox_record_size(r->full), 0, &record, NULL) == 0) {
                q = outbox_position_decode(&record, o->streams, &full);
                if (q < 0 && q != -EBADMSG)
                        return q;
                o->hub = TAKE_PTR(full.hub);
                o->device = TAKE_PTR(full.device);
        }
        if (!r->position || outbox_record_decode(r->position, outbox_record_size(r->position), 0, &record, NULL) < 0)
                return 0;
        q = outbox_position_decode(&record, NULL, &p);
        if (q < 0)
                return q == -EBADMSG ? 0 : q;
        o->outbox_id = p.outbox_id;
        o->next_seq = MAX(o->next_seq, p.next_seq);
        o->totals = p.totals;
        o->newest_realtime_usec = p.newest_realtime_usec;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                l->settled = p.lanes[lane].settled;
                p.lanes[lane].settled = (OutboxSettledSet) { 0 };
                l->tail = p.lanes[lane].tail;
                l->queued_bytes = p.lanes[lane].queued_bytes;
                l->n_queued = outbox_settled_set_missing(&l->settled, 1, l->tail);
        }
        return 0;
}

/* The books balance by what is there: a position that was lost to damage cannot leave them crooked. */
static void balance(Outbox *o) {
        OutboxTotals *t = &o->totals;

        t->accepted = t->confirmed + t->expired + t->dropped + t->rejected;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                t->accepted += o->lanes[lane].n_queued;
}

/* Hands the segments to their lanes. Nobody appends to an old segment: all are closed. */
static int adopt_segments(Recovery *r) {
        Outbox *o = r->o;

        for (size_t i = 0; i < r->n_found; i++) {
                OutboxSegment *s = r->found[i].segment;
                OutboxLaneState *l;
                int q;

                if (s->position) {
                        if (o->n_positions < ELEMENTSOF(o->positions)) {
                                o->positions[o->n_positions++] = s;
                                r->found[i].segment = NULL;
                        }
                        continue;
                }
                l = &o->lanes[s->lane];
                q = outbox_lane_reserve_segments(l, 1);
                if (q < 0)
                        return q;
                s->last_lane_seq = (same_lane(r, i, i + 1) ? r->found[i + 1].segment->first_lane_seq : l->next_lane_seq) - 1;
                /* Only a scan tells the last batch; for the others the next segment's first bounds it. */
                if (!r->found[i].scan && same_lane(r, i, i + 1))
                        s->last_batch = MAX(s->last_batch, r->found[i + 1].segment->first_batch);
                outbox_lane_add_segment(l, s);
                r->found[i].segment = NULL;
        }
        o->newest_position = r->newest_position;
        o->newest_full = r->newest_full;
        return 0;
}

static int recover(Recovery *r) {
        Outbox *o = r->o;
        int q;

        q = o->io->list(o->io, o->dir_fd, found_file, r);
        if (q >= 0) {
                measure_evidence(o);
                q = load_segments(r);
        }
        if (q >= 0)
                q = drop_abandoned(r);
        if (q >= 0)
                q = see_first_records(r);
        if (q < 0)
                return q;
        choose_scans(r);
        q = sync_scanned(r);
        if (q < 0)
                return q;
        q = see_records(r);
        if (q >= 0)
                q = apply_position(r);
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES && q >= 0; lane++)
                q = recover_lane(r, lane);
        if (q >= 0)
                q = recover_last_batch(r);
        if (q >= 0)
                q = adopt_segments(r);
        if (q < 0)
                return q;

        balance(o);
        if (o->outbox_id == 0)
                o->outbox_id = r->outbox_id;
        o->next_batch = r->last_batch + 1;
        o->next_seq = MAX(o->next_seq, r->last_seq + 1);
        o->durable_seq = o->next_seq - 1;
        if (r->n_lost > 0)
                outbox_notice(o, LOG_ERR, MSG_OUTBOX_DAMAGE,
                              "Damage on disk cost %" PRIu64 " messages; the damaged segments are kept aside", r->n_lost);
        return 0;
}

int outbox_recover(Outbox *o) {
        Recovery r = { .o = o };
        int q;

        q = recover(&r);
        recovery_done(&r);
        return q;
}
