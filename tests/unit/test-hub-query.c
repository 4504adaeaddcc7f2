/* Goal: the emulator's query language selects what the documents say, and refuses what is none with the
 * place. Method: tables of conditions over one twin; every prefix of a long query is parsed. */
#include <json-c/json.h>

#include "emulator/hub-query.h"
#include "lib/json-util.h"
#include "tests/support/test.h"

static const char twin_text[] =
        "{\"deviceId\":\"d1\",\"status\":\"enabled\",\"cloudToDeviceMessageCount\":3,"
        "\"lastActivityTime\":\"2026-01-31T07:08:09.123Z\",\"capabilities\":{\"iotEdge\":false},"
        "\"tags\":{\"location\":{\"region\":\"US\",\"plant\":\"Redmond43\"},\"a b\":1,\"nothing\":null},"
        "\"properties\":{\"desired\":{\"interval\":5,\"list\":[1,2]},"
        "\"reported\":{\"temperature\":21.5,\"on\":true}}}";

static HubQuery *parse(const char *text) {
        const char *why = NULL;
        size_t at;
        HubQuery *q = NULL;
        int r = hub_query_parse(text, &q, &why, &at);

        ck_assert_msg(r >= 0, "%s: %s at %zu", text, why, at);
        return q;
}

TEST(conditions_are_true_false_or_undefined) {
        static const struct {
                const char *where;
                bool match;
        } cases[] = {
                { "deviceId = 'd1'", true },
                { "deviceId=\"d1\"", true },
                { "deviceId = 'D1'", false },
                { "devices.deviceId = 'd1'", true },
                { "tags.location.region IN ['DE','US']", true },
                { "tags.location.region NIN ['DE','US']", false },
                { "tags.location.region in []", false },
                { "tags.[[a b]] = 1", true },
                { "tags.location.[[region]] = 'US'", true },
                { "is_defined(tags.location)", true },
                { "IS_DEFINED(tags.nothing)", true },
                { "IS_DEFINED(tags.missing.deep)", false },
                { "NOT IS_DEFINED(tags.missing)", true },
                { "IS_NULL(tags.nothing)", true },
                { "tags.nothing = null", true },
                { "tags.missing = null", false },
                { "tags.missing != 'x'", false }, /* undefined */
                { "NOT tags.missing = 'x'", false },
                { "tags.missing = 'x' OR deviceId = 'd1'", true },
                { "NOT (tags.missing = 'x' AND deviceId = 'd2')", true },
                { "deviceId = 1", false },
                { "deviceId != 1", false },
                { "properties.reported.temperature > 21", true },
                { "properties.reported.temperature >= 21.5 AND properties.reported.temperature <= 21.5", true },
                { "properties.reported.temperature < 21.5", false },
                { "properties.reported.temperature <> 21", true },
                { "properties.desired.interval + 1 = 6", true },
                { "properties.desired.interval * 2 - 1 = 9", true },
                { "properties.desired.interval % 2 = 1", true },
                { "properties.desired.interval / 0 = 1", false },
                { "-properties.desired.interval = -5", true },
                { "properties.reported.on", true },
                { "properties.reported.on = true", true },
                { "not properties.reported.on", false },
                { "capabilities.iotEdge = false", true },
                { "STARTSWITH(tags.location.plant, 'Red')", true },
                { "starts_with(tags.location.plant, 'red')", false },
                { "ENDSWITH(tags.location.plant, '43')", true },
                { "CONTAINS(tags.location.plant, 'mond')", true },
                { "STARTSWITH(tags.missing, '')", false },
                { "IS_NUMBER(properties.desired.interval)", true },
                { "IS_STRING(properties.desired.interval)", false },
                { "IS_BOOL(properties.reported.on) AND IS_OBJECT(tags) AND IS_ARRAY(properties.desired.list)", true },
                { "IS_PRIMITIVE(tags)", false },
                { "lastActivityTime > '2026-01-01T00:00:00Z'", true },
                { "deviceId = 'd1' OR deviceId = 'd2' AND status = 'disabled'", true }, /* AND binds closer */
                { "(deviceId = 'd1' OR deviceId = 'd2') AND status = 'disabled'", false },
                { "deviceId = 'it\\'s'", false },
                { "'d1' = deviceId", true },
                { "deviceId", false }, /* no boolean */
        };
        _cleanup_json_ struct json_object *twin = json_tokener_parse(twin_text);

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_(hub_query_freep) HubQuery *q = NULL;
                char text[512];

                snprintf(text, sizeof(text), "SELECT * FROM devices WHERE %s", cases[i].where);
                q = parse(text);
                ck_assert_msg(hub_query_match(q, twin) == cases[i].match, "%s", cases[i].where);
        }
}

TEST(what_is_no_query_is_refused_with_the_place) {
        static const struct {
                const char *text;
                size_t at;
        } cases[] = {
                { "", 0 },
                { "nonsense", 0 },
                { "SELECT", 6 },
                { "SELECT * FROM", 13 },
                { "SELECT * FROM twins", 14 },
                { "SELECT * FROM devices.jobs", 22 },
                { "SELECT * FROM devices WHERE", 27 },
                { "SELECT * FROM devices WHERE deviceId = ", 39 },
                { "SELECT * FROM devices WHERE deviceId = 'x", 39 },
                { "SELECT * FROM devices WHERE (deviceId = 'x'", 43 },
                { "SELECT * FROM devices WHERE deviceId IN 'x'", 40 },
                { "SELECT * FROM devices WHERE NOSUCH(deviceId)", 28 },
                { "SELECT * FROM devices WHERE IS_DEFINED(a, b)", 44 },
                { "SELECT * FROM devices c d", 24 },
                { "SELECT TOP x * FROM devices", 11 },
                { "SELECT TOP 0 * FROM devices", 11 },
                { "SELECT SUM() FROM devices", 11 },
                { "SELECT deviceId, COUNT() FROM devices", 37 },
                { "SELECT * FROM devices GROUP BY status", 37 },
                { "SELECT * FROM devices WHERE a = [[b", 32 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                const char *why = NULL;
                HubQuery *q;
                size_t at;

                ck_assert_msg(hub_query_parse(cases[i].text, &q, &why, &at) == -EINVAL, "%s",
                              cases[i].text);
                ck_assert_msg(why && *why && at == cases[i].at, "%s: %s at %zu", cases[i].text, why, at);
        }
}

TEST(no_text_makes_the_parser_fall) {
        static const char text[] =
                "SELECT TOP 5 c.deviceId AS id, tags.[[x y]] FROM devices AS c WHERE NOT (IS_DEFINED(c.tags.a) "
                "AND -1.5e3 <= properties.reported.t OR STARTSWITH(deviceId, \"a\\\"b\") AND status NIN ['x', "
                "null, true]) ORDER BY deviceId DESC, tags.x ASC";
        char prefix[sizeof(text)];
        char *deep;

        hub_query_free(parse(text));
        for (size_t n = 0; n < sizeof(text) - 1; n++) {
                const char *why;
                HubQuery *q = NULL;
                size_t at;

                memcpy(prefix, text, n);
                prefix[n] = '\0';
                if (hub_query_parse(prefix, &q, &why, &at) >= 0)
                        hub_query_free(q);
                else
                        ck_assert_uint_le(at, n);
        }
        /* Nesting and length have bounds. */
        deep = malloc(20001);
        ck_assert_ptr_nonnull(deep);
        for (size_t k = 0; k < 3; k++) {
                const char *why;
                HubQuery *q;
                size_t at, n = 10000, begin;

                begin = (size_t) sprintf(deep, "SELECT * FROM devices WHERE ");
                memset(deep + begin, "(-N"[k], n);
                if (k == 2)
                        for (size_t i = 0; i + 4 <= n; i += 4)
                                memcpy(deep + begin + i, "NOT ", 4);
                deep[begin + n] = '\0';
                ck_assert_int_eq(hub_query_parse(deep, &q, &why, &at), -EINVAL);
        }
        free(deep);
}

static void assert_rows(const char *text, const char *const *twins, size_t n, const char *want) {
        _cleanup_(hub_query_freep) HubQuery *q = parse(text);
        _cleanup_(hub_query_rows_freep) HubQueryRows *rows = NULL;
        _cleanup_json_ struct json_object *all = NULL;

        ck_assert(!hub_query_streams(q));
        assert_ok(hub_query_rows_new(q, &rows));
        for (size_t i = 0; i < n; i++) {
                _cleanup_json_ struct json_object *twin = json_tokener_parse(twins[i]);

                if (hub_query_match(q, twin))
                        assert_ok(hub_query_rows_add(rows, twin));
        }
        assert_ok(hub_query_rows_finish(rows, &all));
        ck_assert_str_eq(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN), want);
}

TEST(rows_are_grouped_counted_and_sorted) {
        static const char *const twins[] = {
                "{\"deviceId\":\"b\",\"s\":\"on\",\"n\":1}",
                "{\"deviceId\":\"c\",\"s\":\"off\",\"n\":2.5}",
                "{\"deviceId\":\"a\",\"s\":\"on\",\"n\":4}",
                "{\"deviceId\":\"d\",\"n\":\"x\"}",
        };

        assert_rows("SELECT COUNT() FROM devices", twins, 4, "[{\"$1\":4}]");
        assert_rows("SELECT COUNT() AS n FROM devices WHERE s = 'none'", twins, 4, "[{\"n\":0}]");
        assert_rows("SELECT s AS state, COUNT() AS n FROM devices GROUP BY s", twins, 4,
                    "[{\"state\":\"on\",\"n\":2},{\"state\":\"off\",\"n\":1},{\"n\":1}]");
        assert_rows("SELECT SUM(n) AS sum, AVG(n) AS avg, MIN(n) AS least, MAX(n) AS most FROM devices "
                    "WHERE IS_NUMBER(n)",
                    twins, 4, "[{\"sum\":7.5,\"avg\":2.5,\"least\":1,\"most\":4}]");
        assert_rows("SELECT deviceId FROM devices ORDER BY deviceId", twins, 4,
                    "[{\"deviceId\":\"a\"},{\"deviceId\":\"b\"},{\"deviceId\":\"c\"},{\"deviceId\":\"d\"}]");
        assert_rows("SELECT TOP 2 deviceId FROM devices ORDER BY s DESC, deviceId ASC", twins, 4,
                    "[{\"deviceId\":\"a\"},{\"deviceId\":\"b\"}]");
}

TEST(projections_leave_out_what_is_not_there) {
        _cleanup_(hub_query_freep) HubQuery *q =
                parse("SELECT d.deviceId, tags.location.plant, tags.missing, tags.nothing AS x FROM devices d");
        _cleanup_json_ struct json_object *twin = json_tokener_parse(twin_text), *row = NULL;

        ck_assert(hub_query_streams(q) && !hub_query_selects_all(q) && !hub_query_of_modules(q));
        assert_ok(hub_query_project(q, twin, &row));
        ck_assert_str_eq(json_object_to_json_string_ext(row, JSON_C_TO_STRING_PLAIN),
                         "{\"deviceId\":\"d1\",\"plant\":\"Redmond43\",\"x\":null}");
}
