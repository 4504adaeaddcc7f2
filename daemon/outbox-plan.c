/* Which records of a batch go to which place of which segment. */
#include "daemon/outbox-internal.h"

#include <sys/random.h>

static OutboxWrite *add_write(OutboxBatch *b) {
        if (b->n_writes == b->writes_allocated) {
                size_t n = b->writes_allocated ? 2 * b->writes_allocated : 4;
                OutboxWrite *w = reallocarray(b->writes, n, sizeof(*w));

                if (!w)
                        return NULL;
                b->writes = w;
                b->writes_allocated = n;
        }
        b->writes[b->n_writes] = (OutboxWrite) { 0 };
        return &b->writes[b->n_writes++];
}

static int random_salt(uint64_t *ret) {
        do {
                ssize_t k = getrandom(ret, sizeof(*ret), 0);

                if (k != sizeof(*ret))
                        return k < 0 ? -errno : -EIO;
        } while (*ret == 0);
        return 0;
}

/* A segment for the batch: a spare, or a new file. */
static int take_segment(Outbox *o, OutboxSegment **ret) {
        OutboxSegment *s;

        if (o->n_spares > 0)
                s = o->spares[--o->n_spares];
        else {
                outbox_check_fs(o, true);
                if (outbox_segments_creatable(o) == 0)
                        return -ENOSPC;
                s = outbox_segment_new(o, false, o->next_number, o->segment_size);
                if (!s)
                        return -ENOMEM;
                o->next_number++;
                o->n_plan_new++;
        }
        s->state = OUTBOX_SEGMENT_TAKEN;
        *ret = s;
        return 0;
}

void outbox_spare_add(Outbox *o, OutboxSegment *s) {
        if (o->n_spares == o->spares_allocated) {
                size_t n = o->spares_allocated ? 2 * o->spares_allocated : 8;
                OutboxSegment **a = reallocarray(o->spares, n, sizeof(*a));

                if (!a) {
                        outbox_segment_free(o, s); /* the file is found at the next start */
                        return;
                }
                o->spares = a;
                o->spares_allocated = n;
        }
        outbox_segment_close_fds(o, s);
        s->state = OUTBOX_SEGMENT_SPARE;
        s->damaged = false;
        s->first_lane_seq = 1;
        s->last_lane_seq = 0;
        o->spares[o->n_spares++] = s;
}

/* Starts a new use of a segment: header and full position, which this batch makes durable before anything that the
 * position releases is overwritten. */
static int start_use(Outbox *o, OutboxBatch *b, OutboxSegment *s, unsigned lane, uint64_t first_seq, uint64_t first_lane_seq,
                     OutboxWrite *w) {
        OutboxPosition p;
        size_t size;
        int r;

        r = random_salt(&s->salt);
        if (r < 0)
                return r;
        s->lane = lane;
        s->first_batch = b->number;
        s->attempt = b->attempt;
        s->same_boot = true;
        s->failed = s->damaged = false;
        s->first_seq = first_seq;
        s->first_lane_seq = first_lane_seq;
        s->last_lane_seq = first_lane_seq - 1;
        s->end = 0;

        outbox_position_borrow(o, true, &p);
        size = outbox_position_size(&p, o->streams);
        w->head_size = OUTBOX_SEGMENT_HEADER_SIZE + size;
        w->head = malloc(w->head_size);
        if (!w->head)
                return -ENOMEM;
        OutboxSegmentHeader h = {
                .number = s->number,
                .size = s->size,
                .lane = lane,
                .salt = s->salt,
                .batch = b->number,
                .attempt = b->attempt,
                .first_lane_seq = first_lane_seq,
                .first_seq = first_seq,
                .outbox_id = o->outbox_id,
        };
        memcpy(h.boot_id, o->clock.boot_id, sizeof(h.boot_id));
        outbox_segment_header_encode(&h, w->head);
        outbox_position_encode(&p, o->streams, lane, w->head + OUTBOX_SEGMENT_HEADER_SIZE);
        outbox_record_finish(w->head + OUTBOX_SEGMENT_HEADER_SIZE, s->salt, b->number);
        w->segment = s;
        w->fresh = true;
        w->offset = w->head_size;
        b->has_position = b->position_full = true;
        return 0;
}

/* Gives the segments of a plan back, as if it had not been made. */
static void plan_undo(Outbox *o, OutboxBatch *b) {
        for (size_t i = 0; i < b->n_writes; i++) {
                OutboxWrite *w = &b->writes[i];

                free(w->head);
                if (!w->fresh)
                        continue;
                if (w->segment->position)
                        w->segment->state = OUTBOX_SEGMENT_CLOSED;
                else if (w->segment->on_disk)
                        outbox_spare_add(o, w->segment);
                else
                        outbox_segment_free(o, w->segment);
        }
        b->n_writes = 0;
}

/* How many whole records, from at on, fit into room bytes. */
static size_t fitting(const Buffer *data, size_t at, uint64_t room, uint64_t *ret_last_lane_seq) {
        size_t end = at;

        while (end < data->size) {
                size_t size = outbox_record_size(data->data + end);

                if (end - at + size > room)
                        break;
                if (data->data[end + 28] == OUTBOX_RECORD_MESSAGE)
                        *ret_last_lane_seq = get_le64(data->data + end + 40);
                end += size;
        }
        return end - at;
}

static int plan_lane(Outbox *o, OutboxBatch *b, unsigned lane) {
        OutboxLaneState *l = &o->lanes[lane];
        OutboxSegment *s = l->active;
        uint64_t offset = s ? s->end : 0;
        Buffer *data = &b->data[lane];
        size_t at = 0;
        int r;

        r = outbox_lane_reserve_segments(l, data->size / OUTBOX_SEGMENT_SIZE_MIN * 2 + 2);
        if (r < 0)
                return r;
        while (at < data->size) {
                uint64_t last_lane_seq = 0;
                OutboxWrite *w;
                size_t n;

                w = add_write(b);
                if (!w)
                        return -ENOMEM;
                n = s ? fitting(data, at, s->size - offset, &last_lane_seq) : 0;
                if (n == 0) {
                        r = take_segment(o, &s);
                        if (r < 0) {
                                b->n_writes--;
                                return r;
                        }
                        w->segment = s;
                        w->fresh = true; /* so that undoing gives it back */
                        r = start_use(o, b, s, lane, get_le64(data->data + at + 32), get_le64(data->data + at + 40), w);
                        if (r < 0)
                                return r;
                        offset = w->offset;
                        n = offset < s->size ? fitting(data, at, s->size - offset, &last_lane_seq) : 0;
                        if (n == 0)
                                return -ENOSPC; /* the position before it has grown that much since it was admitted */
                }
                w->segment = s;
                w->offset = offset;
                w->data = data->data + at;
                w->size = n;
                w->last_lane_seq = last_lane_seq;
                offset += n;
                at += n;
        }
        return 0;
}

/* Notes what the position of this batch covers; what changes from now on is for the next. */
static int snapshot(Outbox *o, OutboxBatch *b) {
        int r;

        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                r = outbox_settled_set_copy(&b->recorded[i], &o->lanes[i].settled);
                if (r < 0)
                        return r;
        }
        b->n_ends = o->n_ends;
        for (size_t i = 0; i < o->n_drops; i++)
                if (!o->drops[i].recorded)
                        o->drops[i].batch = b->number;
        b->n_unrecorded = o->n_unrecorded;
        return 0;
}

static int append_position(Outbox *o, OutboxBatch *b, bool full, unsigned lane, Buffer *data) {
        OutboxPosition p;
        size_t size;
        int r;

        outbox_position_borrow(o, full, &p);
        size = outbox_position_size(&p, o->streams);
        r = buffer_reserve(data, size);
        if (r < 0)
                return r;
        outbox_position_encode(&p, o->streams, lane, data->data + data->size);
        data->size += size;
        b->has_position = true;
        b->position_full = full;
        return 0;
}

bool outbox_position_due(Outbox *o, usec_t now) {
        if (o->n_ends > 0 || o->n_checkpoint_calls > 0 || o->n_unrecorded >= MAX(o->options.position_messages / 2, 1U))
                return true;
        for (size_t i = 0; i < o->n_drops; i++)
                if (!o->drops[i].recorded)
                        return true;
        return now >= usec_add(o->dirty_since, o->options.position_interval_usec);
}

/* A position rides with messages where it costs little: when it is due or half due, or small beside them. */
static bool position_rides(Outbox *o, const OutboxBatch *b, size_t size, usec_t now) {
        uint64_t bytes = 0;

        if (outbox_position_due(o, now))
                return true;
        if (o->dirty_since == USEC_INFINITY)
                return false;
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++)
                bytes += b->bytes[i];
        return bytes >= 16 * size || now >= usec_add(o->dirty_since, o->options.position_interval_usec / 2);
}

/* Adds a small position at the end of the lane that is written last, if it fits behind the messages. */
static int plan_riding_position(Outbox *o, OutboxBatch *b) {
        OutboxWrite *w = &b->writes[b->n_writes - 1];
        unsigned lane = w->segment->lane;
        OutboxPosition p;
        size_t size, before = b->data[lane].size;
        int r;

        outbox_position_borrow(o, false, &p);
        size = outbox_position_size(&p, o->streams);
        if (!position_rides(o, b, size, outbox_now_boottime(o)) || w->offset + w->size + size > w->segment->size)
                return 0;
        r = append_position(o, b, false, lane, &b->data[lane]);
        if (r < 0)
                return r;
        /* The buffer may have moved. */
        for (size_t i = 0, at = 0; i < b->n_writes; i++)
                if (b->writes[i].segment->lane == lane) {
                        b->writes[i].data = b->data[lane].data + at;
                        at += b->writes[i].size;
                }
        w->size += b->data[lane].size - before;
        return 0;
}

int outbox_plan_messages(Outbox *o, OutboxBatch *b) {
        int r = 0;

        o->n_plan_new = 0;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES && r >= 0; lane++)
                r = plan_lane(o, b, lane);
        /* The file system is asked once a second, and a fast disk fills keep_free in less. */
        if (r >= 0)
                o->fs_free -= MIN(o->fs_free, (uint64_t) o->n_plan_new * o->segment_size);
        o->n_plan_new = 0;
        if (r >= 0 && !b->has_position)
                r = plan_riding_position(o, b);
        if (r >= 0 && b->has_position)
                r = snapshot(o, b);
        if (r < 0) {
                plan_undo(o, b);
                b->has_position = b->position_full = false;
        }
        return r;
}

/* A position segment that is not needed: never the one with the newest durable position. */
static OutboxSegment *take_position_segment(Outbox *o) {
        OutboxSegment *s = NULL;

        for (size_t i = 0; i < o->n_positions; i++) {
                OutboxSegment *c = o->positions[i];

                if (c == o->newest_position || c == o->newest_full || c == o->active_position)
                        continue;
                if (!s || (s->failed && !c->failed) || (s->failed == c->failed && c->first_batch < s->first_batch))
                        s = c;
        }
        if ((!s || s->failed) && o->n_positions < ELEMENTSOF(o->positions)) {
                OutboxSegment *c = outbox_segment_new(o, true, o->next_number, OUTBOX_POSITION_SEGMENT_SIZE);

                if (c) {
                        o->next_number++;
                        o->positions[o->n_positions++] = s = c;
                }
        }
        if (s)
                s->state = OUTBOX_SEGMENT_TAKEN;
        return s;
}

int outbox_plan_position(Outbox *o, OutboxBatch *b, bool full) {
        OutboxSegment *s = o->active_position;
        OutboxPosition p;
        OutboxWrite *w;
        size_t size;
        int r;

        outbox_position_borrow(o, full, &p);
        size = outbox_position_size(&p, o->streams);
        w = add_write(b);
        if (!w)
                return -ENOMEM;
        if (s && o->position_offset + size <= s->size) {
                Buffer *data = &b->data[OUTBOX_LANE_POSITION];

                data->size = 0;
                r = append_position(o, b, full, OUTBOX_LANE_POSITION, data);
                *w = (OutboxWrite) { .segment = s, .offset = o->position_offset, .data = data->data, .size = data->size };
        } else {
                s = take_position_segment(o);
                if (!s) {
                        b->n_writes--;
                        return -ENOMEM;
                }
                w->segment = s;
                w->fresh = true;
                /* Larger than usual only when damage has left thousands of gaps. */
                s->size = (uint32_t) MAX((uint64_t) s->size, OUTBOX_SEGMENT_HEADER_SIZE + (uint64_t) size);
                outbox_segment_close_fds(o, s);
                r = start_use(o, b, s, OUTBOX_LANE_POSITION, o->next_seq, 1, w);
        }
        if (r >= 0)
                r = snapshot(o, b);
        if (r < 0)
                plan_undo(o, b);
        return r;
}
