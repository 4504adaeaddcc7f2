/* twin-patch.h: a change of a twin from arguments and text. */
#pragma once

#include <json-c/json.h>

/* "site.floor=3" into o as {"site":{"floor":3}}: the value is JSON where it reads as such, else a string;
 * null deletes. A later argument adds to what is there. 0, -EINVAL (no "name=value", or a name goes through
 * what is no object) or -ENOMEM. */
int twin_patch_set(struct json_object *o, const char *assignment);

/* One JSON object and nothing else. 0, -EINVAL or -ENOMEM; *ret_at: the offset of the mistake. */
int twin_patch_parse(const char *text, size_t n, struct json_object **ret, size_t *reterr_at);

/* Any one JSON value likewise; null is a value too, and *ret is NULL then. */
int json_value_parse(const char *text, size_t n, struct json_object **ret, size_t *reterr_at);
