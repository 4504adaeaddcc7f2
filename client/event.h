/* event.h: a message from the hub's events endpoint, read in place. Pure. Annotations:
 * docs/hub-limits.md, "Events and messages to devices, over AMQP". */
#pragma once

#include "lib/amqp-value.h"

/* Points into the message's bytes. Texts that are absent are empty. */
typedef struct Event {
        AmqpMessage message;
        const char *partition; /* borrowed */
        AmqpBytes device, module, component, interface;
        AmqpBytes offset;
        int64_t sequence;      /* -1: it has none */
        int64_t enqueued_msec; /* since 1970 UTC; -1: it has none */
} Event;

/* 0 or -EBADMSG. */
int event_read(const void *data, size_t n, const char *partition, Event *ret);

/* The payload, whatever section it came in. */
AmqpBytes event_body(const Event *e);
