/* Two connections: one subscribes, one looks up. After the subscription was interrupted, or the
 * daemon dropped ends that we read too slowly, some messages may have ended unheard. Then, once
 * nothing is being sent, the second connection waits for Flush (all that was accepted has ended)
 * and asks for each message whose end is missing. */
#include <sysexits.h>

#include "client/confirmations.h"
#include "client/daemon-client.h"
#include "client/message-template.h"
#include "client/output.h"

#define RETRY_INTERVAL_USEC (200 * USEC_PER_MSEC)
#define AHEAD_MAX (16U * 1024U * 1024U) /* positions past the first open one: 2 MiB of bits */

/* Positions that have ended: all below base, and those whose bit is set. */
typedef struct PositionSet {
        uint64_t base; /* multiple of 64 */
        Buffer words;  /* uint64_t */
} PositionSet;

typedef enum LookupState {
        LOOKUP_NONE,
        LOOKUP_FLUSHING,
        LOOKUP_ASKING, /* about next_lookup */
        _LOOKUP_STATE_MAX,
        _LOOKUP_STATE_INVALID = -EINVAL,
} LookupState;

struct Confirmations {
        ConfirmationsOptions options;
        char *stream;
        uint64_t base;

        DaemonConnection *subscription;
        bool subscribed, ever_subscribed;
        bool missed;       /* ends may have gone unheard */
        bool wants_lookup; /* waits for retry_at only */

        DaemonConnection *lookup;
        LookupState lookup_state;
        uint64_t next_lookup, lookup_end;

        PositionSet ended;
        uint64_t *refused; /* positions, see number_of() */
        size_t n_refused, n_refused_allocated;
        ConfirmationTotals totals;

        usec_t retry_at, down_since, progress_at;
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
        buffer_done(&c->ended.words);
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

static size_t n_words(const PositionSet *p) {
        return p->words.size / sizeof(uint64_t);
}

static bool position_has(const PositionSet *p, uint64_t position) {
        uint64_t word;

        if (position < p->base)
                return true;
        if ((position - p->base) / 64 >= n_words(p))
                return false;
        word = ((const uint64_t *) (const void *) p->words.data)[(position - p->base) / 64];
        return word >> (position % 64) & 1;
}

/* Words that are full leave in blocks, so that the rest is moved rarely. */
static void position_trim(PositionSet *p) {
        const uint64_t *words = (const void *) p->words.data;
        size_t n = 0;

        while (n < n_words(p) && words[n] == UINT64_MAX)
                n++;
        if (n < 512)
                return;
        buffer_consume(&p->words, n * sizeof(uint64_t));
        p->base += n * 64;
}

/* 1, 0 (it is there), -ERANGE or -ENOMEM. */
static int position_add(PositionSet *p, uint64_t position) {
        uint64_t *words;
        size_t i, zeros;
        int r;

        if (position_has(p, position))
                return 0;
        if (position - p->base > AHEAD_MAX)
                return -ERANGE;
        i = (size_t) ((position - p->base) / 64);
        if (i >= n_words(p)) {
                zeros = (i + 1 - n_words(p)) * sizeof(uint64_t);
                r = buffer_reserve(&p->words, zeros);
                if (r < 0)
                        return r;
                memset(p->words.data + p->words.size, 0, zeros);
                p->words.size += zeros;
        }
        words = (void *) p->words.data;
        words[i] |= UINT64_C(1) << (position % 64);
        position_trim(p);
        return 1;
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

        r = position_add(&c->ended, position);
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

static void subscription_lost(Confirmations *c) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (c->subscribed)
                c->down_since = now;
        c->subscription = daemon_connection_free(c->subscription);
        c->subscribed = false;
        c->retry_at = usec_add(now, RETRY_INTERVAL_USEC);
}

void confirmations_follow(Confirmations *c, const char *stream, uint64_t base) {
        char *copy = strdup(stream);

        if (!copy)
                return fail_errno(c, -ENOMEM);
        free(c->stream);
        c->stream = copy;
        c->base = base;
        if (c->ever_subscribed)
                c->missed = true;
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
            now < usec_add(c->down_since, limit)) {
                c->retry_at = usec_add(now, RETRY_INTERVAL_USEC);
                return;
        }
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
                c->missed = true;
        c->subscribed = c->ever_subscribed = true;
        r = json_get_u64(reply->parameters, "missed", &missed);
        if (r >= 0)
                r = json_get_array(reply->parameters, "ends", &ends);
        if (r > 0)
                r = handle_ends(c, ends);
        if (r < 0)
                return fail_errno(c, r == -ENOMEM ? r : -EPROTO);
        if (missed > 0)
                c->missed = true;
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
        c->retry_at = retry_at;
}

/* Where it fails, the next turn tries again: missed stays set until a round is through. */
static void lookup_start(Confirmations *c, uint64_t n_accepted, usec_t now) {
        int r;

        r = daemon_connection_open(c->options.socket_path, &c->lookup);
        if (r >= 0)
                r = daemon_connection_call(c->lookup, "io.iothubd.Flush", NULL, /* more= */ false);
        if (r < 0)
                return lookup_stop(c, usec_add(now, RETRY_INTERVAL_USEC));
        c->missed = false;
        c->lookup_state = LOOKUP_FLUSHING;
        c->next_lookup = c->ended.base;
        c->lookup_end = n_accepted;
}

static void lookup_ask(Confirmations *c) {
        _cleanup_json_ struct json_object *parameters = json_object_new_object();
        _cleanup_free_ char *id = NULL;
        int r;

        while (c->next_lookup < c->lookup_end && position_has(&c->ended, c->next_lookup))
                c->next_lookup++;
        if (c->next_lookup >= c->lookup_end)
                return lookup_stop(c, 0);

        c->lookup_state = LOOKUP_ASKING;
        r = counter_text_expand(c->options.message_id, number_of(c, c->next_lookup), &id);
        if (r >= 0)
                r = parameters ? json_add_string(parameters, "messageId", id) : -ENOMEM;
        if (r >= 0)
                r = daemon_connection_call(c->lookup, "io.iothubd.GetMessage", parameters,
                                           /* more= */ false);
        if (r < 0)
                fail_errno(c, r);
}

static void lookup_found(Confirmations *c, const DaemonReply *reply) {
        Confirmation end = { .state = "unknown" };
        _cleanup_free_ char *id = NULL;
        struct json_object *message;
        int r;

        if (streq(daemon_error_name(reply), "NoSuchMessage")) {
                r = counter_text_expand(c->options.message_id, number_of(c, c->next_lookup), &id);
                end.message_id = id;
                r = r < 0 ? r : 1;
        } else {
                r = json_get_object(reply->parameters, "message", &message);
                r = r > 0 ? parse_end(message, &end) : -EPROTO;
        }
        if (r > 0)
                r = record(c, c->next_lookup, &end);
        if (r < 0)
                return fail_errno(c, r);
        c->next_lookup++;
        lookup_ask(c);
}

static void lookup_reply(Confirmations *c, const DaemonReply *reply) {
        const char *name = daemon_error_name(reply);

        if (streq(name, "LimitExceeded") || streq(name, "ShuttingDown")) {
                c->missed = true;
                return lookup_stop(c, usec_add(now_usec(CLOCK_MONOTONIC), RETRY_INTERVAL_USEC));
        }
        if (reply->error && !streq(name, "NoSuchMessage"))
                return fail(c, say_error_reply("Cannot look up a message", reply));
        if (c->lookup_state == LOOKUP_FLUSHING)
                lookup_ask(c);
        else
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
                        return lookup_stop(c, usec_add(now_usec(CLOCK_MONOTONIC),
                                                       RETRY_INTERVAL_USEC));
                }
                if (r < 0)
                        return fail_errno(c, r);
                lookup_reply(c, &reply);
        }
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
        return !c->subscription || c->wants_lookup ? MIN(t, c->retry_at) : t;
}

void confirmations_process(Confirmations *c, uint64_t n_accepted, bool settled, bool closing) {
        usec_t now = now_usec(CLOCK_MONOTONIC);
        char span[FORMAT_TIMESPAN_MAX];

        if (c->exit_code != EX_OK || !c->stream)
                return;
        if (!c->subscription && now >= c->retry_at)
                subscribe(c, now);
        process_subscription(c);
        c->wants_lookup = c->missed && c->subscribed && settled && !c->lookup &&
                          c->totals.ended < n_accepted;
        if (c->wants_lookup && now >= c->retry_at)
                lookup_start(c, n_accepted, now);
        c->wants_lookup = c->wants_lookup && !c->lookup;
        process_lookup(c);

        if (!closing || !settled)
                c->progress_at = MAX(c->progress_at, now);
        else if (c->exit_code == EX_OK && c->totals.ended < n_accepted &&
                 now >= usec_add(c->progress_at, c->options.timeout_usec)) {
                say_error("No confirmation for %s, giving up; the messages are safe and stay queued",
                          format_timespan(span, sizeof(span), c->options.timeout_usec));
                fail(c, EXIT_TRY_AGAIN);
        }
}
