#include "emulator/text-finder.h"

#include <errno.h>
#include <string.h>

int text_finder_init(TextFinder *f, const void *text, size_t n) {
        size_t k = 0;

        if (n == 0 || n > TEXT_FINDER_MAX)
                return -EINVAL;
        *f = (TextFinder){ .n = n };
        memcpy(f->text, text, n);
        /* back[i]: the longest beginning of the text that also ends at i. */
        for (size_t i = 1; i < n; i++) {
                while (k > 0 && f->text[i] != f->text[k])
                        k = f->back[k - 1];
                if (f->text[i] == f->text[k])
                        k++;
                f->back[i] = (uint16_t) k;
        }
        return 0;
}

bool text_finder_feed(const TextFinder *f, size_t *state, const uint8_t *data, size_t n) {
        size_t k = *state;

        for (size_t i = 0; i < n; i++) {
                while (k > 0 && data[i] != f->text[k])
                        k = f->back[k - 1];
                if (data[i] == f->text[k])
                        k++;
                if (k == f->n) {
                        *state = f->back[k - 1];
                        return true;
                }
        }
        *state = k;
        return false;
}
