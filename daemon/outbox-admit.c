/* Whether there is room for one more message, and what gives way for it. */
#include "daemon/outbox-internal.h"

#define POSITION_SLACK 4096U       /* what a full position may grow by between admission and plan */
#define CREATE_BLOCKED_USEC (5 * USEC_PER_SEC)
#define CREATE_AGAIN_USEC USEC_PER_SEC /* after a failure, in the background */

/* Bytes of segments that are being made: the file system may not show them yet. */
static uint64_t unmade_bytes(Outbox *o) {
        unsigned n = o->creating + o->n_plan_new;

        for (size_t i = 0; o->running && i < o->running->n_writes; i++)
                n += o->running->writes[i].fresh && !o->running->writes[i].segment->position;
        return (uint64_t) n * o->segment_size;
}

/* A segment could not be made although statfs showed room: it is not tried again at once, unless there is more room. */
void outbox_block_create(Outbox *o) {
        outbox_check_fs(o, true);
        o->create_blocked_until = usec_add(outbox_now_boottime(o), CREATE_BLOCKED_USEC);
        o->create_blocked_free = o->fs_free;
}

static bool create_is_blocked(Outbox *o) {
        return outbox_now_boottime(o) < o->create_blocked_until &&
               o->fs_free < o->create_blocked_free + o->segment_size;
}

static unsigned segments_with_room(Outbox *o) {
        uint64_t taken = o->keep_free + unmade_bytes(o), free_bytes = o->fs_free > taken ? o->fs_free - taken : 0;
        uint64_t allowed = (uint64_t) o->n_segments_max * o->segment_size,
                 used = o->segment_bytes + outbox_evidence_bytes(o) + o->unremoved_bytes;

        if (used >= allowed)
                return 0;
        return (unsigned) (MIN(allowed - used, free_bytes) / o->segment_size);
}

unsigned outbox_segments_creatable(Outbox *o) {
        return create_is_blocked(o) ? 0 : segments_with_room(o);
}

/* A quota that gives room again does not show in statfs. A spare is made in the background, where a failure costs no
 * sender an error, and before anything gives way: so it may be tried again while a batch may not. The last segments are
 * left to the batches that need them, one for each lane: while one is made nobody can have it, and in a batch that
 * comes meanwhile messages would be refused, or give way, although there is room. */
bool outbox_spare_may_be_made(Outbox *o) {
        bool again = usec_add(outbox_now_boottime(o), CREATE_BLOCKED_USEC) >= usec_add(o->create_blocked_until, CREATE_AGAIN_USEC);

        return (again || !create_is_blocked(o)) &&
               segments_with_room(o) > o->n_new_planned + OUTBOX_N_MESSAGE_LANES;
}

bool outbox_segment_is_done(const OutboxSegment *s, const OutboxSettledSet *set) {
        return s->state == OUTBOX_SEGMENT_CLOSED && outbox_settled_set_contains_all(set, s->first_lane_seq, s->last_lane_seq);
}

/* Segments of which every message has ended: they are free as soon as a position says so. */
unsigned outbox_segments_releasable(Outbox *o) {
        uint64_t bytes = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                for (size_t i = 0; i < o->lanes[lane].n_segments; i++)
                        if (outbox_segment_is_done(o->lanes[lane].segments[i], &o->lanes[lane].settled))
                                bytes += o->lanes[lane].segments[i]->size;
        return (unsigned) (bytes / o->segment_size);
}

static unsigned segments_available(Outbox *o) {
        unsigned n = (unsigned) o->n_spares + outbox_segments_creatable(o);

        if (n <= o->n_new_planned)
                n += outbox_segments_releasable(o);
        return n;
}

/* In a small outbox the lanes may hold all segments there are: one whose messages have all ended gives its segment up.
 * Messages on their way to it keep it. */
static void close_done_lanes(Outbox *o) {
        bool any = false;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                OutboxSegment *s = l->active;

                if (!s || (o->open && o->open->data[lane].size > 0) || (o->running && o->running->n_messages[lane] > 0) ||
                    !outbox_settled_set_contains_all(&l->settled, s->first_lane_seq, s->last_lane_seq))
                        continue;
                outbox_lane_close_active(o, l);
                l->room = 0;
                any = true;
        }
        if (any)
                outbox_release_segments(o); /* a position may have recorded all of it already */
}

/* Thousands of gaps between messages that still wait, from failures of the disk that alternate with successes, or from
 * damage: a position that tells them all would leave no room beside it. What is delivered closes them. */
bool outbox_has_too_many_gaps(const Outbox *o) {
        size_t n = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += o->lanes[lane].settled.n;
        return n >= OUTBOX_POSITION_RANGES_MAX;
}

static bool new_segment_available(Outbox *o) {
        if (segments_available(o) > o->n_new_planned)
                return true;
        /* Expired messages make room before anyone is refused. */
        (void) outbox_expire(o);
        if (segments_available(o) <= o->n_new_planned)
                close_done_lanes(o);
        if (segments_available(o) <= o->n_new_planned && (o->n_evidence > 0 || o->options.full == OUTBOX_FULL_DROP_OLDEST))
                outbox_check_fs(o, true); /* what gives way is gone for good: not for an answer of a second ago */
        while (segments_available(o) <= o->n_new_planned)
                if (!outbox_evidence_sacrifice(o) && (o->options.full != OUTBOX_FULL_DROP_OLDEST || !outbox_drop_oldest(o)))
                        return false;
        return true;
}

bool outbox_has_room(Outbox *o) {
        if (outbox_has_too_many_gaps(o))
                return false;
        if (segments_available(o) <= o->n_new_planned)
                close_done_lanes(o);
        return segments_available(o) > o->n_new_planned;
}

void outbox_position_borrow(Outbox *o, bool full, OutboxPosition *ret) {
        *ret = (OutboxPosition) {
                .full = full,
                .outbox_id = o->outbox_id,
                .next_seq = o->next_seq,
                .totals = o->totals,
                .newest_realtime_usec = o->newest_realtime_usec,
                .hub = o->hub,
                .device = o->device,
        };
        ret->totals.expired += o->deciding[OUTBOX_END_EXPIRED];
        ret->totals.dropped += o->deciding[OUTBOX_END_DROPPED];
        ret->totals.rejected += o->deciding[OUTBOX_END_REJECTED];
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                OutboxLaneState *l = &o->lanes[i];

                ret->lanes[i] = (OutboxPositionLane) {
                        .settled = l->settled,
                        .tail = l->tail,
                        .queued_bytes = l->queued_bytes - MIN(l->queued_bytes, l->deciding_bytes),
                };
        }
}

static size_t full_position_size(Outbox *o) {
        OutboxPosition p;

        outbox_position_borrow(o, true, &p);
        return outbox_position_size(&p, o->streams);
}

/* What a new segment has for messages. */
static uint64_t fresh_room(Outbox *o) {
        uint64_t taken = OUTBOX_SEGMENT_HEADER_SIZE + full_position_size(o) + POSITION_SLACK;

        return o->segment_size > taken ? o->segment_size - taken : 0;
}

bool outbox_admit(Outbox *o, OutboxLane lane, size_t size) {
        OutboxLaneState *l = &o->lanes[lane];

        if (outbox_has_too_many_gaps(o))
                return false;
        if (l->room < size) {
                if (fresh_room(o) < size || !new_segment_available(o))
                        return false;
                o->n_new_planned++;
                l->room = fresh_room(o);
        }
        l->room -= size;
        return true;
}

/* Where the open batch begins: behind what is planned already. What is in it is counted again. */
void outbox_admission_reset(Outbox *o) {
        uint64_t fresh = fresh_room(o);

        o->n_new_planned = 0;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                OutboxLaneState *l = &o->lanes[lane];
                const Buffer *data = o->open ? &o->open->data[lane] : NULL;

                l->room = l->active ? l->active->size - l->active->end : 0;
                for (size_t i = 0; o->running && i < o->running->n_writes; i++) {
                        const OutboxWrite *w = &o->running->writes[i];

                        if (w->segment->lane == lane && !w->segment->position)
                                l->room = w->segment->size - w->offset - w->size;
                }
                for (size_t at = 0; data && at < data->size;) {
                        size_t size = outbox_record_size(data->data + at);

                        if (l->room < size) {
                                l->room = MAX(fresh, (uint64_t) size); /* where it does not fit the plan will say so */
                                o->n_new_planned++;
                        }
                        l->room -= size;
                        at += size;
                }
        }
}
