/* Lists of identities. Devices come through a query, page by page, because the plain list ends at
 * 1000; a login without the right for queries gets that one. */
#include "lib/json-util.h"
#include "lib/string-util.h"
#include "client/identity.h"
#include "client/output.h"

#define LIST_MAX 1000U /* of the plain list, the hub's limit */
#define PAGE_SIZE 500U

typedef struct ListSettings {
        uint64_t top;
} ListSettings;

static const Option device_list_options[] = {
        { "top", 0, "N", "At most that many (default: all)", option_u64,
          offsetof(ListSettings, top) },
        {},
};

typedef struct List {
        const Globals *globals;
        Table *table; /* NULL with --json */
        bool twins;   /* else identities: the fields' names differ */
        bool modules;
        uint64_t n, top; /* top 0: all */
} List;

static const char *auth_type(const List *l, struct json_object *o) {
        return l->twins ? identity_text(o, "authenticationType") : identity_auth_type(o);
}

static int add_row(List *l, struct json_object *o) {
        uint64_t n = 0;
        int r;

        (void) json_get_u64(o, "cloudToDeviceMessageCount", &n); /* absent is none */
        r = table_add(l->table, identity_text(o, l->modules ? "moduleId" : "deviceId"));
        if (r >= 0)
                r = table_add(l->table, identity_text(o, l->modules ? "managedBy" : "status"));
        if (r >= 0)
                r = table_add(l->table, identity_text(o, "connectionState"));
        if (r >= 0)
                r = table_add(l->table, identity_time(o, "lastActivityTime"));
        if (r >= 0)
                r = table_addf(l->table, "%" PRIu64, n);
        return r < 0 ? r : table_add(l->table, auth_type(l, o));
}

/* One page. EX_OK or the exit code, told. */
static int show_page(List *l, struct json_object *page) {
        if (!json_object_is_type(page, json_type_array)) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        for (size_t i = 0; i < json_object_array_length(page) && (l->top == 0 || l->n < l->top);
             i++, l->n++) {
                struct json_object *o = json_object_array_get_idx(page, i);

                identity_remove_keys(o);
                if (!l->table)
                        print_json(o);
                else if (add_row(l, o) < 0)
                        return say_out_of_memory();
        }
        if (l->table)
                table_flush(l->table, stdout);
        return EX_OK;
}

static int list_open(List *l) {
        static const char *const device_headers[] = {
                "DEVICE", "STATUS", "CONNECTION", "LAST ACTIVITY", "C2D", "AUTHENTICATION", NULL
        };
        static const char *const module_headers[] = {
                "MODULE", "MANAGED BY", "CONNECTION", "LAST ACTIVITY", "C2D", "AUTHENTICATION", NULL
        };

        if (l->globals->json)
                return EX_OK;
        return table_new(l->modules ? module_headers : device_headers, &l->table) < 0 ?
                       say_out_of_memory() :
                       EX_OK;
}

/* The array of one GET. */
static int list_plain(List *l, const HubSession *h, const char *path, const char *query,
                      const char *what) {
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        const RegistryRequest q = { .method = "GET", .path = path, .query = query, .what = what };
        int r;

        l->twins = false;
        r = registry_client_call(h->client, &q, &a);
        return r == EX_OK ? show_page(l, a.body) : r;
}

/* *ret_refused: the login lacks the right, nothing was shown. */
static int list_by_query(List *l, const HubSession *h, bool *ret_refused) {
        _cleanup_json_ struct json_object *body = json_object_new_object();
        _cleanup_free_ char *continuation = NULL;
        int r;

        l->twins = true;
        if (!body || json_add_string(body, "query", "SELECT * FROM devices") < 0)
                return say_out_of_memory();
        do {
                _cleanup_(registry_answer_done) RegistryAnswer a = {};
                const RegistryRequest q = {
                        .method = "POST",
                        .path = "/devices/query",
                        .body = body,
                        .continuation = continuation,
                        .page_size = PAGE_SIZE,
                        .what = "Cannot list the devices",
                        .expected_status = { continuation ? 0 : 401, continuation ? 0 : 403 },
                };

                r = registry_client_call(h->client, &q, &a);
                *ret_refused = !continuation && (a.status == 401 || a.status == 403);
                if (r == EX_OK)
                        r = show_page(l, a.body);
                free(continuation);
                continuation = TAKE_PTR(a.continuation);
        } while (r == EX_OK && continuation && (l->top == 0 || l->n < l->top));
        return r;
}

static int list_devices(List *l, const HubSession *h) {
        bool refused = false;
        char query[32];
        int r;

        r = list_by_query(l, h, &refused);
        if (!refused)
                return r;
        snprintf(query, sizeof(query), "top=%" PRIu64,
                 l->top > 0 && l->top < LIST_MAX ? l->top : LIST_MAX);
        r = list_plain(l, h, "/devices", query, "Cannot list the devices");
        if (r == EX_OK && l->n == LIST_MAX && l->top != LIST_MAX)
                say_error("There may be more: to go beyond 1000 the policy needs the right "
                          "ServiceConnect");
        return r;
}

static int cmd_list_devices(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(hub_session_done) HubSession h = {};
        List l = { .globals = g };
        ListSettings s = { .top = UINT64_MAX };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (s.top == 0) {
                say_error("--top: at least 1");
                return EX_USAGE;
        }
        l.top = s.top == UINT64_MAX ? 0 : s.top;
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = list_open(&l);
        if (r == EX_OK)
                r = list_devices(&l, &h);
        table_free(l.table);
        return r;
}

const Verb verb_device_list = {
        .group = "device",
        .hub = true,
        .name = "list",
        .summary = "List the devices of the hub",
        .description = "With --json one object a line: the hub's twins, or its identities where the login\n"
                       "may not query.",
        .options = device_list_options,
        .run = cmd_list_devices,
};

static int cmd_list_modules(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_free_ char *path = NULL, *modules = NULL, *what = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        List l = { .globals = g, .modules = true };
        IdentityName name;
        int r;

        r = verb_parse(verb, g, NULL, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = (IdentityName){ .device = argv[0] };
        r = identity_name_check(&name);
        if (r != EX_OK)
                return r;
        if (identity_path("devices", &name, &path) < 0 ||
            format_string(&modules, "%s/modules", path) < 0 ||
            identity_what("list the modules of", &name, &what) < 0)
                return say_out_of_memory();
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = list_open(&l);
        if (r == EX_OK)
                r = list_plain(&l, &h, modules, NULL, what);
        table_free(l.table);
        return r;
}

const Verb verb_module_list = {
        .group = "module",
        .hub = true,
        .name = "list",
        .arguments = "DEVICE",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "List the modules of a device",
        .run = cmd_list_modules,
};
