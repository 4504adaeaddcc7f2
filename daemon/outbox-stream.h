/* outbox-stream.h: the streams that senders resume: for each the position below which all is stored. Bounded: the
 * one unused longest is forgotten first, but never one with messages in a batch under way. Memory only; the table
 * goes to disk in full position records (outbox-position.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

typedef struct OutboxStreamEntry {
        uint8_t id[16];
        uint32_t uid;
        unsigned lane;
        uint64_t next;         /* all below are durable */
        uint64_t pending_next; /* all below are durable or in a batch under way */
        uint64_t used;         /* greater is more recent */
} OutboxStreamEntry;

typedef struct OutboxStreamTable OutboxStreamTable;

OutboxStreamTable *outbox_stream_table_new(void);
OutboxStreamTable *outbox_stream_table_free(OutboxStreamTable *t);
DEFINE_CLEANUP(OutboxStreamTable *, outbox_stream_table_free);

/* NULL: unknown. Valid until the next call of outbox_stream_add(). */
OutboxStreamEntry *outbox_stream_find(OutboxStreamTable *t, const uint8_t id[static 16]);

/* A stream not in the table yet. NULL: all are in use by batches under way. */
OutboxStreamEntry *outbox_stream_add(OutboxStreamTable *t, const uint8_t id[static 16], uint32_t uid, unsigned lane);

void outbox_stream_touch(OutboxStreamTable *t, OutboxStreamEntry *e);

/* Batches under way came to nothing: what is pending is what is durable. */
void outbox_stream_rollback(OutboxStreamTable *t);

size_t outbox_stream_count(const OutboxStreamTable *t);
const OutboxStreamEntry *outbox_stream_get(const OutboxStreamTable *t, size_t i);
