/* outbox-record.h: one record of the outbox to and from bytes. Pure: no I/O, no allocation, any input is safe.
 * Format: docs/outbox-format.md. Little-endian by definition. */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

#define OUTBOX_RECORD_ALIGN 8U
#define OUTBOX_RECORD_PREFIX_SIZE 32U   /* what every record starts with */
#define OUTBOX_MESSAGE_FIXED_SIZE 72U   /* prefix and fixed part of a message record */
#define OUTBOX_LANE_POSITION 3U         /* lane number of the segments that hold positions only */
#define OUTBOX_LANE_DEAD_LETTER 4U      /* and of the dead-letter box */
#define OUTBOX_N_MESSAGE_LANES 3U

typedef enum OutboxRecordKind {
        OUTBOX_RECORD_MESSAGE = 1,
        OUTBOX_RECORD_POSITION = 2,
        OUTBOX_RECORD_SEAL = 3,        /* its batch number says: this batch was synced */
        OUTBOX_RECORD_DEAD_LETTER = 4,
} OutboxRecordKind;

/* A whole record whose CRC is right; points into the caller's bytes. */
typedef struct OutboxRecord {
        OutboxRecordKind kind;
        unsigned lane, flags;
        uint64_t salt, batch;
        const uint8_t *data;
        size_t size;             /* whole, a multiple of OUTBOX_RECORD_ALIGN */
} OutboxRecord;

/* Reads the record that starts at data. salt: of the segment's use; 0 accepts any.
 * 0; -ENODATA: a plausible start whose size exceeds n (ask again with *ret_size bytes); -EBADMSG: none here. */
int outbox_record_decode(const void *data, size_t n, uint64_t salt, OutboxRecord *ret, size_t *ret_size);

/* Looks for the first record at or behind *offset (a multiple of OUTBOX_RECORD_ALIGN). final: nothing follows
 * these n bytes; without it the search stops where a plausible record would need more.
 * 1: found, *offset is its start; 0: none, *offset is where to go on with more bytes. */
int outbox_record_search(const void *data, size_t n, uint64_t salt, bool final, size_t *offset, OutboxRecord *ret);

/* Writes the prefix of a record whose other bytes are in place and leaves a CRC over them; the record becomes
 * valid by outbox_record_finish(), once its place on disk is known: one pass over the payload, not two. */
void outbox_record_start(uint8_t *data, size_t size, OutboxRecordKind kind, unsigned lane, unsigned flags);
void outbox_record_finish(uint8_t *data, uint64_t salt, uint64_t batch);
/* Undoes finish, so that the record can go to another segment. */
void outbox_record_reopen(uint8_t *data);

/* Of a record that is not finished, in memory. */
size_t outbox_record_size(const uint8_t *data);

/* A message. Pointers are borrowed. */
typedef struct OutboxMessageRecord {
        uint64_t seq;            /* global, counts from 1, never reused */
        uint64_t lane_seq;       /* the n-th of its lane, counts from 1 without gaps: what is missing is lost */
        usec_t accepted_realtime_usec, accepted_boottime_usec;
        bool realtime_plausible;
        bool first_of_call, last_of_call;
        usec_t time_to_live_usec; /* USEC_INFINITY: none */
        bool has_stream;
        uint8_t stream[16];
        uint64_t position;
        uint32_t uid;            /* with a stream only */
        const char *message_id;  /* not NUL-terminated; size 0: one is made from seq */
        const void *bag, *body;
        size_t message_id_size, bag_size, body_size;
} OutboxMessageRecord;

/* 0 where a field exceeds what the format can hold. */
size_t outbox_message_record_size(const OutboxMessageRecord *m);

/* data: outbox_message_record_size() bytes, aligned to 8. Follow with outbox_record_finish(). */
void outbox_message_record_encode(const OutboxMessageRecord *m, unsigned lane, uint8_t *data);

/* 0 or -EBADMSG (not a message, or its parts don't add up). */
int outbox_message_record_decode(const OutboxRecord *r, OutboxMessageRecord *ret);

/* Byte order, shared by all that goes to disk. */
static inline void put_le16(uint8_t *p, uint16_t v) {
        v = htole16(v);
        memcpy(p, &v, sizeof(v));
}

static inline void put_le32(uint8_t *p, uint32_t v) {
        v = htole32(v);
        memcpy(p, &v, sizeof(v));
}

static inline void put_le64(uint8_t *p, uint64_t v) {
        v = htole64(v);
        memcpy(p, &v, sizeof(v));
}

static inline uint16_t get_le16(const uint8_t *p) {
        uint16_t v;

        memcpy(&v, p, sizeof(v));
        return le16toh(v);
}

static inline uint32_t get_le32(const uint8_t *p) {
        uint32_t v;

        memcpy(&v, p, sizeof(v));
        return le32toh(v);
}

static inline uint64_t get_le64(const uint8_t *p) {
        uint64_t v;

        memcpy(&v, p, sizeof(v));
        return le64toh(v);
}

static inline size_t outbox_align(size_t n) {
        return (n + OUTBOX_RECORD_ALIGN - 1) & ~(size_t) (OUTBOX_RECORD_ALIGN - 1);
}
