#include "emulator/hub-session-twin.h"

#include "emulator/hub-twins.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#include <openssl/rand.h>

/* A report is written before it is answered, as an event is. */

#define PATCH_DEPTH_MAX 32 /* deeper than any twin may be; what is too deep gets an answer */

static int send_answer(const HubSession *s, HubLink *link, const HubTopic *topic, unsigned status,
                       const char *more, const char *body) {
        _cleanup_free_ char *to = NULL;
        int r;

        r = format_string(&to, "$iothub/twin/res/%u/?$rid=%s%s", status, topic->rid, more);
        if (r < 0)
                return r;
        r = hub_link_send(link, s->client_id, HUB_LISTEN_TWIN_RESULTS, to, body, strlen(body));
        return r < 0 ? r : 0;
}

/* Refusals have a body like those of the registry's calls. */
static int send_refusal(const HubSession *s, HubLink *link, const HubTopic *topic, unsigned code,
                        const char *text) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        char tracking[33], stamp[FORMAT_TIMESTAMP_MAX];
        uint8_t id[16];

        if (RAND_bytes(id, sizeof(id)) != 1)
                return -EIO;
        if (!o || json_add_u64(o, "errorCode", code) < 0 ||
            json_add_string(o, "trackingId", format_id128(id, tracking)) < 0 ||
            json_add_string(o, "message", text) < 0 ||
            json_add_string(o, "timestampUtc",
                            format_timestamp(stamp, sizeof(stamp), now_usec(CLOCK_REALTIME))) < 0)
                return -ENOMEM;
        return send_answer(s, link, topic, code / 1000, "",
                           json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
}

static int send_failure(const HubSession *s, HubLink *link, const HubTopic *topic, int error,
                        const char *text) {
        switch (error) {
        case -EINVAL: return send_refusal(s, link, topic, 400004, text);
        case -ENOENT: return send_refusal(s, link, topic, 404001, "The device is not registered.");
        default: return send_refusal(s, link, topic, 500001, strerror(-error));
        }
}

static int get(const HubSession *s, Hub *hub, HubLink *link, const HubTopic *topic) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        _cleanup_json_ struct json_object *o = NULL;
        const char *text;
        int r;

        r = hub_twins_get(hub, s->device_id, s->module_id, &d, &t);
        if (r >= 0)
                r = hub_twin_for_device(&t, &o);
        if (r < 0)
                return send_failure(s, link, topic, r, "");
        text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
                                                                 JSON_C_TO_STRING_NOSLASHESCAPE);
        return text ? send_answer(s, link, topic, 200, "", text) : -ENOMEM;
}

static int report(const HubSession *s, Hub *hub, HubLink *link, const HubTopic *topic,
                  const HubPublish *p) {
        _cleanup_json_ struct json_object *patch = NULL;
        const char *reason = "The patch is no JSON object.";
        char more[32];
        uint64_t version;
        int r;

        r = json_parse(p->payload, p->n, PATCH_DEPTH_MAX, &patch);
        if (r == -EBADMSG || (r >= 0 && !json_object_is_type(patch, json_type_object)))
                r = -EINVAL;
        if (r >= 0)
                r = hub_twins_report(hub, s->device_id, s->module_id, patch, &version, &reason);
        if (r < 0)
                return send_failure(s, link, topic, r, reason);
        (void) snprintf(more, sizeof(more), "&$version=%" PRIu64, version); /* it fits */
        return send_answer(s, link, topic, 204, more, "");
}

int hub_session_twin(const HubSession *s, Hub *hub, HubLink *link, const HubTopic *topic,
                     const HubPublish *p, const char **reterr_reason) {
        int r;

        r = topic->kind == HUB_TOPIC_TWIN_GET ? get(s, hub, link, topic) :
                                                report(s, hub, link, topic, p);
        if (r < 0)
                *reterr_reason = strerror(-r);
        return r;
}
