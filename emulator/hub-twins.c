#include "emulator/hub-twins.h"

#include "lib/json-util.h"

int hub_twins_get(Hub *h, const char *id, const char *module_id, HubDevice *ret_device,
                  HubTwin *ret_twin) {
        HubDevice d = { 0 };
        int r;

        r = hub_device_get(h, id, module_id, &d);
        if (r >= 0)
                r = hub_twin_read(&d, ret_twin);
        if (r < 0) {
                hub_device_done(&d);
                return r;
        }
        *ret_device = d;
        return 0;
}

static int store(Hub *h, HubDevice *d, const HubTwin *t) {
        char *text = NULL;
        int r;

        r = hub_twin_format(t, &text);
        if (r < 0)
                return r;
        free(d->twin);
        d->twin = text;
        return hub_device_store_twin(h, d);
}

/* The device hears of the change as it was asked for, nulls among it, with the version. */
static int notify(Hub *h, const HubDevice *d, const HubTwin *t, struct json_object *desired) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        _cleanup_free_ char *client_id = NULL;
        const uint64_t version = hub_twin_properties_version(t->desired);
        const char *text;

        if (!o || hub_device_client_id(d->id, d->module_id, &client_id) < 0)
                return -ENOMEM;
        json_object_object_foreach(desired, name, value) {
                if (!streq(name, "$metadata") && !streq(name, "$version") &&
                    json_object_object_add(o, name, json_object_get(value)) < 0)
                        return -ENOMEM;
        }
        if (json_add_u64(o, "$version", version) < 0)
                return -ENOMEM;
        text = json_object_to_json_string_ext(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        if (!text)
                return -ENOMEM;
        return hub_notice_add(h, &(HubNotice) { .client_id = client_id,
                                                .text = (char *) (uintptr_t) text,
                                                .version = version });
}

static int change_begun(Hub *h, const char *id, const char *module_id, const HubTwinChange *change,
                        HubDevice *ret_device, HubTwin *ret_twin, const char **reterr_text) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        struct json_object *desired = NULL;
        int r;

        r = hub_twins_get(h, id, module_id, &d, &t);
        if (r < 0)
                return r;
        if (change->if_etag && *change->if_etag != t.etag)
                return -ESTALE;
        r = hub_twin_patch(&t, change->patch, change->replace, now_usec(CLOCK_REALTIME), &desired,
                           reterr_text);
        if (r >= 0)
                r = store(h, &d, &t);
        if (r >= 0 && desired)
                r = notify(h, &d, &t, desired);
        if (r < 0)
                return r;
        *ret_device = d;
        *ret_twin = t;
        d = (HubDevice) { 0 };
        t = (HubTwin) { 0 };
        return 0;
}

int hub_twins_change(Hub *h, const char *id, const char *module_id, const HubTwinChange *change,
                     HubDevice *ret_device, HubTwin *ret_twin, const char **reterr_text) {
        HubDevice d = { 0 };
        HubTwin t = { 0 };
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, change_begun(h, id, module_id, change, &d, &t, reterr_text));
        if (r < 0) {
                hub_device_done(&d);
                hub_twin_done(&t);
                return r;
        }
        *ret_device = d;
        *ret_twin = t;
        return 0;
}

static int report_begun(Hub *h, const char *id, const char *module_id, struct json_object *patch,
                        uint64_t *ret_version, const char **reterr_text) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        int r;

        r = hub_twins_get(h, id, module_id, &d, &t);
        if (r >= 0)
                r = hub_twin_report(&t, patch, now_usec(CLOCK_REALTIME), reterr_text);
        if (r >= 0)
                r = store(h, &d, &t);
        if (r >= 0)
                *ret_version = hub_twin_properties_version(t.reported);
        return r;
}

int hub_twins_report(Hub *h, const char *id, const char *module_id, struct json_object *patch,
                     uint64_t *ret_version, const char **reterr_text) {
        int r;

        r = hub_begin(h);
        return r < 0 ? r : hub_end(h, report_begun(h, id, module_id, patch, ret_version, reterr_text));
}
