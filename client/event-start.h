/* event-start.h: from where on events are read: --from. Pure, but for the zone of local times. */
#pragma once

#include <stdbool.h>

#include "lib/time-util.h"

typedef enum EventStartKind {
        EVENT_START_NOW,
        EVENT_START_EARLIEST,
        EVENT_START_TIME,
} EventStartKind;

typedef struct EventStart {
        EventStartKind kind;
        usec_t time_usec; /* since 1970 UTC; of EVENT_START_TIME */
} EventStart;

/* "now"; "earliest"; an age as systemd.time(7) writes spans, "10min", "-1h 30min" or "2d ago"; a
 * time as it writes them, "2026-11-25 08:00:00", without seconds, without the time of day, or the
 * time of day alone, "today", "yesterday", "@1764057600"; "T" for the blank, fractions of a second,
 * and "Z", "UTC" or "+01:00" behind it; else local time. 0; -EINVAL; -ERANGE: it lies in the
 * future, or before 1970. */
int event_start_parse(const char *s, usec_t now, EventStart *ret);

/* A time alone, which may lie in the future: 0, -EINVAL or -ERANGE. */
int event_time_parse(const char *s, usec_t now, usec_t *ret);
