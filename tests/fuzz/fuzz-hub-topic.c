/* Goal: every text is a topic of the hub or none; the device in a topic of telemetry is the one
 * whose prefix the topic has. Method: the input as a topic, and as ids. */
#include "lib/hub-topic.h"

#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_free_ char *text = strndup((const char *) data, n), *prefix = NULL, *client = NULL;
        _cleanup_(hub_topic_done) HubTopic t = {};
        int r;

        fuzz_require(text);
        r = hub_device_id_check(text, /* for_mqtt= */ true);
        fuzz_require(r == 0 || r == -EINVAL);
        if (r == 0) {
                fuzz_require(hub_device_id_check(text, /* for_mqtt= */ false) == 0);
                fuzz_require(hub_client_id(text, NULL, &client) == 0);
                fuzz_require(hub_client_id_check(client) == 0);
        }

        r = hub_topic_parse(text, &t);
        fuzz_require(r == 0 || r == -EINVAL);
        if (r < 0 || t.kind != HUB_TOPIC_TELEMETRY)
                return 0;
        fuzz_require(t.device_id && t.bag);
        fuzz_require(hub_topic_telemetry_prefix(t.device_id, t.module_id, &prefix) == 0);
        if (!*t.bag)
                prefix[strlen(prefix) - 1] = '\0'; /* without a bag the last slash may be missing */
        fuzz_require(startswith(text, prefix));
        return 0;
}
