/* outbox-receipts.h: a ring file of the last ends, for look-ups. A convenience: written without a sync, so a crash
 * may cost the newest ones, and damage costs the receipt it hit. Format: docs/outbox-format.md. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/outbox.h"
#include "daemon/outbox-io.h"

#define OUTBOX_RECEIPT_SIZE 48U
#define OUTBOX_RECEIPTS_PENDING_MAX 1024U /* in memory */

typedef struct OutboxReceipts OutboxReceipts;

typedef struct OutboxReceipt {
        uint64_t seq;
        OutboxLane lane;
        OutboxEnd end;
        bool has_position;
        uint64_t position;
        uint64_t id_hash;   /* outbox_id_hash() */
        usec_t accepted_realtime_usec, settled_realtime_usec;
} OutboxReceipt;

uint64_t outbox_id_hash(const char *message_id);

/* n: slots. index: ends so far, which is the slot that comes next. */
int outbox_receipts_new(const OutboxIo *io, int dir_fd, unsigned n, uint64_t index, OutboxReceipts **ret);
OutboxReceipts *outbox_receipts_free(OutboxReceipts *r);
DEFINE_CLEANUP(OutboxReceipts *, outbox_receipts_free);

void outbox_receipts_add(OutboxReceipts *r, const OutboxReceipt *receipt);

/* Whether no more can gather. */
bool outbox_receipts_want_write(const OutboxReceipts *r);

/* What gathered, on its way to the file: a write may wait for the disk, so it runs on another thread. */
typedef struct OutboxReceiptsBlock {
        const OutboxIo *io;
        int fd;
        unsigned n_slots, n;
        uint64_t index, end;
        uint8_t *data; /* freed by outbox_receipts_written() */
} OutboxReceiptsBlock;

/* false: nothing has gathered. */
bool outbox_receipts_take(OutboxReceipts *r, OutboxReceiptsBlock *ret);
void outbox_receipts_write(OutboxReceiptsBlock *b); /* any thread; blocks in the order of their taking */
void outbox_receipts_written(OutboxReceipts *r, OutboxReceiptsBlock *b);

uint64_t outbox_receipts_bytes(const OutboxReceipts *r);

/* The newest receipt of a sequence number, or (seq 0) of an id. May run on another
 * thread, behind the blocks taken before. 0, -ENOENT or -errno. */
int outbox_receipts_find(const OutboxIo *io, int dir_fd, uint64_t seq, uint64_t id_hash, OutboxReceipt *ret);
