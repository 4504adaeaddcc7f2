/* Queries over the twins of a hub, and how many devices there are. */
#include "lib/json-util.h"
#include "client/hub-session.h"
#include "client/identity.h"
#include "client/output.h"

#define PAGE_SIZE_DEFAULT 500U
#define COLUMNS_MAX 64U

typedef struct Rows {
        const Globals *globals;
        Table *table; /* made with the first page */
        const char *fields[COLUMNS_MAX + 1]; /* borrowed from first_page */
        struct json_object *first_page;
        uint64_t n;
} Rows;

static bool has_field(const Rows *r, size_t n, const char *field) {
        for (size_t i = 0; i < n; i++)
                if (streq(r->fields[i], field))
                        return true;
        return false;
}

/* Of twins what people look for; of other rows all that the first page shows. */
static void choose_fields(Rows *r, struct json_object *page, bool twins, bool modules) {
        static const char *const of_twins[] = { "deviceId", "status", "connectionState",
                                                "lastActivityTime", "tags" };
        size_t n = 0;

        if (twins) {
                for (size_t i = 0; i < ELEMENTSOF(of_twins); i++) {
                        r->fields[n++] = of_twins[i];
                        if (i == 0 && modules)
                                r->fields[n++] = "moduleId";
                }
                return;
        }
        for (size_t i = 0; i < json_object_array_length(page); i++) {
                struct json_object *row = json_object_array_get_idx(page, i);

                if (!json_object_is_type(row, json_type_object))
                        continue;
                json_object_object_foreach(row, name, value) {
                        (void) value; /* only the names count here */
                        if (n < COLUMNS_MAX && !has_field(r, n, name))
                                r->fields[n++] = name;
                }
        }
}

static int begin_table(Rows *r, struct json_object *page, const char *item_type) {
        const bool twins = item_type && streq(item_type, "Twin");
        bool modules = false;

        if (json_object_array_length(page) == 0)
                return 0;
        if (twins)
                modules = identity_text(json_object_array_get_idx(page, 0), "moduleId");
        r->first_page = json_object_get(page);
        choose_fields(r, page, twins, modules);
        return r->fields[0] ? table_new(r->fields, &r->table) : 0;
}

static int add_cell(Table *t, struct json_object *row, const char *field) {
        struct json_object *value;

        if (!json_object_object_get_ex(row, field, &value) || !value)
                return table_add(t, NULL);
        if (json_object_is_type(value, json_type_string))
                return table_add(t, identity_time(row, field));
        return table_add(t, json_object_to_json_string_ext(
                                            value, JSON_C_TO_STRING_PLAIN |
                                                           JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int show_row(Rows *r, struct json_object *row) {
        if (!r->table || !json_object_is_type(row, json_type_object)) {
                print_json(row);
                return 0;
        }
        for (size_t i = 0; r->fields[i]; i++)
                if (add_cell(r->table, row, r->fields[i]) < 0)
                        return -ENOMEM;
        return 0;
}

static int show_page(Rows *r, const RegistryAnswer *a) {
        if (!json_object_is_type(a->body, json_type_array)) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        if (!r->globals->json && !r->table && begin_table(r, a->body, a->item_type) < 0)
                return say_out_of_memory();
        for (size_t i = 0; i < json_object_array_length(a->body); i++, r->n++)
                if (show_row(r, json_object_array_get_idx(a->body, i)) < 0)
                        return say_out_of_memory();
        if (r->table)
                table_flush(r->table, stdout);
        return EX_OK;
}

static int run_query(const HubSession *h, Rows *rows, const char *text, unsigned page_size) {
        _cleanup_json_ struct json_object *body = json_object_new_object();
        _cleanup_free_ char *continuation = NULL;
        int r;

        if (!body || json_add_string(body, "query", text) < 0)
                return say_out_of_memory();
        do {
                _cleanup_(registry_answer_done) RegistryAnswer a = {};
                const RegistryRequest q = {
                        .method = "POST",
                        .path = "/devices/query",
                        .body = body,
                        .continuation = continuation,
                        .page_size = page_size,
                        .what = "Cannot query the hub",
                };

                r = registry_client_call(h->client, &q, &a);
                if (r == EX_OK)
                        r = show_page(rows, &a);
                if (r == EX_OK && (fflush(stdout) < 0 || ferror(stdout)))
                        r = EX_IOERR; /* the reader went away: finish_output() tells */
                free(continuation);
                continuation = TAKE_PTR(a.continuation);
        } while (r == EX_OK && continuation);
        return r;
}

typedef struct QuerySettings {
        uint64_t page_size;
} QuerySettings;

static const Option query_options[] = {
        { "page-size", 0, "N", "Rows for each call, 1 to 10000 (default: 500); the hub may give fewer",
          option_u64, offsetof(QuerySettings, page_size) },
        {},
};

static int cmd_query(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(hub_session_done) HubSession h = {};
        QuerySettings s = { .page_size = PAGE_SIZE_DEFAULT };
        Rows rows = { .globals = g };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (s.page_size < 1 || s.page_size > 10000) {
                say_error("--page-size: 1 to 10000");
                return EX_USAGE;
        }
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = run_query(&h, &rows, argv[0], (unsigned) s.page_size);
        table_free(rows.table);
        json_object_put(rows.first_page);
        return r;
}

const Verb verb_query = {
        .hub = true,
        .name = "query",
        .arguments = "SQL",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Ask the hub's twins, as in \"SELECT * FROM devices WHERE tags.site = 'north'\"",
        .description = "All pages, one after the other. With --json one row a line, as the hub gives it.",
        .options = query_options,
        .run = cmd_query,
};

static int get_object(const HubSession *h, const char *path, const char *what,
                      struct json_object **ret) {
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        int r;

        r = registry_client_call(h->client,
                                 &(RegistryRequest){ .method = "GET", .path = path, .what = what },
                                 &a);
        if (r == EX_OK && !json_object_is_type(a.body, json_type_object)) {
                say_error("The hub's answer is not understood");
                r = EX_PROTOCOL;
        }
        if (r == EX_OK)
                *ret = TAKE_PTR(a.body);
        return r;
}

static void print_counts(struct json_object *o) {
        json_object_object_foreach(o, name, value)
                print_field(name, json_object_get_string(value));
}

static int cmd_stats(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_json_ struct json_object *devices = NULL, *service = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        int r;

        r = verb_parse(verb, g, NULL, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = get_object(&h, "/statistics/devices", "Cannot count the devices", &devices);
        if (r == EX_OK)
                r = get_object(&h, "/statistics/service", "Cannot count the connections", &service);
        if (r != EX_OK)
                return r;
        if (!g->json) {
                print_counts(devices);
                print_counts(service);
                return EX_OK;
        }
        json_object_object_foreach(service, name, value) {
                if (json_object_object_add(devices, name, json_object_get(value)) < 0)
                        return say_out_of_memory();
        }
        print_json(devices);
        return EX_OK;
}

const Verb verb_stats = {
        .hub = true,
        .name = "stats",
        .summary = "Show how many devices there are, enabled, disabled and connected",
        .run = cmd_stats,
};
