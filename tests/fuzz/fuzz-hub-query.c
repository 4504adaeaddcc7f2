/* Goal: whatever text comes as a query, it is refused with a place inside it, or can be asked about a
 * twin. Method: the input as the query. */
#include "emulator/hub-query.h"
#include "lib/json-util.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        static const char twin_text[] = "{\"deviceId\":\"d1\",\"tags\":{\"a\":1,\"b\":{\"c\":[null]}},"
                                        "\"properties\":{\"reported\":{\"t\":1.5,\"on\":true}}}";
        _cleanup_json_ struct json_object *twin = json_tokener_parse(twin_text), *row = NULL, *all = NULL;
        _cleanup_(hub_query_freep) HubQuery *q = NULL;
        _cleanup_(hub_query_rows_freep) HubQueryRows *rows = NULL;
        _cleanup_free_ char *text = strndup((const char *) data, n);
        const char *why = NULL;
        size_t at;
        int r;

        fuzz_require(text && twin);
        r = hub_query_parse(text, &q, &why, &at);
        fuzz_require(r == 0 || (r == -EINVAL && why && at <= strlen(text)));
        if (r < 0)
                return 0;
        (void) hub_query_match(q, twin); /* either will do */
        if (hub_query_streams(q)) {
                fuzz_require(hub_query_project(q, twin, &row) == 0 && row);
                return 0;
        }
        fuzz_require(hub_query_rows_new(q, &rows) == 0);
        fuzz_require(hub_query_rows_add(rows, twin) == 0 && hub_query_rows_add(rows, twin) == 0);
        fuzz_require(hub_query_rows_finish(rows, &all) == 0 && all);
        return 0;
}
