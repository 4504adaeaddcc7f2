/* hub-twin.h: the twin of a device or module: tags, desired and reported properties with their
 * metadata and versions, and how patches change them. Pure.
 * Rules: docs/emulator.md, "Twins". */
#pragma once

#include "emulator/hub-device.h"

#define HUB_TWIN_TAGS_BYTES_MAX (8U * 1024U)
#define HUB_TWIN_PROPERTIES_BYTES_MAX (32U * 1024U)
#define HUB_TWIN_DEPTH_MAX 10U
#define HUB_TWIN_NAME_BYTES_MAX 1024U
#define HUB_TWIN_STRING_BYTES_MAX 4096U

typedef struct HubTwin {
        uint64_t etag;            /* from 1, with every write of tags or desired properties */
        uint64_t version;         /* from 2, with every write */
        struct json_object *tags; /* NULL: none */
        struct json_object *desired, *reported; /* with $metadata and $version behind the properties */
} HubTwin;

void hub_twin_done(HubTwin *t);

/* The twin of d: what is stored with it, or a new one. 0, -EBADMSG (what is stored is none) or
 * -ENOMEM. */
int hub_twin_read(const HubDevice *d, HubTwin *ret);

/* The text to store. 0 or -ENOMEM. */
int hub_twin_format(const HubTwin *t, char **ret);

/* The object as the hub answers with it. 0 or -ENOMEM. */
int hub_twin_to_json(const HubDevice *d, const HubTwin *t, struct json_object **ret);

/* Merges {"tags":{..},"properties":{"desired":{..}}}: null deletes, objects merge, all else replaces;
 * what else patch holds is ignored, since clients send whole twins back. replace: what patch does not
 * hold is deleted. *ret_desired (borrowed from patch): the change of the desired properties, NULL: none.
 * 0, -EINVAL (*reterr_text: static, why) or -ENOMEM; then t is half changed, and to be thrown away. */
int hub_twin_patch(HubTwin *t, struct json_object *patch, bool replace, usec_t now_usec,
                   struct json_object **ret_desired, const char **reterr_text);

/* Merges reported properties that a device sends. As hub_twin_patch(). */
int hub_twin_report(HubTwin *t, struct json_object *patch, usec_t now_usec, const char **reterr_text);

/* The twin of an identity that is made with tags and desired properties at once (each may be NULL), as
 * bulk calls do: its versions stay those of a new one. 0, -EINVAL or -ENOMEM. */
int hub_twin_make(const HubDevice *d, struct json_object *tags, struct json_object *desired,
                  usec_t now_usec, char **ret, const char **reterr_text);

/* What a device gets for its twin: {"desired":{..,"$version":1},"reported":{..}}, without metadata. 0 or
 * -ENOMEM. */
int hub_twin_for_device(const HubTwin *t, struct json_object **ret);

uint64_t hub_twin_properties_version(struct json_object *properties);

/* Eight bytes, the highest first, in base64. 0 or -ENOMEM. */
int hub_twin_etag_format(uint64_t etag, char **ret);
