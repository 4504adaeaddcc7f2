/* Many devices from a file: lines become items of bulk calls, 100 in each, several calls under way. What
 * a hub refuses is kept with its reason, as lines that can be given to import again. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "client/hub-session.h"
#include "client/identity-record.h"
#include "client/line-reader.h"
#include "client/output.h"
#include "client/progress.h"
#include "client/transfer-signal.h"

#define ITEMS_PER_CALL 100U /* the hub's limit */
#define LINE_BYTES_MAX (256U * 1024U)
#define CALLS_DEFAULT 4U
#define CALLS_MAX 32U
#define TOLD_MAX 10U /* failures that are told; the file has all */

typedef struct ImportSettings {
        const char *mode, *failed_path;
        uint64_t n_calls;
        bool if_match;
} ImportSettings;

static const Option import_options[] = {
        { "mode", 0, "create|update|create-or-update|delete|update-twin",
          "What to do with each (default: create)", option_string, offsetof(ImportSettings, mode) },
        { "if-match", 0, NULL, "update and delete only where the line's etag is still the hub's",
          option_flag, offsetof(ImportSettings, if_match) },
        { "failed", 0, "PATH", "Where to write the lines that fail (default: FILE.failed)",
          option_path, offsetof(ImportSettings, failed_path) },
        { "calls", 0, "N", "Calls under way at once, 1 to 32 (default: 4)", option_u64,
          offsetof(ImportSettings, n_calls) },
        {},
};

static const struct {
        const char *name, *plain, *if_match;
} modes[] = {
        { "create", "create", NULL },
        { "update", "update", "updateIfMatchETag" },
        /* The hub's bulk calls have no such mode: what is there already is sent again as an update. */
        { "create-or-update", "create", NULL },
        { "delete", "delete", "deleteIfMatchETag" },
        { "update-twin", "updateTwin", "updateTwinIfMatchETag" },
};

typedef struct Import {
        const ImportSettings *settings;
        const Globals *globals;
        HubSession session;
        const char *import_mode;
        bool update_existing;

        int fd;
        LineReader reader;
        bool csv, format_known;
        CsvColumns columns;

        struct json_object *batch; /* under way to be filled; NULL: empty */
        struct json_object *again; /* items to be sent once more, as updates */
        struct Call *calls;        /* under way */
        unsigned n_running;        /* how many */
        FILE *failed;
        char *failed_path;
        Progress progress;
        uint64_t n_done, n_already, n_failed, n_items;
        int exit_code; /* of the call that stopped it */
} Import;

typedef struct Call {
        Import *import;
        struct json_object *items;
        struct Call *next;
} Call;

static void tell_failure(Import *im, struct json_object *item, const char *reason) {
        const char *id = NULL, *module = NULL;

        (void) json_get_string(item, "id", &id, NULL); /* absent is absent */
        (void) json_get_string(item, "moduleId", &module, NULL);
        im->n_failed++;
        if (im->n_failed <= TOLD_MAX) {
                progress_end(&im->progress);
                say_error("%s%s%s: %s", strempty(id), module ? "/" : "", strempty(module), reason);
        } else if (im->n_failed == TOLD_MAX + 1)
                say_error("more fail: all are in %s", im->failed_path);
}

/* The items hold keys. */
static int open_failed(Import *im) {
        int fd;

        if (im->failed)
                return 0;
        fd = open(im->failed_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        im->failed = fdopen(fd, "w");
        if (!im->failed) {
                safe_close(fd);
                return -ENOMEM;
        }
        return 0;
}

static void keep_failure(Import *im, struct json_object *item, const char *reason) {
        const char *text;
        int r;

        tell_failure(im, item, reason);
        json_object_object_del(item, "importMode");
        r = json_add_string(item, "importError", reason);
        text = r >= 0 ? json_object_to_json_string_ext(item, JSON_C_TO_STRING_PLAIN |
                                                                     JSON_C_TO_STRING_NOSLASHESCAPE) :
                        NULL;
        if (text)
                r = open_failed(im);
        if (!text || r < 0 || fprintf(im->failed, "%s\n", text) < 0) {
                say_error("Cannot write %s: %s", im->failed_path, strerror(r < 0 ? -r : errno));
                im->exit_code = EX_IOERR;
        }
}

/* The error of an item among those of the answer, by its ids; borrowed, or NULL. */
static struct json_object *find_error(struct json_object *errors, struct json_object *item) {
        const char *id = NULL, *module = NULL;

        (void) json_get_string(item, "id", &id, NULL); /* checked when it was read */
        (void) json_get_string(item, "moduleId", &module, NULL);
        for (size_t i = 0; errors && i < json_object_array_length(errors); i++) {
                struct json_object *e = json_object_array_get_idx(errors, i);
                const char *error_id = NULL, *error_module = NULL;

                if (!json_object_is_type(e, json_type_object))
                        continue;
                (void) json_get_string(e, "deviceId", &error_id, NULL); /* absent is absent */
                (void) json_get_string(e, "moduleId", &error_module, NULL);
                if (streq(strempty(error_id), id) &&
                    streq(strempty(error_module), strempty(module)))
                        return e;
        }
        return NULL;
}

/* A name or, in old answers, a number. */
static const HubErrorRule *error_rule(struct json_object *error) {
        const char *name = NULL;
        uint64_t code = 0;

        if (json_get_u64(error, "errorCode", &code) > 0)
                return hub_error_find((unsigned) MIN(code, (uint64_t) 999999), NULL);
        (void) json_get_string(error, "errorCode", &name, NULL); /* absent is absent */
        return hub_error_find(0, name);
}

static int add_to(struct json_object **list, struct json_object *item) {
        if (!*list)
                *list = json_object_new_array();
        if (!*list || json_object_array_add(*list, json_object_get(item)) < 0)
                return -ENOMEM;
        return 0;
}

/* What was to be deleted is not there. A hub that takes the call and speaks of the login at a module means
 * that the module's device is missing. */
static bool is_gone(const HubErrorRule *rule, struct json_object *item) {
        const char *module;

        if (!rule)
                return false;
        return rule->exit_code == EXIT_NOT_FOUND ||
               (rule->code == 401002 && json_get_string(item, "moduleId", &module, NULL) > 0);
}

static void settle_error(Import *im, struct json_object *item, struct json_object *error) {
        const HubErrorRule *rule = error_rule(error);
        const char *status = NULL, *mode = NULL;
        char reason[512];

        (void) json_get_string(item, "importMode", &mode, NULL); /* ours */
        if (rule && rule->exit_code == EXIT_EXISTS && streq(strempty(mode), "create")) {
                if (!im->update_existing)
                        im->n_already++;
                else if (json_add_string(item, "importMode", "update") < 0 ||
                         add_to(&im->again, item) < 0)
                        im->exit_code = say_out_of_memory();
                return;
        }
        if (is_gone(rule, item) && startswith(strempty(mode), "delete")) {
                im->n_already++;
                return;
        }
        (void) json_get_string(error, "errorStatus", &status, NULL); /* absent is absent */
        snprintf(reason, sizeof(reason), "%s%s%s", rule ? rule->meaning : "the hub refuses it",
                 status && *status ? ": " : "", strempty(status));
        keep_failure(im, item, reason);
}

static void settle(Import *im, struct json_object *items, int exit_code, const RegistryAnswer *a) {
        struct json_object *errors = NULL;
        size_t n_matched = 0;
        char reason[64];

        if (exit_code != EX_OK && a->status == 400 && json_object_is_type(a->body, json_type_object) &&
            json_get_array(a->body, "errors", &errors) <= 0)
                errors = NULL;
        if (exit_code != EX_OK && !errors) {
                /* All of it: whether the call was done is not known, and it can be made again. */
                im->exit_code = exit_code;
                snprintf(reason, sizeof(reason), "the call failed (HTTP %ld)", a->status);
        }
        for (size_t i = 0; i < json_object_array_length(items); i++) {
                struct json_object *item = json_object_array_get_idx(items, i);
                struct json_object *error = find_error(errors, item);

                if (exit_code != EX_OK && !errors)
                        keep_failure(im, item, reason);
                else if (error) {
                        settle_error(im, item, error);
                        n_matched++;
                } else
                        im->n_done++;
        }
        if (errors && json_object_array_length(errors) > 0 && n_matched == 0) {
                say_error("The hub refused some of a call and did not say which: %s",
                          json_object_to_json_string_ext(errors, JSON_C_TO_STRING_PLAIN));
                im->exit_code = EX_PROTOCOL;
        }
}

static void on_done(int exit_code, const RegistryAnswer *a, void *userdata) {
        Call *c = userdata;
        Call **link = &c->import->calls;

        while (*link != c)
                link = &(*link)->next;
        *link = c->next;
        c->import->n_running--;
        settle(c->import, c->items, exit_code, a);
        json_object_put(c->items);
        free(c);
}

/* Sends *list, which is taken. */
static int start_call(Import *im, struct json_object **list) {
        Call *c = malloc(sizeof(*c));
        RegistryRequest q = {
                .method = "POST",
                .path = "/devices",
                .body = *list,
                .what = "Cannot import",
                .expected_status = { 400 },
        };
        int r;

        if (!c)
                return say_out_of_memory();
        *c = (Call){ im, TAKE_PTR(*list), NULL };
        r = registry_client_start(im->session.client, &q, on_done, c);
        if (r != EX_OK) {
                json_object_put(c->items);
                free(c);
                return r;
        }
        c->next = im->calls;
        im->calls = c;
        im->n_running++;
        return EX_OK;
}

static bool stopped(const Import *im) {
        return im->exit_code != EX_OK || transfer_signal() != 0;
}

static void show_progress(Import *im) {
        progress_show(&im->progress, im->n_done + im->n_already, im->n_failed,
                      registry_client_paused_until(im->session.client) != 0);
}

/* Until fewer than max calls are under way. */
static void wait_for_room(Import *im, unsigned max) {
        while (im->n_running >= max && im->n_running > 0) {
                (void) registry_client_wait(im->session.client, -1, USEC_PER_SEC / 4); /* n_running tells */
                show_progress(im);
        }
}

static int send_batches(Import *im, bool all) {
        struct json_object **lists[] = { &im->again, &im->batch };
        int r = EX_OK;

        for (size_t i = 0; i < ELEMENTSOF(lists) && r == EX_OK; i++) {
                if (!*lists[i] || (!all && json_object_array_length(*lists[i]) < ITEMS_PER_CALL))
                        continue;
                wait_for_room(im, (unsigned) im->settings->n_calls);
                if (*lists[i] && !stopped(im))
                        r = start_call(im, lists[i]);
        }
        return r;
}

static void tell_bad_line(Import *im, const char *why) {
        im->n_failed++;
        progress_end(&im->progress);
        say_error("line %" PRIu64 ": %s", im->reader.line, why);
}

static int parse_line(Import *im, const char *line, size_t n, struct json_object **ret) {
        const char *why = "";
        int r;

        if (!im->format_known) {
                const char *p = line;

                im->format_known = true;
                while (p < line + n && (*p == ' ' || *p == '\t'))
                        p++;
                im->csv = p < line + n && *p != '{';
                if (im->csv) {
                        r = csv_columns_parse(line, n, &im->columns, &why);
                        if (r < 0) {
                                say_error("line %" PRIu64 ": %s", im->reader.line, why);
                                return im->exit_code = EX_DATAERR;
                        }
                        return EX_OK;
                }
        }
        r = im->csv ? csv_record_parse(&im->columns, line, n, ret, &why) :
                      json_record_parse(line, n, ret, &why);
        if (r == -EINVAL)
                tell_bad_line(im, why);
        return r == -ENOMEM ? say_out_of_memory() : EX_OK;
}

/* Whether the device itself is among them. */
static bool holds_device(struct json_object *items, const char *device) {
        for (size_t i = 0; i < json_object_array_length(items); i++) {
                struct json_object *item = json_object_array_get_idx(items, i);
                const char *id, *module;

                if (json_get_string(item, "id", &id, NULL) > 0 && streq(id, device) &&
                    json_get_string(item, "moduleId", &module, NULL) <= 0)
                        return true;
        }
        return false;
}

/* Calls that are under way end in any order: a module waits for that of its device. In one call the
 * hub keeps the order. */
static void wait_for_device_of(Import *im, struct json_object *item) {
        const char *device, *module;

        if (json_get_string(item, "moduleId", &module, NULL) <= 0 ||
            json_get_string(item, "id", &device, NULL) <= 0)
                return;
        for (Call *c = im->calls; c; c = c->next)
                if (holds_device(c->items, device)) {
                        wait_for_room(im, 1);
                        return;
                }
}

static int take_line(Import *im, const char *line, size_t n) {
        _cleanup_json_ struct json_object *item = NULL;
        int r;

        r = parse_line(im, line, n, &item);
        if (r != EX_OK || !item)
                return r;
        im->n_items++;
        wait_for_device_of(im, item);
        if (json_add_string(item, "importMode", im->import_mode) < 0 ||
            add_to(&im->batch, item) < 0)
                return say_out_of_memory();
        return send_batches(im, /* all= */ false);
}

/* Calls that are under way go on while whoever writes our input takes his time. */
static void wait_for_input(Import *im) {
        while (im->n_running > 0 && !stopped(im) &&
               poll(&(struct pollfd){ .fd = im->fd, .events = POLLIN }, 1, 0) == 0) {
                (void) registry_client_wait(im->session.client, im->fd, USEC_PER_SEC / 4);
                show_progress(im);
        }
}

static int read_lines(Import *im) {
        _cleanup_free_ char *block = malloc(65536);
        const char *line;
        size_t size;
        int r = EX_OK, k;

        if (!block)
                return say_out_of_memory();
        while (r == EX_OK && !stopped(im)) {
                const char *p = block;
                size_t left;
                ssize_t n;

                wait_for_input(im);
                if (stopped(im))
                        break;
                n = read(im->fd, block, 65536);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        say_error("Cannot read the input: %m");
                        return EX_IOERR;
                }
                left = (size_t) n;
                while (r == EX_OK && !stopped(im) &&
                       (k = n > 0 ? line_reader_next(&im->reader, &p, &left, &line, &size) :
                                    line_reader_finish(&im->reader, &line, &size)) != 0) {
                        if (k == -EMSGSIZE)
                                tell_bad_line(im, "it is longer than 256 KiB");
                        else
                                r = k < 0 ? say_out_of_memory() : take_line(im, line, size);
                }
                if (n == 0)
                        break;
        }
        explicit_bzero(block, 65536);
        return r;
}

/* What is left, again and again: updates of what was there come behind. */
static int send_rest(Import *im) {
        int r = EX_OK;

        while (r == EX_OK && !stopped(im) && (im->batch || im->again || im->n_running > 0)) {
                r = send_batches(im, /* all= */ true);
                wait_for_room(im, 1);
        }
        wait_for_room(im, 1);
        return r;
}

/* What was read and never sent. */
static void keep_unsent(Import *im) {
        struct json_object *lists[] = { im->again, im->batch };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                for (size_t k = 0; lists[i] && k < json_object_array_length(lists[i]); k++)
                        keep_failure(im, json_object_array_get_idx(lists[i], k), "not sent");
}

static int report(Import *im) {
        const usec_t span_usec = now_usec(CLOCK_MONOTONIC) - im->progress.begin_usec;
        char span[FORMAT_TIMESPAN_MAX];

        progress_end(&im->progress);
        if (im->failed && (fflush(im->failed) != 0 || ferror(im->failed))) {
                say_error("Cannot write %s: %m", im->failed_path);
                im->exit_code = EX_IOERR;
        }
        if (im->globals->json)
                printf("{\"done\":%" PRIu64 ",\"already\":%" PRIu64 ",\"failed\":%" PRIu64
                       ",\"durationUSec\":%" PRIu64 "}\n",
                       im->n_done, im->n_already, im->n_failed, span_usec);
        else
                printf("%" PRIu64 " done, %" PRIu64 " were so already, %" PRIu64 " failed, in %s\n",
                       im->n_done, im->n_already, im->n_failed,
                       format_timespan(span, sizeof(span), span_usec));
        if (im->reader.line == 0 && im->exit_code == EX_OK)
                say_error("The input is empty");
        if (im->failed)
                say_error("What failed is in %s, to be given to import again", im->failed_path);
        if (stopped(im))
                say_error("Stopped; giving the whole input again does no harm");
        if (im->exit_code != EX_OK)
                return im->exit_code;
        return im->n_failed > 0 ? EX_DATAERR : EX_OK;
}

static uint64_t count_lines(int fd) {
        _cleanup_free_ char *block = malloc(65536);
        struct stat st;
        uint64_t lines = 0;
        off_t at = 0;
        ssize_t n;

        if (!block || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return 0;
        for (; (n = pread(fd, block, 65536, at)) > 0; at += n)
                for (const char *p = block; (p = memchr(p, '\n', (size_t) (block + n - p))); p++)
                        lines++;
        return lines;
}

static int choose_mode(const ImportSettings *s, Import *im) {
        for (size_t i = 0; i < ELEMENTSOF(modes); i++) {
                if (!streq(s->mode, modes[i].name))
                        continue;
                if (s->if_match && !modes[i].if_match) {
                        say_error("--if-match does not go with --mode %s", s->mode);
                        return EX_USAGE;
                }
                im->import_mode = s->if_match ? modes[i].if_match : modes[i].plain;
                im->update_existing = streq(s->mode, "create-or-update");
                return EX_OK;
        }
        say_error("--mode: \"%s\" is not create, update, create-or-update, delete or update-twin",
                  s->mode);
        return EX_USAGE;
}

static int open_input(const ImportSettings *s, const char *path, Import *im) {
        const bool standard_input = !path || streq(path, "-");
        struct stat input, failed;

        im->fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
        if (im->fd < 0) {
                say_error("Cannot read %s: %m", path);
                return EX_NOINPUT;
        }
        if (s->failed_path)
                im->failed_path = strdup(s->failed_path);
        else if (asprintf(&im->failed_path, "%s.failed", standard_input ? "import" : path) < 0)
                im->failed_path = NULL;
        if (!im->failed_path)
                return say_out_of_memory();
        /* The first failure would empty it before it is read. */
        if (fstat(im->fd, &input) == 0 && stat(im->failed_path, &failed) == 0 &&
            input.st_dev == failed.st_dev && input.st_ino == failed.st_ino) {
                say_error("%s is read and cannot take what fails as well: name another file with --failed",
                          im->failed_path);
                return EX_USAGE;
        }
        return EX_OK;
}

static void import_done(Import *im) {
        if (im->fd > STDERR_FILENO)
                safe_close(im->fd);
        line_reader_done(&im->reader);
        json_object_put(im->batch);
        json_object_put(im->again);
        if (im->failed)
                (void) fclose(im->failed); /* report() has flushed it */
        free(im->failed_path);
        hub_session_done(&im->session);
}

static int cmd_import(const Verb *verb, Globals *g, int argc, char **argv) {
        ImportSettings s = { .mode = "create", .n_calls = CALLS_DEFAULT };
        _cleanup_(import_done) Import im = {
                .settings = &s, .globals = g, .fd = -EBADF,
                .reader = { .mode = LINE_MODE_NEWLINE, .bytes_max = LINE_BYTES_MAX },
        };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (s.n_calls < 1 || s.n_calls > CALLS_MAX) {
                say_error("--calls: 1 to %u", CALLS_MAX);
                return EX_USAGE;
        }
        r = choose_mode(&s, &im);
        if (r == EX_OK)
                r = open_input(&s, argc > 0 ? argv[0] : NULL, &im);
        if (r == EX_OK)
                r = hub_session_open(g, /* quiet= */ true, &im.session);
        if (r != EX_OK)
                return r;
        transfer_signal_watch();
        progress_begin(&im.progress, "done", count_lines(im.fd));
        r = read_lines(&im);
        if (r == EX_OK)
                r = send_rest(&im);
        wait_for_room(&im, 1);
        if (r != EX_OK)
                im.exit_code = r;
        keep_unsent(&im);
        r = report(&im);
        transfer_signal_end();
        return r;
}

const Verb verb_device_import = {
        .group = "device",
        .hub = true,
        .name = "import",
        .arguments = "[FILE]",
        .arguments_min = 0,
        .arguments_max = 1,
        .summary = "Create, change or delete many devices and modules from lines of JSON or CSV",
        .description = "FILE is standard input by default. It may be interrupted and given again.",
        .options = import_options,
        .run = cmd_import,
};
