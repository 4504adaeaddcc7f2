/* uplink-logic.h: all that the uplink decides, put together: state machine, suspects, pace, trouble.
 * Pure: what is to be done comes out, the time and chance come in, so that a simulation runs the very
 * code that the daemon runs (tests/unit/test-uplink-simulation.c). uplink.c carries out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/uplink-diagnosis.h"
#include "daemon/uplink-pace.h"
#include "daemon/uplink-state.h"
#include "daemon/uplink-suspect.h"
#include "daemon/uplink-trouble.h"

#define UPLINK_BATCH 64U /* measured: larger ones gain nothing, smaller ones cost wake-ups */

typedef struct UplinkLogic {
        UplinkTimes times;
        UplinkMachine machine;
        UplinkSuspects suspects;
        UplinkPace pace;
        UplinkTrouble trouble;
} UplinkLogic;

/* The end of a connection or attempt, as its thread saw it. */
typedef struct UplinkEnd {
        UplinkErrorClass class;
        uint64_t first_seq; /* the oldest in flight, 0: none */
        usec_t realtime_usec, newest_usec; /* the wall clock, and when the newest message was stored */
} UplinkEnd;

void uplink_logic_init(UplinkLogic *l, const UplinkTimes *times, unsigned window, usec_t now_usec);

/* First step when a connection ended by itself: what is behind it, and what to do about messages:
 * rejections before the messages in flight go back to the queue, the rest after. Then
 * uplink_logic_decide() with ENDED and what this returned: class and refused. */
UplinkEvent uplink_logic_on_ended(UplinkLogic *l, const UplinkEnd *end, usec_t now_usec,
                                  UplinkSuspectPlan *ret_plan);

/* Decides on an event, returns UPLINK_ACTION_*. *ret_news: what to tell, class NONE and type NONE
 * where there is nothing. */
unsigned uplink_logic_decide(UplinkLogic *l, const UplinkEvent *event, usec_t now_usec,
                             uint64_t random, UplinkNews *ret_news);

/* Messages were handed over (then decide SENT) or confirmed (then decide CONFIRMED). */
void uplink_logic_on_sent(UplinkLogic *l, uint64_t last_seq, usec_t now_usec);
void uplink_logic_on_confirmed(UplinkLogic *l, const uint64_t *seqs, size_t n_seqs, usec_t now_usec,
                               UplinkSuspectPlan *ret_plan);

/* A message in flight or aside ended otherwise: unsendable, expired, dropped. */
void uplink_logic_forget(UplinkLogic *l, uint64_t seq);

/* How many messages may be in flight now. */
unsigned uplink_logic_window(const UplinkLogic *l);

/* How many to hand over now; 0: wait. In batches, since each hand-over costs a wake-up and a write. */
unsigned uplink_logic_room(const UplinkLogic *l, unsigned n_in_flight);

/* Nothing is in flight and nothing can be handed over, while n_queued are queued. Returns whether all is
 * done (then decide EMPTY), unless the plan brings something back. */
bool uplink_logic_on_empty(UplinkLogic *l, uint64_t n_queued, UplinkSuspectPlan *ret_plan);

/* Whether the wall clock was set so far that CLOCK_STEPPED has to be decided. The arguments: real time
 * minus time since boot, before and after. */
bool uplink_logic_is_clock_step(usec_t offset_before_usec, usec_t offset_usec);

/* How many keys there are to choose from, and whether they are others than before; before a connect. */
void uplink_logic_set_keys(UplinkLogic *l, unsigned n_keys, bool changed);

/* Whether a failure may be mended by what is in the credential files now. */
bool uplink_logic_wants_credentials(const UplinkLogic *l);
