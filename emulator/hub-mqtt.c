/* The broker's plugin: makes mosquitto behave as a hub. It decides who may connect, publish and
 * subscribe, and stores each event before the broker acknowledges it. The HTTPS door lives in the
 * same process, so both share one Hub in memory. All callbacks run on the broker's one thread; what
 * other threads want from the broker waits in the Hub and is fetched on the tick, which comes at
 * least every 100 ms.
 *
 * Return codes, by mosquitto 2.0.11: from a write check or a message callback MOSQ_ERR_ACL_DENIED
 * drops the message but still sends PUBACK, any other error cuts the connection; a client must not
 * be kicked inside one of its own callbacks. */

#include <assert.h>
#include <fcntl.h>
#include <stdarg.h>

#include <mosquitto.h>
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <openssl/crypto.h>

#include "emulator/hub-access.h"
#include "emulator/hub-c2d.h"
#include "emulator/hub-link.h"
#include "emulator/broker.h"
#include "emulator/hub-amqp.h"
#include "emulator/hub-registry.h"
#include "emulator/hub-reports.h"
#include "emulator/hub-session.h"
#include "emulator/hub-troubles.h"
#include "emulator/hub.h"
#include "emulator/mqtt-route.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"

#define NOTE_EVERY_USEC USEC_PER_SEC /* activity reaches the registry this late at most */
#define HEX_SHA1 40
#define HEX_SHA256 64

typedef struct Session {
        struct mosquitto *client;
        HubSession hub;
        usec_t ends_usec;
        usec_t activity_usec;
        bool activity_noted;
} Session;

typedef struct Plugin {
        Hub *hub;
        HubLink *link;
        HubTroubles *troubles;
        HubRegistry *registry;
        HubAmqp *amqp;
        char *secret; /* proves that a CONNECT came through the front */
        usec_t token_grace_usec;
        int ready_fd;
        HubReports *reports;

        struct lh_table *sessions; /* struct mosquitto to Session */
        Session *last;             /* most messages come from who sent the one before */
        usec_t next_end_usec, next_note_usec;
} Plugin;

static void say(const char *format, ...) _printf_(1, 2);
static void say(const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        /* A log that cannot be written has nobody to tell. */
        (void) fputs("iothub-emulator: ", stderr);
        (void) vfprintf(stderr, format, ap);
        (void) fputc('\n', stderr);
        va_end(ap);
}

/* A peer may call itself anything; what is no id stays out of the log. */
static const char *shown_id(const char *client_id) {
        if (!client_id)
                return "(no client id)";
        return hub_client_id_check(client_id) < 0 ? "(no valid client id)" : client_id;
}

static Session *session_free(Session *s) {
        if (!s)
                return NULL;
        hub_session_done(&s->hub);
        free(s);
        return NULL;
}
DEFINE_CLEANUP(Session *, session_free);

static int session_new(struct mosquitto *client, const HubCredentials *c, const HubAdmission *a,
                       usec_t grace_usec, Session **ret) {
        _cleanup_(session_freep) Session *s = NULL;
        _cleanup_free_ char *model_id = NULL;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (Session){ .client = client, .ends_usec = usec_add(a->expires_usec, grace_usec) };
        r = hub_access_model_id(c->user_name, &model_id);
        if (r >= 0)
                r = hub_session_init(&s->hub, c->client_id, a->generation, a->auth, model_id);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

static Session *find_session(Plugin *p, const struct mosquitto *client) {
        void *v;

        if (p->last && p->last->client == client)
                return p->last;
        if (!lh_table_lookup_ex(p->sessions, client, &v))
                return NULL;
        return p->last = v;
}

static bool has_session_of(Plugin *p, const char *client_id) {
        struct lh_entry *e;

        lh_foreach (p->sessions, e) {
                const Session *s = lh_entry_v(e);

                if (streq(s->hub.client_id, client_id))
                        return true;
        }
        return false;
}

static void drop_session(Plugin *p, const struct mosquitto *client) {
        Session *s = find_session(p, client);
        bool stays;

        if (!s)
                return;
        (void) lh_table_delete(p->sessions, client); /* it is there */
        p->last = NULL;
        /* The newest connection of an identity wins: it may be here already when the older one
         * ends. */
        stays = has_session_of(p, s->hub.client_id);
        hub_device_note(p->hub, s->hub.client_id, stays, s->activity_usec);
        if (!stays) {
                hub_link_disconnected(p->link, s->hub.client_id);
                hub_c2d_disconnected(p->hub, s->hub.client_id);
        }
        session_free(s);
}

/* What the front put before the user name, as at FRONT_DOOR_MQTT, and the user name. Modifies text. */
static int split_user_name(Plugin *p, char *text, HubCredentials *c) {
        enum { SHA1, SHA256, DATES, CHAIN, NAME, USER, N_FIELDS };
        size_t n = strlen(p->secret);
        uint64_t dates, chain;
        char *fields[N_FIELDS];

        if (strlen(text) <= n || text[n] != ' ' || CRYPTO_memcmp(text, p->secret, n) != 0)
                return -EACCES;
        text += n;
        for (size_t i = 0; i < N_FIELDS; i++) {
                *text++ = '\0';
                fields[i] = text;
                if (i < USER && !(text = strchr(text, ' ')))
                        return -EACCES;
        }

        c->user_name = fields[USER];
        if (strlen(fields[SHA1]) == HEX_SHA1 && strlen(fields[SHA256]) == HEX_SHA256 &&
            parse_u64_range(fields[DATES], 0, INT32_MAX, &dates) >= 0 &&
            parse_u64_range(fields[CHAIN], 0, INT32_MAX, &chain) >= 0 && *fields[NAME] == '=') {
                c->sha1 = fields[SHA1];
                c->sha256 = fields[SHA256];
                c->dates = (int) dates;
                c->chain = (int) chain;
                c->common_name = fields[NAME] + 1;
        }
        return 0;
}

static int admit(Plugin *p, struct mosquitto *client, const HubCredentials *c,
                 const char **reterr_reason) {
        Session *s = NULL;
        HubAdmission a;
        usec_t now = now_usec(CLOCK_REALTIME);
        int r;

        if (mosquitto_client_protocol_version(client) != 4) {
                *reterr_reason = "only MQTT 3.1.1 is spoken here";
                return -EACCES;
        }
        r = hub_access_device(p->hub, c, now, &a, reterr_reason);
        if (r < 0)
                return r;
        if (has_session_of(p, c->client_id))
                say("%s connects anew, which ends its older connection", c->client_id);
        r = session_new(client, c, &a, p->token_grace_usec, &s);
        if (r < 0)
                return r;
        if (mosquitto_set_username(client, c->user_name) != MOSQ_ERR_SUCCESS ||
            lh_table_insert(p->sessions, client, s) < 0) {
                session_free(s);
                return -ENOMEM;
        }
        p->next_end_usec = MIN(p->next_end_usec, s->ends_usec);
        hub_device_note(p->hub, s->hub.client_id, true, now);
        hub_link_disconnected(p->link, s->hub.client_id); /* what the older one was asked is void */
        r = hub_link_connected(p->link, s->hub.client_id, mosquitto_client_clean_session(client));
        if (r < 0)
                return r;
        hub_reports_catch_up(p->reports); /* what was acknowledged is not delivered anew */
        return hub_c2d_connected(p->hub, s->hub.client_id, mosquitto_client_clean_session(client));
}

static int on_basic_auth(int event, void *data, void *userdata) {
        struct mosquitto_evt_basic_auth *e = data;
        Plugin *p = userdata;
        const char *reason = "it did not come through the front";
        HubCredentials c = { .client_id = mosquitto_client_id(e->client), .password = e->password };
        _cleanup_free_ char *user = NULL;
        int r = -EACCES;

        drop_session(p, e->client);
        user = e->username ? strdup(e->username) : NULL;
        if (user && c.client_id)
                r = split_user_name(p, user, &c);
        if (r >= 0)
                r = admit(p, e->client, &c, &reason);
        if (r >= 0)
                return MOSQ_ERR_SUCCESS;
        say("%s refused: %s", shown_id(c.client_id), r == -ENOMEM ? "out of memory" : reason);
        return MOSQ_ERR_AUTH;
}

static int cut(const Session *s, const char *reason) {
        say("%s cut: %s", s->hub.client_id, reason);
        return MOSQ_ERR_PROTOCOL;
}

static int on_acl_check(int event, void *data, void *userdata) {
        struct mosquitto_evt_acl_check *e = data;
        Plugin *p = userdata;
        Session *s = find_session(p, e->client);
        HubListen what;

        if (!s)
                return MOSQ_ERR_ACL_DENIED;

        switch (e->access) {
        case MOSQ_ACL_WRITE:
                if (hub_session_may_publish(&s->hub, e->topic))
                        return MOSQ_ERR_SUCCESS;
                return cut(s, "it published to a topic that is not its own");
        case MOSQ_ACL_SUBSCRIBE:
                if (!hub_session_may_subscribe(&s->hub, e->topic, &what))
                        return cut(s, "it subscribed to what is not its own");
                /* Known before the SUBACK; what it brings leaves after it. */
                hub_link_subscribed(p->link, s->hub.client_id, what);
                if (what == HUB_LISTEN_C2D)
                        hub_c2d_subscribed(p->hub, s->hub.client_id, MIN(e->qos, 1U));
                return MOSQ_ERR_SUCCESS;
        case MOSQ_ACL_UNSUBSCRIBE:
                if (!hub_session_may_subscribe(&s->hub, e->topic, &what))
                        return MOSQ_ERR_SUCCESS;
                hub_link_unsubscribed(p->link, s->hub.client_id, what);
                if (what == HUB_LISTEN_C2D)
                        hub_c2d_unsubscribed(p->hub, s->hub.client_id);
                return MOSQ_ERR_SUCCESS;
        default:
                /* No device hears another. What the hub has to say goes to one client id, past
                 * this. */
                return MOSQ_ERR_ACL_DENIED;
        }
}

static int on_message(int event, void *data, void *userdata) {
        struct mosquitto_evt_message *e = data;
        Plugin *p = userdata;
        Session *s = find_session(p, e->client);
        const char *reason;
        HubPublish publish;
        int r;

        if (!s)
                return MOSQ_ERR_PROTOCOL;
        publish = (HubPublish){ .topic = e->topic,
                                .payload = e->payload,
                                .n = e->payloadlen,
                                .retain = e->retain,
                                .now_usec = now_usec(CLOCK_REALTIME) };
        r = hub_session_publish(&s->hub, p->hub, p->link, &publish, &reason);
        if (r < 0)
                return cut(s, reason);
        e->retain = false;
        s->activity_usec = publish.now_usec;
        s->activity_noted = false;
        return MOSQ_ERR_SUCCESS;
}

static int on_disconnect(int event, void *data, void *userdata) {
        struct mosquitto_evt_disconnect *e = data;

        drop_session(userdata, e->client);
        return MOSQ_ERR_SUCCESS;
}

static const Session *find_ended(Plugin *p, usec_t now) {
        struct lh_entry *e;
        usec_t next = USEC_INFINITY;

        lh_foreach (p->sessions, e) {
                const Session *s = lh_entry_v(e);

                if (s->ends_usec <= now)
                        return s;
                next = MIN(next, s->ends_usec);
        }
        p->next_end_usec = next;
        return NULL;
}

/* Kicking calls back into drop_session(), so it never happens while the table is walked. */
static void end_sessions(Plugin *p, usec_t now) {
        const Session *s;

        while ((s = find_ended(p, now))) {
                const struct mosquitto *client = s->client;
                _cleanup_free_ char *id = strdup(s->hub.client_id);

                if (!id)
                        return; /* the next tick tries again */
                say("%s cut: its token has ended", id);
                /* It may be gone. */
                (void) mosquitto_kick_client_by_clientid(id,
                                                         /* with_will= */ true);
                drop_session(p, client);
        }
}

static void note_activity(Plugin *p) {
        struct lh_entry *e;

        lh_foreach (p->sessions, e) {
                Session *s = (Session *) lh_entry_v(e);

                if (s->activity_noted)
                        continue;
                hub_device_note(p->hub, s->hub.client_id, true, s->activity_usec);
                s->activity_noted = true;
        }
}

/* Changed desired properties, to those who listen; others read them when they come. */
static void send_notices(Plugin *p) {
        HubNotice n;

        while (hub_notice_take(p->hub, &n) > 0) {
                char topic[96];

                (void) snprintf(topic, sizeof(topic),
                                "$iothub/twin/PATCH/properties/desired/?$version=%" PRIu64,
                                n.version); /* it fits */
                /* Without room it is lost; the gap in the versions tells the device. */
                (void) hub_link_send(p->link, n.client_id, HUB_LISTEN_DESIRED, topic, n.text,
                                     strlen(n.text));
                hub_notice_done(&n);
        }
}

/* Leaves with the broker's next turn, which is now. */
static void send_packets(Plugin *p) {
        HubPacket *packet;

        while ((packet = hub_link_take(p->link))) {
                /* Without room it is lost, as on a connection that is cut. */
                (void) mosquitto_broker_publish_copy(packet->client_id, packet->topic,
                                                     (int) packet->n, packet->payload, /* qos= */ 0,
                                                     /* retain= */ false, NULL);
                hub_packet_free(packet);
        }
}

/* With QoS 0 as far as the broker goes: see mqtt-route.h. */
static int send_delivery(const HubC2dDelivery *d) {
        const MqttRoute route = { .sequence = d->sequence,
                                  .qos = d->qos,
                                  .again = d->again,
                                  .repeated = d->repeated };
        _cleanup_free_ char *topic = NULL;

        if (mqtt_route_format(&route, d->topic, &topic) < 0 ||
            mosquitto_broker_publish_copy(d->client_id, topic, (int) d->n, d->body, /* qos= */ 0,
                                          /* retain= */ false, NULL) != MOSQ_ERR_SUCCESS)
                return -ENOMEM;
        return 0;
}

static void send_deliveries(Plugin *p) {
        HubC2dDelivery d;
        int r;

        while ((r = hub_c2d_take(p->hub, now_usec(CLOCK_REALTIME), &d)) > 0) {
                r = send_delivery(&d);
                if (r < 0)
                        say("%s gets a message only when it connects anew: %s", d.client_id,
                            strerror(-r));
                hub_c2d_delivery_done(&d);
        }
        if (r < 0)
                say("cannot read the messages that wait: %s", strerror(-r));
}

static int on_tick(int event, void *data, void *userdata) {
        Plugin *p = userdata;
        usec_t now = now_usec(CLOCK_REALTIME);
        char *id;

        if (p->ready_fd >= 0) {
                /* The first tick: plugins load before the broker listens, and tick after. */
                if (write(p->ready_fd, "\n", 1) != 1)
                        say("cannot tell that the broker is ready: %s", strerror(errno));
                (void) close(p->ready_fd);
                p->ready_fd = -EBADF;
        }
        while ((id = hub_take_cut(p->hub))) {
                /* It may be gone. */
                (void) mosquitto_kick_client_by_clientid(id, /* with_will= */ true);
                free(id);
        }
        hub_link_expire(p->link, now_usec(CLOCK_MONOTONIC));
        hub_registry_run_timers(p->registry, now_usec(CLOCK_MONOTONIC));
        if (hub_c2d_run_timers(p->hub, now) < 0)
                say("cannot store that messages have expired; trying again");
        send_notices(p);
        send_deliveries(p);
        send_packets(p);
        if (now >= p->next_end_usec)
                end_sessions(p, now);
        if (now >= p->next_note_usec || now + NOTE_EVERY_USEC < p->next_note_usec) {
                note_activity(p);
                hub_events_tick(hub_events(p->hub), now);
                p->next_note_usec = now + NOTE_EVERY_USEC;
        }
        return MOSQ_ERR_SUCCESS;
}

static Plugin *plugin_free(Plugin *p) {
        struct lh_entry *e;

        if (!p)
                return NULL;
        if (p->link)
                hub_link_stop(p->link);
        hub_reports_free(p->reports);
        hub_registry_free(p->registry);
        hub_amqp_free(p->amqp);
        hub_troubles_free(p->troubles);
        hub_link_free(p->link);
        if (p->sessions) {
                lh_foreach (p->sessions, e)
                        session_free((Session *) lh_entry_v(e));
                lh_table_free(p->sessions);
        }
        hub_free(p->hub);
        erase_and_free(p->secret);
        free(p);
        return NULL;
}
DEFINE_CLEANUP(Plugin *, plugin_free);

typedef struct Options {
        const char *host, *secret;
        HubEventsLimits events;
        uint64_t token_grace_sec, amqp_port, ready_fd, report_fd;
} Options;

static int read_options(const struct mosquitto_opt *options, int n, Options *ret) {
        *ret = (Options){ .events = HUB_EVENTS_LIMITS_DEFAULT,
                          .ready_fd = UINT64_MAX,
                          .report_fd = UINT64_MAX };
        for (int i = 0; i < n; i++) {
                const char *key = options[i].key, *value = options[i].value;
                int r = 0;

                if (streq(key, "host"))
                        ret->host = value;
                else if (streq(key, "secret"))
                        ret->secret = value;
                else if (streq(key, "token_grace"))
                        r = parse_u64(value, &ret->token_grace_sec);
                else if (streq(key, "amqp_port"))
                        r = parse_u64_range(value, 1, UINT16_MAX, &ret->amqp_port);
                else if (streq(key, "retain_usec"))
                        r = parse_u64(value, &ret->events.retain_usec);
                else if (streq(key, "retain_bytes"))
                        r = parse_u64(value, &ret->events.retain_bytes);
                else if (streq(key, "ready_fd"))
                        r = parse_u64_range(value, 0, INT32_MAX, &ret->ready_fd);
                else if (streq(key, "report_fd"))
                        r = parse_u64_range(value, 0, INT32_MAX, &ret->report_fd);
                else
                        r = -EINVAL;
                if (r < 0)
                        return r;
        }
        return ret->host && ret->secret && ret->ready_fd != UINT64_MAX &&
                               ret->report_fd != UINT64_MAX
                       ? 0
                       : -EINVAL;
}

static int open_hub(Plugin *p, const Options *o) {
        _cleanup_free_ char *what = NULL;
        int r;

        /* The broker runs in the state folder. */
        r = hub_open(AT_FDCWD, o->host, &p->hub);
        if (r < 0)
                return r;
        r = hub_open_events(p->hub, &o->events, &what);
        if (r == -EBADMSG)
                say("the stored events are damaged: %s; repair that file, or move it away",
                    what ? what : HUB_EVENTS_FILE);
        return r;
}

static int plugin_new(const Options *o, Plugin **ret) {
        _cleanup_(plugin_freep) Plugin *p = NULL;
        int r;

        p = malloc(sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (Plugin){ .token_grace_usec = o->token_grace_sec > USEC_INFINITY / USEC_PER_SEC ?
                                                           USEC_INFINITY :
                                                           o->token_grace_sec * USEC_PER_SEC,
                       .ready_fd = (int) o->ready_fd,
                       .next_end_usec = USEC_INFINITY };
        p->secret = strdup(o->secret);
        p->sessions = lh_kptr_table_new(64, NULL);
        p->link = hub_link_new();
        if (!p->secret || !p->sessions || !p->link)
                return -ENOMEM;

        r = hub_troubles_new(&p->troubles);
        if (r >= 0)
                r = open_hub(p, o);
        if (r < 0)
                return r;
        r = hub_registry_new(p->hub, p->link, p->troubles, REGISTRY_SOCKET, &p->registry);
        if (r >= 0)
                r = hub_reports_new(p->hub, p->troubles, (int) o->report_fd, &p->reports);
        if (r < 0)
                return r;
        r = hub_amqp_new(p->hub, &(HubAmqpSettings) { .path = AMQP_SOCKET, .troubles = p->troubles, .port = (unsigned) o->amqp_port },
                         &p->amqp);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(p);
        return 0;
}

mosq_plugin_EXPORT int mosquitto_plugin_version(int n, const int *versions) {
        for (int i = 0; i < n; i++)
                if (versions[i] == MOSQ_PLUGIN_VERSION)
                        return MOSQ_PLUGIN_VERSION;
        return -1;
}

mosq_plugin_EXPORT int mosquitto_plugin_init(mosquitto_plugin_id_t *identifier, void **userdata,
                                             struct mosquitto_opt *options, int n_options) {
        static const struct {
                int event;
                MOSQ_FUNC_generic_callback function;
        } callbacks[] = {
                { MOSQ_EVT_BASIC_AUTH, on_basic_auth },
                { MOSQ_EVT_ACL_CHECK, on_acl_check },
                { MOSQ_EVT_MESSAGE, on_message },
                { MOSQ_EVT_DISCONNECT, on_disconnect },
                { MOSQ_EVT_TICK, on_tick },
        };
        Plugin *p;
        Options o;
        int r;

        r = read_options(options, n_options, &o);
        if (r >= 0)
                r = plugin_new(&o, &p);
        if (r < 0) {
                say("the broker's plugin cannot start: %s", strerror(-r));
                return MOSQ_ERR_UNKNOWN;
        }
        for (size_t i = 0; i < ELEMENTSOF(callbacks); i++)
                if (mosquitto_callback_register(identifier, callbacks[i].event,
                                                callbacks[i].function, NULL,
                                                p) != MOSQ_ERR_SUCCESS) {
                        plugin_free(p);
                        return MOSQ_ERR_UNKNOWN;
                }
        *userdata = p;
        return MOSQ_ERR_SUCCESS;
}

mosq_plugin_EXPORT int mosquitto_plugin_cleanup(void *userdata, struct mosquitto_opt *options,
                                                int n_options) {
        plugin_free(userdata);
        return MOSQ_ERR_SUCCESS;
}
