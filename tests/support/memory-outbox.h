/* memory-outbox.h: stands in for daemon/outbox.c where a test or benchmark is about the uplink
 * alone: n messages of one size in memory, the calls that the uplink makes, and books of what it
 * did with them. Linking it keeps the real one out. */
#pragma once

#include "daemon/outbox.h"

typedef struct MemoryOutboxBooks {
        uint64_t n_messages, n_confirmed, n_rejected, n_handed_out, n_handed_out_again, n_cuts;
        uint64_t first_aside; /* 0: none is set aside */
} MemoryOutboxBooks;

Outbox *memory_outbox_new(uint64_t n_messages, size_t body_size);
void memory_outbox_add(Outbox *o, uint64_t n_messages);
void memory_outbox_spoil(Outbox *o, uint64_t seq); /* gives it a topic longer than MQTT can carry */
void memory_outbox_keep_rejected(Outbox *o); /* as with a disk that does not take dead letters */
void memory_outbox_get_books(Outbox *o, MemoryOutboxBooks *ret);
Outbox *memory_outbox_free(Outbox *o);
DEFINE_CLEANUP(Outbox *, memory_outbox_free);
