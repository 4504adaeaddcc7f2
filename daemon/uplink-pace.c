#include "daemon/uplink-pace.h"

#include "lib/macro.h"

void uplink_pace_init(UplinkPace *p, unsigned window_max) {
        *p = (UplinkPace) { .window_max = window_max, .window = window_max };
}

void uplink_pace_on_connected(UplinkPace *p, usec_t now) {
        p->sample_seq = 0;
        p->n_late = 0;
        p->grown_usec = now;
}

void uplink_pace_forget(UplinkPace *p, uint64_t seq) {
        if (p->sample_seq == seq)
                p->sample_seq = 0;
}

void uplink_pace_on_sent(UplinkPace *p, uint64_t seq, usec_t now) {
        if (p->sample_seq != 0)
                return;
        p->sample_seq = seq;
        p->sample_usec = now;
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

/* Only one message at a time is timed, so that a whole window that is late halves it once. */
void uplink_pace_on_confirmed(UplinkPace *p, const uint64_t *seqs, size_t n_seqs, usec_t now) {
        for (size_t i = 0; i < n_seqs && p->sample_seq != 0; i++) {
                if (seqs[i] != p->sample_seq)
                        continue;
                p->sample_seq = 0;
                if (now - p->sample_usec <= UPLINK_PACE_LATE_USEC)
                        continue;
                p->n_late++;
                p->late_usec = now;
                halve(p, now);
        }
        grow(p, now);
}

bool uplink_pace_is_late(const UplinkPace *p, usec_t now) {
        return p->n_late >= 2 && now - p->late_usec < USEC_PER_MINUTE;
}
