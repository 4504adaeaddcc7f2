#include "emulator/hub-events-private.h"

#include <assert.h>
#include <inttypes.h>

#include "lib/fd-util.h"
#include "lib/string-util.h"

/* A reader holds a block of its segment's file and decodes the lines of its partition in it, one
 * after the other. The store is locked for a moment per event, to learn where the line is and how
 * far the file may be read; never while the disk is. */

#define BLOCK_BYTES (128U * 1024U) /* a line that is longer makes it more */
#define PLACE_BYTES 1024U          /* the beginning of a line, up to its place */

struct HubEventsReader {
        HubEvents *events;
        unsigned partition;
        int64_t next_sequence;
        EventSegment *segment; /* with a reference, or NULL */
        Buffer block;
        int64_t block_position; /* in the segment's file */
        HubEventScan scan;
};

static bool run_has(const EventRun *run, int64_t sequence) {
        return run->n > 0 && sequence >= run->first_sequence &&
               sequence - run->first_sequence < (int64_t) run->n;
}

/* The segment with the first event that is not before *sequence, which is put on it; NULL: none
 * yet. With the store locked. */
static EventSegment *find_segment(HubEvents *e, unsigned partition, int64_t *sequence) {
        for (size_t i = 0; i < e->n_segments; i++) {
                const EventRun *run = e->segments[i]->runs + partition;

                if (run->n == 0 || *sequence - run->first_sequence >= (int64_t) run->n)
                        continue;
                *sequence = MAX(*sequence, run->first_sequence);
                return e->segments[i];
        }
        *sequence = e->totals[partition].next_sequence;
        return NULL;
}

/* Where a line is. */
typedef struct Spot {
        int64_t position; /* in the segment's file */
        int64_t limit;    /* so much of the file is whole lines */
} Spot;

/* With the store locked. 1, or 0: no more yet. */
static int locate(HubEventsReader *r, Spot *ret) {
        EventSegment *s = r->segment;
        const EventRun *run;

        if (!s || s->deleted || !run_has(s->runs + r->partition, r->next_sequence)) {
                s = find_segment(r->events, r->partition, &r->next_sequence);
                if (!s)
                        return 0;
        }
        if (s != r->segment) {
                event_segment_unref(r->segment);
                r->segment = s;
                s->n_refs++;
                r->block.size = 0;
        }
        run = s->runs + r->partition;
        *ret = (Spot){ run->positions[r->next_sequence - run->first_sequence], s->size };
        return 1;
}

/* The line from there on, without its newline. 1, -EBADMSG (the file is not what it was), -ENOMEM
 * or -errno. */
static int fetch_line(HubEventsReader *r, const Spot *spot, char **ret, size_t *ret_size) {
        uint64_t left = (uint64_t) (spot->limit - spot->position), wanted = BLOCK_BYTES;

        for (;;) {
                int64_t at = spot->position - r->block_position;

                if (at >= 0 && at < (int64_t) r->block.size) {
                        char *line = (char *) r->block.data + at;
                        size_t n = r->block.size - (size_t) at;
                        const char *end = memchr(line, '\n', n);

                        if (end) {
                                *ret = line;
                                *ret_size = (size_t) (end - line);
                                return 1;
                        }
                        if (n >= left)
                                return -EBADMSG;
                        if (at == 0)
                                wanted = (uint64_t) n * 2;
                }
                wanted = MIN(wanted, left);
                r->block.size = 0;
                if (buffer_reserve(&r->block, (size_t) wanted) < 0)
                        return -ENOMEM;
                ssize_t n = pread_full(r->segment->log.fd, r->block.data, (size_t) wanted,
                                       spot->position);
                if (n < 0)
                        return (int) n;
                if ((uint64_t) n < wanted)
                        return -EBADMSG;
                r->block.size = (size_t) n;
                r->block_position = spot->position;
        }
}

static bool is_of(const HubEventPlace *place, const HubEventPlace *expected) {
        return place->partition == expected->partition && place->sequence == expected->sequence &&
               place->offset == expected->offset;
}

int hub_events_reader_next(HubEventsReader *r, const HubStoredEvent **ret) {
        HubEventPlace place;
        char *line = NULL;
        size_t n = 0;
        Spot spot;
        int k;

        assert(r);
        assert(ret);

        hub_events_lock(r->events);
        k = locate(r, &spot);
        if (k == 0)
                r->events->waiting |= 1U << r->partition;
        hub_events_unlock(r->events);
        if (k == 0)
                return 0;

        place = (HubEventPlace){ .partition = r->partition,
                                 .sequence = r->next_sequence,
                                 .offset = r->segment->base + spot.position };
        k = fetch_line(r, &spot, &line, &n);
        if (k > 0)
                k = hub_event_scan(&r->scan, line, n);
        if (k >= 0 && !is_of(&r->scan.event.place, &place))
                k = -EBADMSG;
        if (k == -EBADMSG)
                r->scan.event = (HubStoredEvent){ .place = place };
        else if (k < 0) {
                r->block.size = 0; /* half of it may be decoded already */
                return k;
        }
        r->next_sequence++;
        *ret = &r->scan.event;
        return k < 0 ? k : 1;
}

void hub_events_reader_seek(HubEventsReader *r, int64_t sequence) {
        r->next_sequence = MAX(sequence, 0);
        r->block.size = 0; /* its lines are decoded */
}

/* The first event at or behind an offset. With the store locked. */
static int64_t sequence_of_offset(const HubEvents *e, unsigned partition, int64_t offset) {
        for (size_t i = 0; i < e->n_segments; i++) {
                const EventSegment *s = e->segments[i];
                const EventRun *run = s->runs + partition;
                size_t low = 0, high = run->n;

                if (run->n == 0 || s->base + run->positions[run->n - 1] < offset)
                        continue;
                while (low < high) {
                        size_t middle = low + (high - low) / 2;

                        if (s->base + run->positions[middle] < offset)
                                low = middle + 1;
                        else
                                high = middle;
                }
                return run->first_sequence + (int64_t) low;
        }
        return e->totals[partition].next_sequence;
}

/* Reads the time of the reader's next event. 1, 0 (there is none) or an error. */
static int read_time(HubEventsReader *r, usec_t *ret) {
        char line[PLACE_BYTES];
        ssize_t n;
        Spot spot;
        int k;

        hub_events_lock(r->events);
        k = locate(r, &spot);
        hub_events_unlock(r->events);
        if (k == 0)
                return 0;
        n = pread_full(r->segment->log.fd, line,
                       (size_t) MIN((int64_t) sizeof(line), spot.limit - spot.position),
                       spot.position);
        if (n < 0)
                return (int) n;
        k = hub_event_scan_place(&r->scan, line, (size_t) n);
        if (k < 0)
                return k;
        *ret = r->scan.event.place.enqueued_usec;
        return 1;
}

/* Puts the reader on the first event at or after a time: a segment by its last event, then by
 * halves. */
static int seek_time(HubEventsReader *r, usec_t usec) {
        HubEvents *e = r->events;
        int64_t low, high;
        int k;

        hub_events_lock(e);
        low = high = e->totals[r->partition].next_sequence;
        for (size_t i = 0; i < e->n_segments; i++) {
                const EventRun *run = e->segments[i]->runs + r->partition;

                if (run->n > 0 && run->last_usec >= usec) {
                        low = run->first_sequence;
                        high = low + (int64_t) run->n - 1;
                        break;
                }
        }
        hub_events_unlock(e);

        while (low < high) {
                int64_t middle = low + (high - low) / 2;
                usec_t t;

                r->next_sequence = middle;
                k = read_time(r, &t);
                if (k < 0)
                        return k;
                if (k > 0 && r->next_sequence == middle && t < usec)
                        low = middle + 1;
                else
                        high = middle; /* or the half before it was deleted just now */
        }
        r->next_sequence = low;
        return 0;
}

static int check_end(const HubEventsPosition *position, const EventTotals *totals,
                     char **reterr_reason) {
        bool by_offset = position->from == HUB_EVENTS_FROM_OFFSET;
        int64_t last = by_offset ? totals->last_offset : totals->next_sequence - 1;

        if (position->value <= last)
                return 0;
        if (totals->next_sequence == 0)
                (void) format_string(reterr_reason,
                                     "the %s %" PRId64 " is not valid: the partition has had no "
                                     "event yet",
                                     by_offset ? "offset" : "sequence number", position->value);
        else
                (void) format_string(reterr_reason,
                                     "the %s %" PRId64 " is not valid: the last one of the "
                                     "partition is %" PRId64,
                                     by_offset ? "offset" : "sequence number", position->value,
                                     last);
        return -ERANGE;
}

/* Values that are not below 0. */
static int seek_position(HubEventsReader *r, const HubEventsPosition *position,
                         char **reterr_reason) {
        HubEvents *e = r->events;
        int64_t from = MIN(position->value, INT64_MAX - 1) + !position->inclusive;
        int k = 0;

        if (position->from == HUB_EVENTS_FROM_TIME)
                return seek_time(r, (usec_t) from);
        hub_events_lock(e);
        if (position->from == HUB_EVENTS_FROM_LATEST)
                r->next_sequence = e->totals[r->partition].next_sequence;
        else {
                k = check_end(position, e->totals + r->partition, reterr_reason);
                if (k >= 0)
                        r->next_sequence =
                                        position->from == HUB_EVENTS_FROM_SEQUENCE ?
                                                        from :
                                                        sequence_of_offset(e, r->partition, from);
        }
        hub_events_unlock(e);
        return k;
}

int hub_events_reader_open(HubEvents *e, unsigned partition, const HubEventsPosition *position,
                           HubEventsReader **ret, char **reterr_reason) {
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = NULL;
        int k = 0;

        assert(partition < HUB_EVENTS_PARTITIONS);
        assert(ret);
        assert(reterr_reason);

        *reterr_reason = NULL;
        r = malloc(sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (HubEventsReader){ .events = e, .partition = partition };
        if (position->from != HUB_EVENTS_FROM_EARLIEST &&
            (position->from == HUB_EVENTS_FROM_LATEST || position->value >= 0))
                k = seek_position(r, position, reterr_reason);
        if (k < 0)
                return k;
        *ret = TAKE_PTR(r);
        return 0;
}

HubEventsReader *hub_events_reader_free(HubEventsReader *r) {
        if (!r)
                return NULL;
        hub_events_lock(r->events);
        event_segment_unref(r->segment);
        hub_events_unlock(r->events);
        buffer_done(&r->block);
        hub_event_scan_done(&r->scan);
        free(r);
        return NULL;
}
