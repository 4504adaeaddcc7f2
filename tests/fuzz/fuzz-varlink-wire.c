/* Goal: whatever bytes a client sends, the reader gives the same messages however they are cut,
 * takes only what json-c reads as well, and what it took survives being written and read again.
 * Method: the input, fed at once and in pieces whose sizes come from its own bytes. */
#include "lib/varlink-wire.h"

#include "lib/utf8.h"
#include "tests/fuzz/fuzz.h"

static void write_and_read(struct json_object *o) {
        _cleanup_(varlink_reader_done) VarlinkReader r = {};
        _cleanup_(buffer_done) Buffer b = {};
        _cleanup_json_ struct json_object *again = NULL;
        int n;

        fuzz_require(varlink_append_reply(&b, o, false) == 0);
        fuzz_require(utf8_is_valid(b.data, b.size));
        if (varlink_reader_feed(&r, b.data, b.size) < 0)
                return; /* the frame around it may pass a limit */
        n = varlink_reader_next(&r, &again, NULL, NULL);
        if (n == 1)
                fuzz_require(json_object_equal(json_object_object_get(again, "parameters"), o));
        else
                fuzz_require(n == -E2BIG || n == -EBADMSG); /* one level deeper than it was */
}

/* What the reader gives, as text; errors count as messages. */
static void drain(VarlinkReader *r, Buffer *log) {
        for (;;) {
                _cleanup_json_ struct json_object *o = NULL;
                const char *reason = "";
                VarlinkCall call;
                int n = varlink_reader_next(r, &o, NULL, &reason);

                if (n == 0)
                        return;
                fuzz_require(n == 1 || n == -EBADMSG || n == -E2BIG);
                fuzz_require(!startswith(reason, "the JSON library"));
                fuzz_require(buffer_appendf(log, "%d %s %s\n", n, reason,
                                            o ? json_object_to_json_string(o) : "") == 0);
                if (o) {
                        write_and_read(o);
                        (void) varlink_call_parse(o, &call); /* any result, no crash */
                }
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(varlink_reader_done) VarlinkReader whole = {}, pieces = {};
        _cleanup_(buffer_done) Buffer want = {}, got = {};
        int r, q = 0;

        r = varlink_reader_feed(&whole, data, n);
        drain(&whole, &want);
        for (size_t i = 0; i < n && q >= 0;) {
                size_t size = MIN((size_t) (data[i] % 61) + 1, n - i);

                q = varlink_reader_feed(&pieces, data + i, size);
                if (data[i] & 1)
                        drain(&pieces, &got);
                i += size;
        }
        drain(&pieces, &got);
        fuzz_require(r == q);
        fuzz_require(want.size == got.size &&
                     (want.size == 0 || memcmp(want.data, got.data, want.size) == 0));
        return 0;
}
