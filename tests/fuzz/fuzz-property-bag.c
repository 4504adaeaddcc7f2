/* Goal: every text is a bag or none, and a bag that is written down is the same bag when it is read
 * again. Method: the input as the bag of a topic; a result is encoded and decoded once more. */
#include "lib/property-bag.h"

#include "tests/fuzz/fuzz.h"

static bool same_value(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(property_bag_done) PropertyBag once = {}, twice = {};
        _cleanup_free_ char *text = NULL, *plain = NULL;
        size_t size;
        int r;

        r = percent_decode((const char *) data, n, &plain, &size);
        fuzz_require(r == -EINVAL || (r == 0 && size <= n && plain[size] == '\0'));

        r = property_bag_decode((const char *) data, n, &once);
        fuzz_require(r == 0 || r == -EINVAL);
        if (r < 0)
                return 0;
        fuzz_require(property_bag_encode(&once, &text, &size) == 0 && strlen(text) == size);
        fuzz_require(property_bag_decode(text, size, &twice) == 0);
        fuzz_require(once.n_items == twice.n_items);
        for (size_t i = 0; i < once.n_items; i++)
                fuzz_require(streq(once.items[i].name, twice.items[i].name) &&
                             same_value(once.items[i].value, twice.items[i].value));
        return 0;
}
