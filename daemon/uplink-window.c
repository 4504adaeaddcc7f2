#include "daemon/uplink-window.h"

#include <assert.h>

int uplink_window_init(UplinkWindow *w, size_t capacity) {
        size_t n = 1;

        while (n < capacity)
                n *= 2;
        *w = (UplinkWindow) { .items = calloc(n, sizeof(*w->items)), .mask = n - 1 };
        return w->items ? 0 : -ENOMEM;
}

void uplink_window_done(UplinkWindow *w) {
        free(w->items);
        *w = (UplinkWindow) {};
}

static UplinkWindowItem *item(const UplinkWindow *w, size_t i) {
        return &w->items[(w->i_oldest + i) & w->mask];
}

void uplink_window_add(UplinkWindow *w, uint64_t key, uint64_t value) {
        assert(w->n <= w->mask);
        *item(w, w->n++) = (UplinkWindowItem) { .key = key, .value = value };
}

bool uplink_window_take(UplinkWindow *w, uint64_t key, uint64_t *ret_value) {
        size_t i;

        for (i = 0; i < w->n; i++)
                if (item(w, i)->key == key)
                        break;
        if (i == w->n)
                return false;

        *ret_value = item(w, i)->value;
        for (; i > 0; i--)
                *item(w, i) = *item(w, i - 1);
        w->i_oldest = (w->i_oldest + 1) & w->mask;
        w->n--;
        return true;
}

bool uplink_window_oldest(const UplinkWindow *w, uint64_t *ret_key) {
        if (w->n == 0)
                return false;
        *ret_key = item(w, 0)->key;
        return true;
}

void uplink_window_clear(UplinkWindow *w) {
        w->n = 0;
}
