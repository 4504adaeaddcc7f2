/* sim-disk.h: a disk in memory behind the table of daemon/outbox-io.h, which forgets, tears, fails and fills, from a
 * seed.
 *
 * What it promises is what POSIX and Linux promise, and no more:
 *  - Data is safe after fdatasync() or fsync() of its file. Until then each page of 4 KiB may be on the disk or not,
 *    or torn: any mix of its 512-byte sectors, one of them cut at any byte. A page may also have got there early, in
 *    a state between two writes.
 *  - A name is safe after fsync() of its directory. fsync() of the file does not help. Creations, renames and unlinks
 *    of one directory reach the disk in order, so a crash keeps a prefix of them.
 *  - A sync that fails leaves pages clean whether they were written or not: the next sync succeeds and writes nothing
 *    (fsync(2), "EIO"; P. Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
 *  - Overwriting allocated pages needs no space; a write that runs out of space is short.
 *
 * All calls of the table may come from several threads. The sim_disk_ functions are for the test's thread while no
 * call is running. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/outbox-io.h"
#include "lib/macro.h"

/* What every call returns between the crash and sim_disk_reboot(), negated. No call of the real disk gives it. */
#define SIM_DISK_CRASHED ESHUTDOWN

typedef struct SimDisk SimDisk;

typedef enum SimCall {
        SIM_OPEN_DIR,
        SIM_OPENAT,
        SIM_CLOSE,
        SIM_PREAD,
        SIM_PWRITE,
        SIM_FTRUNCATE,
        SIM_FDATASYNC,
        SIM_FSYNC,
        SIM_RENAMEAT,
        SIM_UNLINKAT,
        SIM_MKDIRAT,
        SIM_FSIZE,
        SIM_LIST,
        SIM_STATFS,
        _SIM_CALL_MAX,
} SimCall;

#define SIM_CALLS_ALL ((1U << _SIM_CALL_MAX) - 1U)
#define SIM_CALLS_WRITING                                                                          \
        (1U << SIM_PWRITE | 1U << SIM_FTRUNCATE | 1U << SIM_FDATASYNC | 1U << SIM_FSYNC |          \
         1U << SIM_RENAMEAT | 1U << SIM_UNLINKAT | 1U << SIM_MKDIRAT)

typedef struct SimDiskStats {
        uint64_t n_calls[_SIM_CALL_MAX];
        uint64_t n_calls_total; /* close is in n_calls but not here: it never fails or crashes */
        uint64_t bytes_written; /* by pwrite */
        uint64_t bytes_synced;  /* whole pages that a sync brought to the disk */
        uint64_t n_syncs;
} SimDiskStats;

/* capacity: bytes of the file system, UINT64_MAX for no limit (statfs then says 1 TiB). Aborts when out of memory. */
SimDisk *sim_disk_new(uint64_t seed, uint64_t capacity);
SimDisk *sim_disk_free(SimDisk *d);
DEFINE_CLEANUP(SimDisk *, sim_disk_free);

/* A second disk with the same content (pages are shared until written), no open file, no trouble armed, its own seed. */
SimDisk *sim_disk_clone(const SimDisk *d, uint64_t seed);

/* Borrowed from the disk. */
const OutboxIo *sim_disk_io(SimDisk *d);

/* The power goes at the n-th counted call from now, 0 = the next one; UINT64_MAX: never. */
void sim_disk_crash_at(SimDisk *d, uint64_t n);
void sim_disk_crash_now(SimDisk *d);
bool sim_disk_is_crashed(const SimDisk *d);

/* Power is back: what was not synced is kept, lost or torn, all descriptors and locks are gone. Disarms everything
 * but the capacity. */
void sim_disk_reboot(SimDisk *d);

/* The process is gone and the machine is not: descriptors and locks are, but what was not synced is where it was, and a
 * later sim_disk_reboot() may still lose it. Disarms everything but the capacity. */
void sim_disk_kill(SimDisk *d);

/* Of the calls whose bit (1 << SimCall) is in kinds, the n-th from now and the count - 1 after it fail with error
 * (positive errno; count UINT64_MAX: all of them). count 0 disarms. */
void sim_disk_fail_at(SimDisk *d, unsigned kinds, uint64_t n, uint64_t count, int error);
/* How many calls have failed by sim_disk_fail_at() since it was armed. */
uint64_t sim_disk_n_failed(const SimDisk *d);

void sim_disk_set_capacity(SimDisk *d, uint64_t capacity);
void sim_disk_set_read_only(SimDisk *d, bool read_only);

/* Bytes allocated to files that have a name or are open, in whole pages. */
uint64_t sim_disk_used(const SimDisk *d);

/* Reads that touch the range fail with EIO until it is written. name is as sim_disk_file_name() gives it. */
void sim_disk_break_range(SimDisk *d, const char *name, uint64_t offset, uint64_t size);

void sim_disk_get_stats(const SimDisk *d, SimDiskStats *ret);
unsigned sim_disk_n_open(const SimDisk *d);

/* Look at and damage the files behind the program's back: as it sees them and on the disk alike. A name is the path
 * from the root, "DIR/file", with DIR as given to open_dir. */
size_t sim_disk_n_files(const SimDisk *d);
const char *sim_disk_file_name(const SimDisk *d, size_t i); /* borrowed until the next call of it */
uint64_t sim_disk_file_size(const SimDisk *d, const char *name);
void sim_disk_file_read(const SimDisk *d, const char *name, uint64_t offset, void *data, size_t n);
void sim_disk_file_write(SimDisk *d, const char *name, uint64_t offset, const void *data, size_t n);
/* Makes the file, in a directory that exists. */
void sim_disk_file_add(SimDisk *d, const char *name, const void *data, size_t n);
void sim_disk_file_truncate(SimDisk *d, const char *name, uint64_t size);
void sim_disk_file_unlink(SimDisk *d, const char *name);
