#include "daemon/uplink-suspect.h"

static void add_step(UplinkSuspectPlan *p, UplinkSuspectVerb verb, uint64_t seq) {
        p->steps[p->n_steps++] = (UplinkSuspectStep) { .verb = verb, .seq = seq };
}

static void remove_item(UplinkSuspects *s, size_t i) {
        memmove(&s->items[i], &s->items[i + 1], (s->n_items - i - 1) * sizeof(s->items[0]));
        s->n_items--;
}

static bool find(const UplinkSuspects *s, uint64_t seq, size_t *ret_i) {
        for (size_t i = 0; i < s->n_items; i++)
                if (s->items[i].seq == seq) {
                        *ret_i = i;
                        return true;
                }
        return false;
}

size_t uplink_suspects_n_aside(const UplinkSuspects *s) {
        size_t n = 0;

        for (size_t i = 0; i < s->n_items; i++)
                n += !s->items[i].on_trial;
        return n;
}

/* The one set aside last comes back first: each goes to the front of its lane, so the oldest ends
 * up foremost. */
static void bring_back(UplinkSuspects *s, UplinkSuspectPlan *p) {
        for (size_t i = s->n_items; i-- > 0;)
                if (!s->items[i].on_trial)
                        add_step(p, UPLINK_SUSPECT_UNSET_ASIDE, s->items[i].seq);
}

static void end_round(UplinkSuspects *s, UplinkSuspectPlan *p) {
        bring_back(s, p);
        s->n_items = 0;
        s->n_rounds++;
        s->n_blamed = 0;
        s->unexplained = true;
}

/* 1, 2, 4, ... */
static size_t room_in_round(const UplinkSuspects *s) {
        return s->n_rounds < 4 ? (size_t) 1 << s->n_rounds : UPLINK_SUSPECTS_MAX;
}

void uplink_suspects_on_cut(UplinkSuspects *s, uint64_t first_seq, UplinkSuspectPlan *ret) {
        size_t i, n_aside;

        *ret = (UplinkSuspectPlan) {};
        s->n_blamed = s->blamed_seq == first_seq ? s->n_blamed + 1 : 1;
        s->blamed_seq = first_seq;

        if (find(s, first_seq, &i)) {
                add_step(ret, UPLINK_SUSPECT_REJECT,
                         first_seq); /* on trial: one set aside is never in flight */
                remove_item(s, i);
                return;
        }

        n_aside = uplink_suspects_n_aside(s);
        if (n_aside == 0 && s->n_blamed < UPLINK_SUSPECT_CUTS)
                return;
        if (n_aside < room_in_round(s) && s->n_items < UPLINK_SUSPECTS_MAX) {
                s->items[s->n_items].seq = first_seq;
                s->items[s->n_items++].on_trial = false;
                add_step(ret, UPLINK_SUSPECT_SET_ASIDE, first_seq);
                return;
        }

        end_round(s, ret);
}

void uplink_suspects_on_nothing_else(UplinkSuspects *s, UplinkSuspectPlan *ret) {
        *ret = (UplinkSuspectPlan) {};
        if (uplink_suspects_n_aside(s) > 0)
                end_round(s, ret);
}

void uplink_suspects_on_confirmed(UplinkSuspects *s, const uint64_t *seqs, size_t n_seqs,
                                  UplinkSuspectPlan *ret) {
        size_t i;

        *ret = (UplinkSuspectPlan) {};
        if (n_seqs == 0)
                return;
        s->n_rounds = s->n_blamed = 0;
        s->unexplained = false;
        if (s->n_items == 0)
                return; /* nearly always */

        for (size_t k = 0; k < n_seqs; k++)
                if (find(s, seqs[k], &i))
                        remove_item(s, i);
        bring_back(s, ret);
        for (i = 0; i < s->n_items; i++)
                s->items[i].on_trial = true;
}

void uplink_suspects_forget(UplinkSuspects *s, uint64_t seq) {
        size_t i;

        if (find(s, seq, &i))
                remove_item(s, i);
}
