#include "tests/support/memory-outbox.h"

#include <inttypes.h>

typedef enum State {
        STATE_QUEUED,
        STATE_HANDED_OUT,
        STATE_ASIDE,
        STATE_ENDED,
} State;

struct Outbox {
        MemoryOutboxBooks books;
        size_t body_size;
        uint64_t spoiled;
        bool rejections_stay;
        uint64_t n_rejecting;
        uint8_t *states; /* State by seq */
        bool *sent_before;
        unsigned *cuts;
        uint64_t next;   /* nothing before it is queued */
        uint64_t oldest; /* everything before it has ended */
};

Outbox *memory_outbox_new(uint64_t n_messages, size_t body_size) {
        Outbox *o = calloc(1, sizeof(*o));

        if (!o)
                abort();
        o->body_size = body_size;
        o->next = o->oldest = 1;
        memory_outbox_add(o, n_messages);
        return o;
}

void memory_outbox_add(Outbox *o, uint64_t n_messages) {
        uint64_t before = o->books.n_messages + 1, after = before + n_messages;

        o->states = realloc(o->states, after);
        o->sent_before = realloc(o->sent_before, after * sizeof(*o->sent_before));
        o->cuts = realloc(o->cuts, after * sizeof(*o->cuts));
        if (!o->states || !o->sent_before || !o->cuts)
                abort();
        memset(o->states + before, STATE_QUEUED, n_messages);
        memset(o->sent_before + before, 0, n_messages * sizeof(*o->sent_before));
        memset(o->cuts + before, 0, n_messages * sizeof(*o->cuts));
        o->books.n_messages += n_messages;
}

void memory_outbox_spoil(Outbox *o, uint64_t seq) {
        o->spoiled = seq;
}

void memory_outbox_keep_rejected(Outbox *o) {
        o->rejections_stay = true;
}

void memory_outbox_get_books(Outbox *o, MemoryOutboxBooks *ret) {
        *ret = o->books;
}

Outbox *memory_outbox_free(Outbox *o) {
        if (!o)
                return NULL;
        free(o->states);
        free(o->sent_before);
        free(o->cuts);
        free(o);
        return NULL;
}

int outbox_set_identity(Outbox *o, const char *hub, const char *device, bool adopt) {
        return 0;
}

OutboxDelivery *outbox_delivery_free(OutboxDelivery *d) {
        free(d);
        return NULL;
}

void outbox_get_stats(Outbox *o, OutboxStats *ret) {
        *ret = (OutboxStats) {
                .accepted = o->books.n_messages,
                .confirmed = o->books.n_confirmed,
                .rejected = o->books.n_rejected,
                .queued = o->books.n_messages - o->books.n_confirmed - o->books.n_rejected,
                .ending = o->n_rejecting,
        };
}

int outbox_next(Outbox *o, OutboxDelivery **ret) {
        static const char bag[] = "%24.ct=text%2Fplain";
        OutboxDelivery *d;
        char *text, id[OUTBOX_MADE_ID_MAX];
        size_t n;

        while (o->next <= o->books.n_messages && o->states[o->next] != STATE_QUEUED)
                o->next++;
        if (o->next > o->books.n_messages)
                return -EAGAIN;

        n = (size_t) snprintf(id, sizeof(id), "0123456789abcdef-%" PRIu64, o->next) + 1;
        d = malloc(sizeof(*d) + n + o->body_size);
        if (!d)
                return -ENOMEM;
        text = (char *) (d + 1);
        memcpy(text, id, n);
        memset(text + n, 'x', o->body_size);
        *d = (OutboxDelivery) {
                .seq = o->next,
                .lane = OUTBOX_LANE_NORMAL,
                .n_cuts = o->cuts[o->next],
                .sent_before = o->sent_before[o->next],
                .message_id = text,
                .bag = bag,
                .bag_size = sizeof(bag) - 1,
                .body = text + n,
                .body_size = o->body_size,
        };
        if (o->next == o->spoiled) {
                static char long_bag[70000];

                memset(long_bag, 'a', sizeof(long_bag) - 1);
                d->bag = long_bag;
                d->bag_size = sizeof(long_bag) - 1;
        }
        o->books.n_handed_out++;
        o->books.n_handed_out_again += d->sent_before;
        o->sent_before[o->next] = true;
        o->states[o->next++] = STATE_HANDED_OUT;
        *ret = d;
        return 0;
}

int outbox_settle(Outbox *o, uint64_t seq, OutboxEnd end, const char *reason) {
        if (seq == 0 || seq > o->books.n_messages || o->states[seq] != STATE_HANDED_OUT)
                return -ENOENT;
        o->states[seq] = STATE_ENDED;
        if (end == OUTBOX_END_CONFIRMED)
                o->books.n_confirmed++;
        else if (o->rejections_stay)
                o->n_rejecting++;
        else
                o->books.n_rejected++;
        while (o->oldest <= o->books.n_messages && o->states[o->oldest] == STATE_ENDED)
                o->oldest++;
        return 0;
}

void outbox_requeue(Outbox *o) {
        for (uint64_t s = o->oldest; s < o->next; s++)
                if (o->states[s] == STATE_HANDED_OUT)
                        o->states[s] = STATE_QUEUED;
        o->next = o->oldest;
}

unsigned outbox_note_cut(Outbox *o, uint64_t seq) {
        o->books.n_cuts++;
        return ++o->cuts[seq];
}

int outbox_set_aside(Outbox *o, uint64_t seq) {
        if (o->states[seq] == STATE_ENDED)
                return -ENOENT;
        o->states[seq] = STATE_ASIDE;
        o->books.first_aside = seq;
        return 0;
}

int outbox_unset_aside(Outbox *o, uint64_t seq) {
        if (o->states[seq] != STATE_ASIDE)
                return -ENOENT;
        o->states[seq] = STATE_QUEUED;
        o->books.first_aside = 0;
        o->next = MIN(o->next, seq);
        return 0;
}
