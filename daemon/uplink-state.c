#include "daemon/uplink-state.h"

#include <assert.h>

const char *uplink_state_to_string(UplinkState s) {
        static const char *const names[_UPLINK_STATE_MAX] = {
                [UPLINK_STATE_STOPPED] = "stopped",     [UPLINK_STATE_HOLDING] = "holding",
                [UPLINK_STATE_RESOLVING] = "resolving", [UPLINK_STATE_CONNECTING] = "connecting",
                [UPLINK_STATE_CONNECTED] = "connected", [UPLINK_STATE_DRAINING] = "draining",
                [UPLINK_STATE_BACKOFF] = "backoff",     [UPLINK_STATE_CLOCK] = "waiting-for-clock",
        };

        return s >= 0 && s < _UPLINK_STATE_MAX ? names[s] : NULL;
}

void uplink_machine_init(UplinkMachine *m, usec_t now_usec) {
        *m = (UplinkMachine) {
                .state = UPLINK_STATE_STOPPED,
                .since_usec = now_usec,
                .deadline_usec = USEC_INFINITY,
                .renew_usec = USEC_INFINITY,
                .quiet_usec = USEC_INFINITY,
                .ack_usec = USEC_INFINITY,
                .stop_usec = USEC_INFINITY,
                .n_keys = 1,
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
                t = MIN(t, m->quiet_usec);
        }
        return t;
}

static void enter(UplinkMachine *m, UplinkState state, usec_t now, usec_t deadline) {
        m->state = state;
        m->since_usec = now;
        m->deadline_usec = deadline;
}

static unsigned forget_connection(UplinkMachine *m) {
        m->renew_usec = m->quiet_usec = m->ack_usec = USEC_INFINITY;
        m->n_in_flight = 0;
        m->goodbye = m->was_connected = m->proven = m->lived = false;
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
        m->law_attempt = m->attempt = m->n_failed = m->n_cuts_early = m->n_cuts_late = m->n_refused = 0;
}

unsigned uplink_machine_n_short(const UplinkMachine *m, usec_t now_usec) {
        if (!m->was_connected)
                return m->n_short;
        return now_usec - m->connected_usec < UPLINK_SHORT_USEC ? m->n_short + 1 : 0;
}

unsigned uplink_machine_n_cuts_early(const UplinkMachine *m, UplinkErrorClass class) {
        return m->n_cuts_early + (class == UPLINK_ERROR_CUT && !m->was_connected);
}

/* The hub cut. Classes that are more than that come from uplink-diagnosis.h. */
static bool is_cut(UplinkErrorClass class) {
        return class == UPLINK_ERROR_CUT || class == UPLINK_ERROR_TAKEN_OVER ||
               class == UPLINK_ERROR_THROTTLED || class == UPLINK_ERROR_QUOTA;
}

/* The hub confirms late and cuts in waves: a PUBACK in between proves nothing. */
static bool is_throttled(const UplinkMachine *m, UplinkErrorClass class) {
        return class == UPLINK_ERROR_THROTTLED && m->was_connected;
}

static BackoffKind choose_backoff_cut(UplinkMachine *m, unsigned *ret_attempt) {
        unsigned *n = m->was_connected ? &m->n_cuts_late : &m->n_cuts_early;
        unsigned free_ones = m->was_connected ? UPLINK_CUTS_LATE : UPLINK_CUTS_EARLY;

        (*n)++;
        *ret_attempt = *n > free_ones ? *n - free_ones - 1 : m->n_failed;
        return *n > free_ones ? BACKOFF_CUT : BACKOFF_FAILED;
}

static BackoffKind choose_backoff(UplinkMachine *m, UplinkErrorClass class,
                                  unsigned *ret_attempt) {
        *ret_attempt = m->n_failed;
        if (!is_cut(class)) /* a poor link cuts, too, and is told by what it does else */
                m->n_cuts_early = 0;
        if (is_throttled(m, class)) {
                *ret_attempt = m->n_throttled++;
                return BACKOFF_CUT;
        }
        if (m->proven && m->n_short > UPLINK_SHORT_MAX) {
                *ret_attempt = m->n_short - UPLINK_SHORT_MAX - 1;
                return BACKOFF_TAKEN_OVER;
        }
        if (m->proven)
                return BACKOFF_LIVED;
        if (is_cut(class))
                return choose_backoff_cut(m, ret_attempt);
        if (uplink_reason(class) && uplink_reason(class)->law == BACKOFF_REFUSED)
                *ret_attempt = m->n_refused++;
        return uplink_reason(class) ? uplink_reason(class)->law : BACKOFF_FAILED;
}

/* The hub refused this key: the other is next. Returns whether it was not refused yet, so that it
 * is worth a quick try. */
static bool change_key(UplinkMachine *m) {
        m->refused_keys |= 1U << m->key;
        m->key = (m->key + 1) % m->n_keys;
        return !(m->refused_keys & 1U << m->key);
}

static void forget_refusals(UplinkMachine *m) {
        m->n_refused = m->refused_keys = 0;
}

static unsigned fail(UplinkMachine *m, const UplinkTimes *t, UplinkErrorClass class, bool refused,
                     usec_t now, uint64_t random) {
        unsigned attempt;
        BackoffKind kind;

        m->last_class = class;
        if (is_stopping(m))
                return stop_now(m, now);
        m->n_short = uplink_machine_n_short(m, now);
        if (refused && change_key(m)) {
                kind = BACKOFF_FAILED;
                attempt = 0;
        } else
                kind = choose_backoff(m, class, &attempt);
        m->law = kind;
        m->law_attempt = attempt;
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
        m->quiet_usec = usec_add(now, UPLINK_QUIET_USEC);
        m->refused_keys &= ~(1U << m->key);
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
        m->sent_usec = now;
}

/* What the hub itself said it says on every link. */
static bool depends_on_link(UplinkErrorClass class) {
        switch (class) {
        case UPLINK_ERROR_CLOCK:
        case UPLINK_ERROR_CREDENTIALS:
        case UPLINK_ERROR_CERTIFICATE:
        case UPLINK_ERROR_REFUSED:
        case UPLINK_ERROR_UNAVAILABLE:
        case UPLINK_ERROR_TAKEN_OVER:
        case UPLINK_ERROR_THROTTLED:
        case UPLINK_ERROR_QUOTA: return false;
        default: return true;
        }
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
        if (m->state != UPLINK_STATE_BACKOFF || !depends_on_link(m->last_class))
                return 0;
        /* Not at once: name servers and further addresses follow a moment later, and a link that
         * flaps must not make us spin. For the same reason the next waits are short again. */
        if (m->link_reset_usec == 0 || now - m->link_reset_usec >= UPLINK_LINK_RESET_USEC) {
                m->n_failed = 0;
                m->link_reset_usec = now;
        }
        soon = usec_add(now, backoff_delay_usec(BACKOFF_WAKE, 0, &t->backoff, random));
        m->deadline_usec = MIN(m->deadline_usec, soon);
        return 0;
}

/* A token is wrong now, or may be right now. */
static unsigned on_identity(UplinkMachine *m, const UplinkTimes *t, usec_t now) {
        forget_refusals(m);
        switch (m->state) {
        case UPLINK_STATE_HOLDING:
        case UPLINK_STATE_CLOCK:
        case UPLINK_STATE_BACKOFF: return connect_now(m, t, now);
        case UPLINK_STATE_RESOLVING:
        case UPLINK_STATE_CONNECTING: return UPLINK_ACTION_ABANDON | connect_now(m, t, now);
        case UPLINK_STATE_CONNECTED: return drain(m, now, usec_add(now, UPLINK_DRAIN_USEC));
        default: return 0;
        }
}

static bool depends_on_clock(UplinkErrorClass class) {
        switch (class) {
        case UPLINK_ERROR_TLS:
        case UPLINK_ERROR_TLS_ISSUER:
        case UPLINK_ERROR_TLS_EXPIRED:
        case UPLINK_ERROR_CLOCK:
        case UPLINK_ERROR_CERTIFICATE:
        case UPLINK_ERROR_REFUSED: return true;
        default: return false;
        }
}

static unsigned on_clock_stepped(UplinkMachine *m, const UplinkTimes *t, bool wrong, usec_t now) {
        if (m->state == UPLINK_STATE_HOLDING || (m->state == UPLINK_STATE_CLOCK && wrong) ||
            (m->state == UPLINK_STATE_BACKOFF && !depends_on_clock(m->last_class)))
                return 0;
        return on_identity(m, t, now);
}

/* A token made by a clock that is decades off costs a refusal and a slow retry; boards without a
 * battery get the time from the network a moment after the link. */
static unsigned on_start(UplinkMachine *m, const UplinkTimes *t, const UplinkEvent *e, usec_t now) {
        if (m->state != UPLINK_STATE_STOPPED || is_stopping(m))
                return 0;
        if (e->span_usec > 0)
                enter(m, UPLINK_STATE_CLOCK, now, usec_add(now, MIN(e->span_usec, USEC_PER_DAY)));
        else if (e->delay_usec > 0)
                enter(m, UPLINK_STATE_BACKOFF, now, usec_add(now, MIN(e->delay_usec, USEC_PER_DAY)));
        else
                return connect_now(m, t, now);
        return 0;
}

static unsigned on_timer_draining(UplinkMachine *m, const UplinkTimes *t, usec_t now,
                                  uint64_t random) {
        if (now < m->deadline_usec) /* a PUBACK is overdue */
                return UPLINK_ACTION_ABANDON |
                       fail(m, t, UPLINK_ERROR_UNCONFIRMED, false, now, random);
        return m->goodbye ? UPLINK_ACTION_ABANDON | after_goodbye(m, t, now) : say_goodbye(m, now);
}

/* A minute has passed; a quiet one proves the connection as a PUBACK does. */
static void on_minute(UplinkMachine *m, const UplinkTimes *t, bool late, usec_t now) {
        bool stalled = m->n_in_flight > 0 &&
                       now >= usec_sub(m->ack_usec, t->ack_timeout_usec) + UPLINK_STALL_USEC;

        m->quiet_usec = late || stalled ? usec_add(now, UPLINK_QUIET_USEC) : USEC_INFINITY;
        if (late || stalled)
                return;
        prove(m);
        m->lived = true;
        m->n_short = m->n_throttled = 0;
}

static unsigned on_timer_connected(UplinkMachine *m, const UplinkTimes *t, bool late, usec_t now,
                                   uint64_t random) {
        if (now >= m->ack_usec)
                return UPLINK_ACTION_ABANDON |
                       fail(m, t, UPLINK_ERROR_UNCONFIRMED, false, now, random);
        if (now >= m->deadline_usec) /* the stop's last part begins */
                return drain(m, now, m->stop_usec);
        if (now >= m->renew_usec)
                return drain(m, now, usec_add(now, UPLINK_DRAIN_USEC));
        on_minute(m, t, late, now); /* nothing else is left that was due */
        return 0;
}

static unsigned on_timer(UplinkMachine *m, const UplinkTimes *t, bool late, usec_t now,
                         uint64_t random) {
        UplinkErrorClass class;

        if (now < uplink_machine_deadline(m))
                return 0;

        switch (m->state) {
        case UPLINK_STATE_HOLDING:
        case UPLINK_STATE_CLOCK:
        case UPLINK_STATE_BACKOFF:
                return connect_now(m, t, now);
        case UPLINK_STATE_RESOLVING:
        case UPLINK_STATE_CONNECTING:
                class = m->state == UPLINK_STATE_RESOLVING ? UPLINK_ERROR_DNS
                                                           : UPLINK_ERROR_TIMEOUT;
                return UPLINK_ACTION_ABANDON | fail(m, t, class, false, now, random);
        case UPLINK_STATE_CONNECTED:
                return on_timer_connected(m, t, late, now, random);
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

static unsigned on_ended(UplinkMachine *m, const UplinkTimes *t, const UplinkEvent *e, usec_t now,
                         uint64_t random) {
        if (!is_trying(m) && !is_up(m))
                return 0;
        if (m->goodbye)
                return after_goodbye(m, t, now);
        return fail(m, t, e->class, e->refused, now, random);
}

static unsigned on_event(UplinkMachine *m, const UplinkTimes *t, const UplinkEvent *e, usec_t now,
                         uint64_t random) {
        switch (e->type) {
        case UPLINK_EVENT_START:
                return on_start(m, t, e, now);
        case UPLINK_EVENT_HOLD:
                if (is_stopping(m))
                        return stop_now(m, now);
                forget_connection(m);
                enter(m, UPLINK_STATE_HOLDING, now, usec_add(now, UPLINK_HOLD_USEC));
                return UPLINK_ACTION_ABANDON;
        case UPLINK_EVENT_CREDENTIALS:
                m->key = 0;
                return is_stopping(m) ? 0 : on_identity(m, t, now);
        case UPLINK_EVENT_LINK_UP: return is_stopping(m) ? 0 : on_link_up(m, t, now, random);
        case UPLINK_EVENT_CLOCK_STEPPED:
                return is_stopping(m) ? 0 : on_clock_stepped(m, t, e->clock_wrong, now);
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
        case UPLINK_EVENT_ENDED: return on_ended(m, t, e, now, random);
        case UPLINK_EVENT_TIMER: return on_timer(m, t, e->late, now, random);
        case UPLINK_EVENT_STOP: return on_stop(m, e->span_usec, now);
        }
        return 0;
}

UplinkDecision uplink_decide(const UplinkMachine *m, const UplinkTimes *times,
                             const UplinkEvent *event, usec_t now_usec, uint64_t random) {
        UplinkDecision d = { .machine = *m };

        d.actions = on_event(&d.machine, times, event, now_usec, random);
        d.failed = d.machine.attempt > m->attempt;
        return d;
}
