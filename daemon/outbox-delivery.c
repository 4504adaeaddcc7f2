/* How messages are handed out, and what the uplink says about them. */
#include "daemon/outbox-internal.h"

#include <assert.h>

OutboxDelivery *outbox_delivery_free(OutboxDelivery *d) {
        free(d);
        return NULL;
}

static int make_delivery(Outbox *o, OutboxLane lane, const OutboxEntry *e, OutboxDelivery **ret) {
        OutboxMessageRecord m;
        OutboxRecord record;
        OutboxDelivery *d;
        const uint8_t *p;
        size_t n, id_size;
        char *text;
        int r;

        r = outbox_reader_get(o, &o->lanes[lane].reader, e->segment, e->offset, e->segment->end, e->size, &p, &n);
        if (r < 0)
                return r;
        r = outbox_record_decode(p, n, e->segment->salt, &record, NULL);
        if (r == 0)
                r = outbox_message_record_decode(&record, &m);
        if (r < 0 || m.lane_seq != e->lane_seq)
                return -EBADMSG;
        id_size = m.message_id_size ? m.message_id_size : OUTBOX_MADE_ID_MAX;
        d = malloc(sizeof(*d) + id_size + 1 + m.bag_size + 1 + m.body_size);
        if (!d)
                return -ENOMEM;
        *d = (OutboxDelivery) {
                .seq = e->seq,
                .lane = lane,
                .n_cuts = e->n_cuts,
                .sent_before = e->sent_before,
                .bag_size = m.bag_size,
                .body_size = m.body_size,
        };
        text = (char *) (d + 1);
        d->message_id = text;
        if (m.message_id_size > 0) {
                memcpy(text, m.message_id, id_size);
                text[id_size] = 0;
        } else
                (void) snprintf(text, id_size + 1, "%016" PRIx64 "-%" PRIu64, o->outbox_id, e->seq);
        text += id_size + 1;
        memcpy(text, m.bag, m.bag_size);
        text[m.bag_size] = 0;
        d->bag = text;
        text += m.bag_size + 1;
        memcpy(text, m.body, m.body_size);
        d->body = text;
        *ret = d;
        return 0;
}

static void handed_out(Outbox *o, OutboxEntry *e) {
        if (e->sent_before)
                o->n_sent_again++;
        e->state = OUTBOX_ENTRY_IN_FLIGHT;
        e->sent_before = true;
        o->n_in_flight++;
}

static size_t first_ready(OutboxLaneState *l) {
        size_t i = 0;

        while (outbox_lane_entry(l, i)->state != OUTBOX_ENTRY_READY)
                i++;
        return i;
}

/* The first of the messages that go again. */
static int next_again(Outbox *o, OutboxLane lane, OutboxDelivery **ret) {
        OutboxLaneState *l = &o->lanes[lane];
        size_t i = first_ready(l);
        OutboxEntry *e = outbox_lane_entry(l, i);
        int r;

        r = make_delivery(o, lane, e, ret);
        if (r == -ENOENT) {
                outbox_lane_segment_gone(o, lane, e->segment);
                return 0;
        }
        if (r == -EBADMSG) {
                uint64_t lane_seq = e->lane_seq;
                OutboxSegment *s = e->segment;

                outbox_lane_remove_entry(l, i);
                outbox_lost(o, lane, s, lane_seq, lane_seq);
                return 0;
        }
        if (r < 0)
                return r;
        l->n_ready--;
        handed_out(o, e);
        return 1;
}

static int next_of_lane(Outbox *o, OutboxLane lane, OutboxDelivery **ret) {
        OutboxLaneState *l = &o->lanes[lane];

        for (;;) {
                int r;

                if (l->n_ready > 0) {
                        r = next_again(o, lane, ret);
                        if (r != 0)
                                return r < 0 ? r : 1;
                        continue;
                }
                r = outbox_lane_peek(o, lane);
                if (r <= 0)
                        return r;
                r = make_delivery(o, lane, &l->peek, ret);
                if (r == -ENOENT) {
                        outbox_lane_segment_gone(o, lane, l->peek.segment);
                        continue;
                }
                if (r == -EBADMSG) {
                        /* It was whole when it was peeked: the disk changed its mind. */
                        l->peeked = false;
                        outbox_lost(o, lane, l->peek.segment, l->peek.lane_seq, l->peek.lane_seq);
                        continue;
                }
                if (r < 0)
                        return r;
                r = outbox_lane_push_peek(l);
                if (r < 0) {
                        *ret = outbox_delivery_free(*ret);
                        return r;
                }
                handed_out(o, outbox_lane_entry(l, l->n_entries - 1));
                return 1;
        }
}

static bool head_expired(Outbox *o, OutboxLane lane) {
        OutboxLaneState *l = &o->lanes[lane];
        const OutboxEntry *e = NULL;

        if (l->n_ready > 0)
                e = outbox_lane_entry(l, first_ready(l));
        else if (l->peeked)
                e = &l->peek;
        return e && e->time_to_live_usec != USEC_INFINITY && outbox_entry_expiry(o, e) <= outbox_now_boottime(o);
}

int outbox_next(Outbox *o, OutboxDelivery **ret) {
        size_t n_entries = 0;

        if (!o->identity_known || !o->hub)
                goto starve;
        if (o->held)
                return -EREMCHG;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n_entries += o->lanes[lane].n_entries - o->lanes[lane].n_ready;
        if (n_entries >= OUTBOX_ENTRIES_MAX || o->n_tells >= OUTBOX_TELLS_MAX || !outbox_gate_open(o))
                goto starve;

        (void) outbox_expire(o);
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxDelivery *d;
                int r;

                if (head_expired(o, (OutboxLane) lane))
                        continue; /* it ends when there is room for more ends */
                r = next_of_lane(o, (OutboxLane) lane, &d);
                if (r > 0) {
                        *ret = d;
                        return 0;
                }
                /* While a message of this lane is being read, none of a lower lane overtakes it; where the disk does not
                 * give it, these need not wait for that. */
                if (r == -EAGAIN && o->lanes[lane].reader.error == 0)
                        goto starve;
                if (r < 0 && r != -EAGAIN)
                        return r;
        }

starve:
        o->starved = true;
        return -EAGAIN;
}

int outbox_settle(Outbox *o, uint64_t seq, OutboxEnd end, const char *reason) {
        OutboxEntry copy, *e;
        OutboxLane lane;
        size_t i;

        assert(end == OUTBOX_END_CONFIRMED || end == OUTBOX_END_REJECTED);

        e = outbox_find_entry(o, seq, &lane, &i);
        if (!e || e->state == OUTBOX_ENTRY_REJECTING)
                return -ENOENT;
        if (e->state == OUTBOX_ENTRY_IN_FLIGHT)
                o->n_in_flight--;
        if (end == OUTBOX_END_REJECTED) {
                if (e->state == OUTBOX_ENTRY_READY)
                        o->lanes[lane].n_ready--;
                else if (e->state == OUTBOX_ENTRY_ASIDE)
                        o->lanes[lane].n_aside--;
                e->state = OUTBOX_ENTRY_REJECTING;
                outbox_reject(o, lane, e, reason);
                return 0;
        }
        copy = *e;
        outbox_lane_remove_entry(&o->lanes[lane], i);
        outbox_end_message(o, lane, &copy, end, reason);
        return 0;
}

void outbox_requeue(Outbox *o) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; i < l->n_entries; i++) {
                        OutboxEntry *e = outbox_lane_entry(l, i);

                        if (e->state != OUTBOX_ENTRY_IN_FLIGHT)
                                continue;
                        e->state = OUTBOX_ENTRY_READY;
                        l->n_ready++;
                        o->n_in_flight--;
                }
        }
        outbox_wake(o);
}

unsigned outbox_note_cut(Outbox *o, uint64_t seq) {
        OutboxLane lane;
        size_t i;
        OutboxEntry *e = outbox_find_entry(o, seq, &lane, &i);

        return e ? ++e->n_cuts : 0;
}

int outbox_set_aside(Outbox *o, uint64_t seq) {
        OutboxLane lane;
        size_t i;
        OutboxEntry *e = outbox_find_entry(o, seq, &lane, &i);

        if (!e || e->state == OUTBOX_ENTRY_REJECTING)
                return -ENOENT;
        if (e->state == OUTBOX_ENTRY_IN_FLIGHT)
                o->n_in_flight--;
        else if (e->state == OUTBOX_ENTRY_READY)
                o->lanes[lane].n_ready--;
        if (e->state != OUTBOX_ENTRY_ASIDE)
                o->lanes[lane].n_aside++;
        e->state = OUTBOX_ENTRY_ASIDE;
        return 0;
}

int outbox_unset_aside(Outbox *o, uint64_t seq) {
        OutboxLane lane;
        size_t i;
        OutboxEntry *e = outbox_find_entry(o, seq, &lane, &i);

        if (!e || e->state != OUTBOX_ENTRY_ASIDE)
                return -ENOENT;
        e->state = OUTBOX_ENTRY_READY;
        o->lanes[lane].n_aside--;
        o->lanes[lane].n_ready++;
        outbox_wake(o);
        return 0;
}
