#include "daemon/uplink-pace.h"

#include "lib/macro.h"

void uplink_pace_init(UplinkPace *p, unsigned window_max) {
        *p = (UplinkPace){ .window_max = window_max, .window = window_max };
}

void uplink_pace_on_connected(UplinkPace *p, usec_t now) {
        p->sample_seq = p->newest_seq = 0;
        p->sample_late = false;
        p->n_late = 0;
        p->grown_usec = now;
}

void uplink_pace_forget(UplinkPace *p, uint64_t seq) {
        if (p->sample_seq == seq)
                p->sample_seq = 0;
        if (p->newest_seq == seq)
                p->newest_seq = 0;
}

void uplink_pace_on_sent(UplinkPace *p, uint64_t seq, usec_t now) {
        if (p->sample_seq != 0) {
                p->newest_seq = seq;
                p->newest_usec = now;
                return;
        }
        p->sample_seq = seq;
        p->sample_usec = now;
        p->sample_late = false;
}

static void halve(UplinkPace *p, usec_t now) {
        p->grown_usec = now;
        if (p->window > UPLINK_PACE_MIN)
                p->window = MAX(p->window / 2, UPLINK_PACE_MIN);
}

void uplink_pace_on_throttled(UplinkPace *p, usec_t now) {
        halve(p, now);
}

static void grow(UplinkPace *p, usec_t now) {
        if (p->window == p->window_max || now - p->grown_usec < UPLINK_PACE_GROW_USEC)
                return;
        p->window += MAX(p->window_max / 16, 1U);
        p->window = MIN(p->window, p->window_max);
        p->grown_usec = now;
}

static void note_late(UplinkPace *p, usec_t now) {
        if (!p->sample_late)
                halve(p, now);
        p->sample_late = true;
        if (p->n_late > 0 && now - p->late_usec < UPLINK_PACE_AGAIN_USEC)
                return;
        p->n_late++;
        p->late_usec = now;
}

/* What was handed over behind the sample is of the same window, which halves once. */
static void end_sample(UplinkPace *p) {
        p->sample_seq = p->newest_seq;
        p->sample_usec = p->newest_usec;
        p->newest_seq = 0;
}

/* Only one message at a time is timed. The PUBACKs of others count while it waits: a window that
 * takes minutes tells that it is late in its first seconds. */
void uplink_pace_on_confirmed(UplinkPace *p, const uint64_t *seqs, size_t n_seqs, usec_t now) {
        bool sampled = false;

        if (n_seqs > 0 && p->sample_seq != 0 && now - p->sample_usec > UPLINK_PACE_LATE_USEC)
                note_late(p, now);
        for (size_t i = 0; i < n_seqs; i++) {
                sampled = sampled || seqs[i] == p->sample_seq;
                if (seqs[i] == p->newest_seq)
                        p->newest_seq = 0;
        }
        if (sampled)
                end_sample(p);
        grow(p, now);
}

bool uplink_pace_is_late(const UplinkPace *p, usec_t now) {
        return p->n_late >= 2 && now - p->late_usec < USEC_PER_MINUTE;
}
