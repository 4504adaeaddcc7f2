#include "client/c2d-sender.h"

#include <proton/codec.h>
#include <proton/delivery.h>

#include "lib/string-util.h"
#include "client/amqp-request.h"
#include "client/output.h"

#define ADDRESS "/messages/devicebound"

typedef struct Sending {
        AmqpLink link;
        AmqpError *error;
        const C2dMessage *message;
        bool settled, accepted;
} Sending;

/* What a condition means here, more precisely than elsewhere. */
static unsigned code_of(const char *condition) {
        static const struct {
                const char *condition;
                unsigned code;
        } table[] = {
                { "amqp:not-found", 404001 },
                { "amqp:resource-limit-exceeded", 403004 },
                { "com.microsoft:device-not-found", 404001 },
        };

        for (size_t i = 0; condition && i < ELEMENTSOF(table); i++)
                if (streq(condition, table[i].condition))
                        return table[i].code;
        return 0;
}

static void set_refused(Sending *s, pn_delivery_t *d) {
        const uint64_t state = pn_delivery_remote_state(d);
        pn_condition_t *condition = pn_disposition_condition(pn_delivery_remote(d));
        const char *name = pn_condition_get_name(condition);

        if (!name && state == PN_RELEASED)
                name = "com.microsoft:server-busy"; /* it did not take it, which may pass */
        amqp_error_set_condition(s->error, AMQP_STAGE_ATTACH, name ? name : "amqp:not-allowed",
                                 pn_condition_get_description(condition));
        if (code_of(name) != 0) {
                s->error->rule = hub_error_find(code_of(name), NULL);
                if (s->message->module)
                        s->error->rule = hub_error_of_module(s->error->rule);
                if (s->error->rule->code == 404010)
                        s->error->module_of = s->message->device;
                s->error->exit_code = s->error->rule->exit_code;
        }
        s->error->passing = false;
}

static void on_outcome(AmqpLink *l, pn_delivery_t *d) {
        Sending *s = l->userdata;

        if (!pn_delivery_updated(d) || s->settled || pn_delivery_remote_state(d) == 0)
                return;
        s->accepted = pn_delivery_remote_state(d) == PN_ACCEPTED;
        if (!s->accepted)
                set_refused(s, d);
        s->settled = true;
        pn_delivery_settle(d);
}

static int set_text(int (*set)(pn_message_t *m, const char *text), pn_message_t *m,
                    const char *text) {
        return text && set(m, text) < 0 ? -ENOMEM : 0;
}

/* Ids are percent-encoded, as an id may hold a percent sign itself. */
static int set_address(pn_message_t *m, const C2dMessage *c) {
        _cleanup_free_ char *device = NULL, *module = NULL, *to = NULL;
        int r;

        r = percent_encode(c->device, strlen(c->device), &device);
        if (r >= 0 && c->module)
                r = percent_encode(c->module, strlen(c->module), &module);
        if (r >= 0)
                r = format_string(&to, "/devices/%s%s%s/messages/devicebound", device,
                                  module ? "/modules/" : "", strempty(module));
        return r < 0 ? r : set_text(pn_message_set_address, m, to);
}

static int set_properties(pn_message_t *m, const C2dMessage *c) {
        pn_data_t *map = pn_message_properties(m);
        int r = 0;

        if (pn_data_put_map(map) < 0 || !pn_data_enter(map))
                return -ENOMEM;
        if (c->ack && !streq(c->ack, "none"))
                r = amqp_put_property(map, "iothub-ack", c->ack);
        for (size_t i = 0; i < c->properties->n_items && r >= 0; i++)
                r = amqp_put_property(map, c->properties->items[i].name,
                                      strempty(c->properties->items[i].value));
        return r < 0 || !pn_data_exit(map) ? -ENOMEM : 0;
}

static int fill(pn_message_t *m, const C2dMessage *c) {
        const pn_atom_t id = { .type = PN_STRING,
                               .u.as_bytes = { strlen(strempty(c->message_id)), c->message_id } };
        const pn_atom_t correlation = { .type = PN_STRING,
                                        .u.as_bytes = { strlen(strempty(c->correlation_id)),
                                                        c->correlation_id } };
        int r;

        r = set_address(m, c);
        if (r >= 0)
                r = set_text(pn_message_set_content_type, m, c->content_type);
        if (r >= 0)
                r = set_text(pn_message_set_content_encoding, m, c->content_encoding);
        if (r >= 0)
                r = set_properties(m, c);
        if (r < 0)
                return r;
        if ((c->message_id && pn_message_set_id(m, id) < 0) ||
            (c->correlation_id && pn_message_set_correlation_id(m, correlation) < 0) ||
            (c->user_id &&
             pn_message_set_user_id(m, pn_bytes(strlen(c->user_id), c->user_id)) < 0) ||
            (c->expires_usec > 0 &&
             pn_message_set_expiry_time(m, (pn_timestamp_t) (c->expires_usec / USEC_PER_MSEC)) <
                             0) ||
            pn_message_set_inferred(m, true) < 0 || /* the body is a data section */
            pn_data_put_binary(pn_message_body(m), pn_bytes(c->body_size, c->body)) < 0)
                return -ENOMEM;
        return 0;
}

int c2d_send(AmqpLoop *loop, AmqpConnection *c, const C2dMessage *message, bool *ret_sent) {
        Sending s = {
                .link = { .stage = AMQP_STAGE_ATTACH, .on_delivery = on_outcome, .userdata = &s },
                .error = amqp_connection_error(c),
                .message = message,
        };
        pn_message_t *m = pn_message();
        int r;

        r = m ? fill(m, message) : -ENOMEM;
        if (r >= 0)
                r = amqp_connection_attach(c, /* receiver= */ false, "iothubctl-c2d", ADDRESS, NULL,
                                           &s.link);
        if (r >= 0)
                r = amqp_loop_until(loop, c, &s.link.attached, AMQP_STAGE_ATTACH);
        if (r >= 0) {
                *ret_sent = true;
                r = amqp_send_message(s.link.link, m, NULL);
        }
        if (r >= 0)
                r = amqp_loop_until(loop, c, &s.settled, AMQP_STAGE_ATTACH);
        amqp_link_close(&s.link);
        pn_message_free(m);
        if (s.accepted) /* whatever became of the connection in the same turn */
                return 0;
        return r >= 0 && s.error->set ? -EIO : r;
}
