/* uplink-suspect.h: finds the message that makes the hub cut the connection. A publish that breaks
 * a rule gets no error, only a cut, and a used-up quota cuts at the first publish too (reference:
 * "Facts that decide the design", 2 and 3), so one cut proves nothing. Pure: what to do comes out
 * as a list for uplink.c.
 *
 * A message that was first in flight at UPLINK_SUSPECT_CUTS cuts is set aside and the next is tried.
 * If others are then confirmed it comes back for a trial, alone in flight. It is rejected only after
 * UPLINK_SUSPECT_TRIALS such trials that each ended in a cut soon after it was sent, with 1, 2, 4, ...
 * others confirmed before each: a quota that ended in between, or a poor link, would otherwise condemn a
 * good message. Where there are no others any more two trials and UPLINK_SUSPECT_LOOSE_CUTS further cuts
 * do; one trial does not, since a quota may end right before it. Whatever shows that the link cuts by chance (a message that was first in flight at a cut is
 * confirmed later) makes the trials so far void. If instead the next ones are cut too, all come back in
 * order: it is not the message. Each such round may set more aside than the one before, so that several
 * bad messages in a row are found too. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

#define UPLINK_SUSPECT_CUTS 3U
#define UPLINK_SUSPECT_TRIALS 4U
#define UPLINK_SUSPECT_LOOSE_CUTS 12U
#define UPLINK_SUSPECT_SOON_USEC (30 * USEC_PER_SEC) /* the hub cuts at once; the link may be slow */
#define UPLINK_SUSPECTS_MAX 16U
#define UPLINK_SUSPECT_CUTS_REMEMBERED 4U

typedef enum UplinkSuspectVerb {
        UPLINK_SUSPECT_SET_ASIDE,
        UPLINK_SUSPECT_UNSET_ASIDE,
        UPLINK_SUSPECT_REJECT,
} UplinkSuspectVerb;

typedef struct UplinkSuspectStep {
        UplinkSuspectVerb verb;
        uint64_t seq;
} UplinkSuspectStep;

typedef struct UplinkSuspectPlan {
        UplinkSuspectStep steps[UPLINK_SUSPECTS_MAX + 1]; /* in this order */
        size_t n_steps;
} UplinkSuspectPlan;

typedef enum UplinkSuspectPlace {
        UPLINK_SUSPECT_ASIDE,
        UPLINK_SUSPECT_ON_TRIAL, /* back in the queue, to be sent alone */
        UPLINK_SUSPECT_LOOSE,    /* back in the queue because nothing else is there: a cut says little */
} UplinkSuspectPlace;

/* Plain data; all zero is the start. */
typedef struct UplinkSuspects {
        struct {
                uint64_t seq;
                UplinkSuspectPlace place;
                unsigned n_trials;     /* that ended in a cut */
                unsigned n_loose_cuts; /* while nothing else was there */
                uint64_t n_others;     /* confirmed since it was set aside */
        } items[UPLINK_SUSPECTS_MAX];
        size_t n_items;
        unsigned n_rounds;   /* that ended without an explanation, since the last confirmation */
        uint64_t blamed_seq; /* first in flight at the last cut ... */
        unsigned n_blamed;   /* ... and at how many in a row */
        uint64_t cut_seqs[UPLINK_SUSPECT_CUTS_REMEMBERED]; /* first in flight at the last cuts */
        unsigned n_cuts;
        bool unexplained;    /* no single message explains the cuts: quota or tier */
} UplinkSuspects;

/* The hub cut the connection while first_seq was the oldest of n_in_flight, age_usec after messages
 * were sent last. */
void uplink_suspects_on_cut(UplinkSuspects *s, uint64_t first_seq, uint64_t n_in_flight,
                            usec_t age_usec, UplinkSuspectPlan *ret);

/* The hub confirmed these messages. */
void uplink_suspects_on_confirmed(UplinkSuspects *s, const uint64_t *seqs, size_t n_seqs,
                                  UplinkSuspectPlan *ret);

/* The hub is connected, nothing is in flight and nothing else is there to be tried: what is aside
 * comes back. */
void uplink_suspects_on_nothing_else(UplinkSuspects *s, UplinkSuspectPlan *ret);

/* A message is gone for another reason (expired, dropped): it is under suspicion no more. */
void uplink_suspects_forget(UplinkSuspects *s, uint64_t seq);

/* How many are set aside now. */
size_t uplink_suspects_n_aside(const UplinkSuspects *s);

/* Whether messages are to be sent one by one: so a trial is of one message, and a handful of others is
 * enough for all trials. */
bool uplink_suspects_one_by_one(const UplinkSuspects *s);

/* Whether this message is under suspicion. */
bool uplink_suspects_has(const UplinkSuspects *s, uint64_t seq);
