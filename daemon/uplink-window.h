/* uplink-window.h: what is in flight, in the order it was sent. PUBACKs come in that order
 * (MQTT 3.1.1 section 4.6), so taking one out looks at the oldest first and nearly always finds it
 * there. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"

typedef struct UplinkWindowItem {
        uint64_t key, value;
} UplinkWindowItem;

/* A ring. n: items in it; the rest is private. */
typedef struct UplinkWindow {
        UplinkWindowItem *items;
        size_t mask, i_oldest, n;
} UplinkWindow;

/* Room for capacity items. 0 or -ENOMEM. */
int uplink_window_init(UplinkWindow *w, size_t capacity);
void uplink_window_done(UplinkWindow *w);

/* There must be room. */
void uplink_window_add(UplinkWindow *w, uint64_t key, uint64_t value);

/* Whether the key was there; it is not any more. */
bool uplink_window_take(UplinkWindow *w, uint64_t key, uint64_t *ret_value);

/* Key of the oldest; false when empty. */
bool uplink_window_oldest(const UplinkWindow *w, uint64_t *ret_key);

void uplink_window_clear(UplinkWindow *w);
