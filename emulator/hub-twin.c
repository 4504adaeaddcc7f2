#include "emulator/hub-twin.h"

#include <assert.h>

#include "lib/base64.h"

#define NUMBER_MAX INT64_C(4503599627370495) /* 52 bits, as the documents say; -1 more below zero */

static const char year_one[] = "0001-01-01T00:00:00Z";

void hub_twin_done(HubTwin *t) {
        json_object_put(t->tags);
        json_object_put(t->desired);
        json_object_put(t->reported);
        *t = (HubTwin) { 0 };
}

int hub_twin_etag_format(uint64_t etag, char **ret) {
        uint8_t bytes[8];
        size_t n;

        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (uint8_t) (etag >> 8 * (sizeof(bytes) - 1 - i));
        return base64_encode(bytes, sizeof(bytes), ret, &n);
}

uint64_t hub_twin_properties_version(struct json_object *properties) {
        uint64_t version = 0;

        (void) json_get_u64(properties, "$version", &version); /* always there */
        return version;
}

static struct json_object *new_properties(const char *stamp) {
        struct json_object *o = json_object_new_object(), *metadata = json_object_new_object();

        if (json_add(o, "$metadata", metadata) < 0 ||
            json_add_string(metadata, "$lastUpdated", stamp) < 0 ||
            json_add_u64(o, "$version", 1) < 0) {
                json_object_put(o);
                return NULL;
        }
        return o;
}

/* Seen: the times of a module's new twin are "year 1", those of a device's its creation. */
static int new_twin(const HubDevice *d, HubTwin *ret) {
        char stamp[FORMAT_TIMESTAMP_MAX];

        if (d->module_id)
                strcpy(stamp, year_one);
        else
                format_timestamp(stamp, sizeof(stamp), hub_device_created_usec(d));
        *ret = (HubTwin) { .etag = 1,
                           .version = 2,
                           .desired = new_properties(stamp),
                           .reported = new_properties(stamp) };
        if (ret->desired && ret->reported)
                return 0;
        hub_twin_done(ret);
        return -ENOMEM;
}

int hub_twin_read(const HubDevice *d, HubTwin *ret) {
        _cleanup_json_ struct json_object *o = NULL;
        struct json_object *tags = NULL, *desired, *reported;
        HubTwin t = { 0 };

        if (!d->twin)
                return new_twin(d, ret);
        o = json_tokener_parse(d->twin);
        if (!o || !json_object_is_type(o, json_type_object) ||
            json_get_u64(o, "etag", &t.etag) <= 0 || json_get_u64(o, "version", &t.version) <= 0 ||
            json_get_object(o, "tags", &tags) < 0 || json_get_object(o, "desired", &desired) <= 0 ||
            json_get_object(o, "reported", &reported) <= 0)
                return -EBADMSG;
        t.tags = json_object_get(tags);
        t.desired = json_object_get(desired);
        t.reported = json_object_get(reported);
        *ret = t;
        return 0;
}

int hub_twin_format(const HubTwin *t, char **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *text;

        if (!o || json_add_u64(o, "etag", t->etag) < 0 || json_add_u64(o, "version", t->version) < 0 ||
            (t->tags && json_add(o, "tags", json_object_get(t->tags)) < 0) ||
            json_add(o, "desired", json_object_get(t->desired)) < 0 ||
            json_add(o, "reported", json_object_get(t->reported)) < 0)
                return -ENOMEM;
        text = json_object_to_json_string_ext(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        *ret = text ? strdup(text) : NULL;
        return *ret ? 0 : -ENOMEM;
}

static int add_head(struct json_object *o, const HubDevice *d, const HubTwin *t) {
        _cleanup_free_ char *etag = NULL, *device_etag = NULL;

        if (hub_twin_etag_format(t->etag, &etag) < 0 || hub_etag_format(d->etag, &device_etag) < 0 ||
            json_add_string(o, "deviceId", d->id) < 0 ||
            json_add_string(o, "moduleId", d->module_id) < 0 ||
            json_add_string(o, "etag", etag) < 0 ||
            json_add_string(o, "deviceEtag", device_etag) < 0 ||
            json_add_string(o, "status", d->enabled ? "enabled" : "disabled") < 0 ||
            json_add_string(o, "statusReason", d->status_reason) < 0 ||
            hub_device_add_time(o, "statusUpdateTime", d->status_updated_usec, true) < 0 ||
            json_add_string(o, "connectionState", d->connected ? "Connected" : "Disconnected") < 0 ||
            hub_device_add_time(o, "lastActivityTime", d->last_activity_usec, true) < 0 ||
            json_add_u64(o, "cloudToDeviceMessageCount", d->n_c2d) < 0 ||
            json_add_string(o, "authenticationType", hub_device_auth_name(d->auth)) < 0 ||
            hub_device_add_thumbprints(o, d) < 0)
                return -ENOMEM;
        return json_add_u64(o, "version", t->version);
}

int hub_twin_to_json(const HubDevice *d, const HubTwin *t, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        struct json_object *properties = json_object_new_object(), *capabilities;

        if (!o || add_head(o, d, t) < 0) {
                json_object_put(properties);
                return -ENOMEM;
        }
        if ((t->tags && json_object_object_length(t->tags) > 0 &&
             json_add(o, "tags", json_object_get(t->tags)) < 0)) {
                json_object_put(properties);
                return -ENOMEM;
        }
        if (json_add(o, "properties", properties) < 0 ||
            json_add(properties, "desired", json_object_get(t->desired)) < 0 ||
            json_add(properties, "reported", json_object_get(t->reported)) < 0)
                return -ENOMEM;
        if (!d->module_id) {
                capabilities = json_object_new_object();
                if (json_add(o, "capabilities", capabilities) < 0 ||
                    json_add_bool(capabilities, "iotEdge", d->iot_edge) < 0 ||
                    hub_device_add_scopes(o, d) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(o);
        return 0;
}

/* What a patch may hold. */

static int check_name(const char *name, const char **reterr_text) {
        size_t n = strlen(name);

        if (n == 0 || n > HUB_TWIN_NAME_BYTES_MAX) {
                *reterr_text = "A property name is empty or longer than 1024 bytes";
                return -EINVAL;
        }
        for (; *name; name++)
                if ((unsigned char) *name < 0x20 || *name == 0x7f || strchr(".$# ", *name)) {
                        *reterr_text = "A property name holds a control character, a space, or one of . $ #";
                        return -EINVAL;
                }
        return 0;
}

static int check_value(struct json_object *v, unsigned depth, bool in_array,
                       const char **reterr_text) {
        int64_t n;

        if (!v) {
                *reterr_text = "null deletes a property and cannot stand in an array";
                return in_array ? -EINVAL : 0;
        }
        if (depth > HUB_TWIN_DEPTH_MAX) {
                *reterr_text = "Properties are nested deeper than 10";
                return -EINVAL;
        }
        switch (json_object_get_type(v)) {
        case json_type_string:
                *reterr_text = "A string is longer than 4096 bytes";
                return json_object_get_string_len(v) > (int) HUB_TWIN_STRING_BYTES_MAX ? -EINVAL : 0;
        case json_type_int:
                n = json_object_get_int64(v); /* saturates */
                *reterr_text = "A number needs more than 52 bits";
                return n > NUMBER_MAX || n < -NUMBER_MAX - 1 ? -EINVAL : 0;
        case json_type_array:
                for (size_t i = 0; i < json_object_array_length(v); i++)
                        if (check_value(json_object_array_get_idx(v, i), depth + 1, true,
                                        reterr_text) < 0)
                                return -EINVAL;
                return 0;
        case json_type_object: {
                json_object_object_foreach(v, name, value) {
                        if (check_name(name, reterr_text) < 0 ||
                            check_value(value, depth + 1, in_array, reterr_text) < 0)
                                return -EINVAL;
                }
                return 0;
        }
        default: return 0;
        }
}

static bool is_system_name(const char *name) {
        return streq(name, "$metadata") || streq(name, "$version");
}

/* The members of tags or properties; the hub's own at the top are clients' echoes. */
static int check_members(struct json_object *o, const char **reterr_text) {
        json_object_object_foreach(o, name, value) {
                if (is_system_name(name))
                        continue;
                if (check_name(name, reterr_text) < 0 ||
                    check_value(value, 1, false, reterr_text) < 0)
                        return -EINVAL;
        }
        return 0;
}

/* Merging. */

typedef struct Stamp {
        const char *time;
        uint64_t version;
        bool only_time; /* Seen: what a device has reported carries no version. */
} Stamp;

static int stamp_metadata(struct json_object *metadata, const Stamp *s) {
        if (!metadata)
                return 0;
        if (json_add_string(metadata, "$lastUpdated", s->time) < 0)
                return -ENOMEM;
        return s->only_time ? 0 : json_add_u64(metadata, "$lastUpdatedVersion", s->version);
}

/* The metadata of a member: where there is none, a fresh one; fresh: also where there is one, because
 * the value is of another kind now. NULL in tags, which have no metadata; *ret_failed without memory. */
static struct json_object *member_metadata(struct json_object *metadata, const char *name, bool fresh,
                                           bool *ret_failed) {
        struct json_object *m = NULL;

        if (!metadata)
                return NULL;
        if (!fresh && json_get_object(metadata, name, &m) > 0)
                return m;
        m = json_object_new_object();
        if (json_add(metadata, name, m) < 0) {
                *ret_failed = true;
                return NULL;
        }
        return m;
}

static int merge(struct json_object *target, struct json_object *metadata, struct json_object *patch,
                 const Stamp *s);

static int merge_member(struct json_object *target, struct json_object *metadata, const char *name,
                        struct json_object *value, const Stamp *s) {
        struct json_object *old = NULL, *copy = NULL, *m;
        bool was_object = json_get_object(target, name, &old) > 0, failed = false;
        const bool is_object = json_object_is_type(value, json_type_object);

        if (!value) {
                json_object_object_del(target, name);
                if (metadata)
                        json_object_object_del(metadata, name);
                return 0;
        }
        m = member_metadata(metadata, name, !is_object || !was_object, &failed);
        if (failed || stamp_metadata(m, s) < 0)
                return -ENOMEM;
        if (is_object) {
                if (!was_object) {
                        old = json_object_new_object();
                        if (json_add(target, name, old) < 0)
                                return -ENOMEM;
                }
                return merge(old, m, value, s);
        }
        if (json_object_deep_copy(value, &copy, NULL) < 0)
                return -ENOMEM;
        return json_add(target, name, copy);
}

static int merge(struct json_object *target, struct json_object *metadata, struct json_object *patch,
                 const Stamp *s) {
        json_object_object_foreach(patch, name, value) {
                if (is_system_name(name))
                        continue;
                if (merge_member(target, metadata, name, value, s) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static size_t text_size(struct json_object *o) {
        size_t n = 0;

        (void) json_object_to_json_string_length(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
        return n;
}

/* Properties in place of *properties: the old ones without the hub's members, merged, and these behind
 * them again. */
static int change_properties(struct json_object **properties, struct json_object *patch, bool replace,
                             const Stamp *s, const char **reterr_text) {
        _cleanup_json_ struct json_object *fresh = NULL, *metadata = NULL;
        struct json_object *old_metadata;

        if (check_members(patch, reterr_text) < 0)
                return -EINVAL;
        if (!replace && json_get_object(*properties, "$metadata", &old_metadata) > 0)
                metadata = json_object_get(old_metadata);
        else
                metadata = json_object_new_object();
        fresh = json_object_new_object();
        if (!fresh || !metadata)
                return -ENOMEM;
        if (!replace) {
                json_object_object_foreach(*properties, name, value) {
                        if (!is_system_name(name) &&
                            json_object_object_add(fresh, name, json_object_get(value)) < 0)
                                return -ENOMEM;
                }
        }
        if (stamp_metadata(metadata, s) < 0 || merge(fresh, metadata, patch, s) < 0)
                return -ENOMEM;
        if (text_size(fresh) > HUB_TWIN_PROPERTIES_BYTES_MAX) {
                *reterr_text = "The properties are larger than 32 KB";
                return -EINVAL;
        }
        if (json_add(fresh, "$metadata", TAKE_PTR(metadata)) < 0 ||
            json_add_u64(fresh, "$version", s->version) < 0)
                return -ENOMEM;
        json_object_put(*properties);
        *properties = TAKE_PTR(fresh);
        return 0;
}

static int change_tags(HubTwin *t, struct json_object *patch, bool replace, const char **reterr_text) {
        if (check_members(patch, reterr_text) < 0)
                return -EINVAL;
        if (replace || !t->tags) {
                json_object_put(t->tags);
                t->tags = json_object_new_object();
                if (!t->tags)
                        return -ENOMEM;
        }
        if (merge(t->tags, NULL, patch, &(Stamp) { 0 }) < 0)
                return -ENOMEM;
        if (text_size(t->tags) > HUB_TWIN_TAGS_BYTES_MAX) {
                *reterr_text = "The tags are larger than 8 KB";
                return -EINVAL;
        }
        return 0;
}

/* Absent and null are the same. */
static int get_parts(struct json_object *patch, struct json_object **ret_tags,
                     struct json_object **ret_desired, const char **reterr_text) {
        struct json_object *properties = NULL;

        *ret_tags = *ret_desired = NULL;
        *reterr_text = "tags, properties and properties.desired are objects";
        if (json_get_object(patch, "tags", ret_tags) < 0 ||
            json_get_object(patch, "properties", &properties) < 0 ||
            (properties && json_get_object(properties, "desired", ret_desired) < 0))
                return -EINVAL;
        return 0;
}

int hub_twin_patch(HubTwin *t, struct json_object *patch, bool replace, usec_t now_usec,
                   struct json_object **ret_desired, const char **reterr_text) {
        _cleanup_json_ struct json_object *nothing = json_object_new_object();
        struct json_object *tags, *desired;
        char time[FORMAT_TIMESTAMP_MAX];
        Stamp s = { .time = time, .version = hub_twin_properties_version(t->desired) + 1 };
        int r;

        if (!nothing)
                return -ENOMEM;
        format_timestamp(time, sizeof(time), now_usec);
        r = get_parts(patch, &tags, &desired, reterr_text);
        if (r < 0)
                return r;
        *ret_desired = desired;
        if (replace && !tags)
                tags = nothing;
        if (replace && !desired)
                desired = nothing;
        if (tags)
                r = change_tags(t, tags, replace, reterr_text);
        if (r >= 0 && desired)
                r = change_properties(&t->desired, desired, replace, &s, reterr_text);
        if (r >= 0 && (tags || desired)) {
                t->etag++;
                t->version++;
        }
        return r;
}

int hub_twin_report(HubTwin *t, struct json_object *patch, usec_t now_usec, const char **reterr_text) {
        char time[FORMAT_TIMESTAMP_MAX];
        Stamp s = { .time = time,
                    .version = hub_twin_properties_version(t->reported) + 1,
                    .only_time = true };
        int r;

        format_timestamp(time, sizeof(time), now_usec);
        r = change_properties(&t->reported, patch, /* replace= */ false, &s, reterr_text);
        if (r >= 0)
                t->version++;
        return r;
}

static int stamp_reported(HubTwin *t, const char *time) {
        struct json_object *metadata;

        if (json_get_object(t->reported, "$metadata", &metadata) <= 0)
                return -EINVAL;
        return stamp_metadata(metadata, &(Stamp) { .time = time, .version = 1 });
}

int hub_twin_make(const HubDevice *d, struct json_object *tags, struct json_object *desired,
                  usec_t now_usec, char **ret, const char **reterr_text) {
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        char time[FORMAT_TIMESTAMP_MAX];
        int r;

        /* Seen: "year 1" for devices here too. */
        if (d->module_id)
                format_timestamp(time, sizeof(time), now_usec);
        else
                strcpy(time, year_one);
        t = (HubTwin) { .etag = 1,
                        .version = 2,
                        .desired = new_properties(time),
                        .reported = new_properties(time) };
        r = t.desired && t.reported ? 0 : -ENOMEM;
        /* Seen: a module's reported properties count from the same write. */
        if (r >= 0 && d->module_id)
                r = stamp_reported(&t, time);
        if (r >= 0 && tags)
                r = change_tags(&t, tags, /* replace= */ false, reterr_text);
        if (r >= 0 && desired)
                r = change_properties(&t.desired, desired, /* replace= */ false,
                                      &(Stamp) { .time = time, .version = 1 }, reterr_text);
        return r < 0 ? r : hub_twin_format(&t, ret);
}

static int add_without_metadata(struct json_object *o, const char *name,
                                struct json_object *properties) {
        struct json_object *shown = json_object_new_object();

        if (json_add(o, name, shown) < 0)
                return -ENOMEM;
        json_object_object_foreach(properties, member, value) {
                if (!streq(member, "$metadata") &&
                    json_object_object_add(shown, member, json_object_get(value)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int hub_twin_for_device(const HubTwin *t, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        if (!o || add_without_metadata(o, "desired", t->desired) < 0 ||
            add_without_metadata(o, "reported", t->reported) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}
