/* Goal: whatever a client sends first, the front reads nothing beyond it, and what it passes on is
 * a CONNECT that it would take again, with the prefix in it. Method: the input as the client's
 * bytes; a result goes through a second time. */
#include "emulator/mqtt-connect.h"

#include "tests/fuzz/fuzz.h"

#define PREFIX "SECRET - - "

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(buffer_done) Buffer once = {}, twice = {};
        MqttConnect connect, again;
        int r;

        r = mqtt_connect_prefix_user(data, n, PREFIX, &once, &connect);
        fuzz_require(r == 1 || r == 0 || r == -EBADMSG || r == -EMSGSIZE);
        if (r != 1) {
                fuzz_require(once.size == 0);
                return 0;
        }
        fuzz_require(connect.taken <= n && once.size > connect.taken);
        fuzz_require(memmem(once.data, once.size, PREFIX, strlen(PREFIX)));

        r = mqtt_connect_prefix_user(once.data, once.size, PREFIX, &twice, &again);
        fuzz_require(r == 1 || r == -EMSGSIZE);
        if (r == 1)
                fuzz_require(again.taken == once.size && twice.size >= once.size + strlen(PREFIX));
        return 0;
}
