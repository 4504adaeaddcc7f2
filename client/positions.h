/* positions.h: what a run knows about the positions of its messages: which have ended, and which
 * sequence numbers the daemon gave them. Memory is for what is open, not for what was sent. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"

#define POSITIONS_AHEAD_MAX (16U * 1024U * 1024U) /* past the first open one: 2 MiB of bits */

/* Zero-initialised is empty. */
typedef struct PositionSet {
        uint64_t base; /* all below are in the set; a multiple of 64 */
        Buffer words;  /* uint64_t, a bit for each position from base on */
} PositionSet;

void position_set_done(PositionSet *s);
bool position_set_has(const PositionSet *s, uint64_t position);

/* 1, 0 (it was there), -ERANGE (more than POSITIONS_AHEAD_MAX past the first that is missing) or
 * -ENOMEM. */
int position_set_add(PositionSet *s, uint64_t position);

/* The first at or behind position that is not in the set. */
uint64_t position_set_next_missing(const PositionSet *s, uint64_t position);

/* Zero-initialised is empty. */
typedef struct SequenceMap {
        struct SequenceRange *ranges; /* ascending positions */
        size_t n_ranges, n_allocated;
} SequenceMap;

void sequence_map_done(SequenceMap *m);

/* The n messages from position on have the numbers from seq on; position is not below what was
 * added before. 0 or -ENOMEM. */
int sequence_map_add(SequenceMap *m, uint64_t position, uint64_t seq, uint64_t n);

/* 1 (*ret is the sequence number) or 0 (not known). */
int sequence_map_get(const SequenceMap *m, uint64_t position, uint64_t *ret);

/* Forgets what lies wholly below position. */
void sequence_map_trim(SequenceMap *m, uint64_t position);
