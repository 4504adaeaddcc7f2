#include "emulator/ctl.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>

#include "emulator/ctl-verb.h"
#include "emulator/hub-counter.h"
#include "emulator/hub-ctl.h"
#include "emulator/state-folder.h"
#include "lib/fd-util.h"
#include "lib/hub-code.h"
#include "lib/utf8.h"
#include "lib/varlink-wire.h"

#define READ_BYTES 4096U
#define POLL_MSEC_MAX 3600000U
#define FILE_BYTES_MAX (64U * 1024U)

static int say(int code, const char *format, ...) _printf_(2, 3);
static int say(int code, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void) fputs("iothub-emulator ctl: ", stderr);
        (void) vfprintf(stderr, format, ap);
        (void) fputc('\n', stderr);
        va_end(ap);
        return code;
}

/* The folder becomes the working directory, because a socket's path is short. 0 or an exit code. */
static int connect_emulator(const char *state, int *ret_fd) {
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *path = NULL;
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = HUB_CTL_SOCKET };

        if (state_folder_path(state, &path) < 0)
                return say(EX_OSERR, "out of memory");
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return say(EX_OSERR, "cannot make a socket: %s", strerror(errno));
        if (chdir(path) < 0 || connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0) {
                if (errno == EACCES)
                        return say(EX_NOPERM, "%s belongs to another user", path);
                return say(EX_UNAVAILABLE, "no emulator runs with the state folder %s%s", path,
                           state ? "" : "; --state names another");
        }
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int wait_readable(int fd, usec_t deadline_usec) {
        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                usec_t left = usec_sub(deadline_usec, now_usec(CLOCK_MONOTONIC));
                int r;

                r = poll(&p, 1,
                         deadline_usec == USEC_INFINITY ?
                                         -1 :
                                         (int) MIN(left / USEC_PER_MSEC + (left > 0),
                                                   (usec_t) POLL_MSEC_MAX));
                if (r > 0)
                        return 0;
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r == 0 && left == 0)
                        return -ETIMEDOUT;
        }
}

/* One call and its reply. 0, -ETIMEDOUT, -ECONNRESET, -EPROTO, -ENOMEM or -errno. */
static int call(int fd, const CtlRequest *request, struct json_object **ret) {
        _cleanup_(varlink_reader_done) VarlinkReader reader = { 0 };
        _cleanup_(buffer_done) Buffer b = { 0 };
        usec_t deadline = usec_add(now_usec(CLOCK_MONOTONIC), request->timeout_usec);
        const char *reason;
        int r;

        r = varlink_append_call(&b, request->method, request->parameters, /* more= */ false,
                                /* oneway= */ false);
        if (r >= 0)
                r = write_all(fd, b.data, b.size);
        if (r < 0)
                return r;
        for (;;) {
                uint8_t data[READ_BYTES];
                ssize_t n;

                r = varlink_reader_next(&reader, ret, NULL, &reason);
                if (r != 0)
                        return r > 0 ? 0 : -EPROTO;
                r = wait_readable(fd, deadline);
                if (r < 0)
                        return r;
                n = recv(fd, data, sizeof(data), 0);
                if (n <= 0)
                        return -ECONNRESET;
                r = varlink_reader_feed(&reader, data, (size_t) n);
                if (r < 0)
                        return -EPROTO;
        }
}

static const char *text_of(struct json_object *o, const char *field) {
        const char *s = "";
        size_t n;

        (void) json_get_string(o, field, &s, &n); /* stays empty */
        return s;
}

static uint64_t number_of(struct json_object *o, const char *field) {
        uint64_t v = 0;

        (void) json_get_u64(o, field, &v); /* stays 0 */
        return v;
}

static bool has(struct json_object *o, const char *field) {
        return json_object_object_get_ex(o, field, NULL);
}

static void print_span(const char *before, struct json_object *o, const char *field) {
        char span[FORMAT_TIMESPAN_MAX];

        if (has(o, field))
                printf("%s%s", before, format_timespan(span, sizeof(span), number_of(o, field)));
}

static void print_trouble(struct json_object *t) {
        printf("  %-14s %s", text_of(t, "kind"), has(t, "device") ? text_of(t, "device") : "all");
        if (has(t, "count"))
                printf(", %" PRIu64 " left", number_of(t, "count"));
        if (has(t, "calls"))
                printf(", %s", text_of(t, "calls"));
        if (streq(text_of(t, "kind"), "https-answer"))
                printf(", %" PRIu64 " %s%s", number_of(t, "code"),
                       strempty(hub_code_to_name((unsigned) number_of(t, "code"))),
                       has(t, "done") ? " though done" : "");
        else if (has(t, "code") && number_of(t, "code") == 0)
                printf(", without CONNACK");
        else if (has(t, "code"))
                printf(", CONNACK %" PRIu64, number_of(t, "code"));
        if (has(t, "retryAfterSec"))
                printf(", Retry-After %" PRIu64, number_of(t, "retryAfterSec"));
        print_span(", one every ", t, "intervalUSec");
        print_span(has(t, "intervalUSec") ? ", cut beyond " : ", late by ", t, "delayUSec");
        print_span(", one CONNECT every ", t, "connectIntervalUSec");
        if (number_of(t, "burst") > 0)
                printf(", %" PRIu64 " at once", number_of(t, "burst"));
        if (has(t, "mark"))
                printf(", \"%s\"", text_of(t, "mark"));
        if (has(t, "certificate"))
                printf(", %s", text_of(t, "certificate"));
        print_span(", ends in ", t, "endsInUSec");
        putchar('\n');
}

static int print_status(const CtlRequest *request, struct json_object *status) {
        struct json_object *troubles, *counters;

        if (request->json) {
                puts(json_object_to_json_string_ext(
                                status, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                return EX_OK;
        }
        if (json_get_array(status, "troubles", &troubles) <= 0 ||
            json_get_object(status, "counters", &counters) <= 0)
                return say(EX_PROTOCOL, "the emulator is of another version");
        puts(json_object_array_length(troubles) > 0 ? "Trouble:" : "No trouble.");
        for (size_t i = 0; i < json_object_array_length(troubles); i++)
                print_trouble(json_object_array_get_idx(troubles, i));
        printf("Connections: %" PRIu64 "\nSince the start:\n", number_of(status, "connections"));
        for (HubCounter i = 0; i < _HUB_COUNTER_MAX; i++)
                printf("  %-12s %" PRIu64 "\n", hub_counter_to_string(i),
                       number_of(counters, hub_counter_to_string(i)));
        return EX_OK;
}

static int print_authorities(const CtlRequest *request, struct json_object *answer) {
        struct json_object *list;

        if (json_get_array(answer, "authorities", &list) <= 0)
                return EX_OK; /* of add and remove */
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                struct json_object *o = json_object_array_get_idx(list, i);

                if (request->json)
                        puts(json_object_to_json_string_ext(
                                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
                else
                        printf("%s  until %s  %s\n", text_of(o, "thumbprint"), text_of(o, "notAfter"),
                               text_of(o, "subject"));
        }
        return EX_OK;
}

static int print_answer(const CtlRequest *request, struct json_object *answer) {
        if (streq(request->verb, "status"))
                return print_status(request, answer);
        if (streq(request->verb, "ca"))
                return print_authorities(request, answer);
        if (streq(request->verb, "send"))
                printf("%" PRIu64 "\n", number_of(answer, "sequence"));
        else if (streq(request->verb, "wait"))
                printf("%" PRIu64 "\n", number_of(answer, "value"));
        else if (streq(request->verb, "cut")) {
                const char *device = text_of(request->parameters, "device");

                if (*device && number_of(answer, "connections") == 0)
                        return say(EXIT_FAILURE, "%s has no connection", device);
                printf("%" PRIu64 " cut\n", number_of(answer, "connections"));
        }
        return EX_OK;
}

static int tell_error(const CtlRequest *request, const char *error, struct json_object *answer) {
        if (streq(error, "io.iothubd.emulator.InvalidTrouble"))
                return say(EX_USAGE, "%s: the emulator does not take the value of \"%s\"",
                           request->verb, text_of(answer, "field"));
        if (streq(error, "io.iothubd.emulator.TooManyTroubles"))
                return say(EX_UNAVAILABLE,
                           "%s: more than %" PRIu64 " troubles; end some: ctl clear", request->verb,
                           number_of(answer, "max"));
        if (streq(error, "io.iothubd.emulator.MessageRefused"))
                return say(EXIT_FAILURE, "%s: %s: %s", request->verb,
                           text_of(request->parameters, "device"), text_of(answer, "reason"));
        if (streq(error, "io.iothubd.emulator.AuthorityRefused"))
                return say(EXIT_FAILURE, "%s: %s%s%s", request->verb, strempty(request->file),
                           request->file ? ": " : "", text_of(answer, "reason"));
        return say(EX_PROTOCOL, "%s: the emulator answers %s %s", request->verb, error,
                   text_of(answer, "reason"));
}

/* Before the working directory changes. 0 or an exit code. */
static int add_file(const CtlRequest *request) {
        _cleanup_free_ char *text = NULL;
        size_t n;
        int r;

        if (!request->file)
                return 0;
        r = read_file(request->file, FILE_BYTES_MAX, &text, &n);
        if (r < 0)
                return say(EX_NOINPUT, "%s: cannot read %s: %s", request->verb, request->file,
                           strerror(-r));
        if (!utf8_is_valid(text, n) || memchr(text, '\0', n))
                return say(EX_DATAERR, "%s: %s is no text; a certificate in PEM is needed",
                           request->verb, request->file);
        return json_add_string(request->parameters, request->file_field, text) < 0 ?
                               say(EX_OSERR, "out of memory") :
                               0;
}

static int run(const CtlRequest *request) {
        _cleanup_json_ struct json_object *message = NULL, *none = json_object_new_object();
        _cleanup_close_ int fd = -EBADF;
        struct json_object *answer = none;
        int r;

        r = add_file(request);
        if (r != 0)
                return r;
        r = connect_emulator(request->state, &fd);
        if (r != 0)
                return r;
        r = call(fd, request, &message);
        if (r == -ETIMEDOUT)
                return say(EX_TEMPFAIL, "%s: not within the time", request->verb);
        if (r == -EPROTO)
                return say(EX_PROTOCOL, "what answers is no emulator");
        if (r < 0)
                return say(EX_UNAVAILABLE, "the emulator has ended");
        (void) json_get_object(message, "parameters", &answer); /* else there are none */
        if (has(message, "error"))
                return tell_error(request, text_of(message, "error"), answer);
        r = print_answer(request, answer);
        if (r == EX_OK && fflush(stdout) != 0)
                return say(EX_IOERR, "cannot write to standard output: %s", strerror(errno));
        return r;
}

int ctl_main(int argc, char **argv) {
        _cleanup_(ctl_request_done) CtlRequest request = { 0 };
        _cleanup_free_ char *text = NULL;
        int r;

        r = ctl_parse(argc, argv, &request, &text);
        if (r == -EINVAL)
                return say(EX_USAGE, "%s\niothub-emulator ctl --help shows the verbs", text);
        if (r < 0)
                return say(EX_OSERR, "out of memory");
        if (!request.verb) {
                (void) fputs(ctl_help(), stdout);
                return EX_OK;
        }
        return run(&request);
}
