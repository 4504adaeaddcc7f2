#include "client/event-filter.h"

#include <string.h>

/* The text is two pieces with a slash between; module empty: device alone. */
typedef struct Pieces {
        AmqpBytes device, module;
        size_t size;
} Pieces;

static char at(const Pieces *p, size_t i) {
        if (i < p->device.size)
                return (char) p->device.data[i];
        return i == p->device.size ? '/' : (char) p->module.data[i - p->device.size - 1];
}

/* Goes back to the last asterisk only, so that no pattern costs more than its length times the
 * text's. */
static bool matches(const char *pattern, const Pieces *text) {
        const char *after_star = NULL;
        size_t i = 0, star_at = 0;

        while (i < text->size) {
                if (*pattern == '*') {
                        after_star = ++pattern;
                        star_at = i;
                } else if (*pattern && *pattern == at(text, i)) {
                        pattern++;
                        i++;
                } else if (after_star) {
                        pattern = after_star;
                        i = ++star_at;
                } else
                        return false;
        }
        while (*pattern == '*')
                pattern++;
        return *pattern == '\0';
}

bool event_filter_matches(char *const *patterns, size_t n, const Event *e) {
        Pieces device = { e->device, {}, e->device.size };
        Pieces whole = { e->device, e->module, e->device.size + 1 + e->module.size };

        for (size_t i = 0; i < n; i++) {
                const bool with_module = strchr(patterns[i], '/');

                if (with_module && e->module.size == 0)
                        continue;
                if (matches(patterns[i], with_module ? &whole : &device))
                        return true;
        }
        return n == 0;
}

bool event_filter_is_id(const char *pattern) {
        return !strchr(pattern, '*');
}
