#include "client/feedback.h"

#include <strings.h>

#include <proton/delivery.h>

#include "lib/json-util.h"
#include "client/amqp-request.h"
#include "client/output.h"

#define ADDRESS "/messages/serviceBound/feedback"
#define KEPT_MAX 64U
#define MESSAGE_BYTES_MAX (256U * 1024U)
#define MESSAGE_DEPTH_MAX 8

static const char *const names[_FEEDBACK_STATUS_MAX] = {
        [FEEDBACK_SUCCESS] = "Success",
        [FEEDBACK_EXPIRED] = "Expired",
        [FEEDBACK_DELIVERY_COUNT_EXCEEDED] = "DeliveryCountExceeded",
        [FEEDBACK_REJECTED] = "Rejected",
        [FEEDBACK_PURGED] = "Purged",
        [FEEDBACK_UNKNOWN] = "unknown",
};

const char *feedback_status_to_string(FeedbackStatus s) {
        return s >= 0 && s < _FEEDBACK_STATUS_MAX ? names[s] : NULL;
}

int feedback_status_exit_code(FeedbackStatus s) {
        static const int codes[_FEEDBACK_STATUS_MAX] = {
                [FEEDBACK_SUCCESS] = EX_OK,
                [FEEDBACK_EXPIRED] = EXIT_OFFLINE,
                [FEEDBACK_DELIVERY_COUNT_EXCEEDED] = EX_SOFTWARE,
                [FEEDBACK_REJECTED] = EX_DATAERR,
                [FEEDBACK_PURGED] = EXIT_NOT_FOUND,
                [FEEDBACK_UNKNOWN] = EX_PROTOCOL,
        };

        return s >= 0 && s < _FEEDBACK_STATUS_MAX ? codes[s] : EX_PROTOCOL;
}

static FeedbackStatus status_from_name(const char *s) {
        for (FeedbackStatus i = 0; s && i < FEEDBACK_UNKNOWN; i++)
                if (strcasecmp(s, names[i]) == 0)
                        return i;
        return FEEDBACK_UNKNOWN;
}

void feedback_record_read(struct json_object *o, FeedbackRecord *ret) {
        FeedbackRecord r = { .status = FEEDBACK_UNKNOWN };
        const struct {
                const char *field;
                const char **to;
        } texts[] = {
                { "originalMessageId", &r.message_id },
                { "deviceId", &r.device_id },
                { "enqueuedTimeUtc", &r.enqueued_time },
                { "description", &r.description },
        };
        const char *name = NULL;
        uint64_t number;

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                (void) json_get_string(o, texts[i].field, texts[i].to,
                                       NULL); /* else it is absent */
        if (json_get_string(o, "statusCode", &name, NULL) > 0)
                r.status = status_from_name(name);
        else if (json_get_u64(o, "statusCode", &number) > 0 && number < FEEDBACK_UNKNOWN)
                r.status = (FeedbackStatus) number;
        else
                r.status = status_from_name(r.description);
        *ret = r;
}

struct FeedbackReceiver {
        AmqpLink link;
        void (*on_message)(struct json_object *records, pn_delivery_t *handle, void *userdata);
        void *userdata;
        Buffer message;
        pn_delivery_t *kept[KEPT_MAX];
        unsigned n_kept;
};

const bool *feedback_receiver_attached(const FeedbackReceiver *r) {
        return &r->link.attached;
}

unsigned feedback_kept(const FeedbackReceiver *r) {
        return r->n_kept;
}

static void settle(pn_delivery_t *d, uint64_t state) {
        pn_delivery_update(d, state);
        pn_delivery_settle(d);
}

static void settle_all(FeedbackReceiver *r, uint64_t state) {
        for (unsigned i = 0; i < r->n_kept; i++)
                settle(r->kept[i], state);
        r->n_kept = 0;
}

void feedback_accept_all(FeedbackReceiver *r) {
        settle_all(r, PN_ACCEPTED);
}

void feedback_release_all(FeedbackReceiver *r) {
        settle_all(r, PN_RELEASED);
}

void feedback_accept(FeedbackReceiver *r, pn_delivery_t *handle) {
        for (unsigned i = 0; i < r->n_kept; i++)
                if (r->kept[i] == handle) {
                        r->kept[i] = r->kept[--r->n_kept];
                        settle(handle, PN_ACCEPTED);
                        return;
                }
}

void feedback_more(FeedbackReceiver *r, unsigned credit) {
        pn_link_flow(r->link.link, (int) credit);
}

/* Of what an older hub might send: one record without the array. */
static struct json_object *records_of(const AmqpMessage *m) {
        struct json_object *o = NULL, *array;
        AmqpBytes b;

        if (!amqp_value_text(&m->body, &b) || json_parse(b.data, b.size, MESSAGE_DEPTH_MAX, &o) < 0)
                return NULL;
        if (json_object_is_type(o, json_type_array))
                return o;
        array = json_object_new_array();
        if (!array || json_object_array_add(array, o) < 0) {
                json_object_put(o);
                json_object_put(array);
                return NULL;
        }
        return array;
}

static void on_delivery(AmqpLink *l, pn_delivery_t *d) {
        _cleanup_json_ struct json_object *records = NULL;
        FeedbackReceiver *r = l->userdata;
        AmqpMessage m;
        int k;

        if (!pn_delivery_readable(d) || d != pn_link_current(l->link))
                return;
        k = amqp_take_delivery(l->link, d, &r->message, MESSAGE_BYTES_MAX);
        if (k == 0)
                return;
        (void) pn_link_advance(l->link); /* to the next; this one is settled when its records are */
        if (k > 0 && amqp_message_read(r->message.data, r->message.size, &m) >= 0)
                records = records_of(&m);
        r->message.size = 0;
        if (!records || r->n_kept >= KEPT_MAX) {
                if (!records)
                        say_error("A message with feedback is not understood, and rejected");
                /* Released, the hub would hand it out again and again. */
                settle(d, records ? PN_RELEASED : PN_REJECTED);
                feedback_more(r, 1);
                return;
        }
        r->kept[r->n_kept++] = d;
        r->on_message(records, d, r->userdata);
}

int feedback_receiver_new(AmqpConnection *c, unsigned credit,
                          void (*on_message)(struct json_object *records, pn_delivery_t *handle,
                                             void *userdata),
                          void *userdata, FeedbackReceiver **ret) {
        FeedbackReceiver *r = malloc(sizeof(*r));

        if (!r)
                return -ENOMEM;
        *r = (FeedbackReceiver){
                .link = { .stage = AMQP_STAGE_ATTACH, .on_delivery = on_delivery, .userdata = r },
                .on_message = on_message,
                .userdata = userdata,
        };
        if (amqp_connection_attach(c, /* receiver= */ true, "iothubctl-feedback", ADDRESS, NULL,
                                   &r->link) < 0) {
                free(r);
                return -ENOMEM;
        }
        feedback_more(r, MIN(credit, KEPT_MAX));
        *ret = r;
        return 0;
}

FeedbackReceiver *feedback_receiver_free(FeedbackReceiver *r) {
        if (!r)
                return NULL;
        feedback_release_all(r);
        amqp_link_close(&r->link);
        buffer_done(&r->message);
        free(r);
        return NULL;
}
