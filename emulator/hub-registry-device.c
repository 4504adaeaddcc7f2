/* Identities of devices and modules, and how many there are. */
#include "emulator/hub-registry-private.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define LIST_MAX 1000U

/* Answers about modules have no ETag header, as seen. */
static int answer_identity(RegistryAnswer *a, const HubDevice *d, bool with_z) {
        _cleanup_free_ char *etag = NULL;
        int r;

        if (!d->module_id) {
                r = hub_etag_format(d->etag, &etag);
                if (r >= 0)
                        r = format_string(&a->etag, "\"%s\"", etag);
                if (r < 0)
                        return r;
        }
        a->status = 200;
        return hub_device_to_json(d, with_z, &a->body);
}

int registry_get_identity(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int r;

        r = hub_device_get(c->hub, c->device, c->module, &d);
        return r < 0 ? registry_failure(a, r, c, 0) : answer_identity(a, &d, /* with_z= */ true);
}

static bool names_match(const RegistryCall *c, const HubDevice *d) {
        return streq(d->id, c->device) && (!c->module || streq(d->module_id, c->module));
}

static int put_wanted(const RegistryCall *c, const HubDevice *wanted, RegistryAnswer *a) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        uint64_t existing = 0;
        int r;

        if (c->if_match.given)
                r = hub_device_update(c->hub, wanted, registry_condition_etag(&c->if_match), &made,
                                      &existing);
        else if (wanted->module_id && wanted->module_id[0] == '$')
                return registry_error(a, 400, "ArgumentInvalid",
                                      "Module ids that begin with $ are the hub's own.");
        else
                r = hub_device_create(c->hub, wanted, &made);
        if (r < 0)
                return registry_failure(a, r, c, existing);
        return answer_identity(a, &made, /* with_z= */ c->if_match.given);
}

int registry_put_identity(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_json_ struct json_object *body = NULL;
        _cleanup_(hub_device_done) HubDevice wanted = { 0 };
        const char *reason;
        int r;

        r = registry_parse_body(c, json_type_object, a, &body);
        if (r <= 0)
                return r;
        r = hub_device_from_json(body, c->module ? HUB_DEVICE_FORM_MODULE : HUB_DEVICE_FORM_DEVICE,
                                 &wanted, &reason);
        if (r == -EINVAL)
                return registry_error(a, 400, "ArgumentInvalid", "%s", reason);
        if (r < 0)
                return r;
        if (!names_match(c, &wanted))
                return registry_error(a, 400, "ArgumentInvalid",
                                      "The ids of the body are not those of the path.");
        return put_wanted(c, &wanted, a);
}

int registry_delete_identity(const RegistryCall *c, RegistryAnswer *a) {
        uint64_t existing = 0;
        int r;

        if (!c->if_match.given)
                return registry_error(a, 412, "PreconditionFailed", "Etag missing");
        r = hub_device_delete(c->hub, c->device, c->module, registry_condition_etag(&c->if_match),
                              &existing);
        if (r < 0)
                return registry_failure(a, r, c, existing);
        a->status = 204;
        return 0;
}

static int add_to_list(const HubDevice *d, void *userdata) {
        struct json_object *list = userdata, *o;
        int r;

        r = hub_device_to_json(d, /* with_z= */ true, &o);
        if (r >= 0 && json_object_array_add(list, o) < 0) {
                json_object_put(o);
                r = -ENOMEM;
        }
        return r;
}

static int list_identities(const RegistryCall *c, const HubRange *range, size_t max,
                           RegistryAnswer *a) {
        int r;

        a->status = 200;
        a->body = json_object_new_array();
        if (!a->body)
                return -ENOMEM;
        r = hub_walk(c->hub, range, max, add_to_list, a->body);
        return r < 0 ? registry_failure(a, r, c, 0) : 0;
}

int registry_list_devices(const RegistryCall *c, RegistryAnswer *a) {
        uint64_t max = LIST_MAX;

        if (c->top && parse_u64_range(c->top, 1, LIST_MAX, &max) < 0)
                return registry_error(a, 400, "ArgumentInvalid", "top is not within 1..1000");
        return list_identities(c, &(HubRange) { 0 }, max, a);
}

int registry_list_modules(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int r;

        r = hub_device_get(c->hub, c->device, NULL, &d);
        if (r < 0)
                return registry_failure(a, r, c, 0);
        return list_identities(c, &(HubRange) { .modules = true, .only_device = c->device }, LIST_MAX,
                               a);
}

int registry_count_devices(const RegistryCall *c, RegistryAnswer *a) {
        uint64_t enabled, disabled, connected;
        int r;

        r = hub_device_count(c->hub, &enabled, &disabled, &connected);
        if (r < 0)
                return registry_failure(a, r, c, 0);
        a->status = 200;
        a->body = json_object_new_object();
        if (!a->body || json_add_u64(a->body, "totalDeviceCount", enabled + disabled) < 0 ||
            json_add_u64(a->body, "enabledDeviceCount", enabled) < 0)
                return -ENOMEM;
        return json_add_u64(a->body, "disabledDeviceCount", disabled);
}

int registry_count_connected(const RegistryCall *c, RegistryAnswer *a) {
        uint64_t enabled, disabled, connected;
        int r;

        r = hub_device_count(c->hub, &enabled, &disabled, &connected);
        if (r < 0)
                return registry_failure(a, r, c, 0);
        a->status = 200;
        a->body = json_object_new_object();
        return a->body ? json_add_u64(a->body, "connectedDeviceCount", connected) : -ENOMEM;
}

/* Jobs that export and import need a storage account beside the hub: there are none here. */
int registry_no_job(const RegistryCall *c, RegistryAnswer *a) {
        return registry_error(a, 404, "JobNotFound", "NotFound");
}
