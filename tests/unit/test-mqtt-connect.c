/* Goal: whatever a client sends first, the broker gets a CONNECT with the front's prefix or nothing
 * at all. Method: a packet for each mix of flags and versions, compared field by field; each cut at
 * every byte; bytes flipped. */

#include "tests/support/test.h"

#include "emulator/mqtt-connect.h"

#define PREFIX "SECRET - - "

static void add_text(Buffer *b, const char *s, size_t n) {
        assert_ok(buffer_append(b, (uint8_t[]) { (uint8_t) (n >> 8), (uint8_t) n }, 2));
        assert_ok(buffer_append(b, s, n));
}

/* The fields of a CONNECT in plain form; the packet is built the way the specification says it. */
static void build(uint8_t level, uint8_t flags, const char *user, size_t user_size, Buffer *out) {
        _cleanup_(buffer_done) Buffer body = { 0 };
        size_t n;

        add_text(&body, "MQTT", 4);
        assert_ok(buffer_append(&body, (uint8_t[]) { level, flags, 0x01, 0x2c }, 4));
        if (level == 5)
                assert_ok(buffer_append(&body, "\3\x21\0\x14",
                                        4)); /* properties: a receive maximum */
        add_text(&body, "windmill", 8);
        if (flags & 0x04) {
                if (level == 5)
                        assert_ok(buffer_append(&body, "\0", 1));
                add_text(&body, "will/topic", 10);
                add_text(&body, "gone\0with", 9);
        }
        if (flags & 0x80)
                add_text(&body, user, user_size);
        if (flags & 0x40)
                add_text(&body, "password", 8);

        n = body.size;
        assert_ok(buffer_append(out, "\x10", 1));
        do {
                uint8_t byte = (uint8_t) ((n & 0x7f) | (n > 0x7f ? 0x80 : 0));

                assert_ok(buffer_append(out, &byte, 1));
                n >>= 7;
        } while (n > 0);
        assert_ok(buffer_append(out, body.data, body.size));
}

static const uint8_t all_flags[] = { 0x00, 0x02, 0x80, 0xc0, 0xc2, 0x04, 0x84, 0xee };
static const uint8_t all_levels[] = { 3, 4, 5 };

TEST(every_mix_of_flags_gets_the_prefix_and_keeps_the_rest) {
        for (size_t l = 0; l < ELEMENTSOF(all_levels); l++)
                for (size_t i = 0; i < ELEMENTSOF(all_flags); i++) {
                        _cleanup_(buffer_done) Buffer in = { 0 }, want = { 0 }, out = { 0 };
                        uint8_t flags = all_flags[i];
                        MqttConnect connect;

                        build(all_levels[l], flags, "host/windmill/?x", 16, &in);
                        if (flags & 0x80)
                                build(all_levels[l], flags, PREFIX "host/windmill/?x",
                                      16 + strlen(PREFIX), &want);
                        else
                                build(all_levels[l], flags | 0x80, PREFIX, strlen(PREFIX), &want);
                        assert_ok(buffer_append(&in, "more",
                                                4)); /* a client may go on before the CONNACK */

                        ck_assert_int_eq(mqtt_connect_prefix_user(in.data, in.size, PREFIX, &out,
                                                                  &connect),
                                         1);
                        ck_assert_uint_eq(connect.taken, in.size - 4);
                        ck_assert_uint_eq(out.size, want.size);
                        ck_assert_mem_eq(out.data, want.data, want.size);
                }
}

TEST(a_packet_that_is_not_whole_waits_for_the_rest) {
        _cleanup_(buffer_done) Buffer in = { 0 };
        char user[200];

        memset(user, 'u', sizeof(user)); /* so that the length takes two bytes */
        build(4, 0xee, user, sizeof(user), &in);
        for (size_t n = 0; n < in.size; n++) {
                _cleanup_(buffer_done) Buffer out = { 0 };
                MqttConnect connect;

                ck_assert_int_eq(mqtt_connect_prefix_user(in.data, n, PREFIX, &out, &connect), 0);
                ck_assert_uint_eq(out.size, 0);
        }
}

TEST(fields_that_overrun_the_packet_are_refused) {
        _cleanup_(buffer_done) Buffer in = { 0 };

        build(4, 0xee, "user", 4, &in);
        /* The packet claims to be shorter than its fields, by each possible count. */
        for (size_t n = 1; n < in.size - 2; n++) {
                _cleanup_(buffer_done) Buffer out = { 0 };
                MqttConnect connect;

                in.data[1] = (uint8_t) (in.size - 2 - n);
                /* The password is passed on unread, so only a loss that reaches the user name is
                 * seen here; the broker checks the rest. */
                ck_assert_int_eq(mqtt_connect_prefix_user(in.data, in.size - n, PREFIX, &out,
                                                          &connect),
                                 n <= 10 ? 1 : -EBADMSG);
        }
}

TEST(what_is_no_connect_is_refused) {
        static const struct {
                const char *bytes;
                size_t n;
                int result;
        } cases[] = {
                { "\x30\x00", 2, -EBADMSG }, /* PUBLISH */
                { "GET / HTTP/1.1\r\n", 16, -EBADMSG },
                { "\x11\x00", 2, -EBADMSG },                 /* reserved bits */
                { "\x10\x00", 2, -EBADMSG },                 /* empty */
                { "\x10\xff\xff\xff\xff\x01", 6, -EBADMSG }, /* a length of five bytes */
                { "\x10\xff\xff\xff\x7f", 5, -EMSGSIZE },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(buffer_done) Buffer out = { 0 };
                MqttConnect connect;

                assert_error(mqtt_connect_prefix_user((const uint8_t *) cases[i].bytes, cases[i].n,
                                                      PREFIX, &out, &connect),
                             cases[i].result);
        }
}

TEST(a_user_name_that_has_no_room_for_the_prefix_is_refused) {
        static char user[65535];

        memset(user, 'u', sizeof(user));
        for (size_t over = 0; over <= 1; over++) {
                _cleanup_(buffer_done) Buffer in = { 0 }, out = { 0 };
                MqttConnect connect;

                build(4, 0xc0, user, sizeof(user) - strlen(PREFIX) + over, &in);
                ck_assert_int_eq(mqtt_connect_prefix_user(in.data, in.size, PREFIX, &out, &connect),
                                 over ? -EMSGSIZE : 1);
        }
}

TEST(flipped_bits_never_read_past_the_packet) {
        _cleanup_(buffer_done) Buffer in = { 0 };

        build(5, 0xee, "host/windmill/?x", 16, &in);
        for (size_t i = 0; i < in.size * 8; i++) {
                _cleanup_(buffer_done) Buffer out = { 0 };
                _cleanup_free_ uint8_t *exact = malloc(
                                in.size); /* a reader that goes too far meets the sanitizer */
                MqttConnect connect;
                int r;

                memcpy(exact, in.data, in.size);
                exact[i / 8] ^= (uint8_t) (1 << (i % 8));
                r = mqtt_connect_prefix_user(exact, in.size, PREFIX, &out, &connect);
                ck_assert(r == 0 || r == 1 || r == -EBADMSG || r == -EMSGSIZE);
                if (r == 1)
                        ck_assert_uint_le(connect.taken, in.size);
        }
}
