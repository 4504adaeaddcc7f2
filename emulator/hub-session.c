#include "emulator/hub-session.h"

#include "emulator/hub-session-twin.h"

#include <assert.h>

#include "lib/hub-topic.h"

int hub_session_init(HubSession *s, const char *client_id, uint64_t generation, HubAuthMethod auth,
                     const char *model_id) {
        const char *slash = strchr(client_id, '/');
        HubSession n = { .generation = generation, .auth = auth };

        n.client_id = strdup(client_id);
        n.device_id = strndup(client_id, slash ? (size_t) (slash - client_id) : strlen(client_id));
        n.module_id = slash ? strdup(slash + 1) : NULL;
        n.model_id = model_id ? strdup(model_id) : NULL;
        if (!n.client_id || !n.device_id || (slash && !n.module_id) || (model_id && !n.model_id) ||
            hub_topic_telemetry_prefix(n.device_id, n.module_id, &n.events_prefix) < 0) {
                hub_session_done(&n);
                return -ENOMEM;
        }
        n.events_prefix_size = strlen(n.events_prefix);
        *s = n;
        return 0;
}

void hub_session_done(HubSession *s) {
        free(s->client_id);
        free(s->device_id);
        free(s->module_id);
        free(s->events_prefix);
        free(s->model_id);
        *s = (HubSession){ 0 };
}

bool hub_session_may_subscribe(const HubSession *s, const char *filter, HubListen *ret) {
        static const struct {
                const char *filter;
                HubListen what;
        } common[] = {
                { "$iothub/methods/POST/#", HUB_LISTEN_METHODS },
                { "$iothub/twin/res/#", HUB_LISTEN_TWIN_RESULTS },
                { "$iothub/twin/PATCH/properties/desired/#", HUB_LISTEN_DESIRED },
        };
        const char *rest;

        for (size_t i = 0; i < ELEMENTSOF(common); i++)
                if (streq(filter, common[i].filter)) {
                        *ret = common[i].what;
                        return true;
                }

        rest = startswith(filter, "devices/");
        if (!rest)
                return false;
        /* An embedded SDK of the hub writes + for its own id. */
        if (startswith(rest, "+/"))
                rest += 1;
        else if (startswith(rest, s->device_id))
                rest += strlen(s->device_id);
        else
                return false;
        if (s->module_id) {
                rest = startswith(rest, "/modules/");
                if (!rest || !startswith(rest, s->module_id))
                        return false;
                rest += strlen(s->module_id);
        }
        *ret = HUB_LISTEN_C2D;
        if (streq(rest, "/messages/devicebound/#") || (s->module_id && streq(rest, "/#")))
                return true;
        *ret = HUB_LISTEN_INPUTS;
        return s->module_id && streq(rest, "/inputs/#");
}

/* The bag behind the events topic; NULL when the topic is another. */
static const char *events_bag(const HubSession *s, const char *topic, size_t *ret_size) {
        const char *bag;
        size_t n;

        if (strncmp(topic, s->events_prefix, s->events_prefix_size) == 0)
                bag = topic + s->events_prefix_size;
        else if (strncmp(topic, s->events_prefix, s->events_prefix_size - 1) == 0 &&
                 topic[s->events_prefix_size - 1] == '\0')
                /* Without the last slash there is no bag. */
                bag = topic + s->events_prefix_size - 1;
        else
                return NULL;

        n = strlen(bag);
        if (n > 0 && bag[n - 1] == '/')
                n--; /* some clients end the topic with a slash */
        if (memchr(bag, '/', n))
                return NULL;
        *ret_size = n;
        return bag;
}

/* What a device says to the hub itself. */
static bool is_request(const char *topic) {
        _cleanup_(hub_topic_done) HubTopic t = { 0 };

        return startswith(topic, "$iothub/") && hub_topic_parse(topic, &t) >= 0 &&
               (t.kind == HUB_TOPIC_METHOD_RESPONSE || t.kind == HUB_TOPIC_TWIN_GET ||
                t.kind == HUB_TOPIC_TWIN_REPORTED);
}

bool hub_session_may_publish(const HubSession *s, const char *topic) {
        size_t n;

        return events_bag(s, topic, &n) || is_request(topic);
}

static int store_event(const HubSession *s, Hub *hub, const HubPublish *p, const char *bag,
                       size_t bag_size, const char **reterr_reason) {
        HubEvent e = { .device_id = s->device_id,
                       .module_id = s->module_id,
                       .generation = s->generation,
                       .auth = s->auth,
                       .model_id = s->model_id,
                       .enqueued_usec = p->now_usec,
                       .bag = bag,
                       .bag_size = bag_size,
                       .body = p->payload,
                       .body_size = p->n,
                       .retain = p->retain };
        int r;

        r = hub_events_append(hub_events(hub), &e);
        if (r < 0)
                *reterr_reason = r == -EMSGSIZE ? "the message is over 262144 bytes" :
                                 r == -EINVAL   ? "the properties in the topic cannot be decoded" :
                                                  strerror(-r);
        return r;
}

static int take_answer(const HubSession *s, HubLink *link, const HubTopic *t, const HubPublish *p,
                       const char **reterr_reason) {
        if (p->n > HUB_METHOD_PAYLOAD_MAX) {
                *reterr_reason = "the answer to a method is over 131072 bytes";
                return -EMSGSIZE;
        }
        hub_link_answered(link, s->client_id, t->rid, t->status, p->payload, p->n);
        return 0;
}

int hub_session_publish(const HubSession *s, Hub *hub, HubLink *link, const HubPublish *p,
                        const char **reterr_reason) {
        _cleanup_(hub_topic_done) HubTopic t = { 0 };
        const char *bag;
        size_t bag_size;
        int r;

        bag = events_bag(s, p->topic, &bag_size);
        if (bag)
                return store_event(s, hub, p, bag, bag_size, reterr_reason);
        r = hub_topic_parse(p->topic, &t);
        if (r >= 0 && t.kind == HUB_TOPIC_METHOD_RESPONSE)
                return take_answer(s, link, &t, p, reterr_reason);
        if (r >= 0 && (t.kind == HUB_TOPIC_TWIN_GET || t.kind == HUB_TOPIC_TWIN_REPORTED))
                return hub_session_twin(s, hub, link, &t, p, reterr_reason);
        *reterr_reason = r == -ENOMEM ? "out of memory" :
                                        "it published to a topic that is not its own";
        return r < 0 ? r : -EINVAL;
}
