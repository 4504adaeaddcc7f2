#include "client/identity.h"

#include "lib/hub-topic.h"
#include "lib/json-util.h"
#include "lib/property-bag.h"
#include "lib/string-util.h"
#include "client/output.h"

#define CHANGES_TOLD_MAX 20U

static int check_id(const char *id, const char *kind) {
        if (hub_device_id_check(id, /* for_mqtt= */ false) >= 0)
                return EX_OK;
        say_error("\"%s\" is no %s id: 1 to 128 of A-Z a-z 0-9 - : . + %% _ # * ? ! ( ) , = @ ; $ '",
                  id, kind);
        return EX_USAGE;
}

int identity_name_check(const IdentityName *name) {
        int r;

        r = check_id(name->device, "device");
        return r == EX_OK && name->module ? check_id(name->module, "module") : r;
}

int identity_path(const char *root, const IdentityName *name, char **ret) {
        _cleanup_free_ char *device = NULL, *module = NULL;
        int r;

        r = percent_encode(name->device, strlen(name->device), &device);
        if (r < 0)
                return r;
        if (!name->module)
                return format_string(ret, "/%s/%s", root, device);
        r = percent_encode(name->module, strlen(name->module), &module);
        return r < 0 ? r : format_string(ret, "/%s/%s/modules/%s", root, device, module);
}

int identity_what(const char *verb, const IdentityName *name, char **ret) {
        return name->module ? format_string(ret, "Cannot %s module %s/%s", verb, name->device,
                                            name->module) :
                              format_string(ret, "Cannot %s device %s", verb, name->device);
}

int identity_call(const HubSession *h, const IdentityName *name, const IdentityCall *call,
                  struct json_object **ret, long *ret_status) {
        _cleanup_(registry_answer_done) RegistryAnswer answer = {};
        _cleanup_free_ char *path = NULL, *what = NULL;
        RegistryRequest request = {
                .method = call->method,
                .if_match = call->if_match,
                .body = call->body,
                .expected_status = { call->expect_conflict ? 412 : 0 },
        };
        int r;

        r = identity_name_check(name);
        if (r != EX_OK)
                return r;
        if (identity_path("devices", name, &path) < 0 || identity_what(call->verb, name, &what) < 0)
                return say_out_of_memory();
        request.path = path;
        request.what = what;
        r = registry_client_call(h->client, &request, &answer);
        if (ret_status)
                *ret_status = answer.status;
        if (r == EX_OK && ret)
                *ret = TAKE_PTR(answer.body);
        return r;
}

static int check_object(struct json_object *o) {
        if (json_object_is_type(o, json_type_object))
                return EX_OK;
        say_error("The hub's answer is not understood");
        return EX_PROTOCOL;
}

int identity_get(const HubSession *h, const IdentityName *name, const char *verb,
                 struct json_object **ret) {
        int r;

        r = identity_call(h, name, &(IdentityCall){ .method = "GET", .verb = verb }, ret, NULL);
        return r == EX_OK ? check_object(*ret) : r;
}

const char *identity_text(struct json_object *o, const char *field) {
        const char *s = NULL;

        (void) json_get_string(o, field, &s, NULL); /* absent is absent */
        return s;
}

static const char *authentication_text(struct json_object *o, const char *part, const char *field) {
        struct json_object *authentication, *inner;

        if (!json_object_is_type(o, json_type_object) ||
            json_get_object(o, "authentication", &authentication) <= 0 ||
            json_get_object(authentication, part, &inner) <= 0)
                return NULL;
        return identity_text(inner, field);
}

const char *identity_key(struct json_object *o, bool secondary) {
        return authentication_text(o, "symmetricKey", secondary ? "secondaryKey" : "primaryKey");
}

static const char *thumbprint(struct json_object *o, bool secondary) {
        return authentication_text(o, "x509Thumbprint",
                                   secondary ? "secondaryThumbprint" : "primaryThumbprint");
}

const char *identity_auth_type(struct json_object *o) {
        struct json_object *authentication;
        const char *type = NULL;

        if (json_get_object(o, "authentication", &authentication) > 0)
                type = identity_text(authentication, "type");
        if (!type && identity_key(o, /* secondary= */ false))
                type = "sas"; /* hubs of old versions gave no type */
        return type;
}

const char *identity_time(struct json_object *o, const char *field) {
        const char *s = identity_text(o, field);

        return s && startswith(s, "0001-01-01T00:00:00") ? "never" : s;
}

static void erase_keys(struct json_object *o) {
        for (int i = 0; i < 2; i++) {
                const char *key = identity_key(o, i);

                if (key)
                        explicit_bzero((char *) (uintptr_t) key, strlen(key));
        }
}

void identity_erasep(struct json_object **o) {
        erase_keys(*o);
        json_object_put(*o);
}

void identity_remove_keys(struct json_object *o) {
        struct json_object *authentication;

        erase_keys(o);
        if (json_object_is_type(o, json_type_object) &&
            json_get_object(o, "authentication", &authentication) > 0)
                json_object_object_del(authentication, "symmetricKey");
}

int identity_connection_string(const HubSession *h, struct json_object *o, bool secondary,
                               char **ret) {
        _cleanup_free_ char *host = NULL;
        const char *key = identity_key(o, secondary), *type = identity_auth_type(o);
        ConnectionString c = {
                .kind = CONNECTION_STRING_DEVICE,
                .device_id = (char *) (uintptr_t) identity_text(o, "deviceId"),
                .module_id = (char *) (uintptr_t) identity_text(o, "moduleId"),
                .shared_access_key = (char *) (uintptr_t) key,
        };
        int r;

        if (!c.device_id)
                return -EINVAL;
        if (type && (streq(type, "selfSigned") || streq(type, "certificateAuthority"))) {
                c.shared_access_key = NULL;
                c.x509 = true;
        } else if (!key || !*key)
                return -EINVAL;
        r = hub_session_host(h, &host);
        if (r < 0)
                return r;
        c.host_name = host;
        return connection_string_format(&c, ret);
}

static void print_flag(const char *name, struct json_object *o, const char *field) {
        bool b = false;

        (void) json_get_bool(o, field, &b); /* absent is "false" */
        print_field(name, b ? "true" : "false");
}

static void print_optional(const char *name, const char *value) {
        if (value)
                print_field(name, value);
}

static void print_device_only(struct json_object *o) {
        struct json_object *capabilities, *parents;
        bool edge = false;

        print_flag("isManaged", o, "isManaged");
        if (json_get_object(o, "capabilities", &capabilities) > 0)
                (void) json_get_bool(capabilities, "iotEdge", &edge); /* absent is "false" */
        print_field("iotEdge", edge ? "true" : "false");
        print_optional("deviceScope", identity_text(o, "deviceScope"));
        if (json_get_array(o, "parentScopes", &parents) > 0 && json_object_array_length(parents) > 0)
                print_optional("parentScope",
                               json_object_get_string(json_object_array_get_idx(parents, 0)));
}

static void print_identity(struct json_object *o, bool keys) {
        const bool module = identity_text(o, "moduleId");
        uint64_t n = 0;

        print_field("deviceId", identity_text(o, "deviceId"));
        if (module) {
                print_field("moduleId", identity_text(o, "moduleId"));
                print_field("managedBy", identity_text(o, "managedBy"));
        }
        print_field("generationId", identity_text(o, "generationId"));
        print_field("etag", identity_text(o, "etag"));
        if (keys) {
                print_field("primaryKey", identity_key(o, /* secondary= */ false));
                print_field("secondaryKey", identity_key(o, /* secondary= */ true));
        }
        print_optional("primaryThumbprint", thumbprint(o, /* secondary= */ false));
        print_optional("secondaryThumbprint", thumbprint(o, /* secondary= */ true));
        print_field("connectionState", identity_text(o, "connectionState"));
        print_field("connectionStateUpdatedTime", identity_time(o, "connectionStateUpdatedTime"));
        if (!module) {
                print_field("status", identity_text(o, "status"));
                print_field("statusReason", identity_text(o, "statusReason"));
                print_field("statusUpdatedTime", identity_time(o, "statusUpdatedTime"));
        }
        print_field("lastActivityTime", identity_time(o, "lastActivityTime"));
        (void) json_get_u64(o, "cloudToDeviceMessageCount", &n); /* absent is none */
        print_fieldf("cloudToDeviceMessageCount", "%" PRIu64, n);
        if (!module)
                print_device_only(o);
        print_field("authMethod", identity_auth_type(o));
}

int identity_show(const HubSession *h, const Globals *g, struct json_object *o, bool keys) {
        _cleanup_(erase_and_freep) char *connection_string = NULL;
        int r;

        r = check_object(o);
        if (r != EX_OK)
                return r;
        if (g->json) {
                if (!keys)
                        identity_remove_keys(o);
                print_json(o);
                return EX_OK;
        }
        if (keys && identity_connection_string(h, o, /* secondary= */ false, &connection_string) ==
                                    -ENOMEM)
                return say_out_of_memory();
        print_identity(o, keys);
        print_optional("connectionString", connection_string);
        return EX_OK;
}

int identity_guard_header(const IdentityGuard *guard, struct json_object *before, char **ret) {
        const char *etag = guard->force ? "*" : guard->etag;
        size_t n;

        if (!etag)
                etag = identity_text(before, "etag");
        if (!etag || !*etag)
                return -EINVAL;
        n = strlen(etag);
        if (n >= 2 && etag[0] == '"' && etag[n - 1] == '"')
                return format_string(ret, "%s", etag);
        return format_string(ret, "\"%s\"", etag);
}

typedef struct Changes {
        unsigned n_told, n_more;
} Changes;

static const char *as_text(struct json_object *o) {
        return o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE) :
                   "absent";
}

/* Keys stand below it, in whatever shape. */
static bool is_secret(const char *path) {
        return startswith(path, "authentication") && !startswith(path, "authentication.x509") &&
               !streq(path, "authentication.type");
}

static void tell_change(Changes *c, const char *path, struct json_object *before,
                        struct json_object *now) {
        if (c->n_told++ >= CHANGES_TOLD_MAX)
                c->n_more++;
        else if (is_secret(path))
                say_error("  %s: another one now", path);
        else /* as_text() keeps its text in the object */
                say_error("  %s: was %s, is %s", path, as_text(before), as_text(now));
}

static void compare(Changes *c, const char *path, struct json_object *before,
                    struct json_object *now) {
        if (json_object_equal(before, now))
                return;
        if (!json_object_is_type(before, json_type_object) ||
            !json_object_is_type(now, json_type_object)) {
                tell_change(c, path, before, now);
                return;
        }
        json_object_object_foreach(now, name, value) {
                _cleanup_free_ char *inner = NULL;

                if (format_string(&inner, "%s%s%s", path, *path ? "." : "", name) < 0)
                        return;
                compare(c, inner, json_object_object_get(before, name), value);
        }
        json_object_object_foreach(before, old_name, old_value) {
                _cleanup_free_ char *inner = NULL;

                if (json_object_object_get_ex(now, old_name, NULL))
                        continue;
                if (format_string(&inner, "%s%s%s", path, *path ? "." : "", old_name) < 0)
                        return;
                compare(c, inner, old_value, NULL);
        }
}

void identity_tell_changes(struct json_object *before, struct json_object *now) {
        Changes c = {};

        compare(&c, "", before, now);
        if (c.n_more > 0)
                say_error("  and %u more", c.n_more);
}

void identity_tell_conflict(const HubSession *h, const IdentityName *name,
                            const IdentityGuard *guard, const char *what,
                            struct json_object *before) {
        _cleanup_identity_ struct json_object *now = NULL;
        const char *etag;

        say_error("%s: it was changed meanwhile (HTTP 412 412001 PreconditionFailed)", what);
        if (identity_get(h, name, "read", &now) != EX_OK)
                return;
        etag = identity_text(now, "etag");
        if (guard->etag)
                say_error("  its etag is %s now, not %s", strempty(etag), guard->etag);
        if (before)
                identity_tell_changes(before, now);
        say_error("What to do: look at it again, then repeat; --force overrides");
}

int identity_change(const HubSession *h, const IdentityName *name, const IdentityGuard *guard,
                    const char *verb, int (*apply)(struct json_object *o, void *userdata),
                    void *userdata, struct json_object **ret) {
        _cleanup_identity_ struct json_object *before = NULL, *wanted = NULL;
        _cleanup_free_ char *if_match = NULL, *what = NULL;
        long status = 0;
        int r;

        r = identity_get(h, name, verb, &before);
        if (r != EX_OK)
                return r;
        if (json_object_deep_copy(before, &wanted, NULL) < 0 || identity_what(verb, name, &what) < 0)
                return say_out_of_memory();
        r = apply(wanted, userdata);
        if (r != EX_OK)
                return r;
        r = identity_guard_header(guard, before, &if_match);
        if (r == -EINVAL) {
                say_error("%s: the hub gave no etag; --force goes on without one", what);
                return EX_PROTOCOL;
        }
        if (r < 0)
                return say_out_of_memory();
        r = identity_call(h, name,
                          &(IdentityCall){ .method = "PUT",
                                           .verb = verb,
                                           .if_match = if_match,
                                           .body = wanted,
                                           .expect_conflict = true },
                          ret, &status);
        if (r != EX_OK && status == 412)
                identity_tell_conflict(h, name, guard, what, before);
        return r;
}
