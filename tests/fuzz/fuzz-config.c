/* Goal: every file is a configuration within the bounds of the table, or a fault that ends the
 * start; never a crash. Method: the input as the file, in memory. */
#include "daemon/config.h"

#include <sys/mman.h>
#include <sys/uio.h>

#include "lib/fd-util.h"
#include "tests/fuzz/fuzz.h"

/* libconfig itself loses the text that it has just read when a syntax error follows. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
        return "leak:strbuf_append\nleak:libconfig_yylex";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_close_ int fd = memfd_create("conf", MFD_CLOEXEC);
        Config c = {};
        char path[64];
        int r;

        log_setup(LOG_TARGET_STDERR, LOG_EMERG); /* the sentences are not for anybody here */
        /* Another file that is included belongs to the machine and not to the input. */
        if (memmem(data, n, "@include", strlen("@include")))
                return 0;
        fuzz_require(fd >= 0 && write_all(fd, data, n) == 0);
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        r = config_load(path, &c);
        fuzz_require(r == 0 || r == -EINVAL || r == -EFBIG);
        if (r < 0)
                return 0;
        fuzz_require(c.mqtt_port >= 1 && c.mqtt_port <= 65535);
        fuzz_require(c.uplink.window >= 1 && c.uplink.window <= 1000);
        fuzz_require(c.uplink.retry_min_usec <= c.uplink.retry_max_usec);
        fuzz_require(c.ipc.user_bytes_max <= c.ipc.buffer_bytes_max);
        config_done(&c);
        return 0;
}
