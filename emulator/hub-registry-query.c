/* Queries, page by page. A continuation of a streaming query names the twin that came last, so that
 * each page costs what it shows and the hub keeps nothing between them; one of a query that must
 * collect its rows counts those that were told. */
#include "emulator/hub-query.h"
#include "emulator/hub-registry-private.h"
#include "emulator/hub-twin.h"
#include "lib/base64.h"
#include "lib/parse-util.h"

#define PAGE_DEFAULT 100U
#define PAGE_MAX 1000U
#define BATCH 256U /* twins looked at before others may have the hub */

typedef struct Page {
        const HubQuery *query;
        HubQueryRows *rows; /* NULL: the query streams */
        struct json_object *answer;
        size_t max;

        /* The position. */
        char *device, *module; /* the twin that was looked at last */
        uint64_t n_told;       /* rows of this query, pages before among them */
        bool full;             /* the page, or all of TOP */
} Page;

static void page_done(Page *p) {
        hub_query_rows_free(p->rows);
        json_object_put(p->answer);
        free(p->device);
        free(p->module);
}

static uint64_t hash_text(const char *s) {
        uint64_t h = 14695981039346656037U; /* FNV-1a */

        for (; *s; s++)
                h = (h ^ (uint8_t) *s) * 1099511628211U;
        return h >> 1; /* fits a signed number */
}

static int format_continuation(const Page *p, const char *text, char **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *json;
        size_t n;

        if (!o || json_add_string(o, "device", p->device) < 0 ||
            json_add_string(o, "module", p->module) < 0 || json_add_u64(o, "told", p->n_told) < 0 ||
            json_add_u64(o, "query", hash_text(text)) < 0)
                return -ENOMEM;
        json = json_object_to_json_string_length(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
        return json ? base64_encode(json, n, ret, &n) : -ENOMEM;
}

/* 0, -EINVAL (not ours, or of another query) or -ENOMEM. */
static int parse_continuation(const char *s, const char *text, Page *p) {
        _cleanup_json_ struct json_object *o = NULL;
        _cleanup_free_ void *json = NULL;
        const char *device = NULL, *module = NULL;
        uint64_t hash;
        size_t n;
        int r;

        r = base64_decode(s, strlen(s), &json, &n);
        if (r < 0)
                return r;
        o = json_tokener_parse(json);
        if (!json_object_is_type(o, json_type_object) || json_get_u64(o, "query", &hash) <= 0 ||
            hash != hash_text(text) || json_get_u64(o, "told", &p->n_told) <= 0 ||
            json_get_string(o, "device", &device, &n) < 0 ||
            json_get_string(o, "module", &module, &n) < 0)
                return -EINVAL;
        p->device = device ? strdup(device) : NULL;
        p->module = module ? strdup(module) : NULL;
        return (device && !p->device) || (module && !p->module) ? -ENOMEM : 0;
}

static int remember(Page *p, const HubDevice *d) {
        free(p->device);
        free(p->module);
        p->device = strdup(d->id);
        p->module = d->module_id ? strdup(d->module_id) : NULL;
        return !p->device || (d->module_id && !p->module) ? -ENOMEM : 0;
}

static int add_row(Page *p, struct json_object *twin) {
        struct json_object *row;
        int r;

        if (p->rows)
                return hub_query_rows_add(p->rows, twin);
        r = hub_query_project(p->query, twin, &row);
        if (r < 0)
                return r;
        if (json_object_array_add(p->answer, row) < 0) {
                json_object_put(row);
                return -ENOMEM;
        }
        p->n_told++;
        p->full = json_object_array_length(p->answer) >= p->max ||
                  p->n_told >= hub_query_top(p->query);
        return 0;
}

/* Seen: a module's twin has capabilities in the rows of a query, though not when it is read alone. */
static int add_capabilities(const HubDevice *d, struct json_object *twin) {
        struct json_object *capabilities;

        if (!d->module_id)
                return 0;
        capabilities = json_object_new_object();
        if (json_add(twin, "capabilities", capabilities) < 0)
                return -ENOMEM;
        return json_add_bool(capabilities, "iotEdge", false);
}

static int on_identity(const HubDevice *d, void *userdata) {
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        _cleanup_json_ struct json_object *twin = NULL;
        Page *p = userdata;
        int r;

        r = hub_twin_read(d, &t);
        if (r >= 0)
                r = hub_twin_to_json(d, &t, &twin);
        if (r >= 0)
                r = add_capabilities(d, twin);
        if (r >= 0)
                r = remember(p, d);
        if (r >= 0 && hub_query_match(p->query, twin))
                r = add_row(p, twin);
        return r < 0 ? r : p->full;
}

/* 1: there may be more, 0: no more, or -errno. */
static int walk(Hub *h, Page *p) {
        int r;

        do {
                _cleanup_free_ char *device = NULL, *module = NULL;

                /* The callback replaces the originals. */
                device = p->device ? strdup(p->device) : NULL;
                module = p->module ? strdup(p->module) : NULL;
                if ((p->device && !device) || (p->module && !module))
                        return -ENOMEM;
                r = hub_walk(h,
                             &(HubRange) { .modules = hub_query_of_modules(p->query),
                                           .device_id = device,
                                           .module_id = module },
                             BATCH, on_identity, p);
        } while (r > 0 && !p->full);
        return r;
}

/* Those of the collected rows that this page shows. 1: there are more. */
static int show_collected(Page *p) {
        _cleanup_json_ struct json_object *all = NULL;
        size_t n;
        int r;

        r = hub_query_rows_finish(p->rows, &all);
        if (r < 0)
                return r;
        n = json_object_array_length(all);
        for (; p->n_told < n && json_object_array_length(p->answer) < p->max; p->n_told++)
                if (json_object_array_add(p->answer, json_object_get(json_object_array_get_idx(
                                                                     all, p->n_told))) < 0)
                        return -ENOMEM;
        return p->n_told < n;
}

static int run(const RegistryCall *c, Page *p, const char *text, RegistryAnswer *a) {
        int r, more;

        p->answer = json_object_new_array();
        if (!p->answer)
                return -ENOMEM;
        if (hub_query_streams(p->query)) {
                more = walk(c->hub, p);
                more = more > 0 && p->n_told < hub_query_top(p->query) ? 1 : MIN(more, 0);
        } else {
                r = hub_query_rows_new(p->query, &p->rows);
                if (r < 0)
                        return r;
                more = walk(c->hub, p);
                if (more >= 0) {
                        free(p->device);
                        free(p->module);
                        p->device = p->module = NULL;
                        more = show_collected(p);
                }
        }
        if (more < 0)
                return registry_failure(a, more, c, 0);
        a->status = 200;
        a->item_type = hub_query_selects_all(p->query) ? "Twin" : "Raw";
        a->body = json_object_get(p->answer);
        return more > 0 ? format_continuation(p, text, &a->continuation) : 0;
}

int registry_query(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_json_ struct json_object *body = NULL;
        _cleanup_(hub_query_freep) HubQuery *query = NULL;
        _cleanup_(page_done) Page page = { 0 };
        const char *text, *reason;
        uint64_t max = PAGE_DEFAULT;
        size_t at;
        int r;

        r = registry_parse_body(c, json_type_object, a, &body);
        if (r <= 0)
                return r;
        if (json_get_string(body, "query", &text, &at) <= 0)
                return registry_error(a, 400, "ArgumentNull", "query");
        if (c->max_items && parse_u64_range(c->max_items, 1, UINT32_MAX, &max) < 0)
                return registry_error(a, 400, "ArgumentInvalid", "x-ms-max-item-count is no number");
        r = hub_query_parse(text, &query, &reason, &at);
        if (r == -EINVAL) /* the hub says BadRequest and no more */
                return registry_error(a, 400, "ArgumentInvalid", "BadRequest: %s, at \"%.20s\"", reason,
                                      text + at);
        if (r < 0)
                return r;
        page.query = query;
        page.max = MIN(max, (uint64_t) PAGE_MAX);
        r = c->continuation ? parse_continuation(c->continuation, text, &page) : 0;
        if (r == -EINVAL)
                return registry_error(a, 400, "ArgumentInvalid",
                                      "x-ms-continuation is not of this query");
        return r < 0 ? r : run(c, &page, text, a);
}
