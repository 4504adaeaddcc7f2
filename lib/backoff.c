#include "lib/backoff.h"

#include <assert.h>

#define REFUSED_SLOWER 10U
#define TAKEN_OVER_ATTEMPT_MAX 4U

/* first * (numerator/2)^attempt, at most cap. */
static usec_t grow(usec_t first, unsigned numerator, unsigned attempt, usec_t cap) {
        usec_t v = first;

        for (unsigned i = 0; i < attempt && v < cap; i++) {
                usec_t next;

                if (__builtin_mul_overflow(v, (usec_t) numerator, &next))
                        return cap;
                next /= 2;
                if (next == v) /* 0 and 1 would never grow */
                        break;
                v = next;
        }
        return MIN(v, cap);
}

/* low..high, evenly. */
static usec_t spread(usec_t low, usec_t high, uint64_t random) {
        __extension__ typedef unsigned __int128 Wide;

        return low + (usec_t) (((Wide) (high - low) * random) >> 64);
}

usec_t backoff_delay_usec(BackoffKind kind, unsigned attempt, const BackoffBounds *bounds, uint64_t random) {
        usec_t bound = 0, first;

        switch (kind) {
        case BACKOFF_LIVED:
                return spread(0, bounds->min_usec, random);
        case BACKOFF_FAILED:
                bound = grow(bounds->min_usec, 4, attempt, bounds->max_usec);
                break;
        case BACKOFF_WAKE:
                bound = MIN(bounds->min_usec, BACKOFF_WAKE_USEC_MAX);
                break;
        case BACKOFF_TAKEN_OVER:
                bound = grow(bounds->min_usec, 4, MIN(attempt, TAKEN_OVER_ATTEMPT_MAX), bounds->max_usec);
                break;
        case BACKOFF_CUT:
                bound = grow(bounds->max_usec, 3, attempt, bounds->cut_max_usec);
                break;
        case BACKOFF_REFUSED:
                if (__builtin_mul_overflow(bounds->min_usec, (usec_t) REFUSED_SLOWER, &first))
                        first = bounds->refused_max_usec;
                bound = grow(first, 4, attempt, bounds->refused_max_usec);
                break;
        default:
                assert(false);
        }
        return spread(bound / 2, bound, random);
}
