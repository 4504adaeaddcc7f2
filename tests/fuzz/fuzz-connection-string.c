/* Goal: whatever stands in the file of a connection string, it is taken apart or refused with a
 * sentence that holds no key (P7), and what is taken has one canonical text. Method: the input as
 * the file, for a device and for a policy; a result is written down and read again. */
#include "lib/connection-string.h"

#include <ctype.h>

#include "tests/fuzz/fuzz.h"

#define KEY "SharedAccessKey="
#define SECRET_MIN 12U /* shorter ones may be part of any sentence */

/* Of something that looks like a key: the sentences' own words have no digits. */
static void require_silence(const char *text, const char *sentence) {
        for (const char *p = strstr(text, KEY); p; p = strstr(p + 1, KEY)) {
                const char *value = p + strlen(KEY);
                size_t n = 0, n_digits = 0;
                _cleanup_free_ char *secret = NULL;

                for (; isalnum((unsigned char) value[n]) || (value[n] && strchr("+/=", value[n]));
                     n++)
                        n_digits += isdigit((unsigned char) value[n]) != 0;
                secret = strndup(value, n);
                fuzz_require(secret);
                if (n >= SECRET_MIN && n_digits > 0)
                        fuzz_require(!strstr(sentence, secret));
        }
}

static void try_kind(const char *text, ConnectionStringKind kind) {
        _cleanup_(connection_string_done) ConnectionString once = {}, twice = {};
        _cleanup_free_ char *sentence = NULL, *written = NULL, *again = NULL;
        int r = connection_string_parse(text, kind, &once, &sentence);

        fuzz_require(r == 0 || r == -EINVAL);
        if (r < 0) {
                fuzz_require(sentence && *sentence);
                require_silence(text, sentence);
                return;
        }
        fuzz_require(once.host_name && (kind == CONNECTION_STRING_SERVICE || once.device_id));
        fuzz_require(connection_string_format(&once, &written) == 0);
        fuzz_require(connection_string_parse(written, kind, &twice, &sentence) == 0);
        fuzz_require(connection_string_format(&twice, &again) == 0);
        fuzz_require(streq(written, again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_free_ char *text = strndup((const char *) data, n);

        fuzz_require(text);
        try_kind(text, CONNECTION_STRING_DEVICE);
        try_kind(text, CONNECTION_STRING_SERVICE);
        return 0;
}
