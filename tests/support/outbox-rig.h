/* outbox-rig.h: an outbox beside its model on a simulated disk, for tests of single promises. */
#pragma once

#include "tests/support/outbox-model.h"

#define MIB ((uint64_t) 1 << 20)

typedef struct Rig {
        SimDisk *disk;
        OutboxModel *model;
} Rig;

/* Small segments, rejecting when full, nothing expires by itself. */
OutboxOptions base_options(void);

/* Opened and verified. Undo with rig_done(), after outbox_model_close() or outbox_model_crash(). */
void rig_open(Rig *g, const OutboxOptions *options, uint64_t seed, uint64_t capacity);
void rig_done(Rig *g);

/* Opens again and verifies. clean: after outbox_model_close(). */
void reopen(Rig *g, bool clean);

/* Appends n (64 at most) in one call and runs. Result of outbox_append(). */
int append_some(OutboxModel *m, OutboxLane lane, size_t n, size_t body_size, usec_t ttl);

/* Until nothing waits. Returns how many were handed out. */
size_t confirm_all(OutboxModel *m);
