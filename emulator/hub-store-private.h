/* hub-store-private.h: what hub-store.c (identities, policies, numbers) and hub-store-c2d.c share:
 * the database and the ways of SQLite. */
#pragma once

#include <sqlite3.h>

#include "emulator/hub-store.h"

#define HUB_STORE_STATEMENTS_MAX 32

struct HubStore {
        sqlite3 *db;
        sqlite3_stmt *statements[HUB_STORE_STATEMENTS_MAX];
        sqlite3_stmt *c2d_statements[HUB_STORE_STATEMENTS_MAX];
};

int errno_from_sqlite(int k);

/* 0 or -errno; those that were prepared are in ret. */
int hub_store_prepare(HubStore *s, const char *const *texts, size_t n, sqlite3_stmt **ret);
int hub_store_prepare_c2d(HubStore *s);

/* Ready for new values. Returns q. */
sqlite3_stmt *hub_store_fresh(sqlite3_stmt *q);

/* For statements that give no rows. 0 or -errno. */
int hub_store_run(sqlite3_stmt *q);

/* Codes of SQLite. Bound texts outlive the run: they are the caller's arguments. */
int bind_text(sqlite3_stmt *q, int i, const char *s);
int bind_number(sqlite3_stmt *q, int i, uint64_t n);

/* 0 or -ENOMEM; *ret is NULL for NULL. */
int column_text(sqlite3_stmt *q, int i, char **ret);
