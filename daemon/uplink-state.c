#include "daemon/uplink-state.h"

#include <assert.h>

const char *uplink_state_to_string(UplinkState s) {
        static const char *const names[_UPLINK_STATE_MAX] = {
                [UPLINK_STATE_STOPPED] = "stopped",     [UPLINK_STATE_HOLDING] = "holding",
                [UPLINK_STATE_RESOLVING] = "resolving", [UPLINK_STATE_CONNECTING] = "connecting",
                [UPLINK_STATE_CONNECTED] = "connected", [UPLINK_STATE_DRAINING] = "draining",
                [UPLINK_STATE_BACKOFF] = "backoff",
        };

        return s >= 0 && s < _UPLINK_STATE_MAX ? names[s] : NULL;
}

const char *uplink_error_class_to_string(UplinkErrorClass c) {
        static const char *const names[_UPLINK_ERROR_MAX] = {
                [UPLINK_ERROR_DNS] = "dns",
                [UPLINK_ERROR_NETWORK] = "network",
                [UPLINK_ERROR_TIMEOUT] = "timeout",
                [UPLINK_ERROR_TLS] = "tls",
                [UPLINK_ERROR_CLOCK] = "clock",
                [UPLINK_ERROR_REFUSED] = "refused",
                [UPLINK_ERROR_UNAVAILABLE] = "unavailable",
                [UPLINK_ERROR_CUT] = "cut",
                [UPLINK_ERROR_QUOTA] = "quota",
                [UPLINK_ERROR_LOCAL] = "local",
        };

        return c >= 0 && c < _UPLINK_ERROR_MAX ? names[c] : NULL;
}

void uplink_machine_init(UplinkMachine *m, usec_t now_usec) {
        *m = (UplinkMachine) {
                .state = UPLINK_STATE_STOPPED,
                .since_usec = now_usec,
                .deadline_usec = USEC_INFINITY,
                .renew_usec = USEC_INFINITY,
                .ack_usec = USEC_INFINITY,
                .stop_usec = USEC_INFINITY,
        };
}

static bool is_trying(const UplinkMachine *m) {
        return m->state == UPLINK_STATE_RESOLVING || m->state == UPLINK_STATE_CONNECTING;
}

static bool is_up(const UplinkMachine *m) {
        return m->state == UPLINK_STATE_CONNECTED || m->state == UPLINK_STATE_DRAINING;
}

static bool is_stopping(const UplinkMachine *m) {
        return m->stop_usec != USEC_INFINITY;
}

bool uplink_machine_may_send(const UplinkMachine *m) {
        return m->state == UPLINK_STATE_CONNECTED;
}

usec_t uplink_machine_deadline(const UplinkMachine *m) {
        usec_t t = m->deadline_usec;

        if (is_up(m))
                t = MIN(t, m->ack_usec);
        if (m->state == UPLINK_STATE_CONNECTED) {
                t = MIN(t, m->renew_usec);
                if (!m->proven)
                        t = MIN(t, m->since_usec + UPLINK_QUIET_USEC);
        }
        return t;
}

static void enter(UplinkMachine *m, UplinkState state, usec_t now, usec_t deadline) {
        m->state = state;
        m->since_usec = now;
        m->deadline_usec = deadline;
}

static unsigned forget_connection(UplinkMachine *m) {
        m->renew_usec = m->ack_usec = USEC_INFINITY;
        m->n_in_flight = 0;
        m->goodbye = m->was_connected = m->proven = false;
        return 0;
}

static unsigned connect_now(UplinkMachine *m, const UplinkTimes *t, usec_t now) {
        forget_connection(m);
        m->by_link_up = false;
        enter(m, UPLINK_STATE_RESOLVING, now, usec_add(now, t->connect_timeout_usec));
        return UPLINK_ACTION_CONNECT;
}

static unsigned stop_now(UplinkMachine *m, usec_t now) {
        forget_connection(m);
        enter(m, UPLINK_STATE_STOPPED, now, USEC_INFINITY);
        return UPLINK_ACTION_STOPPED;
}

/* A PUBACK or a quiet minute, never CONNACK: over quota the hub still answers CONNACK 0 and then
 * cuts (reference: "Facts that decide the design", 2). */
static void prove(UplinkMachine *m) {
        m->proven = true;
        m->attempt = m->n_failed = m->n_cuts_early = m->n_cuts_late = m->n_refused = 0;
}

static BackoffKind choose_backoff(UplinkMachine *m, UplinkErrorClass class, bool proven,
                                  unsigned *ret_attempt) {
        *ret_attempt = m->n_failed;
        if (proven && m->n_short > UPLINK_SHORT_MAX) {
                *ret_attempt = MIN(m->n_short - UPLINK_SHORT_MAX - 1, UPLINK_SHORT_ATTEMPT_MAX);
                return BACKOFF_FAILED;
        }
        if (proven)
                return BACKOFF_LIVED;
        if (class == UPLINK_ERROR_REFUSED) {
                *ret_attempt = m->n_refused++;
                return BACKOFF_REFUSED;
        }
        if (class == UPLINK_ERROR_QUOTA || class == UPLINK_ERROR_CUT) {
                unsigned *n = m->was_connected ? &m->n_cuts_late : &m->n_cuts_early;
                unsigned free_ones = m->was_connected ? UPLINK_CUTS_LATE : UPLINK_CUTS_EARLY;

                (*n)++;
                if (*n > free_ones) {
                        *ret_attempt = *n - free_ones - 1;
                        return BACKOFF_CUT;
                }
        }
        return BACKOFF_FAILED;
}

static unsigned fail(UplinkMachine *m, const UplinkTimes *t, UplinkErrorClass class, usec_t now,
                     uint64_t random) {
        unsigned attempt;
        BackoffKind kind;

        m->last_class = class;
        if (is_stopping(m))
                return stop_now(m, now);
        if (m->was_connected) {
                usec_t lived = now - m->connected_usec;
                bool is_short = class == UPLINK_ERROR_CUT && lived < UPLINK_SHORT_USEC;

                m->n_short = is_short ? m->n_short + 1 : 0;
        }
        kind = choose_backoff(m, class, m->proven, &attempt);
        m->attempt++;
        m->n_failed++;
        forget_connection(m);
        enter(m, UPLINK_STATE_BACKOFF, now,
              usec_add(now, backoff_delay_usec(kind, attempt, &t->backoff, random)));
        return 0;
}

static unsigned say_goodbye(UplinkMachine *m, usec_t now) {
        m->goodbye = true;
        enter(m, UPLINK_STATE_DRAINING, now, usec_add(now, UPLINK_GOODBYE_USEC));
        return UPLINK_ACTION_DISCONNECT;
}

static unsigned drain(UplinkMachine *m, usec_t now, usec_t deadline) {
        if (m->n_in_flight == 0)
                return say_goodbye(m, now);
        enter(m, UPLINK_STATE_DRAINING, now, deadline);
        return 0;
}

/* The connection is down, and not by accident. */
static unsigned after_goodbye(UplinkMachine *m, const UplinkTimes *t, usec_t now) {
        return is_stopping(m) ? stop_now(m, now) : connect_now(m, t, now);
}

static unsigned on_connected(UplinkMachine *m, usec_t token_life, usec_t now, uint64_t random) {
        m->was_connected = true;
        m->connected_usec = now;
        enter(m, UPLINK_STATE_CONNECTED, now, USEC_INFINITY);
        if (token_life != USEC_INFINITY) {
                usec_t percent = token_life / 100;

                m->renew_usec = usec_add(
                        now,
                        UPLINK_RENEW_PERCENT * percent -
                                (percent == 0
                                         ? 0
                                         : random % (UPLINK_RENEW_JITTER_PERCENT * percent + 1)));
        }
        return 0;
}

static unsigned on_confirmed(UplinkMachine *m, const UplinkTimes *t, uint64_t n, bool proof,
                             usec_t now) {
        assert(n <= m->n_in_flight);
        m->n_in_flight -= n;
        m->ack_usec = m->n_in_flight > 0 ? usec_add(now, t->ack_timeout_usec) : USEC_INFINITY;
        if (proof)
                prove(m);
        if (m->state == UPLINK_STATE_DRAINING && !m->goodbye && m->n_in_flight == 0)
                return say_goodbye(m, now);
        return 0;
}

static void on_sent(UplinkMachine *m, const UplinkTimes *t, uint64_t n, usec_t now) {
        if (m->n_in_flight == 0 && n > 0)
                m->ack_usec = usec_add(now, t->ack_timeout_usec);
        m->n_in_flight += n;
}

static unsigned on_link_up(UplinkMachine *m, const UplinkTimes *t, usec_t now, uint64_t random) {
        usec_t young = m->by_link_up ? t->connect_timeout_usec / 2 : t->backoff.min_usec, soon;

        /* An attempt from before the link came up hangs in a route that is gone; a young one knows
         * the new. Where addresses come all the time, as on a host of containers, every second
         * attempt has time to get through a slow link. */
        if (is_trying(m) && now - m->since_usec > young) {
                unsigned actions = UPLINK_ACTION_ABANDON | connect_now(m, t, now);

                m->by_link_up = true;
                return actions;
        }
        /* What the hub itself said it says on every link. */
        if (m->state != UPLINK_STATE_BACKOFF || m->last_class == UPLINK_ERROR_REFUSED ||
            m->last_class == UPLINK_ERROR_UNAVAILABLE || m->last_class == UPLINK_ERROR_QUOTA)
                return 0;
        /* Not at once: name servers and further addresses follow a moment later, and a link that
         * flaps must not make us spin. For the same reason the next waits are short again. */
        m->n_failed = 0;
        soon = usec_add(now, backoff_delay_usec(BACKOFF_FAILED, 0, &t->backoff, random));
        m->deadline_usec = MIN(m->deadline_usec, soon);
        return 0;
}

/* A token is wrong now, or may be right now. */
static unsigned on_identity(UplinkMachine *m, const UplinkTimes *t, usec_t now) {
        m->n_refused = 0;
        switch (m->state) {
        case UPLINK_STATE_HOLDING:
        case UPLINK_STATE_BACKOFF: return connect_now(m, t, now);
        case UPLINK_STATE_RESOLVING:
        case UPLINK_STATE_CONNECTING: return UPLINK_ACTION_ABANDON | connect_now(m, t, now);
        case UPLINK_STATE_CONNECTED: return drain(m, now, usec_add(now, UPLINK_DRAIN_USEC));
        default: return 0;
        }
}

static unsigned on_clock_stepped(UplinkMachine *m, const UplinkTimes *t, usec_t now) {
        bool by_clock = m->last_class == UPLINK_ERROR_REFUSED ||
                        m->last_class == UPLINK_ERROR_CLOCK || m->last_class == UPLINK_ERROR_TLS;

        if (m->state == UPLINK_STATE_BACKOFF && !by_clock)
                return 0;
        return m->state == UPLINK_STATE_HOLDING ? 0 : on_identity(m, t, now);
}

static unsigned on_timer_draining(UplinkMachine *m, const UplinkTimes *t, usec_t now,
                                  uint64_t random) {
        if (now < m->deadline_usec)
                return UPLINK_ACTION_ABANDON | fail(m, t, UPLINK_ERROR_TIMEOUT, now, random);
        return m->goodbye ? UPLINK_ACTION_ABANDON | after_goodbye(m, t, now) : say_goodbye(m, now);
}

static unsigned on_timer_connected(UplinkMachine *m, const UplinkTimes *t, usec_t now,
                                   uint64_t random) {
        if (now >= m->ack_usec)
                return UPLINK_ACTION_ABANDON | fail(m, t, UPLINK_ERROR_TIMEOUT, now, random);
        if (now >= m->deadline_usec) /* the stop's last part begins */
                return drain(m, now, m->stop_usec);
        if (now >= m->renew_usec)
                return drain(m, now, usec_add(now, UPLINK_DRAIN_USEC));
        prove(m); /* a quiet minute: nothing else is left that was due */
        return 0;
}

static unsigned on_timer(UplinkMachine *m, const UplinkTimes *t, usec_t now, uint64_t random) {
        UplinkErrorClass class;

        if (now < uplink_machine_deadline(m))
                return 0;

        switch (m->state) {
        case UPLINK_STATE_HOLDING:
        case UPLINK_STATE_BACKOFF:
                return connect_now(m, t, now);
        case UPLINK_STATE_RESOLVING:
        case UPLINK_STATE_CONNECTING:
                class = m->state == UPLINK_STATE_RESOLVING ? UPLINK_ERROR_DNS
                                                           : UPLINK_ERROR_TIMEOUT;
                return UPLINK_ACTION_ABANDON | fail(m, t, class, now, random);
        case UPLINK_STATE_CONNECTED:
                return on_timer_connected(m, t, now, random);
        case UPLINK_STATE_DRAINING:
                return on_timer_draining(m, t, now, random);
        default:
                return 0;
        }
}

/* A stop sends on until little of its time is left, then waits for PUBACKs. What is not sent is
 * safe on disk, so without a connection there is nothing to wait for. */
static unsigned on_stop(UplinkMachine *m, usec_t span, usec_t now) {
        usec_t last = MIN(span / 2, UPLINK_DRAIN_USEC);

        /* Never USEC_INFINITY, which means that no stop was asked for. */
        m->stop_usec = usec_add(now, MIN(span, USEC_PER_DAY));
        m->renew_usec = USEC_INFINITY;
        switch (m->state) {
        case UPLINK_STATE_CONNECTED: m->deadline_usec = usec_sub(m->stop_usec, last); return 0;
        case UPLINK_STATE_DRAINING:
                m->deadline_usec = MIN(m->deadline_usec, m->stop_usec);
                return 0;
        case UPLINK_STATE_RESOLVING:
        case UPLINK_STATE_CONNECTING: return UPLINK_ACTION_ABANDON | stop_now(m, now);
        default: return stop_now(m, now);
        }
}

static unsigned on_ended(UplinkMachine *m, const UplinkTimes *t, UplinkErrorClass class, usec_t now,
                         uint64_t random) {
        if (!is_trying(m) && !is_up(m))
                return 0;
        if (m->goodbye)
                return after_goodbye(m, t, now);
        return fail(m, t, class, now, random);
}

static unsigned on_event(UplinkMachine *m, const UplinkTimes *t, const UplinkEvent *e, usec_t now,
                         uint64_t random) {
        switch (e->type) {
        case UPLINK_EVENT_START:
                return m->state == UPLINK_STATE_STOPPED && !is_stopping(m) ? connect_now(m, t, now)
                                                                           : 0;
        case UPLINK_EVENT_HOLD:
                if (is_stopping(m))
                        return stop_now(m, now);
                forget_connection(m);
                enter(m, UPLINK_STATE_HOLDING, now, usec_add(now, UPLINK_HOLD_USEC));
                return UPLINK_ACTION_ABANDON;
        case UPLINK_EVENT_CREDENTIALS: return is_stopping(m) ? 0 : on_identity(m, t, now);
        case UPLINK_EVENT_LINK_UP: return is_stopping(m) ? 0 : on_link_up(m, t, now, random);
        case UPLINK_EVENT_CLOCK_STEPPED: return is_stopping(m) ? 0 : on_clock_stepped(m, t, now);
        case UPLINK_EVENT_RESOLVED:
                if (m->state == UPLINK_STATE_RESOLVING) /* the timeout goes on */
                        m->state = UPLINK_STATE_CONNECTING;
                return 0;
        case UPLINK_EVENT_CONNECTED:
                return is_trying(m) ? on_connected(m, e->span_usec, now, random) : 0;
        case UPLINK_EVENT_SENT: on_sent(m, t, e->n, now); return 0;
        case UPLINK_EVENT_CONFIRMED:
        case UPLINK_EVENT_DROPPED:
                return on_confirmed(m, t, e->n, e->type == UPLINK_EVENT_CONFIRMED, now);
        case UPLINK_EVENT_EMPTY:
                return is_stopping(m) && m->state == UPLINK_STATE_CONNECTED && m->n_in_flight == 0
                               ? say_goodbye(m, now)
                               : 0;
        case UPLINK_EVENT_ENDED: return on_ended(m, t, e->class, now, random);
        case UPLINK_EVENT_TIMER: return on_timer(m, t, now, random);
        case UPLINK_EVENT_STOP: return on_stop(m, e->span_usec, now);
        }
        return 0;
}

UplinkDecision uplink_decide(const UplinkMachine *m, const UplinkTimes *times,
                             const UplinkEvent *event, usec_t now_usec, uint64_t random) {
        UplinkDecision d = { .machine = *m };

        d.actions = on_event(&d.machine, times, event, now_usec, random);
        return d;
}
