/* Goal: a message that was accepted is delivered in its turn until it is settled, expires, or is
 * purged; its sender hears of the ends that it asked for, once; and all of that outlives the
 * process. Method: the hub in a temporary folder with a clock of our own; a table for each rule; a
 * child that is killed while it sends; threads that play service, broker and reader at once. */

#include "tests/support/test.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "emulator/hub-c2d.h"
#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "lib/string-util.h"

#define NOW (2000000000 * USEC_PER_SEC)

typedef struct Fixture {
        char *path;
        Hub *hub;
} Fixture;

static void open_hub(Fixture *f) {
        _cleanup_close_ int fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        assert_ok(hub_open(fd, "hub.example", &f->hub));
}

static void reopen_hub(Fixture *f) {
        hub_free(f->hub);
        open_hub(f);
}

static void add_device(Hub *h, const char *id, const char *module) {
        const HubDevice d = { .id = (char *) id, .module_id = (char *) module, .enabled = true };
        _cleanup_(hub_device_done) HubDevice made = { 0 };

        assert_ok(hub_device_create(h, &d, &made));
}

static void fixture_init(Fixture *f) {
        *f = (Fixture){ .path = test_tempdir() };
        open_hub(f);
        add_device(f->hub, "d1", NULL);
}

static void fixture_done(Fixture *f) {
        hub_free(f->hub);
        free(f->path);
}

#define TO "/devices/d1/messages/devicebound"

static int send_message(Hub *h, const HubC2dMessage *m, usec_t now, uint64_t *ret_sequence) {
        const char *reason = NULL;
        uint64_t ignored;
        int r;

        r = hub_c2d_send(h, m, now, ret_sequence ? ret_sequence : &ignored, &reason);
        ck_assert(r >= 0 || reason);
        return r;
}

static int send_text(Hub *h, const char *to, const char *body) {
        const HubC2dMessage m = { .to = to, .body = body, .n = strlen(body) };

        return send_message(h, &m, NOW, NULL);
}

static uint64_t send_acked(Hub *h, HubC2dAck ack, const char *id, usec_t now) {
        const HubC2dMessage m = { .to = TO, .message_id = id, .ack = ack };
        uint64_t sequence;

        assert_ok(send_message(h, &m, now, &sequence));
        return sequence;
}

static uint64_t pending(Hub *h, const char *device, const char *module) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };

        assert_ok(hub_device_get(h, device, module, &d));
        return d.n_c2d;
}

static void connect_client(Hub *h, const char *client_id, unsigned qos) {
        assert_ok(hub_c2d_connected(h, client_id, /* clean_session= */ false));
        hub_c2d_subscribed(h, client_id, qos);
}

/* Takes the next, which has that body; returns its sequence number. */
static uint64_t take(Hub *h, const char *client_id, const char *body, bool again) {
        HubC2dDelivery d;
        uint64_t sequence;

        ck_assert_int_eq(hub_c2d_take(h, NOW, &d), 1);
        ck_assert_str_eq(d.client_id, client_id);
        ck_assert_uint_eq(d.n, strlen(body));
        ck_assert(d.n == 0 || memcmp(d.body, body, d.n) == 0);
        ck_assert_int_eq(d.again, again);
        sequence = d.sequence;
        hub_c2d_delivery_done(&d);
        return sequence;
}

static void assert_none_due(Hub *h) {
        HubC2dDelivery d;

        ck_assert_int_eq(hub_c2d_take(h, NOW, &d), 0);
}

/* Takes a batch with records of these ids and this status, separated by spaces; returns its lock.
 */
static uint64_t take_feedback(Hub *h, usec_t now, const char *ids, const char *status) {
        _cleanup_json_ struct json_object *list = NULL;
        _cleanup_(hub_feedback_done) HubFeedback f = { 0 };
        _cleanup_free_ char *found = strdup("");
        size_t n;

        ck_assert_int_eq(hub_feedback_take(h, now, &f), 1);
        assert_ok(json_parse(f.body, strlen(f.body), 3, &list));
        ck_assert_uint_eq(json_object_array_length(list), f.n_records);
        for (size_t i = 0; i < f.n_records; i++) {
                struct json_object *o = json_object_array_get_idx(list, i);
                const char *id = "-", *text;
                char *more;

                (void) json_get_string(o, "originalMessageId", &id, &n);
                assert_ok(format_string(&more, "%s%s%s", found, i > 0 ? " " : "", id));
                free(found);
                found = more;
                ck_assert_int_eq(json_get_string(o, "statusCode", &text, &n), 1);
                ck_assert_str_eq(text, status);
                ck_assert_int_eq(json_get_string(o, "description", &text, &n), 1);
                ck_assert_str_eq(text, status);
                ck_assert_int_eq(json_get_string(o, "deviceId", &text, &n), 1);
                ck_assert_str_eq(text, "d1");
                ck_assert_int_eq(json_get_string(o, "deviceGenerationId", &text, &n), 1);
                ck_assert_int_eq(json_get_string(o, "enqueuedTimeUtc", &text, &n), 1);
        }
        ck_assert_str_eq(found, ids);
        return f.lock;
}

static void assert_no_feedback(Hub *h, usec_t now) {
        HubFeedback f;

        ck_assert_int_eq(hub_feedback_take(h, now, &f), 0);
}

TEST(an_address_names_a_device_or_a_module) {
        static const struct {
                const char *to, *device, *module; /* device NULL: it is none */
        } cases[] = {
                { "/devices/d1/messages/devicebound", "d1", NULL },
                { "/Devices/d1/Messages/DEVICEBOUND", "d1", NULL },
                { "devices/d1/messages/deviceBound", "d1", NULL },
                { "amqps://hub.example/devices/d1/messages/deviceBound", "d1", NULL },
                { "AMQPS://hub.example:5671/devices/d1/messages/deviceBound", "d1", NULL },
                { "/devices/D%2b1/messages/devicebound", "D%2b1", NULL },
                { "/devices/d1/modules/m1/messages/devicebound", "d1", "m1" },
                { "/devices/modules/modules/messages/messages/devicebound", "modules", "messages" },
                { "", NULL, NULL },
                { "/", NULL, NULL },
                { "amqps://hub.example", NULL, NULL },
                { "/devices//messages/devicebound", NULL, NULL },
                { "/devices/d1", NULL, NULL },
                { "/devices/d1/messages/devicebound/", NULL, NULL },
                { "/devices/d1/messages/devicebounds", NULL, NULL },
                { "/devices/d1/messages/events", NULL, NULL },
                { "/devices/d1/modules/m1", NULL, NULL },
                { "/devices/d1/modules//messages/devicebound", NULL, NULL },
                { "//devices/d1/messages/devicebound", NULL, NULL },
                { "/devices/d1/x/messages/devicebound", NULL, NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *device = NULL, *module = NULL;
                int r = hub_c2d_parse_to(cases[i].to, &device, &module);

                ck_assert_msg(r == (cases[i].device ? 0 : -EINVAL), "%s: %d", cases[i].to, r);
                ck_assert_msg(streq(strempty(device), strempty(cases[i].device)), "%s",
                              cases[i].to);
                ck_assert_msg(streq(strempty(module), strempty(cases[i].module)), "%s",
                              cases[i].to);
        }
}

TEST(an_id_counts_as_it_stands_before_it_is_decoded) {
        Fixture f;

        fixture_init(&f);
        ck_assert_int_eq(send_text(f.hub, "/devices/a%2541/messages/devicebound", "x"), -ENOENT);
        ck_assert_int_eq(send_text(f.hub, "/devices/a%zz/messages/devicebound", "x"), -ENOENT);
        add_device(f.hub, "a%41", NULL);
        assert_ok(send_text(f.hub, "/devices/a%41/messages/devicebound", "x"));
        assert_ok(send_text(f.hub, "/devices/a%2541/messages/devicebound", "x"));
        ck_assert_uint_eq(pending(f.hub, "a%41", NULL), 2);
        add_device(f.hub, "aA", NULL);
        assert_ok(send_text(f.hub, "/devices/a%41/messages/devicebound", "x"));
        assert_ok(send_text(f.hub, "/devices/%61A/messages/devicebound", "x"));
        ck_assert_uint_eq(pending(f.hub, "a%41", NULL), 3);
        ck_assert_uint_eq(pending(f.hub, "aA", NULL), 1);
        add_device(f.hub, "aA", "m@");
        assert_ok(send_text(f.hub, "/devices/aA/modules/m%40/messages/devicebound", "x"));
        ck_assert_uint_eq(pending(f.hub, "aA", "m@"), 1);
        ck_assert_int_eq(send_text(f.hub, "/devices/aA/modules/n/messages/devicebound", "x"),
                         -ENOENT);
        ck_assert_int_eq(send_text(f.hub, "/devices/d1/messages/events", "x"), -EINVAL);
        ck_assert_int_eq(send_text(f.hub, NULL, "x"), -EINVAL);
        fixture_done(&f);
}

TEST(deliveries_are_in_order_and_once_for_a_connection) {
        uint64_t a, b;
        Fixture f;

        fixture_init(&f);
        assert_ok(send_text(f.hub, TO, "a"));
        assert_none_due(f.hub); /* nobody listens */
        assert_ok(hub_c2d_connected(f.hub, "d1", false));
        assert_none_due(f.hub);
        hub_c2d_subscribed(f.hub, "d1", 1);
        a = take(f.hub, "d1", "a", false);
        assert_none_due(f.hub);
        hub_c2d_subscribed(f.hub, "d1", 1); /* again */
        assert_none_due(f.hub);
        assert_ok(send_text(f.hub, TO, "b"));
        b = take(f.hub, "d1", "b", false);
        ck_assert_uint_gt(b, a);
        assert_ok(hub_c2d_settle(f.hub, a, HUB_C2D_SUCCESS, NOW));
        assert_ok(hub_c2d_settle(f.hub, a, HUB_C2D_SUCCESS, NOW));
        ck_assert_uint_eq(pending(f.hub, "d1", NULL), 1);

        hub_c2d_disconnected(f.hub, "d1");
        assert_ok(send_text(f.hub, TO, "c"));
        assert_none_due(f.hub);
        assert_ok(hub_c2d_connected(f.hub, "d1", false)); /* it need not subscribe */
        ck_assert_uint_eq(take(f.hub, "d1", "b", true), b);
        take(f.hub, "d1", "c", false);
        assert_none_due(f.hub);
        assert_ok(hub_c2d_connected(f.hub, "d1", true)); /* a clean session must */
        assert_none_due(f.hub);
        hub_c2d_subscribed(f.hub, "d1", 1);
        ck_assert_uint_eq(take(f.hub, "d1", "b", false), b);
        hub_c2d_unsubscribed(f.hub, "d1");
        assert_none_due(f.hub);
        fixture_done(&f);
}

TEST(with_qos_0_a_message_ends_when_it_is_taken) {
        Fixture f;

        fixture_init(&f);
        send_acked(f.hub, HUB_C2D_ACK_POSITIVE, "i", NOW);
        connect_client(f.hub, "d1", 0);
        take(f.hub, "d1", "", false);
        ck_assert_uint_eq(pending(f.hub, "d1", NULL), 0);
        take_feedback(f.hub, NOW + HUB_FEEDBACK_GATHER_USEC, "i", "Success");
        fixture_done(&f);
}

TEST(a_repeated_message_comes_once_more) {
        uint64_t a;
        Fixture f;

        fixture_init(&f);
        assert_ok(send_text(f.hub, TO, "a"));
        connect_client(f.hub, "d1", 1);
        a = take(f.hub, "d1", "a", false);
        assert_ok(hub_c2d_repeat(f.hub, a));
        ck_assert_uint_eq(take(f.hub, "d1", "a", true), a);
        assert_none_due(f.hub);
        assert_ok(hub_c2d_repeat(f.hub, a));
        hub_c2d_disconnected(f.hub, "d1");
        assert_none_due(f.hub);
        assert_ok(hub_c2d_repeat(f.hub, a));
        assert_ok(hub_c2d_connected(f.hub, "d1", false)); /* it comes anyway, and once */
        ck_assert_uint_eq(take(f.hub, "d1", "a", true), a);
        assert_none_due(f.hub);
        assert_ok(hub_c2d_settle(f.hub, a, HUB_C2D_SUCCESS, NOW));
        assert_ok(hub_c2d_repeat(f.hub, a));
        assert_none_due(f.hub);
        fixture_done(&f);
}

TEST(a_queue_holds_fifty_and_no_more) {
        HubC2dMessage expired = { .to = TO, .expires_usec = NOW - 1 };
        uint64_t n;
        Fixture f;

        fixture_init(&f);
        add_device(f.hub, "d1", "m");
        add_device(f.hub, "d2", NULL);
        for (unsigned i = 0; i < 3; i++)
                assert_ok(send_message(f.hub, &expired, NOW, NULL)); /* takes no room */
        for (unsigned i = 0; i < HUB_C2D_PENDING_MAX; i++)
                assert_ok(send_text(f.hub, TO, "x"));
        ck_assert_int_eq(send_text(f.hub, TO, "x"), -EDQUOT);
        assert_ok(send_text(f.hub, "/devices/d1/modules/m/messages/devicebound", "x"));
        assert_ok(send_text(f.hub, "/devices/d2/messages/devicebound", "x"));
        assert_ok(hub_c2d_purge(f.hub, "d1", NULL, NOW, &n));
        ck_assert_uint_eq(n, HUB_C2D_PENDING_MAX);
        ck_assert_uint_eq(pending(f.hub, "d1", "m"), 1);
        assert_ok(send_text(f.hub, TO, "x"));
        ck_assert_int_eq(hub_c2d_purge(f.hub, "d9", NULL, NOW, &n), -ENOENT);
        fixture_done(&f);
}

/* The topic of a message, delivered to d1; the caller's. */
static char *topic_of(Hub *h, const HubC2dMessage *m) {
        HubC2dDelivery d;
        char *topic;

        assert_ok(send_message(h, m, NOW, NULL));
        ck_assert_int_eq(hub_c2d_take(h, NOW, &d), 1);
        topic = TAKE_PTR(d.topic);
        assert_ok(hub_c2d_settle(h, d.sequence, HUB_C2D_SUCCESS, NOW));
        hub_c2d_delivery_done(&d);
        return topic;
}

TEST(the_topic_has_all_properties_strictly_encoded) {
        Property properties[] = { { (char *) "a/b", (char *) "c d" }, { (char *) "n", NULL } };
        const PropertyBag bag = { properties, ELEMENTSOF(properties) };
        const HubC2dMessage m = { .to = "amqps://hub.example/devices/d1/messages/deviceBound",
                                  .message_id = "m&1",
                                  .correlation_id = "c=1",
                                  .user_id = "u",
                                  .content_type = "application/json",
                                  .content_encoding = "utf-8",
                                  .ack = HUB_C2D_ACK_FULL,
                                  .expires_usec = NOW + USEC_PER_SEC,
                                  .properties = &bag };
        _cleanup_free_ char *topic = NULL;
        Fixture f;

        fixture_init(&f);
        connect_client(f.hub, "d1", 1);
        topic = topic_of(f.hub, &m);
        ck_assert_str_eq(topic,
                         "devices/d1/messages/devicebound/"
                         "%24.to=amqps%3A%2F%2Fhub.example%2Fdevices%2Fd1%2Fmessages%2FdeviceBound"
                         "&%24.mid=m%261&%24.cid=c%3D1&%24.uid=u&%24.exp=2033-05-18T03%3A33%3A21."
                         "000Z"
                         "&%24.ct=application%2Fjson&%24.ce=utf-8&iothub-ack=full&a%2Fb=c%20d&n");
        fixture_done(&f);
}

TEST(a_message_that_the_hub_does_not_take_is_refused) {
        Property nameless = { (char *) "", (char *) "x" }, odd = { (char *) "a", (char *) "\xff" };
        _cleanup_free_ char *body = malloc(HUB_C2D_BYTES_MAX), *text = malloc(24001),
                            *id = malloc(130);
        Property wide = { (char *) "w", text };
        const PropertyBag bags[] = { { &nameless, 1 }, { &odd, 1 }, { &wide, 1 } };
        HubC2dMessage m = { .to = TO, .body = body, .n = HUB_C2D_BYTES_MAX - strlen(TO) };
        Fixture f;

        fixture_init(&f);
        memset(body, 'x', HUB_C2D_BYTES_MAX);
        memset(id, 'i', 129);
        id[129] = '\0';
        for (size_t i = 0; i < 24000; i++)
                text[i] = i % 2 ? '\xbc' : '\xc3';
        text[24000] = '\0';

        assert_ok(send_message(f.hub, &m, NOW, NULL));
        m.n++;
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EMSGSIZE);
        m = (HubC2dMessage){ .to = TO, .properties = bags };
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EINVAL);
        m.properties = bags + 1;
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EINVAL);
        /* Three bytes for one, once it is encoded. What else is in the topic, and may be before it,
         * takes 114. */
        m.properties = bags + 2;
        text[21808] = '\0';
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EMSGSIZE);
        text[21806] = '\0';
        assert_ok(send_message(f.hub, &m, NOW, NULL));
        m = (HubC2dMessage){ .to = TO, .message_id = id };
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EINVAL);
        id[128] = '\0';
        assert_ok(send_message(f.hub, &m, NOW, NULL));
        m.correlation_id = "\xc3";
        ck_assert_int_eq(send_message(f.hub, &m, NOW, NULL), -EINVAL);
        fixture_done(&f);
}

TEST(a_message_lives_as_long_as_its_sender_says_within_the_limits) {
        static const struct {
                usec_t expires, ends;
        } cases[] = {
                { 0, NOW + USEC_PER_HOUR },
                { NOW + 5, NOW + 5 },
                { NOW + 2 * USEC_PER_DAY, NOW + 2 * USEC_PER_DAY },
                { NOW + 2 * USEC_PER_DAY + 1, NOW + 2 * USEC_PER_DAY },
                { USEC_INFINITY, NOW + 2 * USEC_PER_DAY },
                { 1, NOW }, /* long ago */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const HubC2dMessage m = { .to = TO,
                                          .message_id = "i",
                                          .ack = HUB_C2D_ACK_NEGATIVE,
                                          .expires_usec = cases[i].expires };
                usec_t ends = cases[i].ends;
                Fixture f;

                fixture_init(&f);
                assert_ok(hub_c2d_run_timers(f.hub, NOW));
                assert_ok(send_message(f.hub, &m, NOW, NULL));
                if (ends > NOW) {
                        assert_ok(hub_c2d_run_timers(f.hub, ends - 1));
                        ck_assert_uint_eq(pending(f.hub, "d1", NULL), 1);
                        reopen_hub(&f); /* what happens by time is found again */
                        assert_ok(hub_c2d_run_timers(f.hub, ends - 1));
                }
                assert_ok(hub_c2d_run_timers(f.hub, ends));
                ck_assert_uint_eq(pending(f.hub, "d1", NULL), 0);
                take_feedback(f.hub, ends + HUB_FEEDBACK_GATHER_USEC, "i", "Expired");
                fixture_done(&f);
        }
}

TEST(an_expired_message_is_not_delivered) {
        const HubC2dMessage m = { .to = TO, .ack = HUB_C2D_ACK_FULL, .expires_usec = NOW };
        Fixture f;

        fixture_init(&f);
        assert_ok(send_message(f.hub, &m, NOW - 1, NULL));
        assert_ok(send_text(f.hub, TO, "a"));
        connect_client(f.hub, "d1", 1); /* before the timers had a chance */
        take(f.hub, "d1", "a", false);
        assert_none_due(f.hub);
        take_feedback(f.hub, NOW + HUB_FEEDBACK_GATHER_USEC, "-", "Expired");
        fixture_done(&f);
}

TEST(a_sender_hears_of_the_ends_that_it_asked_for) {
        static const bool heard[_HUB_C2D_ACK_MAX][2] = {
                [HUB_C2D_ACK_POSITIVE] = { true, false },
                [HUB_C2D_ACK_NEGATIVE] = { false, true },
                [HUB_C2D_ACK_FULL] = { true, true },
        };

        for (HubC2dAck ack = 0; ack < _HUB_C2D_ACK_MAX; ack++)
                for (HubC2dEnd end = 0; end < _HUB_C2D_END_MAX; end++) {
                        usec_t later = NOW + HUB_FEEDBACK_GATHER_USEC;
                        Fixture f;

                        ck_assert_int_eq(hub_c2d_ack_from_string(hub_c2d_ack_to_string(ack)), ack);
                        ck_assert_int_eq(hub_c2d_end_from_string(hub_c2d_end_to_string(end)), end);
                        fixture_init(&f);
                        assert_ok(hub_c2d_settle(f.hub, send_acked(f.hub, ack, "i", NOW), end,
                                                 NOW));
                        if (heard[ack][end != HUB_C2D_SUCCESS])
                                take_feedback(f.hub, later, "i", hub_c2d_end_to_string(end));
                        assert_no_feedback(f.hub, later);
                        fixture_done(&f);
                }
        ck_assert_int_lt(hub_c2d_ack_from_string("Full"), 0);
}

TEST(a_deleted_device_takes_its_messages_with_it) {
        uint64_t before, after, etag;
        Fixture f;

        fixture_init(&f);
        add_device(f.hub, "d1", "m");
        add_device(f.hub, "d2", NULL);
        connect_client(f.hub, "d1", 1);
        assert_ok(send_text(f.hub, "/devices/d1/modules/m/messages/devicebound", "x"));
        assert_ok(send_text(f.hub, "/devices/d2/messages/devicebound", "x"));
        before = send_acked(f.hub, HUB_C2D_ACK_FULL, "i", NOW);
        assert_ok(hub_device_delete(f.hub, "d1", NULL, NULL, &etag));
        ck_assert_int_eq(send_text(f.hub, TO, "x"), -ENOENT);
        add_device(f.hub, "d1", NULL);
        add_device(f.hub, "d1", "m");
        ck_assert_uint_eq(pending(f.hub, "d1", NULL) + pending(f.hub, "d1", "m"), 0);
        ck_assert_uint_eq(pending(f.hub, "d2", NULL), 1);
        after = send_acked(f.hub, HUB_C2D_ACK_FULL, "i", NOW);
        ck_assert_uint_gt(after, before);
        /* It has not subscribed yet, also not in a session of the old one. */
        assert_none_due(f.hub);
        assert_ok(hub_c2d_connected(f.hub, "d1", false));
        assert_none_due(f.hub);
        assert_ok(hub_c2d_settle(f.hub, before, HUB_C2D_SUCCESS,
                                 NOW)); /* no message of the new one */
        ck_assert_uint_eq(pending(f.hub, "d1", NULL), 1);
        assert_no_feedback(f.hub, NOW + HUB_FEEDBACK_GATHER_USEC);
        /* Another identity in place of this one keeps them. */
        {
                const HubDevice d = { .id = (char *) "d1", .enabled = false };
                _cleanup_(hub_device_done) HubDevice made = { 0 };

                assert_ok(hub_device_update(f.hub, &d, NULL, &made, &etag));
                ck_assert_uint_eq(made.n_c2d, 1);
        }
        fixture_done(&f);
}

static void settle_new(Hub *h, const char *id, usec_t now) {
        assert_ok(hub_c2d_settle(h, send_acked(h, HUB_C2D_ACK_FULL, id, now), HUB_C2D_SUCCESS,
                                 now));
}

TEST(feedback_gathers_and_is_locked_until_it_is_settled) {
        usec_t due = NOW + HUB_FEEDBACK_GATHER_USEC, over = due + HUB_FEEDBACK_LOCK_USEC;
        uint64_t lock, second;
        Fixture f;

        fixture_init(&f);
        settle_new(f.hub, "a", NOW);
        settle_new(f.hub, "b", NOW + 10);
        assert_no_feedback(f.hub, due - 1);
        lock = take_feedback(f.hub, due, "a b", "Success");
        assert_no_feedback(f.hub, due);
        settle_new(f.hub, "c", due);
        assert_no_feedback(f.hub, due + 1);

        /* Released, it comes again, with what came meanwhile; the old lock opens nothing any more.
         */
        assert_ok(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_RELEASE));
        second = take_feedback(f.hub, due + 1, "a b c", "Success");
        ck_assert_uint_ne(second, lock);
        ck_assert_int_eq(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_ACCEPT), -ENOENT);

        /* So it does when the lock ends, and when the hub starts anew. */
        assert_no_feedback(f.hub, over);
        lock = take_feedback(f.hub, over + 1, "a b c", "Success");
        ck_assert_int_eq(hub_feedback_settle(f.hub, second, HUB_FEEDBACK_RELEASE), -ENOENT);
        reopen_hub(&f);
        lock = take_feedback(f.hub, over + 2, "a b c", "Success");
        assert_ok(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_ACCEPT));
        ck_assert_int_eq(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_ACCEPT), -ENOENT);
        assert_no_feedback(f.hub, over + HUB_FEEDBACK_LOCK_USEC);

        settle_new(f.hub, "d", over);
        lock = take_feedback(f.hub, over + HUB_FEEDBACK_GATHER_USEC, "d", "Success");
        assert_ok(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_REJECT));
        reopen_hub(&f);
        assert_no_feedback(f.hub, over + HUB_FEEDBACK_LOCK_USEC);
        fixture_done(&f);
}

TEST(a_batch_is_full_with_64_records_and_then_due_at_once) {
        _cleanup_(hub_feedback_done) HubFeedback f1 = { 0 }, f2 = { 0 };
        Fixture f;

        fixture_init(&f);
        for (unsigned i = 0; i < HUB_FEEDBACK_RECORDS_MAX + 1; i++) {
                assert_no_feedback(f.hub, NOW);
                settle_new(f.hub, "x", NOW);
                if (i + 1 < HUB_FEEDBACK_RECORDS_MAX)
                        continue;
                if (i + 1 == HUB_FEEDBACK_RECORDS_MAX)
                        ck_assert_int_eq(hub_feedback_take(f.hub, NOW, &f1), 1);
        }
        ck_assert_uint_eq(f1.n_records, HUB_FEEDBACK_RECORDS_MAX);
        assert_no_feedback(f.hub, NOW);
        ck_assert_int_eq(hub_feedback_take(f.hub, NOW + HUB_FEEDBACK_GATHER_USEC, &f2), 1);
        ck_assert_uint_eq(f2.n_records, 1);
        fixture_done(&f);
}

TEST(feedback_that_nobody_reads_is_dropped_after_an_hour) {
        Fixture f;

        fixture_init(&f);
        settle_new(f.hub, "a", NOW);
        settle_new(f.hub, "b", NOW + USEC_PER_SEC);
        take_feedback(f.hub, NOW + 2 * USEC_PER_SEC, "a b", "Success");
        assert_ok(hub_c2d_run_timers(f.hub, NOW + HUB_FEEDBACK_LIFE_USEC + 1));
        take_feedback(f.hub, NOW + HUB_FEEDBACK_LIFE_USEC + 1, "b", "Success");
        assert_no_feedback(f.hub, NOW + 2 * HUB_FEEDBACK_LIFE_USEC);
        /* A clock that went back by more than that holds nothing up. */
        settle_new(f.hub, "c", NOW);
        take_feedback(f.hub, NOW - USEC_PER_HOUR, "c", "Success");
        fixture_done(&f);
}

static bool was_notified(int fd) {
        uint64_t n;

        return read(fd, &n, sizeof(n)) == sizeof(n);
}

TEST(the_reader_is_told_when_feedback_is_due) {
        usec_t due = NOW + HUB_FEEDBACK_GATHER_USEC;
        _cleanup_close_ int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        uint64_t lock;
        Fixture f;

        fixture_init(&f);
        assert_ok(hub_c2d_run_timers(f.hub, NOW));
        hub_feedback_notify(f.hub, fd);
        assert_ok(hub_c2d_run_timers(f.hub, NOW));
        ck_assert(!was_notified(fd));
        settle_new(f.hub, "a", NOW);
        assert_ok(hub_c2d_run_timers(f.hub, due - 1));
        ck_assert(!was_notified(fd));
        assert_ok(hub_c2d_run_timers(f.hub, due));
        ck_assert(was_notified(fd));
        lock = take_feedback(f.hub, due, "a", "Success");
        assert_ok(hub_c2d_run_timers(f.hub, due));
        ck_assert(!was_notified(fd));
        assert_ok(hub_feedback_settle(f.hub, lock, HUB_FEEDBACK_RELEASE));
        assert_ok(hub_c2d_run_timers(f.hub, due));
        ck_assert(was_notified(fd));
        take_feedback(f.hub, due, "a", "Success");
        assert_ok(hub_c2d_run_timers(f.hub, due + HUB_FEEDBACK_LOCK_USEC - 1));
        ck_assert(!was_notified(fd));
        assert_ok(hub_c2d_run_timers(f.hub, due + HUB_FEEDBACK_LOCK_USEC));
        ck_assert(was_notified(fd));
        for (unsigned i = 0; i < HUB_FEEDBACK_RECORDS_MAX; i++)
                settle_new(f.hub, "x", due + HUB_FEEDBACK_LOCK_USEC);
        assert_ok(hub_c2d_run_timers(f.hub, due + HUB_FEEDBACK_LOCK_USEC));
        ck_assert(was_notified(fd));
        /* A reader that comes later is told of what is due already. */
        hub_feedback_notify(f.hub, -1);
        hub_feedback_notify(f.hub, fd);
        assert_ok(hub_c2d_run_timers(f.hub, due + HUB_FEEDBACK_LOCK_USEC));
        ck_assert(was_notified(fd));
        fixture_done(&f);
}

/* Sends, settles every third, and tells the sequence number of each that was accepted, and was
 * settled. */
static void send_until_killed(const char *path, int fd) __attribute__((noreturn));
static void send_until_killed(const char *path, int fd) {
        Fixture f = { .path = (char *) path };

        open_hub(&f);
        for (unsigned i = 0;; i++) {
                uint64_t sequence = send_acked(f.hub, HUB_C2D_ACK_FULL, "i", NOW), n;

                if (i % 3 == 0)
                        assert_ok(hub_c2d_settle(f.hub, sequence, HUB_C2D_SUCCESS, NOW));
                n = sequence << 1 | (i % 3 == 0);
                if (write(fd, &n, sizeof(n)) != sizeof(n))
                        _exit(1);
                if (pending(f.hub, "d1", NULL) > 40)
                        assert_ok(hub_c2d_purge(f.hub, "d1", NULL, NOW, &n));
        }
}

static bool is_purged(uint64_t sequence, uint64_t oldest) {
        return sequence < oldest;
}

TEST(what_was_accepted_outlives_a_kill) {
        Fixture f;

        fixture_init(&f);
        for (unsigned round = 0; round < 20; round++) {
                uint64_t told[4096], oldest = UINT64_MAX;
                size_t n_told = 0;
                HubC2dDelivery d;
                bool *seen;
                int fds[2];
                ssize_t k;
                pid_t pid;

                hub_free(f.hub);
                ck_assert_int_eq(pipe(fds), 0);
                pid = fork();
                ck_assert_int_ge(pid, 0);
                if (pid == 0)
                        send_until_killed(f.path, fds[1]);
                (void) close(fds[1]);
                while (n_told < round * 7 + 1 && read(fds[0], told + n_told, 8) == 8)
                        n_told++;
                ck_assert_int_eq(kill(pid, SIGKILL), 0);
                ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
                while ((k = read(fds[0], told + n_told, 8)) == 8 && n_told + 1 < ELEMENTSOF(told))
                        n_told++;
                (void) close(fds[0]);

                open_hub(&f);
                connect_client(f.hub, "d1", 1);
                seen = calloc(n_told, sizeof(*seen));
                while (hub_c2d_take(f.hub, NOW, &d) == 1) {
                        oldest = MIN(oldest, d.sequence);
                        for (size_t i = 0; i < n_told; i++)
                                if (told[i] >> 1 == d.sequence) {
                                        ck_assert_msg(!(told[i] & 1), "settled, and here again");
                                        seen[i] = true;
                                }
                        hub_c2d_delivery_done(&d);
                }
                for (size_t i = 0; i < n_told; i++)
                        ck_assert_msg(seen[i] || told[i] & 1 || is_purged(told[i] >> 1, oldest),
                                      "%" PRIu64 " is lost", told[i] >> 1);
                free(seen);
                hub_c2d_disconnected(f.hub, "d1");
        }
        fixture_done(&f);
}

#define STRESS_MESSAGES 300U

typedef struct Stress {
        Hub *hub;
        int notify_fd;
        atomic_bool broker_stops;
        unsigned n_records; /* the reader's */
} Stress;

static void *play_broker(void *userdata) {
        Stress *s = userdata;
        HubC2dDelivery d;

        for (unsigned i = 0; !atomic_load(&s->broker_stops); i++) {
                usec_t now = now_usec(CLOCK_REALTIME);

                if (i % 16 == 0)
                        connect_client(s->hub, "d1", 1);
                while (hub_c2d_take(s->hub, now, &d) == 1) {
                        if (d.sequence % 5 != i % 5) /* the others come again */
                                assert_ok(hub_c2d_settle(s->hub, d.sequence, HUB_C2D_SUCCESS, now));
                        hub_c2d_delivery_done(&d);
                }
                assert_ok(hub_c2d_run_timers(s->hub, now));
        }
        return NULL;
}

static void *play_reader(void *userdata) {
        Stress *s = userdata;

        while (s->n_records < STRESS_MESSAGES) {
                struct pollfd p = { .fd = s->notify_fd, .events = POLLIN };
                HubFeedback f;

                ck_assert_int_eq(poll(&p, 1, -1), 1);
                (void) was_notified(s->notify_fd);
                while (hub_feedback_take(s->hub, now_usec(CLOCK_REALTIME), &f) == 1) {
                        bool release = f.lock % 3 == 0;

                        assert_ok(hub_feedback_settle(s->hub, f.lock,
                                                      release ? HUB_FEEDBACK_RELEASE :
                                                                HUB_FEEDBACK_ACCEPT));
                        s->n_records += release ? 0 : (unsigned) f.n_records;
                        hub_feedback_done(&f);
                }
        }
        return NULL;
}

TEST(each_message_ends_once_with_service_broker_and_reader_at_once) {
        Stress s = { .notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
        pthread_t broker, reader;
        Fixture f;

        fixture_init(&f);
        s.hub = f.hub;
        hub_feedback_notify(f.hub, s.notify_fd);
        ck_assert_int_eq(pthread_create(&broker, NULL, play_broker, &s), 0);
        ck_assert_int_eq(pthread_create(&reader, NULL, play_reader, &s), 0);
        for (unsigned i = 0; i < STRESS_MESSAGES;) {
                const HubC2dMessage m = { .to = TO, .message_id = "i", .ack = HUB_C2D_ACK_FULL };
                int r = send_message(f.hub, &m, now_usec(CLOCK_REALTIME), NULL);

                ck_assert(r == 0 || r == -EDQUOT);
                i += r == 0;
        }
        ck_assert_int_eq(pthread_join(reader, NULL), 0);
        atomic_store(&s.broker_stops, true);
        ck_assert_int_eq(pthread_join(broker, NULL), 0);
        ck_assert_uint_eq(s.n_records, STRESS_MESSAGES);
        ck_assert_uint_eq(pending(f.hub, "d1", NULL), 0);
        assert_no_feedback(f.hub, now_usec(CLOCK_REALTIME) + HUB_FEEDBACK_LOCK_USEC);
        hub_feedback_notify(f.hub, -1);
        (void) close(s.notify_fd);
        fixture_done(&f);
}
