/* uplink-memory.h: what of the waits outlives the process, so that a daemon that crashes again and again
 * is no storm of connections. An orderly stop forgets it: whoever restarts the service wants a try now.
 *
 * It lives within one boot (its times are CLOCK_BOOTTIME, and after a power cut the boot itself is a wait),
 * so it needs no sync. It is written at the first try of a run and when a wait of UPLINK_MEMORY_USEC or
 * more grows to its next step, which ends at the longest wait: a few times in a trouble, however long that
 * lasts. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/time-util.h"
#include "daemon/uplink-state.h"

#define UPLINK_MEMORY_USEC (15 * USEC_PER_SEC)

/* Runs that ended without an orderly stop this long after they began are not the same loop any more. */
#define UPLINK_MEMORY_LOOP_USEC (10 * USEC_PER_MINUTE)

#define UPLINK_MEMORY_TEXT_MAX 512U

/* Plain data. */
typedef struct UplinkMemory {
        char boot_id[37];     /* as the kernel writes it */
        unsigned n_starts;    /* in a row that were not ended in order, this one included */
        usec_t started_usec;  /* of the last of them */
        UplinkMachine machine; /* only what uplink_memory_keep() takes */
} UplinkMemory;

void uplink_memory_format(const UplinkMemory *m, char *buf, size_t size);

/* false: no such text, or a damaged one. */
bool uplink_memory_parse(const char *text, UplinkMemory *ret);

/* A run begins. previous: NULL where there is none. Fills *ret, gives the machine back what it had, and
 * returns how long to wait before the first try; 0: not at all. */
usec_t uplink_memory_begin(const UplinkMemory *previous, const char *boot_id, const UplinkTimes *times,
                           usec_t now_usec, uint64_t random, UplinkMemory *ret, UplinkMachine *machine);

/* Takes over what the machine has; returns whether that is worth a write. */
bool uplink_memory_keep(UplinkMemory *m, const UplinkMachine *machine);

/* The file. Writes happen on a thread that nobody waits for, one at a time; one that comes while another is
 * under way is left out and -EBUSY. */
typedef struct UplinkMemoryFile UplinkMemoryFile;

int uplink_memory_file_new(const char *path, UplinkMemoryFile **ret);
UplinkMemoryFile *uplink_memory_file_free(UplinkMemoryFile *f);
DEFINE_CLEANUP(UplinkMemoryFile *, uplink_memory_file_free);

/* Blocks for the reading of a small file; at start only. */
bool uplink_memory_file_load(UplinkMemoryFile *f, UplinkMemory *ret);
int uplink_memory_file_save(UplinkMemoryFile *f, const UplinkMemory *m);

/* An orderly stop. */
void uplink_memory_file_remove(UplinkMemoryFile *f);

/* Of this boot; 0 or -errno. */
int uplink_memory_read_boot_id(char ret[static 37]);
