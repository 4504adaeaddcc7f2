#include "tests/support/sim-disk.h"
#include "tests/support/test.h"

#include <fcntl.h>
#include <stdarg.h>

#define N_SEEDS 200 /* enough that each fate of a page is seen many times; chance of missing one below 1e-9 */

static int open_fresh(SimDisk *d, int *ret_dir) {
        const OutboxIo *io = sim_disk_io(d);

        *ret_dir = io->open_dir(io, "box");
        ck_assert_int_ge(*ret_dir, 0);
        return io->openat(io, *ret_dir, "a", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static void write_filled(SimDisk *d, int fd, int c, size_t n, uint64_t offset) {
        const OutboxIo *io = sim_disk_io(d);
        uint8_t data[16384];

        memset(data, c, n);
        ck_assert_int_eq(io->pwrite(io, fd, data, n, offset), (ssize_t) n);
}

static bool has_file(const SimDisk *d, const char *name) {
        for (size_t i = 0; i < sim_disk_n_files(d); i++)
                if (streq(sim_disk_file_name(d, i), name))
                        return true;
        return false;
}

/* Goal: what both syncs promised is there after any crash. */
TEST(synced_file_in_synced_directory_survives) {
        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                uint8_t data[8192];
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'x', 8000, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                sim_disk_crash_now(d);
                assert_error(io->fdatasync(io, fd), -SIM_DISK_CRASHED);
                sim_disk_reboot(d);
                ck_assert(has_file(d, "box/a"));
                ck_assert_uint_eq(sim_disk_file_size(d, "box/a"), 8000);
                sim_disk_file_read(d, "box/a", 0, data, 8000);
                for (size_t i = 0; i < 8000; i++)
                        ck_assert_int_eq(data[i], 'x');
        }
}

/* Goal: a file's own sync, even fsync, does not make its name safe; some seeds keep it, some lose it. */
TEST(name_without_directory_sync_may_be_lost) {
        unsigned kept = 0;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'x', 100, 0);
                assert_ok(io->fsync(io, fd));
                sim_disk_reboot(d);
                if (!has_file(d, "box/a"))
                        continue;
                kept++;
                ck_assert_uint_eq(sim_disk_file_size(d, "box/a"), 100);
        }
        ck_assert_uint_gt(kept, 0);
        ck_assert_uint_lt(kept, N_SEEDS);
}

/* Goal: an unsynced overwrite of one page is seen lost, kept, cut at a byte, and mixed sector by sector, and no byte
 * is ever anything but the old or the new one. */
TEST(unsynced_page_is_kept_lost_or_torn) {
        unsigned lost = 0, kept = 0, torn = 0, mixed = 0;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                unsigned edges = 0, n_new = 0;
                uint8_t data[4096];
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'o', 4096, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                write_filled(d, fd, 'n', 4096, 0);
                sim_disk_reboot(d);
                sim_disk_file_read(d, "box/a", 0, data, sizeof(data));
                for (size_t i = 0; i < sizeof(data); i++) {
                        ck_assert(data[i] == 'o' || data[i] == 'n');
                        n_new += data[i] == 'n';
                        edges += i > 0 && data[i] != data[i - 1];
                }
                lost += n_new == 0;
                kept += n_new == sizeof(data);
                torn += n_new % 512 != 0;
                mixed += edges > 1;
        }
        ck_assert_uint_gt(lost, 0);
        ck_assert_uint_gt(kept, 0);
        ck_assert_uint_gt(torn, 0);
        ck_assert_uint_gt(mixed, 0);
}

/* Goal: pages are independent: the second may be there without the first. */
TEST(unsynced_pages_reach_the_disk_in_any_order) {
        bool seen[4] = {};

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                uint8_t first, second;
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'o', 8192, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                write_filled(d, fd, 'n', 8192, 0);
                sim_disk_reboot(d);
                sim_disk_file_read(d, "box/a", 0, &first, 1);
                sim_disk_file_read(d, "box/a", 4096, &second, 1);
                seen[(first == 'n') + 2 * (second == 'n')] = true;
        }
        for (size_t i = 0; i < ELEMENTSOF(seen); i++)
                ck_assert(seen[i]);
}

/* Goal: a file that grew without a sync ends anywhere between its old and new size, with zeros for lost pages. */
TEST(unsynced_growth_gives_zeros_or_data) {
        bool between = false;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                uint8_t data[12000];
                uint64_t size;
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'o', 1000, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                write_filled(d, fd, 'n', 11000, 1000);
                sim_disk_reboot(d);
                size = sim_disk_file_size(d, "box/a");
                ck_assert_uint_ge(size, 1000);
                ck_assert_uint_le(size, 12000);
                between = between || (size > 1000 && size < 12000);
                sim_disk_file_read(d, "box/a", 0, data, size);
                for (size_t i = 0; i < size; i++)
                        ck_assert(data[i] == (i < 1000 ? 'o' : 'n') || (i >= 1000 && data[i] == 0));
        }
        ck_assert(between);
}

/* Goal: unsynced operations of a directory survive as a prefix: the rename is never there without the creation, and
 * the name that it replaced is never gone with nothing in its place. */
TEST(directory_operations_are_kept_in_order) {
        bool seen_old = false, seen_new = false, seen_both = false;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                uint8_t c;
                int dir, fd = open_fresh(d, &dir), tmp;

                write_filled(d, fd, 'o', 1, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                tmp = io->openat(io, dir, "tmp", O_RDWR | O_CREAT | O_EXCL, 0600);
                write_filled(d, tmp, 'n', 1, 0);
                assert_ok(io->fdatasync(io, tmp));
                assert_ok(io->renameat(io, dir, "tmp", "a"));
                sim_disk_reboot(d);
                ck_assert(has_file(d, "box/a"));
                sim_disk_file_read(d, "box/a", 0, &c, 1);
                ck_assert(c == 'o' || c == 'n');
                ck_assert(!(c == 'n' && has_file(d, "box/tmp")));
                seen_old = seen_old || (c == 'o' && !has_file(d, "box/tmp"));
                seen_both = seen_both || (c == 'o' && has_file(d, "box/tmp"));
                seen_new = seen_new || c == 'n';
        }
        ck_assert(seen_old && seen_new && seen_both);
}

/* Goal: a failed sync loses pages, the next one succeeds all the same, and the data may be gone: what Linux does. */
TEST(sync_after_a_failed_sync_succeeds_and_saves_nothing) {
        unsigned lost = 0;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                uint8_t c;
                int dir, fd = open_fresh(d, &dir);

                write_filled(d, fd, 'o', 4096, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                write_filled(d, fd, 'n', 4096, 0);
                sim_disk_fail_at(d, 1U << SIM_FDATASYNC, 0, 1, EIO);
                assert_error(io->fdatasync(io, fd), -EIO);
                assert_ok(io->fdatasync(io, fd));
                ck_assert_uint_eq(sim_disk_n_failed(d), 1);
                sim_disk_reboot(d);
                sim_disk_file_read(d, "box/a", 4095, &c, 1);
                lost += c == 'o';
        }
        ck_assert_uint_gt(lost, 0);
}

/* Goal: the n-th call of the kinds chosen fails, count times, and no other. */
TEST(chosen_calls_fail) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX);
        const OutboxIo *io = sim_disk_io(d);
        int dir, fd = open_fresh(d, &dir);
        uint64_t size;

        sim_disk_fail_at(d, 1U << SIM_PWRITE, 1, 2, EIO);
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 0), 1);
        assert_ok(io->fsize(io, fd, &size));
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 1), -EIO);
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 1), -EIO);
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 1), 1);
        ck_assert_uint_eq(sim_disk_n_failed(d), 2);
}

/* Goal: a full disk gives a short write, then ENOSPC, and still takes overwrites in place; an unlink makes room. */
TEST(full_disk_takes_overwrites_only) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, 4 * 4096);
        const OutboxIo *io = sim_disk_io(d);
        static uint8_t data[6 * 4096];
        uint64_t size, room;
        int dir, fd = open_fresh(d, &dir), other;

        ck_assert_int_eq(io->pwrite(io, fd, data, sizeof(data), 0), 4 * 4096);
        ck_assert_int_eq(io->pwrite(io, fd, data, 4096, 4 * 4096), -ENOSPC);
        ck_assert_int_eq(io->pwrite(io, fd, data, 4096, 4096), 4096);
        assert_ok(io->statfs(io, dir, &size, &room));
        ck_assert_uint_eq(size, 4 * 4096);
        ck_assert_uint_eq(room, 0);
        other = io->openat(io, dir, "b", O_RDWR | O_CREAT, 0600);
        ck_assert_int_eq(io->pwrite(io, other, "x", 1, 0), -ENOSPC);
        assert_ok(io->unlinkat(io, dir, "a"));
        ck_assert_int_eq(io->pwrite(io, other, "x", 1, 0), -ENOSPC); /* still open */
        io->close(io, fd);
        ck_assert_int_eq(io->pwrite(io, other, "x", 1, 0), 1);
}

TEST(read_only_disk_refuses_changes_and_serves_reads) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX);
        const OutboxIo *io = sim_disk_io(d);
        int dir, fd = open_fresh(d, &dir);
        char c;

        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 0), 1);
        sim_disk_set_read_only(d, true);
        ck_assert_int_eq(io->pwrite(io, fd, "y", 1, 0), -EROFS);
        assert_error(io->fdatasync(io, fd), -EROFS);
        assert_error(io->openat(io, dir, "b", O_RDWR | O_CREAT, 0600), -EROFS);
        assert_error(io->renameat(io, dir, "a", "b"), -EROFS);
        assert_error(io->unlinkat(io, dir, "a"), -EROFS);
        ck_assert_int_eq(io->pread(io, fd, &c, 1, 0), 1);
        ck_assert_int_eq(c, 'x');
        sim_disk_set_read_only(d, false);
        assert_ok(io->fdatasync(io, fd));
}

TEST(broken_range_fails_reads_until_written) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX);
        const OutboxIo *io = sim_disk_io(d);
        int dir, fd = open_fresh(d, &dir);
        uint8_t data[12288];

        write_filled(d, fd, 'x', 12288, 0);
        sim_disk_break_range(d, "box/a", 5000, 1);
        ck_assert_int_eq(io->pread(io, fd, data, sizeof(data), 0), 4096);
        ck_assert_int_eq(io->pread(io, fd, data, sizeof(data), 4096), -EIO);
        ck_assert_int_eq(io->pread(io, fd, data, sizeof(data), 8192), 4096);
        write_filled(d, fd, 'y', 4096, 4096);
        ck_assert_int_eq(io->pread(io, fd, data, sizeof(data), 0), 12288);
}

/* Goal: two openers of one directory are told apart, and a reboot forgets the lock. */
TEST(directory_is_locked_until_closed_or_rebooted) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX);
        const OutboxIo *io = sim_disk_io(d);
        int dir;

        dir = io->open_dir(io, "box");
        assert_error(io->open_dir(io, "box"), -EBUSY);
        io->close(io, dir);
        assert_ok(io->open_dir(io, "box"));
        sim_disk_reboot(d);
        assert_ok(io->open_dir(io, "box"));
}

/* Goal: a clone shares nothing that a write to one could change in the other. */
TEST(clone_is_independent) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX), *c = NULL;
        int dir, fd = open_fresh(d, &dir);
        char a, b;

        write_filled(d, fd, 'x', 5000, 0);
        c = sim_disk_clone(d, 2);
        sim_disk_file_write(c, "box/a", 10, "y", 1);
        sim_disk_file_read(d, "box/a", 10, &a, 1);
        sim_disk_file_read(c, "box/a", 10, &b, 1);
        ck_assert_int_eq(a, 'x');
        ck_assert_int_eq(b, 'y');
        sim_disk_file_truncate(c, "box/a", 10);
        ck_assert_uint_eq(sim_disk_file_size(d, "box/a"), 5000);
        sim_disk_file_unlink(c, "box/a");
        ck_assert(has_file(d, "box/a") && !has_file(c, "box/a"));
}

/* Goal: after a kill the program's view is whole, and a power cut may still take what was not synced. */
TEST(kill_loses_nothing_until_the_power_goes) {
        unsigned lost = 0;

        for (uint64_t seed = 0; seed < N_SEEDS; seed++) {
                _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(seed, UINT64_MAX);
                const OutboxIo *io = sim_disk_io(d);
                int dir, fd = open_fresh(d, &dir);
                char c;

                write_filled(d, fd, 'o', 1, 0);
                assert_ok(io->fdatasync(io, fd));
                assert_ok(io->fsync(io, dir));
                write_filled(d, fd, 'n', 1, 0);
                sim_disk_crash_now(d);
                sim_disk_kill(d);
                ck_assert_uint_eq(sim_disk_n_open(d), 0);
                sim_disk_file_read(d, "box/a", 0, &c, 1);
                ck_assert_int_eq(c, 'n');
                sim_disk_reboot(d);
                sim_disk_file_read(d, "box/a", 0, &c, 1);
                lost += c == 'o';
        }
        ck_assert_uint_gt(lost, 0);
        ck_assert_uint_lt(lost, N_SEEDS);
}

/* Goal: crash at the n-th call means that n calls worked and no later one does. */
TEST(crash_comes_at_the_call_named) {
        _cleanup_(sim_disk_freep) SimDisk *d = sim_disk_new(1, UINT64_MAX);
        const OutboxIo *io = sim_disk_io(d);
        int dir, fd = open_fresh(d, &dir);

        sim_disk_crash_at(d, 2);
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 0), 1);
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 0), 1);
        ck_assert(!sim_disk_is_crashed(d));
        ck_assert_int_eq(io->pwrite(io, fd, "x", 1, 0), -SIM_DISK_CRASHED);
        ck_assert(sim_disk_is_crashed(d));
        assert_error(io->open_dir(io, "box"), -SIM_DISK_CRASHED);
        sim_disk_reboot(d);
        ck_assert_uint_eq(sim_disk_n_open(d), 0);
        assert_ok(io->open_dir(io, "box"));
}
