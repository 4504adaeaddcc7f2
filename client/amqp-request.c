#include "client/amqp-request.h"

#include <openssl/rand.h>
#include <proton/codec.h>
#include <proton/delivery.h>

#include "client/output.h"

#define ANSWER_BYTES_MAX (256U * 1024U)
#define MESSAGE_BYTES_MIN 1024U

int amqp_put_string(pn_data_t *d, const char *s) {
        return pn_data_put_string(d, pn_bytes(strlen(s), s)) < 0 ? -ENOMEM : 0;
}

int amqp_put_property(pn_data_t *map, const char *name, const char *value) {
        return amqp_put_string(map, name) < 0 || amqp_put_string(map, value) < 0 ? -ENOMEM : 0;
}

static int encode(pn_message_t *message, Buffer *out) {
        size_t n = MESSAGE_BYTES_MIN;
        int r;

        for (;;) {
                if (buffer_reserve(out, n) < 0)
                        return -ENOMEM;
                n = out->allocated;
                r = pn_message_encode(message, (char *) out->data, &n);
                if (r != PN_OVERFLOW)
                        break;
                n = 2 * out->allocated;
        }
        out->size = n;
        return r < 0 ? -ENOMEM : 0;
}

int amqp_send_message(pn_link_t *link, pn_message_t *message, pn_delivery_t **ret) {
        _cleanup_(buffer_done) Buffer out = {};
        pn_delivery_t *d;
        uint64_t tag = 0;
        int r;

        r = encode(message, &out);
        if (r < 0)
                return r;
        (void) RAND_bytes((unsigned char *) &tag,
                          sizeof(tag)); /* must only differ from those not settled */
        d = pn_delivery(link, pn_dtag((const char *) &tag, sizeof(tag)));
        if (!d || pn_link_send(link, (const char *) out.data, out.size) != (ssize_t) out.size)
                return -ENOMEM;
        (void) pn_link_advance(link); /* it is the current one */
        if (ret)
                *ret = d;
        return 0;
}

int amqp_take_delivery(pn_link_t *link, pn_delivery_t *delivery, Buffer *to, size_t max) {
        size_t n = pn_delivery_pending(delivery);
        ssize_t got;

        if (pn_delivery_aborted(delivery))
                return -EMSGSIZE;
        if (n > max - MIN(to->size, max))
                return -EMSGSIZE;
        if (n > 0) {
                if (buffer_reserve(to, n) < 0)
                        return -ENOMEM;
                got = pn_link_recv(link, (char *) to->data + to->size, n);
                if (got > 0)
                        to->size += (size_t) got;
        }
        return !pn_delivery_partial(delivery);
}

static void on_sent(AmqpLink *l, pn_delivery_t *d) {
        AmqpRequester *r = l->userdata;

        if (!pn_delivery_updated(d))
                return;
        if (pn_delivery_remote_state(d) == PN_REJECTED) {
                pn_condition_t *condition = pn_disposition_condition(pn_delivery_remote(d));

                amqp_error_set_condition(amqp_connection_error(r->connection), r->stage,
                                         pn_condition_get_name(condition),
                                         pn_condition_get_description(condition));
        }
        pn_delivery_settle(d);
}

static void read_answer(AmqpRequester *r) {
        AmqpValue v;
        int64_t id;

        if (amqp_message_read(r->answer.data, r->answer.size, &r->message) < 0)
                return; /* the waiting ends at its deadline */
        if (amqp_value_integer(&r->message.correlation_id, &id) && (uint64_t) id != r->id)
                return; /* of an older question */
        r->status = 0;
        if (amqp_map_get(&r->message.application_properties, "status-code", &v) > 0)
                (void) amqp_value_integer(&v,
                                          &r->status); /* else it stays 0, which is no success */
        r->answered = true;
}

static void on_answer(AmqpLink *l, pn_delivery_t *d) {
        AmqpRequester *r = l->userdata;
        int k;

        if (!pn_delivery_readable(d))
                return;
        if (r->answered) /* nobody looks at that one any more */
                buffer_consume(&r->answer, r->answer.size);
        r->answered = false;
        k = amqp_take_delivery(l->link, d, &r->answer, ANSWER_BYTES_MAX);
        if (k == 0)
                return;
        if (k > 0)
                read_answer(r);
        if (!r->answered)
                buffer_consume(&r->answer, r->answer.size);
        pn_delivery_update(d, PN_ACCEPTED);
        pn_delivery_settle(d);
        pn_link_flow(l->link, 1);
}

int amqp_requester_open(AmqpRequester *r, AmqpConnection *c, const char *node, AmqpStage stage) {
        uint64_t random = 0;
        char name[80];

        *r = (AmqpRequester){
                .connection = c,
                .node = node,
                .stage = stage,
                .sender = { .stage = stage, .on_delivery = on_sent, .userdata = r },
                .receiver = { .stage = stage, .on_delivery = on_answer, .userdata = r },
        };
        (void) RAND_bytes((unsigned char *) &random,
                          sizeof(random)); /* it only must differ from others' */
        (void) snprintf(r->reply_to, sizeof(r->reply_to), "iothubctl-%016" PRIx64,
                        random); /* fits */
        (void) snprintf(name, sizeof(name), "%s-sender", node);
        if (amqp_connection_attach(c, /* receiver= */ false, name, node, r->reply_to, &r->sender) <
            0)
                return -ENOMEM;
        (void) snprintf(name, sizeof(name), "%s-receiver", node);
        if (amqp_connection_attach(c, /* receiver= */ true, name, node, r->reply_to, &r->receiver) <
            0)
                return -ENOMEM;
        pn_link_flow(r->receiver.link, 8);
        return 0;
}

void amqp_requester_done(AmqpRequester *r) {
        amqp_link_close(&r->sender);
        amqp_link_close(&r->receiver);
        buffer_done(&r->answer);
        *r = (AmqpRequester){};
}

int amqp_requester_send(AmqpRequester *r, pn_message_t *message) {
        buffer_consume(&r->answer, r->answer.size);
        r->answered = false;
        r->id++;
        if (pn_message_set_id(message, (pn_atom_t){ .type = PN_ULONG, .u.as_ulong = r->id }) < 0 ||
            pn_message_set_reply_to(message, r->reply_to) < 0)
                return -ENOMEM;
        return amqp_send_message(r->sender.link, message, NULL);
}

bool amqp_requester_check(AmqpRequester *r) {
        AmqpError *error = amqp_connection_error(r->connection);
        char condition[64] = "", text[256] = "";
        const HubErrorRule *rule;
        AmqpBytes b;
        AmqpValue v;

        if (r->status >= 200 && r->status < 300)
                return true;
        if (amqp_map_get(&r->message.application_properties, "status-description", &v) > 0 &&
            amqp_value_text(&v, &b))
                (void) snprintf(text, sizeof(text), "%.*s", (int) MIN(b.size, sizeof(text)),
                                (const char *) b.data); /* a longer one is cut */
        if (amqp_map_get(&r->message.application_properties, "error-condition", &v) > 0 &&
            amqp_value_text(&v, &b))
                (void) snprintf(condition, sizeof(condition), "%.*s",
                                (int) MIN(b.size, sizeof(condition)), (const char *) b.data);
        if (*condition) {
                amqp_error_set_condition(error, r->stage, condition, text);
                return false;
        }
        rule = hub_error_of_status((long) r->status);
        amqp_error_set(error, r->stage, rule->exit_code, NULL, "%s", text);
        (void) snprintf(error->condition, sizeof(error->condition), "status %" PRId64, r->status);
        error->rule = rule;
        return false;
}

int amqp_requester_call(AmqpRequester *r, AmqpLoop *loop, pn_message_t *message) {
        int k;

        k = amqp_requester_send(r, message);
        if (k >= 0)
                k = amqp_loop_until(loop, r->connection, &r->answered, r->stage);
        if (k < 0)
                return k;
        return amqp_requester_check(r) ? 0 : -EIO;
}
