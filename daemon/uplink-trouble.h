/* uplink-trouble.h: the trouble that the uplink is in: since when, how often, whether it is over, and
 * when to tell it. Pure; times are CLOCK_BOOTTIME.
 *
 * It begins with the first failure and is over with what its class names as the cure. It is forgotten
 * once a connection has lived a quiet minute: what comes back before that is the same trouble, so that
 * "since" is not the last of many short connections. */
#pragma once

#include <stdbool.h>

#include "lib/time-util.h"
#include "daemon/uplink-reason.h"

/* A lasting trouble is told again after 4, 16, 64, ... tries, and at least this often. */
#define UPLINK_TROUBLE_TELL_USEC USEC_PER_DAY

typedef enum UplinkNewsType {
        UPLINK_NEWS_NONE,
        UPLINK_NEWS_FAILED,    /* a first failure, or one of another class */
        UPLINK_NEWS_STILL,     /* n_tries more since it was told last, over span_usec */
        UPLINK_NEWS_CONNECTED, /* first connection */
        UPLINK_NEWS_CURED,     /* after span_usec and n_tries of trouble, for the n_times-th time */
} UplinkNewsType;

typedef struct UplinkNews {
        UplinkNewsType type;
        UplinkErrorClass class;
        unsigned n_tries;
        usec_t span_usec;
        /* CURED: of what is over now alone, where it had been over for a moment before */
        unsigned n_times, n_tries_last;
        usec_t span_last_usec;
} UplinkNews;

/* Plain data; all zero is the start. */
typedef struct UplinkTrouble {
        UplinkErrorClass class; /* NONE: no trouble, or forgotten */
        usec_t since_usec;
        unsigned n_tries; /* that failed, and connections that were cut */
        unsigned n_times; /* that it began: it was over in between, for less than a quiet minute */
        usec_t begun_usec;      /* the last time; and how many tries since */
        unsigned n_tries_begun;
        bool over;
        bool was_connected; /* ever */

        UplinkErrorClass told_class;
        unsigned n_untold, tell_after;
        usec_t told_usec;
} UplinkTrouble;

/* A try or connection failed. */
UplinkNews uplink_trouble_on_failed(UplinkTrouble *t, UplinkErrorClass class, usec_t now_usec);

/* Something went well: CONNACK 0, a PUBACK, a quiet minute. */
UplinkNews uplink_trouble_on_cure(UplinkTrouble *t, UplinkCure cure, usec_t now_usec);

/* Whether there is trouble now. */
bool uplink_trouble_is_on(const UplinkTrouble *t);
