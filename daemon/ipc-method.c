/* Send is the hot path: a message costs one walk over its fields, one check, one encoded bag and no
 * allocation of its own. Texts are borrowed from the parsed call, bags and decoded bodies of a call
 * lie one behind the other in two buffers, so offsets are turned into pointers only when the last
 * message is in. Of a long list only a group at a time is parsed, so its texts are copied. */
#include "daemon/ipc-method.h"

#include "iothubd-varlink-text.h"
#include "lib/base64.h"
#include "lib/hub-message.h"
#include "lib/parse-util.h"
#include "daemon/ipc-server-private.h"
#include "daemon/status.h"

#define SERVICE "org.varlink.service"
#define INTERFACE "io.iothubd"
/* 2025-01-01: a clock that reads less runs from its reset value, and "taken in 1970" is worse than
 * no time. */
#define CLOCK_PLAUSIBLE_USEC (1735689600U * USEC_PER_SEC)
/* What comes from here on has no place in the four digits of $.ctime. */
#define YEAR_10000_USEC (UINT64_C(253402300800) * USEC_PER_SEC)

/* https://varlink.org/Service; the interface that every service has. */
static const char service_text[] =
                "interface org.varlink.service\n\n"
                "method GetInfo() -> (vendor: string, product: string, version: string, url: "
                "string, interfaces: []string)\n\n"
                "method GetInterfaceDescription(interface: string) -> (description: string)\n\n"
                "error InterfaceNotFound (interface: string)\n"
                "error MethodNotFound (method: string)\n"
                "error MethodNotImplemented (method: string)\n"
                "error InvalidParameter (parameter: string)\n"
                "error PermissionDenied ()\n"
                "error ExpectedMore ()\n";

/* Errors. */

/* With one text field, the shape of most. */
static void error_with(IpcCall *call, const char *name, const char *field, const char *value) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        if (json_add_string(o, field, value) < 0)
                call->connection->failed = true;
        ipc_call_error(call, name, o);
}

static void invalid_parameter(IpcCall *call, const char *parameter) {
        error_with(call, SERVICE ".InvalidParameter", "parameter", parameter);
}

static void fill_full(IpcServer *s, struct json_object *o) {
        OutboxStats stats;

        outbox_get_stats(s->outbox, &stats);
        /* What does not fit is left out, the reason stays. */
        (void) json_add_u64(o, "usedBytes", stats.used_bytes);
        (void) json_add_u64(o, "maxBytes", stats.max_bytes);
        (void) json_add_u64(o, "keepFreeBytes", stats.keep_free_bytes);
        (void) json_add_u64(o, "freeBytes", stats.fs_free_bytes);
}

/* errno of the outbox to names of the interface. What is not listed came from the disk. */
static const struct {
        int error;
        const char *name, *limit, *reason;
} errors[] = {
        { -ENOSPC, "OutboxFull", NULL,
          "the outbox is full: messages wait for the hub, or the disk has no room" },
        { -EPERM, "StreamMismatch", NULL, "the stream belongs to another lane or user" },
        { -ENOBUFS, "LimitExceeded", "bytes in flight",
          "the call is larger than the outbox takes at a time" },
        { -ENOMEM, "LimitExceeded", "memory", "out of memory" },
        { -EMSGSIZE, "LimitExceeded", "size of a record",
          "a message is larger than the outbox can record" },
        { -ECANCELED, "ShuttingDown", NULL, NULL },
        { -ENOENT, "NoSuchMessage", NULL, NULL },
        { -ESTALE, "StreamGap", NULL, NULL },
};

void ipc_call_error_errno(IpcServer *s, IpcCall *call, int error, uint64_t stream_next) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *reason = strerror(-error), *limit = NULL, *name = "DiskError";
        char full_name[64];
        size_t i;

        for (i = 0; i < ELEMENTSOF(errors); i++)
                if (errors[i].error == error) {
                        name = errors[i].name;
                        limit = errors[i].limit;
                        reason = errors[i].reason;
                        break;
                }
        if (error == -ENOSPC)
                fill_full(s, o);
        if (error == -ESTALE)
                (void) json_add_u64(o, "next", stream_next); /* as in fill_full() */
        if (i == ELEMENTSOF(errors))
                (void) json_add_i64(o, "errno", -error);
        (void) json_add_string(o, "limit", limit);
        (void) json_add_string(o, "reason", reason);
        (void) snprintf(full_name, sizeof(full_name), INTERFACE ".%s", name);
        ipc_call_error(call, full_name, o);
}

void ipc_method_refuse(IpcCall *call, int r, const char *reason) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        if (r == -EMSGSIZE || r == -E2BIG) {
                (void) json_add_string(o, "limit", "size of one call");
                (void) json_add_string(o, "reason",
                                       r == -E2BIG ? reason : "a call takes at most 1048576 bytes");
                ipc_call_error(call, INTERFACE ".LimitExceeded", o);
                return;
        }
        (void) json_add_string(o, "reason", reason);
        ipc_call_error(call, INTERFACE ".InvalidCall", o);
}

/* Send: one message. */

typedef struct SendBatch {
        OutboxMessage *messages;
        size_t n_messages;
        Buffer bags, bodies; /* bodies: those that came as base64 ... */
        bool keeps_texts;    /* ... or all, because what was parsed goes before the batch */
        Buffer ids;          /* then, each with its NUL */
        Property properties[VARLINK_KEYS_MAX];
        usec_t now_usec; /* the default creation time; USEC_INFINITY: the clock cannot be trusted */
        size_t topic_prefix_size;

        const char *error_field, *error_reason; /* of the message that failed */
        char *error_field_made;
} SendBatch;

static void send_batch_done(SendBatch *b) {
        free(b->messages);
        buffer_done(&b->bags);
        buffer_done(&b->bodies);
        buffer_done(&b->ids);
        free(b->error_field_made);
}

static int refuse_field(SendBatch *b, const char *field, const char *reason) {
        b->error_field = field;
        b->error_reason = reason;
        return -EINVAL;
}

static int get_text(SendBatch *b, const char *field, struct json_object *v, const char **ret) {
        const char *s;

        if (!json_object_is_type(v, json_type_string))
                return refuse_field(b, field, "must be a string");
        s = json_object_get_string(v);
        if (strlen(s) != (size_t) json_object_get_string_len(v))
                return refuse_field(b, field, "must not contain control characters");
        *ret = s;
        return 0;
}

static int get_body(SendBatch *b, struct json_object *v, HubMessage *h) {
        if (h->body)
                return refuse_field(b, "body", "only one of body and bodyBase64 can be given");
        if (!json_object_is_type(v, json_type_string))
                return refuse_field(b, "body", "must be a string: give other bytes in bodyBase64");
        h->body = json_object_get_string(v);
        h->body_size = (size_t) json_object_get_string_len(v);
        return 0;
}

static int get_body_base64(SendBatch *b, struct json_object *v, HubMessage *h, OutboxMessage *m) {
        _cleanup_free_ void *body = NULL;
        size_t n;
        int r;

        if (h->body)
                return refuse_field(b, "bodyBase64",
                                    "only one of body and bodyBase64 can be given");
        if (!json_object_is_type(v, json_type_string))
                return refuse_field(b, "bodyBase64", "must be a string");
        r = base64_decode(json_object_get_string(v), (size_t) json_object_get_string_len(v), &body,
                          &n);
        if (r == -EINVAL)
                return refuse_field(b, "bodyBase64",
                                    "must be base64 with padding and without line breaks");
        if (r < 0)
                return r;
        r = buffer_append(&b->bodies, body, n);
        if (r < 0)
                return r;
        h->body = "";
        h->body_size = n;
        m->body = NULL; /* says that it lies in b->bodies; see send_batch_finish() */
        return 0;
}

static int get_properties(SendBatch *b, struct json_object *v, PropertyBag *bag) {
        if (!json_object_is_type(v, json_type_object))
                return refuse_field(b, "properties", "must be an object");
        bag->items = b->properties;
        json_object_object_foreach(v, name, value) {
                const char *s;
                int r;

                if (bag->n_items >= ELEMENTSOF(b->properties))
                        return refuse_field(b, "properties", "too many");
                r = value ? get_text(b, "properties", value, &s) :
                            refuse_field(b, "properties", "must have strings as values");
                if (r < 0 && asprintf(&b->error_field_made, "properties.%s", name) >= 0)
                        b->error_field = b->error_field_made;
                if (r < 0)
                        return r;
                /* Borrowed: what reads them takes them as const. */
                bag->items[bag->n_items++] = (Property){ .name = name, .value = (char *) s };
        }
        return 0;
}

static int get_lane(SendBatch *b, struct json_object *v, OutboxMessage *m) {
        const char *s = NULL;
        int r;

        r = get_text(b, "lane", v, &s);
        if (r < 0)
                return r;
        m->lane = outbox_lane_from_string(s);
        return m->lane < 0 ? refuse_field(b, "lane", "must be urgent, normal or bulk") : 0;
}

static int get_usec(SendBatch *b, const char *field, struct json_object *v, usec_t min, usec_t max,
                    usec_t *ret) {
        int64_t n;

        if (!json_object_is_type(v, json_type_int))
                return refuse_field(b, field, "must be an integer, in microseconds");
        n = json_object_get_int64(v);
        if (n < (int64_t) min || n >= (int64_t) max)
                return refuse_field(b, field, "out of range");
        *ret = (usec_t) n;
        return 0;
}

static int get_field(SendBatch *b, const char *name, struct json_object *v, HubMessage *h,
                     OutboxMessage *m, PropertyBag *bag) {
        if (streq(name, "body"))
                return get_body(b, v, h);
        if (streq(name, "bodyBase64"))
                return get_body_base64(b, v, h, m);
        if (streq(name, "messageId"))
                return get_text(b, "messageId", v, &h->message_id);
        if (streq(name, "correlationId"))
                return get_text(b, "correlationId", v, &h->correlation_id);
        if (streq(name, "contentType"))
                return get_text(b, "contentType", v, &h->content_type);
        if (streq(name, "contentEncoding"))
                return get_text(b, "contentEncoding", v, &h->content_encoding);
        if (streq(name, "properties"))
                return get_properties(b, v, bag);
        if (streq(name, "lane"))
                return get_lane(b, v, m);
        if (streq(name, "timeToLiveUSec"))
                return get_usec(b, "timeToLiveUSec", v, 1, INT64_MAX, &m->time_to_live_usec);
        if (streq(name, "creationTimeUSec"))
                return get_usec(b, "creationTimeUSec", v, 0, YEAR_10000_USEC,
                                &h->creation_time_usec);
        return refuse_field(b, name, "no field of a message");
}

/* Copies what is borrowed. send_batch_finish() knows by the pointers which message has what. */
static int keep_texts(SendBatch *b, OutboxMessage *m, const HubMessage *h) {
        int r = 0;

        if (m->body)
                r = buffer_append(&b->bodies, h->body, h->body_size);
        m->body = NULL;
        if (r >= 0 && h->message_id)
                r = buffer_append(&b->ids, h->message_id, strlen(h->message_id) + 1);
        return r;
}

/* Checks one message and adds it. 0, -EINVAL or -EMSGSIZE with the field and reason in b, or
 * -ENOMEM. */
static int send_batch_add(SendBatch *b, struct json_object *o) {
        static const char here; /* any address but NULL: the body is not one of b->bodies */
        OutboxMessage *m = &b->messages[b->n_messages];
        HubMessage h = { .creation_time_usec = b->now_usec };
        PropertyBag bag = {};
        size_t bag_offset = b->bags.size;
        int r;

        if (!json_object_is_type(o, json_type_object))
                return refuse_field(b, "", "a message must be an object");
        *m = (OutboxMessage){ .lane = OUTBOX_LANE_NORMAL,
                              .body = &here,
                              .time_to_live_usec = USEC_INFINITY };
        json_object_object_foreach(o, name, v) {
                r = v ? get_field(b, name, v, &h, m, &bag) : 0; /* null is absent */
                if (r < 0)
                        return r;
        }
        h.properties = &bag;
        r = hub_message_check(&h, b->topic_prefix_size, OUTBOX_MADE_ID_MAX, &b->error_field_made,
                              &b->error_reason);
        if (r < 0) {
                b->error_field = b->error_field_made;
                return r;
        }
        r = hub_message_encode_bag(&h, &b->bags);
        if (r < 0)
                return r;
        if (m->body)
                m->body = h.body;
        m->message_id = h.message_id;
        m->body_size = h.body_size;
        m->bag_size = b->bags.size - bag_offset;
        r = b->keeps_texts ? keep_texts(b, m, &h) : 0;
        if (r < 0)
                return r;
        b->n_messages++;
        return 0;
}

/* The buffers grow no more: offsets become pointers. */
static void send_batch_finish(SendBatch *b) {
        const uint8_t *bag = b->bags.data, *body = b->bodies.data;
        const char *id = (const char *) b->ids.data;

        for (size_t i = 0; i < b->n_messages; i++) {
                OutboxMessage *m = &b->messages[i];

                m->bag = (const char *) bag;
                bag += m->bag_size;
                if (b->keeps_texts && m->message_id) {
                        m->message_id = id;
                        id += strlen(id) + 1;
                }
                if (m->body || m->body_size == 0)
                        continue;
                m->body = body;
                body += m->body_size;
        }
}

static void invalid_message(IpcCall *call, const SendBatch *b, size_t index, int r) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        (void) json_add_u64(o, "index", index);
        (void) json_add_string(o, "field", strempty(b->error_field));
        (void) json_add_string(o, "reason", strempty(b->error_reason));
        ipc_call_error(call,
                       r == -EMSGSIZE ? INTERFACE ".MessageTooLarge" : INTERFACE ".InvalidMessage",
                       o);
}

/* Adds the messages of an array. As send_batch_add(), but a faulty message was answered already. */
static int send_batch_add_array(IpcCall *call, SendBatch *b, struct json_object *array, bool one_lane) {
        size_t n = json_object_array_length(array);

        for (size_t i = 0; i < n; i++) {
                size_t index = b->n_messages;
                int r;

                r = send_batch_add(b, json_object_array_get_idx(array, i));
                if (r >= 0 && one_lane && b->messages[index].lane != b->messages[0].lane)
                        r = refuse_field(b, "lane", "must be the same in all messages of a stream");
                if (r == -EINVAL || r == -EMSGSIZE)
                        invalid_message(call, b, index, r);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int send_batch_add_list(IpcCall *call, SendBatch *b, const VarlinkList *list, bool one_lane) {
        int r;

        b->keeps_texts = true;
        r = buffer_reserve(&b->bodies, list->ends[list->n_groups - 1]); /* all bodies at most: it never moves */
        for (size_t i = 0; i < list->n_groups && r >= 0; i++) {
                _cleanup_json_ struct json_object *array = NULL;

                r = varlink_list_group(list, i, &array);
                if (r >= 0)
                        r = send_batch_add_array(call, b, array, one_lane);
        }
        return r;
}

/* Fills b from the array or, where there is one, the list. 0, or the call was answered: -errno. */
static int send_batch_fill(IpcServer *s, IpcCall *call, SendBatch *b, struct json_object *array,
                           const VarlinkList *list, bool one_lane) {
        size_t n = list ? list->n_items : json_object_array_length(array);
        usec_t now = now_usec(CLOCK_REALTIME);
        int r;

        b->now_usec = now >= CLOCK_PLAUSIBLE_USEC ? now : USEC_INFINITY;
        b->topic_prefix_size = s->topic_prefix_size;
        b->messages = reallocarray(NULL, n, sizeof(*b->messages));
        if (!b->messages)
                r = -ENOMEM;
        else
                r = list ? send_batch_add_list(call, b, list, one_lane) :
                           send_batch_add_array(call, b, array, one_lane);
        if (r == -ENOMEM)
                ipc_call_error_errno(s, call, r, 0);
        else if (r >= 0)
                send_batch_finish(b);
        return r;
}

static void on_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates,
                       void *userdata) {
        IpcCall *call = userdata;
        char text[128];

        ipc_server_append_done(call);
        if (!call->connection)
                ipc_call_reply(call, NULL);
        else if (error < 0)
                ipc_call_error_errno(call->server, call, error, 0);
        else if (call->more)
                ipc_subscribe_ends(call->server, call, first, last, n_duplicates);
        else if (first == 0) {
                (void) snprintf(text, sizeof(text), "\"duplicates\":%" PRIu64, n_duplicates);
                ipc_call_reply_text(call, text, false);
        } else {
                (void) snprintf(text, sizeof(text),
                                "\"first\":%" PRIu64 ",\"last\":%" PRIu64
                                ",\"duplicates\":%" PRIu64,
                                first, last, n_duplicates);
                ipc_call_reply_text(call, text, false);
        }
}

/* What the batch takes of its user's rate: as the hub bills, and flash wears, by 4 KiB. */
static uint64_t send_batch_tokens(const SendBatch *b) {
        uint64_t n = 0;

        for (size_t i = 0; i < b->n_messages; i++)
                n += 1 + (b->messages[i].body_size + b->messages[i].bag_size) / 4096;
        return n;
}

/* Hands the batch over. 0, or -EAGAIN. */
static int send_append(IpcServer *s, IpcCall *call, const SendBatch *b,
                       const OutboxStream *stream) {
        uint64_t next = 0;
        int r;

        /* The callback may not come before the return, so the charge can wait until it is known to
         * come at all. */
        r = outbox_append(s->outbox, b->messages, b->n_messages, stream, call->connection->uid,
                          on_durable, call, &next);
        if (r >= 0) {
                ipc_server_append_started(s, call, send_batch_tokens(b));
                return 0;
        }
        if (r == -ENOBUFS && s->n_appends > 0) {
                s->outbox_busy = true; /* until an append is done */
                return -EAGAIN;
        }
        ipc_call_error_errno(s, call, r, next);
        return 0;
}

/* The stream of a call. 1 there is one, 0 there is none, or the call was answered: -EINVAL. */
static int get_stream(IpcCall *call, struct json_object *parameters, uint8_t ret[static 16]) {
        const char *text = NULL;
        int r;

        r = json_get_string(parameters, "stream", &text, NULL);
        if (r > 0 && parse_id128(text, ret) < 0)
                r = -EINVAL;
        if (r < 0) {
                invalid_parameter(call, "stream");
                return -EINVAL;
        }
        return r;
}

static int method_send(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        _cleanup_(send_batch_done) SendBatch b; /* 16 KiB of it need no clearing */
        struct json_object *array = NULL;
        OutboxStream stream;
        int has_stream, has_position, r;

        b.messages = NULL;
        b.n_messages = 0;
        b.bags = b.bodies = b.ids = (Buffer){};
        b.keeps_texts = false;
        b.error_field = b.error_reason = b.error_field_made = NULL;

        if (s->shutting_down) {
                ipc_call_error(call, INTERFACE ".ShuttingDown", NULL);
                return 0;
        }
        has_stream = get_stream(call, v->parameters, stream.id);
        if (has_stream < 0)
                return 0;
        has_position = json_get_u64(v->parameters, "position", &stream.position);
        if (has_position != has_stream) {
                invalid_parameter(call, "position"); /* the one makes no sense without the other */
                return 0;
        }
        r = json_get_array(v->parameters, "messages", &array);
        if (r <= 0) {
                invalid_parameter(call, "messages");
                return 0;
        }
        if (!v->list && json_object_array_length(array) == 0) {
                ipc_call_reply_text(call, "\"duplicates\":0", false);
                return 0;
        }
        if (send_batch_fill(s, call, &b, array, v->list, has_stream) < 0)
                return 0;
        return send_append(s, call, &b, has_stream ? &stream : NULL);
}

/* The other methods. */

static int method_resume(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        uint64_t next = 0;
        uint8_t stream[16];
        char text[64];
        int r;

        r = get_stream(call, v->parameters, stream);
        if (r == 0)
                invalid_parameter(call, "stream");
        if (r <= 0)
                return 0;
        r = outbox_stream_next(s->outbox, stream, call->connection->uid, &next);
        if (r < 0) {
                ipc_call_error_errno(s, call, r, 0);
                return 0;
        }
        (void) snprintf(text, sizeof(text), "\"next\":%" PRIu64, next);
        ipc_call_reply_text(call, text, false);
        return 0;
}

static int method_subscribe(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        uint8_t stream[16];
        uint64_t next;
        int r;

        if (!call->more) {
                ipc_call_error(call, SERVICE ".ExpectedMore", NULL);
                return 0;
        }
        r = get_stream(call, v->parameters, stream);
        if (r < 0)
                return 0;
        if (r == 0) {
                ipc_subscribe_status(s, call);
                return 0;
        }
        r = outbox_stream_next(s->outbox, stream, call->connection->uid, &next);
        if (r < 0)
                ipc_call_error_errno(s, call, r, 0); /* another user's */
        else
                ipc_subscribe_stream(s, call, stream);
        return 0;
}

static int method_get_status(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        _cleanup_json_ struct json_object *o = NULL;
        UplinkStatus uplink = { .next_try_in_usec = USEC_INFINITY };
        OutboxStats outbox;
        int r;

        outbox_get_stats(s->outbox, &outbox);
        if (s->uplink)
                uplink_get_status(s->uplink, &uplink);
        r = status_to_json(&outbox, &uplink, s->options.started_realtime_usec, &o);
        if (r < 0)
                ipc_call_error_errno(s, call, r, 0);
        else
                ipc_call_reply(call, o);
        return 0;
}

static int method_get_message(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        const char *id = NULL;
        uint64_t seq = 0;
        size_t id_size;
        int has_seq, has_id;

        has_seq = json_get_u64(v->parameters, "sequenceNumber", &seq);
        has_id = json_get_string(v->parameters, "messageId", &id, &id_size);
        if (has_seq < 0 || (has_seq > 0 && seq == 0))
                invalid_parameter(call, "sequenceNumber");
        else if (has_id < 0 || has_id == has_seq ||
                 (has_id > 0 && (id_size == 0 || strlen(id) != id_size)))
                invalid_parameter(call, "messageId"); /* exactly one of the two */
        else
                ipc_wait_lookup(s, call, seq, id);
        return 0;
}

static int method_flush(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        ipc_wait_flush(s, call);
        return 0;
}

static int method_get_info(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        ipc_call_reply_text(call,
                            "\"vendor\":\"iothubd\",\"product\":\"iothubd\",\"version\":"
                            "\"" PROJECT_VERSION "\",\"url\":\"\",\"interfaces\":[\"" SERVICE
                            "\",\"" INTERFACE "\"]",
                            false);
        return 0;
}

static int method_get_description(IpcServer *s, IpcCall *call, const VarlinkCall *v) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *name = NULL;

        if (json_get_string(v->parameters, "interface", &name, NULL) <= 0) {
                invalid_parameter(call, "interface");
                return 0;
        }
        if (!streq(name, INTERFACE) && !streq(name, SERVICE)) {
                error_with(call, SERVICE ".InterfaceNotFound", "interface", name);
                return 0;
        }
        if (json_add_string(o, "description",
                            streq(name, SERVICE) ? service_text : iothubd_varlink_text) < 0)
                ipc_call_error_errno(s, call, -ENOMEM, 0);
        else
                ipc_call_reply(call, o);
        return 0;
}

typedef struct IpcMethod {
        const char *name;
        int (*run)(IpcServer *s, IpcCall *call, const VarlinkCall *v);
        const char *parameters[4]; /* all that it knows */
} IpcMethod;

static const IpcMethod methods[] = {
        { INTERFACE ".Send", method_send, { "messages", "stream", "position" } },
        { INTERFACE ".Resume", method_resume, { "stream" } },
        { INTERFACE ".Subscribe", method_subscribe, { "stream" } },
        { INTERFACE ".GetStatus", method_get_status, {} },
        { INTERFACE ".GetMessage", method_get_message, { "sequenceNumber", "messageId" } },
        { INTERFACE ".Flush", method_flush, {} },
        { SERVICE ".GetInfo", method_get_info, {} },
        { SERVICE ".GetInterfaceDescription", method_get_description, { "interface" } },
};

bool ipc_method_is_send(const VarlinkCall *c) {
        return streq(c->method, methods[0].name);
}

bool ipc_method_is_concurrent(const VarlinkCall *c) {
        return ipc_method_is_send(c) && !c->more;
}

static void method_not_found(IpcCall *call, const char *name) {
        const char *dot = strrchr(name, '.');
        _cleanup_free_ char *interface = dot ? strndup(name, (size_t) (dot - name)) : strdup(name);

        if (interface && !streq(interface, INTERFACE) && !streq(interface, SERVICE))
                error_with(call, SERVICE ".InterfaceNotFound", "interface", interface);
        else
                error_with(call, SERVICE ".MethodNotFound", "method", name);
}

static bool parameter_is_known(const IpcMethod *m, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(m->parameters) && m->parameters[i]; i++)
                if (streq(m->parameters[i], name))
                        return true;
        return false;
}

int ipc_method_run(IpcServer *s, IpcCall *call, const VarlinkCall *c) {
        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                if (!streq(methods[i].name, c->method))
                        continue;
                json_object_object_foreach(c->parameters, name, value) {
                        if (!parameter_is_known(&methods[i], name)) {
                                invalid_parameter(call, name);
                                return 0;
                        }
                        (void) value; /* the method looks at it */
                }
                return methods[i].run(s, call, c);
        }
        method_not_found(call, c->method);
        return 0;
}
