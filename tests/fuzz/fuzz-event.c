/* Goal: whatever bytes an events endpoint sends, an event is refused or becomes one line of JSON, and one of
 * text without control characters, in every way to show it. Method: the input as a message. */
#include "client/event-output.h"

#include "lib/json-text.h"
#include "lib/utf8.h"
#include "tests/fuzz/fuzz.h"

static void check(const Event *e, EventFormat f) {
        _cleanup_(buffer_done) Buffer out = {};
        size_t n;

        fuzz_require(event_format(e, &f, &out) == 0);
        fuzz_require(out.size > 1 && out.data[out.size - 1] == '\n');
        n = out.size - 1;
        fuzz_require(utf8_is_valid(out.data, n));
        fuzz_require(!f.json || json_text_is_valid((const char *) out.data, n, 64));
        for (size_t i = 0; i < n; i++)
                fuzz_require((out.data[i] >= 0x20 || (!f.json && f.properties && out.data[i] == '\n')) &&
                             out.data[i] != 0x7f && (out.data[i] != 0xc2 || out.data[i + 1] >= 0xa0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        Event e;

        if (event_read(data, n, "0", &e) < 0)
                return 0;
        for (EventContent content = 0; content < _EVENT_CONTENT_MAX; content++)
                for (unsigned i = 0; i < 4; i++)
                        check(&e, (EventFormat){ .json = i & 1,
                                                 .content = content,
                                                 .properties = i & 2 ? EVENT_PROPERTIES_ALL : 0 });
        return 0;
}
