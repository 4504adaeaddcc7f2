#include "emulator/hub-c2d-call.h"

#include "emulator/hub-c2d.h"
#include "lib/base64.h"
#include "lib/hub-topic.h"
#include "lib/json-util.h"
#include "lib/string-util.h"

#define DEPTH_MAX 4

/* What a call holds besides its message. */
typedef struct Call {
        HubC2dMessage message;
        PropertyBag properties;
        char *to;
        void *body; /* decoded */
} Call;

static void call_done(Call *c) {
        property_bag_done(&c->properties);
        free(c->to);
        free(c->body);
}

/* A text without a NUL. 1, 0 (absent) or -EBADMSG. */
static int get_text(struct json_object *o, const char *field, const char **ret,
                    const char **reterr_field) {
        size_t n;
        int r;

        r = json_get_string(o, field, ret, &n);
        if (r < 0 || (r > 0 && strlen(*ret) != n)) {
                *reterr_field = field;
                return -EBADMSG;
        }
        return r;
}

static int get_to(struct json_object *o, Call *c, const char **reterr_field) {
        const char *id, *slash;
        int r;

        *reterr_field = "device";
        r = get_text(o, "device", &id, reterr_field);
        if (r <= 0 || hub_client_id_check(id) < 0)
                return -EBADMSG;
        slash = strchr(id, '/');
        r = slash ? format_string(&c->to, "/devices/%.*s/modules/%s/messages/devicebound",
                                  (int) (slash - id), id, slash + 1) :
                    format_string(&c->to, "/devices/%s/messages/devicebound", id);
        c->message.to = c->to;
        return r;
}

static int get_body(struct json_object *o, Call *c, const char **reterr_field) {
        const char *text;
        int r;

        r = json_get_string(o, "body", &text, &c->message.n);
        if (r < 0) {
                *reterr_field = "body";
                return -EBADMSG;
        }
        if (r > 0)
                c->message.body = text;
        r = get_text(o, "bodyBase64", &text, reterr_field);
        if (r <= 0)
                return r;
        r = base64_decode(text, strlen(text), &c->body, &c->message.n);
        c->message.body = c->body;
        *reterr_field = "bodyBase64";
        return r == -EINVAL ? -EBADMSG : r;
}

static int get_properties(struct json_object *o, Call *c, const char **reterr_field) {
        struct json_object *properties;
        int r;

        *reterr_field = "properties";
        r = json_get_object(o, "properties", &properties);
        if (r <= 0)
                return r < 0 ? -EBADMSG : 0;
        json_object_object_foreach(properties, name, value) {
                const char *text = json_object_get_string(value);

                if (!json_object_is_type(value, json_type_string) ||
                    strlen(text) != (size_t) json_object_get_string_len(value))
                        return -EBADMSG;
                r = property_bag_add(&c->properties, name, text);
                if (r < 0)
                        return r;
        }
        c->message.properties = &c->properties;
        return 0;
}

static int read_call(struct json_object *o, usec_t now_usec, Call *c, const char **reterr_field) {
        HubC2dMessage *m = &c->message;
        const struct {
                const char *field;
                const char **to;
        } texts[] = {
                { "messageId", &m->message_id },
                { "correlationId", &m->correlation_id },
                { "userId", &m->user_id },
                { "contentType", &m->content_type },
                { "contentEncoding", &m->content_encoding },
        };
        const char *ack = "none";
        uint64_t life;
        int r;

        r = get_to(o, c, reterr_field);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(texts); i++)
                r = get_text(o, texts[i].field, texts[i].to, reterr_field);
        if (r >= 0)
                r = get_text(o, "ack", &ack, reterr_field);
        if (r < 0)
                return r;
        m->ack = hub_c2d_ack_from_string(ack);
        *reterr_field = "ack";
        if (m->ack < 0)
                return -EBADMSG;
        r = json_get_u64(o, "timeToLiveUSec", &life);
        *reterr_field = "timeToLiveUSec";
        if (r < 0)
                return -EBADMSG;
        if (r > 0)
                m->expires_usec = usec_add(now_usec, life);
        r = get_body(o, c, reterr_field);
        return r < 0 ? r : get_properties(o, c, reterr_field);
}

static int format_answer(const char *field, const char *text, uint64_t sequence, char **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *json;

        if (!o ||
            (field ? json_add_string(o, field, text) : json_add_u64(o, "sequence", sequence)) < 0)
                return -ENOMEM;
        json = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
        *ret = json ? strdup(json) : NULL;
        return *ret ? 0 : -ENOMEM;
}

int hub_c2d_call(Hub *h, const char *parameters, size_t n, usec_t now_usec, char **ret_answer) {
        _cleanup_json_ struct json_object *o = NULL;
        _cleanup_(call_done) Call c = { 0 };
        const char *field = "parameters", *reason = NULL;
        uint64_t sequence = 0;
        int r, k;

        r = json_parse(parameters, n, DEPTH_MAX, &o);
        if (r >= 0)
                r = read_call(o, now_usec, &c, &field);
        if (r >= 0) {
                r = hub_c2d_send(h, &c.message, now_usec, &sequence, &reason);
                field = NULL;
        }
        if (r == -EBADMSG)
                k = format_answer("parameter", field, 0, ret_answer);
        else if (r < 0)
                k = format_answer("reason", reason ? reason : strerror(-r), 0, ret_answer);
        else
                k = format_answer(NULL, NULL, sequence, ret_answer);
        return k < 0 ? k : r;
}
