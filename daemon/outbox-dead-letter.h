/* outbox-dead-letter.h: a bounded box of messages that the hub will never take, each with the reason. Two files, used
 * in turn: when one is full the other is emptied, and a letter larger than half of the box has it alone. Format: docs/outbox-format.md.
 * One thread at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/outbox-io.h"

typedef struct OutboxDeadLetters OutboxDeadLetters;

/* max_bytes: of both files; 0: there is no box. Opens what is there; makes files only when they are needed. */
int outbox_dead_letters_new(const OutboxIo *io, int dir_fd, uint64_t max_bytes, OutboxDeadLetters **ret);
OutboxDeadLetters *outbox_dead_letters_free(OutboxDeadLetters *d);
DEFINE_CLEANUP(OutboxDeadLetters *, outbox_dead_letters_free);

/* Copies a message record (whole, as it is on disk), durable when this returns 0. reason is cut at 1 KiB.
 * -EMSGSIZE (larger than the whole box); or -errno of the disk: what made room for it may be gone then. */
int outbox_dead_letters_add(OutboxDeadLetters *d, const void *record, size_t size, const char *reason, usec_t realtime_usec);

uint64_t outbox_dead_letters_count(const OutboxDeadLetters *d);
uint64_t outbox_dead_letters_bytes(const OutboxDeadLetters *d);
