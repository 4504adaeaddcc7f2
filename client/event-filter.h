/* event-filter.h: which devices' events are shown. Pure. */
#pragma once

#include "client/event.h"

/* Patterns: a device id, or "DEVICE/MODULE"; "*" stands for any text, unless it is the id as it is,
 * for the hub allows asterisks in ids. No patterns: all. */
bool event_filter_matches(char *const *patterns, size_t n, const Event *e);

/* Whether the text is an id to be looked up, and no pattern. */
bool event_filter_is_id(const char *pattern);
