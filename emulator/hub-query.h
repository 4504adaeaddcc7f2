/* hub-query.h: the query language of the hub over twins: parsed once, then asked about one twin after
 * the other. Pure. What of the language there is: docs/emulator.md, "Queries". */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

#define HUB_QUERY_BYTES_MAX 16384U

typedef struct HubQuery HubQuery;

/* 0, -EINVAL (*reterr_text: static, why; *reterr_at: the offset where) or -ENOMEM. */
int hub_query_parse(const char *text, HubQuery **ret, const char **reterr_text, size_t *reterr_at);
HubQuery *hub_query_free(HubQuery *q);
DEFINE_CLEANUP(HubQuery *, hub_query_free);

bool hub_query_of_modules(const HubQuery *q); /* FROM devices.modules, else devices */
bool hub_query_selects_all(const HubQuery *q); /* SELECT *: the answer is twins */
uint64_t hub_query_top(const HubQuery *q);     /* UINT64_MAX: no TOP */

/* Whether the answer is one row for each twin that matches, in their order; else the rows must be
 * collected before the first can be told. */
bool hub_query_streams(const HubQuery *q);

/* 1 (the twin matches) or 0. */
int hub_query_match(const HubQuery *q, struct json_object *twin);

/* The row of a twin: *ret is new, or another reference to twin. 0 or -ENOMEM. */
int hub_query_project(const HubQuery *q, struct json_object *twin, struct json_object **ret);

/* Collects for queries that do not stream: groups with their aggregates, or rows to be sorted. */
typedef struct HubQueryRows HubQueryRows;
int hub_query_rows_new(const HubQuery *q, HubQueryRows **ret); /* q is borrowed */
HubQueryRows *hub_query_rows_free(HubQueryRows *r);
DEFINE_CLEANUP(HubQueryRows *, hub_query_rows_free);

/* A twin that matches. 0 or -ENOMEM. */
int hub_query_rows_add(HubQueryRows *r, struct json_object *twin);

/* All rows as an array, sorted, cut to TOP. 0 or -ENOMEM. */
int hub_query_rows_finish(HubQueryRows *r, struct json_object **ret);
