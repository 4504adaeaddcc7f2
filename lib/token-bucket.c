#include "lib/token-bucket.h"

#include <assert.h>

#include "lib/macro.h"

#define UNIT INT64_C(1000000)
#define PAUSES_PER_SEC 20 /* who sends faster than the rate is stopped and let go on that often */

void token_bucket_init(TokenBucket *b, uint64_t per_sec, uint64_t burst, usec_t now_usec) {
        assert(per_sec <= TOKEN_BUCKET_MAX && burst >= 1 && burst <= TOKEN_BUCKET_MAX);

        *b = (TokenBucket) {
                .per_sec = per_sec,
                .burst = (int64_t) burst * UNIT,
                .balance = (int64_t) burst * UNIT,
                .at_usec = now_usec,
        };
}

/* With so much in it an overdrawn one is ready again. */
static int64_t enough(const TokenBucket *b) {
        int64_t part = (int64_t) b->per_sec * UNIT / PAUSES_PER_SEC;

        part = MAX(part, UNIT);
        return MIN(part, b->burst);
}

static usec_t usec_until(const TokenBucket *b, int64_t balance) {
        if (b->per_sec == 0 || b->balance >= balance)
                return 0;
        return ((usec_t) (balance - b->balance) + b->per_sec - 1) / b->per_sec;
}

static void refill(TokenBucket *b, usec_t now_usec) {
        usec_t span = usec_sub(now_usec, b->at_usec);

        if (span >= usec_until(b, b->burst))
                b->balance = b->burst;
        else
                b->balance += (int64_t) (span * b->per_sec);
        b->at_usec = MAX(b->at_usec, now_usec);
        if (b->balance >= enough(b))
                b->overdrawn = false;
}

bool token_bucket_ready(TokenBucket *b, usec_t now_usec) {
        if (b->per_sec == 0)
                return true;
        refill(b, now_usec);
        return !b->overdrawn;
}

void token_bucket_take(TokenBucket *b, uint64_t n, usec_t now_usec) {
        if (b->per_sec == 0)
                return;
        refill(b, now_usec);
        b->balance -= (int64_t) MIN(n, (uint64_t) TOKEN_BUCKET_MAX) * UNIT;
        b->balance = MAX(b->balance, -(int64_t) TOKEN_BUCKET_MAX * UNIT);
        b->overdrawn = b->overdrawn || b->balance < UNIT;
}

usec_t token_bucket_ready_at(const TokenBucket *b) {
        return b->overdrawn ? usec_add(b->at_usec, usec_until(b, enough(b))) : b->at_usec;
}

bool token_bucket_full(TokenBucket *b, usec_t now_usec) {
        if (b->per_sec == 0)
                return true;
        refill(b, now_usec);
        return b->balance == b->burst;
}
