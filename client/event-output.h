/* event-output.h: an event as a line for people, or as JSON. Pure. */
#pragma once

#include <stdbool.h>

#include "lib/buffer.h"
#include "client/event.h"

typedef enum EventContent {
        EVENT_CONTENT_AUTO,
        EVENT_CONTENT_JSON,
        EVENT_CONTENT_TEXT,
        EVENT_CONTENT_BASE64,
        _EVENT_CONTENT_MAX,
        _EVENT_CONTENT_INVALID = -EINVAL,
} EventContent;

EventContent event_content_from_string(const char *s);

#define EVENT_PROPERTIES_SYSTEM 1U
#define EVENT_PROPERTIES_APPLICATION 2U
#define EVENT_PROPERTIES_ANNOTATIONS 4U
#define EVENT_PROPERTIES_ALL 7U

typedef struct EventFormat {
        bool json;
        EventContent content;
        unsigned properties; /* EVENT_PROPERTIES_; 0: not asked for: of JSON all, for people the ids
                              * and the application's in the event's own line */
} EventFormat;

/* "system,application", "all". 0 or -EINVAL. */
int event_properties_from_string(const char *s, unsigned *ret);

/* Appends the event with its newline. 0 or -ENOMEM; after a failure out may hold a part of it.
 * Bytes that are no UTF-8 and control characters never go out as they are. */
int event_format(const Event *e, const EventFormat *format, Buffer *out);
