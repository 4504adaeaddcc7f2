#include <stdio.h>

#include "lib/hub-message.h"
#include "client/line-reader.h"
#include "client/output.h"
#include "client/send-loop.h"
#include "client/verb.h"

#define READ_BYTES (128U * 1024U)

typedef struct SendSettings {
        bool nul, whole, wait, wait_when_full;
        usec_t timeout_usec;
        MessageFields fields;
} SendSettings;

static int parse_lane(const char *value, void *field) {
        if (!streq(value, "urgent") && !streq(value, "normal") && !streq(value, "bulk"))
                return -EINVAL;
        *(const char **) field = value;
        return 0;
}

static int parse_when_full(const char *value, void *field) {
        if (!streq(value, "fail") && !streq(value, "wait"))
                return -EINVAL;
        *(bool *) field = streq(value, "wait");
        return 0;
}

static const Option send_options[] = {
        { "null", 'z', NULL, "Messages on standard input end with a NUL byte", option_flag,
          offsetof(SendSettings, nul) },
        { "whole", 0, NULL, "All of standard input is one message", option_flag,
          offsetof(SendSettings, whole) },
        { "message-id", 0, "TEXT", "Message id; %n is a counter from 1", option_string,
          offsetof(SendSettings, fields.message_id) },
        { "correlation-id", 0, "TEXT", "Correlation id; %n as above", option_string,
          offsetof(SendSettings, fields.correlation_id) },
        { "property", 'p', "NAME=VALUE", "Application property; may be repeated", option_property,
          offsetof(SendSettings, fields.properties) },
        { "content-type", 0, "TYPE", "Such as application/json", option_string,
          offsetof(SendSettings, fields.content_type) },
        { "content-encoding", 0, "NAME", "Such as utf-8", option_string,
          offsetof(SendSettings, fields.content_encoding) },
        { "lane", 0, "urgent|normal|bulk", "What goes first when much waits (default: normal)",
          parse_lane, offsetof(SendSettings, fields.lane) },
        { "ttl", 0, "SPAN", "Dropped as expired when not delivered that long, such as 10min",
          option_ttl, offsetof(SendSettings, fields.time_to_live_usec) },
        { "wait", 'w', NULL, "Wait until the hub confirmed each, and print what became of it",
          option_flag, offsetof(SendSettings, wait) },
        { "when-full", 0, "fail|wait", "What to do while the outbox is full (default: fail)",
          parse_when_full, offsetof(SendSettings, wait_when_full) },
        { "timeout", 0, "SPAN",
          "Give up after that long without progress (default: 5s until\n"
          "iothubd answers for the first time, 5min when it is lost later)",
          option_timespan, offsetof(SendSettings, timeout_usec) },
        {},
};

typedef struct Input {
        LineReader lines;
        bool one_id; /* --message-id without a counter */
        uint64_t n_added;
        char *argument; /* the message, or NULL: read standard input */
        char data[READ_BYTES];
} Input;

static int add(Sender *s, Input *in, const char *line, size_t size) {
        int r;

        /* Consumers drop what comes twice under one id. */
        if (++in->n_added == 2 && in->one_id)
                say_error("--message-id: all messages have the same id; %%n makes them differ");
        r = sender_add(s, in->lines.line, line, size);
        if (r == -EMSGSIZE) {
                sender_refuse(s, in->lines.line, NULL,
                              "with its properties it is too long for one call");
                return 0;
        }
        if (r < 0)
                (void) say_out_of_memory();
        return r;
}

static int refuse_long(Sender *s, const Input *in) {
        char reason[128];

        snprintf(reason, sizeof(reason), "longer than %u bytes, the most that the hub takes",
                 HUB_MESSAGE_BYTES_MAX);
        sender_refuse(s, in->lines.line, NULL, reason);
        return 0;
}

static int add_lines(Sender *s, Input *in, const char *data, size_t size) {
        const char *line;
        size_t n;
        int r;

        for (;;) {
                r = line_reader_next(&in->lines, &data, &size, &line, &n);
                if (r == 0)
                        return 0;
                if (r == -EMSGSIZE)
                        r = refuse_long(s, in);
                else if (r > 0)
                        r = add(s, in, line, n);
                else
                        (void) say_out_of_memory();
                if (r < 0)
                        return r;
        }
}

static int add_rest(Sender *s, Input *in) {
        const char *line;
        size_t n;
        int r;

        r = line_reader_finish(&in->lines, &line, &n);
        if (r == -EMSGSIZE)
                return refuse_long(s, in);
        return r > 0 ? add(s, in, line, n) : 0;
}

static int read_input(Sender *s, void *userdata) {
        Input *in = userdata;
        ssize_t n;
        int r;

        if (in->argument) {
                r = add_lines(s, in, in->argument, strlen(in->argument));
                return r < 0 ? r : add_rest(s, in);
        }

        n = read(STDIN_FILENO, in->data, sizeof(in->data));
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return 1;
        if (n < 0) {
                r = -errno;
                say_error("Cannot read standard input: %m");
                return r;
        }
        if (n == 0)
                return add_rest(s, in);
        r = add_lines(s, in, in->data, (size_t) n);
        return r < 0 ? r : 1;
}

static usec_t argument_due(void *userdata) {
        return ((Input *) userdata)->argument ? 0 : USEC_INFINITY;
}

static int join_arguments(int argc, char **argv, char **ret) {
        _cleanup_(buffer_done) Buffer b = {};
        int r = 0;

        for (int i = 0; r >= 0 && i < argc; i++) {
                if (i > 0)
                        r = buffer_append(&b, " ", 1);
                if (r >= 0)
                        r = buffer_append_string(&b, argv[i]);
        }
        if (r >= 0)
                r = buffer_append(&b, "", 1);
        if (r < 0)
                return r;
        *ret = (char *) TAKE_PTR(b.data);
        return 0;
}

typedef struct Report {
        const MessageFields *fields;
        bool json, wait;
        bool begun; /* the headers are printed */
} Report;

/* "site=roof,floor=3" */
static int format_properties(const PropertyBag *bag, char **ret) {
        _cleanup_(buffer_done) Buffer b = {};
        int r = 0;

        for (size_t i = 0; r >= 0 && i < bag->n_items; i++)
                r = buffer_appendf(&b, "%s%s=%s", i > 0 ? "," : "", bag->items[i].name,
                                   strempty(bag->items[i].value));
        if (r >= 0)
                r = buffer_append(&b, "", 1);
        if (r < 0)
                return r;
        *ret = (char *) TAKE_PTR(b.data);
        return 0;
}

static int end_to_json(const Confirmation *c, const char *correlation_id,
                       const PropertyBag *properties, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object(), *p = NULL;
        int r;

        r = o ? 0 : -ENOMEM;
        if (r >= 0 && c->has_sequence_number)
                r = json_add_u64(o, "sequenceNumber", c->sequence_number);
        if (r >= 0)
                r = json_add_string(o, "messageId", c->message_id);
        if (r >= 0)
                r = json_add_string(o, "correlationId", correlation_id);
        if (r >= 0 && properties->n_items > 0) {
                p = json_object_new_object();
                for (size_t i = 0; p && r >= 0 && i < properties->n_items; i++)
                        r = json_add_string(p, properties->items[i].name,
                                            strempty(properties->items[i].value));
                if (r >= 0)
                        r = json_add(o, "properties", TAKE_PTR(p));
        }
        if (r >= 0)
                r = json_add_string(o, "state", c->state);
        if (r >= 0)
                r = json_add_string(o, "reason", c->reason);
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r < 0 ? r : 0;
}

static int print_end(const Report *report, const Confirmation *c) {
        _cleanup_free_ char *correlation_id = NULL, *properties = NULL, *line = NULL, *safe = NULL;
        _cleanup_json_ struct json_object *o = NULL;
        const MessageFields *f = report->fields;
        int r = 0;

        if (f->correlation_id)
                r = counter_text_expand(f->correlation_id, c->number, &correlation_id);
        if (r < 0)
                return r;
        if (report->json) {
                r = end_to_json(c, correlation_id, &f->properties, &o);
                if (r >= 0)
                        print_json(o);
                return r;
        }
        r = format_properties(&f->properties, &properties);
        if (r < 0)
                return r;
        if (asprintf(&line, "%-10" PRIu64 "  %-24s  %-24s  %-24s  %s%s%s", c->sequence_number,
                     c->message_id ? c->message_id : "-", correlation_id ? correlation_id : "-",
                     *properties ? properties : "-", c->state, c->reason ? ": " : "",
                     strempty(c->reason)) < 0) {
                line = NULL;
                return -ENOMEM;
        }
        r = printable(line, &safe);
        if (r >= 0)
                puts(safe);
        return r;
}

static void print_header(Report *report) {
        if (!report->json && !report->begun)
                printf("%-10s  %-24s  %-24s  %-24s  %s\n", "SEQUENCE", "MESSAGE ID",
                       "CORRELATION ID", "PROPERTIES", "RESULT");
        report->begun = true;
}

static void on_end(const Confirmation *c, void *userdata) {
        print_header(userdata);
        if (print_end(userdata, c) < 0)
                (void) say_out_of_memory(); /* the line is missing; the totals are right */
}

static void print_totals(const Report *report, const SendResult *result) {
        const ConfirmationTotals *t = &result->totals;

        if (report->json && !report->wait) {
                printf("{\"accepted\":%" PRIu64 ",\"refused\":%" PRIu64 "}\n", result->n_accepted,
                       result->n_refused);
                return;
        }
        if (report->json) {
                printf("{\"accepted\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"confirmed\":%" PRIu64
                       ",\"expired\":%" PRIu64 ",\"dropped\":%" PRIu64 ",\"rejected\":%" PRIu64
                       ",\"unknown\":%" PRIu64 "}\n",
                       result->n_accepted, result->n_refused, t->confirmed, t->expired, t->dropped,
                       t->rejected, t->unknown);
                return;
        }
        printf("%" PRIu64 " of %" PRIu64 " confirmed", t->confirmed, result->n_accepted);
        if (t->expired > 0)
                printf(", %" PRIu64 " expired", t->expired);
        if (t->dropped > 0)
                printf(", %" PRIu64 " dropped", t->dropped);
        if (t->rejected > 0)
                printf(", %" PRIu64 " rejected", t->rejected);
        if (t->unknown > 0)
                printf(", %" PRIu64 " ended but unknown how", t->unknown);
        putchar('\n');
}

static void tell_result(const SendResult *result, const Input *in) {
        if (in->lines.n_empty > 0)
                say_error("%" PRIu64 " empty line%s skipped", in->lines.n_empty,
                          in->lines.n_empty == 1 ? "" : "s");
        if (result->n_refused > 0)
                say_error("%" PRIu64 " refused, %" PRIu64 " accepted", result->n_refused,
                          result->n_accepted);
        else if (result->signal > 0)
                say_error("Stopped; %" PRIu64 " accepted", result->n_accepted);
}

static int check_settings(const SendSettings *s, bool has_arguments) {
        _cleanup_free_ char *field = NULL;
        const char *reason;
        int r;

        if ((s->nul || s->whole) && has_arguments) {
                say_error("-z and --whole concern standard input; the message is in the arguments already");
                return EX_USAGE;
        }
        if (s->nul && s->whole) {
                say_error("-z and --whole exclude each other");
                return EX_USAGE;
        }
        r = message_fields_check(&s->fields, &field, &reason);
        if (r == -EINVAL || r == -EMSGSIZE) {
                say_error("%s: %s", field, reason);
                return EX_USAGE;
        }
        return r < 0 ? say_out_of_memory() : EX_OK;
}

/* Where confirmations are waited for, each message needs an id that we know, to ask for it after a
 * lost connection: the time and the process id make the run's ids its own. */
static int make_message_id(SendSettings *s, char **ret) {
        char *id;

        if (!s->wait || s->fields.message_id)
                return 0;
        if (asprintf(&id, "%" PRIx64 "-%x-%%n", now_usec(CLOCK_REALTIME), (unsigned) getpid()) < 0)
                return -ENOMEM;
        s->fields.message_id = *ret = id;
        return 0;
}

static int run(const Globals *g, SendSettings *s, Input *in) {
        _cleanup_(message_template_freep) MessageTemplate *template = NULL;
        _cleanup_free_ char *made_id = NULL;
        Report report = { &s->fields, g->json, s->wait };
        const bool at_terminal = !in->argument && isatty(STDIN_FILENO);
        SenderOptions sender = {
                .socket_path = g->socket_path,
                .wait_when_full = s->wait_when_full,
                .timeout_usec = s->timeout_usec,
        };
        SendLoopOptions options = {
                .sender = &sender,
                .fields = &s->fields,
                .wait = s->wait,
                .on_end = on_end,
                .userdata = &report,
        };
        SendSource source = {
                .fd = in->argument ? -1 : STDIN_FILENO,
                .due = argument_due,
                .produce = read_input,
                .userdata = in,
        };
        SendResult result = {};
        int r;

        r = make_message_id(s, &made_id);
        if (r >= 0)
                r = message_template_new(&s->fields, &template);
        if (r < 0)
                return say_out_of_memory();
        sender.template = template;

        /* For long work that somebody watches, where the lines would not be torn apart. */
        options.progress = isatty(STDERR_FILENO) && !at_terminal && !in->argument &&
                           !(s->wait && isatty(STDOUT_FILENO));

        if (at_terminal)
                fputs("Type messages, one a line; Ctrl-D ends.\n", stderr);

        r = send_loop_run(&options, &source, &result);
        if (r < 0)
                return r == -ENOMEM ? EX_OSERR : EX_IOERR;
        if ((s->wait || g->json) && (result.exit_code == EX_OK || result.n_accepted > 0))
                print_totals(&report, &result);
        (void) fflush(stdout); /* finish_output() tells an error */
        tell_result(&result, in);
        return send_loop_exit(&result);
}

static int cmd_send(const Verb *verb, Globals *g, int argc, char **argv) {
        SendSettings s = {
                .timeout_usec = USEC_INFINITY,
                .fields.time_to_live_usec = USEC_INFINITY,
        };
        _cleanup_free_ Input *in = NULL;
        int r;

        in = calloc(1, sizeof(*in));
        if (!in)
                return say_out_of_memory();
        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0) {
                property_bag_done(&s.fields.properties);
                return verb_parse_exit_code(r);
        }

        r = check_settings(&s, argc > 0);
        if (r == EX_OK) {
                in->lines.bytes_max = HUB_MESSAGE_BYTES_MAX;
                in->lines.mode = s.whole || argc > 0 ? LINE_MODE_WHOLE :
                                 s.nul               ? LINE_MODE_NUL :
                                                       LINE_MODE_NEWLINE;
                in->one_id = s.fields.message_id && !counter_text_counts(s.fields.message_id);
                if (argc > 0 && join_arguments(argc, argv, &in->argument) < 0)
                        r = say_out_of_memory();
                else
                        r = run(g, &s, in);
        }
        line_reader_done(&in->lines);
        free(in->argument);
        property_bag_done(&s.fields.properties);
        return r;
}

const Verb verb_send = {
        .name = "send",
        .arguments = "[TEXT...]",
        .arguments_max = -1,
        .summary = "Send the text, or each line of standard input, as a message",
        .description = "Arguments are joined with spaces into one message. Exit code 0 means that\n"
                       "every line was accepted: it is safe on disk, and survives a power cut.\n"
                       "Faulty lines are told and skipped (exit code 65); a full outbox ends with 75.",
        .options = send_options,
        .run = cmd_send,
};
