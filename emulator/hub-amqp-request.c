/* The nodes that answer requests: $cbs takes tokens, $management tells about the event hub and its partitions.
 * Answers wait on the link that they go to until it has credit. */
#include <assert.h>
#include <inttypes.h>

#include <proton/message.h>
#include <proton/terminus.h>

#include "emulator/hub-amqp-private.h"
#include "lib/string-util.h"

#define TOKEN_BYTES_MAX 4096U

/* ---- answers ---- */

static int send_answer(AmqpLink *l) {
        Buffer *b;
        int r;

        if (l->n_answers == 0) {
                if (pn_link_get_drain(l->link))
                        (void) pn_link_drained(l->link);
                return 0;
        }
        b = l->answers + l->first_answer;
        r = amqp_link_send(l, b->data, b->size, NULL, 0);
        buffer_done(b);
        *b = (Buffer) { 0 };
        l->first_answer = (l->first_answer + 1) % AMQP_ANSWERS_MAX;
        l->n_answers--;
        return r < 0 ? r : l->n_answers > 0;
}

/* The id in the type that it came with: clients compare both. */
static pn_atom_t correlation(const AmqpValue *id) {
        pn_atom_t a = { .type = PN_NULL };

        switch (id->type) {
        case AMQP_UNSIGNED:
                a.type = PN_ULONG;
                a.u.as_ulong = id->uinteger;
                break;
        case AMQP_UUID:
                a.type = PN_UUID;
                memcpy(a.u.as_uuid.bytes, id->bytes.data, 16);
                break;
        case AMQP_STRING:
        case AMQP_BINARY:
                a.type = id->type == AMQP_STRING ? PN_STRING : PN_BINARY;
                a.u.as_bytes = pn_bytes(id->bytes.size, (const char *) id->bytes.data);
                break;
        default: break;
        }
        return a;
}

static int queue_message(AmqpLink *l, pn_message_t *m) {
        Buffer *b;
        size_t n = 256;
        int r;

        if (!l->answers) {
                l->answers = calloc(AMQP_ANSWERS_MAX, sizeof(*l->answers));
                if (!l->answers)
                        return -ENOMEM;
        }
        if (l->n_answers == AMQP_ANSWERS_MAX)
                return -EBUSY;
        b = l->answers + (l->first_answer + l->n_answers) % AMQP_ANSWERS_MAX;
        do {
                n *= 2;
                r = buffer_reserve(b, n);
                if (r < 0)
                        return r;
                r = pn_message_encode(m, (char *) b->data, &n);
        } while (r == PN_OVERFLOW);
        if (r != 0)
                return -ENOMEM;
        b->size = n;
        l->n_answers++;
        return 0;
}

static bool answers(const AmqpLink *l, AmqpNode node) {
        return l->type && pn_link_is_sender(l->link) && l->address.node == node;
}

/* Where the answer to a request goes: to the reader whose target it names, else to the node's. */
static AmqpLink *find_answering(const AmqpLink *request, const AmqpMessage *m) {
        AmqpLink *found = NULL;
        AmqpBytes reply_to;

        for (AmqpLink *l = request->conn->links; l; l = l->next) {
                if (!answers(l, request->address.node))
                        continue;
                if (request->address.node == AMQP_NODE_MANAGEMENT && l->target &&
                    amqp_value_text(&m->reply_to, &reply_to) && amqp_bytes_equal(reply_to, l->target))
                        return l;
                if (!found || pn_link_session(l->link) == pn_link_session(request->link))
                        found = l;
        }
        return found;
}

static void put_text(pn_data_t *d, const char *name, const char *value) {
        pn_data_put_string(d, pn_bytes(strlen(name), name));
        pn_data_put_string(d, pn_bytes(strlen(value), value));
}

static void put_name(pn_data_t *d, const char *name) {
        pn_data_put_string(d, pn_bytes(strlen(name), name));
}

/* body: fills in the answer's body, or NULL. */
static int answer(AmqpLink *request, const AmqpMessage *m, int status, const char *description,
                  void (*body)(pn_data_t *d, const HubAmqp *door, unsigned partition),
                  unsigned partition) {
        AmqpLink *l = find_answering(request, m);
        pn_message_t *a;
        pn_data_t *d;
        int r;

        if (!l)
                return 0; /* nobody to tell */
        a = pn_message();
        if (!a)
                return -ENOMEM;
        r = pn_message_set_correlation_id(a, correlation(&m->message_id));
        d = pn_message_properties(a);
        pn_data_put_map(d);
        pn_data_enter(d);
        put_name(d, "status-code");
        pn_data_put_int(d, status);
        put_text(d, "status-description", description);
        pn_data_exit(d);
        if (body)
                body(pn_message_body(a), request->conn->door, partition);
        r = r != 0 ? -ENOMEM : queue_message(l, a);
        pn_message_free(a);
        if (r == -EBUSY) {
                amqp_link_detach(l, "amqp:resource-limit-exceeded", "answers are not being read");
                return 0;
        }
        return r;
}

static void accept_delivery(pn_delivery_t *d) {
        pn_delivery_update(d, PN_ACCEPTED);
        pn_delivery_settle(d);
}

/* ---- $cbs ---- */

static bool property_is(const AmqpMessage *m, const char *name, const char *value) {
        AmqpValue v;
        AmqpBytes b;

        return amqp_map_get(&m->application_properties, name, &v) > 0 && amqp_value_text(&v, &b) &&
               amqp_bytes_equal(b, value);
}

static int put_token(AmqpLink *l, const AmqpMessage *m) {
        _cleanup_(erase_and_freep) char *token = NULL;
        const char *reason;
        AmqpBytes b;
        int r;

        if (!property_is(m, "operation", "put-token"))
                return answer(l, m, 400, "operation: put-token is what this node does", NULL, 0);
        if (property_is(m, "type", "jwt"))
                return answer(l, m, 400, "type: a shared access signature is needed here", NULL, 0);
        if (!amqp_value_text(&m->body, &b) || b.size > TOKEN_BYTES_MAX || memchr(b.data, 0, b.size))
                return answer(l, m, 400, "the body is no token", NULL, 0);
        token = strndup((const char *) b.data, b.size);
        if (!token)
                return -ENOMEM;
        r = amqp_grants_add_token(&l->conn->grants, l->conn->door->hub, token,
                                  now_usec(CLOCK_REALTIME), &reason);
        if (r == -EACCES) {
                (void) fprintf(stderr, "iothub-emulator: AMQP: refused a token: %s\n", reason);
                return answer(l, m, 401, reason, NULL, 0);
        }
        return r < 0 ? r : answer(l, m, 200, "OK", NULL, 0);
}

/* ---- $management ---- */

static void put_hub(pn_data_t *d, const HubAmqp *door, unsigned partition) {
        (void) partition;
        pn_data_put_map(d);
        pn_data_enter(d);
        put_text(d, "name", door->entity);
        put_text(d, "type", "com.microsoft:eventhub");
        put_name(d, "created_at");
        pn_data_put_timestamp(d, (pn_timestamp_t) (hub_events_created_usec(hub_events(door->hub)) /
                                                   USEC_PER_MSEC));
        put_name(d, "partition_count");
        pn_data_put_int(d, HUB_EVENTS_PARTITIONS);
        put_name(d, "partition_ids");
        pn_data_put_array(d, false, PN_STRING);
        pn_data_enter(d);
        for (unsigned i = 0; i < HUB_EVENTS_PARTITIONS; i++) {
                char id[12];
                int n = snprintf(id, sizeof(id), "%u", i);

                pn_data_put_string(d, pn_bytes((size_t) n, id));
        }
        pn_data_exit(d);
        pn_data_exit(d);
}

static void put_partition(pn_data_t *d, const HubAmqp *door, unsigned partition) {
        char text[24];
        HubEventsInfo info;

        hub_events_info(hub_events(door->hub), partition, &info);
        pn_data_put_map(d);
        pn_data_enter(d);
        put_text(d, "name", door->entity);
        put_text(d, "type", "com.microsoft:partition");
        (void) snprintf(text, sizeof(text), "%u", partition);
        put_text(d, "partition", text);
        put_name(d, "begin_sequence_number");
        pn_data_put_long(d, info.begin_sequence);
        put_name(d, "last_enqueued_sequence_number");
        pn_data_put_long(d, info.last_sequence);
        (void) snprintf(text, sizeof(text), "%" PRId64, info.last_offset);
        put_text(d, "last_enqueued_offset", text);
        put_name(d, "last_enqueued_time_utc");
        pn_data_put_timestamp(d, (pn_timestamp_t) (info.last_enqueued_usec / USEC_PER_MSEC));
        put_name(d, "is_partition_empty");
        pn_data_put_bool(d, info.empty);
        pn_data_exit(d);
}

static int manage(AmqpLink *l, const AmqpMessage *m) {
        const char *entity = l->conn->door->entity;
        AmqpValue v;
        AmqpBytes b;

        if (!property_is(m, "operation", "READ"))
                return answer(l, m, 400, "operation: READ is what this node does", NULL, 0);
        if (amqp_map_get(&m->application_properties, "name", &v) <= 0 || !amqp_value_text(&v, &b) ||
            b.size != strlen(entity) || strncasecmp((const char *) b.data, entity, b.size) != 0)
                return answer(l, m, 404, "name: there is no event hub of that name", NULL, 0);
        if (property_is(m, "type", "com.microsoft:eventhub"))
                return answer(l, m, 200, "OK", put_hub, 0);
        if (!property_is(m, "type", "com.microsoft:partition"))
                return answer(l, m, 400, "type: com.microsoft:eventhub or com.microsoft:partition",
                              NULL, 0);
        for (unsigned i = 0; i < HUB_EVENTS_PARTITIONS; i++) {
                char id[12];

                (void) snprintf(id, sizeof(id), "%u", i);
                if (property_is(m, "partition", id))
                        return answer(l, m, 200, "OK", put_partition, i);
        }
        return answer(l, m, 404, "partition: there is none of that id", NULL, 0);
}

static int on_request(AmqpLink *l, pn_delivery_t *d, const void *data, size_t n) {
        AmqpMessage m;

        if (amqp_message_read(data, n, &m) < 0) {
                pn_condition_t *c = pn_disposition_condition(pn_delivery_local(d));

                pn_condition_set_name(c, "amqp:decode-error");
                pn_delivery_update(d, PN_REJECTED);
                pn_delivery_settle(d);
                return 0;
        }
        accept_delivery(d);
        return l->address.node == AMQP_NODE_CBS ? put_token(l, &m) : manage(l, &m);
}

/* Of $cbs, a connection has one link each way. */
static bool has_another(const AmqpLink *l) {
        for (const AmqpLink *i = l->conn->links; i; i = i->next)
                if (i != l && i->type && i->address.node == l->address.node &&
                    pn_link_is_sender(i->link) == pn_link_is_sender(l->link))
                        return true;
        return false;
}

int amqp_request_attach(AmqpLink *l) {
        static const AmqpLinkType requests = { .on_message = on_request }, replies = { .send = send_answer };
        const char *target;

        if (l->address.node == AMQP_NODE_CBS && has_another(l)) {
                amqp_link_refuse(l, "amqp:not-allowed", "this connection has its links to $cbs already");
                return 0;
        }
        if (pn_link_is_receiver(l->link)) {
                amqp_link_accept(l, &requests);
                return 0;
        }
        target = pn_terminus_get_address(pn_link_remote_target(l->link));
        if (target) {
                l->target = strdup(target);
                if (!l->target)
                        return -ENOMEM;
        }
        amqp_link_accept(l, &replies);
        return 0;
}
