#include "daemon/uplink-logic.h"

void uplink_logic_init(UplinkLogic *l, const UplinkTimes *times, unsigned window, usec_t now) {
        *l = (UplinkLogic) { .times = *times };
        uplink_machine_init(&l->machine, now);
        uplink_pace_init(&l->pace, window);
}

/* Only a cut that came from the hub while something was in flight says anything about a message. */
static void suspect(UplinkLogic *l, const UplinkEnd *end, usec_t now, UplinkSuspectPlan *ret) {
        *ret = (UplinkSuspectPlan) {};
        if (end->class == UPLINK_ERROR_CUT && l->machine.was_connected && end->first_seq != 0)
                uplink_suspects_on_cut(&l->suspects, end->first_seq, l->machine.n_in_flight,
                                       now - l->machine.sent_usec, ret);
}

/* The hub cuts soon, again and again, a connection that had PUBACKs, with much in flight. A throttle whose queue is
 * short does so without a late PUBACK before; so does a second holder of the identity, or a poor link, and nothing tells
 * which: the name stays. But each time all that was in flight goes out once more, and a repeat counts against throttle and
 * quota as the first did. */
static bool wastes_windows(const UplinkLogic *l, const UplinkSymptoms *s) {
        return s->class == UPLINK_ERROR_CUT && l->machine.proven && s->n_short > 1 && !s->quota && !s->one_message &&
               l->machine.n_in_flight > MIN(uplink_logic_window(l), UPLINK_BATCH) / 2;
}

UplinkEvent uplink_logic_on_ended(UplinkLogic *l, const UplinkEnd *end, usec_t now,
                                  UplinkSuspectPlan *ret_plan) {
        UplinkEvent event = { .type = UPLINK_EVENT_ENDED,
                              .refused = end->class == UPLINK_ERROR_REFUSED };
        UplinkSymptoms s;

        suspect(l, end, now, ret_plan);
        s = (UplinkSymptoms) {
                .class = end->class,
                .was_connected = l->machine.was_connected,
                .clock_wrong = uplink_clock_wrong_after_tls(end->realtime_usec, end->newest_usec),
                .quota = l->suspects.unexplained && end->first_seq != 0,
                .one_message = end->first_seq != 0 &&
                               uplink_suspects_has(&l->suspects, end->first_seq),
                .late = uplink_pace_is_late(&l->pace, now),
                .n_short = uplink_machine_n_short(&l->machine, now),
                .n_cuts_early = uplink_machine_n_cuts_early(&l->machine, end->class),
        };
        event.class = uplink_diagnose(&s);
        if ((event.class == UPLINK_ERROR_THROTTLED && s.was_connected) || wastes_windows(l, &s))
                uplink_pace_on_throttled(&l->pace, now);
        return event;
}

/* What the decision says about the trouble. */
static UplinkNews find_news(UplinkLogic *l, const UplinkEvent *e, const UplinkMachine *before,
                            bool failed, usec_t now) {
        const UplinkMachine *after = &l->machine;

        if (failed)
                return uplink_trouble_on_failed(&l->trouble, after->last_class, now);
        if (after->lived && !before->lived)
                return uplink_trouble_on_cure(&l->trouble, UPLINK_CURE_LIVED, now);
        if (e->type == UPLINK_EVENT_CONNECTED && !before->was_connected && after->was_connected)
                return uplink_trouble_on_cure(&l->trouble, UPLINK_CURE_CONNECTED, now);
        if (e->type == UPLINK_EVENT_CONFIRMED && e->n > 0)
                return uplink_trouble_on_cure(&l->trouble, UPLINK_CURE_CONFIRMED, now);
        return (UplinkNews) {};
}

/* A hub that confirms late is named before it cuts. Over it is with the next quiet minute, also where the
 * connection has had one. */
static UplinkNews find_throttling(UplinkLogic *l, usec_t now) {
        UplinkMachine *m = &l->machine;

        if (m->state != UPLINK_STATE_CONNECTED || uplink_trouble_is_on(&l->trouble) ||
            !uplink_pace_is_late(&l->pace, now))
                return (UplinkNews) {};
        m->lived = false;
        m->quiet_usec = usec_add(now, UPLINK_QUIET_USEC);
        return uplink_trouble_on_failed(&l->trouble, UPLINK_ERROR_THROTTLED, now);
}

unsigned uplink_logic_decide(UplinkLogic *l, const UplinkEvent *event, usec_t now, uint64_t random,
                             UplinkNews *ret_news) {
        UplinkMachine before = l->machine;
        UplinkEvent e = *event;
        UplinkDecision d;

        e.late = uplink_pace_is_late(&l->pace, now);
        d = uplink_decide(&before, &l->times, &e, now, random);
        l->machine = d.machine;
        if (event->type == UPLINK_EVENT_CONNECTED)
                uplink_pace_on_connected(&l->pace, now);
        *ret_news = find_news(l, event, &before, d.failed, now);
        if (event->type == UPLINK_EVENT_CONFIRMED && ret_news->type == UPLINK_NEWS_NONE)
                *ret_news = find_throttling(l, now);
        return d.actions;
}

void uplink_logic_on_sent(UplinkLogic *l, uint64_t last_seq, usec_t now) {
        uplink_pace_on_sent(&l->pace, last_seq, now);
}

void uplink_logic_set_keys(UplinkLogic *l, unsigned n_keys, bool changed) {
        UplinkMachine *m = &l->machine;

        m->n_keys = MAX(n_keys, 1U);
        if (changed || m->key >= m->n_keys)
                m->key = m->refused_keys = 0;
}

void uplink_logic_on_confirmed(UplinkLogic *l, const uint64_t *seqs, size_t n_seqs, usec_t now,
                               UplinkSuspectPlan *ret_plan) {
        uplink_pace_on_confirmed(&l->pace, seqs, n_seqs, now);
        uplink_suspects_on_confirmed(&l->suspects, seqs, n_seqs, ret_plan);
}

void uplink_logic_forget(UplinkLogic *l, uint64_t seq) {
        uplink_pace_forget(&l->pace, seq);
        uplink_suspects_forget(&l->suspects, seq);
}

unsigned uplink_logic_window(const UplinkLogic *l) {
        return uplink_suspects_one_by_one(&l->suspects) ? 1 : l->pace.window;
}

unsigned uplink_logic_room(const UplinkLogic *l, unsigned n_in_flight) {
        unsigned window = uplink_logic_window(l), third = MAX(window / 3, 1U);

        if (!uplink_machine_may_send(&l->machine) || n_in_flight + MIN(UPLINK_BATCH, third) > window)
                return 0;
        return MIN(UPLINK_BATCH, window - n_in_flight);
}

/* What is queued may still be on its way from the disk; only what is set aside does not count. */
bool uplink_logic_on_empty(UplinkLogic *l, uint64_t n_queued, UplinkSuspectPlan *ret_plan) {
        *ret_plan = (UplinkSuspectPlan) {};
        if (n_queued > uplink_suspects_n_aside(&l->suspects))
                return false;
        if (l->machine.stop_usec == USEC_INFINITY)
                uplink_suspects_on_nothing_else(&l->suspects, ret_plan);
        return ret_plan->n_steps == 0;
}

/* Smaller steps leave a token as good as it was: the hub forgives up to 5 minutes
 * (docs/hub-limits.md, "SAS tokens"). */
bool uplink_logic_is_clock_step(usec_t before, usec_t after) {
        usec_t step = after - before;

        return MIN(step, -step) >= USEC_PER_MINUTE;
}

bool uplink_logic_wants_credentials(const UplinkLogic *l) {
        switch (l->machine.last_class) {
        case UPLINK_ERROR_CLOCK:
        case UPLINK_ERROR_CREDENTIALS:
        case UPLINK_ERROR_CERTIFICATE:
        case UPLINK_ERROR_REFUSED: return true;
        default: return false;
        }
}
