/* The device of the tutorial: an anemometer that isn't there. It takes the way of every other
 * reading. */
#include <sys/random.h>
#include <sysexits.h>

#include "client/daemon-client.h"
#include "client/output.h"
#include "client/send-loop.h"
#include "client/simulation.h"
#include "client/verb.h"

#define TEMPLATE_DEFAULT "{\"deviceId\":\"%d\",\"windSpeed\":%w}"
#define CORRELATION_ID "correlation_"
#define PROPERTY_NAME "property_name"
#define PROPERTY_VALUE "property_"
#define STATUS_TIMEOUT_USEC (5 * USEC_PER_SEC)

typedef struct SimulateSettings {
        uint64_t count; /* 0: no end */
        usec_t interval_usec, timeout_usec, time_to_live_usec;
        const char *template;
} SimulateSettings;

static const Option simulate_options[] = {
        { "count", 'n', "N", "End after N messages (default: at Ctrl-C)", option_count,
          offsetof(SimulateSettings, count) },
        { "interval", 0, "SPAN", "Time between messages (default: 1s)", option_timespan,
          offsetof(SimulateSettings, interval_usec) },
        { "template", 0, "TEXT",
          "The message: %d device id, %w wind speed, %n counter, %t time,\n"
          "%% percent sign (default: " TEMPLATE_DEFAULT ")",
          option_string, offsetof(SimulateSettings, template) },
        { "ttl", 0, "SPAN", "A message expires when not delivered that long, such as 10s",
          option_ttl, offsetof(SimulateSettings, time_to_live_usec) },
        { "timeout", 0, "SPAN", "Give up after that long without a confirmation (default: never)",
          option_timespan, offsetof(SimulateSettings, timeout_usec) },
        {},
};

typedef struct Simulation {
        const Globals *globals;
        const SimulateSettings *settings;
        char *device;
        uint64_t n; /* made so far */
        uint64_t n_confirmed;
        usec_t next_at;
} Simulation;

/* What the daemon says about itself: the device id once, the send status after each message. Where
 * the daemon is away, the sender tells it. */
static int ask_status(const Globals *g, const char *field, char **ret) {
        _cleanup_(daemon_connection_freep) DaemonConnection *c = NULL;
        _cleanup_(daemon_reply_done) DaemonReply reply = {};
        const char *text;
        int r;

        r = daemon_connection_open(g->socket_path, &c);
        if (r >= 0)
                r = daemon_call(c, "io.iothubd.GetStatus", NULL,
                                usec_add(now_usec(CLOCK_MONOTONIC), STATUS_TIMEOUT_USEC), &reply);
        if (r < 0)
                return r;
        if (reply.error || json_get_string(reply.parameters, field, &text, NULL) <= 0)
                return -ENODATA;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

/* "sending    message_1: value", or with name as the value's field in JSON. more: what follows, of
 * either form. */
static void print_event(const Simulation *m, const char *event, uint64_t number, const char *name,
                        const char *value, const char *more) {
        _cleanup_(buffer_done) Buffer b = {};
        _cleanup_free_ char *safe = NULL;

        if (m->globals->json) {
                if (buffer_appendf(&b,
                                   "{\"event\":\"%s\",\"messageId\":\"message_%" PRIu64
                                   "\",\"%s\":\"",
                                   event, number, name) < 0 ||
                    json_escape_append(&b, value, strlen(value)) < 0 ||
                    buffer_appendf(&b, "\"%s}", strempty(more)) < 0 || buffer_append(&b, "", 1) < 0)
                        return;
                puts((const char *) b.data);
                return;
        }
        if (buffer_appendf(&b, "%-10s message_%" PRIu64 ": %s%s", event, number, value,
                           strempty(more)) < 0 ||
            buffer_append(&b, "", 1) < 0 || printable((const char *) b.data, &safe) < 0)
                return;
        puts(safe);
}

/* As the tutorial's confirmation does: with the correlation id, the property, and how many so far. */
static void print_result(Simulation *m, const Confirmation *c) {
        _cleanup_(buffer_done) Buffer more = {};
        const char *reason = strempty(c->reason);
        int r;

        m->n_confirmed += streq(c->state, "confirmed");
        if (m->globals->json) {
                r = buffer_appendf(&more,
                                   ",\"correlationId\":\"" CORRELATION_ID "%" PRIu64
                                   "\",\"properties\":{\"" PROPERTY_NAME "\":\"" PROPERTY_VALUE
                                   "%" PRIu64 "\"},\"totalConfirmed\":%" PRIu64,
                                   c->number, c->number, m->n_confirmed);
                if (r >= 0 && *reason)
                        r = buffer_append_string(&more, ",\"reason\":\"");
                if (r >= 0 && *reason)
                        r = json_escape_append(&more, reason, strlen(reason));
                if (r >= 0 && *reason)
                        r = buffer_append_string(&more, "\"");
        } else
                r = buffer_appendf(&more,
                                   "%s%s (" CORRELATION_ID "%" PRIu64 ", " PROPERTY_NAME
                                   "=" PROPERTY_VALUE "%" PRIu64 ", %" PRIu64 " confirmed so far)",
                                   *reason ? ": " : "", reason, c->number, c->number,
                                   m->n_confirmed);
        if (r >= 0)
                r = buffer_append(&more, "", 1);
        if (r >= 0)
                print_event(m, "result", c->number, "state", c->state, (const char *) more.data);
}

static void print_send_status(const Simulation *m, uint64_t number) {
        _cleanup_free_ char *status = NULL;

        if (ask_status(m->globals, "sendStatus", &status) >= 0)
                print_event(m, "status", number, "sendStatus", status, NULL);
}

static usec_t due(void *userdata) {
        return ((Simulation *) userdata)->next_at;
}

static double random_unit(void) {
        uint32_t x = 0;

        (void) getrandom(&x, sizeof(x), 0); /* 4 bytes never fail once the pool is up */
        return x / 4294967296.0;
}

static int produce(Sender *s, void *userdata) {
        Simulation *m = userdata;
        _cleanup_free_ char *body = NULL;
        int r;

        r = simulation_expand(m->settings->template,
                              &(SimulationValues){
                                              .device = m->device,
                                              .wind_speed = simulation_wind_speed(random_unit()),
                                              .number = m->n + 1,
                                              .realtime_usec = now_usec(CLOCK_REALTIME),
                              },
                              &body);
        if (r >= 0)
                r = sender_add(s, m->n + 1, body, strlen(body));
        if (r == -EMSGSIZE)
                say_error("--template: the message is too long");
        else if (r < 0)
                (void) say_out_of_memory();
        if (r < 0)
                return r;
        m->n++;
        print_event(m, "sending", m->n, "body", body, NULL);
        m->next_at = usec_add(now_usec(CLOCK_MONOTONIC), m->settings->interval_usec);
        return m->settings->count == 0 || m->n < m->settings->count;
}

static void on_end(const Confirmation *c, void *userdata) {
        print_result(userdata, c);
        print_send_status(userdata, c->number);
}

static int run(Simulation *m, const MessageFields *fields) {
        _cleanup_(message_template_freep) MessageTemplate *template = NULL;
        SenderOptions sender = {
                .socket_path = m->globals->socket_path,
                .wait_when_full = true, /* as a device would */
                .timeout_usec = m->settings->timeout_usec,
        };
        SendLoopOptions options = {
                .sender = &sender,
                .fields = fields,
                .wait = true,
                .on_end = on_end,
                .userdata = m,
        };
        SendSource source = { .fd = -1, .due = due, .produce = produce, .userdata = m };
        SendResult result = {};
        int r;

        if (message_template_new(fields, &template) < 0)
                return say_out_of_memory();
        sender.template = template;
        r = send_loop_run(&options, &source, &result);
        if (r < 0)
                return r == -EMSGSIZE ? EX_USAGE : EX_OSERR;
        if (result.exit_code != EX_OK && result.n_accepted == 0)
                return result.exit_code; /* it was told why */
        if (m->globals->json)
                printf("{\"event\":\"end\",\"accepted\":%" PRIu64 ",\"confirmed\":%" PRIu64 "}\n",
                       result.n_accepted, result.totals.confirmed);
        else
                printf("%" PRIu64 " of %" PRIu64 " confirmed\n", result.totals.confirmed,
                       result.n_accepted);
        return send_loop_exit(&result);
}

static int cmd_simulate(const Verb *verb, Globals *g, int argc, char **argv) {
        SimulateSettings s = {
                .interval_usec = USEC_PER_SEC,
                .timeout_usec = USEC_INFINITY,
                .time_to_live_usec = USEC_INFINITY,
                .template = TEMPLATE_DEFAULT,
        };
        Simulation m = { .globals = g, .settings = &s };
        MessageFields fields = {
                .message_id = "message_%n",
                .correlation_id = CORRELATION_ID "%n",
                .content_type = "application/json",
                .content_encoding = "utf-8",
                .property_counters = true,
        };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        fields.time_to_live_usec = s.time_to_live_usec;
        r = property_bag_add(&fields.properties, PROPERTY_NAME, PROPERTY_VALUE "%n");
        if (r >= 0 && ask_status(g, "device", &m.device) < 0) {
                /* It has no credentials yet; or there is no daemon, which the sender will tell. */
                m.device = strdup("simulated");
                r = m.device ? 0 : -ENOMEM;
        }
        r = r < 0 ? say_out_of_memory() : run(&m, &fields);
        free(m.device);
        property_bag_done(&fields.properties);
        return r;
}

const Verb verb_simulate = {
        .name = "simulate",
        .summary = "Be the tutorial's device: send wind speeds, wait for their confirmations",
        .description = "Messages have the ids message_N and correlation_N and a property.",
        .options = simulate_options,
        .run = cmd_simulate,
};
