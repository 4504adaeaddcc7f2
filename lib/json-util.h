/* json-util.h: typed access to the fields of a json-c object. A failure is about the field that was asked for: the
 * caller names it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <json-c/json.h>

#include "lib/macro.h"

static inline void json_putp(struct json_object **o) {
        json_object_put(*o);
}
#define _cleanup_json_ _cleanup_(json_putp)

/* Exactly one JSON value, in valid UTF-8, with nothing but white space around it. *ret is the caller's, NULL for the value
 * null. depth: how deep it may be nested. 0, -EBADMSG (it is none, or too deep) or -ENOMEM. */
int json_parse(const void *text, size_t n, int depth, struct json_object **ret);

/* Missing and null are the same: absent. The "get" forms return 1 when the field is there, 0 when it is
 * absent (ret untouched), -EINVAL when it has another type, -ERANGE when a number does not fit. */
int json_get_string(struct json_object *o, const char *field, const char **ret, size_t *ret_size);
int json_get_u64(struct json_object *o, const char *field, uint64_t *ret);
int json_get_i64(struct json_object *o, const char *field, int64_t *ret);
int json_get_bool(struct json_object *o, const char *field, bool *ret);
int json_get_object(struct json_object *o, const char *field, struct json_object **ret); /* borrowed */
int json_get_array(struct json_object *o, const char *field, struct json_object **ret);  /* borrowed */

/* Adds to an object; take care of allocation failure in one place. 0 or -ENOMEM. json_add() consumes v also
 * on failure; o or v NULL is -ENOMEM (so that failed constructors can be passed straight in). A NULL string adds
 * nothing. */
int json_add(struct json_object *o, const char *field, struct json_object *v);
int json_add_string(struct json_object *o, const char *field, const char *s);
int json_add_string_n(struct json_object *o, const char *field, const char *s, size_t n);
int json_add_u64(struct json_object *o, const char *field, uint64_t v);
int json_add_i64(struct json_object *o, const char *field, int64_t v);
int json_add_bool(struct json_object *o, const char *field, bool v);
