/* Records of feedback gather in one table. A reader's batch is a number that the oldest get; a lock
 * that ends takes it away again, so that they gather anew, with what came meanwhile. Batches of an
 * earlier run are dissolved at the start. */
#include <assert.h>

#include "emulator/hub-c2d-private.h"

void hub_feedback_done(HubFeedback *f) {
        free(f->body);
        *f = (HubFeedback){ 0 };
}

int hub_feedback_add(Hub *h, const HubC2dRow *row, HubC2dEnd end, usec_t now_usec) {
        HubC2d *c = hub_c2d(h);
        const HubFeedbackRow record = { .device = row->device,
                                        .generation = row->generation,
                                        .message_id = row->message_id,
                                        .status = hub_c2d_end_to_string(end),
                                        .time_usec = now_usec };
        HubC2dAck ack = hub_c2d_ack_from_string(row->ack);
        int r;

        if (ack != HUB_C2D_ACK_FULL &&
            ack != (end == HUB_C2D_SUCCESS ? HUB_C2D_ACK_POSITIVE : HUB_C2D_ACK_NEGATIVE))
                return 0;
        r = hub_store_feedback_put(hub_store(h), &record);
        if (r < 0)
                return r;
        c->n_free_feedback++;
        hub_c2d_wake_at(c, c->n_free_feedback >= HUB_FEEDBACK_RECORDS_MAX ?
                                           now_usec :
                                           usec_add(now_usec, HUB_FEEDBACK_GATHER_USEC));
        return 0;
}

/* Whether the free ones make a batch that need not wait. A clock that went back holds nothing up.
 */
static bool is_due(const HubFeedbackState *s, usec_t now_usec) {
        return s->n_free >= HUB_FEEDBACK_RECORDS_MAX ||
               (s->n_free > 0 &&
                (usec_add(s->oldest_free_usec, HUB_FEEDBACK_GATHER_USEC) <= now_usec ||
                 s->oldest_free_usec > now_usec));
}

/* Drops and releases what has lasted its time, and reads what there is. */
static int review(Hub *h, usec_t now_usec, HubFeedbackState *ret) {
        HubC2d *c = hub_c2d(h);
        int r;

        r = hub_store_feedback_drop(hub_store(h), usec_sub(now_usec, HUB_FEEDBACK_LIFE_USEC));
        if (r >= 0)
                r = hub_store_feedback_release_until(hub_store(h), now_usec);
        if (r >= 0)
                r = hub_store_feedback_state(hub_store(h), ret);
        if (r >= 0)
                c->n_free_feedback = ret->n_free;
        return r;
}

static void notify(HubC2d *c) {
        const uint64_t one = 1;

        if (c->notify_fd >= 0 && write(c->notify_fd, &one, sizeof(one)) < 0)
                return; /* a counter that is full wakes its reader as well */
}

int hub_feedback_run_timers(Hub *h, usec_t now_usec) {
        HubC2d *c = hub_c2d(h);
        HubFeedbackState s;
        int r;

        r = review(h, now_usec, &s);
        if (r < 0)
                return r;
        if (is_due(&s, now_usec))
                notify(c);
        else if (s.n_free > 0)
                hub_c2d_wake_at(c, usec_add(s.oldest_free_usec, HUB_FEEDBACK_GATHER_USEC));
        hub_c2d_wake_at(c, s.next_unlock_usec);
        /* What is dropped is older than that. */
        hub_c2d_wake_at(c, usec_add(s.oldest_usec, HUB_FEEDBACK_LIFE_USEC + 1));
        return 0;
}

static int append_record(const HubFeedbackRow *row, void *userdata) {
        struct json_object *list = userdata, *o = json_object_new_object();
        char stamp[FORMAT_TIMESTAMP_MAX], generation[21];

        (void) snprintf(generation, sizeof(generation), "%" PRIu64, row->generation); /* it fits */
        if (!o || hub_device_add_text(o, "originalMessageId", row->message_id) < 0 ||
            json_add_string(o, "description", row->status) < 0 ||
            json_add_string(o, "deviceGenerationId", generation) < 0 ||
            json_add_string(o, "deviceId", row->device) < 0 ||
            json_add_string(o, "enqueuedTimeUtc",
                            format_timestamp(stamp, sizeof(stamp), row->time_usec)) < 0 ||
            json_add_string(o, "statusCode", row->status) < 0 ||
            json_object_array_add(list, o) < 0) {
                json_object_put(o);
                return -ENOMEM;
        }
        return 0;
}

static int format_batch(Hub *h, uint64_t batch, HubFeedback *ret) {
        _cleanup_json_ struct json_object *list = json_object_new_array();
        const char *text;
        int r;

        if (!list)
                return -ENOMEM;
        r = hub_store_feedback_walk(hub_store(h), batch, append_record, list);
        if (r < 0)
                return r;
        text = json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN |
                                                                    JSON_C_TO_STRING_NOSLASHESCAPE);
        ret->body = text ? strdup(text) : NULL;
        if (!ret->body)
                return -ENOMEM;
        ret->n_records = json_object_array_length(list);
        ret->lock = batch;
        return 1;
}

static int take_locked(Hub *h, usec_t now_usec, HubFeedback *ret) {
        HubC2d *c = hub_c2d(h);
        usec_t until = usec_add(now_usec, HUB_FEEDBACK_LOCK_USEC);
        HubFeedbackState s;
        int r;

        r = review(h, now_usec, &s);
        if (r < 0)
                return r;
        if (!is_due(&s, now_usec))
                return 0;
        r = hub_store_feedback_gather(hub_store(h), ++c->last_batch, until,
                                      HUB_FEEDBACK_RECORDS_MAX);
        if (r < 0)
                return r;
        c->n_free_feedback -= MIN(c->n_free_feedback, (uint64_t) HUB_FEEDBACK_RECORDS_MAX);
        hub_c2d_wake_at(c, 0); /* for the lock's end, and for those behind */
        return format_batch(h, c->last_batch, ret);
}

int hub_feedback_take(Hub *h, usec_t now_usec, HubFeedback *ret) {
        HubFeedback f = { 0 };
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, take_locked(h, now_usec, &f));
        if (r > 0)
                *ret = f;
        else
                hub_feedback_done(&f);
        return r;
}

static int settle_locked(Hub *h, uint64_t lock, HubFeedbackEnd end) {
        int r;

        if (end != HUB_FEEDBACK_RELEASE)
                return hub_store_feedback_delete(hub_store(h), lock);
        r = hub_store_feedback_release(hub_store(h), lock);
        if (r >= 0)
                hub_c2d_wake_at(hub_c2d(h), 0);
        return r;
}

int hub_feedback_settle(Hub *h, uint64_t lock, HubFeedbackEnd end) {
        int r;

        r = hub_begin(h);
        return r < 0 ? r : hub_end(h, settle_locked(h, lock, end));
}

void hub_feedback_notify(Hub *h, int event_fd) {
        hub_lock(h);
        hub_c2d(h)->notify_fd = event_fd;
        hub_c2d_wake_at(hub_c2d(h), 0); /* for what is due already */
        hub_unlock(h);
}
