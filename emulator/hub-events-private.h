/* hub-events-private.h: what hub-events.c (the store), hub-events-segment.c (its files) and
 * hub-events-reader.c share. */
#pragma once

#include <pthread.h>

#include "emulator/hub-event-scan.h"
#include "emulator/hub-events.h"
#include "emulator/line-log.h"

#define HUB_EVENTS_BEGIN_FILE "events-begin.json"

/* Of one partition in one segment. */
typedef struct EventRun {
        int64_t first_sequence; /* meaningful when n > 0 */
        uint32_t *positions;    /* of its lines in the file */
        size_t n, n_allocated;
        usec_t last_usec;
} EventRun;

/* One file. The broker's thread changes it, with the store locked; others read it with the store
 * locked. Its two kinds of owner, the store and readers that stand in it, count n_refs. */
typedef struct EventSegment {
        unsigned n_refs;
        bool deleted;
        LineLog log;
        int64_t base; /* offset of its first byte, by which it is named; -1 until that is known */
        int64_t size; /* of the whole lines that are in the index */
        usec_t first_usec, last_usec;
        EventRun runs[HUB_EVENTS_PARTITIONS];
} EventSegment;

/* What a partition has had up to a place in the stream. */
typedef struct EventTotals {
        int64_t next_sequence;
        int64_t last_offset; /* -1: none yet */
        usec_t last_usec;
} EventTotals;

typedef struct EventBegin {
        usec_t created_usec;
        int64_t offset;
        EventTotals totals[HUB_EVENTS_PARTITIONS];
} EventBegin;

struct HubEvents {
        int dir_fd;
        HubEventsLimits limits;
        int64_t segment_bytes; /* a segment that has as much is closed */

        /* The broker's thread. */
        EventBegin begin; /* of the oldest segment */
        int64_t total_bytes;
        Buffer line;

        pthread_mutex_t mutex;   /* all below; the broker's thread alone writes the first four */
        EventSegment **segments; /* oldest first; the last one grows; never none */
        size_t n_segments;
        EventTotals totals[HUB_EVENTS_PARTITIONS];
        int wake_fd;
        unsigned waiting; /* a bit for each partition of which a reader waits for more */
};

static inline void hub_events_lock(HubEvents *e) {
        (void) pthread_mutex_lock(&e->mutex); /* neither can fail for a mutex that is used so */
}

static inline void hub_events_unlock(HubEvents *e) {
        (void) pthread_mutex_unlock(&e->mutex);
}

EventSegment *event_segment_unref(EventSegment *s); /* with the store locked */
DEFINE_CLEANUP(EventSegment *, event_segment_unref);

/* Opens a file and indexes its lines, which go on where totals ends; totals then is behind it. base
 * -1: its first line tells. 0, -EBADMSG (with *reterr_what), -ENOMEM or -errno. */
int event_segment_open(int dir_fd, const char *name, int64_t base, EventTotals *totals,
                       EventSegment **ret, char **reterr_what);

/* Makes room in the index for one more event. 0 or -ENOMEM. */
int event_segment_reserve(EventSegment *s, unsigned partition);

/* Puts a line of that many bytes, for which there is room, into the index and into totals. */
void event_segment_add(EventSegment *s, const HubEventPlace *place, size_t line_bytes,
                       EventTotals *totals);

/* Bases of the closed segments in the folder, ascending, the caller's. 0 or -errno. */
int event_segment_list(int dir_fd, int64_t **ret, size_t *ret_n);

#define EVENT_SEGMENT_NAME_MAX sizeof("events-0123456789012345678.jsonl")

/* Name of a closed segment, in an order that sorts. Returns buf. */
char *event_segment_name(int64_t base, char buf[static EVENT_SEGMENT_NAME_MAX]);

/* Where the stream began when it was last shortened. Where there is no file, it begins now. 0,
 * -EBADMSG, -ENOMEM or -errno. */
int event_begin_read(int dir_fd, EventBegin *ret);
int event_begin_write(int dir_fd, const EventBegin *begin);
