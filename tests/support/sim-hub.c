#include "tests/support/sim-hub.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/test.h"

#define TOKEN_LIFE_USEC USEC_PER_HOUR
#define TOKEN_GRACE_USEC (10 * USEC_PER_MINUTE) /* the hub cuts that long after the end of a token */
#define CLOCK_WAIT_USEC (2 * USEC_PER_MINUTE)
#define YEAR_USEC (365 * USEC_PER_DAY)
#define BOOT_ID "00000000-0000-4000-8000-000000000000"

/* Tries in an hour that the laws of waiting allow: at the fastest, connections with PUBACKs that end soon,
 * one in 8 s; without a PUBACK and without anything from outside, one in 30 s and the quick first ones. */
#define CONNECTS_PER_HOUR_MAX 520U
#define CONNECTS_PER_HOUR_LONELY_MAX 135U
#define CONNECTS_PER_PROD 8U /* after a link came up the waits begin anew */

static const UplinkTimes times = {
        .connect_timeout_usec = 30 * USEC_PER_SEC,
        .ack_timeout_usec = 120 * USEC_PER_SEC,
        .backoff = { .min_usec = USEC_PER_SEC,
                     .max_usec = 60 * USEC_PER_SEC,
                     .cut_max_usec = 300 * USEC_PER_SEC,
                     .refused_max_usec = 600 * USEC_PER_SEC },
};

static const char *const fault_names[_SIM_FAULT_MAX] = {
        [SIM_DNS_HANGS] = "dns-hangs",       [SIM_DNS_FAILS] = "dns-fails",
        [SIM_LINK_DOWN] = "link-down",       [SIM_PORT_CLOSED] = "port-closed",
        [SIM_SILENT] = "silent",             [SIM_NO_CONNACK] = "no-connack",
        [SIM_TLS_ISSUER] = "tls-issuer",     [SIM_REFUSES] = "refuses",
        [SIM_UNAVAILABLE] = "unavailable",   [SIM_CUTS_EARLY] = "cuts-early",
        [SIM_QUOTA] = "quota",               [SIM_THROTTLES] = "throttles",
        [SIM_TAKEN_OVER] = "taken-over",     [SIM_NO_PUBACK] = "no-puback",
        [SIM_BAD_LINK] = "bad-link",         [SIM_PRIMARY_WRONG] = "primary-wrong",
        [SIM_BOTH_WRONG] = "both-wrong",     [SIM_CLOCK_WRONG] = "clock-wrong",
        [SIM_NO_CREDENTIALS] = "no-credentials", [SIM_POISON] = "poison",
};

const char *sim_fault_to_string(SimFault f) {
        return f >= 0 && f < _SIM_FAULT_MAX ? fault_names[f] : NULL;
}

void sim_fail(const Sim *s, const char *format, ...) {
        char text[512], faults[512] = "", span[FORMAT_TIMESPAN_MAX];
        unsigned n_bad = 0;
        va_list ap;

        for (size_t i = 0; i < s->n_messages; i++)
                n_bad += s->messages[i].poison;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        for (int f = 0; f < _SIM_FAULT_MAX; f++)
                if (s->faults[f])
                        (void) snprintf(faults + strlen(faults), sizeof(faults) - strlen(faults), " %s",
                                        fault_names[f]);
        ck_abort_msg("%s, %s after the start, state %s, last class %s, %zu messages (%u bad), "
                     "%zu suspects, faults:%s\n"
                     "# test-uplink-simulation --seed %" PRIu64 " repeats it",
                     text, format_timespan(span, sizeof(span), s->now_usec),
                     uplink_state_to_string(s->logic.machine.state),
                     strempty(uplink_error_class_to_string(s->logic.machine.last_class)),
                     s->n_messages, n_bad, s->logic.suspects.n_items, faults,
                     s->seed);
        abort();
}

static void dispatch(Sim *s, UplinkEvent e);

static uint64_t below(Sim *s, uint64_t n) {
        return random_below(&s->rng, n);
}

/* low..high */
static usec_t between(Sim *s, usec_t low, usec_t high) {
        return low + below(s, high - low);
}

static usec_t wall(const Sim *s) {
        return (usec_t) ((int64_t) (s->now_usec + s->hub_offset_usec) + s->clock_error_usec);
}

static bool clock_wrong(const Sim *s) {
        return uplink_clock_wrong(wall(s), s->newest_usec);
}

/* The outbox. */

static SimMessage *find(Sim *s, uint64_t seq) {
        for (size_t i = 0; i < s->n_messages; i++)
                if (s->messages[i].seq == seq)
                        return &s->messages[i];
        return NULL;
}

static void remove_message(Sim *s, SimMessage *m) {
        size_t i = (size_t) (m - s->messages);

        memmove(m, m + 1, (s->n_messages - i - 1) * sizeof(*m));
        s->n_messages--;
}

static void accept_message(Sim *s) {
        if (s->n_messages == SIM_MESSAGES_MAX)
                return; /* the outbox is full */
        s->messages[s->n_messages++] = (SimMessage) {
                .seq = ++s->last_seq,
                .born_usec = s->now_usec,
                .poison = s->faults[SIM_POISON] && below(s, 20) == 0,
        };
        s->n_accepted++;
        s->newest_usec = MAX(s->newest_usec, wall(s));
}

static unsigned n_in_flight(const Sim *s) {
        unsigned n = 0;

        for (size_t i = 0; i < s->n_messages; i++)
                n += s->messages[i].in_flight;
        return n;
}

static SimMessage *next_message(Sim *s) {
        for (size_t i = 0; i < s->n_messages; i++)
                if (!s->messages[i].in_flight && !s->messages[i].aside)
                        return &s->messages[i];
        return NULL;
}

static void carry_out(Sim *s, const UplinkSuspectPlan *plan) {
        for (size_t i = 0; i < plan->n_steps; i++) {
                const UplinkSuspectStep *step = &plan->steps[i];
                SimMessage *m = find(s, step->seq);

                if (!m)
                        sim_fail(s, "plan for message %" PRIu64 ", which has ended", step->seq);
                switch (step->verb) {
                case UPLINK_SUSPECT_SET_ASIDE: m->aside = true; break;
                case UPLINK_SUSPECT_UNSET_ASIDE: m->aside = false; break;
                case UPLINK_SUSPECT_REJECT:
                        if (!m->poison)
                                sim_fail(s, "good message %" PRIu64 " is rejected", m->seq);
                        s->n_rejected++;
                        remove_message(s, m);
                        break;
                }
        }
}

/* The connection. */

static void drop_link(Sim *s) {
        s->link = (SimLink) { .due_usec = USEC_INFINITY, .cut_usec = USEC_INFINITY,
                              .dead_usec = USEC_INFINITY };
        for (size_t i = 0; i < s->n_messages; i++)
                s->messages[i].in_flight = false;
}

static void end_link(Sim *s, UplinkErrorClass class) {
        UplinkEnd end = { .class = class, .realtime_usec = wall(s), .newest_usec = s->newest_usec };
        UplinkSuspectPlan plan;
        UplinkEvent e;

        for (size_t i = s->n_messages; i-- > 0;)
                if (s->messages[i].in_flight)
                        end.first_seq = s->messages[i].seq; /* sent in order */
        e = uplink_logic_on_ended(&s->logic, &end, s->now_usec, &plan);
        drop_link(s);
        carry_out(s, &plan);
        dispatch(s, e);
}

static void check_rate(Sim *s) {
        unsigned n = 0, n_prods = 0;
        bool lonely = s->now_usec - s->prodded_usec > 2 * USEC_PER_HOUR;

        s->connects[s->n_connects++ % ELEMENTSOF(s->connects)] = s->now_usec;
        for (size_t i = 0; i < MIN(s->n_connects, (uint64_t) ELEMENTSOF(s->connects)); i++)
                n += s->now_usec - s->connects[i] < USEC_PER_HOUR;
        for (size_t i = 0; i < MIN(s->n_prods, (uint64_t) ELEMENTSOF(s->prods)); i++)
                n_prods += s->now_usec - s->prods[i] < USEC_PER_HOUR;
        if (n > CONNECTS_PER_HOUR_MAX + CONNECTS_PER_PROD * n_prods)
                sim_fail(s, "%u tries in an hour, with %u prods", n, n_prods);
        if (lonely && s->now_usec - s->stalled_usec > USEC_PER_HOUR &&
            n > CONNECTS_PER_HOUR_LONELY_MAX)
                sim_fail(s, "%u tries in an hour without a PUBACK", n);
}

/* Whether an event follows, as in uplink.c. */
static bool start_attempt(Sim *s, UplinkEvent *ret_next) {
        drop_link(s);
        if (s->faults[SIM_NO_CREDENTIALS]) {
                *ret_next = (UplinkEvent) { .type = UPLINK_EVENT_HOLD };
                return true;
        }
        check_rate(s);
        uplink_logic_set_keys(&s->logic, 2, false);
        s->link.there = true;
        s->link.key = s->logic.machine.key;
        s->link.token_se_usec = wall(s) + TOKEN_LIFE_USEC;
        s->link.due_usec = s->faults[SIM_DNS_HANGS] ? USEC_INFINITY
                                                    : s->now_usec + between(s, 1000, USEC_PER_SEC / 5);
        return false;
}

static void connect_stage(Sim *s, bool fails, UplinkErrorClass class, bool hangs) {
        SimLink *l = &s->link;

        if (fails) {
                end_link(s, class);
                return;
        }
        l->stage++;
        l->due_usec = hangs ? USEC_INFINITY : s->now_usec + between(s, 1000, USEC_PER_SEC / 2);
}

/* The hub cuts, as its mood is; once CONNACK is sent. */
static usec_t choose_cut(Sim *s) {
        usec_t cut = USEC_INFINITY, hub_now = s->now_usec + s->hub_offset_usec,
               expiry = usec_sub(s->link.token_se_usec + TOKEN_GRACE_USEC, hub_now);

        if (s->faults[SIM_TAKEN_OVER])
                cut = MIN(cut, between(s, USEC_PER_SEC, 16 * USEC_PER_SEC));
        if (s->faults[SIM_BAD_LINK])
                cut = MIN(cut, below(s, 3) == 0 ? between(s, 1000, USEC_PER_SEC)
                                                : between(s, 1000, 3 * USEC_PER_MINUTE));
        if (s->faults[SIM_THROTTLES])
                cut = MIN(cut, between(s, 40 * USEC_PER_SEC, 2 * USEC_PER_MINUTE));
        expiry = MAX(expiry, USEC_PER_SEC);
        return s->now_usec + MIN(cut, expiry);
}

static void connack_stage(Sim *s) {
        SimLink *l = &s->link;
        usec_t hub_now = s->now_usec + s->hub_offset_usec;
        bool wrong_key = s->faults[SIM_BOTH_WRONG] || (s->faults[SIM_PRIMARY_WRONG] && l->key == 0);

        if (s->faults[SIM_CUTS_EARLY])
                end_link(s, UPLINK_ERROR_CUT);
        else if (s->faults[SIM_UNAVAILABLE])
                end_link(s, UPLINK_ERROR_UNAVAILABLE);
        else if (s->faults[SIM_REFUSES] || wrong_key || l->token_se_usec <= hub_now)
                end_link(s, UPLINK_ERROR_REFUSED);
        else {
                UplinkTrouble before = s->logic.trouble;

                l->stage = SIM_UP;
                l->due_usec = USEC_INFINITY;
                l->cut_usec = choose_cut(s);
                dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_CONNECTED,
                                            .span_usec = usec_sub(l->token_se_usec, wall(s)) });
                if (uplink_trouble_is_on(&before) && !uplink_trouble_is_on(&s->logic.trouble) &&
                    (before.class == UPLINK_ERROR_QUOTA || before.class == UPLINK_ERROR_TAKEN_OVER ||
                     before.class == UPLINK_ERROR_THROTTLED))
                        sim_fail(s, "CONNACK is told as the end of %s",
                                 uplink_error_class_to_string(before.class));
        }
}

static void tls_stage(Sim *s) {
        usec_t hub_now = s->now_usec + s->hub_offset_usec;

        /* A certificate of a year, made half a year ago. */
        if (wall(s) < hub_now - YEAR_USEC / 2)
                end_link(s, UPLINK_ERROR_CLOCK);
        else if (wall(s) > hub_now + YEAR_USEC / 2)
                end_link(s, UPLINK_ERROR_TLS_EXPIRED);
        else
                connect_stage(s, s->faults[SIM_TLS_ISSUER], UPLINK_ERROR_TLS_ISSUER,
                              s->faults[SIM_NO_CONNACK]);
}

static void link_stage(Sim *s) {
        SimLink *l = &s->link;

        if (l->goodbye) {
                drop_link(s);
                dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_ENDED });
                return;
        }
        switch (l->stage) {
        case SIM_RESOLVE:
                if (s->faults[SIM_DNS_FAILS] || s->faults[SIM_LINK_DOWN]) {
                        end_link(s, UPLINK_ERROR_DNS);
                        return;
                }
                connect_stage(s, false, UPLINK_ERROR_NONE, s->faults[SIM_SILENT]);
                dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_RESOLVED });
                return;
        case SIM_CONNECT:
                connect_stage(s, s->faults[SIM_PORT_CLOSED] || s->faults[SIM_LINK_DOWN],
                              UPLINK_ERROR_NETWORK, false);
                return;
        case SIM_TLS: tls_stage(s); return;
        case SIM_CONNACK: connack_stage(s); return;
        case SIM_UP: l->due_usec = USEC_INFINITY; return;
        }
}

static usec_t next_puback(const Sim *s, uint64_t *ret_seq) {
        usec_t due = USEC_INFINITY;

        if (s->link.dead)
                return due;
        for (size_t i = 0; i < s->n_messages; i++)
                if (s->messages[i].in_flight && s->messages[i].puback_usec < due) {
                        due = s->messages[i].puback_usec;
                        *ret_seq = s->messages[i].seq;
                }
        return due;
}

/* All that are due by now, in order. */
static void confirm(Sim *s) {
        UplinkSuspectPlan plan;
        uint64_t seqs[SIM_WINDOW];
        size_t n = 0;

        for (size_t i = 0; i < s->n_messages; i++)
                if (s->messages[i].in_flight && s->messages[i].puback_usec <= s->now_usec &&
                    n < ELEMENTSOF(seqs))
                        seqs[n++] = s->messages[i].seq;
        for (size_t i = 0; i < n; i++)
                remove_message(s, find(s, seqs[i]));
        s->n_confirmed += n;
        s->stalled_usec = s->now_usec;
        uplink_logic_on_confirmed(&s->logic, seqs, n, s->now_usec, &plan);
        carry_out(s, &plan);
        dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_CONFIRMED, .n = n });
}

static void publish(Sim *s, SimMessage *m, usec_t not_before) {
        SimLink *l = &s->link;
        usec_t latency = between(s, 20 * USEC_PER_MSEC, 300 * USEC_PER_MSEC);

        m->in_flight = true;
        if (s->faults[SIM_THROTTLES])
                latency = between(s, 6 * USEC_PER_SEC, 12 * USEC_PER_SEC);
        m->puback_usec = MAX(s->now_usec + latency, not_before);
        if (m->poison || s->faults[SIM_QUOTA] || s->faults[SIM_NO_PUBACK])
                m->puback_usec = USEC_INFINITY;
        if (m->poison || s->faults[SIM_QUOTA])
                l->cut_usec = MIN(l->cut_usec,
                                  s->now_usec + between(s, 10 * USEC_PER_MSEC, 500 * USEC_PER_MSEC));
}

/* As in uplink.c. */
static void pump(Sim *s) {
        unsigned room, n;

        while (s->link.there && (room = uplink_logic_room(&s->logic, n_in_flight(s))) > 0) {
                usec_t last = s->now_usec;
                UplinkSuspectPlan plan;
                SimMessage *m = NULL;
                uint64_t seq = 0;

                for (size_t i = 0; i < s->n_messages; i++)
                        if (s->messages[i].in_flight)
                                last = MAX(last, s->messages[i].puback_usec);
                for (n = 0; n < room && (m = next_message(s)); n++) {
                        publish(s, m, last);
                        last = MAX(last, m->puback_usec);
                        seq = m->seq;
                }
                if (n > 0) {
                        uplink_logic_on_sent(&s->logic, seq, s->now_usec);
                        dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_SENT, .n = n });
                        continue;
                }
                if (n_in_flight(s) > 0)
                        return;
                if (uplink_logic_on_empty(&s->logic, s->n_messages, &plan)) {
                        dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_EMPTY });
                        return;
                }
                carry_out(s, &plan);
        }
}

/* The invariants. */

static usec_t longest_wait(UplinkErrorClass class) {
        switch (class) {
        case UPLINK_ERROR_REFUSED:
        case UPLINK_ERROR_CREDENTIALS:
        case UPLINK_ERROR_CERTIFICATE: return times.backoff.refused_max_usec;
        case UPLINK_ERROR_CUT:
        case UPLINK_ERROR_QUOTA:
        case UPLINK_ERROR_TAKEN_OVER:
        case UPLINK_ERROR_THROTTLED: return times.backoff.cut_max_usec;
        default: return times.backoff.max_usec;
        }
}

static void check_wait(const Sim *s, const UplinkMachine *before) {
        const UplinkMachine *m = &s->logic.machine;
        usec_t wait = m->deadline_usec - s->now_usec;

        if (wait > longest_wait(m->last_class))
                sim_fail(s, "waits %" PRIu64 " us after %s", wait,
                         uplink_error_class_to_string(m->last_class));
        if (!before->proven && wait < times.backoff.min_usec / 2)
                sim_fail(s, "waits only %" PRIu64 " us without a success", wait);
        if (m->last_class == UPLINK_ERROR_REFUSED && m->refused_keys == 3 && m->n_refused > 10 &&
            wait < times.backoff.refused_max_usec / 2)
                sim_fail(s, "waits only %" PRIu64 " us after many refusals", wait);
}

static void check(const Sim *s, const UplinkMachine *before) {
        const UplinkMachine *m = &s->logic.machine;
        usec_t deadline = uplink_machine_deadline(m);
        bool resting = m->state == UPLINK_STATE_STOPPED;

        if (deadline == USEC_INFINITY && !resting)
                sim_fail(s, "%s for ever", uplink_state_to_string(m->state));
        if (m->state == UPLINK_STATE_BACKOFF && before->state != UPLINK_STATE_BACKOFF &&
            before->state != UPLINK_STATE_STOPPED)
                check_wait(s, before);
        if (m->n_in_flight != n_in_flight(s))
                sim_fail(s, "counts %" PRIu64 " in flight, %u are", m->n_in_flight, n_in_flight(s));
        if (m->n_in_flight > 0 && m->ack_usec > s->now_usec + times.ack_timeout_usec)
                sim_fail(s, "would wait longer than ack_timeout for PUBACKs");
        if (m->state == UPLINK_STATE_CONNECTED && m->renew_usec > s->now_usec + TOKEN_LIFE_USEC &&
            m->connected_usec == s->now_usec)
                sim_fail(s, "would renew after the token's end");
        if (m->state == UPLINK_STATE_DRAINING && m->deadline_usec > s->now_usec + UPLINK_DRAIN_USEC)
                sim_fail(s, "waits too long before a renewal");
        if (s->logic.pace.window == 0 || s->logic.pace.window > SIM_WINDOW)
                sim_fail(s, "window of %u", s->logic.pace.window);
        if (s->logic.suspects.n_items > UPLINK_SUSPECTS_MAX)
                sim_fail(s, "%zu suspects", s->logic.suspects.n_items);
}

static void check_not_idle(Sim *s) {
        if (uplink_machine_may_send(&s->logic.machine) && n_in_flight(s) == 0 && next_message(s))
                sim_fail(s, "connected, and nothing is sent of %zu messages", s->n_messages);
        if (s->n_accepted != s->n_confirmed + s->n_rejected + s->n_messages)
                sim_fail(s, "the books do not balance");
}

/* The glue, as in uplink.c. */
static void dispatch(Sim *s, UplinkEvent e) {
        bool more = true;

        while (more) {
                UplinkMachine before = s->logic.machine;
                UplinkEvent next = {};
                UplinkNews news;
                unsigned actions = uplink_logic_decide(&s->logic, &e, s->now_usec,
                                                       random_u64(&s->rng), &news);

                more = false;
                s->n_decisions++;
                if (actions & UPLINK_ACTION_ABANDON)
                        drop_link(s);
                if (actions & UPLINK_ACTION_CONNECT)
                        more = start_attempt(s, &next);
                if (actions & UPLINK_ACTION_DISCONNECT) {
                        s->link.goodbye = true;
                        s->link.due_usec = s->link.dead ? USEC_INFINITY : s->now_usec + 1000;
                }
                if (actions & UPLINK_ACTION_STOPPED)
                        drop_link(s);
                if (s->has_memory && s->logic.machine.state != UPLINK_STATE_STOPPED)
                        s->n_written += uplink_memory_keep(&s->memory, &s->logic.machine);
                if (more)
                        e = next;
                else
                        check(s, &before);
        }
}

/* What happens from outside. */

static void note_prod(Sim *s) {
        s->prods[s->n_prods++ % ELEMENTSOF(s->prods)] = s->now_usec;
        s->prodded_usec = s->now_usec;
}

static void step_clock(Sim *s, int64_t error_usec) {
        usec_t before = wall(s) - s->now_usec, after;

        s->clock_error_usec = error_usec;
        after = wall(s) - s->now_usec;
        if (!uplink_logic_is_clock_step(before, after))
                return;
        note_prod(s);
        dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_CLOCK_STEPPED, .clock_wrong = clock_wrong(s) });
}

static void start_daemon(Sim *s, bool crashed) {
        UplinkEvent start = { .type = UPLINK_EVENT_START };
        UplinkMemory previous = s->memory;

        for (size_t i = 0; i < s->n_messages; i++)
                s->messages[i].in_flight = s->messages[i].aside = false;
        drop_link(s);
        uplink_logic_init(&s->logic, &times, SIM_WINDOW, s->now_usec);
        start.delay_usec = uplink_memory_begin(s->has_memory && crashed ? &previous : NULL, BOOT_ID,
                                               &times, s->now_usec, random_u64(&s->rng), &s->memory,
                                               &s->logic.machine);
        s->has_memory = true;
        s->n_restarts++;
        if (clock_wrong(s))
                start.span_usec = CLOCK_WAIT_USEC;
        if (!crashed)
                note_prod(s);
        dispatch(s, start);
}

static void suspend(Sim *s) {
        s->now_usec += between(s, USEC_PER_MINUTE, 2 * USEC_PER_DAY);
        note_prod(s);
        if (s->link.there && s->link.stage == SIM_UP) { /* the hub has given it up long ago */
                s->link.dead = true;
                s->link.dead_usec = s->now_usec + between(s, 1000, 90 * USEC_PER_SEC);
        }
}

static int64_t random_clock_error(Sim *s) {
        static const usec_t spans[] = { 10 * USEC_PER_SEC, USEC_PER_HOUR, USEC_PER_DAY,
                                        30 * USEC_PER_DAY, 56 * YEAR_USEC };
        int64_t span = (int64_t) between(s, 1, spans[below(s, ELEMENTSOF(spans))]);

        return below(s, 2) ? span : -span;
}

static void link_up(Sim *s) {
        UplinkMachine before = s->logic.machine;
        const UplinkMachine *m = &s->logic.machine;

        note_prod(s);
        dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_LINK_UP });
        if (before.state != UPLINK_STATE_BACKOFF || m->deadline_usec == before.deadline_usec)
                return;
        if (m->state != UPLINK_STATE_BACKOFF ||
            m->deadline_usec < s->now_usec + times.backoff.min_usec / 2 ||
            m->deadline_usec > s->now_usec + BACKOFF_WAKE_USEC_MAX)
                sim_fail(s, "a link that comes up brings a try in %" PRIu64 " us",
                         m->deadline_usec - s->now_usec);
}

void sim_shock(Sim *s, SimShock shock) {
        SimLink *l = &s->link;

        switch (shock) {
        case SIM_CUT:
                if (l->there && l->stage == SIM_UP && !l->dead)
                        l->cut_usec = s->now_usec;
                break;
        case SIM_HALF_OPEN:
                if (!l->there || l->stage != SIM_UP || l->dead)
                        break;
                l->dead = true;
                l->cut_usec = USEC_INFINITY;
                l->dead_usec = s->now_usec + between(s, 30 * USEC_PER_SEC, 95 * USEC_PER_SEC);
                break;
        case SIM_SUSPEND: suspend(s); break;
        case SIM_CLOCK_STEP:
                s->clock_right_usec = s->now_usec + between(s, USEC_PER_MINUTE, USEC_PER_HOUR);
                step_clock(s, random_clock_error(s));
                break;
        case SIM_LINK_UP: link_up(s); break;
        case SIM_CREDENTIALS:
                note_prod(s);
                dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_CREDENTIALS });
                break;
        case SIM_CRASH:
                s->now_usec += USEC_PER_SEC;
                start_daemon(s, true);
                break;
        case SIM_RESTART: start_daemon(s, false); break;
        default: break;
        }
}

static void kill_link(Sim *s) {
        if (!s->link.there || s->link.stage != SIM_UP)
                return;
        if (below(s, 2))
                end_link(s, UPLINK_ERROR_NETWORK);
        else
                sim_shock(s, SIM_HALF_OPEN);
}

void sim_set_fault(Sim *s, SimFault f, bool on) {
        bool was = s->faults[f];

        s->faults[f] = on;
        if (was == on)
                return;
        if (f == SIM_LINK_DOWN && on)
                kill_link(s);
        if (f == SIM_LINK_DOWN && !on)
                sim_shock(s, SIM_LINK_UP);
        if (f == SIM_CLOCK_WRONG)
                step_clock(s, on ? -(int64_t) between(s, 2 * USEC_PER_HOUR, 300 * USEC_PER_DAY) : 0);
        if (on && s->link.there && s->link.stage == SIM_UP && (f == SIM_REFUSES || f == SIM_TAKEN_OVER))
                sim_shock(s, SIM_CUT);
}

void sim_clear_faults(Sim *s) {
        for (int f = 0; f < _SIM_FAULT_MAX; f++)
                sim_set_fault(s, (SimFault) f, false);
        if (s->clock_error_usec != 0)
                step_clock(s, 0);
        s->clock_right_usec = USEC_INFINITY;
}

void sim_begin(Sim *s, uint64_t seed) {
        *s = (Sim) { .seed = seed,
                     .rng = { seed * 7919 + 1 },
                     .now_usec = USEC_PER_MINUTE,
                     .hub_offset_usec = TIME_OF_RELEASE_USEC + 400 * USEC_PER_DAY,
                     .clock_right_usec = USEC_INFINITY,
                     .message_interval_usec = USEC_PER_MINUTE };
        s->next_message_usec = s->now_usec;
        start_daemon(s, false);
}

void sim_set_interval(Sim *s, usec_t interval_usec) {
        s->message_interval_usec = interval_usec;
        s->next_message_usec = s->now_usec + below(s, interval_usec);
}

/* What is due next happens. */
static void turn(Sim *s) {
        SimLink *l = &s->link;
        uint64_t seq;

        if (s->next_message_usec <= s->now_usec) {
                s->next_message_usec = s->now_usec + 1 + below(s, 2 * s->message_interval_usec);
                accept_message(s);
        } else if (s->clock_right_usec <= s->now_usec) {
                s->clock_right_usec = USEC_INFINITY;
                step_clock(s, 0);
        } else if (next_puback(s, &seq) <= s->now_usec)
                confirm(s);
        else if (l->cut_usec <= s->now_usec)
                end_link(s, UPLINK_ERROR_CUT);
        else if (l->dead_usec <= s->now_usec)
                end_link(s, UPLINK_ERROR_TIMEOUT);
        else if (l->due_usec <= s->now_usec)
                link_stage(s);
        else if (uplink_machine_deadline(&s->logic.machine) <= s->now_usec)
                dispatch(s, (UplinkEvent) { .type = UPLINK_EVENT_TIMER });
}

void sim_run(Sim *s, usec_t span_usec) {
        usec_t until = s->now_usec + span_usec, last = 0;
        unsigned n_same = 0;
        uint64_t seq;

        while (s->now_usec < until) {
                usec_t next;

                pump(s);
                check_not_idle(s);
                next = MIN(s->next_message_usec, s->clock_right_usec);
                next = MIN(next, next_puback(s, &seq));
                next = MIN(next, s->link.cut_usec);
                next = MIN(next, s->link.dead_usec);
                next = MIN(next, s->link.due_usec);
                next = MIN(next, uplink_machine_deadline(&s->logic.machine));
                if (next > until) {
                        s->now_usec = until;
                        break;
                }
                s->now_usec = MAX(s->now_usec, next);
                n_same = s->now_usec == last ? n_same + 1 : 0;
                if (n_same > 10000)
                        sim_fail(s, "time stands still");
                last = s->now_usec;
                turn(s);
        }
}
