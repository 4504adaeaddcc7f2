/* Goal: whatever JSON a registry call brings, it is refused with a reason or becomes an identity
 * that is written and read without a change. Method: the input as the body of a PUT. */
#include "emulator/hub-device.h"

#include "tests/fuzz/fuzz.h"

static bool same(const char *a, const char *b) {
        return streq(strempty(a), strempty(b));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_json_ struct json_object *o = NULL, *written = NULL;
        _cleanup_(hub_device_done) HubDevice d = {}, again = {};
        _cleanup_free_ char *text = strndup((const char *) data, n);
        const char *reason = NULL;
        int r;

        fuzz_require(text);
        o = json_tokener_parse(text);
        if (!o || !json_object_is_type(o, json_type_object))
                return 0;
        r = hub_device_from_json(o, HUB_DEVICE_FORM_DEVICE, &d, &reason);
        fuzz_require(r == 0 || (r == -EINVAL && reason));
        if (r < 0)
                return 0;

        fuzz_require(hub_device_to_json(&d, true, &written) == 0);
        fuzz_require(hub_device_from_json(written, HUB_DEVICE_FORM_DEVICE, &again, &reason) == 0);
        fuzz_require(same(d.id, again.id) && d.enabled == again.enabled && d.auth == again.auth);
        fuzz_require(same(d.status_reason, again.status_reason) && d.iot_edge == again.iot_edge);
        fuzz_require(same(d.primary_key, again.primary_key) &&
                     same(d.secondary_key, again.secondary_key));
        fuzz_require(same(d.primary_thumbprint, again.primary_thumbprint));
        return 0;
}
