/* Cloud-to-device messages on their way in, and feedback on their ends on its way out. */
#include <assert.h>
#include <inttypes.h>

#include <proton/disposition.h>
#include <proton/message.h>
#include <proton/terminus.h>

#include "emulator/hub-amqp-private.h"
#include "emulator/hub-c2d.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define FEEDBACK_CONTENT_TYPE "application/vnd.microsoft.iothub.feedback.json"

/* ---- messages in ---- */

/* What a message holds, as text of ours; freed with it. */
typedef struct Incoming {
        char *to, *message_id, *correlation_id, *user_id, *content_type, *content_encoding;
        PropertyBag properties;
        HubC2dMessage message;
        char problem[160];
} Incoming;

static void incoming_done(Incoming *i) {
        free(i->to);
        free(i->message_id);
        free(i->correlation_id);
        free(i->user_id);
        free(i->content_type);
        free(i->content_encoding);
        property_bag_done(&i->properties);
}

static void format_message_uuid(const uint8_t u[static 16], char out[static 37]) {
        char hex[33];

        (void) format_id128(u, hex);
        (void) snprintf(out, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

/* Devices know texts alone. 0, -EINVAL (*i says what) or -ENOMEM. */
static int take_text(Incoming *i, const char *name, const AmqpValue *v, char **ret) {
        char text[40];
        AmqpBytes b;
        int64_t n;

        *ret = NULL;
        if (v->type == AMQP_NULL)
                return 0;
        if (v->type == AMQP_UUID) {
                format_message_uuid(v->bytes.data, text);
                return copy_string(ret, text);
        }
        if (v->type == AMQP_BOOLEAN)
                return copy_string(ret, v->integer ? "true" : "false");
        if (amqp_value_integer(v, &n))
                return format_string(ret, "%" PRId64, n);
        if (!amqp_value_text(v, &b) || memchr(b.data, 0, b.size)) {
                (void) snprintf(i->problem, sizeof(i->problem), "%.80s: no text", name);
                return -EINVAL;
        }
        *ret = strndup((const char *) b.data, b.size);
        return *ret ? 0 : -ENOMEM;
}

static int take_ack(Incoming *i, const char *value) {
        i->message.ack = hub_c2d_ack_from_string(value);
        if ((int) i->message.ack >= 0)
                return 0;
        (void) snprintf(i->problem, sizeof(i->problem),
                        "iothub-ack: %.40s is none of none, positive, negative, full", value);
        return -EINVAL;
}

static int take_properties(Incoming *i, const AmqpValue *map) {
        AmqpReader items;
        AmqpValue name, value;
        int r;

        if (map->type != AMQP_MAP)
                return 0;
        items = map->items;
        while ((r = amqp_read(&items, &name)) > 0) {
                _cleanup_free_ char *name_text = NULL, *value_text = NULL;

                if (amqp_read(&items, &value) <= 0)
                        return -EINVAL;
                r = take_text(i, "name of a property", &name, &name_text);
                if (r >= 0 && !name_text)
                        r = -EINVAL;
                if (r >= 0)
                        r = take_text(i, name_text, &value, &value_text);
                if (r >= 0 && streq(name_text, "iothub-ack"))
                        r = take_ack(i, strempty(value_text));
                else if (r >= 0)
                        r = property_bag_add(&i->properties, name_text, strempty(value_text));
                if (r < 0)
                        return r;
        }
        return r < 0 ? -EINVAL : 0;
}

static int take_message(Incoming *i, const AmqpMessage *m) {
        AmqpBytes b;
        int64_t expires;
        int r;

        r = take_text(i, "to", &m->to, &i->to);
        if (r >= 0)
                r = take_text(i, "message-id", &m->message_id, &i->message_id);
        if (r >= 0)
                r = take_text(i, "correlation-id", &m->correlation_id, &i->correlation_id);
        if (r >= 0)
                r = take_text(i, "user-id", &m->user_id, &i->user_id);
        if (r >= 0)
                r = take_text(i, "content-type", &m->content_type, &i->content_type);
        if (r >= 0)
                r = take_text(i, "content-encoding", &m->content_encoding, &i->content_encoding);
        if (r >= 0)
                r = take_properties(i, &m->application_properties);
        if (r < 0)
                return r;
        if (!i->to) {
                (void) snprintf(i->problem, sizeof(i->problem), "to: missing");
                return -EINVAL;
        }
        if (m->body.type != AMQP_NULL && !amqp_value_text(&m->body, &b)) {
                (void) snprintf(i->problem, sizeof(i->problem), "the body is neither bytes nor text");
                return -EINVAL;
        }
        if (m->more_data) {
                (void) snprintf(i->problem, sizeof(i->problem), "the body is more than one data or value section");
                return -EINVAL;
        }
        if (amqp_value_integer(&m->absolute_expiry_time, &expires))
                i->message.expires_usec = expires <= 0 ? 1 : MIN((uint64_t) expires, UINT64_MAX / 2000) *
                                                                             USEC_PER_MSEC;
        if (amqp_value_text(&m->body, &b)) {
                i->message.body = b.data;
                i->message.n = b.size;
        }
        i->message.to = i->to;
        i->message.message_id = i->message_id;
        i->message.correlation_id = i->correlation_id;
        i->message.user_id = i->user_id;
        i->message.content_type = i->content_type;
        i->message.content_encoding = i->content_encoding;
        i->message.properties = &i->properties;
        return 0;
}

static const char *condition_of(int error) {
        switch (error) {
        case -ENOENT: return "amqp:not-found";
        case -EDQUOT: return "amqp:resource-limit-exceeded";
        case -EMSGSIZE: return "amqp:link:message-size-exceeded";
        case -EINVAL: return "amqp:invalid-field";
        default: return "amqp:internal-error";
        }
}

static void reject(pn_delivery_t *d, const char *condition, const char *description) {
        pn_condition_t *c = pn_disposition_condition(pn_delivery_local(d));

        pn_condition_set_name(c, condition);
        if (description)
                pn_condition_set_description(c, description);
        pn_delivery_update(d, PN_REJECTED);
        pn_delivery_settle(d);
}

static int on_c2d(AmqpLink *l, pn_delivery_t *d, const void *data, size_t n) {
        _cleanup_(incoming_done) Incoming i = { 0 };
        const char *reason = "the message is malformed";
        AmqpMessage m;
        uint64_t sequence;
        int r;

        r = amqp_message_read(data, n, &m);
        if (r == -EBADMSG) {
                reject(d, "amqp:decode-error", reason);
                return 0;
        }
        if (r >= 0)
                r = take_message(&i, &m);
        if (r == -EINVAL && *i.problem)
                reason = i.problem;
        if (r >= 0)
                r = hub_c2d_send(l->conn->door->hub, &i.message, now_usec(CLOCK_REALTIME), &sequence,
                                 &reason);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                reject(d, condition_of(r), reason);
                return 0;
        }
        pn_delivery_update(d, PN_ACCEPTED);
        pn_delivery_settle(d);
        return 0;
}

/* ---- feedback out ---- */

static int format_feedback(const HubFeedback *f, const HubAmqp *door, Buffer *out) {
        pn_message_t *m = pn_message();
        size_t n = 256;
        int r;

        if (!m)
                return -ENOMEM;
        pn_message_set_inferred(m, true); /* a data section */
        r = pn_message_set_content_type(m, FEEDBACK_CONTENT_TYPE);
        if (r == 0)
                r = pn_message_set_user_id(m, pn_bytes(strlen(door->entity), door->entity));
        pn_message_set_creation_time(m, (pn_timestamp_t) (now_usec(CLOCK_REALTIME) / USEC_PER_MSEC));
        if (r == 0)
                r = pn_data_put_binary(pn_message_body(m), pn_bytes(strlen(f->body), f->body));
        r = r == 0 ? PN_OVERFLOW : -ENOMEM;
        while (r == PN_OVERFLOW) {
                n *= 2;
                r = buffer_reserve(out, n);
                if (r < 0)
                        break;
                r = pn_message_encode(m, (char *) out->data, &n);
        }
        pn_message_free(m);
        if (r != 0)
                return -ENOMEM;
        out->size = n;
        return 0;
}

/* The lock is the delivery's tag. */
static int send_feedback(AmqpLink *l) {
        HubAmqp *door = l->conn->door;
        HubFeedback f = { 0 };
        int r;

        r = hub_feedback_take(door->hub, now_usec(CLOCK_REALTIME), &f);
        if (r == 0 && pn_link_get_drain(l->link))
                (void) pn_link_drained(l->link);
        if (r <= 0)
                return r;
        if (amqp_link_meets_trouble(l)) {
                (void) hub_feedback_settle(door->hub, f.lock, HUB_FEEDBACK_RELEASE);
                hub_feedback_done(&f);
                return 0;
        }
        door->out.size = 0;
        r = format_feedback(&f, door, &door->out);
        l->n_sent = f.lock;
        if (r >= 0)
                r = amqp_link_send(l, door->out.data, door->out.size, NULL, 0);
        if (r >= 0 && pn_link_snd_settle_mode(l->link) == PN_SND_SETTLED)
                (void) hub_feedback_settle(door->hub, f.lock, HUB_FEEDBACK_ACCEPT);
        hub_feedback_done(&f);
        return r < 0 ? r : 1;
}

static bool lock_of(pn_delivery_t *d, uint64_t *ret) {
        pn_delivery_tag_t tag = pn_delivery_tag(d);

        if (tag.size != sizeof(*ret))
                return false;
        memcpy(ret, tag.start, sizeof(*ret));
        return true;
}

/* A lock that has ended meanwhile is no fault: the batch comes again. */
static void on_feedback_settled(AmqpLink *l, pn_delivery_t *d) {
        HubFeedbackEnd end = HUB_FEEDBACK_RELEASE;
        uint64_t lock;

        if (pn_delivery_remote_state(d) == PN_ACCEPTED)
                end = HUB_FEEDBACK_ACCEPT;
        else if (pn_delivery_remote_state(d) == PN_REJECTED)
                end = HUB_FEEDBACK_REJECT;
        if (lock_of(d, &lock))
                (void) hub_feedback_settle(l->conn->door->hub, lock, end);
}

/* What its reader left open is due again at once. */
static void feedback_done(AmqpLink *l) {
        uint64_t lock;

        for (pn_delivery_t *d = pn_unsettled_head(l->link); d; d = pn_unsettled_next(d))
                if (lock_of(d, &lock))
                        (void) hub_feedback_settle(l->conn->door->hub, lock, HUB_FEEDBACK_RELEASE);
}

/* There are no uploads here, so there is nothing to tell. */
static int send_nothing(AmqpLink *l) {
        if (pn_link_get_drain(l->link))
                (void) pn_link_drained(l->link);
        return 0;
}

int amqp_c2d_attach(AmqpLink *l) {
        static const AmqpLinkType senders = { .on_message = on_c2d },
                                  feedback = { .send = send_feedback,
                                               .on_settled = on_feedback_settled,
                                               .done = feedback_done },
                                  silent = { .send = send_nothing };
        bool sends = pn_link_is_sender(l->link); /* we do */

        if (sends == (l->address.node == AMQP_NODE_DEVICEBOUND))
                amqp_link_refuse(l, "amqp:not-allowed",
                                 sends ? "messages to devices are read by the devices"
                                       : "this is read, not written");
        else
                amqp_link_accept(l, l->address.node == AMQP_NODE_DEVICEBOUND ? &senders
                                    : l->address.node == AMQP_NODE_FEEDBACK  ? &feedback
                                                                             : &silent);
        return 0;
}
