/* Twins as services see them. */
#include "emulator/hub-c2d.h"
#include "emulator/hub-registry-private.h"
#include "emulator/hub-twins.h"

/* Seen: a twin of a module that is not there is DeviceNotFound too, and no twin has an ETag header. */
int registry_twin_failure(RegistryAnswer *a, int error, const RegistryCall *c, const char *reason) {
        switch (error) {
        case -ENOENT:
                return registry_error(a, 404, "DeviceNotFound", "%s", c->module ? c->module : c->device);
        case -ESTALE:
                return registry_error(a, 412, "PreconditionFailed", "ETag mismatch for device ID '%s'",
                                      c->device);
        case -EINVAL: return registry_error(a, 400, "ArgumentInvalid", "%s", reason);
        default: return registry_failure(a, error, c, 0);
        }
}

static int answer_twin(RegistryAnswer *a, const HubDevice *d, const HubTwin *t) {
        a->status = 200;
        return hub_twin_to_json(d, t, &a->body);
}

int registry_get_twin(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        int r;

        r = hub_twins_get(c->hub, c->device, c->module, &d, &t);
        return r < 0 ? registry_twin_failure(a, r, c, "") : answer_twin(a, &d, &t);
}

static int change_twin(const RegistryCall *c, bool replace, RegistryAnswer *a) {
        _cleanup_json_ struct json_object *patch = NULL;
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        HubTwinChange change = { .replace = replace };
        const char *reason = "";
        int r;

        r = registry_parse_body(c, json_type_object, a, &patch);
        if (r <= 0)
                return r;
        change.patch = patch;
        if (c->if_match.given && !c->if_match.any)
                change.if_etag = &c->if_match.twin_etag;
        r = hub_twins_change(c->hub, c->device, c->module, &change, &d, &t, &reason);
        return r < 0 ? registry_twin_failure(a, r, c, reason) : answer_twin(a, &d, &t);
}

int registry_patch_twin(const RegistryCall *c, RegistryAnswer *a) {
        return change_twin(c, /* replace= */ false, a);
}

int registry_put_twin(const RegistryCall *c, RegistryAnswer *a) {
        return change_twin(c, /* replace= */ true, a);
}

/* No message waits for a device as long as none can be sent. */
int registry_purge(const RegistryCall *c, RegistryAnswer *a) {
        uint64_t n;
        int r;

        r = hub_c2d_purge(c->hub, c->device, NULL, now_usec(CLOCK_REALTIME), &n);
        if (r < 0)
                return registry_failure(a, r, c, 0);
        a->status = 200;
        a->body = json_object_new_object();
        if (!a->body || json_add_string(a->body, "deviceId", c->device) < 0 ||
            hub_device_add_text(a->body, "moduleId", NULL) < 0)
                return -ENOMEM;
        return json_add_u64(a->body, "totalMessagesPurged", n);
}
