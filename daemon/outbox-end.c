/* How messages end. Confirmed is told at once and recorded later. Expired, dropped and rejected are decided first
 * (the lane's settled set has them, so they are not read again, and the next position record says so), count as
 * queued until that record is durable, and are told then. */
#include "daemon/outbox-internal.h"

#include <assert.h>

#include "daemon/log.h"
#include "daemon/outbox-receipts.h"

void outbox_tell(Outbox *o, OutboxLane lane, const OutboxEntry *e, OutboxEnd end, const char *reason) {
        char made[OUTBOX_MADE_ID_MAX + 1];
        OutboxSettled s = {
                .seq = e->seq,
                .lane = lane,
                .end = end,
                .has_stream = e->has_stream,
                .position = e->position,
                .accepted_realtime_usec = e->accepted_realtime_usec,
                .settled_realtime_usec = outbox_now_realtime(o),
                .message_id = e->message_id,
                .reason = reason,
        };

        memcpy(s.stream, e->stream, sizeof(s.stream));
        if (!e->message_id[0]) {
                (void) snprintf(made, sizeof(made), "%016" PRIx64 "-%" PRIu64, o->outbox_id, e->seq);
                s.message_id = made;
        }
        if (o->receipts)
                outbox_receipts_add(o->receipts, &(OutboxReceipt) {
                        .seq = s.seq,
                        .lane = lane,
                        .end = end,
                        .has_position = s.has_stream,
                        .position = s.position,
                        .id_hash = outbox_id_hash(s.message_id),
                        .accepted_realtime_usec = s.accepted_realtime_usec,
                        .settled_realtime_usec = s.settled_realtime_usec,
                });
        if (o->receipts && outbox_receipts_want_write(o->receipts))
                outbox_write_receipts(o);
        if (o->events.on_settled)
                o->events.on_settled(&s, o->events.userdata);
}

static void lane_subtract(OutboxLaneState *l, uint64_t n, uint64_t bytes) {
        l->n_queued -= MIN(l->n_queued, n);
        l->queued_bytes -= MIN(l->queued_bytes, bytes);
        if (l->n_queued == 0)
                l->queued_bytes = 0; /* what was lost to damage has no known size */
}

static void tell_later(Outbox *o, OutboxLane lane, const OutboxEntry *e) {
        if (o->n_tells == o->tells_allocated) {
                size_t n = o->tells_allocated ? 2 * o->tells_allocated : 64;
                OutboxPendingEnd *t = reallocarray(o->tells, n, sizeof(*t));

                if (!t)
                        return; /* the books have it; who waits for this one finds out by a look-up */
                o->tells = t;
                o->tells_allocated = n;
        }
        o->tells[o->n_tells++] = (OutboxPendingEnd) { .entry = *e, .lane = lane, .end = OUTBOX_END_CONFIRMED };
        if (o->n_tells == 1)
                outbox_wake(o);
}

void outbox_tell_confirmed(Outbox *o) {
        OutboxPendingEnd *tells = TAKE_PTR(o->tells);
        size_t n = o->n_tells, allocated = o->tells_allocated;

        /* A callback may settle more. */
        o->n_tells = o->tells_allocated = 0;
        for (size_t i = 0; i < n; i++)
                outbox_tell(o, tells[i].lane, &tells[i].entry, OUTBOX_END_CONFIRMED, NULL);
        if (o->tells || allocated > 1024)
                free(tells);
        else {
                o->tells = tells;
                o->tells_allocated = allocated;
        }
}

void outbox_end_message(Outbox *o, OutboxLane lane, const OutboxEntry *e, OutboxEnd end, const char *reason) {
        OutboxLaneState *l = &o->lanes[lane];

        /* Room for the range was taken when the message became an entry; without it, at the front, none is needed. */
        (void) outbox_settled_set_add(&l->settled, e->lane_seq, e->lane_seq);
        if (end == OUTBOX_END_CONFIRMED) {
                o->totals.confirmed++;
                lane_subtract(l, 1, e->size);
                o->n_unrecorded++;
                outbox_dirty(o);
                tell_later(o, lane, e);
                outbox_identity_check(o);
                return;
        }

        assert(o->n_ends < o->ends_allocated);
        o->ends[o->n_ends++] = (OutboxPendingEnd) {
                .entry = *e,
                .lane = lane,
                .end = end,
                .reason = reason ? strdup(reason) : NULL, /* without memory it is told without a reason */
        };
        o->deciding[end]++;
        l->n_deciding++;
        l->deciding_bytes += e->size;
        outbox_wake(o);
}

static void count_end(Outbox *o, OutboxLane lane, OutboxEnd end, uint64_t n, uint64_t bytes) {
        OutboxLaneState *l = &o->lanes[lane];

        if (end == OUTBOX_END_EXPIRED)
                o->totals.expired += n;
        else if (end == OUTBOX_END_DROPPED)
                o->totals.dropped += n;
        else
                o->totals.rejected += n;
        o->deciding[end] -= n;
        l->n_deciding -= n;
        l->deciding_bytes -= bytes;
        lane_subtract(l, n, bytes);
}

void outbox_ends_recorded(Outbox *o, uint64_t batch, size_t n_ends) {
        uint64_t n_expired = 0;

        for (size_t i = 0; i < n_ends; i++) {
                count_end(o, o->ends[i].lane, o->ends[i].end, 1, o->ends[i].entry.size);
                if (o->ends[i].end == OUTBOX_END_EXPIRED)
                        n_expired++;
        }
        for (size_t i = 0; i < o->n_drops; i++) {
                OutboxDrop *d = &o->drops[i];

                if (d->recorded || d->batch != batch)
                        continue;
                d->recorded = true;
                count_end(o, d->lane, OUTBOX_END_DROPPED, d->n, d->bytes);
                outbox_notice(o, LOG_WARNING, MSG_OUTBOX_DROPPED,
                              "The outbox is full: dropped the oldest %" PRIu64 " messages of lane %s", d->n,
                              outbox_lane_to_string(d->lane));
        }
        if (n_expired > 0)
                outbox_notice(o, LOG_NOTICE, MSG_OUTBOX_EXPIRED, "%" PRIu64 " messages expired before they could be sent",
                              n_expired);

        /* Callbacks may add ends behind these n. */
        for (size_t i = 0; i < n_ends; i++) {
                OutboxPendingEnd e = o->ends[i];

                outbox_tell(o, e.lane, &e.entry, e.end, e.reason);
                free(e.reason);
        }
        if (o->n_ends > n_ends)
                memmove(o->ends, o->ends + n_ends, (o->n_ends - n_ends) * sizeof(*o->ends));
        o->n_ends -= n_ends;
        outbox_identity_check(o);
}

bool outbox_ends_reserve(Outbox *o) {
        OutboxPendingEnd *e;
        size_t n;

        if (o->n_ends < o->ends_allocated)
                return true;
        n = o->ends_allocated ? 2 * o->ends_allocated : 16;
        e = reallocarray(o->ends, n, sizeof(*e));
        if (!e)
                return false;
        o->ends = e;
        o->ends_allocated = n;
        return true;
}

/* Expiry waits for the record of what it took, so that a queue that expires as a whole takes little memory. */
static bool may_expire(Outbox *o) {
        return o->n_ends < OUTBOX_ENDS_MAX && outbox_ends_reserve(o);
}

/* Ends what has expired among the messages that wait to go again or are set aside. */
static bool expire_entries(Outbox *o, OutboxLane lane, usec_t now) {
        OutboxLaneState *l = &o->lanes[lane];

        if (l->n_ready + l->n_aside == 0)
                return false;
        for (size_t i = 0; i < l->n_entries;) {
                OutboxEntry *e = outbox_lane_entry(l, i);

                if ((e->state != OUTBOX_ENTRY_READY && e->state != OUTBOX_ENTRY_ASIDE) ||
                    outbox_entry_expiry(o, e) > now) {
                        i++;
                        continue;
                }
                if (!may_expire(o))
                        return true;
                outbox_end_message(o, lane, e, OUTBOX_END_EXPIRED, "time to live is over");
                outbox_lane_remove_entry(l, i);
        }
        return false;
}

bool outbox_expire(Outbox *o) {
        usec_t now = outbox_now_boottime(o);
        bool more = false;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                if (expire_entries(o, lane, now))
                        more = true;
                while (outbox_lane_peek(o, lane) > 0 && outbox_entry_expiry(o, &l->peek) <= now) {
                        if (!may_expire(o) || outbox_settled_set_reserve(&l->settled, l->n_entries + 4) < 0) {
                                more = true;
                                break;
                        }
                        l->peeked = false;
                        outbox_end_message(o, lane, &l->peek, OUTBOX_END_EXPIRED, "time to live is over");
                }
        }
        return more;
}

usec_t outbox_expire_deadline(Outbox *o) {
        usec_t deadline = USEC_INFINITY;

        if (o->n_ends >= OUTBOX_ENDS_MAX)
                return USEC_INFINITY; /* the record that is awaited goes on */
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];

                for (size_t i = 0; l->n_ready + l->n_aside > 0 && i < l->n_entries; i++) {
                        const OutboxEntry *e = outbox_lane_entry(l, i);

                        if (e->time_to_live_usec != USEC_INFINITY &&
                            (e->state == OUTBOX_ENTRY_READY || e->state == OUTBOX_ENTRY_ASIDE))
                                deadline = MIN(deadline, outbox_entry_expiry(o, e));
                }
                if (l->peeked)
                        deadline = MIN(deadline, outbox_entry_expiry(o, &l->peek));
                if (l->reader.error < 0)
                        deadline = MIN(deadline, l->reader.retry_at);
        }
        return deadline;
}

void outbox_lost_tell(Outbox *o) {
        char name[OUTBOX_SEGMENT_NAME_MAX + 4] = "";
        uint64_t n = o->lost.n;

        if (n == 0)
                return;
        o->lost.n = 0;
        if (o->lost.named) {
                memcpy(name, " in ", 4);
                outbox_segment_name(false, o->lost.number, name + 4);
        }
        outbox_notice(o, LOG_ERR, MSG_OUTBOX_DAMAGE, "Damage on disk%s cost %" PRIu64 " messages of lane %s", name, n,
                      outbox_lane_to_string(o->lost.lane));
}

/* What a segment loses at a time is told in one line. */
static void note_lost(Outbox *o, OutboxLane lane, const OutboxSegment *s, uint64_t n) {
        if (o->lost.n > 0 && (o->lost.lane != lane || o->lost.named != (s != NULL) || (s && o->lost.number != s->number)))
                outbox_lost_tell(o);
        o->lost.n += n;
        o->lost.lane = lane;
        o->lost.named = s;
        o->lost.number = s ? s->number : 0;
        outbox_wake(o);
}

void outbox_lost(Outbox *o, OutboxLane lane, OutboxSegment *s, uint64_t first, uint64_t last) {
        OutboxLaneState *l = &o->lanes[lane];
        uint64_t n = outbox_settled_set_missing(&l->settled, first, last);

        if (outbox_settled_set_add(&l->settled, first, last) < 0) {
                /* The books wait for memory; the cursor goes on. */
                l->read_next = last + 1;
                return;
        }
        if (n == 0)
                return;
        if (s)
                s->damaged = true;
        o->totals.lost += n;
        o->totals.accepted -= MIN(o->totals.accepted, n);
        lane_subtract(l, n, 0);
        outbox_dirty(o);
        note_lost(o, lane, s, n);
        outbox_identity_check(o);
}
