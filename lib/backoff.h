/* backoff.h: how long to wait before the next try to connect. Pure: attempt, bounds and one random number come in.
 * Why these formulas: docs/hub-limits.md, "Coming back". */
#pragma once

#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

/* Name servers and further addresses follow a link by a moment, and machines behind one router come back together: so
 * not at once, but soon enough that the backlog drains within two seconds. */
#define BACKOFF_WAKE_USEC_MAX USEC_PER_SEC

typedef enum BackoffKind {
        BACKOFF_LIVED,   /* a connection that had lived is gone: a first quick try, spread over min */
        BACKOFF_FAILED,  /* name, network, TLS or a timeout: min * 2^attempt up to max */
        BACKOFF_CUT,     /* the hub accepted and cut, or is throttling: max * 1.5^attempt up to cut_max */
        BACKOFF_REFUSED, /* credentials refused: ten times as slow as FAILED, up to refused_max */
        BACKOFF_WAKE,       /* a link came up: min once more, spread, but never more than BACKOFF_WAKE_USEC_MAX */
        BACKOFF_TAKEN_OVER, /* as FAILED, but never slower than 16 times min: each side waits for the other to stop */
        _BACKOFF_KIND_MAX,
        _BACKOFF_KIND_INVALID = -EINVAL,
} BackoffKind;

typedef struct BackoffBounds {
        usec_t min_usec, max_usec, cut_max_usec, refused_max_usec;
} BackoffBounds;

/* The next delay. attempt: failures of this kind in a row before this one, from 0. random: all 64 bits are used.
 * Between half of the kind's bound and the bound ("equal jitter"); LIVED between 0 and min. */
usec_t backoff_delay_usec(BackoffKind kind, unsigned attempt, const BackoffBounds *bounds, uint64_t random);
