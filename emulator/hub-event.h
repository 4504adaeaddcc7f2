/* hub-event.h: a received message as one line of events.jsonl. Pure.
 * Format: docs/emulator.md, "Events". */
#pragma once

#include "emulator/hub.h"
#include "lib/buffer.h"

/* Appends the JSON object and a newline. 0, -EMSGSIZE, -EINVAL (bag) or -ENOMEM; after a failure
 * out may hold half a line. */
int hub_event_format(const HubEvent *e, uint64_t sequence, Buffer *out);
