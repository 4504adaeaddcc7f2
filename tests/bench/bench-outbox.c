/* What the outbox costs for the job it has: 200-byte messages, durable per batch, then delivered and settled; SQLite
 * (WAL, synchronous=FULL) and LMDB (a sync per commit) do the same job in the same run, on the same file system.
 *
 *   bench-outbox [--directory DIR] [--messages N] [--queued N]     DIR on a real disk, default: the working directory
 *
 * Time is measured in DIR. Disk bytes are measured in a second run on an ext4 of its own on a loop device: what that
 * device was given to write, the journal's part included, divided by the bytes of the payloads. Where there is no loop
 * device for us (not root) they are write_bytes minus cancelled_write_bytes of /proc/self/io, which lack the journal,
 * and count large pages as a whole where the kernel writes only 4 KiB of one. */
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#ifdef HAVE_SQLITE
#include <sqlite3.h>
#endif
#ifdef HAVE_LMDB
#include <lmdb.h>
#endif

#include "daemon/outbox.h"
#include "lib/macro.h"
#include "lib/parse-util.h"

#define PAYLOAD_BYTES 200U
#define BATCH_MAX 1024U
#define N_ROUNDS 8U
#define WINDOW 200U /* messages in flight while delivering, as the uplink has by default */

typedef struct Figures {
        bool count_bytes; /* and not the time */
        usec_t *latency_usec; /* of each batch, append to durable */
        size_t n_latency;
        usec_t append_usec, settle_usec;
        uint64_t append_bytes, settle_bytes;
        uint64_t n_messages;
} Figures;

/* One way to do the job. append: n messages, durable on return. settle: takes the n oldest out, so that they would
 * not come again. done: all that was told is on the disk. */
typedef struct Store {
        const char *name;
        void *(*open)(const char *dir);
        void (*append)(void *store, size_t n);
        void (*settle)(void *store, size_t n);
        void (*done)(void *store);
        void (*close)(void *store);
} Store;

static char payload[PAYLOAD_BYTES];

static void die(const char *what, const char *why) {
        fprintf(stderr, "bench-outbox: %s: %s\n", what, why);
        exit(1);
}

static char loop_dir[PATH_MAX];  /* the mount point; empty: none */
static char loop_stat[PATH_MAX]; /* the device's counters in /sys */

static uint64_t device_bytes(void) {
        _cleanup_fclose_ FILE *f = fopen(loop_stat, "re");
        uint64_t sectors = 0;

        /* Documentation/block/stat.rst: the seventh is sectors written, of 512 bytes. */
        if (!f || fscanf(f, "%*u %*u %*u %*u %*u %*u %" SCNu64, &sectors) != 1)
                die(loop_stat, "no counters");
        return sectors * 512;
}

static uint64_t disk_bytes(void) {
        uint64_t written = 0, cancelled = 0;
        _cleanup_fclose_ FILE *f = NULL;
        char line[128];

        if (loop_dir[0]) {
                sync(); /* what is still on its way belongs to what was measured */
                return device_bytes();
        }
        f = fopen("/proc/self/io", "re");
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "write_bytes: %" SCNu64, &written) != 1)
                        (void) sscanf(line, "cancelled_write_bytes: %" SCNu64, &cancelled);
        return written - MIN(written, cancelled);
}

static bool run(const char *program, const char *a, const char *b) {
        char command[2 * PATH_MAX + 100];

        (void) snprintf(command, sizeof(command), "PATH=$PATH:/sbin:/usr/sbin %s %s %s >/dev/null 2>&1", program, a, b);
        return system(command) == 0;
}

/* An ext4 that nobody else writes to, seen by this process only. Without it the figures come from elsewhere. */
static void loop_mount(const char *dir) {
        char image[PATH_MAX], mount_point[PATH_MAX];
        struct stat st;
        int fd;

        if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return;
        if (snprintf(image, sizeof(image), "%s/bench.img", dir) >= (int) sizeof(image) ||
            snprintf(mount_point, sizeof(mount_point), "%s/bench.mnt", dir) >= (int) sizeof(mount_point))
                return;
        fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t) 4 << 30) < 0 || mkdir(mount_point, 0700) < 0)
                return;
        (void) close(fd); /* empty so far */
        /* Without lazy initialisation, or the kernel goes on writing the inode tables while we measure. */
        if (!run("mkfs.ext4 -q -m 0 -E lazy_itable_init=0,lazy_journal_init=0", image, "") ||
            !run("mount -o loop", image, mount_point))
                return;
        if (stat(mount_point, &st) < 0)
                die(mount_point, strerror(errno));
        (void) snprintf(loop_stat, sizeof(loop_stat), "/sys/dev/block/%u:%u/stat", major(st.st_dev), minor(st.st_dev));
        (void) snprintf(loop_dir, sizeof(loop_dir), "%s", mount_point);
}

static uint64_t rss_anon_bytes(void) {
        _cleanup_fclose_ FILE *f = fopen("/proc/self/status", "re");
        uint64_t kib = 0;
        char line[128];

        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1)
                        break;
        return kib * 1024;
}

/* The outbox */

typedef struct OutboxStore {
        Outbox *outbox;
        unsigned n_open;   /* appends not durable yet */
        uint64_t n_settled;
} OutboxStore;

static void on_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        if (error < 0)
                die("append", strerror(-error));
        ((OutboxStore *) userdata)->n_open--;
}

static void on_settled(const OutboxSettled *s, void *userdata) {
        ((OutboxStore *) userdata)->n_settled++;
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
        printf("  (%s)\n", text);
}

static void outbox_wait(OutboxStore *s) {
        struct pollfd p = { .fd = outbox_fd(s->outbox), .events = POLLIN };
        int r;

        if (poll(&p, 1, 1000) < 0)
                die("poll", strerror(errno));
        r = outbox_process(s->outbox);
        if (r < 0)
                die("outbox_process", strerror(-r));
}

static void *outbox_store_open(const char *dir) {
        OutboxStore *s = calloc(1, sizeof(*s));
        OutboxEvents events = { on_settled, on_deliverable, on_notice, s };
        OutboxOptions options = {
                .max_size = UINT64_C(1) << 30,
                .keep_free = 0,
                .full = OUTBOX_FULL_REJECT,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = 4U << 20,
                .n_receipts = 10000,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 1000,
                .threaded = true,
        };
        int r;

        if (!s)
                die("outbox", strerror(ENOMEM));
        r = outbox_open(dir, &options, &events, &s->outbox);
        if (r >= 0)
                r = outbox_set_identity(s->outbox, "hub.example", "device", true);
        if (r < 0)
                die("outbox", strerror(-r));
        return s;
}

static int outbox_store_try(OutboxStore *s, size_t n) {
        OutboxMessage messages[BATCH_MAX];
        uint64_t next;

        for (size_t i = 0; i < n; i++)
                messages[i] = (OutboxMessage) { .lane = OUTBOX_LANE_NORMAL, .body = payload, .body_size = sizeof(payload),
                                                .time_to_live_usec = USEC_INFINITY };
        return outbox_append(s->outbox, messages, n, NULL, 0, on_durable, s, &next);
}

static void outbox_store_append(void *store, size_t n) {
        OutboxStore *s = store;
        int r = outbox_store_try(s, n);

        if (r < 0)
                die("append", strerror(-r));
        s->n_open++;
        while (s->n_open > 0)
                outbox_wait(s);
}

static void outbox_store_settle(void *store, size_t n) {
        OutboxStore *s = store;
        uint64_t goal = s->n_settled + n, taken = s->n_settled;

        while (s->n_settled < goal) {
                _cleanup_(outbox_delivery_freep) OutboxDelivery *d = NULL;
                int r = taken < goal ? outbox_next(s->outbox, &d) : -EAGAIN;

                if (r == -EAGAIN) {
                        outbox_wait(s);
                        continue;
                }
                if (r < 0)
                        die("outbox_next", strerror(-r));
                taken++;
                r = outbox_settle(s->outbox, d->seq, OUTBOX_END_CONFIRMED, NULL);
                if (r < 0)
                        die("outbox_settle", strerror(-r));
                if (taken - s->n_settled >= WINDOW)
                        (void) outbox_process(s->outbox); /* never fails but for our own mistake, which shows below */
        }
}

static void outbox_store_done(void *store) {
        OutboxStore *s = store;

        if (outbox_checkpoint(s->outbox, on_durable, s) >= 0)
                s->n_open++;
        while (s->n_open > 0)
                outbox_wait(s);
}

static void outbox_store_close(void *store) {
        OutboxStore *s = store;

        outbox_free(s->outbox);
        free(s);
}

/* SQLite */

#ifdef HAVE_SQLITE
typedef struct SqliteStore {
        sqlite3 *db;
        sqlite3_stmt *insert, *select, *delete;
} SqliteStore;

static void sqlite_run(sqlite3 *db, const char *sql) {
        if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
                die(sql, sqlite3_errmsg(db));
}

static void *sqlite_open(const char *dir) {
        SqliteStore *s = calloc(1, sizeof(*s));
        char path[PATH_MAX];

        (void) snprintf(path, sizeof(path), "%s/queue.db", dir);
        if (!s || sqlite3_open(path, &s->db) != SQLITE_OK)
                die(path, s ? sqlite3_errmsg(s->db) : strerror(ENOMEM));
        sqlite_run(s->db, "PRAGMA journal_mode=WAL");
        sqlite_run(s->db, "PRAGMA synchronous=FULL");
        sqlite_run(s->db, "CREATE TABLE IF NOT EXISTS queue (seq INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB)");
        if (sqlite3_prepare_v2(s->db, "INSERT INTO queue (body) VALUES (?)", -1, &s->insert, NULL) != SQLITE_OK ||
            sqlite3_prepare_v2(s->db, "SELECT seq, body FROM queue ORDER BY seq LIMIT ?", -1, &s->select, NULL) != SQLITE_OK ||
            sqlite3_prepare_v2(s->db, "DELETE FROM queue WHERE seq <= ?", -1, &s->delete, NULL) != SQLITE_OK)
                die("SQLite", sqlite3_errmsg(s->db));
        return s;
}

static void sqlite_append(void *store, size_t n) {
        SqliteStore *s = store;

        sqlite_run(s->db, "BEGIN IMMEDIATE");
        for (size_t i = 0; i < n; i++) {
                sqlite3_bind_blob(s->insert, 1, payload, sizeof(payload), SQLITE_STATIC);
                if (sqlite3_step(s->insert) != SQLITE_DONE)
                        die("INSERT", sqlite3_errmsg(s->db));
                sqlite3_reset(s->insert);
        }
        sqlite_run(s->db, "COMMIT");
}

static void sqlite_settle(void *store, size_t n) {
        SqliteStore *s = store;
        sqlite3_int64 last = 0;

        sqlite3_bind_int64(s->select, 1, (sqlite3_int64) n);
        while (sqlite3_step(s->select) == SQLITE_ROW)
                last = sqlite3_column_int64(s->select, 0);
        sqlite3_reset(s->select);
        sqlite_run(s->db, "BEGIN IMMEDIATE");
        sqlite3_bind_int64(s->delete, 1, last);
        if (sqlite3_step(s->delete) != SQLITE_DONE)
                die("DELETE", sqlite3_errmsg(s->db));
        sqlite3_reset(s->delete);
        sqlite_run(s->db, "COMMIT");
}

static void sqlite_done(void *store) {
}

static void sqlite_close(void *store) {
        SqliteStore *s = store;

        sqlite3_finalize(s->insert);
        sqlite3_finalize(s->select);
        sqlite3_finalize(s->delete);
        sqlite3_close(s->db);
        free(s);
}
#endif

/* LMDB */

#ifdef HAVE_LMDB
typedef struct LmdbStore {
        MDB_env *env;
        MDB_dbi dbi;
        size_t next, oldest;
} LmdbStore;

static void lmdb_must(int r, const char *what) {
        if (r != 0)
                die(what, mdb_strerror(r));
}

static void *lmdb_open(const char *dir) {
        LmdbStore *s = calloc(1, sizeof(*s));
        MDB_txn *txn;

        if (!s)
                die("LMDB", strerror(ENOMEM));
        lmdb_must(mdb_env_create(&s->env), "mdb_env_create");
        lmdb_must(mdb_env_set_mapsize(s->env, (size_t) 2 << 30), "mdb_env_set_mapsize");
        lmdb_must(mdb_env_open(s->env, dir, 0, 0600), "mdb_env_open");
        lmdb_must(mdb_txn_begin(s->env, NULL, 0, &txn), "mdb_txn_begin");
        lmdb_must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &s->dbi), "mdb_dbi_open");
        lmdb_must(mdb_txn_commit(txn), "mdb_txn_commit");
        s->next = s->oldest = 1;
        return s;
}

static void lmdb_append(void *store, size_t n) {
        LmdbStore *s = store;
        MDB_txn *txn;

        lmdb_must(mdb_txn_begin(s->env, NULL, 0, &txn), "mdb_txn_begin");
        for (size_t i = 0; i < n; i++) {
                MDB_val key = { sizeof(s->next), &s->next }, value = { sizeof(payload), payload };

                lmdb_must(mdb_put(txn, s->dbi, &key, &value, MDB_APPEND), "mdb_put");
                s->next++;
        }
        lmdb_must(mdb_txn_commit(txn), "mdb_txn_commit");
}

static void lmdb_settle(void *store, size_t n) {
        LmdbStore *s = store;
        MDB_txn *txn;

        lmdb_must(mdb_txn_begin(s->env, NULL, 0, &txn), "mdb_txn_begin");
        for (size_t i = 0; i < n; i++) {
                MDB_val key = { sizeof(s->oldest), &s->oldest }, value;

                lmdb_must(mdb_get(txn, s->dbi, &key, &value), "mdb_get");
                lmdb_must(mdb_del(txn, s->dbi, &key, NULL), "mdb_del");
                s->oldest++;
        }
        lmdb_must(mdb_txn_commit(txn), "mdb_txn_commit");
}

static void lmdb_done(void *store) {
}

static void lmdb_close(void *store) {
        LmdbStore *s = store;

        mdb_env_close(s->env);
        free(s);
}
#endif

static const Store stores[] = {
        { "outbox", outbox_store_open, outbox_store_append, outbox_store_settle, outbox_store_done, outbox_store_close },
#ifdef HAVE_SQLITE
        { "SQLite", sqlite_open, sqlite_append, sqlite_settle, sqlite_done, sqlite_close },
#endif
#ifdef HAVE_LMDB
        { "LMDB", lmdb_open, lmdb_append, lmdb_settle, lmdb_done, lmdb_close },
#endif
};

/* Measuring */

static int by_value(const void *a, const void *b) {
        usec_t x = *(const usec_t *) a, y = *(const usec_t *) b;

        return x < y ? -1 : x > y;
}

static usec_t percentile(const Figures *f, unsigned percent) {
        return f->n_latency > 0 ? f->latency_usec[MIN(f->n_latency - 1, f->n_latency * percent / 100)] : 0;
}

static void append_round(const Store *t, void *store, size_t n_batches, size_t batch, Figures *f) {
        uint64_t bytes = f->count_bytes ? disk_bytes() : 0;
        usec_t start = now_usec(CLOCK_MONOTONIC), last = start;

        for (size_t i = 0; i < n_batches; i++) {
                usec_t now;

                t->append(store, batch);
                now = now_usec(CLOCK_MONOTONIC);
                f->latency_usec[f->n_latency++] = now - last;
                last = now;
        }
        f->append_usec += last - start;
        f->append_bytes += f->count_bytes ? disk_bytes() - bytes : 0;
        f->n_messages += n_batches * batch;
}

static void settle_round(const Store *t, void *store, size_t n_batches, size_t batch, Figures *f) {
        uint64_t bytes = f->count_bytes ? disk_bytes() : 0;
        usec_t start = now_usec(CLOCK_MONOTONIC);

        for (size_t i = 0; i < n_batches; i++)
                t->settle(store, batch);
        t->done(store);
        f->settle_usec += now_usec(CLOCK_MONOTONIC) - start;
        f->settle_bytes += f->count_bytes ? disk_bytes() - bytes : 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static char *fresh_dir(const char *base) {
        char *path;

        if (asprintf(&path, "%s/bench-outbox.XXXXXX", base) < 0 || !mkdtemp(path))
                die(base, strerror(errno));
        return path;
}

static void drop_dir(char *path) {
        (void) nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS); /* what stays is seen */
        free(path);
}

static double per_payload_byte(uint64_t bytes, uint64_t n_messages) {
        return (double) bytes / (double) (n_messages * PAYLOAD_BYTES);
}

/* In rounds of append and settle, as with a hub that is there: after the first, every store reuses what it has. */
static void measure_rounds(const Store *t, const char *base, size_t n_batches, size_t batch, Figures *f) {
        char *dir = fresh_dir(base);
        void *store = t->open(dir);

        f->latency_usec = calloc((N_ROUNDS + 1) * n_batches, sizeof(usec_t));
        if (!f->latency_usec)
                die("bench", strerror(ENOMEM));
        append_round(t, store, n_batches, batch, f);
        settle_round(t, store, n_batches, batch, f);
        *f = (Figures) { .count_bytes = f->count_bytes, .latency_usec = f->latency_usec };
        for (size_t i = 0; i < N_ROUNDS; i++) {
                append_round(t, store, n_batches, batch, f);
                settle_round(t, store, n_batches, batch, f);
        }
        t->close(store);
        drop_dir(dir);
}

static void measure(const Store *t, const char *base, size_t batch, size_t n_messages) {
        size_t n_batches = MAX(n_messages / batch / N_ROUNDS, (size_t) 1);
        Figures time = {}, bytes = { .count_bytes = true };

        measure_rounds(t, base, n_batches, batch, &time);
        measure_rounds(t, loop_dir[0] ? loop_dir : base, n_batches, batch, &bytes);
        qsort(time.latency_usec, time.n_latency, sizeof(usec_t), by_value);
        printf("%-8s %6zu %10.0f %9" PRIu64 " %9" PRIu64 " %10.0f %11.2f %11.2f\n", t->name, batch,
               (double) time.n_messages * USEC_PER_SEC / (double) time.append_usec, percentile(&time, 50),
               percentile(&time, 99), (double) time.n_messages * USEC_PER_SEC / (double) time.settle_usec,
               per_payload_byte(bytes.append_bytes, bytes.n_messages), per_payload_byte(bytes.settle_bytes, bytes.n_messages));
        fflush(stdout);
        free(time.latency_usec);
        free(bytes.latency_usec);
}

/* Settling that rides with the next append: a batch in, a batch out. */
static void run_mixed(const Store *t, const char *base, size_t batch, size_t n_batches, usec_t *ret_usec, uint64_t *ret_bytes) {
        char *dir = fresh_dir(base);
        void *store = t->open(dir);
        uint64_t bytes;
        usec_t start;

        t->append(store, batch);
        bytes = ret_bytes ? disk_bytes() : 0;
        start = now_usec(CLOCK_MONOTONIC);
        for (size_t i = 0; i < n_batches; i++) {
                t->append(store, batch);
                t->settle(store, batch);
        }
        t->done(store);
        if (ret_usec)
                *ret_usec = now_usec(CLOCK_MONOTONIC) - start;
        if (ret_bytes)
                *ret_bytes = disk_bytes() - bytes;
        t->close(store);
        drop_dir(dir);
}

static void measure_mixed(const Store *t, const char *base, size_t batch, size_t n_messages) {
        size_t n_batches = n_messages / batch;
        uint64_t bytes;
        usec_t usec;

        run_mixed(t, base, batch, n_batches, &usec, NULL);
        run_mixed(t, loop_dir[0] ? loop_dir : base, batch, n_batches, NULL, &bytes);
        printf("%-8s %6zu %10.0f %43.2f\n", t->name, batch, (double) (n_batches * batch) * USEC_PER_SEC / (double) usec,
               per_payload_byte(bytes, n_batches * batch));
        fflush(stdout);
}

/* Calls of one message each, as many on their way as given: what group commit makes of many senders. */
static void run_group_commit(const char *base, size_t n_messages, unsigned n_senders, bool count_bytes, usec_t *ret_usec,
                             uint64_t *ret_bytes, OutboxStats *ret_stats) {
        char *dir = fresh_dir(base);
        OutboxStore *s = outbox_store_open(dir);
        uint64_t bytes = count_bytes ? disk_bytes() : 0;
        usec_t start = now_usec(CLOCK_MONOTONIC);

        for (size_t i = 0; i < n_messages;) {
                if (s->n_open < n_senders && outbox_store_try(s, 1) == 0) {
                        s->n_open++;
                        i++;
                } else
                        outbox_wait(s);
        }
        while (s->n_open > 0)
                outbox_wait(s);
        *ret_usec = now_usec(CLOCK_MONOTONIC) - start;
        *ret_bytes = count_bytes ? disk_bytes() - bytes : 0;
        outbox_get_stats(s->outbox, ret_stats);
        outbox_store_close(s);
        drop_dir(dir);
}

static void measure_group_commit(const char *base, size_t n_messages, unsigned n_senders) {
        OutboxStats stats, other;
        uint64_t bytes, none;
        usec_t usec, unused;

        run_group_commit(base, n_messages, n_senders, false, &usec, &none, &stats);
        run_group_commit(loop_dir[0] ? loop_dir : base, n_messages, n_senders, true, &unused, &bytes, &other);
        printf("%7u %10.0f %15.1f %11.2f\n", n_senders, (double) n_messages * USEC_PER_SEC / (double) usec,
               (double) n_messages / (double) MAX(stats.n_batches, UINT64_C(1)), per_payload_byte(bytes, n_messages));
        fflush(stdout);
}

static void measure_backlog(const char *base, size_t n_messages) {
        _cleanup_(outbox_delivery_freep) OutboxDelivery *d = NULL;
        uint64_t rss_before = rss_anon_bytes(), rss_full, rss_again;
        char *dir = fresh_dir(base);
        OutboxStore *s = outbox_store_open(dir);
        usec_t start = now_usec(CLOCK_MONOTONIC), filled, opened, first;

        for (size_t i = 0; i < n_messages; i += 1000)
                outbox_store_append(s, MIN(n_messages - i, (size_t) 1000));
        filled = now_usec(CLOCK_MONOTONIC) - start;
        rss_full = rss_anon_bytes();
        outbox_store_close(s);

        start = now_usec(CLOCK_MONOTONIC);
        s = outbox_store_open(dir);
        opened = now_usec(CLOCK_MONOTONIC) - start;
        while (outbox_next(s->outbox, &d) < 0)
                outbox_wait(s);
        first = now_usec(CLOCK_MONOTONIC) - start;
        rss_again = rss_anon_bytes();
        printf("%zu messages queued in %.1f s: RssAnon %.1f MiB (%.1f before); start-up %.1f ms, first message after "
               "%.1f ms, RssAnon %.1f MiB\n", n_messages, (double) filled / USEC_PER_SEC, (double) rss_full / 1048576,
               (double) rss_before / 1048576, (double) opened / USEC_PER_MSEC, (double) first / USEC_PER_MSEC,
               (double) rss_again / 1048576);
        fflush(stdout);
        outbox_store_close(s);
        drop_dir(dir);
}

static char *work_dir;

static void clean_up(void) {
        if (loop_dir[0])
                (void) umount2(loop_dir, MNT_DETACH); /* the folder goes next */
        drop_dir(work_dir);
}

static void check_file_system(const char *dir) {
        struct statfs fs;

        if (statfs(dir, &fs) < 0)
                die(dir, strerror(errno));
        if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC) {
                printf("%s is in memory, which says nothing: give --directory on a disk\n", dir);
                exit(77);
        }
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "directory", required_argument, NULL, 'd' }, { "messages", required_argument, NULL, 'n' },
                { "queued", required_argument, NULL, 'q' }, {},
        };
        uint64_t n_messages = 32000, n_queued = 1000000;
        const char *dir = ".";
        int c, r = 0;

        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (c) {
                case 'd': dir = optarg; break;
                case 'n': r = parse_u64_range(optarg, 1024, UINT32_MAX, &n_messages); break;
                case 'q': r = parse_u64_range(optarg, 0, UINT32_MAX, &n_queued); break;
                default: return 2;
                }
        if (r < 0)
                die("option", strerror(-r));
        check_file_system(dir);
        work_dir = fresh_dir(dir);
        atexit(clean_up);
        loop_mount(work_dir);
        dir = work_dir;
        memset(payload, 'x', sizeof(payload));

        /* First, while this process's memory holds nothing else. */
        if (n_queued > 0)
                measure_backlog(dir, n_queued);

        printf("\n%u-byte messages; each batch durable before the next; disk bytes from %s\n", PAYLOAD_BYTES,
               loop_dir[0] ? "a loop device of our own, with the journal" : "/proc/self/io");
        printf("                   append   latency   latency     settle disk bytes per payload byte\n");
        printf("store     batch       /s   p50 us    p99 us         /s      append      settle\n");
        for (size_t batch = 1; batch <= BATCH_MAX; batch *= 32)
                for (size_t i = 0; i < ELEMENTSOF(stores); i++)
                        measure(&stores[i], dir, batch, batch == 1 ? n_messages / 8 : n_messages * 2);

        printf("\nsettled as they come: a batch in, a batch out\n");
        printf("store     batch         /s               disk bytes per payload byte\n");
        for (size_t batch = 1; batch <= 32; batch *= 32)
                for (size_t i = 0; i < ELEMENTSOF(stores); i++)
                        measure_mixed(&stores[i], dir, batch, batch == 1 ? n_messages / 8 : n_messages * 2);

        printf("\ngroup commit: calls of one message, several at once\nsenders  append /s   messages/batch  disk bytes per "
               "payload byte\n");
        for (unsigned n = 1; n <= 256; n *= 16)
                measure_group_commit(dir, n_messages / (n == 1 ? 8 : 1), n);
        return 0;
}
