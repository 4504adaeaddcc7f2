/* How it works: everything that happens (a report of the connection's thread, a timer, a call of
 * the daemon) becomes an event for uplink_decide(); what it answers is done here. Messages go
 * outbox -> window -> thread, PUBACKs come back and settle them. The window is refilled in batches,
 * because each hand-over costs a wake-up and a write. */
#include "daemon/uplink.h"

#include <assert.h>
#include <inttypes.h>
#include <sys/random.h>
#include <sys/timerfd.h>

#include "lib/fd-util.h"
#include "daemon/log.h"
#include "daemon/uplink-logic.h"
#include "daemon/uplink-memory.h"
#include "daemon/uplink-mosquitto.h"
#include "daemon/uplink-netlink.h"
#include "daemon/uplink-report.h"
#include "daemon/uplink-window.h"

#define TIMER_ACCURACY_USEC (10 * USEC_PER_MSEC)
#define TOKEN_PROBE_USEC (10 * USEC_PER_SEC)

struct Uplink {
        sd_event *event;
        Outbox *outbox;
        Credentials *credentials;
        UplinkOptions options; /* ca_file is ours */
        UplinkEvents events;

        UplinkLogic logic;
        UplinkMosquitto *link;
        UplinkWindow window; /* by seq; the value is its size in bytes */
        uint64_t window_bytes;
        OutboxDelivery *spare;     /* handed out by the outbox, waits for room in bytes */
        bool deliverable;          /* outbox_next() may have something */
        uint64_t token_expiry_sec; /* UINT64_MAX: a ready-made token, no fresh one can be had */
        uint64_t random;
        UplinkMemory memory;
        UplinkMemoryFile *memory_file; /* NULL: none is kept */

        int netlink_fd, clock_fd;
        sd_event_source *link_source, *timer_source, *netlink_source, *clock_source,
                *stopped_source;
        usec_t armed_usec;
        usec_t clock_offset_usec; /* realtime - boottime, at the last connect or step */

        /* for the status and the log */
        char *hub, *device, *module, *hold;
        UplinkErrorClass hold_class;
        usec_t hold_since_usec; /* CLOCK_BOOTTIME */
        unsigned n_holds;       /* looks since then that found it so */
        usec_t state_since_realtime_usec;
        UplinkReport report;
        LogRate aside_rate;
        UplinkNews news;      /* told at the end of dispatch(), when the next try is decided */
        unsigned told_refused_keys; /* as logged last */
};

static void dispatch(Uplink *u, const UplinkEvent *event);
static void pump(Uplink *u);

/* splitmix64: jitter needs no better, and a system call for each PUBACK would cost. */
static uint64_t next_random(Uplink *u) {
        uint64_t z = u->random += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

static void send_event(Uplink *u, UplinkEventType type) {
        dispatch(u, &(UplinkEvent) { .type = type });
}

/* Names, once there are two. */
static const char *key_name(const Uplink *u, unsigned key) {
        return credentials_n_keys(u->credentials) > 1 ? credentials_key_name(u->credentials, key)
                                                      : NULL;
}

static UplinkReportAbout about(const Uplink *u) {
        const UplinkMachine *m = &u->logic.machine;
        UplinkReportAbout a = { .hub = u->hub,
                                .device = u->device,
                                .key = key_name(u, m->key),
                                .next_try_in_usec = USEC_INFINITY };

        if (m->state == UPLINK_STATE_BACKOFF)
                a.next_try_in_usec = usec_sub(m->deadline_usec, now_usec(CLOCK_BOOTTIME));
        return a;
}

/* The hub may forget an identity's key as well as take it back, so it is told once for each change. */
static void tell_keys(Uplink *u) {
        const UplinkMachine *m = &u->logic.machine;
        UplinkReportAbout a = about(u);

        if (!a.key || !m->was_connected || m->refused_keys == u->told_refused_keys)
                return;
        u->told_refused_keys = m->refused_keys;
        for (unsigned k = 0; k < m->n_keys; k++)
                if (m->refused_keys & 1U << k)
                        uplink_report_key_refused(&a, key_name(u, k));
}

static void tell_news(Uplink *u) {
        UplinkReportAbout a = about(u);

        uplink_report_news(&u->report, &u->news, &a);
        u->news = (UplinkNews) {};
        tell_keys(u);
}

/* Before the release of this program, or before the newest stored message, time has not been. */
static bool clock_wrong(const Uplink *u) {
        OutboxStats stats;

        outbox_get_stats(u->outbox, &stats);
        return uplink_clock_wrong(now_usec(CLOCK_REALTIME), stats.newest_realtime_usec);
}

/* class: NONE where the text says all. */
static void set_hold(Uplink *u, UplinkErrorClass class, const char *message_id, const char *text) {
        if (!u->hold) {
                u->hold_since_usec = now_usec(CLOCK_BOOTTIME);
                u->n_holds = 0;
        }
        u->hold_class = class;
        u->n_holds++;
        if (u->hold && streq(u->hold, text))
                return;
        free(u->hold);
        u->hold = strdup(text); /* without memory the status lacks the reason; the log has it */
        log_event(LOG_ERR, message_id, NULL, "Not sending, accepted messages are kept: %s", text);
}

static void clear_hold(Uplink *u) {
        free(u->hold);
        u->hold = NULL;
}

/* The connection. */

static void drop_link(Uplink *u) {
        u->link_source = sd_event_source_disable_unref(u->link_source);
        u->link = uplink_mosquitto_free(u->link);
        u->spare = outbox_delivery_free(u->spare);
        uplink_window_clear(&u->window);
        u->window_bytes = 0;
        u->deliverable = true;
        outbox_requeue(u->outbox);
}

/* A hub that cuts for a reason of its own makes a suspect of one message after the other. */
static void tell_set_aside(Uplink *u, uint64_t seq) {
        char more[96] = "";
        uint64_t n;

        if (!log_rate_pass(&u->aside_rate, &n))
                return;
        if (n > 0)
                (void) snprintf(more, sizeof(more), " (%" PRIu64 " lines like this were left out)", n);
        log_info("Message %" PRIu64 " was first in flight at several cuts, trying others first%s", seq,
                 more);
}

static void carry_out(Uplink *u, const UplinkSuspectPlan *plan) {
        static const char reason[] =
                "the hub cuts the connection whenever it is sent, and takes others";

        for (size_t i = 0; i < plan->n_steps; i++) {
                const UplinkSuspectStep *s = &plan->steps[i];

                switch (s->verb) {
                case UPLINK_SUSPECT_SET_ASIDE:
                        /* -ENOENT: it expired or was dropped just now, which serves as well. */
                        (void) outbox_set_aside(u->outbox, s->seq);
                        tell_set_aside(u, s->seq);
                        break;
                case UPLINK_SUSPECT_UNSET_ASIDE:
                        if (outbox_unset_aside(u->outbox, s->seq) < 0)
                                uplink_suspects_forget(&u->logic.suspects, s->seq); /* it has ended */
                        u->deliverable = true;
                        break;
                case UPLINK_SUSPECT_REJECT:
                        /* The outbox tells it once it is recorded; -ENOENT: it has ended. */
                        (void) outbox_settle(u->outbox, s->seq, OUTBOX_END_REJECTED, reason);
                        break;
                }
        }
}

static void on_link_ended(const UplinkMosquittoEnd *link_end, void *userdata) {
        Uplink *u = userdata;
        UplinkEnd end = { .class = link_end->class, .realtime_usec = now_usec(CLOCK_REALTIME) };
        UplinkSuspectPlan plan;
        OutboxStats stats;
        UplinkEvent event;

        outbox_get_stats(u->outbox, &stats);
        end.newest_usec = stats.newest_realtime_usec;
        if (end.class == UPLINK_ERROR_CUT && uplink_window_oldest(&u->window, &end.first_seq) &&
            u->logic.machine.was_connected)
                (void) outbox_note_cut(u->outbox, end.first_seq); /* the count shows in its status */
        event = uplink_logic_on_ended(&u->logic, &end, now_usec(CLOCK_BOOTTIME), &plan);
        if (!u->logic.machine.goodbye) {
                uplink_report_error(&u->report, end.class, u->logic.machine.was_connected, "%s",
                                    link_end->text);
                uplink_report_diagnosis(&u->report, event.class);
        }
        /* A verdict needs the message in flight, setting aside one that is back in the queue. */
        if (plan.n_steps > 0 && plan.steps[0].verb == UPLINK_SUSPECT_REJECT) {
                carry_out(u, &plan);
                plan.n_steps = 0;
        }
        drop_link(u);
        carry_out(u, &plan);
        dispatch(u, &event);
}

static void on_link_resolved(void *userdata) {
        send_event(userdata, UPLINK_EVENT_RESOLVED);
}

static void on_link_connected(void *userdata) {
        Uplink *u = userdata;
        usec_t now = now_usec(CLOCK_REALTIME), life = USEC_INFINITY;

        if (u->token_expiry_sec != UINT64_MAX)
                life = usec_sub(u->token_expiry_sec * USEC_PER_SEC, now);
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_CONNECTED, .span_usec = life });
}

static void on_link_confirmed(const uint64_t *seqs, size_t n_seqs, void *userdata) {
        Uplink *u = userdata;
        UplinkSuspectPlan plan;
        uint64_t bytes, n = 0;

        for (size_t i = 0; i < n_seqs; i++) {
                if (!uplink_window_take(&u->window, seqs[i], &bytes))
                        continue;
                n++;
                u->window_bytes -= bytes;
                (void) outbox_settle(u->outbox, seqs[i], OUTBOX_END_CONFIRMED,
                                     NULL); /* -ENOENT: has ended already */
        }
        uplink_logic_on_confirmed(&u->logic, seqs, n_seqs, now_usec(CLOCK_BOOTTIME), &plan);
        carry_out(u, &plan);
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_CONFIRMED, .n = n });
}

static void on_link_unsendable(uint64_t seq, const char *reason, void *userdata) {
        Uplink *u = userdata;
        uint64_t bytes;

        if (!uplink_window_take(&u->window, seq, &bytes))
                return;
        u->window_bytes -= bytes;
        uplink_logic_forget(&u->logic, seq);
        (void) outbox_settle(u->outbox, seq, OUTBOX_END_REJECTED, reason); /* as above */
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_DROPPED, .n = 1 });
}

static int on_link_readable(sd_event_source *s, int fd, uint32_t revents, void *userdata) {
        Uplink *u = userdata;

        uplink_mosquitto_process(u->link);
        pump(u);
        return 0;
}

/* A ready-made token is given as it is: reconnecting would not renew it. */
static int make_token(Uplink *u, char **ret) {
        _cleanup_(erase_and_freep) char *token = NULL, *later = NULL;
        usec_t now = now_usec(CLOCK_REALTIME);
        uint64_t later_expiry;
        int r;

        r = credentials_make_token(u->credentials, u->logic.machine.key, now, &token, &u->token_expiry_sec);
        if (r >= 0)
                r = credentials_make_token(u->credentials, u->logic.machine.key, now + TOKEN_PROBE_USEC,
                                           &later, &later_expiry);
        if (r < 0)
                return r;
        if (later_expiry == u->token_expiry_sec)
                u->token_expiry_sec = UINT64_MAX;
        *ret = TAKE_PTR(token);
        return 0;
}

static int replace_string(char **p, const char *s) {
        char *copy = NULL;

        if (s) {
                copy = strdup(s);
                if (!copy)
                        return -ENOMEM;
        }
        free(*p);
        *p = copy;
        return 0;
}

static int open_link(Uplink *u) {
        static const UplinkMosquittoEvents events = {
                .on_resolved = on_link_resolved,
                .on_connected = on_link_connected,
                .on_confirmed = on_link_confirmed,
                .on_unsendable = on_link_unsendable,
                .on_ended = on_link_ended,
        };
        _cleanup_(erase_and_freep) char *token = NULL;
        UplinkMosquittoEvents e = events;
        UplinkMosquittoOptions o;
        int r;

        r = make_token(u, &token);
        if (r < 0)
                return r;
        o = (UplinkMosquittoOptions) {
                .host = credentials_connect_host(u->credentials),
                .port = credentials_connect_port(u->credentials, u->options.mqtt_port),
                .client_id = credentials_client_id(u->credentials),
                .user_name = credentials_user_name(u->credentials),
                .password = token,
                .topic_prefix = credentials_topic_prefix(u->credentials),
                .certificate = credentials_certificate(u->credentials),
                .ca_file = u->options.ca_file,
                .window = u->options.window,
                .keep_alive_usec = u->options.keep_alive_usec,
                .connect_timeout_usec = u->options.connect_timeout_usec,
                .ack_timeout_usec = u->options.ack_timeout_usec,
        };
        e.userdata = u;
        r = uplink_mosquitto_new(&o, &e, &u->link);
        if (r < 0)
                return r;
        r = sd_event_add_io(u->event, &u->link_source, uplink_mosquitto_fd(u->link), EPOLLIN,
                            on_link_readable, u);
        if (r < 0)
                u->link = uplink_mosquitto_free(u->link);
        return r;
}

/* What event tells that the connect cannot be tried, or 0. */
static int prepare_identity(Uplink *u, UplinkEvent *ret_next) {
        const char *problem;
        bool changed = false;
        int r;

        /* A key that was replaced in its file is found without a reload; a failure leaves the old
         * one in use. */
        if (uplink_logic_wants_credentials(&u->logic) || u->hold)
                changed = credentials_reload(u->credentials) > 0;
        problem = credentials_problem(u->credentials);
        if (problem) {
                set_hold(u,
                         credentials_problem_is_certificate(u->credentials) ?
                                         UPLINK_ERROR_CERTIFICATE :
                                         UPLINK_ERROR_CREDENTIALS,
                         MSG_CREDENTIALS_MISSING, problem);
                *ret_next = (UplinkEvent) { .type = UPLINK_EVENT_HOLD };
                return 1;
        }
        uplink_logic_set_keys(&u->logic, credentials_n_keys(u->credentials), changed);
        r = replace_string(&u->hub, credentials_host(u->credentials));
        if (r >= 0)
                r = replace_string(&u->device, credentials_device_id(u->credentials));
        if (r >= 0)
                r = replace_string(&u->module, credentials_module_id(u->credentials));
        if (r >= 0)
                r = outbox_set_identity(u->outbox, u->hub, credentials_client_id(u->credentials),
                                        u->options.adopt);
        if (r == -EREMCHG) {
                set_hold(u, UPLINK_ERROR_NONE, MSG_OUTBOX_OTHER_DEVICE,
                         "The outbox holds messages of another hub or device; set outbox.adopt = "
                         "true to send them as this one, or restore the credentials they were "
                         "accepted under");
                *ret_next = (UplinkEvent) { .type = UPLINK_EVENT_HOLD };
                return 1;
        }
        return r;
}

static usec_t clock_offset(void) {
        return now_usec(CLOCK_REALTIME) - now_usec(CLOCK_BOOTTIME);
}

/* Returns whether an event follows. */
static bool start_attempt(Uplink *u, UplinkEvent *ret_next) {
        int r;

        u->clock_offset_usec = clock_offset();
        r = prepare_identity(u, ret_next);
        if (r > 0)
                return true;
        if (r >= 0) {
                clear_hold(u);
                r = open_link(u);
        }
        if (r >= 0)
                return false;

        uplink_report_error(&u->report, UPLINK_ERROR_LOCAL, /* disconnected= */ false,
                            "Cannot start to connect: %s",
                            r == -EBUSY ? "earlier look-ups of the hub's name hang, see the name server"
                                        : strerror(-r));
        *ret_next = (UplinkEvent) { .type = UPLINK_EVENT_ENDED, .class = UPLINK_ERROR_LOCAL };
        return true;
}

/* Messages. */

static OutboxDelivery *next_delivery(Uplink *u, int *ret_error) {
        OutboxDelivery *d = NULL;

        *ret_error = 0;
        if (u->spare)
                return TAKE_PTR(u->spare);
        if (!u->deliverable)
                return NULL;
        *ret_error = outbox_next(u->outbox, &d);
        if (*ret_error == -EAGAIN) {
                u->deliverable = false;
                *ret_error = 0;
        }
        return d;
}

/* Takes from the outbox what the window has room for. Returns the count, or -errno of
 * outbox_next(). */
static int fill_batch(Uplink *u, OutboxDelivery **batch, unsigned room) {
        unsigned n = 0;
        int r = 0;

        while (n < room) {
                OutboxDelivery *d = next_delivery(u, &r);
                uint64_t bytes;

                if (!d)
                        break;
                bytes = d->body_size + d->bag_size + strlen(d->message_id);
                if (u->window.n > 0 && u->window_bytes + bytes > u->options.window_bytes) {
                        u->spare = d;
                        break;
                }
                u->window_bytes += bytes;
                uplink_window_add(&u->window, d->seq, bytes);
                batch[n++] = d;
        }
        return n > 0 ? (int) n : r;
}

static void on_outbox_refused(Uplink *u, int error) {
        if (error == -EREMCHG) {
                set_hold(u, UPLINK_ERROR_NONE, MSG_OUTBOX_OTHER_DEVICE,
                         "The outbox holds messages of another hub or device");
                send_event(u, UPLINK_EVENT_HOLD);
                return;
        }
        uplink_report_error(&u->report, UPLINK_ERROR_LOCAL, /* disconnected= */ true,
                            "Cannot read from the outbox: %s", strerror(-error));
        drop_link(u);
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_ENDED, .class = UPLINK_ERROR_LOCAL });
}

/* Nothing is in flight and the outbox gave nothing. */
static void on_empty(Uplink *u) {
        UplinkSuspectPlan plan;
        OutboxStats stats;
        bool all_done;

        outbox_get_stats(u->outbox, &stats);
        all_done = uplink_logic_on_empty(&u->logic, stats.queued - stats.ending, &plan);
        carry_out(u, &plan);
        if (all_done && !u->deliverable)
                send_event(u, UPLINK_EVENT_EMPTY);
}

/* Hands a batch over. Returns whether there may be more to do. */
static bool send_batch(Uplink *u, OutboxDelivery **batch, size_t n) {
        uint64_t last = batch[n - 1]->seq;
        int r = uplink_mosquitto_send(u->link, batch, n);

        if (r < 0) {
                on_outbox_refused(u, r);
                return false;
        }
        uplink_logic_on_sent(&u->logic, last, now_usec(CLOCK_BOOTTIME));
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_SENT, .n = (uint64_t) n });
        return true;
}

static void pump(Uplink *u) {
        OutboxDelivery *batch[UPLINK_BATCH];
        unsigned room;
        int n;

        while (u->link && (room = uplink_logic_room(&u->logic, (unsigned) u->window.n)) > 0) {
                n = fill_batch(u, batch, room);
                if (n < 0) {
                        on_outbox_refused(u, n);
                        return;
                }
                if (n > 0) {
                        if (!send_batch(u, batch, (size_t) n))
                                return;
                        continue;
                }
                if (u->window.n > 0 || u->deliverable)
                        return;
                on_empty(u);
                if (!u->deliverable)
                        return;
        }
}

/* The machine's hands. */

static int on_stopped(sd_event_source *s, void *userdata) {
        Uplink *u = userdata;

        u->stopped_source = sd_event_source_disable_unref(u->stopped_source);
        if (u->events.on_stopped)
                u->events.on_stopped(u->events.userdata); /* may free us: last */
        return 0;
}

/* From the loop and not from here, so that the owner may free the uplink in its callback. */
static void tell_stopped(Uplink *u) {
        if (u->stopped_source)
                return;
        if (sd_event_add_defer(u->event, &u->stopped_source, on_stopped, u) < 0 &&
            u->events.on_stopped)
                u->events.on_stopped(u->events.userdata);
}

/* The machine gave an attempt or connection up by the clock. */
static void note_given_up(Uplink *u, const UplinkMachine *before) {
        char text[512], span[FORMAT_TIMESPAN_MAX];
        UplinkErrorClass class;

        if (u->logic.machine.state != UPLINK_STATE_BACKOFF)
                return;
        if (before->was_connected) {
                format_timespan(span, sizeof(span), u->logic.times.ack_timeout_usec);
                uplink_report_error(&u->report, UPLINK_ERROR_UNCONFIRMED, /* disconnected= */ true,
                                    "The hub confirmed nothing for %s, taking the connection for "
                                    "dead",
                                    span);
                return;
        }
        uplink_mosquitto_phase(u->link, text, sizeof(text), &class);
        uplink_report_error(&u->report, class, /* disconnected= */ false, "%s", text);
        uplink_report_diagnosis(&u->report, u->logic.machine.last_class);
        u->report.diagnosed = false; /* the phase is the finer of the two */
}

static bool perform(Uplink *u, unsigned actions, const UplinkMachine *before,
                    UplinkEvent *ret_next) {
        bool more = false;

        if (actions & UPLINK_ACTION_ABANDON && u->link) {
                note_given_up(u, before);
                drop_link(u);
        }
        if (actions & UPLINK_ACTION_CONNECT) {
                drop_link(u); /* after an orderly goodbye nothing is left but the books */
                more = start_attempt(u, ret_next);
        }
        if (actions & UPLINK_ACTION_DISCONNECT && u->link)
                uplink_mosquitto_disconnect(u->link);
        if (actions & UPLINK_ACTION_STOPPED) {
                drop_link(u);
                if (u->memory_file)
                        uplink_memory_file_remove(u->memory_file);
                tell_stopped(u);
        }
        return more;
}

static void arm_timer(Uplink *u) {
        usec_t t = uplink_machine_deadline(&u->logic.machine);

        /* Deadlines move on with every PUBACK; a timer that fires early costs less than setting it
         * each time. */
        if (t >= u->armed_usec)
                return;
        u->armed_usec = t;
        (void) sd_event_source_set_time(u->timer_source,
                                        t); /* fail only for sources that are gone */
        (void) sd_event_source_set_enabled(u->timer_source, SD_EVENT_ONESHOT);
}

/* At the first try of the run, and when the waits have grown. */
static void keep_memory(Uplink *u, UplinkState before) {
        const UplinkMachine *m = &u->logic.machine, kept = u->memory.machine;

        if (!u->memory_file || m->state == UPLINK_STATE_STOPPED)
                return;
        if (!uplink_memory_keep(&u->memory, m) && before != UPLINK_STATE_STOPPED)
                return;
        if (uplink_memory_file_save(u->memory_file, &u->memory) < 0)
                u->memory.machine = kept; /* so that the next wait tries it again */
}

/* How long to wait before the first try, because the last run crashed. */
static usec_t recall(Uplink *u) {
        char boot_id[37] = "", span[FORMAT_TIMESPAN_MAX];
        UplinkMemory previous;
        bool found;
        usec_t delay;

        if (!u->memory_file)
                return 0;
        (void) uplink_memory_read_boot_id(boot_id); /* without /proc all is one boot */
        found = uplink_memory_file_load(u->memory_file, &previous);
        delay = uplink_memory_begin(found ? &previous : NULL, boot_id, &u->logic.times,
                                    now_usec(CLOCK_BOOTTIME), next_random(u), &u->memory,
                                    &u->logic.machine);
        if (delay > 0)
                log_notice("The last run did not end in order, connecting in %s",
                           format_timespan(span, sizeof(span),
                                           delay / USEC_PER_MSEC * USEC_PER_MSEC));
        return delay;
}

static void dispatch(Uplink *u, const UplinkEvent *event) {
        UplinkState state = u->logic.machine.state;
        UplinkEvent next = *event;
        bool more = true, told;

        while (more) {
                UplinkMachine before = u->logic.machine;
                UplinkNews news;
                unsigned actions = uplink_logic_decide(&u->logic, &next, now_usec(CLOCK_BOOTTIME),
                                                       next_random(u), &news);

                if (news.class != UPLINK_ERROR_NONE || news.type != UPLINK_NEWS_NONE)
                        u->news = news;
                more = perform(u, actions, &before, &next);
        }
        arm_timer(u);
        keep_memory(u, state);
        if (event->type == UPLINK_EVENT_CONFIRMED && u->news.type == UPLINK_NEWS_FAILED)
                uplink_report_error(&u->report, u->news.class, false,
                                    "The hub takes less than it is sent, it confirms late");
        told = u->news.type != UPLINK_NEWS_NONE;
        if (u->news.class != UPLINK_ERROR_NONE || told)
                tell_news(u);
        if (u->logic.machine.state == state) {
                if (told && u->events.on_state_changed)
                        u->events.on_state_changed(u->events.userdata);
                return;
        }
        u->state_since_realtime_usec = now_usec(CLOCK_REALTIME);
        if (u->events.on_state_changed)
                u->events.on_state_changed(u->events.userdata);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata) {
        Uplink *u = userdata;

        u->armed_usec = USEC_INFINITY;
        send_event(u, UPLINK_EVENT_TIMER);
        pump(u);
        return 0;
}

static int on_netlink(sd_event_source *s, int fd, uint32_t revents, void *userdata) {
        if (uplink_netlink_appeared(fd))
                send_event(userdata, UPLINK_EVENT_LINK_UP);
        return 0;
}

/* A timer that only ends when the wall clock is set: TFD_TIMER_CANCEL_ON_SET, timerfd_create(2). */
static void arm_clock(Uplink *u) {
        struct itimerspec far = { .it_value.tv_sec = INT64_MAX / 1000000000 };

        (void) timerfd_settime(u->clock_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &far,
                               NULL); /* steps go unseen */
}

static int on_clock(sd_event_source *s, int fd, uint32_t revents, void *userdata) {
        Uplink *u = userdata;
        usec_t offset;
        uint64_t n;

        (void) read(fd, &n, sizeof(n)); /* -ECANCELED is the news */
        arm_clock(u);
        offset = clock_offset();
        if (!uplink_logic_is_clock_step(u->clock_offset_usec, offset))
                return 0; /* small ones add up: the token in use is of the time of its connect */
        u->clock_offset_usec = offset;
        log_info("The clock was set, signing anew");
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_CLOCK_STEPPED,
                                     .clock_wrong = clock_wrong(u) });
        return 0;
}

/* For the daemon. */

static int add_timer(Uplink *u) {
        int r;

        u->armed_usec = USEC_INFINITY;
        r = sd_event_add_time(u->event, &u->timer_source, CLOCK_BOOTTIME, USEC_INFINITY,
                              TIMER_ACCURACY_USEC, on_timer, u);
        if (r < 0)
                return r;
        /* After a suspend or a long turn the PUBACKs that wait count before the deadline does. */
        return sd_event_source_set_priority(u->timer_source, SD_EVENT_PRIORITY_NORMAL + 10);
}

/* Both only make the uplink quicker: a sandbox or kernel without them does not stop it. */
static void add_helpers(Uplink *u) {
        u->netlink_fd = uplink_netlink_open();
        if (u->netlink_fd < 0 || sd_event_add_io(u->event, &u->netlink_source, u->netlink_fd,
                                                 EPOLLIN, on_netlink, u) < 0)
                log_debug("Cannot watch for links that come up, waiting the full time instead");

        u->clock_offset_usec = clock_offset();
        u->clock_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
        if (u->clock_fd < 0 ||
            sd_event_add_io(u->event, &u->clock_source, u->clock_fd, EPOLLIN, on_clock, u) < 0)
                log_debug("Cannot watch for clock changes");
        else
                arm_clock(u);
}

int uplink_new(sd_event *event, Outbox *outbox, Credentials *credentials,
               const UplinkOptions *options, const UplinkEvents *events, Uplink **ret) {
        const UplinkTimes times = {
                .connect_timeout_usec = options->connect_timeout_usec,
                .ack_timeout_usec = options->ack_timeout_usec,
                .backoff = { .min_usec = options->retry_min_usec,
                             .max_usec = options->retry_max_usec,
                             .cut_max_usec = options->retry_cut_max_usec,
                             .refused_max_usec = options->retry_refused_max_usec },
        };
        _cleanup_(uplink_freep) Uplink *u = NULL;
        int r;

        assert(event && outbox && credentials && options && events && ret);

        uplink_mosquitto_init();
        u = malloc(sizeof(*u));
        if (!u)
                return -ENOMEM;
        *u = (Uplink) {
                .event = sd_event_ref(event),
                .outbox = outbox,
                .credentials = credentials,
                .options = *options,
                .events = *events,
                .netlink_fd = -EBADF,
                .clock_fd = -EBADF,
                .state_since_realtime_usec = now_usec(CLOCK_REALTIME),
        };
        u->options.ca_file = u->options.memory_file = NULL;
        u->options.window = MAX(options->window, 1U);
        uplink_logic_init(&u->logic, &times, u->options.window, now_usec(CLOCK_BOOTTIME));
        uplink_report_init(&u->report);
        u->aside_rate = (LogRate) { .burst = 5, .interval_sec = 600 };
        /* Only a system without entropy at boot fails here; the address of the struct still tells
         * devices apart. */
        if (getrandom(&u->random, sizeof(u->random), GRND_NONBLOCK) != sizeof(u->random))
                u->random = (uint64_t) (uintptr_t) u ^ now_usec(CLOCK_REALTIME);

        r = uplink_window_init(&u->window, u->options.window);
        if (r >= 0 && options->ca_file) {
                u->options.ca_file = strdup(options->ca_file);
                r = u->options.ca_file ? 0 : -ENOMEM;
        }
        if (r >= 0 && options->memory_file)
                r = uplink_memory_file_new(options->memory_file, &u->memory_file);
        if (r >= 0)
                r = add_timer(u);
        if (r < 0)
                return r;
        add_helpers(u);
        *ret = TAKE_PTR(u);
        return 0;
}

Uplink *uplink_free(Uplink *u) {
        if (!u)
                return NULL;
        sd_event_source_disable_unref(u->link_source);
        sd_event_source_disable_unref(u->timer_source);
        sd_event_source_disable_unref(u->netlink_source);
        sd_event_source_disable_unref(u->clock_source);
        sd_event_source_disable_unref(u->stopped_source);
        uplink_mosquitto_free(u->link);
        outbox_delivery_free(u->spare);
        uplink_window_done(&u->window);
        uplink_memory_file_free(u->memory_file);
        safe_close(u->netlink_fd);
        safe_close(u->clock_fd);
        free((char *) (uintptr_t) u->options.ca_file);
        free(u->hub);
        free(u->device);
        free(u->module);
        free(u->hold);
        sd_event_unref(u->event);
        free(u);
        return NULL;
}

int uplink_start(Uplink *u) {
        UplinkEvent start = { .type = UPLINK_EVENT_START, .delay_usec = recall(u) };

        u->deliverable = true;
        if (u->options.clock_wait_usec > 0 && clock_wrong(u)) {
                start.span_usec = u->options.clock_wait_usec;
                uplink_report_clock_wait(now_usec(CLOCK_REALTIME), start.span_usec);
        }
        dispatch(u, &start);
        return 0;
}

void uplink_outbox_deliverable(Uplink *u) {
        u->deliverable = true;
        pump(u);
}

void uplink_credentials_changed(Uplink *u) {
        send_event(u, UPLINK_EVENT_CREDENTIALS);
}

void uplink_message_ended(Uplink *u, uint64_t seq) {
        uplink_logic_forget(&u->logic, seq);
}

void uplink_stop(Uplink *u, usec_t timeout_usec) {
        dispatch(u, &(UplinkEvent) { .type = UPLINK_EVENT_STOP, .span_usec = timeout_usec });
        pump(u);
}

static void get_certificate_status(Uplink *u, UplinkStatus *ret) {
        const ClientCertificate *c = credentials_certificate(u->credentials);

        if (!c)
                return;
        ret->certificate_ends_realtime_usec = client_certificate_ends_usec(c);
        (void) client_certificate_age(c, now_usec(CLOCK_REALTIME), ret->certificate_problem,
                                      sizeof(ret->certificate_problem));
}

void uplink_get_status(Uplink *u, UplinkStatus *ret) {
        const UplinkMachine *m = &u->logic.machine;
        const UplinkTrouble *t = &u->logic.trouble;
        usec_t now = now_usec(CLOCK_BOOTTIME);

        *ret = (UplinkStatus) {
                .state = m->state,
                .state_since_realtime_usec = u->state_since_realtime_usec,
                .connected = m->was_connected,
                .hub = u->hub,
                .device = u->device,
                .module = u->module,
                .hold = m->state == UPLINK_STATE_HOLDING ? u->hold : NULL,
                .attempt = m->attempt,
                .next_try_in_usec = USEC_INFINITY,
                .key = key_name(u, m->key),
                .other_key_refused = (m->refused_keys & ~(1U << m->key)) != 0,
                .window = uplink_logic_window(&u->logic),
                .last_error_class = uplink_error_class_to_string(u->report.class),
                .last_error = u->report.class != UPLINK_ERROR_NONE ? u->report.error : NULL,
                .last_error_realtime_usec = u->report.error_realtime_usec,
        };
        if (m->state == UPLINK_STATE_BACKOFF || m->state == UPLINK_STATE_HOLDING ||
            m->state == UPLINK_STATE_CLOCK)
                ret->next_try_in_usec = usec_sub(m->deadline_usec, now);
        if (ret->hold && u->hold_class != UPLINK_ERROR_NONE) {
                ret->trouble = u->hold_class;
                ret->trouble_usec = now - u->hold_since_usec;
                ret->trouble_tries = u->n_holds;
        } else if (uplink_trouble_is_on(t)) {
                ret->trouble = t->class;
                ret->trouble_usec = now - t->since_usec;
                ret->trouble_tries = t->n_tries;
        } else if (m->state == UPLINK_STATE_CLOCK) { /* no try has failed: it waits with the first */
                ret->trouble = UPLINK_ERROR_CLOCK;
                ret->trouble_usec = now - m->since_usec;
        }
        get_certificate_status(u, ret);
        if (u->link)
                ret->busy_since_boottime_usec = uplink_mosquitto_busy_since(u->link);
}
