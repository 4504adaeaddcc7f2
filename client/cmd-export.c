/* All devices and modules into a file. A query gives the twins, page by page; keys are in no twin,
 * and the list of identities has no second page, so each identity of a page is read by a call of
 * its own, several under way, and the page is written in its order. Where one list holds all
 * devices, it serves instead. Modules come behind the devices: import makes them in that order. */
#include <fcntl.h>

#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "client/identity-record.h"
#include "client/identity.h"
#include "client/output.h"
#include "client/progress.h"
#include "client/transfer-signal.h"

#define PAGE_SIZE 500U
#define LIST_MAX 1000U /* of the hub */
#define CALLS_DEFAULT 8U
#define CALLS_MAX 32U

typedef struct ExportSettings {
        const char *format, *query_where;
        bool no_keys;
        uint64_t n_calls;
} ExportSettings;

static const Option export_options[] = {
        { "format", 0, "json|csv", "Lines of JSON (default), or CSV without tags and properties",
          option_string, offsetof(ExportSettings, format) },
        { "where", 0, "CONDITION",
          "Only devices whose twin meets it, as in a query, and no modules", option_path,
          offsetof(ExportSettings, query_where) },
        { "no-keys", 0, NULL,
          "Without keys: one call for each page and not one for each device or module", option_flag,
          offsetof(ExportSettings, no_keys) },
        { "calls", 0, "N", "Calls under way at once, 1 to 32 (default: 8)", option_u64,
          offsetof(ExportSettings, n_calls) },
        {},
};

typedef struct Export {
        const ExportSettings *settings;
        HubSession session;
        FILE *out;
        bool csv;
        Progress progress;
        struct json_object *listed; /* identities by the device's id, or NULL */
        uint64_t n_done, n_modules, n_gone;
        unsigned n_running;
        int exit_code;
} Export;

typedef struct Read {
        Export *export;
        struct json_object **to;
} Read;

static void on_identity(int exit_code, const RegistryAnswer *a, void *userdata) {
        Read *r = userdata;
        Export *e = r->export;

        e->n_running--;
        if (exit_code == EX_OK && json_object_is_type(a->body, json_type_object))
                *r->to = json_object_get(a->body);
        else if (a->status == 404)
                e->n_gone++; /* deleted since the query */
        else if (e->exit_code == EX_OK)
                e->exit_code = exit_code != EX_OK ? exit_code : EX_PROTOCOL;
        free(r);
}

static int start_read(Export *e, const IdentityName *name, struct json_object **to) {
        _cleanup_free_ char *path = NULL, *what = NULL;
        Read *r = malloc(sizeof(*r));
        int k;

        if (!r || identity_path("devices", name, &path) < 0 ||
            identity_what("read", name, &what) < 0) {
                free(r);
                return say_out_of_memory();
        }
        *r = (Read){ e, to };
        k = registry_client_start(e->session.client,
                                  &(RegistryRequest){ .method = "GET",
                                                      .path = path,
                                                      .what = what,
                                                      .expected_status = { 404 } },
                                  on_identity, r);
        if (k != EX_OK) {
                free(r);
                return k;
        }
        e->n_running++;
        return EX_OK;
}

static void wait_for_room(Export *e, unsigned max) {
        while (e->n_running >= max && e->n_running > 0) {
                /* n_running tells. */
                (void) registry_client_wait(e->session.client, -1, USEC_PER_SEC / 4);
                progress_show(&e->progress, e->n_done, 0,
                              registry_client_paused_until(e->session.client) != 0);
        }
}

static bool stopped(const Export *e) {
        return e->exit_code != EX_OK || transfer_signal() != 0;
}

/* From the list, of which it is taken. */
static struct json_object *take_listed(Export *e, const IdentityName *name) {
        struct json_object *o;

        if (!e->listed || name->module || !json_object_object_get_ex(e->listed, name->device, &o))
                return NULL;
        json_object_get(o);
        json_object_object_del(e->listed, name->device);
        return o;
}

/* The identities of a page, each at the place of its twin. */
static int read_identities(Export *e, struct json_object *page, struct json_object **identities) {
        int r = EX_OK;

        for (size_t i = 0; i < json_object_array_length(page) && r == EX_OK && !stopped(e); i++) {
                struct json_object *twin = json_object_array_get_idx(page, i);
                IdentityName name = {};

                if (json_object_is_type(twin, json_type_object))
                        name = (IdentityName){ identity_text(twin, "deviceId"),
                                               identity_text(twin, "moduleId") };
                if (!name.device) {
                        say_error("The hub's answer is not understood");
                        r = EX_PROTOCOL;
                        break;
                }
                identities[i] = take_listed(e, &name);
                if (identities[i])
                        continue;
                wait_for_room(e, (unsigned) e->settings->n_calls);
                r = start_read(e, &name, identities + i);
        }
        wait_for_room(e, 1);
        return r != EX_OK ? r : e->exit_code;
}

static int write_record(Export *e, struct json_object *identity, struct json_object *twin) {
        _cleanup_(buffer_done) Buffer line = {};
        _cleanup_json_ struct json_object *item = NULL;
        const char *text;
        size_t n;

        if (record_from_identity(identity, twin, &item) < 0)
                return say_out_of_memory();
        if (e->csv) {
                if (csv_record_format(NULL, item, &line) < 0)
                        return say_out_of_memory();
        } else {
                text = json_object_to_json_string_length(
                                item, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
                if (!text || buffer_append(&line, text, n) < 0 ||
                    buffer_append_string(&line, "\n") < 0)
                        return say_out_of_memory();
        }
        if (fwrite(line.data, 1, line.size, e->out) != line.size) {
                say_error("Cannot write: %m");
                return EX_IOERR;
        }
        if (line.data)
                explicit_bzero(line.data, line.size);
        e->n_done++;
        e->n_modules += identity_text(item, "moduleId") != NULL;
        return EX_OK;
}

/* A twin tells how its identity signs in, and of certificates all that there is; of keys nothing. Without it an import would
 * make a device with keys of it. */
static int add_certificates(struct json_object *twin) {
        struct json_object *authentication, *thumbprints;
        const char *type = NULL;

        (void) json_get_string(twin, "authenticationType", &type, NULL); /* stays NULL */
        if (!type || streq(type, "sas") || streq(type, "none"))
                return 0;
        authentication = json_object_new_object();
        if (!authentication)
                return -ENOMEM;
        if (json_add_string(authentication, "type", type) < 0 ||
            (streq(type, "selfSigned") && json_object_object_get_ex(twin, "x509Thumbprint", &thumbprints) &&
             json_add(authentication, "x509Thumbprint", json_object_get(thumbprints)) < 0)) {
                json_object_put(authentication);
                return -ENOMEM;
        }
        return json_add(twin, "authentication", authentication);
}

static int write_page(Export *e, struct json_object *page) {
        const size_t n = json_object_array_length(page);
        struct json_object **identities = calloc(n + 1, sizeof(*identities));
        int r = identities ? EX_OK : say_out_of_memory();

        if (r == EX_OK && !e->settings->no_keys)
                r = read_identities(e, page, identities);
        for (size_t i = 0; i < n && r == EX_OK && !stopped(e); i++) {
                struct json_object *twin = json_object_array_get_idx(page, i);

                if (e->settings->no_keys) {
                        json_object_object_del(twin, "etag"); /* the twin's, not the identity's */
                        r = add_certificates(twin);
                        if (r >= 0)
                                r = write_record(e, twin, twin);
                } else if (identities[i])
                        r = write_record(e, identities[i], twin);
        }
        for (size_t i = 0; identities && i < n; i++)
                identity_erasep(identities + i);
        free(identities);
        return r;
}

static int export_twins(Export *e, const char *from) {
        _cleanup_json_ struct json_object *body = json_object_new_object();
        _cleanup_free_ char *continuation = NULL, *text = NULL;
        int r;

        if (asprintf(&text, "SELECT * FROM %s%s%s", from, e->settings->query_where ? " WHERE " : "",
                     strempty(e->settings->query_where)) < 0)
                text = NULL;
        if (!body || !text || json_add_string(body, "query", text) < 0)
                return say_out_of_memory();
        do {
                _cleanup_(registry_answer_done) RegistryAnswer a = {};

                r = registry_client_call(e->session.client,
                                         &(RegistryRequest){ .method = "POST",
                                                             .path = "/devices/query",
                                                             .body = body,
                                                             .continuation = continuation,
                                                             .page_size = PAGE_SIZE,
                                                             .what = "Cannot export the devices" },
                                         &a);
                if (r == EX_OK && !json_object_is_type(a.body, json_type_array)) {
                        say_error("The hub's answer is not understood");
                        r = EX_PROTOCOL;
                }
                if (r == EX_OK)
                        r = write_page(e, a.body);
                free(continuation);
                continuation = TAKE_PTR(a.continuation);
        } while (r == EX_OK && continuation && !stopped(e));
        return r;
}

/* One call instead of many, which counts where the hub takes 100 a minute. */
static int list_devices(Export *e) {
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        char query[16];
        int r;

        snprintf(query, sizeof(query), "top=%u", LIST_MAX);
        r = registry_client_call(e->session.client,
                                 &(RegistryRequest){ .method = "GET",
                                                     .path = "/devices",
                                                     .query = query,
                                                     .what = "Cannot export the devices" },
                                 &a);
        if (r != EX_OK)
                return r;
        e->listed = json_object_new_object();
        if (!e->listed)
                return say_out_of_memory();
        for (size_t i = 0;
             json_object_is_type(a.body, json_type_array) && i < json_object_array_length(a.body);
             i++) {
                struct json_object *o = json_object_array_get_idx(a.body, i);
                const char *id = json_object_is_type(o, json_type_object) ?
                                                 identity_text(o, "deviceId") :
                                                 NULL;

                if (id && json_add(e->listed, id, json_object_get(o)) < 0)
                        return say_out_of_memory();
        }
        return EX_OK;
}

static void forget_listed(Export *e) {
        if (e->listed) {
                json_object_object_foreach(e->listed, id, o) {
                        (void) id; /* the macro needs its name */
                        identity_remove_keys(o);
                }
        }
        json_object_put(e->listed);
        e->listed = NULL;
}

static int export_all(Export *e, uint64_t n_devices) {
        int r = EX_OK;

        if (!e->settings->no_keys && n_devices > 0 && n_devices <= LIST_MAX)
                r = list_devices(e);
        if (r == EX_OK)
                r = export_twins(e, "devices");
        if (r == EX_OK && !e->settings->query_where && !stopped(e))
                r = export_twins(e, "devices.modules");
        forget_listed(e);
        return r;
}

static void write_header(Export *e) {
        for (size_t i = 0; e->csv && record_columns[i]; i++)
                fprintf(e->out, "%s%s", i ? "," : "", record_columns[i]);
        if (e->csv)
                fputc('\n', e->out);
}

static uint64_t count_devices(Export *e) {
        _cleanup_(registry_answer_done) RegistryAnswer a = {};
        uint64_t n = 0;

        if (e->settings->query_where)
                return 0;
        /* Only for the progress: a login that may not ask goes without. */
        if (registry_client_call(e->session.client,
                                 &(RegistryRequest){ .method = "GET",
                                                     .path = "/statistics/devices",
                                                     .what = "Cannot count the devices",
                                                     .expected_status = { 401, 403 } },
                                 &a) == EX_OK &&
            json_object_is_type(a.body, json_type_object))
                (void) json_get_u64(a.body, "totalDeviceCount", &n); /* absent: not known */
        return n;
}

/* The file appears when it is whole: PATH.partial until then. It may hold keys. */
static int open_output(Export *e, const char *path, char **ret_partial) {
        int fd;

        if (!path || streq(path, "-")) {
                e->out = stdout;
                return EX_OK;
        }
        if (asprintf(ret_partial, "%s.partial", path) < 0) {
                *ret_partial = NULL;
                return say_out_of_memory();
        }
        fd = open(*ret_partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd >= 0)
                e->out = fdopen(fd, "w");
        if (!e->out) {
                say_error("Cannot write %s: %m", *ret_partial);
                safe_close(fd);
                return EX_CANTCREAT;
        }
        return EX_OK;
}

static int close_output(Export *e, int exit_code, const char *path, const char *partial) {
        bool bad;

        if (!e->out || e->out == stdout)
                return exit_code;
        bad = fflush(e->out) != 0 || ferror(e->out) || fsync(fileno(e->out)) < 0;
        (void) fclose(e->out); /* what matters was flushed */
        if (exit_code == EX_OK && transfer_signal() == 0 && !bad && rename(partial, path) == 0)
                return EX_OK;
        if (exit_code == EX_OK && transfer_signal() == 0) {
                say_error("Cannot write %s: %m", path);
                exit_code = EX_IOERR;
        }
        (void) unlink(partial); /* half an export is none */
        return exit_code;
}

static int run(Export *e, const char *path) {
        _cleanup_free_ char *partial = NULL;
        uint64_t n_devices;
        char modules[48] = "";
        int r;

        r = open_output(e, path, &partial);
        if (r != EX_OK)
                return r;
        transfer_signal_watch();
        n_devices = count_devices(e);
        progress_begin(&e->progress, "devices", n_devices);
        write_header(e);
        r = export_all(e, n_devices);
        if (r == EX_OK)
                r = e->exit_code;
        progress_end(&e->progress);
        r = close_output(e, r, path, partial);
        if (e->n_modules > 0)
                snprintf(modules, sizeof(modules), " and %" PRIu64 " modules", e->n_modules);
        if (r == EX_OK && transfer_signal() == 0)
                say_error("%" PRIu64 " devices%s exported", e->n_done - e->n_modules, modules);
        else
                say_error("Stopped after %" PRIu64 " devices%s", e->n_done - e->n_modules, modules);
        return r;
}

static int cmd_export(const Verb *verb, Globals *g, int argc, char **argv) {
        ExportSettings s = { .format = "json", .n_calls = CALLS_DEFAULT };
        Export e = { .settings = &s };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        e.csv = streq(s.format, "csv");
        if (!e.csv && !streq(s.format, "json")) {
                say_error("--format: \"%s\" is neither json nor csv", s.format);
                return EX_USAGE;
        }
        if (s.n_calls < 1 || s.n_calls > CALLS_MAX) {
                say_error("--calls: 1 to %u", CALLS_MAX);
                return EX_USAGE;
        }
        r = hub_session_open(g, /* quiet= */ true, &e.session);
        if (r == EX_OK)
                r = run(&e, argc > 0 ? argv[0] : NULL);
        hub_session_done(&e.session);
        transfer_signal_end();
        return r;
}

const Verb verb_device_export = {
        .group = "device",
        .hub = true,
        .name = "export",
        .arguments = "[FILE]",
        .arguments_min = 0,
        .arguments_max = 1,
        .summary = "Write all devices and modules as lines that import reads",
        .description = "FILE is standard output by default; it is for its owner only, since it "
                       "holds keys.",
        .options = export_options,
        .run = cmd_export,
};
