/* Looks for one message on the background thread: first in the segments that can hold it, then in the receipts.
 * Whether a record that was found still waits is decided back on the caller's thread, which knows what ended. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/outbox-receipts.h"

typedef struct LookupSegment {
        OutboxSegment *segment;
        OutboxLane lane;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        uint64_t salt, end;
} LookupSegment;

struct OutboxLookup {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        uint64_t seq;            /* 0: by id */
        char message_id[OUTBOX_MESSAGE_ID_MAX + 1];
        OutboxLookupCallback callback;
        void *userdata;
        LookupSegment *segments;
        size_t n_segments;
        bool found, has_receipt;
        OutboxEntry entry;
        OutboxLane lane;
        OutboxReceipt receipt;
        int receipt_error;
};

static bool lookup_matches(const OutboxLookup *j, const OutboxMessageRecord *m) {
        if (j->seq > 0)
                return m->seq == j->seq;
        return m->message_id_size == strlen(j->message_id) && memcmp(m->message_id, j->message_id, m->message_id_size) == 0;
}

static void lookup_segment(OutboxLookup *j, const LookupSegment *s) {
        OutboxSegmentScan scan;
        OutboxRecord record;
        uint64_t offset;
        int fd;

        fd = j->io->openat(j->io, j->dir_fd, s->name, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return;
        outbox_segment_scan_file(&scan, j->io, fd, s->salt, OUTBOX_SEGMENT_HEADER_SIZE, s->end);
        while (outbox_segment_scan_next(&scan, &record, &offset) > 0) {
                OutboxMessageRecord m;

                if (outbox_message_record_decode(&record, &m) < 0 || !lookup_matches(j, &m))
                        continue;
                if (j->found && j->entry.seq > m.seq)
                        continue; /* of several with one id, the newest */
                outbox_entry_from_record(&m, NULL, offset, (uint32_t) record.size, &j->entry);
                j->lane = s->lane;
                j->found = true;
        }
        outbox_segment_scan_done(&scan);
        (void) j->io->close(j->io, fd); /* read only */
}

static void lookup_run(OutboxJob *job) {
        OutboxLookup *j = container_of(job, OutboxLookup, job.job);

        for (size_t i = 0; i < j->n_segments; i++)
                lookup_segment(j, &j->segments[i]);
        j->receipt_error = outbox_receipts_find(j->io, j->dir_fd, j->seq, outbox_id_hash(j->message_id), &j->receipt);
        j->has_receipt = j->receipt_error >= 0;
}

/* Whether its end is decided and not told yet: until then it counts as queued. */
static bool end_is_open(Outbox *o, OutboxLane lane, const OutboxEntry *e) {
        for (size_t i = 0; i < o->n_ends; i++)
                if (o->ends[i].entry.seq == e->seq)
                        return true;
        for (size_t i = 0; i < o->n_drops; i++) {
                const OutboxDrop *d = &o->drops[i];

                if (d->lane == lane && e->lane_seq >= d->segment->first_lane_seq &&
                    e->lane_seq <= d->segment->last_lane_seq && !outbox_settled_set_contains(&d->before, e->lane_seq))
                        return true;
        }
        return false;
}

static void tell_lookup(Outbox *o, OutboxLookup *j) {
        OutboxSettled s = { 0 };
        char made[OUTBOX_MADE_ID_MAX + 1];
        bool waits = j->found && (!outbox_settled_set_contains(&o->lanes[j->lane].settled, j->entry.lane_seq) ||
                                  end_is_open(o, j->lane, &j->entry));

        if (!waits && !j->has_receipt) {
                j->callback(j->receipt_error < 0 ? j->receipt_error : -ENOENT, NULL, j->userdata);
                return;
        }
        if (waits)
                s = (OutboxSettled) {
                        .seq = j->entry.seq,
                        .lane = j->lane,
                        .end = OUTBOX_END_QUEUED,
                        .accepted_realtime_usec = j->entry.accepted_realtime_usec,
                        .settled_realtime_usec = USEC_INFINITY,
                };
        else
                s = (OutboxSettled) {
                        .seq = j->receipt.seq,
                        .lane = j->receipt.lane,
                        .end = j->receipt.end,
                        .has_stream = j->receipt.has_position,
                        .position = j->receipt.position,
                        .accepted_realtime_usec = j->receipt.accepted_realtime_usec,
                        .settled_realtime_usec = j->receipt.settled_realtime_usec,
                };
        if (j->found && j->entry.seq == s.seq) {
                s.has_stream = j->entry.has_stream;
                s.position = j->entry.position;
                memcpy(s.stream, j->entry.stream, sizeof(s.stream));
        }
        (void) snprintf(made, sizeof(made), "%016" PRIx64 "-%" PRIu64, o->outbox_id, s.seq);
        if (j->found && j->entry.seq == s.seq && j->entry.message_id[0])
                s.message_id = j->entry.message_id;
        else if (j->seq == 0)
                s.message_id = j->message_id;
        else if (waits || j->receipt.id_hash == outbox_id_hash(made))
                s.message_id = made;
        j->callback(0, &s, j->userdata); /* an id that was given and is not on disk any more stays NULL */
}

static void lookup_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxLookup *j = container_of(job, OutboxLookup, job);

        for (size_t i = 0; i < j->n_segments; i++)
                j->segments[i].segment->n_pins--;
        o->lookup = NULL;
        tell_lookup(o, j);
        free(j->segments);
        free(j);
        outbox_release_segments(o);
}

/* A made id names its sequence number. */
static uint64_t seq_of_made_id(Outbox *o, const char *message_id) {
        char made[OUTBOX_MADE_ID_MAX + 1];
        const char *dash = strchr(message_id, '-');
        uint64_t seq;

        if (!dash)
                return 0;
        seq = strtoull(dash + 1, NULL, 10);
        (void) snprintf(made, sizeof(made), "%016" PRIx64 "-%" PRIu64, o->outbox_id, seq);
        return streq(made, message_id) ? seq : 0;
}

static int add_segments(Outbox *o, OutboxLookup *j) {
        size_t n = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += o->lanes[lane].n_segments;
        j->segments = reallocarray(NULL, MAX(n, (size_t) 1), sizeof(*j->segments));
        if (!j->segments)
                return -ENOMEM;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; i < l->n_segments; i++) {
                        OutboxSegment *s = l->segments[i];
                        LookupSegment *x;

                        /* A message with this number can be only in the last segment that starts at or before it. */
                        if (j->seq > 0 && (s->first_seq > j->seq ||
                                           (i + 1 < l->n_segments && l->segments[i + 1]->first_seq <= j->seq)))
                                continue;
                        x = &j->segments[j->n_segments++];
                        *x = (LookupSegment) { .segment = s, .lane = (OutboxLane) lane, .salt = s->salt, .end = s->end };
                        outbox_segment_name(false, s->number, x->name);
                        s->n_pins++;
                }
        }
        return 0;
}

int outbox_lookup(Outbox *o, uint64_t seq, const char *message_id, OutboxLookupCallback callback, void *userdata) {
        OutboxLookup *j;
        int r;

        if (o->lookup)
                return -EBUSY;
        if (o->closing)
                return -ECANCELED;
        j = malloc(sizeof(*j));
        if (!j)
                return -ENOMEM;
        *j = (OutboxLookup) {
                .job = { .job = { .run = lookup_run }, .done = lookup_done },
                .io = o->io,
                .dir_fd = o->dir_fd,
                .seq = message_id ? seq_of_made_id(o, message_id) : seq,
                .callback = callback,
                .userdata = userdata,
        };
        if (message_id)
                (void) snprintf(j->message_id, sizeof(j->message_id), "%s", message_id); /* longer ones match nothing */
        r = add_segments(o, j);
        if (r < 0) {
                free(j);
                return r;
        }
        outbox_write_receipts(o);
        o->lookup = j;
        outbox_worker_submit(o->background, &j->job.job);
        return 0;
}
