#include "client/amqp-retry.h"

#include <openssl/rand.h>

#include "lib/backoff.h"
#include "client/output.h"

#define FIRST_TRIES_MAX 4U

void amqp_retry_begin(AmqpRetry *r) {
        r->lived = false;
}

void amqp_retry_succeeded(AmqpRetry *r) {
        r->reached = r->lived = true;
        r->n_failed = 0;
}

bool amqp_retry_may(const AmqpRetry *r, const AmqpError *e) {
        if (!r->reached)
                return e->passing && e->rule && r->n_failed + 1 < FIRST_TRIES_MAX;
        /* A token ends; the next connection has a new one. Not so a partition that another reader took:
         * both would take it from each other for ever. */
        return e->passing || (r->lived && e->rule && e->rule->code / 1000 == 401);
}

int amqp_retry_wait(AmqpRetry *r, AmqpLoop *loop, const AmqpError *e, const char *what,
                    usec_t deadline_usec) {
        static const BackoffBounds bounds = {
                .min_usec = USEC_PER_SEC,
                .max_usec = 30 * USEC_PER_SEC,
                .cut_max_usec = 30 * USEC_PER_SEC,
                .refused_max_usec = USEC_PER_MINUTE,
        };
        char text[FORMAT_TIMESPAN_MAX];
        const usec_t left = usec_sub(deadline_usec, now_usec(CLOCK_MONOTONIC));
        uint64_t random = 0;
        usec_t delay;
        int k;

        (void) RAND_bytes((unsigned char *) &random,
                          sizeof(random)); /* without, all wait equally long */
        delay = backoff_delay_usec(BACKOFF_FAILED, r->n_failed++, &bounds, random);
        delay -= delay % USEC_PER_MSEC;
        r->exit_code = amqp_error_say(e, r->reached ? "Connection lost" : what);
        if (left > delay)
                say_error("Trying again in %s", format_timespan(text, sizeof(text), delay));
        k = amqp_loop_sleep(loop, MIN(delay, left));
        return k >= 0 && left <= delay ? -ETIME : k;
}
