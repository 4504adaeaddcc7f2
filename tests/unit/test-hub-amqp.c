/* Goal: the AMQP door lets in who may come, redirects, tells about its partitions, hands out events with the
 * types that readers insist on, and takes messages to devices; what a client does wrong ends its own link or
 * connection and disturbs nobody. Method: the door on a socket in a temporary folder, and a client on Proton's
 * engine, without TLS, which is the front's. */

#include "tests/support/test.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/link.h>
#include <proton/message.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#include "emulator/hub-amqp.h"
#include "emulator/hub-c2d.h"
#include "emulator/hub-events.h"
#include "lib/amqp-value.h"
#include "lib/fd-util.h"
#include "lib/sas-token.h"

#define SOCKET "amqp.sock"
#define HOST "hub.example"
#define ENTITY "hub"
#define REPLY_MSEC 60000 /* a guard against a hang */

static Hub *hub;
static HubAmqp *door;
static HubTroubles *troubles;
static char *owner_key;

static void open_door(void) {
        _cleanup_free_ char *path = test_tempdir();
        _cleanup_free_ char *secondary = NULL;
        HubAmqpSettings settings = { .path = SOCKET, .port = 25671 };
        char *what = NULL;
        unsigned rights;

        ck_assert_int_eq(chdir(path), 0);
        assert_ok(hub_open(AT_FDCWD, HOST, &hub));
        assert_ok(hub_open_events(hub, &HUB_EVENTS_LIMITS_DEFAULT, &what));
        assert_ok(hub_policy_get(hub, HUB_POLICY_OWNER, &owner_key, &secondary, &rights));
        assert_ok(hub_troubles_new(&troubles));
        settings.troubles = troubles;
        assert_ok(hub_amqp_new(hub, &settings, &door));
}

static void close_door(void) {
        door = hub_amqp_free(door);
        troubles = hub_troubles_free(troubles);
        hub = hub_free(hub);
        free(owner_key);
}

static void append(const char *device, const char *bag, const char *body) {
        HubEvent e = { .device_id = device,
                       .generation = 638000000000000000U,
                       .enqueued_usec = now_usec(CLOCK_REALTIME),
                       .bag = bag,
                       .bag_size = strlen(bag),
                       .body = body,
                       .body_size = strlen(body) };

        assert_ok(hub_events_append(hub_events(hub), &e));
}

static void add_device(const char *id) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        HubDevice d = { .id = (char *) id, .enabled = true };

        assert_ok(hub_device_create(hub, &d, &made));
}

/* ---- the client ---- */

typedef struct Client {
        pn_connection_driver_t driver;
        pn_session_t *session;
        int fd;
} Client;

static void client_open(Client *c, const char *user, const char *password, bool sasl) {
        struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };

        *c = (Client) { 0 };
        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(connect(c->fd, (struct sockaddr *) &address, sizeof(address)), 0);
        ck_assert_int_eq(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
        ck_assert_int_eq(pn_connection_driver_init(&c->driver, NULL, NULL), 0);
        if (user) {
                pn_connection_set_user(c->driver.connection, user);
                pn_connection_set_password(c->driver.connection, password);
        }
        if (sasl) {
                pn_sasl_t *s = pn_sasl(c->driver.transport);

                pn_sasl_allowed_mechs(s, user ? "PLAIN" : "ANONYMOUS");
                pn_sasl_set_allow_insecure_mechs(s, true);
        }
        pn_connection_set_container(c->driver.connection, "test");
        pn_connection_open(c->driver.connection);
        c->session = pn_session(c->driver.connection);
        ck_assert_int_eq(pn_connection_driver_bind(&c->driver), 0);
        pn_session_open(c->session);
}

static void client_close(Client *c) {
        pn_connection_driver_destroy(&c->driver);
        c->fd = safe_close(c->fd);
}

static void client_write(Client *c) {
        pn_bytes_t b;

        while ((b = pn_connection_driver_write_buffer(&c->driver)).size > 0) {
                ssize_t n = send(c->fd, b.start, b.size, MSG_NOSIGNAL);

                if (n < 0)
                        return; /* what the other side said first is still to be read */
                (void) pn_connection_driver_write_done(&c->driver, (size_t) n);
        }
}

/* Says what there is to say and waits for the next word. False: the connection is over. */
static bool client_turn(Client *c) {
        struct pollfd p = { .fd = c->fd, .events = POLLIN };
        pn_rwbytes_t b;
        ssize_t n;

        while (pn_connection_driver_next_event(&c->driver))
                ;
        client_write(c);
        b = pn_connection_driver_read_buffer(&c->driver);
        if (b.size == 0)
                return false;
        ck_assert_msg(poll(&p, 1, REPLY_MSEC) == 1, "the door says nothing");
        n = recv(c->fd, b.start, b.size, 0);
        if (n > 0)
                pn_connection_driver_read_done(&c->driver, (size_t) n);
        else
                pn_connection_driver_read_close(&c->driver);
        while (pn_connection_driver_next_event(&c->driver))
                ;
        return n > 0;
}

static void wait_for_open(Client *c) {
        while (!(pn_connection_state(c->driver.connection) & PN_REMOTE_ACTIVE))
                ck_assert_msg(client_turn(c), "the connection was ended: %s",
                              strempty(pn_condition_get_description(
                                              pn_transport_condition(c->driver.transport))));
}

static pn_link_t *attach_with(Client *c, bool receiver, const char *name, const char *address,
                              const char *filter, int64_t epoch) {
        pn_link_t *l = receiver ? pn_receiver(c->session, name) : pn_sender(c->session, name);

        pn_terminus_set_address(receiver ? pn_link_source(l) : pn_link_target(l), address);
        pn_terminus_set_address(receiver ? pn_link_target(l) : pn_link_source(l), name);
        if (filter) {
                static const char selector[] = "apache.org:selector-filter:string";
                pn_data_t *d = pn_terminus_filter(pn_link_source(l));

                pn_data_put_map(d);
                pn_data_enter(d);
                pn_data_put_symbol(d, pn_bytes(strlen(selector), selector));
                pn_data_put_described(d);
                pn_data_enter(d);
                pn_data_put_ulong(d, 0x468C00000004U);
                pn_data_put_string(d, pn_bytes(strlen(filter), filter));
                pn_data_exit(d);
                pn_data_exit(d);
        }
        if (epoch >= 0) {
                pn_data_t *d = pn_link_properties(l);

                pn_data_put_map(d);
                pn_data_enter(d);
                pn_data_put_symbol(d, pn_bytes(19, "com.microsoft:epoch"));
                pn_data_put_long(d, epoch);
                pn_data_exit(d);
        }
        pn_link_open(l);
        return l;
}

static pn_link_t *attach(Client *c, bool receiver, const char *name, const char *address) {
        pn_link_t *l = attach_with(c, receiver, name, address, NULL, -1);

        while (!(pn_link_state(l) & (PN_REMOTE_ACTIVE | PN_REMOTE_CLOSED)))
                ck_assert(client_turn(c));
        return l;
}

static void expect_detached(Client *c, pn_link_t *l, const char *condition) {
        while (!(pn_link_state(l) & PN_REMOTE_CLOSED))
                ck_assert(client_turn(c));
        ck_assert_str_eq(strempty(pn_condition_get_name(pn_link_remote_condition(l))), condition);
}

static void expect_attached(Client *c, pn_link_t *l) {
        while (!(pn_link_state(l) & (PN_REMOTE_ACTIVE | PN_REMOTE_CLOSED)))
                ck_assert(client_turn(c));
        ck_assert_msg(pn_link_state(l) & PN_REMOTE_ACTIVE, "%s: %s",
                      strempty(pn_condition_get_name(pn_link_remote_condition(l))),
                      strempty(pn_condition_get_description(pn_link_remote_condition(l))));
        ck_assert(pn_terminus_get_type(pn_link_is_sender(l) ? pn_link_remote_target(l)
                                                            : pn_link_remote_source(l)) != PN_UNSPECIFIED);
}

/* Until the door has said so, too: Proton says what opens before what closes. */
static void close_link(Client *c, pn_link_t *l) {
        pn_link_close(l);
        while (!(pn_link_state(l) & PN_REMOTE_CLOSED))
                ck_assert(client_turn(c));
}

/* The next whole message, into a static buffer, accepted. */
static AmqpMessage receive(Client *c, pn_link_t *l) {
        static char data[300000];
        pn_delivery_t *d;
        AmqpMessage m;
        ssize_t n;

        pn_link_flow(l, 1);
        while (!(d = pn_link_current(l)) || !pn_delivery_readable(d) || pn_delivery_partial(d))
                ck_assert(client_turn(c));
        n = pn_link_recv(l, data, sizeof(data));
        ck_assert_int_gt(n, 0);
        pn_delivery_update(d, PN_ACCEPTED);
        pn_delivery_settle(d);
        assert_ok(amqp_message_read(data, (size_t) n, &m));
        return m;
}

static pn_delivery_t *send_message(Client *c, pn_link_t *l, pn_message_t *m) {
        static uint64_t tag;
        char data[70000];
        size_t n = sizeof(data);
        pn_delivery_t *d;

        while (pn_link_credit(l) <= 0)
                ck_assert(client_turn(c));
        ck_assert_int_eq(pn_message_encode(m, data, &n), 0);
        tag++;
        d = pn_delivery(l, pn_dtag((const char *) &tag, sizeof(tag)));
        ck_assert_int_eq(pn_link_send(l, data, n), (ssize_t) n);
        pn_link_advance(l);
        return d;
}

static uint64_t outcome(Client *c, pn_delivery_t *d) {
        while (!pn_delivery_remote_state(d))
                ck_assert(client_turn(c));
        return pn_delivery_remote_state(d);
}

static void put_property(pn_data_t *d, const char *name, const char *value) {
        pn_data_put_string(d, pn_bytes(strlen(name), name));
        pn_data_put_string(d, pn_bytes(strlen(value), value));
}

/* Asks a node and gives the status of its answer. */
static int64_t ask(Client *c, pn_link_t *requests, pn_link_t *replies, const char *const *properties,
                   const char *body, AmqpMessage *ret) {
        static uint64_t id = 7;
        pn_message_t *m = pn_message();
        pn_data_t *d = pn_message_properties(m);
        AmqpValue status;

        pn_data_put_map(d);
        pn_data_enter(d);
        for (; *properties; properties += 2)
                put_property(d, properties[0], properties[1]);
        pn_data_exit(d);
        pn_message_set_id(m, (pn_atom_t) { .type = PN_ULONG, .u.as_ulong = ++id });
        if (body)
                pn_data_put_string(pn_message_body(m), pn_bytes(strlen(body), body));
        (void) send_message(c, requests, m);
        pn_message_free(m);
        *ret = receive(c, replies);
        ck_assert_int_eq(ret->correlation_id.type, AMQP_UNSIGNED);
        ck_assert_uint_eq(ret->correlation_id.uinteger, id);
        ck_assert_int_eq(amqp_map_get(&ret->application_properties, "status-code", &status), 1);
        ck_assert_int_eq(status.type, AMQP_SIGNED);
        return status.integer;
}

static char *make_token(SasKeyForm form, const char *resource, int64_t seconds) {
        char *token;

        assert_ok(sas_token_make_with(owner_key, form, resource,
                                      (uint64_t) ((int64_t) (now_usec(CLOCK_REALTIME) / USEC_PER_SEC) + seconds),
                                      HUB_POLICY_OWNER, &token));
        return token;
}

static int64_t put_token(Client *c, const char *token) {
        const char *properties[] = { "operation", "put-token", "type", "servicebus.windows.net:sastoken",
                                     "name", "sb://" HOST "/" ENTITY, NULL };
        static unsigned n;
        char name[16];
        pn_link_t *out, *in;
        AmqpMessage m;
        int64_t status;

        (void) snprintf(name, sizeof(name), "cbs%u", n++);
        out = attach(c, false, name, "$cbs");
        in = attach(c, true, name, "$cbs");
        status = ask(c, out, in, properties, token, &m);
        close_link(c, out);
        close_link(c, in);
        return status;
}

static void open_with_key(Client *c) {
        client_open(c, HUB_POLICY_OWNER, owner_key, true);
        wait_for_open(c);
}

static unsigned partition_of(const char *device) {
        return hub_events_partition(device);
}

static const char *partition_address(unsigned partition) {
        static char address[80];

        (void) snprintf(address, sizeof(address), ENTITY "/ConsumerGroups/$Default/Partitions/%u", partition);
        return address;
}

/* ---- who may come ---- */

TEST(names_and_passwords_are_checked) {
        _cleanup_free_ char *token = NULL, *other = NULL, *old = NULL;
        struct {
                const char *user, *password;
                bool good;
        } cases[] = {
                { HUB_POLICY_OWNER, NULL, true }, /* its key */
                { HUB_POLICY_OWNER, "AAAA", false },
                { "nobody", NULL, false },
                { HUB_POLICY_OWNER "@sas.root.hub", NULL, true }, /* a token */
                { HUB_POLICY_OWNER "@sas.root.hub", "SharedAccessSignature sr=x&sig=eA%3D%3D&se=1", false },
                { HUB_POLICY_OWNER "@sas.root.hub", "", false },
                { "windmill@sas.hub", NULL, false },
                { HUB_POLICY_OWNER "@sas.root.hub", NULL, false }, /* of another hub */
                { HUB_POLICY_OWNER "@sas.root.hub", NULL, false }, /* an old one */
        };

        open_door();
        token = make_token(SAS_KEY_BASE64, HOST, 600);
        other = make_token(SAS_KEY_BASE64, "hub2.example", 600);
        old = make_token(SAS_KEY_BASE64, HOST, -1);
        cases[0].password = cases[2].password = owner_key;
        cases[3].password = cases[6].password = token;
        cases[7].password = other;
        cases[8].password = old;
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                Client c;

                client_open(&c, cases[i].user, cases[i].password, true);
                if (cases[i].good) {
                        wait_for_open(&c);
                        expect_attached(&c, attach(&c, true, "r", partition_address(0)));
                } else {
                        while (client_turn(&c))
                                ;
                        ck_assert_msg(pn_sasl_outcome(pn_sasl(c.driver.transport)) == PN_SASL_AUTH, "case %zu", i);
                }
                client_close(&c);
        }
        close_door();
}

TEST(tokens_at_cbs_open_what_they_name_and_no_more) {
        open_door();
        for (int sasl = 0; sasl < 2; sasl++) {
                _cleanup_free_ char *hub_token = make_token(SAS_KEY_BASE64, HOST "/messages/devicebound", 600),
                                    *entity_token = make_token(SAS_KEY_TEXT, "sb://" HOST ":5671/" ENTITY, 600),
                                    *wrong_form = make_token(SAS_KEY_BASE64, "sb://" HOST "/" ENTITY, 600);
                Client c;

                client_open(&c, NULL, NULL, sasl);
                wait_for_open(&c);
                expect_detached(&c, attach(&c, true, "r1", partition_address(0)), "amqp:unauthorized-access");
                ck_assert_int_eq(put_token(&c, "nonsense"), 401);
                ck_assert_int_eq(put_token(&c, wrong_form), 401);
                expect_detached(&c, attach(&c, true, "r2", partition_address(0)), "amqp:unauthorized-access");
                ck_assert_int_eq(put_token(&c, hub_token), 200);
                expect_attached(&c, attach(&c, false, "s1", "/messages/devicebound"));
                expect_detached(&c, attach(&c, true, "r3", partition_address(0)), "amqp:unauthorized-access");
                expect_detached(&c, attach(&c, true, "r4", "messages/events/"), "amqp:unauthorized-access");
                ck_assert_int_eq(put_token(&c, entity_token), 200);
                expect_attached(&c, attach(&c, true, "r5", partition_address(0)));
                client_close(&c);
        }
        close_door();
}

TEST(a_connection_has_one_pair_of_links_to_cbs) {
        Client c;

        open_door();
        client_open(&c, NULL, NULL, true);
        wait_for_open(&c);
        for (int i = 0; i < 2; i++) { /* a pair that was closed leaves its place */
                pn_link_t *out = attach(&c, false, i ? "out2" : "out", "$cbs"),
                          *in = attach(&c, true, i ? "in2" : "in", "$cbs");

                expect_attached(&c, out);
                expect_attached(&c, in);
                expect_detached(&c, attach(&c, false, i ? "more-out2" : "more-out", "$cbs"), "amqp:not-allowed");
                expect_detached(&c, attach(&c, true, i ? "more-in2" : "more-in", "$cbs"), "amqp:not-allowed");
                close_link(&c, out);
                close_link(&c, in);
        }
        client_close(&c);
        close_door();
}

TEST(a_token_that_ends_ends_its_links) {
        _cleanup_free_ char *token = NULL;
        Client c;
        pn_link_t *l;

        open_door();
        client_open(&c, NULL, NULL, true);
        wait_for_open(&c);
        token = make_token(SAS_KEY_TEXT, "sb://" HOST "/" ENTITY, 2);
        ck_assert_int_eq(put_token(&c, token), 200);
        l = attach(&c, true, "r", partition_address(0));
        expect_attached(&c, l);
        expect_detached(&c, l, "amqp:unauthorized-access");
        client_close(&c);
        close_door();
}

/* ---- where the events are ---- */

TEST(the_hub_redirects_to_its_event_hub) {
        static const struct {
                const char *asked, *address;
        } cases[] = {
                { "messages/events/", "amqps://" HOST ":25671/" ENTITY "/" },
                { "/messages/events/$management", "amqps://" HOST ":25671/" ENTITY "/$management" },
                { "amqps://" HOST "/messages/events/$management", "amqps://" HOST ":25671/" ENTITY "/$management" },
        };
        Client c;

        open_door();
        open_with_key(&c);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char name[16];
                pn_link_t *l;
                pn_condition_t *d;

                (void) snprintf(name, sizeof(name), "r%zu", i);
                l = attach(&c, true, name, cases[i].asked);
                expect_detached(&c, l, "amqp:link:redirect");
                ck_assert_int_eq(pn_terminus_get_type(pn_link_remote_source(l)), PN_UNSPECIFIED);
                ck_assert_int_eq(pn_terminus_get_type(pn_link_remote_target(l)), PN_UNSPECIFIED);
                d = pn_link_remote_condition(l);
                ck_assert(pn_condition_is_redirect(d));
                ck_assert_int_eq(pn_condition_redirect_port(d), 25671);
                ck_assert_str_eq(pn_condition_redirect_host(d), HOST);
                {
                        pn_data_t *info = pn_condition_info(d);
                        bool found = false;

                        pn_data_rewind(info);
                        (void) pn_data_next(info);
                        pn_data_enter(info);
                        while (pn_data_next(info)) {
                                pn_bytes_t key = pn_data_get_symbol(info);

                                ck_assert(pn_data_next(info));
                                if (key.size == 7 && memcmp(key.start, "address", 7) == 0) {
                                        pn_bytes_t v = pn_data_get_string(info);

                                        found = v.size == strlen(cases[i].address) &&
                                                memcmp(v.start, cases[i].address, v.size) == 0;
                                }
                        }
                        ck_assert_msg(found, "%s", cases[i].asked);
                }
        }
        client_close(&c);
        close_door();
}

TEST(management_tells_with_the_types_that_clients_insist_on) {
        const char *of_hub[] = { "operation", "READ", "name", ENTITY, "type", "com.microsoft:eventhub", NULL },
                   *of_other[] = { "operation", "READ", "name", "other", "type", "com.microsoft:eventhub", NULL },
                   *of_partition[] = { "operation", "READ", "name", ENTITY, "type", "com.microsoft:partition",
                                       "partition", "0", NULL },
                   *of_no_partition[] = { "operation", "READ", "name", ENTITY, "type", "com.microsoft:partition",
                                          "partition", "9", NULL },
                   *nothing[] = { "operation", "WRITE", NULL };
        pn_link_t *out, *in;
        AmqpMessage m;
        AmqpValue v;
        Client c;

        open_door();
        open_with_key(&c);
        out = attach(&c, false, "m-out", "$management");
        in = attach(&c, true, "m-in", "$management");
        ck_assert_int_eq(ask(&c, out, in, of_hub, NULL, &m), 200);
        ck_assert_int_eq(amqp_map_get(&m.body, "created_at", &v), 1);
        ck_assert_int_eq(v.type, AMQP_TIMESTAMP);
        ck_assert_int_eq(amqp_map_get(&m.body, "partition_count", &v), 1);
        ck_assert(v.type == AMQP_SIGNED && v.integer == HUB_EVENTS_PARTITIONS);
        ck_assert_int_eq(amqp_map_get(&m.body, "partition_ids", &v), 1);
        ck_assert_int_eq(v.type, AMQP_ARRAY);
        for (unsigned i = 0; i < HUB_EVENTS_PARTITIONS; i++) {
                char id[12];
                AmqpValue item;

                (void) snprintf(id, sizeof(id), "%u", i);
                ck_assert_int_eq(amqp_read(&v.items, &item), 1);
                ck_assert(item.type == AMQP_STRING && amqp_bytes_equal(item.bytes, id));
        }
        ck_assert_int_eq(ask(&c, out, in, of_partition, NULL, &m), 200);
        ck_assert_int_eq(amqp_map_get(&m.body, "last_enqueued_sequence_number", &v), 1);
        ck_assert(v.type == AMQP_SIGNED && v.integer == -1);
        ck_assert_int_eq(amqp_map_get(&m.body, "last_enqueued_offset", &v), 1);
        ck_assert(v.type == AMQP_STRING && amqp_bytes_equal(v.bytes, "-1"));
        ck_assert_int_eq(amqp_map_get(&m.body, "is_partition_empty", &v), 1);
        ck_assert(v.type == AMQP_BOOLEAN && v.integer == 1);
        ck_assert_int_eq(ask(&c, out, in, of_other, NULL, &m), 404);
        ck_assert_int_eq(ask(&c, out, in, of_no_partition, NULL, &m), 404);
        ck_assert_int_eq(ask(&c, out, in, nothing, NULL, &m), 400);
        client_close(&c);
        close_door();
}

/* ---- events ---- */

static int64_t sequence_of(const AmqpMessage *m) {
        AmqpValue v;

        ck_assert_int_eq(amqp_map_get(&m->annotations, "x-opt-sequence-number", &v), 1);
        ck_assert_int_eq(v.type, AMQP_SIGNED);
        return v.integer;
}

static void expect_text(const AmqpMessage *m, const char *name, const char *text) {
        AmqpValue v;

        ck_assert_msg(amqp_map_get(&m->annotations, name, &v) == 1 && v.type == AMQP_STRING, "%s", name);
        ck_assert_msg(amqp_bytes_equal(v.bytes, text), "%s: %.*s", name, (int) v.bytes.size, v.bytes.data);
}

TEST(an_event_has_the_sections_and_types_of_the_hub) {
        AmqpMessage m;
        AmqpValue v;
        AmqpBytes b;
        Client c;

        open_door();
        append("windmill", "%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.cid=c1&a=b&%C3%A4=%C3%B6", "{\"t\":1}");
        open_with_key(&c);
        m = receive(&c, attach(&c, true, "r", partition_address(partition_of("windmill"))));
        expect_text(&m, "iothub-connection-device-id", "windmill");
        expect_text(&m, "iothub-connection-auth-method",
                    "{\"scope\":\"device\",\"type\":\"sas\",\"issuer\":\"iothub\",\"acceptingIpFilterRule\":null}");
        expect_text(&m, "iothub-connection-auth-generation-id", "638000000000000000");
        expect_text(&m, "iothub-message-source", "Telemetry");
        expect_text(&m, "x-opt-offset", "0");
        ck_assert_int_eq(sequence_of(&m), 0);
        ck_assert_int_eq(amqp_map_get(&m.annotations, "iothub-enqueuedtime", &v), 1);
        ck_assert_int_eq(v.type, AMQP_TIMESTAMP);
        ck_assert_int_eq(amqp_map_get(&m.annotations, "x-opt-enqueued-time", &v), 1);
        ck_assert_int_eq(v.type, AMQP_TIMESTAMP);
        ck_assert_int_eq(amqp_map_get(&m.annotations, "iothub-connection-module-id", &v), 0);
        ck_assert(m.message_id.type == AMQP_STRING && amqp_bytes_equal(m.message_id.bytes, "m1"));
        ck_assert(m.correlation_id.type == AMQP_STRING && amqp_bytes_equal(m.correlation_id.bytes, "c1"));
        ck_assert(m.content_type.type == AMQP_SYMBOL && amqp_bytes_equal(m.content_type.bytes, "application/json"));
        ck_assert(m.content_encoding.type == AMQP_SYMBOL && amqp_bytes_equal(m.content_encoding.bytes, "utf-8"));
        ck_assert_int_eq(amqp_map_get(&m.application_properties, "a", &v), 1);
        ck_assert(v.type == AMQP_STRING && amqp_bytes_equal(v.bytes, "b"));
        ck_assert_int_eq(amqp_map_get(&m.application_properties, "ä", &v), 1);
        ck_assert(amqp_bytes_equal(v.bytes, "ö"));
        ck_assert(m.body_is_data && amqp_value_text(&m.body, &b) && amqp_bytes_equal(b, "{\"t\":1}"));
        client_close(&c);
        close_door();
}

TEST(readers_begin_where_they_ask_to) {
        static const struct {
                const char *filter;
                int64_t first;
        } cases[] = {
                { NULL, 0 },
                { "amqp.annotation.x-opt-offset > '-1'", 0 },
                { "amqp.annotation.x-opt-sequence-number > '4'", 5 },
                { "amqp.annotation.x-opt-sequence-number >= '4'", 4 },
                { "amqp.annotation.x-opt-sequence-number > '9'", 10 },
                { "amqp.annotation.x-opt-offset > '@latest'", 10 },
                { "amqp.annotation.x-opt-enqueued-time > '0'", 0 },
        };
        pn_link_t *links[ELEMENTSOF(cases)];
        unsigned partition = partition_of("windmill");
        Client c;

        open_door();
        for (int i = 0; i < 10; i++)
                append("windmill", "", "x");
        open_with_key(&c);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                char name[16], address[80];

                (void) snprintf(name, sizeof(name), "r%zu", i);
                (void) snprintf(address, sizeof(address), ENTITY "/ConsumerGroups/group%zu/Partitions/%u", i, partition);
                links[i] = attach_with(&c, true, name, address, cases[i].filter, -1);
                expect_attached(&c, links[i]);
        }
        append("windmill", "", "x");
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                for (int64_t n = cases[i].first; n <= 10; n++) {
                        AmqpMessage m = receive(&c, links[i]);

                        ck_assert_msg(sequence_of(&m) == n, "%s", cases[i].filter);
                }
        expect_detached(&c, attach_with(&c, true, "x1", partition_address(partition),
                                        "amqp.annotation.x-opt-sequence-number > '11'", -1),
                        "com.microsoft:argument-error");
        expect_detached(&c, attach_with(&c, true, "x2", partition_address(partition), "nonsense", -1),
                        "com.microsoft:argument-error");
        expect_detached(&c, attach(&c, true, "x3", "other/ConsumerGroups/$Default/Partitions/0"), "amqp:not-found");
        expect_detached(&c, attach(&c, true, "x4", ENTITY "/ConsumerGroups/$Default/Partitions/9"), "amqp:not-found");
        expect_detached(&c, attach(&c, false, "x5", partition_address(partition)), "amqp:not-allowed");
        client_close(&c);
        close_door();
}

TEST(five_readers_without_an_epoch_or_one_with_the_highest) {
        pn_link_t *plain[5], *low, *high;
        Client c, other;

        open_door();
        open_with_key(&c);
        open_with_key(&other);
        for (size_t i = 0; i < ELEMENTSOF(plain); i++) {
                char name[16];

                (void) snprintf(name, sizeof(name), "r%zu", i);
                plain[i] = attach(&c, true, name, partition_address(1));
                expect_attached(&c, plain[i]);
        }
        expect_detached(&c, attach(&c, true, "sixth", partition_address(1)), "amqp:resource-limit-exceeded");
        expect_attached(&c, attach(&c, true, "elsewhere", partition_address(2)));

        low = attach_with(&other, true, "low", partition_address(1), NULL, 3);
        expect_attached(&other, low);
        for (size_t i = 0; i < ELEMENTSOF(plain); i++)
                expect_detached(&c, plain[i], "amqp:link:stolen");
        expect_detached(&c, attach(&c, true, "late", partition_address(1)), "amqp:link:stolen");
        expect_detached(&c, attach_with(&c, true, "lower", partition_address(1), NULL, 2), "amqp:link:stolen");
        expect_detached(&c, attach_with(&c, true, "beyond", partition_address(1),
                                        "amqp.annotation.x-opt-offset > '5'", 5),
                        "com.microsoft:argument-error");
        high = attach_with(&c, true, "high", partition_address(1), NULL, 4);
        expect_attached(&c, high);
        expect_detached(&other, low, "amqp:link:stolen");
        client_close(&c);
        client_close(&other);
        close_door();
}

/* ---- messages to devices ---- */

static pn_delivery_t *send_to(Client *c, pn_link_t *l, const char *to, const char *ack) {
        pn_message_t *m = pn_message();
        pn_delivery_t *d;

        pn_message_set_inferred(m, true);
        if (to)
                pn_message_set_address(m, to);
        pn_message_set_id(m, (pn_atom_t) { .type = PN_UUID, .u.as_uuid = { "0123456789abcde" } });
        if (ack) {
                pn_data_t *p = pn_message_properties(m);

                pn_data_put_map(p);
                pn_data_enter(p);
                put_property(p, "iothub-ack", ack);
                pn_data_exit(p);
        }
        pn_data_put_binary(pn_message_body(m), pn_bytes(5, "hello"));
        d = send_message(c, l, m);
        pn_message_free(m);
        return d;
}

static void expect_rejected(Client *c, pn_delivery_t *d, const char *condition) {
        ck_assert_uint_eq(outcome(c, d), PN_REJECTED);
        ck_assert_str_eq(strempty(pn_condition_get_name(pn_disposition_condition(pn_delivery_remote(d)))), condition);
}

TEST(a_message_to_a_device_is_accepted_or_rejected_and_the_link_stays) {
        static const char to[] = "/devices/windmill/messages/devicebound";
        pn_link_t *l;
        Client c;

        open_door();
        add_device("windmill");
        open_with_key(&c);
        l = attach(&c, false, "s", "/messages/deviceBound");
        expect_attached(&c, l);
        expect_rejected(&c, send_to(&c, l, "/devices/nobody/messages/devicebound", NULL), "amqp:not-found");
        expect_rejected(&c, send_to(&c, l, "elsewhere", NULL), "amqp:invalid-field");
        expect_rejected(&c, send_to(&c, l, NULL, NULL), "amqp:invalid-field");
        expect_rejected(&c, send_to(&c, l, to, "maybe"), "amqp:invalid-field");
        for (unsigned i = 0; i < HUB_C2D_PENDING_MAX; i++)
                ck_assert_uint_eq(outcome(&c, send_to(&c, l, to, "full")), PN_ACCEPTED);
        expect_rejected(&c, send_to(&c, l, to, "full"), "amqp:resource-limit-exceeded");
        expect_attached(&c, l);
        client_close(&c);
        close_door();
}

/* Without accepting it. */
static pn_delivery_t *receive_unsettled(Client *c, pn_link_t *l, AmqpMessage *ret) {
        static char data[100000];
        pn_delivery_t *d;
        ssize_t n;

        pn_link_flow(l, 1);
        while (!(d = pn_link_current(l)) || !pn_delivery_readable(d) || pn_delivery_partial(d))
                ck_assert(client_turn(c));
        n = pn_link_recv(l, data, sizeof(data));
        ck_assert_int_gt(n, 0);
        pn_link_advance(l);
        assert_ok(amqp_message_read(data, (size_t) n, ret));
        return d;
}

TEST(feedback_that_was_not_accepted_comes_again) {
        uint64_t purged;
        pn_link_t *l;
        AmqpMessage m;
        AmqpBytes b;
        Client c, other;

        open_door();
        add_device("windmill");
        open_with_key(&c);
        l = attach(&c, false, "s", "/messages/deviceBound");
        ck_assert_uint_eq(outcome(&c, send_to(&c, l, "/devices/windmill/messages/devicebound", "full")), PN_ACCEPTED);
        assert_ok(hub_c2d_purge(hub, "windmill", NULL, now_usec(CLOCK_REALTIME), &purged));
        ck_assert_uint_eq(purged, 1);
        /* What happens by time is the broker's to run, which is not here. */
        assert_ok(hub_c2d_run_timers(hub, now_usec(CLOCK_REALTIME) + USEC_PER_MINUTE));

        l = attach(&c, true, "f", "/messages/serviceBound/feedback");
        (void) receive_unsettled(&c, l, &m);
        client_close(&c);
        open_with_key(&other);
        l = attach(&other, true, "f", "/messages/servicebound/Feedback");
        m = receive(&other, l);
        ck_assert(m.content_type.type == AMQP_SYMBOL &&
                  amqp_bytes_equal(m.content_type.bytes, "application/vnd.microsoft.iothub.feedback.json"));
        ck_assert(m.body_is_data && amqp_value_text(&m.body, &b));
        ck_assert(memmem(b.data, b.size, "\"Purged\"", 8));
        ck_assert(memmem(b.data, b.size, "30313233-3435-3637-3839-616263646500", 36)); /* the uuid as text */
        client_close(&other);
        close_door();
}

/* A record of feedback of its own batch; the id of a message is that of send_to(). */
static void make_feedback(Client *c, pn_link_t *l) {
        static usec_t later; /* than what an earlier batch was due at */
        uint64_t purged;

        later = usec_add(later, USEC_PER_MINUTE / 4);
        ck_assert_uint_eq(outcome(c, send_to(c, l, "/devices/windmill/messages/devicebound", "full")), PN_ACCEPTED);
        assert_ok(hub_c2d_purge(hub, "windmill", NULL, now_usec(CLOCK_REALTIME), &purged));
        ck_assert_uint_eq(purged, 1);
        assert_ok(hub_c2d_run_timers(hub, now_usec(CLOCK_REALTIME) + later));
}

TEST(feedback_that_was_rejected_is_gone_and_what_was_released_comes_again) {
        static const uint64_t ends[] = { PN_RELEASED, PN_RELEASED, PN_REJECTED };
        pn_link_t *sender, *l;
        pn_delivery_t *d;
        AmqpMessage m;
        Client c;

        open_door();
        add_device("windmill");
        open_with_key(&c);
        sender = attach(&c, false, "s", "/messages/deviceBound");
        make_feedback(&c, sender);
        l = attach(&c, true, "f", "/messages/serviceBound/feedback");
        for (size_t i = 0; i < ELEMENTSOF(ends); i++) {
                d = receive_unsettled(&c, l, &m);
                pn_delivery_update(d, ends[i]);
                pn_delivery_settle(d);
        }
        /* Answers come in the order of what was said: had there been a batch still, it would be here. */
        pn_link_flow(l, 1);
        ck_assert_uint_eq(outcome(&c, send_to(&c, sender, "/devices/windmill/messages/devicebound", NULL)),
                          PN_ACCEPTED);
        expect_attached(&c, attach(&c, true, "again", "/messages/serviceBound/feedback"));
        ck_assert_ptr_null(pn_link_current(l));
        client_close(&c);
        close_door();
}

TEST(feedback_waits_for_credit) {
        pn_link_t *sender, *l;
        AmqpMessage m;
        Client c;

        open_door();
        add_device("windmill");
        open_with_key(&c);
        sender = attach(&c, false, "s", "/messages/deviceBound");
        make_feedback(&c, sender);
        l = attach(&c, true, "f", "/messages/serviceBound/feedback");
        expect_attached(&c, l);
        expect_attached(&c, attach(&c, true, "later", "/messages/serviceBound/feedback"));
        ck_assert_ptr_null(pn_link_current(l));
        m = receive(&c, l);
        ck_assert(m.body_is_data);
        client_close(&c);
        close_door();
}

/* ---- trouble on request ---- */

static void make_trouble(const char *json) {
        _cleanup_free_ char *answer = NULL;

        ck_assert_msg(hub_troubles_call(troubles, HUB_CALL_SET_TROUBLE, json, strlen(json), &answer) == 0, "%s",
                      strempty(answer));
}

TEST(trouble_refuses_detaches_and_closes_as_often_as_asked) {
        static const char to[] = "/devices/windmill/messages/devicebound";
        pn_delivery_t *d;
        AmqpMessage m;
        pn_link_t *l;
        Client c;

        open_door();
        add_device("windmill");
        append("windmill", "", "x");
        open_with_key(&c);
        make_trouble("{\"kind\":\"amqp-refuse\",\"count\":2}");
        expect_detached(&c, attach(&c, true, "r1", partition_address(0)), "com.microsoft:server-busy");
        expect_detached(&c, attach(&c, false, "s1", "/messages/devicebound"), "com.microsoft:server-busy");
        l = attach(&c, true, "r2", partition_address(partition_of("windmill")));
        expect_attached(&c, l);

        make_trouble("{\"kind\":\"amqp-detach\",\"count\":2,\"mark\":\"com.microsoft:timeout\"}");
        pn_link_flow(l, 1);
        expect_detached(&c, l, "com.microsoft:timeout");
        l = attach(&c, false, "s2", "/messages/devicebound");
        d = send_to(&c, l, to, NULL);
        expect_detached(&c, l, "com.microsoft:timeout");
        ck_assert_uint_eq(pn_delivery_remote_state(d), 0);
        l = attach(&c, true, "r3", partition_address(partition_of("windmill")));
        m = receive(&c, l);
        ck_assert_int_eq(sequence_of(&m), 0);
        l = attach(&c, false, "s3", "/messages/devicebound");
        ck_assert_uint_eq(outcome(&c, send_to(&c, l, to, NULL)), PN_ACCEPTED);

        make_trouble("{\"kind\":\"amqp-close\",\"count\":1}");
        (void) send_to(&c, l, to, NULL);
        while (client_turn(&c))
                ;
        ck_assert_str_eq(strempty(pn_condition_get_name(pn_connection_remote_condition(c.driver.connection))),
                         "amqp:connection:forced");
        client_close(&c);
        close_door();
}

/* ---- what is none ---- */

TEST(bytes_that_are_no_amqp_end_their_own_connection) {
        static const char *const cases[] = {
                "GET / HTTP/1.1\r\n\r\n",
                "AMQP\x00\x01\x00\x00\xff\xff\xff\xff",
                "AMQP\x03\x01\x00\x00\x00\x00\x00\x05",
        };
        static const size_t sizes[] = { 18, 12, 12 };
        pn_link_t *l;
        AmqpMessage m;
        Client good;

        open_door();
        open_with_key(&good);
        l = attach(&good, true, "r", partition_address(partition_of("windmill")));
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SOCKET };
                int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                char answer[4096];

                ck_assert_int_eq(connect(fd, (struct sockaddr *) &address, sizeof(address)), 0);
                ck_assert_int_eq(send(fd, cases[i], sizes[i], MSG_NOSIGNAL), (ssize_t) sizes[i]);
                ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
                while (recv(fd, answer, sizeof(answer), 0) > 0)
                        ;
                close(fd);
        }
        append("windmill", "", "x");
        m = receive(&good, l);
        ck_assert_int_eq(sequence_of(&m), 0);
        client_close(&good);
        close_door();
}
