/* Many devices from a file: lines become items of bulk calls, 100 in each, several calls under way. What
 * is not known to be done in the end is kept, as lines that can be given to import again: what the hub
 * refused, with its reason; what cannot be read, as it was; and what a stop left unsent and unread. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "lib/string-util.h"
#include "client/failures-file.h"
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
#define BAD_LINES_TOLD_MAX 20U
#define REASON_BYTES_MAX 1024U /* fits into a field of CSV */

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
        CsvColumns columns, failed_columns; /* of the input, and of what is kept of it */
        bool regular; /* the input is a file: a stop can keep what was not read */
        bool at_end;  /* of the input */
        Buffer rest;  /* read behind the last line that was taken, when it was stopped */

        struct json_object *batch; /* under way to be filled; NULL: empty */
        struct json_object *again; /* items to be sent once more, as updates */
        struct Call *calls;        /* under way */
        unsigned n_running;        /* how many */
        FailuresFile failures;
        const HubErrorRule *advised[TOLD_MAX]; /* whose remedy was told */
        Progress progress;
        uint64_t n_done, n_already, n_failed, n_items;
        uint64_t n_bad;      /* of n_failed: lines that cannot be read */
        uint64_t n_not_sent; /* items and lines, after a stop */
        int exit_code; /* of the call that stopped it */
} Import;

typedef struct Call {
        Import *import;
        struct json_object *items;
        struct Call *next;
} Call;

/* A remedy is told once, not behind each of the failures that it helps against. */
static void advise(Import *im, const HubErrorRule *rule) {
        if (!rule || !rule->remedy)
                return;
        for (size_t i = 0; i < ELEMENTSOF(im->advised); i++) {
                if (im->advised[i] == rule)
                        return;
                if (!im->advised[i]) {
                        im->advised[i] = rule;
                        say_error("What to do: %s", rule->remedy);
                        return;
                }
        }
}

static void tell_failure(Import *im, struct json_object *item, const HubErrorRule *rule,
                         const char *reason) {
        const uint64_t n = im->n_failed - im->n_bad; /* this one included */
        const char *id = NULL, *module = NULL;

        if (n > TOLD_MAX + 1)
                return;
        (void) json_get_string(item, "id", &id, NULL); /* absent is absent */
        (void) json_get_string(item, "moduleId", &module, NULL);
        progress_end(&im->progress);
        if (n > TOLD_MAX)
                say_error("More fail: all are in %s", im->failures.path);
        else {
                say_error("%s%s%s: %s", strempty(id), module ? "/" : "", strempty(module), reason);
                advise(im, rule);
        }
}

static void cannot_write(Import *im, int r) {
        if (im->exit_code == EX_IOERR)
                return; /* told */
        progress_end(&im->progress);
        say_error("Cannot write %s: %s", im->failures.path, strerror(-r));
        im->exit_code = EX_IOERR;
}

static void keep_part(Import *im, const void *data, size_t n) {
        const int r = failures_file_write(&im->failures, data, n);

        if (r < 0)
                cannot_write(im, r);
}

static void keep_end_of_line(Import *im) {
        const int r = failures_file_end_line(&im->failures);

        if (r < 0)
                cannot_write(im, r);
}

/* In the form that the input has. */
static int format_item(Import *im, struct json_object *item, Buffer *out) {
        const char *text;

        if (im->csv)
                return csv_record_format(&im->failed_columns, item, out);
        text = json_object_to_json_string_ext(item, JSON_C_TO_STRING_PLAIN |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
        return text ? buffer_appendf(out, "%s\n", text) : -ENOMEM;
}

static void keep_item(Import *im, struct json_object *item, const char *reason) {
        _cleanup_(buffer_done) Buffer line = {};
        _cleanup_free_ char *cut = NULL;
        size_t n = strlen(reason);
        int r;

        if (n > REASON_BYTES_MAX)
                for (n = REASON_BYTES_MAX; n > 0 && (reason[n] & 0xc0) == 0x80;)
                        n--; /* not within a character */
        r = format_string(&cut, "%s%.*s", im->csv ? CSV_ERROR_PREFIX : "", (int) n, reason);
        json_object_object_del(item, "importMode");
        if (r >= 0)
                r = json_add_string(item, "importError", cut);
        if (r >= 0)
                r = format_item(im, item, &line);
        if (r < 0) {
                cannot_write(im, r);
                return;
        }
        failures_file_write(&im->failures, line.data, line.size - 1);
        keep_end_of_line(im);
        explicit_bzero(line.data, line.size);
}

/* rule may be NULL: there is nothing to advise. */
static void keep_failure(Import *im, struct json_object *item, const HubErrorRule *rule,
                         const char *reason) {
        im->n_failed++;
        tell_failure(im, item, rule, reason);
        keep_item(im, item, reason);
}

static bool is_error_of(struct json_object *error, struct json_object *item) {
        const char *id = NULL, *module = NULL, *error_id = NULL, *error_module = NULL;

        if (!json_object_is_type(error, json_type_object))
                return false;
        (void) json_get_string(item, "id", &id, NULL); /* checked when it was read */
        (void) json_get_string(item, "moduleId", &module, NULL);
        (void) json_get_string(error, "deviceId", &error_id, NULL); /* absent is absent */
        (void) json_get_string(error, "moduleId", &error_module, NULL);
        return streq(strempty(error_id), id) && streq(strempty(error_module), strempty(module));
}

/* The error of an item among those of the answer, by its ids; borrowed, or NULL. */
static struct json_object *find_error(struct json_object *errors, struct json_object *item) {
        for (size_t i = 0; errors && i < json_object_array_length(errors); i++)
                if (is_error_of(json_object_array_get_idx(errors, i), item))
                        return json_object_array_get_idx(errors, i);
        return NULL;
}

static int add_to(struct json_object **list, struct json_object *item) {
        if (!*list)
                *list = json_object_new_array();
        if (!*list || json_object_array_add(*list, json_object_get(item)) < 0)
                return -ENOMEM;
        return 0;
}

static void settle_error(Import *im, struct json_object *item, struct json_object *error) {
        _cleanup_(hub_error_done) HubError e = {};
        _cleanup_free_ char *reason = NULL;
        const char *mode = NULL;

        if (hub_error_parse_item(error, &e) < 0 || hub_error_format(&e, &reason) < 0) {
                im->exit_code = say_out_of_memory();
                keep_failure(im, item, NULL, "the hub refuses it");
                return;
        }
        (void) json_get_string(item, "importMode", &mode, NULL); /* ours */
        if (e.rule->exit_code == EXIT_EXISTS && streq(strempty(mode), "create")) {
                if (!im->update_existing)
                        im->n_already++;
                else if (json_add_string(item, "importMode", "update") < 0 ||
                         add_to(&im->again, item) < 0)
                        im->exit_code = say_out_of_memory();
                return;
        }
        if (e.rule->exit_code == EXIT_NOT_FOUND && startswith(strempty(mode), "delete")) {
                im->n_already++;
                return;
        }
        keep_failure(im, item, e.rule, reason);
}

/* Errors that name no item of the call: any that has none may be meant. */
static bool errors_are_unclear(struct json_object *errors, struct json_object *items) {
        for (size_t i = 0; errors && i < json_object_array_length(errors); i++) {
                struct json_object *error = json_object_array_get_idx(errors, i);
                size_t k = 0;

                while (k < json_object_array_length(items) &&
                       !is_error_of(error, json_object_array_get_idx(items, k)))
                        k++;
                if (k == json_object_array_length(items))
                        return true;
        }
        return false;
}

static void settle(Import *im, struct json_object *items, int exit_code, const RegistryAnswer *a) {
        struct json_object *errors = NULL;
        bool unclear;
        char reason[64];

        if (exit_code != EX_OK && a->status == 400 && json_object_is_type(a->body, json_type_object) &&
            json_get_array(a->body, "errors", &errors) <= 0)
                errors = NULL;
        if (exit_code != EX_OK && !errors) {
                /* All of it: whether the call was done is not known, and it can be made again. */
                im->exit_code = exit_code;
                if (a->status > 0)
                        snprintf(reason, sizeof(reason), "the call failed (HTTP %ld)", a->status);
                else
                        snprintf(reason, sizeof(reason), "no answer came: it may be done or not");
        }
        unclear = errors_are_unclear(errors, items);
        for (size_t i = 0; i < json_object_array_length(items); i++) {
                struct json_object *item = json_object_array_get_idx(items, i);
                struct json_object *error = find_error(errors, item);

                if (exit_code != EX_OK && !errors)
                        keep_failure(im, item, NULL, reason);
                else if (error)
                        settle_error(im, item, error);
                else if (unclear)
                        keep_failure(im, item, NULL, "the hub refused some of its call and did not say which");
                else
                        im->n_done++;
        }
        if (unclear) {
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

/* Sends *list, which is taken if that begins. */
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
        r = registry_client_start(im->session.client, &q, on_done, c);
        if (r != EX_OK) {
                free(c);
                return r;
        }
        *c = (Call){ im, TAKE_PTR(*list), im->calls };
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
        im->n_bad++;
        if (im->n_bad > BAD_LINES_TOLD_MAX + 1)
                return;
        progress_end(&im->progress);
        if (im->n_bad > BAD_LINES_TOLD_MAX)
                say_error("More lines cannot be read: all are in %s", im->failures.path);
        else
                say_error("line %" PRIu64 ": %s", im->reader.line, why);
}

/* As it came, to be put right and given again. */
static void keep_bad_line(Import *im, const char *why, const char *line, size_t n) {
        tell_bad_line(im, why);
        keep_part(im, line, n);
        keep_end_of_line(im);
}

/* A line that is too long comes in pieces: the end of a call must not write between them. */
static void on_too_long(const char *data, size_t n, void *userdata) {
        Import *im = userdata;

        wait_for_room(im, 1);
        keep_part(im, data, n);
}

/* The input's own, with a column for the reason. */
static int begin_csv(Import *im, const char *line, size_t n) {
        const bool carriage_return = n > 0 && line[n - 1] == '\r';
        Buffer *header = &im->failures.header;
        const char *why = "";
        int r;

        r = csv_columns_parse(line, n, &im->columns, &why);
        if (r < 0) {
                say_error("line %" PRIu64 ": %s", im->reader.line, why);
                return im->exit_code = EX_DATAERR;
        }
        im->failed_columns = im->columns;
        r = buffer_append(header, line, n - carriage_return);
        if (r >= 0)
                r = csv_columns_add_error(&im->failed_columns, header);
        if (r >= 0)
                r = buffer_append_string(header, carriage_return ? "\r\n" : "\n");
        return r < 0 ? say_out_of_memory() : EX_OK;
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
                if (im->csv)
                        return begin_csv(im, line, n);
        }
        r = im->csv ? csv_record_parse(&im->columns, line, n, ret, &why) :
                      json_record_parse(line, n, ret, &why);
        if (r == -EINVAL)
                keep_bad_line(im, why, line, n);
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

/* A line that is being kept in pieces is kept whole where the rest of it is at hand. */
static bool goes_on(const Import *im) {
        return !stopped(im) || (im->exit_code == EX_OK && im->regular && im->reader.too_long);
}

/* What a stop left of the input, as far as it is in memory. */
static int take_rest(Import *im, const char *p, size_t left) {
        const LineReader *reader = &im->reader;
        int r = 0;

        if (!reader->handed_out && !reader->too_long)
                r = buffer_append(&im->rest, reader->partial.data, reader->partial.size);
        if (r >= 0)
                r = buffer_append(&im->rest, p, left);
        return r < 0 ? say_out_of_memory() : EX_OK;
}

static int read_lines(Import *im) {
        _cleanup_free_ char *block = malloc(65536);
        const char *line, *p = block;
        size_t size, left = 0;
        int r = EX_OK, k;

        if (!block)
                return say_out_of_memory();
        while (r == EX_OK && !im->at_end && goes_on(im)) {
                ssize_t n;

                wait_for_input(im);
                if (!goes_on(im))
                        break;
                n = read(im->fd, block, 65536);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0) {
                        say_error("Cannot read the input: %m");
                        return EX_IOERR;
                }
                im->at_end = n == 0;
                p = block;
                left = (size_t) n;
                while (r == EX_OK && goes_on(im) &&
                       (k = n > 0 ? line_reader_next(&im->reader, &p, &left, &line, &size) :
                                    line_reader_finish(&im->reader, &line, &size)) != 0) {
                        if (k == -EMSGSIZE) {
                                tell_bad_line(im, "it is longer than 256 KiB");
                                keep_end_of_line(im);
                        } else
                                r = k < 0 ? say_out_of_memory() : take_line(im, line, size);
                }
        }
        k = take_rest(im, p, left);
        explicit_bzero(block, 65536);
        return r != EX_OK ? r : k;
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
                        keep_item(im, json_object_array_get_idx(lists[i], k), "not sent");
        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                im->n_not_sent += lists[i] ? json_object_array_length(lists[i]) : 0;
}

static void keep_rest_part(Import *im, const char *data, size_t n) {
        if (n == 0)
                return;
        for (const char *p = data; (p = memchr(p, '\n', (size_t) (data + n - p))); p++)
                im->n_not_sent++;
        keep_part(im, data, n);
        im->failures.within_line = data[n - 1] != '\n';
}

/* What was not read, behind all that was, so that modules stay behind their devices. */
static void keep_unread(Import *im) {
        _cleanup_free_ char *block = malloc(65536);
        const char *end;
        ssize_t n;

        keep_end_of_line(im); /* a line that was too long and whose end never came */
        if (im->n_items + im->n_bad == 0)
                return; /* the whole input is as it was */
        if (!im->regular && !im->at_end) {
                /* Half a line could be read as one that is whole. */
                end = im->rest.size > 0 ? memrchr(im->rest.data, '\n', im->rest.size) : NULL;
                im->rest.size = end ? (size_t) (end + 1 - (const char *) im->rest.data) : 0;
        }
        keep_rest_part(im, (const char *) im->rest.data, im->rest.size);
        while (block && im->regular && !im->at_end && im->exit_code != EX_IOERR &&
               (n = read(im->fd, block, 65536)) != 0) {
                if (n > 0)
                        keep_rest_part(im, block, (size_t) n);
                else if (errno != EINTR) {
                        say_error("Cannot read the input: %m");
                        im->exit_code = EX_IOERR;
                }
        }
        if (block)
                explicit_bzero(block, 65536);
        if (im->failures.within_line)
                im->n_not_sent++;
        keep_end_of_line(im);
}

/* The file of failures takes its place, or goes where nothing has failed. */
static void finish_failures(Import *im) {
        const bool all_read = im->at_end || im->regular;
        const bool good = im->at_end && !stopped(im) && im->reader.line > 0;
        int r;

        r = failures_file_finish(&im->failures, good     ? FAILURES_REMOVE :
                                                all_read ? FAILURES_REPLACE :
                                                           FAILURES_BACK_UP);
        if (r >= 0)
                return;
        cannot_write(im, r);
        if (im->failures.temporary)
                say_error("What could be written is in %s", im->failures.temporary);
}

static int report(Import *im) {
        const usec_t span_usec = now_usec(CLOCK_MONOTONIC) - im->progress.begin_usec;
        char span[FORMAT_TIMESPAN_MAX];

        progress_end(&im->progress);
        finish_failures(im);
        if (im->globals->json)
                printf("{\"done\":%" PRIu64 ",\"already\":%" PRIu64 ",\"failed\":%" PRIu64
                       ",\"unreadable\":%" PRIu64 ",\"notSent\":%" PRIu64 ",\"durationUSec\":%" PRIu64 "}\n",
                       im->n_done, im->n_already, im->n_failed, im->n_bad, im->n_not_sent, span_usec);
        else
                printf("%" PRIu64 " done, %" PRIu64 " were so already, %" PRIu64 " failed, in %s\n",
                       im->n_done, im->n_already, im->n_failed,
                       format_timespan(span, sizeof(span), span_usec));
        (void) fflush(stdout); /* a signal that came ends the process; else finish_output() tells */
        if (im->reader.line == 0 && im->exit_code == EX_OK)
                say_error("The input is empty");
        if (im->n_bad > 0)
                say_error("%" PRIu64 " bad line%s", im->n_bad, im->n_bad == 1 ? "" : "s");
        if (im->failures.stream && im->failures.error == 0)
                say_error("%s in %s, to be given to import again",
                          im->n_failed == 0     ? "What was not sent is" :
                          im->n_not_sent == 0 ? "What failed is" :
                                                "What failed and what was not sent are",
                          im->failures.path);
        if (stopped(im))
                say_error("Stopped; giving the whole input again does no harm%s",
                          im->at_end || im->regular ? "" :
                                                      "; only that has what was not read of standard input");
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
        _cleanup_free_ char *failed_path = NULL;
        struct stat input, failed;
        int r;

        im->fd = standard_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
        if (im->fd < 0) {
                say_error("Cannot read %s: %m", path);
                return EX_NOINPUT;
        }
        r = s->failed_path ? copy_string(&failed_path, s->failed_path) :
                             format_string(&failed_path, "%s.failed", standard_input ? "import" : path);
        if (r < 0)
                return say_out_of_memory();
        if (fstat(im->fd, &input) == 0) {
                im->regular = S_ISREG(input.st_mode);
                /* What was given must still be there when something goes wrong. */
                if (im->regular && stat(failed_path, &failed) == 0 && input.st_dev == failed.st_dev &&
                    input.st_ino == failed.st_ino) {
                        say_error("%s is read and cannot take what fails as well: name another file with --failed",
                                  failed_path);
                        return EX_USAGE;
                }
        }
        r = failures_file_init(&im->failures, failed_path);
        if (r < 0) {
                say_error("--failed: %s: %s", failed_path, strerror(-r));
                return EX_CANTCREAT;
        }
        return EX_OK;
}

static void import_done(Import *im) {
        if (im->fd > STDERR_FILENO)
                safe_close(im->fd);
        line_reader_done(&im->reader);
        json_object_put(im->batch);
        json_object_put(im->again);
        if (im->rest.data)
                explicit_bzero(im->rest.data, im->rest.size); /* it may hold keys */
        buffer_done(&im->rest);
        failures_file_done(&im->failures);
        hub_session_done(&im->session);
}

static int cmd_import(const Verb *verb, Globals *g, int argc, char **argv) {
        ImportSettings s = { .mode = "create", .n_calls = CALLS_DEFAULT };
        _cleanup_(import_done) Import im = {
                .settings = &s, .globals = g, .fd = -EBADF,
                .reader = { .mode = LINE_MODE_NEWLINE, .bytes_max = LINE_BYTES_MAX,
                            .on_too_long = on_too_long },
        };
        int r;

        im.reader.userdata = &im;
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
        keep_unread(&im);
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
