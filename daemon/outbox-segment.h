/* outbox-segment.h: one recyclable segment file. Header and scan are pure functions over bytes; the rest reaches
 * the disk through outbox-io.h. Format: docs/outbox-format.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "daemon/outbox-io.h"
#include "daemon/outbox-record.h"

#define OUTBOX_SEGMENT_HEADER_SIZE 128U
#define OUTBOX_SEGMENT_SIZE_MIN (512U * 1024U)
#define OUTBOX_SEGMENT_SIZE_MAX (1024U * 1024U * 1024U)
#define OUTBOX_SEGMENT_NAME_MAX 32U
#define OUTBOX_FORMAT_VERSION 1U

/* What a use of the file starts with. Everything in it but salt and size is a hint: where it is damaged, the records
 * tell. */
typedef struct OutboxSegmentHeader {
        uint32_t number;         /* of the file */
        uint32_t size;           /* of the file; it never changes */
        unsigned lane;           /* OutboxLane, or OUTBOX_LANE_POSITION */
        uint64_t salt;           /* random, not 0; new for each use */
        uint64_t batch;          /* the first batch written to this use */
        uint64_t first_lane_seq; /* of the first message that can be here */
        uint64_t first_seq;
        uint64_t outbox_id;      /* what made message ids start with */
        uint32_t attempt;        /* 1: the batch had failed in other segments before */
        uint8_t boot_id[16];     /* boot time in the records counts within this boot: a use never spans two */
} OutboxSegmentHeader;

void outbox_segment_header_encode(const OutboxSegmentHeader *h, uint8_t data[static OUTBOX_SEGMENT_HEADER_SIZE]);

/* 0; -ENODATA (all zeros: never used); -EPROTONOSUPPORT (newer version); -EBADMSG (damaged). */
int outbox_segment_header_decode(const uint8_t data[static OUTBOX_SEGMENT_HEADER_SIZE], OutboxSegmentHeader *ret);

/* Walks the valid records of one use in file order, with memory bounded by the largest record. Zero-initialise
 * with outbox_segment_scan_init(), then done(). Works on a file, or on bytes in memory (io NULL). */
typedef struct OutboxSegmentScan {
        const OutboxIo *io;
        int fd;
        uint64_t salt;           /* 0: any use */
        uint64_t limit;          /* end of what may be read */
        const uint8_t *bytes;    /* of [start, start + n_bytes) */
        uint64_t start;
        size_t n_bytes;
        uint8_t *buffer;
        size_t allocated;
        uint64_t next;           /* where the search goes on */
        bool damaged_before;     /* of the record given last: it did not follow the one before without a hole */
        bool unreadable;         /* the disk refused to read a part, which was taken as a hole */
        bool readable;           /* and some part it did read */
} OutboxSegmentScan;

void outbox_segment_scan_file(OutboxSegmentScan *s, const OutboxIo *io, int fd, uint64_t salt, uint64_t offset, uint64_t limit);
void outbox_segment_scan_bytes(OutboxSegmentScan *s, const void *data, size_t n, uint64_t salt, uint64_t offset);
void outbox_segment_scan_done(OutboxSegmentScan *s);

/* 1: *ret is the next record (valid until the next call) at *ret_offset; 0: no more; -ENOMEM. */
int outbox_segment_scan_next(OutboxSegmentScan *s, OutboxRecord *ret, uint64_t *ret_offset);

/* "segment-0000002a" and back; position segments "position-0000002b". */
void outbox_segment_name(bool position, uint32_t number, char ret[static OUTBOX_SEGMENT_NAME_MAX]);
int outbox_segment_name_parse(const char *name, bool *ret_position, uint32_t *ret_number); /* 0 or -EINVAL */

/* Makes a file of size zeros, written and synced, and its name in the directory synced: later writes change no
 * metadata. 0 or -errno; on failure the file is removed. */
int outbox_segment_create(const OutboxIo *io, int dir_fd, const char *name, uint32_t size);

/* pread and pwrite of all n bytes, going on after EINTR and short counts. read: the count, short at the file's end. */
ssize_t outbox_read_full(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset);
int outbox_write_full(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset);
