/* Goal: a message of a device's queue reaches it with the topic, the QoS and a packet id as they
 * should be, however the bytes come, and each PUBACK names the one message that it is for. Method:
 * packets as the broker sends them, among others, fed to the filter in pieces of every size; what
 * comes out is compared with packets built by hand. */

#include "tests/support/test.h"

#include "emulator/mqtt-filter.h"
#include "emulator/mqtt-route.h"
#include "lib/buffer.h"

#define WINDOW (128U * 1024U) /* as the front's */

typedef struct Fixture {
        Troubles troubles;
        HubCounters *counters;
        MqttFilter filter;
        char told[4096]; /* "SEQUENCE:WHAT " for each that was acknowledged */
} Fixture;

static void on_acknowledged(uint64_t sequence, TroubleC2d what, void *userdata) {
        Fixture *f = userdata;
        size_t n = strlen(f->told);

        (void) snprintf(f->told + n, sizeof(f->told) - n, "%" PRIu64 ":%d ", sequence, (int) what);
}

static void fixture_init(Fixture *f) {
        *f = (Fixture){ .counters = hub_counters_new() };
        ck_assert_ptr_nonnull(f->counters);
        f->filter = (MqttFilter){ .troubles = &f->troubles,
                                  .counters = f->counters,
                                  .client_id = "d1",
                                  .on_acknowledged = on_acknowledged,
                                  .userdata = f };
}

static void fixture_done(Fixture *f) {
        mqtt_filter_done(&f->filter);
        troubles_done(&f->troubles);
        hub_counters_free(f->counters);
}

static uint64_t count(const Fixture *f, HubCounter c) {
        return hub_counters_get(f->counters, "d1").of[c];
}

/* packet_id 0: none. */
static void add_publish(Buffer *b, uint8_t head, const char *topic, uint16_t packet_id,
                        size_t body) {
        const uint8_t id[] = { (uint8_t) (packet_id >> 8), (uint8_t) packet_id };
        const uint8_t size[] = { (uint8_t) (strlen(topic) >> 8), (uint8_t) strlen(topic) };
        size_t left = 2 + strlen(topic) + (packet_id > 0 ? 2 : 0) + body;
        _cleanup_free_ char *zeros = NULL;

        assert_ok(buffer_append(b, &head, 1));
        do {
                uint8_t digit = left & 127;

                left >>= 7;
                digit |= left ? 128 : 0;
                assert_ok(buffer_append(b, &digit, 1));
        } while (left);
        assert_ok(buffer_append(b, size, 2));
        assert_ok(buffer_append_string(b, topic));
        if (packet_id > 0)
                assert_ok(buffer_append(b, id, 2));
        zeros = malloc(body + 1);
        ck_assert_ptr_nonnull(zeros);
        memset(zeros, '0', body); /* each the head of a PUBLISH, were it one */
        assert_ok(buffer_append(b, zeros, body));
}

static void add_route(Buffer *b, const MqttRoute *r, const char *topic, size_t body) {
        _cleanup_free_ char *text = NULL;

        assert_ok(mqtt_route_format(r, topic, &text));
        ck_assert_uint_le(strlen(text) - strlen(topic), MQTT_ROUTE_BYTES_MAX);
        add_publish(b, 0x30, text, 0, body);
}

/* As the front does it. */
static void feed_down(Fixture *f, const Buffer *in, size_t piece, Buffer *out) {
        _cleanup_free_ uint8_t *window = malloc(WINDOW);
        size_t have = 0;

        for (size_t at = 0; at < in->size;) {
                size_t n = MIN(piece, in->size - at), pass;
                const char *cause;

                n = MIN(n, WINDOW - have);
                ck_assert_uint_gt(n, 0);
                memcpy(window + have, in->data + at, n);
                at += n;
                have += n;
                assert_ok(mqtt_filter_down(&f->filter, window, &have, 0, &pass, &cause));
                ck_assert_uint_le(pass, have);
                assert_ok(buffer_append(out, window, pass));
                have -= pass;
                memmove(window, window + pass, have);
        }
        ck_assert_uint_eq(have, 0);
}

static void feed_puback(Fixture *f, uint16_t packet_id, size_t piece) {
        const uint8_t packet[] = { 0x40, 2, (uint8_t) (packet_id >> 8), (uint8_t) packet_id };
        size_t from = 0;

        for (size_t to = 0; to < sizeof(packet);) {
                const char *cause;
                size_t pass;

                to = MIN(to + piece, sizeof(packet));
                assert_ok(mqtt_filter_up(&f->filter, packet + from, to - from, &pass, &cause));
                from += pass;
        }
        ck_assert_uint_eq(from, sizeof(packet)); /* the broker gets it too, and passes over it */
}

static const size_t pieces[] = { 1, 2, 3, 4, 5, 7, 64, 127, 128, 199, 4096, WINDOW };

#define TOPIC "devices/d1/messages/devicebound/"

TEST(a_routed_packet_becomes_what_the_device_should_get) {
        static const MqttRoute routes[] = {
                { .sequence = 1, .qos = 1 },
                { .sequence = UINT64_MAX, .qos = 1, .again = true },
                { .sequence = 65535, .qos = 1, .repeated = true },
                { .sequence = 65536, .qos = 1 },
                { .sequence = 5, .qos = 0, .again = true }, /* no DUP without an acknowledgement */
        };
        static const struct {
                uint8_t head;
                uint16_t packet_id;
        } wanted[] = { { 0x32, 1 }, { 0x3a, 65535 }, { 0x32, 2 }, { 0x32, 3 }, { 0x30, 0 } };
        _cleanup_free_ char *longest = malloc(65536 - MQTT_ROUTE_BYTES_MAX);
        const char *const topics[] = { TOPIC "%24.mid=m", TOPIC, longest };
        static const size_t bodies[] = { 0, 1, 100, 16384, 65536 };

        memset(longest, 'x', 65535 - MQTT_ROUTE_BYTES_MAX);
        longest[65535 - MQTT_ROUTE_BYTES_MAX] = '\0';
        for (size_t p = 0; p < ELEMENTSOF(pieces); p++)
                for (size_t t = 0; t < ELEMENTSOF(topics); t++)
                        for (size_t b = 0; b < ELEMENTSOF(bodies); b++) {
                                _cleanup_(buffer_done) Buffer in = { 0 }, want = { 0 }, out = { 0 };
                                _cleanup_(fixture_done) Fixture f = { 0 };

                                if (pieces[p] < 64 && (t == 2 || bodies[b] > 16384))
                                        continue; /* the same, and slow */
                                fixture_init(&f);
                                for (size_t i = 0; i < ELEMENTSOF(routes); i++) {
                                        add_route(&in, routes + i, topics[t], bodies[b]);
                                        add_publish(&want, wanted[i].head, topics[t],
                                                    wanted[i].packet_id, bodies[b]);
                                        add_publish(&in, 0x30, "$iothub/methods/POST/m/?$rid=1", 0,
                                                    3);
                                        add_publish(&want, 0x30, "$iothub/methods/POST/m/?$rid=1",
                                                    0, 3);
                                }
                                feed_down(&f, &in, pieces[p], &out);
                                ck_assert_uint_eq(out.size, want.size);
                                ck_assert_mem_eq(out.data, want.data, want.size);
                                ck_assert_uint_eq(count(&f, HUB_COUNTER_C2D_SENT), 5);
                                ck_assert_uint_eq(count(&f, HUB_COUNTER_C2D_COMPLETED), 1);
                        }
}

TEST(what_has_no_route_passes_as_it_is) {
        static const char *const topics[] = { "",           "c",
                                              "c2d",        "c2d/",
                                              "c2d//1/t",   "c2d/1",
                                              "c2d/1/",     "c2d/1/1",
                                              "c2d/x/1/",   "c2d/1/8/t",
                                              "c2d/1/1t",   "C2D/1/1/t",
                                              "c2d/-1/1/t", "devices/c2d/1/1/t" };

        for (size_t p = 0; p < ELEMENTSOF(pieces); p++) {
                _cleanup_(buffer_done) Buffer in = { 0 }, out = { 0 };
                _cleanup_(fixture_done) Fixture f = { 0 };
                const uint8_t empty[] = { 0x30, 0, 0x30, 1, 9 };

                fixture_init(&f);
                for (size_t i = 0; i < ELEMENTSOF(topics); i++)
                        add_publish(&in, 0x30, topics[i], 0, i * 10);
                assert_ok(buffer_append(&in, empty, sizeof(empty)));
                feed_down(&f, &in, pieces[p], &out);
                ck_assert_uint_eq(out.size, in.size);
                ck_assert_mem_eq(out.data, in.data, in.size);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_C2D_SENT), 0);
        }
}

static void deliver(Fixture *f, uint64_t sequence, bool repeated) {
        _cleanup_(buffer_done) Buffer in = { 0 }, out = { 0 };

        add_route(&in, &(MqttRoute){ .sequence = sequence, .qos = 1, .repeated = repeated }, TOPIC,
                  1);
        feed_down(f, &in, 16, &out);
}

TEST(a_puback_names_its_message_once) {
        for (size_t p = 1; p <= 4; p++) {
                _cleanup_(fixture_done) Fixture f = { 0 };

                fixture_init(&f);
                feed_puback(&f, 1, p);
                deliver(&f, 1, false);
                deliver(&f, 65536, false); /* the same packet id is taken: it gets the next */
                deliver(&f, 2, false);     /* and so on */
                deliver(&f, 65535, false);
                deliver(&f, 65535 * 2, false); /* around */
                feed_puback(&f, 7, p);
                feed_puback(&f, 0, p);
                ck_assert_str_eq(f.told, "");
                feed_puback(&f, 2, p);
                feed_puback(&f, 2, p);
                feed_puback(&f, 1, p);
                feed_puback(&f, 3, p);
                feed_puback(&f, 65535, p);
                feed_puback(&f, 4, p);
                ck_assert_str_eq(f.told, "65536:0 1:0 2:0 65535:0 131070:0 ");
                ck_assert_uint_eq(count(&f, HUB_COUNTER_C2D_COMPLETED), 5);
        }
}

static void set(Fixture *f, TroubleKind kind, uint64_t n) {
        const char *field;

        assert_ok(troubles_set(&f->troubles,
                               &(Trouble){ .kind = kind, .count = n, .ends_usec = USEC_INFINITY },
                               &field));
}

TEST(trouble_decides_what_comes_of_a_puback) {
        _cleanup_(fixture_done) Fixture f = { 0 };

        fixture_init(&f);
        for (uint64_t i = 1; i <= 9; i++)
                deliver(&f, i, /* repeated= */ i == 8);
        set(&f, TROUBLE_C2D_EXCEED, 1);
        set(&f, TROUBLE_C2D_REJECT, 2);
        set(&f, TROUBLE_C2D_DUPLICATE, 2);
        set(&f, TROUBLE_C2D_DROP, 1);
        feed_puback(&f, 1, 4);
        ck_assert_str_eq(f.told, "");
        feed_puback(&f, 2, 4);
        feed_puback(&f, 8, 4); /* was repeated already, so the next trouble is its */
        feed_puback(&f, 3, 4);
        feed_puback(&f, 4, 4);
        feed_puback(&f, 5, 4);
        feed_puback(&f, 6, 4);
        ck_assert_uint_eq(f.troubles.n, 0);
        ck_assert_str_eq(f.told, "2:2 8:3 3:2 4:3 5:4 6:0 ");
        ck_assert_uint_eq(count(&f, HUB_COUNTER_C2D_COMPLETED), 4);
}

TEST(many_may_be_on_their_way) {
        _cleanup_(fixture_done) Fixture f = { 0 };

        fixture_init(&f);
        for (uint64_t i = 1; i <= 1000; i++)
                deliver(&f, i, false);
        for (uint64_t i = 1000; i > 0; i--) {
                f.told[0] = '\0';
                feed_puback(&f, (uint16_t) i, 4);
                ck_assert_uint_eq(strtoull(f.told, NULL, 10), i);
        }
}
