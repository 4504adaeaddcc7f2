#include "daemon/outbox-stream.h"

#include <assert.h>

#include "daemon/outbox.h"

#define N_SLOTS (2U * OUTBOX_STREAMS_MAX) /* a power of two; half empty, so that a search is short */
#define SLOT_EMPTY UINT16_MAX

struct OutboxStreamTable {
        OutboxStreamEntry *entries;
        size_t n, allocated;
        uint64_t clock;
        uint16_t slots[N_SLOTS];
};

OutboxStreamTable *outbox_stream_table_new(void) {
        OutboxStreamTable *t = calloc(1, sizeof(*t));

        if (t)
                memset(t->slots, 0xff, sizeof(t->slots));
        return t;
}

OutboxStreamTable *outbox_stream_table_free(OutboxStreamTable *t) {
        if (t)
                free(t->entries);
        free(t);
        return NULL;
}

/* Ids should be random; one that repeats a prefix only makes its own searches longer, up to a full walk. */
static size_t slot_of(const uint8_t id[static 16]) {
        uint64_t a, b;

        memcpy(&a, id, 8);
        memcpy(&b, id + 8, 8);
        return (size_t) (((a ^ (b * 0x9e3779b97f4a7c15U)) * 0xff51afd7ed558ccdU) >> 40) % N_SLOTS;
}

static void index_entry(OutboxStreamTable *t, size_t i) {
        size_t s = slot_of(t->entries[i].id);

        while (t->slots[s] != SLOT_EMPTY)
                s = (s + 1) % N_SLOTS;
        t->slots[s] = (uint16_t) i;
}

OutboxStreamEntry *outbox_stream_find(OutboxStreamTable *t, const uint8_t id[static 16]) {
        for (size_t s = slot_of(id); t->slots[s] != SLOT_EMPTY; s = (s + 1) % N_SLOTS)
                if (memcmp(t->entries[t->slots[s]].id, id, 16) == 0)
                        return &t->entries[t->slots[s]];
        return NULL;
}

/* The entry to reuse when the table is full, or n. */
static size_t oldest_idle(const OutboxStreamTable *t) {
        size_t best = t->n;

        for (size_t i = 0; i < t->n; i++)
                if (t->entries[i].pending_next == t->entries[i].next &&
                    (best == t->n || t->entries[i].used < t->entries[best].used))
                        best = i;
        return best;
}

OutboxStreamEntry *outbox_stream_add(OutboxStreamTable *t, const uint8_t id[static 16], uint32_t uid, unsigned lane) {
        size_t i = t->n;

        assert(!outbox_stream_find(t, id));

        if (t->n < OUTBOX_STREAMS_MAX) {
                if (t->n == t->allocated) {
                        size_t n = t->allocated ? 2 * t->allocated : 16;
                        OutboxStreamEntry *e = reallocarray(t->entries, n, sizeof(*e));

                        if (!e)
                                return NULL;
                        t->entries = e;
                        t->allocated = n;
                }
                t->n++;
        } else {
                i = oldest_idle(t);
                if (i == t->n)
                        return NULL;
        }

        bool replaced = i + 1 < t->n || t->n == OUTBOX_STREAMS_MAX;

        t->entries[i] = (OutboxStreamEntry) { .uid = uid, .lane = lane, .used = ++t->clock };
        memcpy(t->entries[i].id, id, 16);
        if (replaced) {
                memset(t->slots, 0xff, sizeof(t->slots));
                for (size_t k = 0; k < t->n; k++)
                        index_entry(t, k);
        } else
                index_entry(t, i);
        return &t->entries[i];
}

void outbox_stream_touch(OutboxStreamTable *t, OutboxStreamEntry *e) {
        e->used = ++t->clock;
}

void outbox_stream_rollback(OutboxStreamTable *t) {
        for (size_t i = 0; i < t->n; i++)
                t->entries[i].pending_next = t->entries[i].next;
}

size_t outbox_stream_count(const OutboxStreamTable *t) {
        return t->n;
}

const OutboxStreamEntry *outbox_stream_get(const OutboxStreamTable *t, size_t i) {
        assert(i < t->n);
        return &t->entries[i];
}
