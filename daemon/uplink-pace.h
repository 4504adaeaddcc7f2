/* uplink-pace.h: how many messages may be in flight. A hub that is sent more than it takes confirms
 * late, a minute or two before it cuts (docs/hub-limits.md, "Quotas and throttles"): then the
 * window halves, and it grows back slowly. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/time-util.h"

#define UPLINK_PACE_LATE_USEC (5 * USEC_PER_SEC)  /* a PUBACK that takes longer is late */
#define UPLINK_PACE_AGAIN_USEC (2 * USEC_PER_SEC) /* a link that stood still lets all go at once   \
                                                   */
#define UPLINK_PACE_GROW_USEC (10 * USEC_PER_SEC) /* without a late one: a sixteenth more */
#define UPLINK_PACE_MIN 4U

/* Plain data. */
typedef struct UplinkPace {
        unsigned window_max, window;
        uint64_t sample_seq; /* one message in flight is timed, 0: none */
        usec_t sample_usec;
        bool sample_late;    /* halved the window already */
        uint64_t newest_seq; /* handed over last, timed next; 0: none */
        usec_t newest_usec;
        usec_t grown_usec; /* when the window changed last */
        unsigned n_late;   /* times of this connection that PUBACKs came late ... */
        usec_t late_usec;  /* ... and when the last of them came */
} UplinkPace;

void uplink_pace_init(UplinkPace *p, unsigned window_max);

/* A connection begins: what was timed is gone, the window stays. */
void uplink_pace_on_connected(UplinkPace *p, usec_t now_usec);
void uplink_pace_on_sent(UplinkPace *p, uint64_t seq, usec_t now_usec);
void uplink_pace_on_confirmed(UplinkPace *p, const uint64_t *seqs, size_t n_seqs, usec_t now_usec);

/* The hub cut while it was late, or cuts what is sent time and again: the same as one late PUBACK. */
void uplink_pace_on_throttled(UplinkPace *p, usec_t now_usec);

/* A message ended otherwise: it is timed no more. */
void uplink_pace_forget(UplinkPace *p, uint64_t seq);

/* Whether the hub confirmed late, twice at least and within the last minute of this connection. One
 * may be a link that stood still for a moment. */
bool uplink_pace_is_late(const UplinkPace *p, usec_t now_usec);
