/* Goal: what reaches json-c is one JSON object within the limits, however the bytes arrive; what we
 * write, we read. Method: tables of good and bad texts, each fed whole and byte by byte; limits met
 * and passed by one; random objects and random damage from a fixed seed, with json-c and the UTF-8
 * check as models. */
#include "lib/varlink-wire.h"

#include "lib/utf8.h"
#include "tests/support/test.h"

static int check_text(const char *s) {
        const char *reason = NULL;
        int r = varlink_frame_check(s, strlen(s), &reason);

        ck_assert_msg((r < 0) == (reason != NULL), "%s: %d without reason", s, r);
        return r;
}

/* Small, fast, the same everywhere (xorshift64). */
static uint64_t random_state = 0x9e3779b97f4a7c15ULL;

static uint32_t random_below(uint32_t n) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return (uint32_t) (random_state >> 32) % n;
}

TEST(json_objects_are_accepted) {
        static const char *const good[] = {
                "{}",
                " \t\r\n{ } \n",
                "{\"a\":1}",
                "{\"\":null}",
                "{\"a\":[],\"b\":{}}",
                "{\"a\":[1,2,{\"a\":[]}]}",
                "{\"a\":-0.5e+10,\"b\":0,\"c\":1E-2,\"d\":-1}",
                "{\"a\":true,\"b\":false}",
                "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\u0000\"}",
                "{\"a\":\"\\ud83d\\ude00\"}",
                "{\"a\":\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbf\xf4\x8f\xbf\xbf\"}",
                "{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\":\"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\x7f\"}",
                "{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":1}}",
                "{\"\\\\u0000\":1}",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                assert_ok(check_text(good[i]));
}

static void check_refused(const char *const *texts, size_t n) {
        for (size_t i = 0; i < n; i++) {
                int r = check_text(texts[i]);

                ck_assert_msg(r == -EBADMSG, "%s: %d", texts[i], r);
        }
}

TEST(what_is_no_object_of_json_is_refused) {
        static const char *const refused[] = {
                "",
                " ",
                "x",
                "1",
                "\"a\"",
                "[]",
                "[{}]",
                "null",
                "{",
                "}",
                "{}{}",
                "{}x",
                "{},",
                "{a:1}",
                "{'a':1}",
                "{\"a\"}",
                "{\"a\":}",
                "{\"a\":1,}",
                "{,}",
                "{\"a\" 1}",
                "{\"a\":1 \"b\":2}",
                "{\"a\":1,,\"b\":2}",
                "{\"a\":[1,]}",
                "{\"a\":[,]}",
                "{\"a\":[1 2]}",
                "{\"a\":[}",
                "{\"a\":[1}",
                "{\"a\":{]}",
                "{1:1}",
                "{\"a\":01}",
                "{\"a\":-}",
                "{\"a\":.5}",
                "{\"a\":1.}",
                "{\"a\":1e}",
                "{\"a\":+1}",
                "{\"a\":0x1}",
                "{\"a\":1e+}",
                "{\"a\":-01}",
                "{\"a\":NaN}",
                "{\"a\":Infinity}",
                "{\"a\":-Infinity}",
                "{\"a\":nul}",
                "{\"a\":True}",
                "{\"a\":truee}",
                "{\"a\":/**/1}",
                "{/*x*/\"a\":1}",
                "//\n{}",
                "{\"a\":'b'}",
                "{\"a\":\"\n\"}",
                "{\"a\":\"\x1f\"}",
                "{\"a\":\"",
                "{\"a\":\"\\\"}",
                "{\"a\":\"\\x41\"}",
                "{\"a\":\"\\u12\"}",
                "{\"a\":\"\\u12g4\"}",
                "{\"a\":\"\\",
                "{\"a\":\"\\u",
                "\xef\xbb\xbf{}",
        };

        check_refused(refused, ELEMENTSOF(refused));
}

TEST(text_that_is_no_unicode_is_refused) {
        static const char *const refused[] = {
                /* half a pair, in each way */
                "{\"a\":\"\\ud83d\"}",
                "{\"a\":\"\\ude00\"}",
                "{\"a\":\"\\ud83d\\ud83d\"}",
                "{\"a\":\"\\ud83dx\"}",
                "{\"a\":\"\\ud83d\\n\"}",
                "{\"\\ud83d\":1}",
                "{\"a\":\"\\ud83d\\u0041\"}",
                "{\"a\":\"\\ude00\\ud83d\"}",
                /* UTF-8: lone continuation, overlong, surrogate, too high, cut */
                "{\"a\":\"\x80\"}",
                "{\"a\":\"\xc0\x80\"}",
                "{\"a\":\"\xc1\xbf\"}",
                "{\"a\":\"\xe0\x9f\xbf\"}",
                "{\"a\":\"\xed\xa0\x80\"}",
                "{\"a\":\"\xf0\x8f\xbf\xbf\"}",
                "{\"a\":\"\xf4\x90\x80\x80\"}",
                "{\"a\":\"\xf5\x80\x80\x80\"}",
                "{\"a\":\"\xff\"}",
                "{\"a\":\"\xc3\"}",
                "{\"a\":\"\xe2\x82\"}",
                "{\"a\":\"\xf0\x9f\x98\"}",
                "{\"\xc3\":1}",
                "{\"a\":\"\xe2\x82",
                "{\"a\":\"\xc3",
        };

        check_refused(refused, ELEMENTSOF(refused));
}

TEST(names_that_readers_could_take_differently_are_refused) {
        static const char *const refused[] = {
                /* the same name twice, also written differently */
                "{\"a\":1,\"a\":2}",
                "{\"a\":1,\"b\":{},\"a\":2}",
                "{\"a\":1,\"\\u0061\":2}",
                "{\"x\":{\"\\u00e4\":1,\"\xc3\xa4\":2}}",
                "{\"x\":[{\"\xf0\x9f\x98\x80\":1,\"\\ud83d\\uDE00\":2}]}",
                "{\"\":1,\"\":2}",
                "{\"\\/\":1,\"/\":2}",
                "{\"\\u20ac\":1,\"\xe2\x82\xac\":2}",
                /* json-c would read it as "a" */
                "{\"a\\u0000b\":1}",
        };

        check_refused(refused, ELEMENTSOF(refused));
}

TEST(a_nul_inside_the_checked_text_is_refused) {
        static const char *const texts[] = { "{\0}", "{}\0{}", "{\"a\":\"x\0\"}", "{\"a\0\":1}",
                                             "{\"a\":1\0}" };
        static const size_t sizes[] = { 3, 5, 10, 8, 8 };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                assert_error(varlink_frame_check(texts[i], sizes[i], NULL), -EBADMSG);
}

TEST(utf8_is_judged_as_by_the_utf8_check) {
        char text[64];

        for (unsigned round = 0; round < 300000; round++) {
                static const uint8_t edges[] = { 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                                 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xed,
                                                 0xef, 0xf0, 0xf4, 0xf5, 0xff, 'a' };
                size_t n = 1 + random_below(10), head = strlen("{\"a\":\"");

                memcpy(text, "{\"a\":\"", head);
                for (size_t i = 0; i < n; i++)
                        text[head +
                             i] = (char) (random_below(2) ? edges[random_below(ELEMENTSOF(edges))] :
                                                            0x80 + random_below(0x80));
                memcpy(text + head + n, "\"}", sizeof("\"}"));
                ck_assert_int_eq(check_text(text) == 0, utf8_is_valid(text + head, n));
        }
}

/* Writes items up to where the count of elements is as asked, with a string filling the rest. */
static char *repeat(const char *head, const char *item, size_t n, const char *tail) {
        _cleanup_(buffer_done) Buffer b = {};

        assert_ok(buffer_append_string(&b, head));
        for (size_t i = 0; i < n; i++)
                assert_ok(buffer_appendf(&b, "%s%s", i > 0 ? "," : "", item));
        assert_ok(buffer_append(&b, tail, strlen(tail) + 1));
        return (char *) TAKE_PTR(b.data);
}

TEST(elements_are_bounded) {
        const size_t outer = 1 + VARLINK_OBJECT_ELEMENTS + 2; /* the object, its key, the array */
        const size_t n = VARLINK_ELEMENTS_MAX - outer,
                     n_objects = n / (1 + VARLINK_OBJECT_ELEMENTS);
        _cleanup_free_ char *at = repeat("{\"a\":[", "0", n, "]}"),
                            *above = repeat("{\"a\":[", "0", n + 1, "]}"),
                            *at_objects = repeat("{\"a\":[", "{}", n_objects, "]}"),
                            *above_objects = repeat("{\"a\":[", "{}", n_objects + 1, "]}");

        assert_ok(check_text(at));
        assert_error(check_text(above), -E2BIG);
        assert_ok(check_text(at_objects));
        assert_error(check_text(above_objects), -E2BIG);
}

static char *object_of_keys(size_t n) {
        _cleanup_(buffer_done) Buffer b = {};

        assert_ok(buffer_append_string(&b, "{\"o\":{"));
        for (size_t i = 0; i < n; i++)
                assert_ok(buffer_appendf(&b, "%s\"%zu\":0", i > 0 ? "," : "", i));
        assert_ok(buffer_append(&b, "}}", sizeof("}}")));
        return (char *) TAKE_PTR(b.data);
}

TEST(fields_of_an_object_are_bounded) {
        _cleanup_free_ char *at = object_of_keys(VARLINK_KEYS_MAX),
                            *above = object_of_keys(VARLINK_KEYS_MAX + 1);

        assert_ok(check_text(at));
        assert_error(check_text(above), -E2BIG);
}

static uint32_t fnv(uint32_t h, const char *s) {
        for (; *s; s++)
                h = (h ^ (uint8_t) *s) * 16777619U;
        return h;
}

typedef struct Block {
        uint32_t hash;
        unsigned number;
} Block;

static int compare_blocks(const void *a, const void *b) {
        const Block *x = a, *y = b;

        return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* Two texts that lead from one state of the hash to the same next one. Returns that. */
static uint32_t find_pair(uint32_t h, char first[static 9], char second[static 9]) {
        const unsigned n = 300000; /* ten pairs are expected */
        _cleanup_free_ Block *blocks = reallocarray(NULL, n, sizeof(*blocks));

        ck_assert_ptr_nonnull(blocks);
        for (unsigned i = 0; i < n; i++) {
                (void) snprintf(first, 9, "%08x", i * 2654435761U);
                blocks[i] = (Block){ .hash = fnv(h, first), .number = i * 2654435761U };
        }
        qsort(blocks, n, sizeof(*blocks), compare_blocks);
        for (unsigned i = 1; i < n; i++)
                if (blocks[i].hash == blocks[i - 1].hash) {
                        (void) snprintf(first, 9, "%08x", blocks[i - 1].number);
                        (void) snprintf(second, 9, "%08x", blocks[i].number);
                        return blocks[i].hash;
                }
        ck_abort_msg("no pair");
}

/* Comparing each with each over the whole length would hold the loop for seconds. */
TEST(field_names_computed_to_have_one_hash_are_refused) {
        _cleanup_(buffer_done) Buffer b = {};
        char pairs[5][2][9];
        uint32_t h = 2166136261U;

        for (size_t i = 0; i < ELEMENTSOF(pairs); i++)
                h = find_pair(h, pairs[i][0], pairs[i][1]);
        for (unsigned n = 4; n <= 32; n *= 8) {
                b.size = 0;
                assert_ok(buffer_append_string(&b, "{\"o\":{"));
                for (unsigned i = 0; i < n; i++) {
                        assert_ok(buffer_append_string(&b, i > 0 ? ",\"" : "\""));
                        for (size_t k = 0; k < ELEMENTSOF(pairs); k++)
                                assert_ok(buffer_append_string(&b, pairs[k][i >> k & 1]));
                        assert_ok(buffer_append_string(&b, "\":0"));
                }
                assert_ok(buffer_append(&b, "}}", sizeof("}}")));
                assert_error(check_text((const char *) b.data), n == 4 ? 0 : -E2BIG);
        }
}

TEST(depth_is_bounded) {
        char text[256];

        for (unsigned n = 1; n <= VARLINK_DEPTH_MAX + 1; n++) {
                char *p = text;
                int r;

                p = stpcpy(p, "{\"a\":");
                for (unsigned i = 1; i < n; i++)
                        *p++ = '[';
                p = stpcpy(p, "1");
                for (unsigned i = 1; i < n; i++)
                        *p++ = ']';
                strcpy(p, "}");
                r = check_text(text);
                ck_assert_int_eq(r, n <= VARLINK_DEPTH_MAX ? 0 : -EBADMSG);
                if (r == 0) {
                        _cleanup_(varlink_reader_done) VarlinkReader reader = {};
                        _cleanup_json_ struct json_object *o = NULL;

                        assert_ok(varlink_reader_feed(&reader, text, strlen(text) + 1));
                        ck_assert_int_eq(varlink_reader_next(&reader, &o, NULL, NULL), 1);
                }
        }
}

/* Appends to log what the reader gives: each message's text, or its error. */
static void drain(VarlinkReader *r, Buffer *log) {
        for (;;) {
                _cleanup_json_ struct json_object *o = NULL;
                const char *reason = NULL;
                size_t size = 0;
                int n = varlink_reader_next(r, &o, &size, &reason);

                if (n == 0)
                        return;
                if (n < 0)
                        assert_ok(buffer_appendf(log, "error %d %s\n", n, reason));
                else
                        assert_ok(buffer_appendf(log, "%zu %s\n", size,
                                                 json_object_to_json_string(o)));
        }
}

/* Reads text both ways, puts the items of a list that was split off back, and compares. Returns the number of groups. */
static size_t read_split(const char *text) {
        _cleanup_(varlink_reader_done) VarlinkReader whole = {}, split = {};
        _cleanup_json_ struct json_object *want = NULL, *got = NULL;
        _cleanup_(varlink_list_done) VarlinkList list = {};
        struct json_object *parameters, *items;
        size_t n = strlen(text) + 1, size = 0;

        assert_ok(varlink_reader_feed(&whole, text, n));
        assert_ok(varlink_reader_feed(&split, text, n));
        ck_assert_int_eq(varlink_reader_next(&whole, &want, NULL, NULL), 1);
        ck_assert_int_eq(varlink_reader_next_split(&split, "messages", &got, &list, &size, NULL), 1);
        ck_assert_uint_eq(size, n);
        ck_assert_int_eq(varlink_reader_next_split(&split, "messages", &got, &list, NULL, NULL), 0);
        if (list.text) {
                ck_assert_int_eq(json_get_object(got, "parameters", &parameters), 1);
                ck_assert_int_eq(json_get_array(parameters, "messages", &items), 1);
                ck_assert_uint_eq(json_object_array_length(items), 0);
        }
        for (size_t i = 0; i < list.n_groups; i++) {
                _cleanup_json_ struct json_object *group = NULL;

                assert_ok(varlink_list_group(&list, i, &group));
                ck_assert_uint_gt(json_object_array_length(group), 0);
                for (size_t k = 0; k < json_object_array_length(group); k++)
                        ck_assert_int_eq(json_object_array_add(items, json_object_get(json_object_array_get_idx(group, k))), 0);
        }
        if (list.text)
                ck_assert_uint_eq(json_object_array_length(items), list.n_items);
        ck_assert_msg(json_object_equal(want, got), "%s", text);
        return list.n_groups;
}

TEST(a_long_list_is_read_in_groups_and_nothing_is_lost_between_them) {
        static const char *const items[] = {
                "1", "\"],[\"", "{\"a\":[\",]}\",{}]}", " {} ", "[ [ ] , [1,2] ]", "null", "-1.5e3\t", "true", "\"\xc3\xa4\"",
        };
        static const unsigned counts[] = { 0, 1, 2, 100, 180, 200, 700, 2047, 2048, 2049, 2060, 4096, 4097, 6000 };
        static const char *const around[][2] = {
                { "{\"method\":\"a.b\",\"parameters\":{\"messages\":[", "]}}" },
                { "{\"parameters\" : {\"x\":[1,[2]], \"mess\\u0061ges\" : [ ", " ] ,\"y\":{\"messages\":[3]}}, \"more\":true}" },
        };

        for (size_t a = 0; a < ELEMENTSOF(around); a++)
                for (size_t c = 0; c < ELEMENTSOF(counts); c++)
                        for (size_t only = 0; only <= ELEMENTSOF(items); only++) {
                                _cleanup_(buffer_done) Buffer text = {};

                                assert_ok(buffer_append_string(&text, around[a][0]));
                                for (unsigned i = 0; i < counts[c]; i++)
                                        assert_ok(buffer_appendf(&text, "%s%s", i > 0 ? "," : "",
                                                                 items[only < ELEMENTSOF(items) ? only : i % only]));
                                assert_ok(buffer_append_string(&text, around[a][1]));
                                assert_ok(buffer_append(&text, "", 1));
                                if (varlink_frame_check((const char *) text.data, text.size - 1, NULL) == -E2BIG)
                                        continue;
                                if (read_split((const char *) text.data) == 0)
                                        ck_assert_uint_le(counts[c], 2048);
                        }
}

TEST(a_list_in_another_place_stays_in_the_message) {
        static const char *const around[][2] = {
                { "{\"messages\":[", "]}" },
                { "{\"parameters\":{\"message\":[", "]}}" },
                { "{\"parameter\":{\"messages\":[", "]}}" },
                { "{\"parameters\":{\"a\":{\"messages\":[", "]}}}" },
                { "{\"parameters\":[{\"messages\":[", "]}]}" },
                { "{\"a\":{\"parameters\":{\"messages\":[", "]}}}" },
                { "{\"parameters\":{},\"a\":{\"messages\":[", "]}}" },
        };

        for (size_t a = 0; a < ELEMENTSOF(around); a++) {
                _cleanup_(buffer_done) Buffer text = {};

                assert_ok(buffer_append_string(&text, around[a][0]));
                for (unsigned i = 0; i < 5000; i++)
                        assert_ok(buffer_append_string(&text, i > 0 ? ",1" : "1"));
                assert_ok(buffer_append_string(&text, around[a][1]));
                assert_ok(buffer_append(&text, "", 1));
                ck_assert_uint_eq(read_split((const char *) text.data), 0);
        }
        ck_assert_uint_eq(read_split("{\"parameters\":{\"messages\":3}}"), 0);
        ck_assert_uint_eq(read_split("{\"parameters\":{\"messages\":[ ]}}"), 0);
}

TEST(bytes_give_the_same_messages_however_they_arrive) {
        static const char stream[] = "{\"method\":\"a.b\"}\0"
                                     "{\"x\":\"\xc3\xa4\\ud83d\\ude00\"}\0"
                                     "\0"
                                     "{\"a\":1,\"a\":2}\0"
                                     "{\"x\":[1,2,{\"y\":null}]}\0"
                                     "no\0{}\0{\"half\":";
        _cleanup_(buffer_done) Buffer want = {};
        _cleanup_(varlink_reader_done) VarlinkReader whole = {};

        assert_ok(varlink_reader_feed(&whole, stream, sizeof(stream) - 1));
        drain(&whole, &want);
        ck_assert_uint_eq(varlink_reader_pending(&whole), strlen("{\"half\":"));

        for (size_t chunk = 1; chunk < sizeof(stream); chunk++)
                for (int drain_each = 0; drain_each < 2; drain_each++) {
                        _cleanup_(varlink_reader_done) VarlinkReader r = {};
                        _cleanup_(buffer_done) Buffer got = {};

                        for (size_t i = 0; i < sizeof(stream) - 1; i += chunk) {
                                assert_ok(varlink_reader_feed(&r, stream + i,
                                                              MIN(chunk, sizeof(stream) - 1 - i)));
                                if (drain_each)
                                        drain(&r, &got);
                        }
                        drain(&r, &got);
                        ck_assert_uint_eq(got.size, want.size);
                        ck_assert_int_eq(memcmp(got.data, want.data, got.size), 0);
                        ck_assert_uint_eq(varlink_reader_pending(&r), strlen("{\"half\":"));
                }
}

/* A frame of size bytes with its NUL. */
static char *frame_of(size_t size) {
        char *s = malloc(size);

        ck_assert_ptr_nonnull(s);
        memset(s, 'x', size);
        memcpy(s, "{\"a\":\"", 6);
        memcpy(s + size - 3, "\"}", 3);
        return s;
}

TEST(frame_of_the_limit_passes_and_one_byte_more_does_not) {
        _cleanup_free_ char *at = frame_of(VARLINK_FRAME_BYTES_MAX),
                            *above = frame_of(VARLINK_FRAME_BYTES_MAX + 1);
        static const size_t chunks[] = { 1, 4096, 65536, VARLINK_FRAME_BYTES_MAX + 1 };

        for (size_t c = 0; c < ELEMENTSOF(chunks); c++)
                for (int too_long = 0; too_long < 2; too_long++) {
                        _cleanup_(varlink_reader_done) VarlinkReader r = {};
                        _cleanup_json_ struct json_object *first = NULL, *second = NULL;
                        size_t n = VARLINK_FRAME_BYTES_MAX + (size_t) too_long, i;
                        int fed = 0;

                        assert_ok(varlink_reader_feed(&r, "{}", 3));
                        for (i = 0; i < n && fed >= 0; i += chunks[c])
                                fed = varlink_reader_feed(&r, (too_long ? above : at) + i,
                                                          MIN(chunks[c], n - i));
                        ck_assert_int_eq(fed, too_long ? -EMSGSIZE : 0);
                        ck_assert_int_eq(varlink_reader_next(&r, &first, NULL, NULL), 1);
                        ck_assert_int_eq(varlink_reader_next(&r, &second, NULL, NULL), !too_long);
                        assert_error(varlink_reader_feed(&r, "{}", 3), too_long ? -EMSGSIZE : 0);
                }
}

TEST(an_empty_reader_gives_back_the_memory_of_a_big_frame) {
        _cleanup_(varlink_reader_done) VarlinkReader r = {};
        _cleanup_free_ char *big = frame_of(VARLINK_FRAME_BYTES_MAX);
        _cleanup_json_ struct json_object *o = NULL;

        assert_ok(varlink_reader_feed(&r, big, VARLINK_FRAME_BYTES_MAX));
        ck_assert_uint_ge(varlink_reader_allocated(&r), VARLINK_FRAME_BYTES_MAX);
        ck_assert_int_eq(varlink_reader_next(&r, &o, NULL, NULL), 1);
        ck_assert_uint_le(varlink_reader_allocated(&r), 65536);
}

static struct json_object *random_value(unsigned depth) {
        char text[16];

        switch (random_below(depth > 0 ? 8 : 6)) {
        case 0: return NULL;
        case 1: return json_object_new_boolean((int) random_below(2));
        case 2: return json_object_new_int64((int64_t) random_state);
        case 3: return json_object_new_double((double) random_below(100000) / 7);
        case 4:
        case 5:
                for (size_t i = 0; i < sizeof(text); i++)
                        text[i] = (char) random_below(128); /* NUL, controls, quotes, backslashes */
                return json_object_new_string_len(text, (int) random_below(sizeof(text)));
        case 6: {
                struct json_object *a = json_object_new_array();

                for (unsigned n = random_below(5); n > 0; n--)
                        ck_assert_int_eq(json_object_array_add(a, random_value(depth - 1)), 0);
                return a;
        }
        default: {
                struct json_object *o = json_object_new_object();

                for (unsigned n = random_below(5); n > 0; n--) {
                        (void) snprintf(text, sizeof(text), "%c\"\\\n%u",
                                        'a' + (char) random_below(3), random_below(9));
                        ck_assert_int_eq(json_object_object_add(o, text, random_value(depth - 1)),
                                         0);
                }
                return o;
        }
        }
}

TEST(what_is_written_is_read_back) {
        for (unsigned round = 0; round < 5000; round++) {
                _cleanup_json_ struct json_object *parameters = json_object_new_object(),
                                                  *call = NULL, *reply = NULL, *error = NULL;
                _cleanup_(varlink_reader_done) VarlinkReader r = {};
                _cleanup_(buffer_done) Buffer b = {};
                struct json_object *field;
                VarlinkCall c;

                assert_ok(json_add(parameters, "v", json_object_new_array()));
                ck_assert_int_eq(json_object_array_add(json_object_object_get(parameters, "v"),
                                                       random_value(4)),
                                 0);
                assert_ok(varlink_append_call(&b, "io.iothubd.Send", parameters, round % 2, false));
                assert_ok(varlink_append_reply(&b, parameters, round % 2));
                assert_ok(varlink_append_error(&b, "io.iothubd.OutboxFull", parameters));
                assert_ok(varlink_reader_feed(&r, b.data, b.size));

                ck_assert_int_eq(varlink_reader_next(&r, &call, NULL, NULL), 1);
                assert_ok(varlink_call_parse(call, &c));
                ck_assert_str_eq(c.method, "io.iothubd.Send");
                ck_assert(json_object_equal(c.parameters, parameters));
                ck_assert(c.more == (round % 2) && !c.oneway);

                ck_assert_int_eq(varlink_reader_next(&r, &reply, NULL, NULL), 1);
                ck_assert(json_object_equal(json_object_object_get(reply, "parameters"),
                                            parameters));
                ck_assert(!!json_object_object_get_ex(reply, "continues", &field) ==
                          (round % 2 > 0));

                ck_assert_int_eq(varlink_reader_next(&r, &error, NULL, NULL), 1);
                ck_assert_str_eq(json_object_get_string(json_object_object_get(error, "error")),
                                 "io.iothubd.OutboxFull");
                ck_assert_int_eq(varlink_reader_next(&r, &error, NULL, NULL), 0);
        }
}

TEST(damage_is_refused_or_still_good_json) {
        static const char pieces[] = "{}[]\",:\\u0d89aA-+.eE \n/'tfn\xc3\xa4\xed\x80\xf0\x01";

        for (unsigned round = 0; round < 60000; round++) {
                char text[] = "{\"method\":\"a.B\",\"parameters\":{\"x\":[1,-2.5e3,true,null,"
                              "\"\\ud83d\\ude00\xc3\xa4\"]}}";
                _cleanup_(varlink_reader_done) VarlinkReader r = {};
                _cleanup_json_ struct json_object *o = NULL;
                const char *reason = NULL;
                int n;

                for (unsigned hits = 1 + random_below(3); hits > 0; hits--)
                        text[random_below(sizeof(text) - 1)] =
                                        pieces[random_below(sizeof(pieces) - 1)];
                assert_ok(varlink_reader_feed(&r, text, sizeof(text)));
                n = varlink_reader_next(&r, &o, NULL, &reason);
                ck_assert_msg(n == 1 || (n == -EBADMSG && !startswith(reason, "the JSON library")),
                              "%s: %d %s", text, n, strempty(reason));
        }
}

TEST(calls_are_taken_apart) {
        static const struct {
                const char *text;
                int r;
        } calls[] = {
                { "{\"method\":\"a.b.C\"}", 0 },
                { "{\"method\":\"a.b.C\",\"parameters\":null,\"more\":false,\"oneway\":true,"
                  "\"upgrade\":false}",
                  0 },
                { "{}", -EBADMSG },
                { "{\"method\":1}", -EBADMSG },
                { "{\"method\":null}", -EBADMSG },
                { "{\"method\":\"a\",\"parameters\":[]}", -EBADMSG },
                { "{\"method\":\"a\",\"more\":1}", -EBADMSG },
                { "{\"method\":\"a\",\"oneway\":\"yes\"}", -EBADMSG },
        };

        for (size_t i = 0; i < ELEMENTSOF(calls); i++) {
                _cleanup_json_ struct json_object *o = json_tokener_parse(calls[i].text);
                VarlinkCall c;

                assert_error(varlink_call_parse(o, &c), calls[i].r);
                if (calls[i].r == 0) {
                        ck_assert_str_eq(c.method, "a.b.C");
                        ck_assert_int_eq(json_object_object_length(c.parameters), 0);
                }
        }
}
