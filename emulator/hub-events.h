/* hub-events.h: the received events, as an Event Hubs endpoint serves them: in partitions,
 * numbered, kept for a time, read from any place on. The truth are the lines of events.jsonl and of
 * the segments before it (docs/emulator.md, "Events"); this is their index. Locks by itself.
 * hub_events_append() and hub_events_tick() belong to one thread (the broker's); all else may be
 * called from any; a reader belongs to one thread at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emulator/hub-event.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define HUB_EVENTS_PARTITIONS 4U /* ids "0" to "3" */

#define HUB_EVENTS_FILE "events.jsonl"

typedef struct HubEvents HubEvents;

typedef struct HubEventsLimits {
        usec_t retain_usec;    /* older events may go; USEC_INFINITY: never */
        uint64_t retain_bytes; /* the oldest go when the lines take more than this */
} HubEventsLimits;

#define HUB_EVENTS_LIMITS_DEFAULT                                                                  \
        ((HubEventsLimits){ .retain_usec = USEC_PER_DAY, .retain_bytes = UINT64_C(1) << 30 })

/* Opens events.jsonl and its segments in a folder, created where absent. What a crash cut short is
 * cut off, what is too old is deleted.
 *
 *   reterr_what   what is damaged, with file and line, the caller's; NULL unless -EBADMSG
 *
 * 0, -EBADMSG, -ENOMEM or -errno. */
int hub_events_open(int dir_fd, const HubEventsLimits *limits, HubEvents **ret, char **reterr_what);
HubEvents *hub_events_free(HubEvents *e);
DEFINE_CLEANUP(HubEvents *, hub_events_free);

/* When this store was made: what a hub calls created_at. */
usec_t hub_events_created_usec(const HubEvents *e);

/* Where all events of a device are: the same on every machine. */
unsigned hub_events_partition(const char *device_id);

/* Appends an event as one line; when it returns 0 the line is written and outlives this process,
 * and readers have it. Its time is event->enqueued_usec, or that of the partition's last event when
 * that is later: times never decrease within a partition. 0, -EMSGSIZE (over the hub's limit as the
 * hub counts), -EINVAL (the bag is none), -ENOMEM or -errno (the disk); then nothing is stored and
 * no sequence number used. */
int hub_events_append(HubEvents *e, const HubEvent *event);

/* Deletes what is older than the limit. Cheap; about once a second. */
void hub_events_tick(HubEvents *e, usec_t now_usec);

/* What $management tells about a partition. Sequence numbers count from 0 in each partition;
 * offsets rise and are not dense. */
typedef struct HubEventsInfo {
        int64_t begin_sequence; /* of the oldest event that is kept; where none is, of the next to
                                   come */
        int64_t last_sequence;  /* -1: there was never any; also below */
        int64_t last_offset;
        usec_t last_enqueued_usec; /* 0: there was never any */
        bool empty;                /* none is kept */
} HubEventsInfo;

/* partition < HUB_EVENTS_PARTITIONS */
void hub_events_info(HubEvents *e, unsigned partition, HubEventsInfo *ret);

typedef enum HubEventsFrom {
        HUB_EVENTS_FROM_EARLIEST,
        HUB_EVENTS_FROM_LATEST, /* what comes after the call */
        HUB_EVENTS_FROM_OFFSET,
        HUB_EVENTS_FROM_SEQUENCE,
        HUB_EVENTS_FROM_TIME,
        _HUB_EVENTS_FROM_MAX,
} HubEventsFrom;

typedef struct HubEventsPosition {
        HubEventsFrom from;
        int64_t value; /* offset, sequence number, or microseconds since 1970; below 0: the earliest
                        */
        bool inclusive; /* at the value, else after it */
} HubEventsPosition;

typedef struct HubEventsReader HubEventsReader;

/* Opens a reader of one partition. A position whose event is deleted is that of the oldest one.
 * Nothing yet behind a time is no error, as at the hub: the reader waits. e must outlive the
 * reader.
 *
 *   reterr_reason   a sentence that names the value and the last one, the caller's; NULL unless
 * -ERANGE
 *
 * 0, -ERANGE (an offset or sequence number higher than the last one), -ENOMEM or -errno. */
int hub_events_reader_open(HubEvents *e, unsigned partition, const HubEventsPosition *position,
                           HubEventsReader **ret, char **reterr_reason);
HubEventsReader *hub_events_reader_free(HubEventsReader *r);
DEFINE_CLEANUP(HubEventsReader *, hub_events_reader_free);

/* The next event; *ret points into the reader and is valid until its next call. Events that were
 * deleted meanwhile are left out.
 *
 * 1, 0 (no more yet; the wake-up will come), -EBADMSG (the line of an event was changed by
 * somebody; the reader stands behind it, and *ret has its sequence and offset alone), -ENOMEM or
 * -errno (the disk; the next call tries again). */
int hub_events_reader_next(HubEventsReader *r, const HubStoredEvent **ret);

/* Puts the reader back, so that the event of that sequence number is the next one. */
void hub_events_reader_seek(HubEventsReader *r, int64_t sequence);

/* Has event_fd (an eventfd, borrowed until it is replaced by -1 or e is freed) written to when an
 * event has come to a partition of which a reader has been told "no more yet" since the last time.
 * One write may stand for many events and partitions. */
void hub_events_set_wake_fd(HubEvents *e, int event_fd);
