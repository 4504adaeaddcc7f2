/* outbox-position.h: how far a lane is done (a watermark and the exceptions above it), and the position record that
 * carries it, the totals of promise P2 and, when full, the identity and the table of streams. Pure.
 * Format: docs/outbox-format.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"
#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/outbox-record.h"
#include "daemon/outbox-stream.h"

#define OUTBOX_POSITION_RANGES_MAX 2304U /* of all lanes: more than can be handed out or set aside at once */

typedef struct OutboxRange {
        uint64_t first, last;
} OutboxRange;

/* Lane sequence numbers that need no more attention: all up to the watermark, and the ranges above it, which are
 * sorted and do not touch. Zero-initialised is empty. */
typedef struct OutboxSettledSet {
        uint64_t watermark;
        OutboxRange *ranges;
        size_t n, allocated;
} OutboxSettledSet;

void outbox_settled_set_done(OutboxSettledSet *s);
int outbox_settled_set_copy(OutboxSettledSet *dst, const OutboxSettledSet *src); /* 0 or -ENOMEM, dst untouched */

/* Makes room, so that n further outbox_settled_set_add() cannot fail. 0 or -ENOMEM. */
int outbox_settled_set_reserve(OutboxSettledSet *s, size_t n);
/* 0 or -ENOMEM, s untouched. first > last is nothing. */
int outbox_settled_set_add(OutboxSettledSet *s, uint64_t first, uint64_t last);
bool outbox_settled_set_contains(const OutboxSettledSet *s, uint64_t x);
bool outbox_settled_set_contains_all(const OutboxSettledSet *s, uint64_t first, uint64_t last);
/* The smallest number >= x that is not in the set. */
uint64_t outbox_settled_set_next(const OutboxSettledSet *s, uint64_t x);
/* How many of first..last are not in the set. */
uint64_t outbox_settled_set_missing(const OutboxSettledSet *s, uint64_t first, uint64_t last);

typedef struct OutboxTotals {
        uint64_t accepted, confirmed, expired, dropped, rejected, lost;
} OutboxTotals;

typedef struct OutboxPositionLane {
        OutboxSettledSet settled;
        uint64_t tail;           /* lane_seq of the newest message that totals know */
        uint64_t queued_bytes;   /* of records up to tail that are not settled */
} OutboxPositionLane;

typedef struct OutboxPosition {
        bool full;               /* carries identity and streams */
        uint64_t outbox_id;
        uint64_t next_seq;
        OutboxTotals totals;
        usec_t newest_realtime_usec; /* of the newest message */
        OutboxPositionLane lanes[OUTBOX_N_MESSAGE_LANES];
        char *hub, *device;      /* NULL: not known yet, or not full */
} OutboxPosition;

void outbox_position_done(OutboxPosition *p);

/* Bytes of the record. streams: NULL unless full. */
size_t outbox_position_size(const OutboxPosition *p, const OutboxStreamTable *streams);

/* data: that many bytes. Follow with outbox_record_finish(). */
void outbox_position_encode(const OutboxPosition *p, const OutboxStreamTable *streams, unsigned lane, uint8_t *data);

/* 0, -EBADMSG or -ENOMEM. ret: to be freed with outbox_position_done(). streams: NULL, or a table that gets the
 * record's streams, oldest first, if it is full. */
int outbox_position_decode(const OutboxRecord *r, OutboxStreamTable *streams, OutboxPosition *ret);

/* Whether a record is a position, and whether it is full, without looking inside. */
bool outbox_position_is(const OutboxRecord *r, bool *ret_full);
