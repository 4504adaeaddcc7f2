#include "emulator/hub-store-c2d.h"

#include <assert.h>

#include "emulator/hub-store-private.h"

/* SQLite's numbers are signed: the largest is later than any time. */
#define NEVER ((usec_t) INT64_MAX)

#define COLUMNS                                                                                    \
        "sequence, device, module, generation, enqueued, expires, ack, message_id, bag, body"

typedef enum Query {
        QUERY_PUT,
        QUERY_DELETE,
        QUERY_CLEAR,
        QUERY_CLEAR_ALL,
        QUERY_COUNT,
        QUERY_GET,
        QUERY_BEHIND,
        QUERY_FIRST_TO_EXPIRE,
        QUERY_FEEDBACK_PUT,
        QUERY_FEEDBACK_GATHER,
        QUERY_FEEDBACK_WALK,
        QUERY_FEEDBACK_DELETE,
        QUERY_FEEDBACK_RELEASE,
        QUERY_FEEDBACK_RELEASE_UNTIL,
        QUERY_FEEDBACK_DROP,
        QUERY_FEEDBACK_FREE,
        QUERY_FEEDBACK_TIMES,
        _QUERY_MAX,
} Query;

static_assert(_QUERY_MAX <= HUB_STORE_STATEMENTS_MAX, "HUB_STORE_STATEMENTS_MAX");

static const char *const query_texts[_QUERY_MAX] = {
        [QUERY_PUT] = "INSERT INTO c2d (device, module, generation, enqueued, expires, ack, "
                      "message_id, bag, body) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)",
        [QUERY_DELETE] = "DELETE FROM c2d WHERE sequence = ?1",
        [QUERY_CLEAR] = "DELETE FROM c2d WHERE device = ?1 AND module = ?2",
        [QUERY_CLEAR_ALL] = "DELETE FROM c2d WHERE device = ?1",
        [QUERY_COUNT] = "SELECT count(*) FROM c2d WHERE device = ?1 AND module = ?2 AND expires > "
                        "?3",
        [QUERY_GET] = "SELECT " COLUMNS " FROM c2d WHERE sequence = ?1",
        [QUERY_BEHIND] = "SELECT " COLUMNS " FROM c2d WHERE device = ?1 AND module = ?2 "
                         "AND sequence > ?3 ORDER BY sequence LIMIT 1",
        [QUERY_FIRST_TO_EXPIRE] = "SELECT " COLUMNS " FROM c2d ORDER BY expires, sequence LIMIT 1",
        [QUERY_FEEDBACK_PUT] =
                        "INSERT INTO feedback (device, generation, message_id, status, time) "
                        "VALUES (?1,?2,?3,?4,?5)",
        [QUERY_FEEDBACK_GATHER] =
                        "UPDATE feedback SET batch = ?1, locked_until = ?2 WHERE id IN "
                        "(SELECT id FROM feedback WHERE batch IS NULL ORDER BY id LIMIT ?3)",
        [QUERY_FEEDBACK_WALK] = "SELECT device, generation, message_id, status, time FROM feedback "
                                "WHERE batch = ?1 ORDER BY id",
        [QUERY_FEEDBACK_DELETE] = "DELETE FROM feedback WHERE batch = ?1",
        [QUERY_FEEDBACK_RELEASE] =
                        "UPDATE feedback SET batch = NULL, locked_until = NULL WHERE batch = ?1",
        [QUERY_FEEDBACK_RELEASE_UNTIL] = "UPDATE feedback SET batch = NULL, locked_until = NULL "
                                         "WHERE locked_until <= ?1",
        [QUERY_FEEDBACK_DROP] = "DELETE FROM feedback WHERE time < ?1",
        [QUERY_FEEDBACK_FREE] = "SELECT count(*), min(time) FROM feedback WHERE batch IS NULL",
        [QUERY_FEEDBACK_TIMES] = "SELECT (SELECT min(time) FROM feedback), "
                                 "(SELECT min(locked_until) FROM feedback)",
};

int hub_store_prepare_c2d(HubStore *s) {
        return hub_store_prepare(s, query_texts, _QUERY_MAX, s->c2d_statements);
}

static sqlite3_stmt *statement(HubStore *s, Query q) {
        return hub_store_fresh(s->c2d_statements[q]);
}

void hub_c2d_row_done(HubC2dRow *r) {
        free(r->device);
        free(r->module);
        free(r->ack);
        free(r->message_id);
        free(r->bag);
        free(r->body);
        *r = (HubC2dRow){ 0 };
}

int hub_store_c2d_put(HubStore *s, const HubC2dRow *row, uint64_t *ret_sequence) {
        sqlite3_stmt *q = statement(s, QUERY_PUT);
        int r;

        if (bind_text(q, 1, row->device) != SQLITE_OK ||
            bind_text(q, 2, strempty(row->module)) != SQLITE_OK ||
            bind_number(q, 3, row->generation) != SQLITE_OK ||
            bind_number(q, 4, row->enqueued_usec) != SQLITE_OK ||
            bind_number(q, 5, row->expires_usec) != SQLITE_OK ||
            bind_text(q, 6, row->ack) != SQLITE_OK ||
            bind_text(q, 7, row->message_id) != SQLITE_OK ||
            bind_text(q, 8, row->bag) != SQLITE_OK ||
            /* A NULL would be no blob but NULL. */
            sqlite3_bind_blob64(q, 9, row->n > 0 ? row->body : "", row->n, SQLITE_STATIC) !=
                            SQLITE_OK)
                return -ENOMEM;
        r = hub_store_run(q);
        if (r >= 0)
                *ret_sequence = (uint64_t) sqlite3_last_insert_rowid(s->db);
        return r;
}

/* Those with one number. */
static int run_number(HubStore *s, Query query, uint64_t n) {
        sqlite3_stmt *q = statement(s, query);

        return bind_number(q, 1, n) != SQLITE_OK ? -ENOMEM : hub_store_run(q);
}

/* -ENOENT when it changed nothing. */
static int run_on_some(HubStore *s, Query query, uint64_t n) {
        int r = run_number(s, query, n);

        return r >= 0 && sqlite3_changes(s->db) == 0 ? -ENOENT : r;
}

int hub_store_c2d_delete(HubStore *s, uint64_t sequence) {
        return run_number(s, QUERY_DELETE, sequence);
}

int hub_store_c2d_clear(HubStore *s, const char *device, const char *module, bool all_modules) {
        sqlite3_stmt *q = statement(s, all_modules ? QUERY_CLEAR_ALL : QUERY_CLEAR);

        if (bind_text(q, 1, device) != SQLITE_OK ||
            (!all_modules && bind_text(q, 2, strempty(module)) != SQLITE_OK))
                return -ENOMEM;
        return hub_store_run(q);
}

int hub_store_c2d_count(HubStore *s, const char *device, const char *module, usec_t now_usec,
                        uint64_t *ret) {
        sqlite3_stmt *q = statement(s, QUERY_COUNT);
        int k;

        if (bind_text(q, 1, device) != SQLITE_OK ||
            bind_text(q, 2, strempty(module)) != SQLITE_OK ||
            bind_number(q, 3, now_usec) != SQLITE_OK)
                return -ENOMEM;
        k = sqlite3_step(q);
        if (k == SQLITE_ROW)
                *ret = (uint64_t) sqlite3_column_int64(q, 0);
        (void) sqlite3_reset(q); /* k says it */
        return errno_from_sqlite(k);
}

static int column_blob(sqlite3_stmt *q, int i, void **ret, size_t *ret_size) {
        int n = sqlite3_column_bytes(q, i);

        if (n <= 0)
                return 0;
        *ret = malloc((size_t) n);
        if (!*ret)
                return -ENOMEM;
        memcpy(*ret, sqlite3_column_blob(q, i), (size_t) n);
        *ret_size = (size_t) n;
        return 0;
}

static int read_row(sqlite3_stmt *q, HubC2dRow *ret) {
        HubC2dRow row = { .sequence = (uint64_t) sqlite3_column_int64(q, 0),
                          .generation = (uint64_t) sqlite3_column_int64(q, 3),
                          .enqueued_usec = (usec_t) sqlite3_column_int64(q, 4),
                          .expires_usec = (usec_t) sqlite3_column_int64(q, 5) };

        if (column_text(q, 1, &row.device) < 0 ||
            (sqlite3_column_bytes(q, 2) > 0 && column_text(q, 2, &row.module) < 0) ||
            column_text(q, 6, &row.ack) < 0 || column_text(q, 7, &row.message_id) < 0 ||
            column_text(q, 8, &row.bag) < 0 || column_blob(q, 9, &row.body, &row.n) < 0) {
                hub_c2d_row_done(&row);
                return -ENOMEM;
        }
        *ret = row;
        return 0;
}

/* The one row of a query that is bound. */
static int get_row(sqlite3_stmt *q, HubC2dRow *ret) {
        int k, r;

        k = sqlite3_step(q);
        r = k == SQLITE_ROW ? read_row(q, ret) : k == SQLITE_DONE ? -ENOENT : errno_from_sqlite(k);
        (void) sqlite3_reset(q); /* k said it */
        return r;
}

int hub_store_c2d_get(HubStore *s, uint64_t sequence, HubC2dRow *ret) {
        sqlite3_stmt *q = statement(s, QUERY_GET);

        return bind_number(q, 1, sequence) != SQLITE_OK ? -ENOMEM : get_row(q, ret);
}

int hub_store_c2d_behind(HubStore *s, const char *device, const char *module, uint64_t sequence,
                         HubC2dRow *ret) {
        sqlite3_stmt *q = statement(s, QUERY_BEHIND);

        if (bind_text(q, 1, device) != SQLITE_OK ||
            bind_text(q, 2, strempty(module)) != SQLITE_OK ||
            bind_number(q, 3, sequence) != SQLITE_OK)
                return -ENOMEM;
        return get_row(q, ret);
}

int hub_store_c2d_first_to_expire(HubStore *s, HubC2dRow *ret) {
        return get_row(statement(s, QUERY_FIRST_TO_EXPIRE), ret);
}

int hub_store_feedback_put(HubStore *s, const HubFeedbackRow *row) {
        sqlite3_stmt *q = statement(s, QUERY_FEEDBACK_PUT);

        if (bind_text(q, 1, row->device) != SQLITE_OK ||
            bind_number(q, 2, row->generation) != SQLITE_OK ||
            bind_text(q, 3, row->message_id) != SQLITE_OK ||
            bind_text(q, 4, row->status) != SQLITE_OK ||
            bind_number(q, 5, row->time_usec) != SQLITE_OK)
                return -ENOMEM;
        return hub_store_run(q);
}

int hub_store_feedback_gather(HubStore *s, uint64_t batch, usec_t locked_until_usec, size_t max) {
        sqlite3_stmt *q = statement(s, QUERY_FEEDBACK_GATHER);

        if (bind_number(q, 1, batch) != SQLITE_OK ||
            bind_number(q, 2, locked_until_usec) != SQLITE_OK ||
            bind_number(q, 3, max) != SQLITE_OK)
                return -ENOMEM;
        return hub_store_run(q);
}

int hub_store_feedback_walk(HubStore *s, uint64_t batch,
                            int (*on_record)(const HubFeedbackRow *row, void *userdata),
                            void *userdata) {
        sqlite3_stmt *q = statement(s, QUERY_FEEDBACK_WALK);
        int k = SQLITE_DONE, r = 0;

        if (bind_number(q, 1, batch) != SQLITE_OK)
                return -ENOMEM;
        while (r >= 0 && (k = sqlite3_step(q)) == SQLITE_ROW) {
                const char *status = (const char *) sqlite3_column_text(q, 3);
                HubFeedbackRow row = { .generation = (uint64_t) sqlite3_column_int64(q, 1),
                                       .status = strempty(status),
                                       .time_usec = (usec_t) sqlite3_column_int64(q, 4) };

                r = column_text(q, 0, &row.device);
                if (r >= 0)
                        r = column_text(q, 2, &row.message_id);
                if (r >= 0)
                        r = on_record(&row, userdata);
                free(row.device);
                free(row.message_id);
        }
        (void) sqlite3_reset(q); /* k says it */
        return r < 0 ? r : errno_from_sqlite(k);
}

int hub_store_feedback_delete(HubStore *s, uint64_t batch) {
        return run_on_some(s, QUERY_FEEDBACK_DELETE, batch);
}

int hub_store_feedback_release(HubStore *s, uint64_t batch) {
        return run_on_some(s, QUERY_FEEDBACK_RELEASE, batch);
}

int hub_store_feedback_release_until(HubStore *s, usec_t until_usec) {
        return run_number(s, QUERY_FEEDBACK_RELEASE_UNTIL, MIN(until_usec, NEVER));
}

int hub_store_feedback_drop(HubStore *s, usec_t before_usec) {
        return run_number(s, QUERY_FEEDBACK_DROP, before_usec);
}

static usec_t column_time(sqlite3_stmt *q, int i) {
        return sqlite3_column_type(q, i) == SQLITE_NULL ? USEC_INFINITY :
                                                          (usec_t) sqlite3_column_int64(q, i);
}

int hub_store_feedback_state(HubStore *s, HubFeedbackState *ret) {
        sqlite3_stmt *q = statement(s, QUERY_FEEDBACK_FREE);
        int k;

        k = sqlite3_step(q);
        if (k == SQLITE_ROW) {
                ret->n_free = (uint64_t) sqlite3_column_int64(q, 0);
                ret->oldest_free_usec = column_time(q, 1);
        }
        (void) sqlite3_reset(q); /* k says it */
        if (k != SQLITE_ROW)
                return errno_from_sqlite(k);

        q = statement(s, QUERY_FEEDBACK_TIMES);
        k = sqlite3_step(q);
        if (k == SQLITE_ROW) {
                ret->oldest_usec = column_time(q, 0);
                ret->next_unlock_usec = column_time(q, 1);
        }
        (void) sqlite3_reset(q); /* k says it */
        return errno_from_sqlite(k);
}
