/* Goal: the pure parts of iothubctl: lines, templates, escaping, options, tables. Method: every way
 * to cut an input gives the same lines; every encoded message is read back by json-c and compared.
 */
#include <json-c/json.h>

#include "lib/base64.h"
#include "lib/json-util.h"
#include "lib/varlink-wire.h"
#include "client/line-reader.h"
#include "client/message-template.h"
#include "client/options.h"
#include "client/output.h"
#include "client/positions.h"
#include "client/simulation.h"
#include "tests/support/test.h"

/* Feeds in pieces of the given size; lines and faults as one text: "1:abc|3!|4:x|". */
static char *split(LineMode mode, size_t bytes_max, const char *data, size_t size, size_t piece) {
        LineReader reader = { .mode = mode, .bytes_max = bytes_max };
        Buffer out = {};
        const char *line;
        size_t n;
        int r;

        for (size_t done = 0; done < size || size == 0; done += piece) {
                const char *p = data + done;
                size_t left = MIN(piece, size - done);

                while ((r = line_reader_next(&reader, &p, &left, &line, &n)) != 0) {
                        if (r == -EMSGSIZE) {
                                assert_ok(buffer_appendf(&out, "%d!|", (int) reader.line));
                                continue;
                        }
                        assert_ok(r);
                        assert_ok(buffer_appendf(&out, "%d:%.*s|", (int) reader.line, (int) n,
                                                 line));
                }
                ck_assert_uint_eq(left, 0);
                if (size == 0)
                        break;
        }
        r = line_reader_finish(&reader, &line, &n);
        if (r == -EMSGSIZE)
                assert_ok(buffer_appendf(&out, "%d!|", (int) reader.line));
        else if (r > 0)
                assert_ok(buffer_appendf(&out, "%d:%.*s|", (int) reader.line, (int) n, line));
        assert_ok(buffer_appendf(&out, "%d empty", (int) reader.n_empty));
        assert_ok(buffer_append(&out, "", 1));
        line_reader_done(&reader);
        return (char *) out.data;
}

TEST(lines_do_not_depend_on_how_the_input_arrives) {
        static const struct {
                LineMode mode;
                const char *data;
                size_t size;
                const char *want;
        } table[] = {
                { LINE_MODE_NEWLINE, "", 0, "0 empty" },
                { LINE_MODE_NEWLINE, "abc", 3, "1:abc|0 empty" },
                { LINE_MODE_NEWLINE, "abc\n", 4, "1:abc|0 empty" },
                { LINE_MODE_NEWLINE, "abc\n\n\nde\n\n", 10, "1:abc|4:de|3 empty" },
                { LINE_MODE_NEWLINE, "12345678\n123456789\nab", 21, "1:12345678|2!|3:ab|0 empty" },
                { LINE_MODE_NEWLINE, "12345678901234567890\n\n123456789", 31, "1!|3!|1 empty" },
                { LINE_MODE_NUL, "a\nb\0\0c\0", 7, "1:a\nb|3:c|1 empty" },
                { LINE_MODE_WHOLE, "a\nb\n", 4, "1:a\nb\n|0 empty" },
                { LINE_MODE_WHOLE, "", 0, "1 empty" },
                { LINE_MODE_WHOLE, "123456789", 9, "1!|0 empty" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                for (size_t piece = 1; piece <= table[i].size + 1; piece++) {
                        _cleanup_free_ char *got = split(table[i].mode, 8, table[i].data,
                                                         table[i].size, piece);

                        ck_assert_str_eq(got, table[i].want);
                }
}

static struct json_object *encode(const MessageFields *f, uint64_t n, const void *body,
                                  size_t size) {
        _cleanup_(message_template_freep) MessageTemplate *t = NULL;
        _cleanup_(buffer_done) Buffer out = {};
        struct json_object *o;
        const char *reason;

        assert_ok(message_template_new(f, &t));
        assert_ok(message_template_encode(t, n, body, size, &out));
        assert_ok(buffer_append(&out, "", 1));
        ck_assert_msg(varlink_frame_check((const char *) out.data, out.size - 1, &reason) >= 0,
                      "%s: %s", reason, out.data);
        o = json_tokener_parse((const char *) out.data);
        ck_assert_ptr_nonnull(o);
        return o;
}

static void assert_string(struct json_object *o, const char *field, const void *want, size_t size) {
        const char *s;
        size_t n;

        ck_assert_int_eq(json_get_string(o, field, &s, &n), 1);
        ck_assert_uint_eq(n, size);
        ck_assert_mem_eq(s, want, size);
}

static void assert_body(const void *body, size_t size, bool as_text) {
        _cleanup_json_ struct json_object *o = encode(
                        &(MessageFields){ .time_to_live_usec = USEC_INFINITY }, 1, body, size);
        _cleanup_free_ void *decoded = NULL;
        const char *s;
        size_t n;

        ck_assert_int_eq(json_object_object_length(o), 1);
        if (as_text)
                return assert_string(o, "body", body, size);
        ck_assert_int_eq(json_get_string(o, "bodyBase64", &s, &n), 1);
        assert_ok(base64_decode(s, n, &decoded, &n));
        ck_assert_uint_eq(n, size);
        ck_assert_mem_eq(decoded, body, size);
}

TEST(every_body_is_read_back_as_it_was) {
        assert_body("", 0, true);
        assert_body("a\"b\\c\n\r\t\x01\x1f\x7f", 11, true);
        assert_body("\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", 9, true);
        assert_body("\xed\xa0\x80", 3, false); /* a lone surrogate */
        assert_body("\xff", 1, false);
        assert_body("a\0b", 3, false);
        for (unsigned c = 0; c < 256; c++) {
                char text[3] = { 'x', (char) c, 'y' };

                assert_body(text, sizeof(text), c > 0 && c < 0x80);
        }
}

TEST(the_largest_body_fits_into_a_frame_whatever_it_holds) {
        _cleanup_(message_template_freep) MessageTemplate *t = NULL;
        _cleanup_free_ char *body = malloc(262144);

        assert_ok(message_template_new(&(MessageFields){ .time_to_live_usec = USEC_INFINITY }, &t));
        for (unsigned c = 0; c < 256; c++) {
                _cleanup_(buffer_done) Buffer out = {};

                memset(body, (int) c, 262144);
                assert_ok(message_template_encode(t, 1, body, 262144, &out));
                ck_assert_uint_lt(out.size, 600 * 1024);
        }
}

TEST(counters_go_where_the_template_says) {
        static const struct {
                const char *text, *want;
        } table[] = {
                { "message_%n", "message_18446744073709551615" },
                { "%n%n", "1844674407370955161518446744073709551615" },
                { "%%n", "%n" },
                { "%%%n%", "%18446744073709551615%" },
                { "100%", "100%" },
                { "%d%s", "%d%s" },
                { "", "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                MessageFields f = {
                        .message_id = table[i].text,
                        .correlation_id = table[i].text,
                        .content_type = "%n",
                        .time_to_live_usec = 5,
                };
                _cleanup_json_ struct json_object *o = NULL;
                _cleanup_free_ char *expanded = NULL;
                uint64_t ttl;

                o = encode(&f, UINT64_MAX, "x", 1);
                assert_string(o, "messageId", table[i].want, strlen(table[i].want));
                assert_string(o, "correlationId", table[i].want, strlen(table[i].want));
                assert_string(o, "contentType", "%n", 2);
                ck_assert_int_eq(json_get_u64(o, "timeToLiveUSec", &ttl), 1);
                ck_assert_uint_eq(ttl, 5);
                assert_ok(counter_text_expand(table[i].text, UINT64_MAX, &expanded));
                ck_assert_str_eq(expanded, table[i].want);
        }
}

TEST(properties_keep_their_text_and_counters_only_on_request) {
        for (int counters = 0; counters < 2; counters++) {
                MessageFields f = { .time_to_live_usec = USEC_INFINITY,
                                    .property_counters = counters };
                _cleanup_json_ struct json_object *o = NULL;
                struct json_object *p;

                assert_ok(property_bag_add(&f.properties, "a\"b", "x\\%n"));
                assert_ok(property_bag_add(&f.properties, "empty", ""));
                o = encode(&f, 7, "x", 1);
                ck_assert_int_eq(json_get_object(o, "properties", &p), 1);
                assert_string(p, "a\"b", counters ? "x\\7" : "x\\%n", counters ? 3 : 4);
                assert_string(p, "empty", "", 0);
                property_bag_done(&f.properties);
        }
}

TEST(elements_are_counted_as_the_wire_counts_them) {
        MessageFields f = { .message_id = "%n", .lane = "bulk", .time_to_live_usec = 1 };
        _cleanup_(message_template_freep) MessageTemplate *t = NULL;
        size_t n;

        assert_ok(property_bag_add(&f.properties, "a", "b"));
        assert_ok(message_template_new(&f, &t));

        /* As many as a batch takes pass the check, with the frame around them; far more do not. */
        n = (VARLINK_ELEMENTS_MAX - 1024) / message_template_elements(t);
        for (int more = 0; more < 2; more++) {
                _cleanup_(buffer_done) Buffer out = {};
                const char *reason;

                assert_ok(buffer_append_string(
                                &out, "{\"method\":\"a.B\",\"parameters\":{\"messages\":["));
                for (size_t i = 0; i < (more ? 2 * n : n); i++) {
                        if (i > 0)
                                assert_ok(buffer_append(&out, ",", 1));
                        assert_ok(message_template_encode(t, i, "x", 1, &out));
                }
                assert_ok(buffer_append(&out, "]}}", 4));
                assert_error(varlink_frame_check((const char *) out.data, out.size - 1, &reason),
                             more ? -E2BIG : 0);
        }
        property_bag_done(&f.properties);
}

TEST(mistakes_in_fields_are_named) {
        MessageFields bad_id = { .message_id = "a b" }, bad_name = {};
        _cleanup_free_ char *field = NULL, *other = NULL;
        const char *reason;

        assert_error(message_fields_check(&bad_id, &field, &reason), -EINVAL);
        ck_assert_str_eq(field, "messageId");
        assert_ok(property_bag_add(&bad_name.properties, "$.x", "y"));
        assert_error(message_fields_check(&bad_name, &other, &reason), -EINVAL);
        ck_assert_str_eq(other, "properties.$.x");
        property_bag_done(&bad_name.properties);
}

TEST(positions_are_a_set_in_any_order) {
        enum { N = 100000 };
        _cleanup_(position_set_done) PositionSet set = {};
        _cleanup_free_ bool *model = calloc(N, sizeof(bool));
        uint64_t missing = 0;

        /* 7919 is prime to N, so each position comes once, as far as possible from its neighbours; then in order. */
        for (uint64_t i = 0; i < N / 2; i++) {
                uint64_t p = i * 7919 % N;

                ck_assert_int_eq(position_set_add(&set, p), 1);
                ck_assert_int_eq(position_set_add(&set, p), 0);
                model[p] = true;
        }
        for (uint64_t p = 0; p < N; p++)
                ck_assert(position_set_has(&set, p) == model[p]);
        for (uint64_t p = 0; p < N; p++) {
                while (missing < N && (missing < p || model[missing]))
                        missing++;
                ck_assert_uint_eq(position_set_next_missing(&set, p), missing);
        }
        for (uint64_t p = 0; p < N; p++)
                ck_assert_int_eq(position_set_add(&set, p), !model[p]);
        ck_assert_uint_eq(position_set_next_missing(&set, 0), N);
        ck_assert_uint_lt(set.words.size, 8192);
        ck_assert_int_eq(position_set_add(&set, set.base + POSITIONS_AHEAD_MAX), 1);
        assert_error(position_set_add(&set, set.base + POSITIONS_AHEAD_MAX + 1), -ERANGE);
        assert_error(position_set_add(&set, UINT64_MAX), -ERANGE);
}

TEST(sequence_numbers_are_found_by_position) {
        _cleanup_(sequence_map_done) SequenceMap map = {};
        uint64_t seq;

        /* Runs of i + 1 positions, with a gap of one position after every third. */
        for (uint64_t i = 0, p = 0; i < 100; p += i + 1 + (i % 3 == 2), i++)
                assert_ok(sequence_map_add(&map, p, 1000 * i, i + 1));
        for (int round = 0; round < 2; round++) {
                for (uint64_t i = 0, p = 0; i < 100; p += i + 1 + (i % 3 == 2), i++)
                        for (uint64_t k = 0; k <= i + 1; k++) {
                                int r = sequence_map_get(&map, p + k, &seq);

                                if (k <= i && (round == 0 || p > 2000))
                                        ck_assert_int_eq(r, 1);
                                if (k <= i && r > 0)
                                        ck_assert_uint_eq(seq, 1000 * i + k);
                                if (k > i && i % 3 == 2)
                                        ck_assert_int_eq(r, 0);
                        }
                sequence_map_trim(&map, 2000);
        }
        ck_assert_int_eq(sequence_map_get(&map, 0, &seq), 0);
        ck_assert_int_eq(sequence_map_get(&map, UINT64_MAX, &seq), 0);
}

TEST(simulation_fills_in_its_template) {
        const SimulationValues v = { "a\"b", 9.876, 3, 0 };
        _cleanup_free_ char *s = NULL;

        assert_ok(simulation_expand("{\"d\":\"%d\",\"w\":%w,\"n\":%n,\"t\":\"%t\"} 100%% %x %", &v,
                                    &s));
        ck_assert_str_eq(
                        s,
                        "{\"d\":\"a\\\"b\",\"w\":9.88,\"n\":3,\"t\":\"1970-01-01T00:00:00.000Z\"} 100% %x %");
        ck_assert(simulation_wind_speed(0) >= 8 && simulation_wind_speed(0.999) <= 12);
}

typedef struct Settings {
        bool flag;
        const char *text;
        usec_t span;
        uint64_t number;
        unsigned port;
} Settings;

static int parse_words(Settings *s, const char *words, int permute, char *(*ret_argv)[16]) {
        static const Option options[] = {
                { "flag", 'f', NULL, "help", option_flag, offsetof(Settings, flag) },
                { "text", 't', "TEXT", "help", option_string, offsetof(Settings, text) },
                { "span", 0, "SPAN", "help", option_timespan, offsetof(Settings, span) },
                {},
        };
        static const Option more[] = {
                { "number", 'n', "N", "help", option_u64, offsetof(Settings, number) },
                { "port", 0, "PORT", "help", option_port, offsetof(Settings, port) },
                {},
        };
        const OptionTable tables[] = { { options, s }, { more, s } };
        static char text[256];
        char *save = NULL;
        int argc = 0;

        snprintf(text, sizeof(text), "%s", words);
        for (char *w = strtok_r(text, " ", &save); w; w = strtok_r(NULL, " ", &save))
                (*ret_argv)[argc++] = w;
        (*ret_argv)[argc] = NULL;
        return options_parse(tables, 2, argc, *ret_argv, permute);
}

TEST(options_stand_before_and_behind_arguments) {
        char *argv[16];
        Settings s = {};

        ck_assert_int_eq(parse_words(&s, "x -f a --text=b c --span 5min -n3 --port 65535 -- -t", 1,
                                     &argv),
                         9);
        ck_assert(s.flag);
        ck_assert_str_eq(s.text, "b");
        ck_assert_uint_eq(s.span, 5 * USEC_PER_MINUTE);
        ck_assert_uint_eq(s.number, 3);
        ck_assert_uint_eq(s.port, 65535);
        ck_assert_str_eq(argv[9], "a");
        ck_assert_str_eq(argv[10], "c");
        ck_assert_str_eq(argv[11], "-t");

        s = (Settings){};
        ck_assert_int_eq(parse_words(&s, "x -f verb --text b", 0, &argv), 2);
        ck_assert(s.flag && !s.text);
}

TEST(mistakes_in_options_are_refused) {
        static const char *const table[] = { "x --nonsense", "x -q",           "x --text",
                                             "x -t",         "x --flag=1",     "x -n 1x",
                                             "x --port 0",   "x --port 65536", "x --span 5y3",
                                             "x --number=",  "x -n -1" };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                char *argv[16];
                Settings s = {};

                ck_assert_msg(parse_words(&s, table[i], 1, &argv) == -EINVAL, "%s", table[i]);
        }
}

TEST(tables_are_aligned_and_harmless) {
        static const char *const headers[] = { "A", "B", NULL };
        _cleanup_(table_freep) Table *t = NULL;
        char *text = NULL;
        size_t size;
        FILE *f;

        assert_ok(table_new(headers, &t));
        assert_ok(table_add(t, "gr\xc3\xbcn"));
        assert_ok(table_add(t, NULL));
        assert_ok(table_add(t, "x\x1b[2J"));
        assert_ok(table_addf(t, "%d", 5));
        f = open_memstream(&text, &size);
        table_print(t, f);
        ck_assert_int_eq(fclose(f), 0);
        ck_assert_str_eq(text, "A      B\ngr\xc3\xbcn   -\nx?[2J  5\n");
        free(text);
}

TEST(sizes_are_short) {
        char buf[FORMAT_BYTES_MAX];

        ck_assert_str_eq(format_bytes(buf, sizeof(buf), 0), "0B");
        ck_assert_str_eq(format_bytes(buf, sizeof(buf), 1023), "1023B");
        ck_assert_str_eq(format_bytes(buf, sizeof(buf), 1536), "1.5K");
        ck_assert_str_eq(format_bytes(buf, sizeof(buf), UINT64_C(1) << 30), "1.0G");
        ck_assert_str_eq(format_bytes(buf, sizeof(buf), UINT64_MAX), "16.0E");
}
