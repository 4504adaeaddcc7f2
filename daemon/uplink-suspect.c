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
                n += s->items[i].place == UPLINK_SUSPECT_ASIDE;
        return n;
}

bool uplink_suspects_one_by_one(const UplinkSuspects *s) {
        return s->n_items > 0;
}

bool uplink_suspects_has(const UplinkSuspects *s, uint64_t seq) {
        size_t i;

        return find(s, seq, &i) || (s->blamed_seq == seq && s->n_blamed >= 2);
}

/* The one set aside last comes back first: each goes to the front of its lane, so the oldest ends
 * up foremost. */
static void bring_back(UplinkSuspects *s, UplinkSuspectPlace place, UplinkSuspectPlan *p) {
        for (size_t i = s->n_items; i-- > 0;) {
                if (s->items[i].place == UPLINK_SUSPECT_ASIDE)
                        add_step(p, UPLINK_SUSPECT_UNSET_ASIDE, s->items[i].seq);
                s->items[i].place = place;
        }
}

/* Those that enough others were confirmed for. */
static void begin_trials(UplinkSuspects *s, UplinkSuspectPlan *p) {
        for (size_t i = s->n_items; i-- > 0;) {
                if (s->items[i].n_others < UINT64_C(1) << s->items[i].n_trials)
                        continue;
                if (s->items[i].place == UPLINK_SUSPECT_ASIDE)
                        add_step(p, UPLINK_SUSPECT_UNSET_ASIDE, s->items[i].seq);
                s->items[i].place = UPLINK_SUSPECT_ON_TRIAL;
        }
}

/* Others pass while these are aside, so it is no quota. */
static bool others_pass(const UplinkSuspects *s) {
        for (size_t i = 0; i < s->n_items; i++)
                if (s->items[i].place == UPLINK_SUSPECT_ASIDE && s->items[i].n_others == 0)
                        return false;
        return true;
}

static void end_round(UplinkSuspects *s, UplinkSuspectPlan *p) {
        bring_back(s, UPLINK_SUSPECT_LOOSE, p);
        s->n_items = 0;
        s->n_rounds++;
        s->n_blamed = 0;
        s->unexplained = true;
}

/* 1, 2, 4, ... */
static size_t room_in_round(const UplinkSuspects *s) {
        return s->n_rounds < 4 ? (size_t) 1 << s->n_rounds : UPLINK_SUSPECTS_MAX;
}

/* Once a round has gone by in vain the first ones are known to cut; setting aside condemns nobody. */
static unsigned cuts_in_round(const UplinkSuspects *s) {
        return s->n_rounds == 0 ? UPLINK_SUSPECT_CUTS : 1;
}

static void set_aside(UplinkSuspects *s, size_t i, UplinkSuspectPlan *p) {
        s->items[i].place = UPLINK_SUSPECT_ASIDE;
        s->items[i].n_others = 0;
        add_step(p, UPLINK_SUSPECT_SET_ASIDE, s->items[i].seq);
}

static void on_suspect_cut(UplinkSuspects *s, size_t i, bool alone_and_soon, UplinkSuspectPlan *p) {
        if (alone_and_soon && s->items[i].place == UPLINK_SUSPECT_ON_TRIAL)
                s->items[i].n_trials++;
        else if (alone_and_soon)
                s->items[i].n_loose_cuts++;
        if (s->items[i].n_trials >= UPLINK_SUSPECT_TRIALS ||
            (s->items[i].n_trials >= 2 &&
             s->items[i].n_loose_cuts >= UPLINK_SUSPECT_LOOSE_CUTS)) {
                add_step(p, UPLINK_SUSPECT_REJECT, s->items[i].seq);
                remove_item(s, i);
                return;
        }
        set_aside(s, i, p);
}

void uplink_suspects_on_cut(UplinkSuspects *s, uint64_t first_seq, uint64_t n_in_flight,
                            usec_t age_usec, UplinkSuspectPlan *ret) {
        size_t i, n_aside;

        *ret = (UplinkSuspectPlan) {};
        s->n_blamed = s->blamed_seq == first_seq ? s->n_blamed + 1 : 1;
        s->blamed_seq = first_seq;
        s->cut_seqs[s->n_cuts++ % UPLINK_SUSPECT_CUTS_REMEMBERED] = first_seq;

        if (find(s, first_seq, &i)) {
                on_suspect_cut(s, i, n_in_flight == 1 && age_usec <= UPLINK_SUSPECT_SOON_USEC, ret);
                return;
        }

        if (others_pass(s)) {
                if (s->n_blamed < cuts_in_round(s) || s->n_items == UPLINK_SUSPECTS_MAX)
                        return;
                n_aside = 0;
        } else
                n_aside = uplink_suspects_n_aside(s);
        if (n_aside < room_in_round(s) && s->n_items < UPLINK_SUSPECTS_MAX) {
                s->items[s->n_items] = (__typeof__(s->items[0])) { .seq = first_seq };
                set_aside(s, s->n_items++, ret);
                return;
        }

        end_round(s, ret);
}

void uplink_suspects_on_nothing_else(UplinkSuspects *s, UplinkSuspectPlan *ret) {
        bool tried = false;

        *ret = (UplinkSuspectPlan) {};
        if (uplink_suspects_n_aside(s) == 0)
                return;
        for (size_t i = 0; i < s->n_items; i++)
                tried = tried || s->items[i].n_trials > 0;
        if (!tried) {
                end_round(s, ret);
                return;
        }
        /* Others pass, or did: the trials go on when there are others again. */
        bring_back(s, UPLINK_SUSPECT_LOOSE, ret);
        s->unexplained = s->unexplained || s->n_blamed >= 2 * UPLINK_SUSPECT_CUTS;
}

static bool was_first_at_a_cut(const UplinkSuspects *s, uint64_t seq) {
        for (size_t i = 0; i < MIN(s->n_cuts, UPLINK_SUSPECT_CUTS_REMEMBERED); i++)
                if (s->cut_seqs[i] == seq)
                        return true;
        return false;
}

/* Where there are suspects, which is hardly ever. */
static void weigh(UplinkSuspects *s, const uint64_t *seqs, size_t n_seqs) {
        bool by_chance = false;
        uint64_t n_others = 0;
        size_t i;

        for (size_t k = 0; k < n_seqs; k++) {
                by_chance = by_chance || was_first_at_a_cut(s, seqs[k]);
                if (find(s, seqs[k], &i))
                        remove_item(s, i);
                else
                        n_others++;
        }
        for (i = 0; i < s->n_items; i++) {
                s->items[i].n_others += n_others;
                if (by_chance)
                        s->items[i].n_trials = s->items[i].n_loose_cuts = 0;
        }
}

void uplink_suspects_on_confirmed(UplinkSuspects *s, const uint64_t *seqs, size_t n_seqs,
                                  UplinkSuspectPlan *ret) {
        *ret = (UplinkSuspectPlan) {};
        if (n_seqs == 0)
                return;
        if (s->n_items > 0) {
                weigh(s, seqs, n_seqs);
                begin_trials(s, ret);
        }
        s->n_rounds = s->n_blamed = 0;
        s->unexplained = false;
}

void uplink_suspects_forget(UplinkSuspects *s, uint64_t seq) {
        size_t i;

        if (find(s, seq, &i))
                remove_item(s, i);
}
