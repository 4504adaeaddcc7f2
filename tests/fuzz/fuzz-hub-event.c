/* Goal: every text is a line of ours or none; its texts end where they say and lie within it.
 * Method: the input as a line of events.jsonl, in memory of its size. */
#include "emulator/hub-event-scan.h"

#include "tests/fuzz/fuzz.h"

static void require_text(HubEventText t) {
        fuzz_require(!t.data || strlen(t.data) == t.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(hub_event_scan_done) HubEventScan s = { 0 }, place = { 0 };
        _cleanup_free_ char *line = malloc(n > 0 ? n : 1), *again = malloc(n > 0 ? n : 1);
        int r;

        fuzz_require(line && again);
        if (n > 0) {
                memcpy(line, data, n);
                memcpy(again, data, n);
        }
        r = hub_event_scan(&s, line, n);
        fuzz_require(r == 0 || r == -EBADMSG);
        if (r < 0) {
                r = hub_event_scan_place(&place, again, n);
                fuzz_require(r == 0 || r == -EBADMSG);
                return 0;
        }
        fuzz_require(hub_event_scan_place(&place, again, n) == 0);
        fuzz_require(place.event.place.offset == s.event.place.offset);
        fuzz_require(s.event.body && s.event.body_size <= n);
        require_text(s.event.device_id);
        require_text(s.event.module_id);
        require_text(s.event.generation_id);
        require_text(s.event.model_id);
        for (HubSystemProperty i = 0; i < _HUB_SYSTEM_MAX; i++)
                require_text(s.event.system[i]);
        for (size_t i = 0; i < s.event.n_properties; i++) {
                require_text(s.event.properties[i].name);
                require_text(s.event.properties[i].value);
                fuzz_require(s.event.properties[i].value.data);
        }
        return 0;
}
