/* Two connections: one subscribes, one looks up. When the subscription was interrupted, or the
 * daemon dropped ends that we read too slowly, some messages have ended unheard. Those are the
 * oldest open ones, because a lane is first in, first out: so the second connection asks for one
 * after the other until one is still queued ("catching up"). A message can be set aside and end out
 * of order; what is still missing when all is sent is asked for once more, after Flush says that
 * everything has ended. */
#include <sysexits.h>

#include "client/confirmations.h"
#include "client/daemon-client.h"
#include "client/message-template.h"
#include "client/output.h"
#include "client/positions.h"

#define RETRY_USEC (200 * USEC_PER_MSEC)
#define RETRY_QUICK_USEC (20 * USEC_PER_MSEC)
#define QUICK_USEC (10 * USEC_PER_SEC)
typedef enum LookupState {
        LOOKUP_NONE,
        LOOKUP_CATCHING_UP, /* asked about lookup_position, ends at the first that is queued */
        LOOKUP_FLUSHING,
        LOOKUP_FINAL, /* asked about lookup_position, one after the other up to lookup_end */
        _LOOKUP_STATE_MAX,
        _LOOKUP_STATE_INVALID = -EINVAL,
} LookupState;

struct Confirmations {
        ConfirmationsOptions options;
        char *stream;
        uint64_t base;

        DaemonConnection *subscription;
        bool subscribed, ever_subscribed;
        bool catching_up; /* the oldest open ones may have ended unheard */
        bool missed;      /* so may any, until all was asked for */
        usec_t retry_at, down_since;

        DaemonConnection *lookup;
        LookupState lookup_state;
        uint64_t lookup_position, lookup_end;
        usec_t lookup_at; /* not before */
        bool lookup_wanted;

        PositionSet ended;
        SequenceMap seqs;
        uint64_t *refused; /* positions, see number_of() */
        size_t n_refused, n_refused_allocated;
        ConfirmationTotals totals;

        usec_t progress_at;
        int exit_code;
};

int confirmations_new(const ConfirmationsOptions *options, Confirmations **ret) {
        Confirmations *c;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (Confirmations){
                .options = *options,
                .down_since = now_usec(CLOCK_MONOTONIC),
                .progress_at = now_usec(CLOCK_MONOTONIC),
        };
        *ret = c;
        return 0;
}

Confirmations *confirmations_free(Confirmations *c) {
        if (!c)
                return NULL;
        daemon_connection_free(c->subscription);
        daemon_connection_free(c->lookup);
        position_set_done(&c->ended);
        sequence_map_done(&c->seqs);
        free(c->refused);
        free(c->stream);
        free(c);
        return NULL;
}

bool confirmations_ready(const Confirmations *c) {
        return c->ever_subscribed;
}

int confirmations_exit_code(const Confirmations *c) {
        return c->exit_code;
}

const ConfirmationTotals *confirmations_totals(const Confirmations *c) {
        return &c->totals;
}

static void fail(Confirmations *c, int exit_code) {
        c->subscription = daemon_connection_free(c->subscription);
        c->lookup = daemon_connection_free(c->lookup);
        c->exit_code = exit_code;
}

static void fail_errno(Confirmations *c, int error) {
        say_daemon_error(c->options.socket_path, error);
        fail(c, daemon_error_exit_code(error));
}

/* A message's number counts the refused ones before it, its position does not. */
static uint64_t number_of(const Confirmations *c, uint64_t position) {
        uint64_t number = position + 1;

        for (size_t i = 0; i < c->n_refused; i++)
                number += c->refused[i] <= position;
        return number;
}

void confirmations_refused(Confirmations *c, uint64_t position) {
        if (c->n_refused == c->n_refused_allocated) {
                size_t n = c->n_refused_allocated ? 2 * c->n_refused_allocated : 16;
                uint64_t *refused = reallocarray(c->refused, n, sizeof(uint64_t));

                if (!refused)
                        return fail_errno(c, -ENOMEM);
                c->refused = refused;
                c->n_refused_allocated = n;
        }
        for (size_t i = 0; i < c->n_refused; i++)
                c->refused[i] -= c->refused[i] > position;
        c->refused[c->n_refused++] = position;
}

static void count(ConfirmationTotals *t, const char *state) {
        t->ended++;
        if (streq(state, "confirmed"))
                t->confirmed++;
        else if (streq(state, "expired"))
                t->expired++;
        else if (streq(state, "dropped"))
                t->dropped++;
        else if (streq(state, "rejected"))
                t->rejected++;
        else
                t->unknown++;
}

static int record(Confirmations *c, uint64_t position, Confirmation *end) {
        int r;

        r = position_set_add(&c->ended, position);
        if (r <= 0)
                return r;
        c->progress_at = now_usec(CLOCK_MONOTONIC);
        count(&c->totals, end->state);
        end->number = number_of(c, position);
        c->options.on_end(end, c->options.userdata);
        return 0;
}

/* Reads a MessageEnd. 1; 0: it still waits; -EPROTO. */
static int parse_end(struct json_object *o, Confirmation *ret) {
        Confirmation end = {};
        int r;

        r = json_get_u64(o, "sequenceNumber", &end.sequence_number);
        if (r < 0 || json_get_string(o, "messageId", &end.message_id, NULL) < 0 ||
            json_get_string(o, "reason", &end.reason, NULL) < 0 ||
            json_get_string(o, "state", &end.state, NULL) <= 0)
                return -EPROTO;
        end.has_sequence_number = r > 0;
        *ret = end;
        return !streq(end.state, "queued");
}

static int handle_ends(Confirmations *c, struct json_object *ends) {
        for (size_t i = 0; i < json_object_array_length(ends); i++) {
                struct json_object *o = json_object_array_get_idx(ends, i);
                Confirmation end;
                uint64_t position;
                int r;

                if (!json_object_is_type(o, json_type_object))
                        return -EPROTO;
                r = parse_end(o, &end);
                if (r == 0)
                        continue;
                if (r < 0 || json_get_u64(o, "position", &position) <= 0)
                        return -EPROTO;
                r = record(c, c->base + position, &end);
                if (r < 0)
                        return r == -ERANGE ? -EPROTO : r;
        }
        return 0;
}

/* Ends may go unheard from now on. */
static void lose_track(Confirmations *c) {
        c->missed = c->catching_up = true;
}

/* The first try comes soon: what is confirmed meanwhile must be looked up one by one. */
static void retry_subscription(Confirmations *c, usec_t now) {
        c->retry_at = usec_add(now,
                               now - c->down_since < QUICK_USEC ? RETRY_QUICK_USEC : RETRY_USEC);
}

static void subscription_lost(Confirmations *c) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (c->subscribed)
                c->down_since = now;
        c->subscription = daemon_connection_free(c->subscription);
        c->subscribed = false;
        retry_subscription(c, now);
}

void confirmations_follow(Confirmations *c, const char *stream, uint64_t base) {
        char *copy = strdup(stream);

        if (!copy)
                return fail_errno(c, -ENOMEM);
        free(c->stream);
        c->stream = copy;
        c->base = base;
        subscription_lost(c);
        c->retry_at = 0;
}

static void subscribe(Confirmations *c, usec_t now) {
        _cleanup_json_ struct json_object *parameters = json_object_new_object();
        usec_t limit = c->ever_subscribed ? DAEMON_RETRY_MIDSTREAM_USEC : DAEMON_RETRY_START_USEC;
        int r;

        if (c->options.timeout_usec != USEC_INFINITY)
                limit = c->options.timeout_usec;
        r = parameters ? json_add_string(parameters, "stream", c->stream) : -ENOMEM;
        if (r < 0)
                return fail_errno(c, r);

        r = daemon_connection_open(c->options.socket_path, &c->subscription);
        if ((r == -ECONNREFUSED || r == -EAGAIN || (r == -ENOENT && c->ever_subscribed)) &&
            now < usec_add(c->down_since, limit))
                return retry_subscription(c, now);
        if (r >= 0)
                r = daemon_connection_call(c->subscription, "io.iothubd.Subscribe", parameters,
                                           /* more= */ true);
        if (r < 0)
                fail_errno(c, r);
}

static void subscription_reply(Confirmations *c, const DaemonReply *reply) {
        struct json_object *ends;
        uint64_t missed = 0;
        int r;

        if (streq(daemon_error_name(reply), "ShuttingDown") ||
            streq(daemon_error_name(reply), "LimitExceeded"))
                return subscription_lost(c);
        if (reply->error)
                return fail(c, say_error_reply("Cannot wait for confirmations", reply));

        if (!c->subscribed && c->ever_subscribed)
                lose_track(c);
        c->subscribed = c->ever_subscribed = true;
        r = json_get_u64(reply->parameters, "missed", &missed);
        if (r >= 0)
                r = json_get_array(reply->parameters, "ends", &ends);
        if (r > 0)
                r = handle_ends(c, ends);
        if (r < 0)
                return fail_errno(c, r == -ENOMEM ? r : -EPROTO);
        if (missed > 0)
                lose_track(c);
        if (!reply->continues)
                subscription_lost(c);
}

static void process_subscription(Confirmations *c) {
        int r = 0;

        while (c->subscription && c->exit_code == EX_OK) {
                _cleanup_(daemon_reply_done) DaemonReply reply = {};

                r = daemon_connection_process(c->subscription);
                if (r >= 0)
                        r = daemon_connection_next(c->subscription, &reply);
                if (r == 0)
                        return;
                if (r == -ECONNRESET)
                        return subscription_lost(c);
                if (r < 0)
                        return fail_errno(c, r);
                subscription_reply(c, &reply);
        }
}

static void lookup_stop(Confirmations *c, usec_t retry_at) {
        c->lookup = daemon_connection_free(c->lookup);
        c->lookup_state = LOOKUP_NONE;
        c->lookup_at = retry_at;
}

static void lookup_failed(Confirmations *c) {
        lookup_stop(c, usec_add(now_usec(CLOCK_MONOTONIC), RETRY_USEC));
}

/* By sequence number where it is known: by id the daemon has to search everything. */
static int lookup_parameters(Confirmations *c, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        _cleanup_free_ char *id = NULL;
        uint64_t seq;
        int r;

        if (!o)
                return -ENOMEM;
        if (sequence_map_get(&c->seqs, c->lookup_position, &seq) > 0)
                r = json_add_u64(o, "sequenceNumber", seq);
        else {
                r = counter_text_expand(c->options.message_id, number_of(c, c->lookup_position),
                                        &id);
                if (r >= 0)
                        r = json_add_string(o, "messageId", id);
        }
        if (r >= 0)
                *ret = TAKE_PTR(o);
        return r;
}

/* Asks for the next open message from lookup_position on; stops where there is none. */
static void lookup_ask(Confirmations *c) {
        _cleanup_json_ struct json_object *parameters = NULL;
        int r;

        c->lookup_position = position_set_next_missing(&c->ended, c->lookup_position);
        if (c->lookup_position >= c->lookup_end)
                return lookup_stop(c, 0);
        r = lookup_parameters(c, &parameters);
        if (r >= 0)
                r = daemon_connection_call(c->lookup, "io.iothubd.GetMessage", parameters,
                                           /* more= */ false);
        if (r < 0)
                fail_errno(c, r);
}

static void lookup_start(Confirmations *c, uint64_t n_accepted) {
        int r;

        r = daemon_connection_open(c->options.socket_path, &c->lookup);
        if (r < 0)
                return lookup_failed(c);
        c->lookup_position = 0;
        c->lookup_end = n_accepted;
        if (c->catching_up) {
                c->lookup_state = LOOKUP_CATCHING_UP;
                return lookup_ask(c);
        }
        c->missed = false; /* comes back if this round fails */
        c->lookup_state = LOOKUP_FLUSHING;
        r = daemon_connection_call(c->lookup, "io.iothubd.Flush", NULL, /* more= */ false);
        if (r < 0)
                fail_errno(c, r);
}

static void lookup_found(Confirmations *c, const DaemonReply *reply) {
        Confirmation end = { .state = "unknown" };
        _cleanup_free_ char *id = NULL;
        struct json_object *message;
        int r = 1;

        if (!reply->error) {
                r = json_get_object(reply->parameters, "message", &message);
                r = r > 0 ? parse_end(message, &end) : -EPROTO;
        }
        if (r == 0 && c->lookup_state == LOOKUP_CATCHING_UP) {
                c->catching_up = false;
                return lookup_stop(c, 0);
        }
        if (r > 0 && !end.message_id) {
                r = counter_text_expand(c->options.message_id, number_of(c, c->lookup_position),
                                        &id);
                end.message_id = id;
                r = r < 0 ? r : 1;
        }
        if (r > 0)
                r = record(c, c->lookup_position, &end);
        if (r < 0)
                return fail_errno(c, r);
        c->lookup_position++;
        lookup_ask(c);
}

static void lookup_reply(Confirmations *c, const DaemonReply *reply) {
        const char *name = daemon_error_name(reply);

        if (streq(name, "LimitExceeded") || streq(name, "ShuttingDown")) {
                c->missed = true;
                return lookup_failed(c);
        }
        if (reply->error && (c->lookup_state == LOOKUP_FLUSHING || !streq(name, "NoSuchMessage")))
                return fail(c, say_error_reply("Cannot look up a message", reply));
        if (c->lookup_state == LOOKUP_FLUSHING) {
                c->lookup_state = LOOKUP_FINAL;
                lookup_ask(c);
        } else
                lookup_found(c, reply);
}

static void process_lookup(Confirmations *c) {
        int r;

        while (c->lookup && c->exit_code == EX_OK) {
                _cleanup_(daemon_reply_done) DaemonReply reply = {};

                r = daemon_connection_process(c->lookup);
                if (r >= 0)
                        r = daemon_connection_next(c->lookup, &reply);
                if (r == 0)
                        return;
                if (r == -ECONNRESET) {
                        c->missed = true;
                        return lookup_failed(c);
                }
                if (r < 0)
                        return fail_errno(c, r);
                lookup_reply(c, &reply);
        }
}

void confirmations_accepted(Confirmations *c, uint64_t position, uint64_t seq, uint64_t n) {
        sequence_map_trim(&c->seqs, c->ended.base);
        if (sequence_map_add(&c->seqs, position, seq, n) < 0)
                fail_errno(c, -ENOMEM);
}

/* Whether there is something to look up, now or at lookup_at. */
static bool wants_lookup(const Confirmations *c, uint64_t n_accepted, bool settled) {
        if (c->lookup || !c->subscribed || c->totals.ended >= n_accepted)
                return false;
        if (c->catching_up && position_set_next_missing(&c->ended, 0) < n_accepted)
                return true;
        return c->missed && settled;
}

void confirmations_poll(const Confirmations *c, struct pollfd fds[static CONFIRMATIONS_FDS]) {
        const DaemonConnection *connections[CONFIRMATIONS_FDS] = { c->subscription, c->lookup };

        for (size_t i = 0; i < CONFIRMATIONS_FDS; i++)
                fds[i] = (struct pollfd){
                        .fd = connections[i] ? daemon_connection_fd(connections[i]) : -1,
                        .events = connections[i] ? daemon_connection_poll_events(connections[i]) :
                                                   0,
                };
}

usec_t confirmations_deadline(const Confirmations *c) {
        usec_t t = usec_add(c->progress_at, c->options.timeout_usec);

        if (c->exit_code != EX_OK)
                return USEC_INFINITY;
        if (!c->subscription)
                t = MIN(t, c->retry_at);
        return c->lookup_wanted ? MIN(t, c->lookup_at) : t;
}

void confirmations_process(Confirmations *c, uint64_t n_accepted, bool settled, bool closing) {
        usec_t now = now_usec(CLOCK_MONOTONIC);
        char span[FORMAT_TIMESPAN_MAX];

        if (c->exit_code != EX_OK || !c->stream)
                return;
        if (!c->subscription && now >= c->retry_at)
                subscribe(c, now);
        process_subscription(c);
        if (wants_lookup(c, n_accepted, settled) && now >= c->lookup_at)
                lookup_start(c, n_accepted);
        process_lookup(c);
        c->lookup_wanted = wants_lookup(c, n_accepted, settled);

        if (!closing || !settled)
                c->progress_at = MAX(c->progress_at, now);
        else if (c->exit_code == EX_OK && c->totals.ended < n_accepted &&
                 now >= usec_add(c->progress_at, c->options.timeout_usec)) {
                say_error("No confirmation for %s, giving up; the messages are safe and stay queued",
                          format_timespan(span, sizeof(span), c->options.timeout_usec));
                fail(c, EXIT_TRY_AGAIN);
        }
}
