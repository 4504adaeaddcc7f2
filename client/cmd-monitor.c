/* Shows the events that arrive at a hub. A connection leads, over the hub's redirect, to its events
 * endpoint; when it is lost, the next one goes on where the readers of the partitions are. */
#include "lib/string-util.h"
#include "client/amqp-cbs.h"
#include "client/amqp-endpoint.h"
#include "client/amqp-receiver.h"
#include "client/amqp-retry.h"
#include "client/event-filter.h"
#include "client/event-output.h"
#include "client/identity.h"
#include "client/login.h"
#include "client/output.h"

#define WHAT "Cannot read the events"
#define LOOKUP_TIMEOUT_USEC (10 * USEC_PER_SEC)
#define GROUP_LENGTH_MAX 128U

typedef struct MonitorSettings {
        const char *group, *from, *properties, *content;
        uint64_t count;
        usec_t timeout_usec;
} MonitorSettings;

static const Option monitor_options[] = {
        { "from", 0, "WHEN",
          "From where on: now (the default), earliest, an age such as 10min,\n"
          "or a time such as \"2026-11-25 08:00\"",
          option_string, offsetof(MonitorSettings, from) },
        { "consumer-group", 0, "NAME", "Read as that consumer group (default: $Default)",
          option_path, offsetof(MonitorSettings, group) },
        { "properties", 0, "KINDS",
          "Which to show: system, application, annotations, with commas between, or all",
          option_string, offsetof(MonitorSettings, properties) },
        { "content", 0, "auto|json|text|base64", "How to show bodies (default: auto)",
          option_string, offsetof(MonitorSettings, content) },
        { "count", 'n', "N", "End after N events", option_count, offsetof(MonitorSettings, count) },
        { "timeout", 0, "SPAN", "End when no event came for that long", option_ttl,
          offsetof(MonitorSettings, timeout_usec) },
        {},
};

typedef struct Monitor {
        const Globals *globals;
        const MonitorSettings *settings;
        EventFormat format;
        char **devices;
        size_t n_devices;

        ConnectionString hub;
        EventsLogin events; /* as given, or as found by the hub's redirect */
        bool redirected;
        char *network_host; /* where to connect, if not to events.host */

        AmqpLoop loop;
        AmqpConnection *connection;
        AmqpCbs cbs;
        EventReceivers *receivers;

        uint64_t n_shown, n_others;
        usec_t begun_usec, last_shown_usec; /* CLOCK_MONOTONIC */
        AmqpRetry retry;
} Monitor;

static bool is_finished(const Monitor *m) {
        return m->settings->count > 0 && m->n_shown >= m->settings->count;
}

static bool wants_more(void *userdata) {
        const Monitor *m = userdata;

        return !is_finished(m) && output_buffer_pending(&m->loop.output) < OUTPUT_BUFFER_FULL;
}

static int on_event(const Event *e, void *userdata) {
        Monitor *m = userdata;

        if (!event_filter_matches(m->devices, m->n_devices, e)) {
                m->n_others++;
                return 0;
        }
        m->n_shown++;
        return event_format(e, &m->format, &m->loop.output.data);
}

/* ---- one connection ---- */

/* Puts what the hub's redirect said into the login for the events. The policy is the hub's. */
static int take_endpoint(Monitor *m, AmqpEndpoint *e) {
        EventsLogin l = { .port = e->port };
        int r;

        r = copy_string(&l.key_name, m->hub.shared_access_key_name);
        if (r >= 0)
                r = copy_string(&l.key, m->hub.shared_access_key);
        if (r < 0) {
                events_login_done(&l);
                return r;
        }
        l.host = TAKE_PTR(e->name);
        l.entity = TAKE_PTR(e->entity);
        events_login_done(&m->events);
        m->events = l;
        free(m->network_host);
        m->network_host = TAKE_PTR(e->host);
        return 0;
}

static int follow_redirect(Monitor *m) {
        _cleanup_(amqp_endpoint_done) AmqpEndpoint endpoint = {};
        int r;

        r = amqp_connect_hub(&m->loop, m->globals, &m->hub, &m->connection);
        if (r >= 0)
                r = amqp_endpoint_find(&m->loop, m->connection, &endpoint);
        if (r < 0)
                return r;
        amqp_connection_trace(m->connection, "* The events are at %s:%u, %s", endpoint.host,
                              endpoint.port, endpoint.entity);
        m->connection = amqp_connection_free(m->connection);
        return take_endpoint(m, &endpoint);
}

static int attach_readers(Monitor *m) {
        _cleanup_free_ AmqpPartition *partitions = NULL;
        size_t n;
        int r;

        r = amqp_management_partitions(&m->loop, m->connection, m->events.entity, &partitions, &n);
        if (r < 0)
                return r;
        return event_receivers_attach(m->receivers, &m->loop, m->connection, m->events.entity,
                                      partitions, n);
}

static int connect_events(Monitor *m) {
        int r = 0;

        if (m->redirected)
                r = follow_redirect(m);
        if (r < 0)
                return r;
        r = amqp_connect(&m->loop,
                         &(AmqpConnectionSettings){
                                         .host = m->network_host ? m->network_host : m->events.host,
                                         .port = m->events.port ? m->events.port :
                                                                  m->globals->amqp_port,
                                         .name = m->events.host,
                                         .ca_file = m->globals->ca_file,
                                         .verbose = m->globals->verbose,
                         },
                         &m->connection);
        if (r >= 0)
                r = amqp_cbs_begin(&m->cbs, &m->loop, m->connection, &m->events);
        return r < 0 ? r : attach_readers(m);
}

static void disconnect(Monitor *m) {
        if (m->receivers)
                event_receivers_detach(m->receivers);
        amqp_cbs_done(&m->cbs);
        m->connection = amqp_connection_free(m->connection);
}

static void announce(const Monitor *m) {
        if (m->retry.reached) {
                say_error("Reading on");
                return;
        }
        say_error("Watching %s: %zu partitions, consumer group %s, from %s; Ctrl-C ends",
                  m->events.entity, event_receivers_count(m->receivers), m->settings->group,
                  m->settings->from);
}

/* When there was silence for too long. */
static usec_t silence_deadline(const Monitor *m) {
        return usec_add(m->last_shown_usec, m->settings->timeout_usec);
}

static bool is_silent(const Monitor *m) {
        return m->settings->timeout_usec != USEC_INFINITY &&
               now_usec(CLOCK_MONOTONIC) >= silence_deadline(m);
}

/* Reads until it is over: 0 when it is finished or silent. */
static int read_events(Monitor *m) {
        usec_t next_usec = USEC_INFINITY;
        uint64_t before;
        int r = 0;

        while (r >= 0 && !is_finished(m) && !is_silent(m)) {
                before = m->n_shown;
                r = amqp_cbs_keep(&m->cbs, &next_usec);
                if (r >= 0)
                        r = event_receivers_resume(m->receivers);
                if (r >= 0 && !is_finished(m))
                        r = amqp_loop_turn(&m->loop, m->connection,
                                           MIN(next_usec, silence_deadline(m)));
                if (m->n_shown != before)
                        m->last_shown_usec = now_usec(CLOCK_MONOTONIC);
        }
        return r;
}

/* ---- connections that come and go ---- */

/* 0: it ended as it should; -ETIME: the hub was never reached, which is told; else as
 * amqp_loop_turn(), with the connection still there for its error. */
static int run_connections(Monitor *m) {
        AmqpError error;
        int r;

        for (;;) {
                amqp_retry_begin(&m->retry);
                r = connect_events(m);
                if (r >= 0) {
                        announce(m);
                        amqp_retry_succeeded(&m->retry);
                        r = read_events(m);
                }
                if (r != -EIO || !m->connection)
                        return r;
                error = *amqp_connection_error(m->connection);
                if (!amqp_retry_may(&m->retry, &error))
                        return r;
                disconnect(m);
                r = amqp_retry_wait(&m->retry, &m->loop, &error, WHAT, silence_deadline(m));
                if (r < 0)
                        return r == -ETIME && m->retry.reached ? 0 : r;
        }
}

/* ---- around them ---- */

static void say_summary(const Monitor *m) {
        const usec_t span = now_usec(CLOCK_MONOTONIC) - m->begun_usec;
        char time[FORMAT_TIMESPAN_MAX], others[64] = "";

        if (m->n_others > 0)
                (void) snprintf(others, sizeof(others), ", and %" PRIu64 " of other devices",
                                m->n_others);
        say_error("%" PRIu64 " event%s%s in %s", m->n_shown, m->n_shown == 1 ? "" : "s", others,
                  format_timespan(time, sizeof(time), span - span % USEC_PER_MSEC));
        if (event_receivers_missing(m->receivers) > 0)
                say_error("%" PRIu64 " events were gone from the hub before they could be read",
                          event_receivers_missing(m->receivers));
}

/* A name that does not exist would be waited for in vain. Whatever else comes of the question is
 * not told: a policy that may read events need not be one that may read the registry. */
static int look_up_devices(const Monitor *m) {
        const RegistryClientSettings settings = {
                .ca_file = m->globals->ca_file,
                .https_port = m->globals->https_port,
                .verbose = m->globals->verbose,
        };
        _cleanup_(registry_client_freep) RegistryClient *client = NULL;

        if (registry_client_new(&m->hub, &settings, &client) < 0)
                return say_out_of_memory();
        for (size_t i = 0; i < m->n_devices; i++) {
                _cleanup_(registry_answer_done) RegistryAnswer answer = {};
                _cleanup_free_ char *path = NULL, *device = NULL, *module = NULL;
                RegistryRequest q = {
                        .method = "GET",
                        .what = "Cannot look up the device",
                        .timeout_usec = LOOKUP_TIMEOUT_USEC,
                        .expected_status = { 404, 401, 403 },
                };

                if (!event_filter_is_id(m->devices[i]))
                        continue;
                device = strndup(m->devices[i], strcspn(m->devices[i], "/"));
                if (!device ||
                    (strchr(m->devices[i], '/') &&
                     copy_string(&module, strchr(m->devices[i], '/') + 1) < 0) ||
                    identity_path("devices", &(IdentityName){ device, module }, &path) < 0)
                        return say_out_of_memory();
                q.path = path;
                (void) registry_client_call(client, &q, &answer); /* see above */
                identity_remove_keys(answer.body);
                if (answer.status == 404)
                        say_error("The hub has no %s %s; watching all the same",
                                  module ? "module" : "device", m->devices[i]);
        }
        return EX_OK;
}

static int check_devices(char **devices, size_t n) {
        for (size_t i = 0; i < n; i++) {
                _cleanup_free_ char *device = strndup(devices[i], strcspn(devices[i], "/"));
                const char *slash = strchr(devices[i], '/');
                int r;

                if (!device)
                        return say_out_of_memory();
                r = identity_name_check(&(IdentityName){ device, slash ? slash + 1 : NULL });
                if (r != EX_OK)
                        return r;
        }
        return EX_OK;
}

static int check_settings(Monitor *m, EventStart *ret_start) {
        const MonitorSettings *s = m->settings;
        int r;

        m->format = (EventFormat){ .json = m->globals->json };
        r = event_start_parse(s->from, now_usec(CLOCK_REALTIME), ret_start);
        if (r < 0) {
                say_error("--from: \"%s\" %s", s->from,
                          r == -ERANGE ? "is not in the past" :
                                         "is none of now, earliest, an age (10min), a time "
                                         "(2026-11-25 08:00)");
                return EX_USAGE;
        }
        if (s->properties &&
            event_properties_from_string(s->properties, &m->format.properties) < 0) {
                say_error("--properties: \"%s\" is not made of system, application, annotations, "
                          "all, with "
                          "commas between",
                          s->properties);
                return EX_USAGE;
        }
        m->format.content = event_content_from_string(s->content);
        if ((int) m->format.content < 0) {
                say_error("--content: \"%s\" is none of auto, json, text, base64", s->content);
                return EX_USAGE;
        }
        if (strlen(s->group) > GROUP_LENGTH_MAX || s->group[strcspn(s->group, "/ ?#'")]) {
                say_error("--consumer-group: \"%s\" is no name of one", s->group);
                return EX_USAGE;
        }
        return check_devices(m->devices, m->n_devices);
}

static int run(Monitor *m) {
        size_t n_lost = 0;
        int r, k, code;

        r = amqp_loop_init(&m->loop);
        if (r >= 0) {
                m->begun_usec = m->last_shown_usec = now_usec(CLOCK_MONOTONIC);
                r = run_connections(m);
                if (r >= 0 || r == -EIO) { /* what is counted as shown is shown */
                        k = amqp_loop_drain(&m->loop);
                        r = r < 0 ? r : k;
                }
                if (r == -EINTR)
                        n_lost = amqp_loop_drain_last(&m->loop);
        }
        code = r == -ETIME ? m->retry.exit_code :
                             amqp_loop_exit_code(&m->loop, r, m->connection, WHAT);
        if (r != -EPIPE && m->retry.reached)
                say_summary(m);
        if (n_lost > 0)
                say_error("The last %zu bytes are missing in the output: its reader did not take them",
                          n_lost);
        if (r >= 0 && m->settings->count > 0 && !is_finished(m))
                code = EXIT_TRY_AGAIN;
        return code;
}

static void monitor_done(Monitor *m) {
        disconnect(m);
        event_receivers_free(m->receivers);
        amqp_loop_done(&m->loop);
        connection_string_done(&m->hub);
        events_login_done(&m->events);
        free(m->network_host);
}

static int open_monitor(Monitor *m, const EventStart *start) {
        const EventReceiversSettings receivers = {
                .consumer_group = m->settings->group,
                .start = *start,
                .on_event = on_event,
                .wants_more = wants_more,
                .userdata = m,
        };
        int r;

        if (event_receivers_new(&receivers, &m->receivers) < 0)
                return say_out_of_memory();
        r = login_load_events(m->globals, &m->hub, &m->events);
        if (r != EX_OK)
                return r;
        m->redirected = m->hub.host_name;
        return m->redirected && m->n_devices > 0 ? look_up_devices(m) : EX_OK;
}

static int cmd_monitor(const Verb *verb, Globals *g, int argc, char **argv) {
        MonitorSettings s = {
                .group = "$Default",
                .from = "now",
                .content = "auto",
                .timeout_usec = USEC_INFINITY,
        };
        Monitor m = { .globals = g, .settings = &s, .loop.signal_fd = -EBADF };
        EventStart start;
        int r, signal_number;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        m.devices = argv;
        m.n_devices = (size_t) argc;
        r = check_settings(&m, &start);
        if (r == EX_OK)
                r = open_monitor(&m, &start);
        if (r == EX_OK)
                r = run(&m);
        signal_number = m.loop.signal;
        monitor_done(&m);
        amqp_loop_end_by_signal(signal_number);
        return r;
}

const Verb verb_monitor = {
        .hub = true,
        .name = "monitor",
        .arguments = "[DEVICE]...",
        .arguments_max = -1,
        .summary = "Show the events that arrive at the hub",
        .description = "All devices, or those named; \"*\" stands for any text, DEVICE/MODULE for "
                       "a module. The\n"
                       "login is that of the hub, or the connection string of its events endpoint "
                       "(Endpoint=...).",
        .options = monitor_options,
        .run = cmd_monitor,
};
