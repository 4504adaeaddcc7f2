/* One table holds devices and modules; a device is the row whose module is the empty text, so that the
 * primary key gives the order in which lists and queries page, and a device with its modules is one
 * range of it. Numbers and texts are columns, the twin is the JSON text of hub-twin.h. A database and
 * not a log of our own, because 100,000 identities must not be read at the start, nor stay in
 * memory, and what keeps it whole in a power cut is well kept by others. */
#include "emulator/hub-store-c2d.h"
#include "emulator/hub-store-private.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

#define SCHEMA_VERSION 2 /* 1 had no messages to devices; a file of it gets their tables */
#define BUSY_TIMEOUT_MSEC 10000 /* somebody looks into the file with a tool of SQLite */

static const char schema[] =
        "CREATE TABLE IF NOT EXISTS identity ("
        " device TEXT NOT NULL, module TEXT NOT NULL, generation INTEGER NOT NULL,"
        " etag INTEGER NOT NULL, enabled INTEGER NOT NULL, status_reason TEXT,"
        " status_updated INTEGER NOT NULL, auth TEXT NOT NULL, primary_key TEXT, secondary_key TEXT,"
        " primary_thumbprint TEXT, secondary_thumbprint TEXT, iot_edge INTEGER NOT NULL,"
        " scope TEXT, parent_scope TEXT, managed_by TEXT, twin TEXT, PRIMARY KEY (device, module));"
        "CREATE INDEX IF NOT EXISTS identity_status ON identity (enabled) WHERE module = '';"
        "CREATE TABLE IF NOT EXISTS policy (name TEXT PRIMARY KEY, primary_key TEXT NOT NULL,"
        " secondary_key TEXT NOT NULL);"
        "CREATE TABLE IF NOT EXISTS number (name TEXT PRIMARY KEY, value INTEGER NOT NULL);"
        "CREATE TABLE IF NOT EXISTS c2d (sequence INTEGER PRIMARY KEY AUTOINCREMENT,"
        " device TEXT NOT NULL, module TEXT NOT NULL, generation INTEGER NOT NULL,"
        " enqueued INTEGER NOT NULL, expires INTEGER NOT NULL, ack TEXT NOT NULL, message_id TEXT,"
        " bag TEXT NOT NULL, body BLOB NOT NULL);"
        "CREATE INDEX IF NOT EXISTS c2d_queue ON c2d (device, module, sequence);"
        "CREATE INDEX IF NOT EXISTS c2d_expires ON c2d (expires);"
        "CREATE TABLE IF NOT EXISTS feedback (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " device TEXT NOT NULL, generation INTEGER NOT NULL, message_id TEXT,"
        " status TEXT NOT NULL, time INTEGER NOT NULL, batch INTEGER, locked_until INTEGER);";

#define COLUMNS                                                                                    \
        "device, module, generation, etag, enabled, status_reason, status_updated, auth, "         \
        "primary_key, secondary_key, primary_thumbprint, secondary_thumbprint, iot_edge, scope, "  \
        "parent_scope, managed_by, twin"
#define COLUMNS_AND_COUNT                                                                          \
        COLUMNS ", (SELECT count(*) FROM c2d WHERE c2d.device = identity.device "                  \
                "AND c2d.module = identity.module)"

typedef enum Query {
        QUERY_BEGIN,
        QUERY_COMMIT,
        QUERY_ROLLBACK,
        QUERY_GET,
        QUERY_PUT,
        QUERY_DELETE,
        QUERY_DELETE_ALL,
        QUERY_WALK_DEVICES,
        QUERY_WALK_MODULES,
        QUERY_WALK_MODULES_OF,
        QUERY_COUNT,
        QUERY_NUMBER_GET,
        QUERY_NUMBER_SET,
        QUERY_POLICY_GET,
        QUERY_POLICY_PUT,
        _QUERY_MAX,
} Query;

static const char *const query_texts[_QUERY_MAX] = {
        [QUERY_BEGIN] = "BEGIN IMMEDIATE",
        [QUERY_COMMIT] = "COMMIT",
        [QUERY_ROLLBACK] = "ROLLBACK",
        [QUERY_GET] = "SELECT " COLUMNS_AND_COUNT " FROM identity WHERE device = ?1 AND module = ?2",
        [QUERY_PUT] = "INSERT OR REPLACE INTO identity (" COLUMNS ") "
                      "VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17)",
        [QUERY_DELETE] = "DELETE FROM identity WHERE device = ?1 AND module = ?2",
        [QUERY_DELETE_ALL] = "DELETE FROM identity WHERE device = ?1",
        [QUERY_WALK_DEVICES] = "SELECT " COLUMNS_AND_COUNT " FROM identity "
                               "WHERE (device, module) > (?1, ?2) AND module = '' "
                               "ORDER BY device, module LIMIT ?3",
        [QUERY_WALK_MODULES] = "SELECT " COLUMNS_AND_COUNT " FROM identity "
                               "WHERE (device, module) > (?1, ?2) AND module != '' "
                               "ORDER BY device, module LIMIT ?3",
        [QUERY_WALK_MODULES_OF] = "SELECT " COLUMNS_AND_COUNT " FROM identity "
                                  "WHERE device = ?1 AND module > ?2 "
                                  "ORDER BY module LIMIT ?3",
        [QUERY_COUNT] = "SELECT enabled, count(*) FROM identity WHERE module = '' GROUP BY enabled",
        [QUERY_NUMBER_GET] = "SELECT value FROM number WHERE name = ?1",
        [QUERY_NUMBER_SET] = "INSERT OR REPLACE INTO number (name, value) VALUES (?1, ?2)",
        [QUERY_POLICY_GET] = "SELECT primary_key, secondary_key FROM policy WHERE name = ?1",
        [QUERY_POLICY_PUT] = ("INSERT OR REPLACE INTO policy (name, primary_key, secondary_key) "
                              "VALUES (?1, ?2, ?3)"), /* one text, as clang wants to hear */
};

static_assert(_QUERY_MAX <= HUB_STORE_STATEMENTS_MAX, "HUB_STORE_STATEMENTS_MAX");

int errno_from_sqlite(int k) {
        switch (k & 0xff) {
        case SQLITE_OK:
        case SQLITE_ROW:
        case SQLITE_DONE: return 0;
        case SQLITE_NOMEM: return -ENOMEM;
        case SQLITE_FULL: return -ENOSPC;
        case SQLITE_READONLY:
        case SQLITE_PERM:
        case SQLITE_CANTOPEN: return -EACCES;
        case SQLITE_BUSY:
        case SQLITE_LOCKED: return -EBUSY;
        case SQLITE_CORRUPT:
        case SQLITE_NOTADB: return -EBADMSG;
        default: return -EIO;
        }
}

HubStore *hub_store_free(HubStore *s) {
        if (!s)
                return NULL;
        for (size_t i = 0; i < _QUERY_MAX; i++)
                (void) sqlite3_finalize(s->statements[i]); /* repeats an error that was told */
        for (size_t i = 0; i < HUB_STORE_STATEMENTS_MAX; i++)
                (void) sqlite3_finalize(s->c2d_statements[i]);
        (void) sqlite3_close(s->db); /* no statement is left that could keep it open */
        free(s);
        return NULL;
}

/* The file exists, with a mode, before SQLite sees it: its companions get the same one. */
static int make_path(int dir_fd, char **ret) {
        int fd;

        fd = openat(dir_fd, HUB_STORE_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        if (fchmod(fd, 0600) < 0) {
                int r = -errno;

                (void) close(fd); /* nothing was written */
                return r;
        }
        (void) close(fd);
        return asprintf(ret, "/proc/self/fd/%d/" HUB_STORE_FILE, dir_fd) < 0 ? -ENOMEM : 0;
}

/* FULL: a commit is synced before a client hears of it. */
static int prepare_database(HubStore *s) {
        sqlite3_stmt *version = NULL;
        int k, found = 0;

        k = sqlite3_exec(s->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", NULL, NULL,
                         NULL);
        if (k == SQLITE_OK)
                k = sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &version, NULL);
        if (k == SQLITE_OK && sqlite3_step(version) == SQLITE_ROW)
                found = sqlite3_column_int(version, 0);
        (void) sqlite3_finalize(version); /* only read from */
        if (k != SQLITE_OK)
                return errno_from_sqlite(k);
        if (found > SCHEMA_VERSION)
                return -EBADMSG;
        if (found < SCHEMA_VERSION) {
                k = sqlite3_exec(s->db, schema, NULL, NULL, NULL);
                if (k == SQLITE_OK)
                        k = sqlite3_exec(s->db, "PRAGMA user_version = 2", NULL, NULL, NULL);
        }
        return errno_from_sqlite(k);
}

int hub_store_prepare(HubStore *s, const char *const *texts, size_t n, sqlite3_stmt **ret) {
        int k = SQLITE_OK;

        for (size_t i = 0; k == SQLITE_OK && i < n; i++)
                k = sqlite3_prepare_v3(s->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, ret + i,
                                       NULL);
        return errno_from_sqlite(k);
}

int hub_store_open(int dir_fd, HubStore **ret) {
        _cleanup_(hub_store_freep) HubStore *s = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        r = make_path(dir_fd, &path);
        if (r < 0)
                return r;
        r = errno_from_sqlite(sqlite3_open_v2(
                        path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL));
        if (r < 0)
                return r;
        (void) sqlite3_busy_timeout(s->db, BUSY_TIMEOUT_MSEC); /* cannot fail on an open database */
        r = prepare_database(s);
        if (r >= 0)
                r = hub_store_prepare(s, query_texts, _QUERY_MAX, s->statements);
        if (r >= 0)
                r = hub_store_prepare_c2d(s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

sqlite3_stmt *hub_store_fresh(sqlite3_stmt *q) {
        (void) sqlite3_reset(q); /* repeats the error of the last run, which was told */
        (void) sqlite3_clear_bindings(q);
        return q;
}

static sqlite3_stmt *statement(HubStore *s, Query q) {
        return hub_store_fresh(s->statements[q]);
}

int hub_store_run(sqlite3_stmt *q) {
        int k = sqlite3_step(q);

        (void) sqlite3_reset(q); /* k says it */
        return errno_from_sqlite(k);
}

int bind_text(sqlite3_stmt *q, int i, const char *s) {
        return s ? sqlite3_bind_text(q, i, s, -1, SQLITE_STATIC) : sqlite3_bind_null(q, i);
}

int bind_number(sqlite3_stmt *q, int i, uint64_t n) {
        return sqlite3_bind_int64(q, i, (sqlite3_int64) n);
}

int hub_store_begin(HubStore *s) {
        return hub_store_run(statement(s, QUERY_BEGIN));
}

int hub_store_commit(HubStore *s) {
        int r;

        r = hub_store_run(statement(s, QUERY_COMMIT));
        if (r < 0)
                hub_store_rollback(s);
        return r;
}

void hub_store_rollback(HubStore *s) {
        if (!sqlite3_get_autocommit(s->db)) /* a failure can have rolled back by itself */
                (void) hub_store_run(statement(s, QUERY_ROLLBACK));
}

int column_text(sqlite3_stmt *q, int i, char **ret) {
        const unsigned char *s = sqlite3_column_text(q, i);

        if (!s)
                return sqlite3_column_type(q, i) == SQLITE_NULL ? 0 : -ENOMEM;
        *ret = strdup((const char *) s);
        return *ret ? 0 : -ENOMEM;
}

static HubDeviceAuth auth_from_string(const char *name) {
        for (HubDeviceAuth a = 0; a < _HUB_DEVICE_AUTH_MAX; a++)
                if (streq(name, hub_device_auth_name(a)))
                        return a;
        return _HUB_DEVICE_AUTH_INVALID;
}

static int read_row(sqlite3_stmt *q, HubDevice *ret) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        const struct {
                int column;
                char **to;
        } texts[] = {
                { 0, &d.id },
                { 5, &d.status_reason },
                { 8, &d.primary_key },
                { 9, &d.secondary_key },
                { 10, &d.primary_thumbprint },
                { 11, &d.secondary_thumbprint },
                { 13, &d.scope },
                { 14, &d.parent_scope },
                { 15, &d.managed_by },
                { 16, &d.twin },
        };
        const char *auth = (const char *) sqlite3_column_text(q, 7);

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (column_text(q, texts[i].column, texts[i].to) < 0)
                        return -ENOMEM;
        if (sqlite3_column_bytes(q, 1) > 0 && column_text(q, 1, &d.module_id) < 0)
                return -ENOMEM;
        d.generation = (uint64_t) sqlite3_column_int64(q, 2);
        d.etag = (uint64_t) sqlite3_column_int64(q, 3);
        d.enabled = sqlite3_column_int(q, 4) != 0;
        d.status_updated_usec = (usec_t) sqlite3_column_int64(q, 6);
        d.iot_edge = sqlite3_column_int(q, 12) != 0;
        d.n_c2d = (uint64_t) sqlite3_column_int64(q, 17);
        d.auth = auth_from_string(strempty(auth));
        if (d.auth < 0 || !d.id)
                return -EBADMSG;
        *ret = d;
        d = (HubDevice) { 0 };
        return 0;
}

int hub_store_get(HubStore *s, const char *device, const char *module, HubDevice *ret) {
        sqlite3_stmt *q = statement(s, QUERY_GET);
        int k, r;

        if (bind_text(q, 1, device) != SQLITE_OK || bind_text(q, 2, strempty(module)) != SQLITE_OK)
                return -ENOMEM;
        k = sqlite3_step(q);
        r = k == SQLITE_ROW ? read_row(q, ret) : k == SQLITE_DONE ? -ENOENT : errno_from_sqlite(k);
        (void) sqlite3_reset(q); /* k said it */
        return r;
}

int hub_store_put(HubStore *s, const HubDevice *d) {
        sqlite3_stmt *q = statement(s, QUERY_PUT);

        if (bind_text(q, 1, d->id) != SQLITE_OK ||
            bind_text(q, 2, strempty(d->module_id)) != SQLITE_OK ||
            bind_number(q, 3, d->generation) != SQLITE_OK ||
            bind_number(q, 4, d->etag) != SQLITE_OK || bind_number(q, 5, d->enabled) != SQLITE_OK ||
            bind_text(q, 6, d->status_reason) != SQLITE_OK ||
            bind_number(q, 7, d->status_updated_usec) != SQLITE_OK ||
            bind_text(q, 8, hub_device_auth_name(d->auth)) != SQLITE_OK ||
            bind_text(q, 9, d->primary_key) != SQLITE_OK ||
            bind_text(q, 10, d->secondary_key) != SQLITE_OK ||
            bind_text(q, 11, d->primary_thumbprint) != SQLITE_OK ||
            bind_text(q, 12, d->secondary_thumbprint) != SQLITE_OK ||
            bind_number(q, 13, d->iot_edge) != SQLITE_OK ||
            bind_text(q, 14, d->scope) != SQLITE_OK ||
            bind_text(q, 15, d->parent_scope) != SQLITE_OK ||
            bind_text(q, 16, d->managed_by) != SQLITE_OK || bind_text(q, 17, d->twin) != SQLITE_OK)
                return -ENOMEM;
        return hub_store_run(q);
}

int hub_store_delete(HubStore *s, const char *device, const char *module) {
        sqlite3_stmt *q = statement(s, module ? QUERY_DELETE : QUERY_DELETE_ALL);
        int r;

        if (bind_text(q, 1, device) != SQLITE_OK || (module && bind_text(q, 2, module) != SQLITE_OK))
                return -ENOMEM;
        r = hub_store_run(q);
        return r < 0 ? r : hub_store_c2d_clear(s, device, module, /* all_modules= */ !module);
}

int hub_store_walk(HubStore *s, HubStoreKind kind, const char *only_device, const char *device,
                   const char *module, size_t max,
                   int (*on_identity)(const HubDevice *d, void *userdata), void *userdata) {
        sqlite3_stmt *q = statement(s, kind == HUB_STORE_DEVICES ? QUERY_WALK_DEVICES
                                       : only_device             ? QUERY_WALK_MODULES_OF
                                                                 : QUERY_WALK_MODULES);
        size_t n = 0;
        int k = SQLITE_DONE, r = 0;

        if (bind_text(q, 1, only_device ? only_device : strempty(device)) != SQLITE_OK ||
            bind_text(q, 2, strempty(module)) != SQLITE_OK || bind_number(q, 3, max) != SQLITE_OK)
                return -ENOMEM;
        while (r == 0 && (k = sqlite3_step(q)) == SQLITE_ROW) {
                _cleanup_(hub_device_done) HubDevice d = { 0 };

                n++;
                r = read_row(q, &d);
                if (r >= 0)
                        r = on_identity(&d, userdata);
        }
        (void) sqlite3_reset(q); /* k says it */
        if (r != 0)
                return r;
        return k == SQLITE_DONE ? n == max : errno_from_sqlite(k);
}

int hub_store_count(HubStore *s, uint64_t *ret_enabled, uint64_t *ret_disabled) {
        sqlite3_stmt *q = statement(s, QUERY_COUNT);
        uint64_t enabled = 0, disabled = 0;
        int k;

        while ((k = sqlite3_step(q)) == SQLITE_ROW)
                *(sqlite3_column_int(q, 0) ? &enabled : &disabled) =
                                (uint64_t) sqlite3_column_int64(q, 1);
        (void) sqlite3_reset(q); /* k says it */
        if (k != SQLITE_DONE)
                return errno_from_sqlite(k);
        *ret_enabled = enabled;
        *ret_disabled = disabled;
        return 0;
}

int hub_store_number_get(HubStore *s, const char *name, uint64_t *ret) {
        sqlite3_stmt *q = statement(s, QUERY_NUMBER_GET);
        int k;

        if (bind_text(q, 1, name) != SQLITE_OK)
                return -ENOMEM;
        k = sqlite3_step(q);
        *ret = k == SQLITE_ROW ? (uint64_t) sqlite3_column_int64(q, 0) : 0;
        (void) sqlite3_reset(q); /* k says it */
        return errno_from_sqlite(k);
}

int hub_store_number_set(HubStore *s, const char *name, uint64_t value) {
        sqlite3_stmt *q = statement(s, QUERY_NUMBER_SET);

        if (bind_text(q, 1, name) != SQLITE_OK || bind_number(q, 2, value) != SQLITE_OK)
                return -ENOMEM;
        return hub_store_run(q);
}

int hub_store_policy_get(HubStore *s, const char *name, char **ret_primary, char **ret_secondary) {
        sqlite3_stmt *q = statement(s, QUERY_POLICY_GET);
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;
        int k, r;

        if (bind_text(q, 1, name) != SQLITE_OK)
                return -ENOMEM;
        k = sqlite3_step(q);
        r = k == SQLITE_DONE ? -ENOENT : errno_from_sqlite(k);
        if (r >= 0)
                r = column_text(q, 0, &primary);
        if (r >= 0)
                r = column_text(q, 1, &secondary);
        (void) sqlite3_reset(q); /* k said it */
        if (r < 0)
                return r;
        *ret_primary = TAKE_PTR(primary);
        *ret_secondary = TAKE_PTR(secondary);
        return 0;
}

int hub_store_policy_put(HubStore *s, const char *name, const char *primary, const char *secondary) {
        sqlite3_stmt *q = statement(s, QUERY_POLICY_PUT);

        if (bind_text(q, 1, name) != SQLITE_OK || bind_text(q, 2, primary) != SQLITE_OK ||
            bind_text(q, 3, secondary) != SQLITE_OK)
                return -ENOMEM;
        return hub_store_run(q);
}
