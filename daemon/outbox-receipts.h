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

/* Hands what gathered since the last call to the disk, as far as it takes it. */
void outbox_receipts_flush(OutboxReceipts *r);

uint64_t outbox_receipts_bytes(const OutboxReceipts *r);

/* The newest receipt of a sequence number, or (seq 0) of an id. Flush before; may run on another thread while the
 * owner does not touch r. 0, -ENOENT or -errno. */
int outbox_receipts_find(const OutboxIo *io, int dir_fd, uint64_t seq, uint64_t id_hash, OutboxReceipt *ret);
