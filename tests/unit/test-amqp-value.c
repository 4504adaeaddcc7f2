#include "lib/amqp-value.h"

#include "tests/support/test.h"

static AmqpValue read_one(const char *bytes, size_t n) {
        AmqpReader r;
        AmqpValue v = {};

        amqp_reader_init(&r, bytes, n);
        ck_assert_int_eq(amqp_read(&r, &v), 1);
        ck_assert_int_eq(amqp_read(&r, &(AmqpValue){}), 0);
        return v;
}
#define READ(literal) read_one(literal, sizeof(literal) - 1)

static int64_t integer(AmqpValue v) {
        int64_t i = 4711;

        ck_assert(amqp_value_integer(&v, &i));
        return i;
}

/* Goal: every width of every number. The bytes are those of part 1, section 1.6 of the standard. */
TEST(numbers_of_every_width) {
        ck_assert_int_eq(integer(READ("\x43")), 0);
        ck_assert_int_eq(integer(READ("\x52\x07")), 7);
        ck_assert_int_eq(integer(READ("\x70\xff\xff\xff\xfe")), 0xfffffffe);
        ck_assert_int_eq(integer(READ("\x44")), 0);
        ck_assert_int_eq(integer(READ("\x53\xff")), 255);
        ck_assert_int_eq(integer(READ("\x50\x80")), 128);
        ck_assert_int_eq(integer(READ("\x60\x01\x00")), 256);
        ck_assert_int_eq(integer(READ("\x51\x80")), -128);
        ck_assert_int_eq(integer(READ("\x61\xff\xfe")), -2);
        ck_assert_int_eq(integer(READ("\x54\xff")), -1);
        ck_assert_int_eq(integer(READ("\x71\x80\x00\x00\x00")), INT32_MIN);
        ck_assert_int_eq(integer(READ("\x55\x7f")), 127);
        ck_assert_int_eq(integer(READ("\x81\xff\xff\xff\xff\xff\xff\xff\xfe")), -2);
        ck_assert_int_eq(integer(READ("\x83\x00\x00\x01\x68\x68\x00\x00\x00")), 0x016868000000);
        ck_assert_int_eq(READ("\x82\x3f\xf8\x00\x00\x00\x00\x00\x00").real == 1.5, 1);
        ck_assert_int_eq(READ("\x72\x3f\xc0\x00\x00").real == 1.5, 1);
        ck_assert_int_eq(READ("\x41").integer, 1);
        ck_assert_int_eq(READ("\x56\x00").integer, 0);
        ck_assert_int_eq(READ("\x40").type, AMQP_NULL);
}

TEST(a_number_that_does_not_fit_is_none) {
        AmqpValue v = READ("\x80\xff\xff\xff\xff\xff\xff\xff\xff");
        int64_t i;

        ck_assert_int_eq(v.type, AMQP_UNSIGNED);
        ck_assert(!amqp_value_integer(&v, &i));
}

TEST(texts_short_and_long) {
        AmqpBytes b;
        AmqpValue v = READ("\xa1\x02hi");

        ck_assert(amqp_value_text(&v, &b) && amqp_bytes_equal(b, "hi"));
        v = READ("\xb3\x00\x00\x00\x03"
                 "abc");
        ck_assert(v.type == AMQP_SYMBOL && amqp_value_text(&v, &b) && amqp_bytes_equal(b, "abc"));
        v = READ("\xa0\x00");
        ck_assert(v.type == AMQP_BINARY && amqp_value_text(&v, &b) && amqp_bytes_equal(b, ""));
}

TEST(a_map_gives_the_value_of_a_name) {
        AmqpValue map = READ("\xc1\x0c\x04\xa3\x01"
                             "a\x54\x05\xa1\x01"
                             "b\xa1\x01"
                             "x"),
                  v;

        ck_assert_int_eq(amqp_map_get(&map, "a", &v), 1);
        ck_assert_int_eq(integer(v), 5);
        ck_assert_int_eq(amqp_map_get(&map, "b", &v), 1);
        ck_assert(amqp_bytes_equal(v.bytes, "x"));
        ck_assert_int_eq(amqp_map_get(&map, "c", &v), 0);
        map = READ("\x45");
        ck_assert_int_eq(amqp_map_get(&map, "a", &v), 0);
}

TEST(an_array_gives_its_items) {
        AmqpValue array = READ("\xe0\x06\x02\xa1\x01"
                               "0\x01"
                               "1"),
                  v;

        ck_assert_int_eq(array.type, AMQP_ARRAY);
        ck_assert_int_eq(amqp_read(&array.items, &v), 1);
        ck_assert(amqp_bytes_equal(v.bytes, "0"));
        ck_assert_int_eq(amqp_read(&array.items, &v), 1);
        ck_assert(amqp_bytes_equal(v.bytes, "1"));
        ck_assert_int_eq(amqp_read(&array.items, &v), 0);
}

/* properties: message-id "m", correlation-id "c"; application properties {"p":"v"}; data "xy" */
static const char whole[] = "\x00\x53\x70\xc0\x02\x01\x41"
                            "\x00\x53\x72\xc1\x07\x02\xa3\x02kk\x54\x09"
                            "\x00\x53\x73\xc0\x0b\x06\xa1\x01m\x40\x40\x40\x40\xa1\x01"
                            "c"
                            "\x00\x53\x74\xc1\x07\x02\xa1\x01p\xa1\x01v"
                            "\x00\x53\x75\xa0\x02xy";

TEST(a_message_is_taken_apart) {
        AmqpMessage m;
        AmqpValue v;

        assert_ok(amqp_message_read(whole, sizeof(whole) - 1, &m));
        ck_assert_int_eq(amqp_map_get(&m.annotations, "kk", &v), 1);
        ck_assert_int_eq(integer(v), 9);
        ck_assert(amqp_bytes_equal(m.message_id.bytes, "m"));
        ck_assert(amqp_bytes_equal(m.correlation_id.bytes, "c"));
        ck_assert_int_eq(m.content_type.type, AMQP_NULL);
        ck_assert_int_eq(amqp_map_get(&m.application_properties, "p", &v), 1);
        ck_assert(m.body_is_data && !m.more_data);
        ck_assert(amqp_bytes_equal(m.body.bytes, "xy"));
}

static void walk(const AmqpValue *v, unsigned depth) {
        AmqpReader r = v->items;
        AmqpValue item;

        if ((v->type != AMQP_LIST && v->type != AMQP_MAP && v->type != AMQP_ARRAY) || depth > 4)
                return;
        while (amqp_read(&r, &item) > 0)
                walk(&item, depth + 1);
}

/* Goal: nothing is read past the end, whatever the bytes. Method: every prefix, and every byte changed to every
 * value, in memory of just that size, so that a checker sees it. */
TEST(no_damage_is_read_past_its_end) {
        const size_t size = sizeof(whole) - 1;

        for (size_t n = 0; n <= size; n++)
                for (size_t at = 0; at < MAX(n, (size_t) 1); at++)
                        for (unsigned value = 0; value < 256; value++) {
                                _cleanup_free_ uint8_t *copy = malloc(MAX(n, (size_t) 1));
                                AmqpMessage m = {};

                                ck_assert_ptr_nonnull(copy);
                                memcpy(copy, whole, n);
                                if (n > 0)
                                        copy[at] = (uint8_t) value;
                                if (amqp_message_read(copy, n, &m) < 0)
                                        continue;
                                walk(&m.annotations, 0);
                                walk(&m.application_properties, 0);
                                walk(&m.body, 0);
                        }
}

TEST(what_is_malformed_is_refused) {
        static const struct {
                const char *bytes;
                size_t n;
        } bad[] = {
                { "\x00", 1 },                 /* a descriptor that is none */
                { "\x00\x00\x53\x70", 4 },     /* a descriptor of a descriptor */
                { "\x10", 1 },                 /* no code */
                { "\xa1\x05hi", 4 },           /* shorter than it says */
                { "\xc1\x02\x01\x43", 4 },     /* a map with half a pair */
                { "\xc0\x01\xff", 3 },         /* more items than bytes */
                { "\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x41", 10 }, /* four billion times true */
                { "\x56\x02", 2 },             /* neither true nor false */
        };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                AmqpReader r;
                AmqpValue v;

                amqp_reader_init(&r, bad[i].bytes, bad[i].n);
                ck_assert_msg(amqp_read(&r, &v) == -EBADMSG, "%zu", i);
        }
}
