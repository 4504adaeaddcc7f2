#include "client/twin-patch.h"

#include <ctype.h>
#include <errno.h>

#include "lib/json-util.h"

#define DEPTH_MAX 32

int json_value_parse(const char *text, size_t n, struct json_object **ret, size_t *reterr_at) {
        struct json_tokener *t = json_tokener_new_ex(DEPTH_MAX);
        struct json_object *o;
        enum json_tokener_error e;
        size_t end;

        if (!t)
                return -ENOMEM;
        if (n > INT32_MAX - 1) {
                json_tokener_free(t);
                *reterr_at = 0;
                return -EINVAL;
        }
        json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS);
        /* The NUL behind the text ends a number. */
        o = json_tokener_parse_ex(t, text, (int) n + 1);
        e = json_tokener_get_error(t);
        end = json_tokener_get_parse_end(t);
        json_tokener_free(t);
        while (e == json_tokener_success && end < n && isspace((unsigned char) text[end]))
                end++;
        if (e != json_tokener_success || end < n) {
                json_object_put(o);
                *reterr_at = end < n ? end : n;
                return -EINVAL;
        }
        *ret = o;
        return 0;
}

int twin_patch_parse(const char *text, size_t n, struct json_object **ret, size_t *reterr_at) {
        struct json_object *o = NULL;
        int r;

        r = json_value_parse(text, n, &o, reterr_at);
        if (r < 0)
                return r;
        if (!json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                *reterr_at = 0;
                return -EINVAL;
        }
        *ret = o;
        return 0;
}

static int value_of(const char *text, struct json_object **ret) {
        size_t at;
        int r;

        r = json_value_parse(text, strlen(text), ret, &at);
        if (r != -EINVAL)
                return r;
        *ret = json_object_new_string(text);
        return *ret ? 0 : -ENOMEM;
}

int twin_patch_set(struct json_object *o, const char *assignment) {
        const char *equals = strchr(assignment, '='), *name = assignment;
        struct json_object *value;
        int r;

        if (!equals)
                return -EINVAL;
        for (;;) {
                size_t n = strcspn(name, ".=");
                _cleanup_free_ char *part = strndup(name, n);
                struct json_object *inner = NULL;

                if (!part)
                        return -ENOMEM;
                if (n == 0)
                        return -EINVAL;
                if (name[n] == '=') {
                        r = value_of(equals + 1, &value);
                        if (r < 0)
                                return r;
                        if (json_object_object_add(o, part, value) < 0) {
                                json_object_put(value);
                                return -ENOMEM;
                        }
                        return 0;
                }
                r = json_get_object(o, part, &inner);
                if (r < 0)
                        return -EINVAL;
                if (r == 0) {
                        inner = json_object_new_object();
                        if (json_add(o, part, inner) < 0)
                                return -ENOMEM;
                }
                o = inner;
                name += n + 1;
        }
}
