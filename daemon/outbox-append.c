/* How messages get into the open batch: a call all or not at all, a stream without gap and repeat. */
#include "daemon/outbox-internal.h"

#include <assert.h>

#include "daemon/log.h"

/* What a call changes before it is certain that all of it fits. */
typedef struct AppendState {
        size_t data_size[OUTBOX_N_MESSAGE_LANES];
        uint64_t n_messages[OUTBOX_N_MESSAGE_LANES], bytes[OUTBOX_N_MESSAGE_LANES], last_lane_seq[OUTBOX_N_MESSAGE_LANES];
        uint64_t next_lane_seq[OUTBOX_N_MESSAGE_LANES], room[OUTBOX_N_MESSAGE_LANES];
        uint64_t next_seq, first_seq, last_seq;
        unsigned n_new_planned;
} AppendState;

static void append_save(Outbox *o, AppendState *s) {
        OutboxBatch *b = o->open;

        s->next_seq = o->next_seq;
        s->first_seq = b->first_seq;
        s->last_seq = b->last_seq;
        s->n_new_planned = o->n_new_planned;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                s->data_size[lane] = b->data[lane].size;
                s->n_messages[lane] = b->n_messages[lane];
                s->bytes[lane] = b->bytes[lane];
                s->last_lane_seq[lane] = b->last_lane_seq[lane];
                s->next_lane_seq[lane] = o->lanes[lane].next_lane_seq;
                s->room[lane] = o->lanes[lane].room;
        }
}

static void append_restore(Outbox *o, const AppendState *s) {
        OutboxBatch *b = o->open;

        o->next_seq = s->next_seq;
        b->first_seq = s->first_seq;
        b->last_seq = s->last_seq;
        o->n_new_planned = s->n_new_planned;
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                b->data[lane].size = s->data_size[lane];
                b->n_messages[lane] = s->n_messages[lane];
                b->bytes[lane] = s->bytes[lane];
                b->last_lane_seq[lane] = s->last_lane_seq[lane];
                o->lanes[lane].next_lane_seq = s->next_lane_seq[lane];
                o->lanes[lane].room = s->room[lane];
        }
}

static void note_full(Outbox *o) {
        if (o->is_full)
                return;
        o->is_full = true;
        if (outbox_has_too_many_gaps(o))
                outbox_notice(o, LOG_WARNING, MSG_OUTBOX_FULL,
                              "Refusing new messages until some are delivered: damage or failures of the disk have left "
                              "thousands of gaps between those that wait");
        else
                outbox_notice(o, LOG_WARNING, MSG_OUTBOX_FULL,
                              "The outbox is full, refusing new messages: %" PRIu64 " of %" PRIu64
                              " bytes used, %" PRIu64 " bytes free on the file system of which %" PRIu64 " are kept free",
                              outbox_used_bytes(o), o->max_size, o->fs_free, o->keep_free);
}

static int append_one(Outbox *o, const OutboxMessage *m, OutboxMessageRecord *record) {
        OutboxBatch *b = o->open;
        OutboxLaneState *l = &o->lanes[m->lane];
        Buffer *data = &b->data[m->lane];
        size_t size;
        int r;

        record->seq = o->next_seq;
        record->lane_seq = l->next_lane_seq;
        record->message_id = m->message_id;
        record->message_id_size = m->message_id ? strlen(m->message_id) : 0;
        record->bag = m->bag;
        record->bag_size = m->bag ? m->bag_size : 0;
        record->body = m->body;
        record->body_size = m->body_size;
        record->time_to_live_usec = m->time_to_live_usec != USEC_INFINITY ? m->time_to_live_usec : o->options.time_to_live_usec;
        size = outbox_message_record_size(record);
        if (size == 0 || size > OUTBOX_MESSAGE_RECORD_MAX || record->message_id_size > OUTBOX_MESSAGE_ID_MAX)
                return -EMSGSIZE;
        if (!outbox_admit(o, m->lane, size))
                return -ENOSPC;
        r = buffer_reserve(data, size);
        if (r < 0)
                return r;
        outbox_message_record_encode(record, m->lane, data->data + data->size);
        data->size += size;
        b->n_messages[m->lane]++;
        b->bytes[m->lane] += size;
        b->last_lane_seq[m->lane] = record->lane_seq;
        b->last_seq = record->seq;
        if (b->first_seq == 0)
                b->first_seq = record->seq;
        o->next_seq++;
        l->next_lane_seq++;
        return 0;
}

static uint64_t batch_bytes(const OutboxBatch *b) {
        uint64_t n = 0;

        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++)
                n += b->bytes[lane];
        return n;
}

/* Adds the messages from skip on, all or none. */
static int append_all(Outbox *o, const OutboxMessage *messages, size_t n, size_t skip, const OutboxStream *stream, uint32_t uid,
                      OutboxCall *call) {
        OutboxMessageRecord record = {
                .accepted_realtime_usec = outbox_now_realtime(o),
                .accepted_boottime_usec = outbox_now_boottime(o),
                .has_stream = stream != NULL,
                .uid = uid,
        };
        uint64_t bytes = batch_bytes(o->open);
        AppendState saved;
        int r = 0;

        record.realtime_plausible = outbox_realtime_plausible(o, record.accepted_realtime_usec);
        if (stream)
                memcpy(record.stream, stream->id, sizeof(record.stream));
        append_save(o, &saved);
        call->first = o->next_seq;
        for (size_t i = skip; i < n && r >= 0; i++) {
                record.first_of_call = i == skip;
                record.last_of_call = i + 1 == n;
                record.position = stream ? stream->position + i : 0;
                r = append_one(o, &messages[i], &record);
                if (r >= 0 && batch_bytes(o->open) - bytes > OUTBOX_CALL_BYTES_MAX)
                        r = -EMSGSIZE;
        }
        call->last = o->next_seq - 1;
        if (r >= 0)
                r = outbox_calls_add(&o->open->calls, &o->open->n_calls, &o->open->calls_allocated, call);
        if (r < 0) {
                append_restore(o, &saved);
                if (r == -ENOSPC)
                        note_full(o);
                return r;
        }
        o->open->newest_realtime_usec = record.accepted_realtime_usec;
        if (n - skip > 1)
                o->open->seal = true;
        return 0;
}

/* How many of the call's first messages are stored already or in a batch under way. */
static int check_stream(Outbox *o, const OutboxMessage *messages, size_t n, const OutboxStream *stream, uint32_t uid,
                        OutboxStreamEntry **ret, size_t *ret_skip, uint64_t *reterr_next) {
        OutboxStreamEntry *e = outbox_stream_find(o->streams, stream->id);
        uint64_t next = e ? e->pending_next : 0;

        for (size_t i = 0; i < n; i++)
                if (messages[i].lane != messages[0].lane)
                        return -EPERM;
        if (e && (e->uid != uid || e->lane != (unsigned) messages[0].lane))
                return -EPERM;
        if (stream->position > next) {
                if (reterr_next)
                        *reterr_next = next;
                return -ESTALE;
        }
        *ret = e;
        *ret_skip = (size_t) MIN((uint64_t) n, next - stream->position);
        return 0;
}

/* All are duplicates: told when the originals are durable, which may be already. */
static int append_duplicates(Outbox *o, const OutboxStreamEntry *e, uint64_t end, const OutboxCall *call) {
        OutboxCall c = *call;
        OutboxBatch *b;

        c.has_stream = false;
        if (end <= e->next)
                return outbox_calls_add(&o->ready_calls, &o->n_ready_calls, &o->ready_calls_allocated, &c);
        b = o->open->first_seq > 0 ? o->open : o->running;
        assert(b);
        return outbox_calls_add(&b->calls, &b->n_calls, &b->calls_allocated, &c);
}

int outbox_append(Outbox *o, const OutboxMessage *messages, size_t n_messages, const OutboxStream *stream, uint32_t uid,
                  OutboxDurableCallback on_durable, void *userdata, uint64_t *reterr_next) {
        OutboxCall call = { .callback = on_durable, .userdata = userdata };
        OutboxStreamEntry *e = NULL;
        size_t skip = 0;
        int r;

        assert(messages && n_messages > 0);

        if (o->closing)
                return -ECANCELED;
        if (o->disk_error < 0)
                return o->disk_error;
        r = outbox_batch_open(o);
        if (r < 0)
                return r;
        if (stream) {
                r = check_stream(o, messages, n_messages, stream, uid, &e, &skip, reterr_next);
                if (r < 0)
                        return r;
                call.has_stream = true;
                memcpy(call.stream, stream->id, sizeof(call.stream));
                call.stream_next = stream->position + n_messages;
                call.n_duplicates = skip;
        }
        if (e)
                outbox_stream_touch(o->streams, e);
        if (skip == n_messages) {
                r = append_duplicates(o, e, call.stream_next, &call);
                if (r >= 0)
                        outbox_wake(o);
                return r;
        }
        if (batch_bytes(o->open) >= OUTBOX_BATCH_BYTES_MAX)
                return -ENOBUFS;
        if (stream && !e) {
                e = outbox_stream_add(o->streams, stream->id, uid, messages[0].lane);
                if (!e)
                        return -ENOBUFS;
        }
        r = append_all(o, messages, n_messages, skip, stream, uid, &call);
        if (r < 0)
                return r;
        if (e)
                e->pending_next = call.stream_next;
        if (!o->running)
                outbox_wake(o);
        return 0;
}

int outbox_stream_next(Outbox *o, const uint8_t stream[static 16], uint32_t uid, uint64_t *ret) {
        OutboxStreamEntry *e = outbox_stream_find(o->streams, stream);

        if (e && e->uid != uid)
                return -EPERM;
        *ret = e ? e->next : 0;
        return 0;
}
