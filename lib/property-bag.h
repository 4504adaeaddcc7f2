/* property-bag.h: ordered name/value pairs and their percent-encoded form, "name=value&name".
 * Rules: docs/hub-limits.md, "Property bag"; vectors: property_bag_encode, property_bag_decode. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/buffer.h"
#include "lib/macro.h"

typedef struct Property {
        char *name;  /* decoded */
        char *value; /* decoded; NULL where the bag has the name alone */
} Property;

typedef struct PropertyBag {
        Property *items;
        size_t n_items;
} PropertyBag;

/* Copies. Order is kept; the same name twice is allowed here (hub-message checks). 0 or -ENOMEM. */
int property_bag_add(PropertyBag *b, const char *name, const char *value);

/* First value of that name, "" for a name without one, NULL when absent. Borrowed. */
const char *property_bag_get(const PropertyBag *b, const char *name);

/* *ret is NUL-terminated and the caller's. 0 or -ENOMEM. */
int property_bag_encode(const PropertyBag *b, char **ret, size_t *ret_size);

/* Text that is no bag (bad escape, escaped NUL, invalid UTF-8 after decoding) is -EINVAL. A "+" stays a "+".
 * 0, -EINVAL or -ENOMEM; *ret is filled only on success. */
int property_bag_decode(const char *s, size_t n, PropertyBag *ret);
void property_bag_done(PropertyBag *b);

/* Percent-encoding of single texts: bare are A-Z a-z 0-9 - . _ ~ (RFC 3986), all else %XX upper case. */
int percent_encode(const char *s, size_t n, char **ret);
int percent_encode_append(Buffer *out, const char *s, size_t n);
/* *ret gets a NUL behind *ret_size bytes; %00 decodes to a NUL byte. 0, -EINVAL (bad escape) or -ENOMEM. */
int percent_decode(const char *s, size_t n, char **ret, size_t *ret_size);
