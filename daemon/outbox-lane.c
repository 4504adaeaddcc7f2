/* A lane is a list of segments, a cursor behind which everything was read, and the few messages that were read and
 * have not ended (entries). What ended is a set of lane sequence numbers. Nothing here grows with the queue.
 *
 * A segment speaks for the lane sequence numbers from its first to the one before the next segment's first: after a
 * failed sync the same messages are in two segments, and the newer one has them whole. */
#include "daemon/outbox-internal.h"

#include <assert.h>

OutboxSegment *outbox_segment_new(Outbox *o, bool position, uint32_t number, uint32_t size) {
        OutboxSegment *s = malloc(sizeof(*s));

        if (!s)
                return NULL;
        *s = (OutboxSegment) {
                .position = position,
                .number = number,
                .size = size,
                .write_fd = -EBADF,
                .read_fd = -EBADF,
        };
        if (!position) {
                o->n_segments++;
                o->segment_bytes += size;
        }
        return s;
}

void outbox_segment_set_size(Outbox *o, OutboxSegment *s, uint32_t size) {
        if (!s->position)
                o->segment_bytes = o->segment_bytes - s->size + size;
        s->size = size;
}

void outbox_segment_close_fds(Outbox *o, OutboxSegment *s) {
        if (s->write_fd >= 0)
                (void) o->io->close(o->io, s->write_fd); /* what matters was synced */
        if (s->read_fd >= 0)
                (void) o->io->close(o->io, s->read_fd);
        s->write_fd = s->read_fd = -EBADF;
}

OutboxSegment *outbox_segment_free(Outbox *o, OutboxSegment *s) {
        if (!s)
                return NULL;
        outbox_segment_close_fds(o, s);
        if (!s->position) {
                o->n_segments--;
                o->segment_bytes -= s->size;
        }
        free(s);
        return NULL;
}

int outbox_lane_reserve_segments(OutboxLaneState *l, size_t n) {
        OutboxSegment **a;
        size_t want;

        if (n <= l->n_segments_allocated - l->n_segments)
                return 0;
        want = MAX(l->n_segments + n, 2 * l->n_segments_allocated);
        a = reallocarray(l->segments, want, sizeof(*a));
        if (!a)
                return -ENOMEM;
        l->segments = a;
        l->n_segments_allocated = want;
        return 0;
}

void outbox_lane_add_segment(OutboxLaneState *l, OutboxSegment *s) {
        assert(l->n_segments < l->n_segments_allocated);
        l->segments[l->n_segments++] = s;
}

static size_t segment_index(const OutboxLaneState *l, const OutboxSegment *s) {
        size_t low = 0, high = l->n_segments;

        /* Sorted by first_lane_seq; a few may share one. */
        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (l->segments[middle]->first_lane_seq < s->first_lane_seq)
                        low = middle + 1;
                else
                        high = middle;
        }
        while (low < l->n_segments && l->segments[low] != s)
                low++;
        assert(low < l->n_segments);
        return low;
}

OutboxSegment *outbox_lane_next_segment(const OutboxLaneState *l, const OutboxSegment *s) {
        size_t i = segment_index(l, s) + 1;

        return i < l->n_segments ? l->segments[i] : NULL;
}

void outbox_lane_remove_segment(OutboxLaneState *l, OutboxSegment *s) {
        size_t i = segment_index(l, s);

        if (l->read_segment == s) {
                l->read_segment = i + 1 < l->n_segments ? l->segments[i + 1] : NULL;
                l->read_offset = OUTBOX_SEGMENT_HEADER_SIZE;
        }
        if (l->reader.segment == s)
                outbox_reader_forget(&l->reader);
        memmove(l->segments + i, l->segments + i + 1, (l->n_segments - i - 1) * sizeof(*l->segments));
        l->n_segments--;
        if (l->active == s)
                l->active = NULL;
}

void outbox_lane_close_active(Outbox *o, OutboxLaneState *l) {
        OutboxSegment *s = l->active;

        if (!s)
                return;
        s->state = OUTBOX_SEGMENT_CLOSED;
        if (s->unlinked && s->read_fd < 0)
                s->read_fd = s->write_fd; /* the last way to what is in it */
        else if (s->write_fd >= 0)
                (void) o->io->close(o->io, s->write_fd); /* nothing unsynced in it is of use */
        s->write_fd = -EBADF;
        l->active = NULL;
}

void outbox_lane_segment_gone(Outbox *o, OutboxLane lane, OutboxSegment *s) {
        OutboxLaneState *l = &o->lanes[lane];
        OutboxSegment *next = outbox_lane_next_segment(l, s);
        uint64_t first = s->first_lane_seq, last = next ? next->first_lane_seq - 1 : l->tail;

        assert(s->state == OUTBOX_SEGMENT_CLOSED);

        s->gone = s->damaged = true;
        if (l->peeked && l->peek.segment == s)
                l->peeked = false;
        for (size_t i = 0; i < l->n_entries;) {
                const OutboxEntry *e = outbox_lane_entry(l, i);

                if (e->segment != s)
                        i++;
                else if (e->state == OUTBOX_ENTRY_IN_FLIGHT || e->state == OUTBOX_ENTRY_REJECTING) {
                        /* These may still end in another way. */
                        outbox_lost(o, lane, s, first, e->lane_seq - 1);
                        first = e->lane_seq + 1;
                        i++;
                } else
                        outbox_lane_remove_entry(l, i);
        }
        outbox_lost(o, lane, s, first, last);
}

void outbox_lane_done(Outbox *o, OutboxLaneState *l) {
        for (size_t i = 0; i < l->n_segments; i++)
                outbox_segment_free(o, l->segments[i]);
        free(l->segments);
        free(l->entries);
        outbox_settled_set_done(&l->settled);
        outbox_settled_set_done(&l->recorded);
        outbox_reader_done(&l->reader);
        *l = (OutboxLaneState) { 0 };
}

OutboxEntry *outbox_lane_entry(OutboxLaneState *l, size_t i) {
        assert(i < l->n_entries);
        return &l->entries[(l->entries_head + i) % l->entries_allocated];
}

OutboxEntry *outbox_lane_find(OutboxLaneState *l, uint64_t seq, size_t *ret_i) {
        size_t low = 0, high = l->n_entries;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (outbox_lane_entry(l, middle)->seq < seq)
                        low = middle + 1;
                else
                        high = middle;
        }
        if (low == l->n_entries || outbox_lane_entry(l, low)->seq != seq)
                return NULL;
        *ret_i = low;
        return outbox_lane_entry(l, low);
}

OutboxEntry *outbox_find_entry(Outbox *o, uint64_t seq, OutboxLane *ret_lane, size_t *ret_i) {
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxEntry *e = outbox_lane_find(&o->lanes[lane], seq, ret_i);

                if (e) {
                        *ret_lane = (OutboxLane) lane;
                        return e;
                }
        }
        return NULL;
}

static int entries_grow(OutboxLaneState *l) {
        size_t n = l->entries_allocated ? 2 * l->entries_allocated : 64;
        OutboxEntry *e = reallocarray(NULL, n, sizeof(*e));

        if (!e)
                return -ENOMEM;
        for (size_t i = 0; i < l->n_entries; i++)
                e[i] = *outbox_lane_entry(l, i);
        free(l->entries);
        l->entries = e;
        l->entries_allocated = n;
        l->entries_head = 0;
        return 0;
}

int outbox_lane_push_peek(OutboxLaneState *l) {
        int r;

        assert(l->peeked);
        if (l->n_entries == l->entries_allocated) {
                r = entries_grow(l);
                if (r < 0)
                        return r;
        }
        /* Each end adds at most one range: the room is taken now, so that the end cannot fail. */
        r = outbox_settled_set_reserve(&l->settled, l->n_entries + 4);
        if (r < 0)
                return r;
        l->n_entries++;
        *outbox_lane_entry(l, l->n_entries - 1) = l->peek;
        l->peeked = false;
        return 0;
}

/* Most ends come in order, at the front, also behind a message set aside: the shorter side moves. */
void outbox_lane_remove_entry(OutboxLaneState *l, size_t i) {
        assert(i < l->n_entries);
        if (outbox_lane_entry(l, i)->state == OUTBOX_ENTRY_READY)
                l->n_ready--;
        else if (outbox_lane_entry(l, i)->state == OUTBOX_ENTRY_ASIDE)
                l->n_aside--;
        if (i < l->n_entries / 2) {
                for (; i > 0; i--)
                        *outbox_lane_entry(l, i) = *outbox_lane_entry(l, i - 1);
                l->entries_head = (l->entries_head + 1) % l->entries_allocated;
        } else
                for (; i + 1 < l->n_entries; i++)
                        *outbox_lane_entry(l, i) = *outbox_lane_entry(l, i + 1);
        l->n_entries--;
}

void outbox_entry_from_record(const OutboxMessageRecord *m, OutboxSegment *s, uint64_t offset, uint32_t size, OutboxEntry *ret) {
        size_t n = MIN(m->message_id_size, (size_t) OUTBOX_MESSAGE_ID_MAX);

        ret->seq = m->seq;
        ret->lane_seq = m->lane_seq;
        ret->segment = s;
        ret->offset = offset;
        ret->size = size;
        ret->state = OUTBOX_ENTRY_READY;
        ret->sent_before = false;
        ret->n_cuts = 0;
        ret->same_boot = s && s->same_boot;
        ret->realtime_plausible = m->realtime_plausible;
        ret->accepted_realtime_usec = m->accepted_realtime_usec;
        ret->accepted_boottime_usec = m->accepted_boottime_usec;
        ret->time_to_live_usec = m->time_to_live_usec;
        ret->has_stream = m->has_stream;
        ret->position = m->position;
        memcpy(ret->stream, m->stream, sizeof(ret->stream));
        if (n > 0)
                memcpy(ret->message_id, m->message_id, n);
        ret->message_id[n] = 0;
}

/* Never early: across boots only the wall clock is left, and it counts only where it could be trusted both when the
 * message was accepted and now. */
usec_t outbox_entry_expiry(Outbox *o, const OutboxEntry *e) {
        usec_t realtime, age;

        if (e->time_to_live_usec == USEC_INFINITY)
                return USEC_INFINITY;
        if (e->same_boot)
                return usec_add(e->accepted_boottime_usec, e->time_to_live_usec);

        realtime = outbox_now_realtime(o);
        if (!e->realtime_plausible || !outbox_realtime_plausible(o, realtime))
                return USEC_INFINITY;
        age = usec_sub(realtime, e->accepted_realtime_usec);
        return usec_add(outbox_now_boottime(o), usec_sub(e->time_to_live_usec, age));
}

static void go_to(OutboxLaneState *l, OutboxSegment *s) {
        l->read_segment = s;
        l->read_offset = OUTBOX_SEGMENT_HEADER_SIZE;
}

/* Decodes what is at the cursor. 1: *ret is a valid record; 0: the cursor moved over bytes that are none. */
static int read_record(Outbox *o, OutboxLaneState *l, OutboxRecord *ret) {
        OutboxSegment *s = l->read_segment;
        const uint8_t *p;
        size_t n, size = 0, at = OUTBOX_RECORD_ALIGN;
        int r;

        r = outbox_reader_get(o, &l->reader, s, l->read_offset, s->end, OUTBOX_RECORD_PREFIX_SIZE, &p, &n);
        if (r < 0)
                return r;
        r = outbox_record_decode(p, n, s->salt, ret, &size);
        if (r == -ENODATA && size <= s->end - l->read_offset) {
                r = outbox_reader_get(o, &l->reader, s, l->read_offset, s->end, size, &p, &n);
                if (r < 0)
                        return r;
                r = outbox_record_decode(p, n, s->salt, ret, &size);
        }
        if (r == 0)
                return 1;

        r = outbox_record_search(p, n, s->salt, l->read_offset + n >= s->end, &at, ret);
        l->read_offset = r == 0 && l->read_offset + n >= s->end ? s->end : l->read_offset + at;
        return r;
}

int outbox_lane_peek(Outbox *o, OutboxLane lane) {
        OutboxLaneState *l = &o->lanes[lane];

        while (!l->peeked) {
                OutboxMessageRecord m;
                OutboxSegment *s, *next;
                OutboxRecord record;
                int r;

                l->read_next = outbox_settled_set_next(&l->settled, l->read_next);
                if (l->read_next > l->tail)
                        return 0;
                if (!l->read_segment && l->n_segments > 0)
                        go_to(l, l->segments[0]);
                s = l->read_segment;
                if (!s) {
                        outbox_lost(o, lane, NULL, l->read_next, l->tail);
                        continue;
                }
                next = outbox_lane_next_segment(l, s);
                if (next && l->read_next >= next->first_lane_seq) {
                        go_to(l, next);
                        continue;
                }
                if (l->read_offset >= s->end) {
                        outbox_lost(o, lane, s, l->read_next, next ? next->first_lane_seq - 1 : l->tail);
                        continue;
                }
                r = read_record(o, l, &record);
                if (r == -ENOENT) {
                        outbox_lane_segment_gone(o, lane, s);
                        continue;
                }
                if (r < 0)
                        return r;
                if (r == 0)
                        continue;
                r = outbox_message_record_decode(&record, &m);
                if (r < 0 || record.lane != (unsigned) lane || m.lane_seq < l->read_next || m.lane_seq > l->tail) {
                        l->read_offset += record.size;
                        continue;
                }
                if (next && m.lane_seq >= next->first_lane_seq) {
                        l->read_offset = s->end;
                        continue;
                }
                if (m.lane_seq > l->read_next) {
                        outbox_lost(o, lane, s, l->read_next, m.lane_seq - 1);
                        continue;
                }
                outbox_entry_from_record(&m, s, l->read_offset, (uint32_t) record.size, &l->peek);
                l->read_offset += record.size;
                l->read_next = m.lane_seq + 1;
                l->peeked = true;
        }
        return 1;
}
