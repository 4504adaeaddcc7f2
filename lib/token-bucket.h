/* token-bucket.h: a rate with a burst. What was saved up may be used at once, then no more than the rate; who took more
 * than there was waits until it is paid back. Pure: the time comes in as an argument, from a clock that does not go back. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/time-util.h"

typedef struct TokenBucket {
        uint64_t per_sec; /* 0: no limit */
        int64_t burst, balance; /* millionths of a token: what one microsecond brings is a whole number of these */
        usec_t at_usec;   /* when the balance was that */
        bool overdrawn;   /* until some have come back, so that it is not asked for each single one */
} TokenBucket;

#define TOKEN_BUCKET_MAX 1000000000U /* of rate and burst */

/* Full. burst: at least 1. */
void token_bucket_init(TokenBucket *b, uint64_t per_sec, uint64_t burst, usec_t now_usec);

/* Whether anything may be taken; once that is so, it is as much as wanted. */
bool token_bucket_ready(TokenBucket *b, usec_t now_usec);
void token_bucket_take(TokenBucket *b, uint64_t n, usec_t now_usec);

/* When it will be ready; a time that has passed: it is. */
usec_t token_bucket_ready_at(const TokenBucket *b);

/* Whether it is as good as new. */
bool token_bucket_full(TokenBucket *b, usec_t now_usec);
