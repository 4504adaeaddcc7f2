/* hub-event-scan.h: a line of events.jsonl back into an event. Pure. It reads what
 * hub_event_format() writes, member by member in that order, and no other JSON: several times as
 * fast as a parser that builds a tree, for readers that go through a million lines. */
#pragma once

#include "emulator/hub-event.h"

/* Zero-initialised is fine; keeps its memory from line to line. */
typedef struct HubEventScan {
        HubStoredEvent event;
        HubEventProperty *properties;
        size_t n_allocated;
} HubEventScan;

void hub_event_scan_done(HubEventScan *s);

/* line: n bytes without the newline, which are decoded in place: s->event points into them. 0,
 * -EBADMSG (not a line of ours) or -ENOMEM. */
int hub_event_scan(HubEventScan *s, char *line, size_t n);

/* The same up to the place; only that, the device and the module are set. */
int hub_event_scan_place(HubEventScan *s, char *line, size_t n);
