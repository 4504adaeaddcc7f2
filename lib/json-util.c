#include "lib/json-util.h"

#include <assert.h>
#include <limits.h>

#include "lib/utf8.h"

int json_parse(const void *text, size_t n, int depth, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = NULL;
        struct json_tokener *t;
        enum json_tokener_error error;
        size_t end;

        /* For json-c a NUL ends the text. */
        if (n == 0 || n > INT_MAX || memchr(text, 0, n) || !utf8_is_valid(text, n))
                return -EBADMSG;
        t = json_tokener_new_ex(depth);
        if (!t)
                return -ENOMEM;
        o = json_tokener_parse_ex(t, text, (int) n);
        end = json_tokener_get_parse_end(t);
        /* A bare number ends only where something follows it. */
        if (json_tokener_get_error(t) == json_tokener_continue) {
                o = json_tokener_parse_ex(t, "", 1);
                end = n;
        }
        error = json_tokener_get_error(t);
        json_tokener_free(t);
        if (error != json_tokener_success)
                return -EBADMSG;
        for (; end < n; end++)
                if (!memchr(" \t\r\n", ((const char *) text)[end], 4))
                        return -EBADMSG;
        *ret = TAKE_PTR(o);
        return 0;
}

/* 1 and the value, 0 when it is absent or null, -EINVAL when it has another type. */
static int get_typed(struct json_object *o, const char *field, enum json_type type, struct json_object **ret) {
        struct json_object *v;

        if (!json_object_object_get_ex(o, field, &v) || !v)
                return 0;
        if (!json_object_is_type(v, type))
                return -EINVAL;
        *ret = v;
        return 1;
}

int json_get_string(struct json_object *o, const char *field, const char **ret, size_t *ret_size) {
        struct json_object *v;
        int r = get_typed(o, field, json_type_string, &v);

        if (r <= 0)
                return r;
        *ret = json_object_get_string(v);
        if (ret_size)
                *ret_size = (size_t) json_object_get_string_len(v);
        return 1;
}

int json_get_u64(struct json_object *o, const char *field, uint64_t *ret) {
        struct json_object *v;
        int r = get_typed(o, field, json_type_int, &v);

        if (r <= 0)
                return r;
        if (json_object_get_int64(v) < 0)
                return -ERANGE;
        *ret = json_object_get_uint64(v);
        return 1;
}

int json_get_i64(struct json_object *o, const char *field, int64_t *ret) {
        struct json_object *v;
        int r = get_typed(o, field, json_type_int, &v);

        if (r <= 0)
                return r;
        if (json_object_get_uint64(v) > INT64_MAX)
                return -ERANGE;
        *ret = json_object_get_int64(v);
        return 1;
}

int json_get_bool(struct json_object *o, const char *field, bool *ret) {
        struct json_object *v;
        int r = get_typed(o, field, json_type_boolean, &v);

        if (r <= 0)
                return r;
        *ret = json_object_get_boolean(v);
        return 1;
}

int json_get_object(struct json_object *o, const char *field, struct json_object **ret) {
        return get_typed(o, field, json_type_object, ret);
}

int json_get_array(struct json_object *o, const char *field, struct json_object **ret) {
        return get_typed(o, field, json_type_array, ret);
}

int json_add(struct json_object *o, const char *field, struct json_object *v) {
        if (!v)
                return -ENOMEM;
        if (!o || json_object_object_add(o, field, v) < 0) {
                json_object_put(v);
                return -ENOMEM;
        }
        return 0;
}

int json_add_string(struct json_object *o, const char *field, const char *s) {
        return s ? json_add(o, field, json_object_new_string(s)) : 0;
}

int json_add_string_n(struct json_object *o, const char *field, const char *s, size_t n) {
        if (!s)
                return 0;
        if (n > INT32_MAX)
                return -ENOMEM;
        return json_add(o, field, json_object_new_string_len(s, (int) n));
}

int json_add_u64(struct json_object *o, const char *field, uint64_t v) {
        return json_add(o, field, json_object_new_uint64(v));
}

int json_add_i64(struct json_object *o, const char *field, int64_t v) {
        return json_add(o, field, json_object_new_int64(v));
}

int json_add_bool(struct json_object *o, const char *field, bool v) {
        return json_add(o, field, json_object_new_boolean(v));
}
