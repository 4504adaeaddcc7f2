#include "emulator/hub-counter.h"

#include <assert.h>

struct HubCounters {
        HubCounts total;
        struct lh_table *devices; /* client id to HubCounts */
        uint64_t serial;
        /* Most counts are of the client that was counted before. */
        const char *last_id;
        HubCounts *last;
};

static const char *const names[_HUB_COUNTER_MAX] = {
        [HUB_COUNTER_OPENED] = "opened",     [HUB_COUNTER_ABORTED] = "aborted",
        [HUB_COUNTER_CONNECTS] = "connects", [HUB_COUNTER_ACCEPTED] = "accepted",
        [HUB_COUNTER_REFUSED] = "refused",   [HUB_COUNTER_CUT] = "cut",
        [HUB_COUNTER_ENDED] = "ended",       [HUB_COUNTER_PUBLISHES] = "publishes",
        [HUB_COUNTER_PUBACKS] = "pubacks",   [HUB_COUNTER_HELD] = "held",
        [HUB_COUNTER_DROPPED] = "dropped",   [HUB_COUNTER_C2D_SENT] = "c2dSent",
        [HUB_COUNTER_C2D_COMPLETED] = "c2dCompleted",
};

const char *hub_counter_to_string(HubCounter c) {
        return c >= 0 && c < _HUB_COUNTER_MAX ? names[c] : NULL;
}

HubCounter hub_counter_from_string(const char *s) {
        for (HubCounter i = 0; i < _HUB_COUNTER_MAX; i++)
                if (streq(names[i], s))
                        return i;
        return _HUB_COUNTER_INVALID;
}

static void free_entry(struct lh_entry *e) {
        free(lh_entry_k(e));
        free((void *) lh_entry_v(e));
}

HubCounters *hub_counters_new(void) {
        _cleanup_(hub_counters_freep) HubCounters *c = NULL;

        c = calloc(1, sizeof(*c));
        if (!c)
                return NULL;
        c->devices = lh_kchar_table_new(64, free_entry);
        return c->devices ? TAKE_PTR(c) : NULL;
}

HubCounters *hub_counters_free(HubCounters *c) {
        if (!c)
                return NULL;
        if (c->devices)
                lh_table_free(c->devices);
        free(c);
        return NULL;
}

/* NULL when there is no room. */
static HubCounts *counts_of(HubCounters *c, const char *client_id) {
        HubCounts *counts;
        char *id;
        void *v;

        if (c->last_id && streq(c->last_id, client_id))
                return c->last;
        if (lh_table_lookup_ex(c->devices, client_id, &v))
                counts = v;
        else {
                if (lh_table_length(c->devices) >= (int) HUB_COUNTER_DEVICES_MAX)
                        return NULL;
                counts = calloc(1, sizeof(*counts));
                id = strdup(client_id);
                if (!counts || !id || lh_table_insert(c->devices, id, counts) < 0) {
                        free(counts);
                        free(id);
                        return NULL;
                }
        }
        c->last_id = lh_entry_k(lh_table_lookup_entry(c->devices, client_id));
        return c->last = counts;
}

void hub_counters_add(HubCounters *c, const char *client_id, HubCounter counter, uint64_t n) {
        HubCounts *counts;

        assert(counter >= 0 && counter < _HUB_COUNTER_MAX);
        if (n == 0)
                return;
        c->total.of[counter] += n;
        c->serial++;
        counts = client_id ? counts_of(c, client_id) : NULL;
        if (counts)
                counts->of[counter] += n;
}

HubCounts hub_counters_get(const HubCounters *c, const char *client_id) {
        void *v;

        if (!client_id)
                return c->total;
        return lh_table_lookup_ex(c->devices, client_id, &v) ? *(HubCounts *) v : (HubCounts){ 0 };
}

uint64_t hub_counters_serial(const HubCounters *c) {
        return c->serial;
}
