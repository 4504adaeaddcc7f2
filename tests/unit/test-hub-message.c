/* The hub's rules for one message: each limit, and one above. What the check lets through fits the topic, byte for
 * byte as it is then built. */
#include "tests/support/test.h"

#include <json-c/json.h>

#include "lib/hub-message.h"
#include "lib/utf8.h"
#include "tests/support/random.h"

#define PREFIX "devices/dev01/messages/events/"
#define MADE_ID_SIZE 40U

static char body[HUB_MESSAGE_BYTES_MAX + 1];

static struct json_object *get(struct json_object *o, const char *field) {
        return json_object_object_get(o, field);
}

static int check(const HubMessage *m, char **field, const char **reason) {
        *field = NULL;
        *reason = NULL;
        return hub_message_check(m, strlen(PREFIX), MADE_ID_SIZE, field, reason);
}

static void assert_good(const HubMessage *m) {
        const char *reason;
        char *field;
        int r = check(m, &field, &reason);

        ck_assert_msg(r == 0, "%d: %s: %s", r, strempty(field), strempty(reason));
        ck_assert_ptr_null(field);
}

static void assert_bad(const HubMessage *m, int error, const char *expected_field) {
        const char *reason;
        char *field;
        int r = check(m, &field, &reason);

        ck_assert_msg(r == error, "%d (want %d): %s: %s", r, error, strempty(field), strempty(reason));
        ck_assert_str_eq(field, expected_field);
        ck_assert_ptr_nonnull(reason);
        ck_assert(utf8_is_valid(field, strlen(field)));
        free(field);
}

static HubMessage plain(void) {
        return (HubMessage) { .body = body, .message_id = "m", .creation_time_usec = USEC_INFINITY };
}

TEST(sizes_of_the_vectors) {
        struct json_object *cases = test_vectors("device.json", "d2c_size");

        for (size_t i = 0; i < json_object_array_length(cases); i++) {
                struct json_object *c = json_object_array_get_idx(cases, i), *pairs;
                bool fits = json_object_get_boolean(get(c, "fits_262144"));
                size_t size = (size_t) json_object_get_int(get(c, "size"));
                _cleanup_(property_bag_done) PropertyBag properties = {};
                HubMessage m = { .body = body, .creation_time_usec = USEC_INFINITY, .properties = &properties,
                                 .body_size = (size_t) json_object_get_int(get(c, "body_bytes")) };

                pairs = get(c, "system");
                for (size_t k = 0; k < json_object_array_length(pairs); k++) {
                        struct json_object *pair = json_object_array_get_idx(pairs, k);
                        const char *name = json_object_get_string(json_object_array_get_idx(pair, 0)),
                                   *value = json_object_get_string(json_object_array_get_idx(pair, 1));

                        if (streq(name, "$.mid"))
                                m.message_id = value;
                        else if (streq(name, "$.ct"))
                                m.content_type = value;
                        else if (streq(name, "$.ce"))
                                m.content_encoding = value;
                        else
                                ck_abort_msg("%s", name);
                }
                pairs = get(c, "application");
                for (size_t k = 0; k < json_object_array_length(pairs); k++) {
                        struct json_object *pair = json_object_array_get_idx(pairs, k);

                        assert_ok(property_bag_add(&properties,
                                                   json_object_get_string(json_object_array_get_idx(pair, 0)),
                                                   json_object_get_string(json_object_array_get_idx(pair, 1))));
                }
                for (int above = 0; above < 2; above++) {
                        char *field = NULL;
                        const char *reason;
                        int r;

                        /* The message as it is, then with the body filled up to the limit, and one above. */
                        r = hub_message_check(&m, strlen(PREFIX), 0, &field, &reason);
                        ck_assert_int_eq(r, fits ? 0 : -EMSGSIZE);
                        free(field);
                        if (!fits)
                                break;
                        m.body_size += HUB_MESSAGE_BYTES_MAX - size;
                        ck_assert_int_eq(hub_message_check(&m, strlen(PREFIX), 0, &field, &reason), 0);
                        m.body_size++;
                        ck_assert_int_eq(hub_message_check(&m, strlen(PREFIX), 0, &field, &reason), -EMSGSIZE);
                        free(field);
                        m.body_size -= HUB_MESSAGE_BYTES_MAX - size + 1;
                }
        }
}

TEST(everything_that_travels_counts) {
        HubMessage m = plain();

        m.message_id = NULL;
        m.body_size = HUB_MESSAGE_BYTES_MAX - MADE_ID_SIZE;
        assert_good(&m);
        m.body_size++;
        assert_bad(&m, -EMSGSIZE, "body");

        m = plain();
        m.creation_time_usec = 0;
        m.correlation_id = "12345";
        m.body_size = HUB_MESSAGE_BYTES_MAX - 1 - 24 - 5;
        assert_good(&m);
        m.body_size++;
        assert_bad(&m, -EMSGSIZE, "body");

        m = plain();
        m.body_size = HUB_MESSAGE_BYTES_MAX + 1;
        assert_bad(&m, -EMSGSIZE, "body");
        m.body_size = SIZE_MAX;
        assert_bad(&m, -EMSGSIZE, "body");
}

TEST(message_ids_are_1_to_128_of_their_alphabet) {
        static const char allowed[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-:.+%_#*?!(),=@;$'";
        HubMessage m = plain();
        char id[HUB_MESSAGE_ID_MAX + 2];

        for (unsigned c = 1; c < 256; c++) {
                char one[2] = { (char) c };

                m.message_id = one;
                if (strchr(allowed, (int) c))
                        assert_good(&m);
                else
                        assert_bad(&m, -EINVAL, "messageId");
        }
        memset(id, 'x', sizeof(id));
        id[HUB_MESSAGE_ID_MAX] = 0;
        m.message_id = id;
        assert_good(&m);
        id[HUB_MESSAGE_ID_MAX] = 'x';
        id[HUB_MESSAGE_ID_MAX + 1] = 0;
        assert_bad(&m, -EINVAL, "messageId");
        m.message_id = "";
        assert_bad(&m, -EINVAL, "messageId");
}

TEST(texts_are_utf8_without_control_characters) {
        static const char *const bad[] = { "a\tb", "\n",           "\x7f",     "\x1f",     "\xff",
                                           "\xc3", "\xed\xa0\x80", "\xc2\x80", "a\xc2\x9f" },
                                 *const good[] = { "", "application/json;charset=utf-8", "é€😀", "\xc2\xa0", " ~" };

        for (size_t i = 0; i < ELEMENTSOF(bad) + ELEMENTSOF(good); i++) {
                const char *s = i < ELEMENTSOF(bad) ? bad[i] : good[i - ELEMENTSOF(bad)];
                struct {
                        const char *field;
                        HubMessage m;
                } table[] = { { "correlationId", plain() },
                              { "contentType", plain() },
                              { "contentEncoding", plain() } };

                table[0].m.correlation_id = table[1].m.content_type = table[2].m.content_encoding = s;
                for (size_t k = 0; k < ELEMENTSOF(table); k++)
                        if (i < ELEMENTSOF(bad))
                                assert_bad(&table[k].m, -EINVAL, table[k].field);
                        else
                                assert_good(&table[k].m);
        }
}

static void check_property(const char *name, const char *value, const char *expected_field) {
        _cleanup_(property_bag_done) PropertyBag bag = {};
        HubMessage m = plain();

        m.properties = &bag;
        assert_ok(property_bag_add(&bag, "before", "1"));
        assert_ok(property_bag_add(&bag, name, value));
        if (expected_field)
                assert_bad(&m, -EINVAL, expected_field);
        else
                assert_good(&m);
}

TEST(property_names_are_the_applications_own) {
        char long_name[200];

        check_property("site name", "Gebäude 5", NULL);
        check_property("$cost", "5$", NULL);
        check_property("flag", NULL, NULL);
        check_property("iothub-creation-time-utc", "2030-01-01T00:00:00Z", NULL);
        check_property("", "x", "properties");
        check_property("$.mid", "x", "properties.$.mid");
        check_property("$.", "x", "properties.$.");
        check_property("iothub-ack", "full", "properties.iothub-ack");
        check_property("before", "2", "properties.before");
        check_property("site", "a\nb", "properties.site");
        check_property("site", "\xff", "properties.site");
        check_property("si\nte", "x", "properties"); /* a name that cannot be shown is not */
        check_property("\xff", "x", "properties");
        memset(long_name, 'n', sizeof(long_name));
        long_name[199] = 0;
        check_property(long_name, "\xff", "properties");
}

TEST(a_repeated_name_is_found_among_few_and_many) {
        for (unsigned n = 1; n < 60; n++)
                for (unsigned twin = 0; twin <= n; twin++) { /* twin == n: no twin */
                        _cleanup_(property_bag_done) PropertyBag bag = {};
                        HubMessage m = plain();
                        char name[16], field[32];

                        m.properties = &bag;
                        for (unsigned i = 0; i < n; i++) {
                                (void) snprintf(name, sizeof(name), "p%u", (i * 37) % 101);
                                assert_ok(property_bag_add(&bag, name, NULL));
                        }
                        (void) snprintf(name, sizeof(name), "p%u", (twin * 37) % 101);
                        assert_ok(property_bag_add(&bag, name, NULL));
                        (void) snprintf(field, sizeof(field), "properties.%s", name);
                        if (twin < n)
                                assert_bad(&m, -EINVAL, field);
                        else
                                assert_good(&m);
                }
}

/* The topic is the prefix, the encoded message id and the bag. */
static size_t built_topic_size(const HubMessage *m) {
        _cleanup_free_ char *id = NULL;
        Buffer b = {};
        size_t size;

        assert_ok(percent_encode(m->message_id, strlen(m->message_id), &id));
        assert_ok(hub_message_encode_bag(m, &b));
        size = strlen(PREFIX) + strlen("%24.mid=") + strlen(id) + (b.size > 0 ? 1 + b.size : 0);
        buffer_done(&b);
        return size;
}

TEST(the_topic_may_have_65535_bytes_encoded) {
        static char value[HUB_TOPIC_BYTES_MAX + 1];
        _cleanup_(property_bag_done) PropertyBag bag = {};
        HubMessage m = plain();
        size_t n;

        m.message_id = "a+b"; /* five bytes encoded */
        m.content_type = "text/plain";
        m.creation_time_usec = UINT64_C(1893456000123456);
        m.properties = &bag;
        assert_ok(property_bag_add(&bag, "n", "")); /* its value is exchanged below */
        n = HUB_TOPIC_BYTES_MAX - built_topic_size(&m);
        free(bag.items[0].value);
        bag.items[0].value = value;

        /* Escaped characters take three bytes: the rest of the division is filled with a bare one. */
        memset(value, '/', n / 3);
        memset(value + n / 3, 'x', n % 3);
        ck_assert_uint_eq(built_topic_size(&m), HUB_TOPIC_BYTES_MAX);
        assert_good(&m);
        value[n / 3 + n % 3] = 'x';
        ck_assert_uint_eq(built_topic_size(&m), HUB_TOPIC_BYTES_MAX + 1);
        assert_bad(&m, -EMSGSIZE, "properties");
        bag.items[0].value = NULL;
}

static char *random_text(Random *random, size_t n_max) {
        static const char *const pieces[] = { "a", "Z", "0", "&", "=", "%", "+", " ",
                                              "/", "?", "$", "#", "~", "é", "€", "😀" };
        size_t n = random_below(random, n_max);
        Buffer b = {};

        assert_ok(buffer_reserve(&b, 4 * n + 1));
        for (size_t i = 0; i < n; i++) /* has room; an assertion each would cost more than the test */
                (void) buffer_append_string(&b, pieces[random_below(random, ELEMENTSOF(pieces))]);
        assert_ok(buffer_append(&b, "", 1));
        return (char *) b.data;
}

/* Messages around the limit of the topic: the verdict is the one that building it gives. What is built decodes to the
 * message's own texts. */
TEST(the_check_and_the_encoding_agree) {
        Random random = { .state = test_seed() };
        unsigned n_good = 0, n_bad = 0;

        for (unsigned i = 0; i < 1000; i++) {
                _cleanup_(property_bag_done) PropertyBag bag = {}, back = {};
                _cleanup_free_ char *cid = random_text(&random, 30), *ct = random_text(&random, 30);
                HubMessage m = plain();
                Buffer b = {};
                const char *reason;
                char *field;
                size_t first;
                int r;

                m.properties = &bag;
                m.correlation_id = random_one_in(&random, 2) ? cid : NULL;
                m.content_type = random_one_in(&random, 2) ? ct : NULL;
                m.creation_time_usec = random_one_in(&random, 2) ? USEC_INFINITY : 1;
                for (unsigned k = 0; k < 5; k++) {
                        _cleanup_free_ char *value = random_text(&random, 6400);
                        char name[8];

                        (void) snprintf(name, sizeof(name), "n%u", k);
                        assert_ok(property_bag_add(&bag, name, value));
                }
                r = check(&m, &field, &reason);
                ck_assert_int_eq(r, built_topic_size(&m) > HUB_TOPIC_BYTES_MAX ? -EMSGSIZE : 0);
                r == 0 ? n_good++ : n_bad++;
                free(field);

                assert_ok(hub_message_encode_bag(&m, &b));
                assert_ok(property_bag_decode((char *) b.data, b.size, &back));
                buffer_done(&b);
                ck_assert_pstr_eq(property_bag_get(&back, "$.cid"), m.correlation_id);
                ck_assert_pstr_eq(property_bag_get(&back, "$.ct"), m.content_type);
                ck_assert_pstr_eq(property_bag_get(&back, "$.ctime"),
                                  m.creation_time_usec == 1 ? "1970-01-01T00:00:00.000Z" : NULL);
                first = back.n_items - bag.n_items;
                for (size_t k = 0; k < bag.n_items; k++) { /* behind the system's, in their order */
                        ck_assert_str_eq(back.items[first + k].name, bag.items[k].name);
                        ck_assert_str_eq(back.items[first + k].value, bag.items[k].value);
                }
        }
        ck_assert_uint_gt(n_good, 100);
        ck_assert_uint_gt(n_bad, 100);
}

TEST(the_bag_is_appended_system_properties_first) {
        _cleanup_(property_bag_done) PropertyBag bag = {};
        HubMessage m = { .correlation_id = "c/1", .content_type = "application/json", .content_encoding = "utf-8",
                         .creation_time_usec = UINT64_C(1893456000123456), .properties = &bag };
        static const char expected[] = "before:%24.cid=c%2F1&%24.ct=application%2Fjson&%24.ce=utf-8&"
                                       "%24.ctime=2030-01-01T00%3A00%3A00.123Z&alarm=true&flag&x%3Dy=";
        Buffer b = {};

        assert_ok(property_bag_add(&bag, "alarm", "true"));
        assert_ok(property_bag_add(&bag, "flag", NULL));
        assert_ok(property_bag_add(&bag, "x=y", ""));
        assert_ok(buffer_append_string(&b, "before:"));
        assert_ok(hub_message_encode_bag(&m, &b));
        ck_assert_uint_eq(b.size, strlen(expected));
        ck_assert_mem_eq(b.data, expected, b.size);
        buffer_done(&b);
}
