#include "emulator/hub-device.h"

#include <assert.h>
#include <ctype.h>

#include <openssl/rand.h>

#include "lib/base64.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define KEY_BYTES 32U     /* what the hub makes */
#define KEY_BYTES_MIN 16U /* what it takes, else "Invalid device key length" */
#define KEY_BYTES_MAX 64U
#define SHA1_HEX 40U
#define SHA256_HEX 64U
#define HUB_ID_MAX 128U
#define HUB_SCOPE_MAX 256U

static const char *const auth_names[_HUB_DEVICE_AUTH_MAX] = {
        [HUB_DEVICE_AUTH_SAS] = "sas",
        [HUB_DEVICE_AUTH_SELF_SIGNED] = "selfSigned",
        [HUB_DEVICE_AUTH_CERTIFICATE_AUTHORITY] = "certificateAuthority",
        [HUB_DEVICE_AUTH_NONE] = "none",
};

void hub_device_done(HubDevice *d) {
        free(d->id);
        free(d->module_id);
        free(d->status_reason);
        free(d->scope);
        free(d->parent_scope);
        free(d->managed_by);
        free(d->twin);
        erase_and_free(d->primary_key);
        erase_and_free(d->secondary_key);
        free(d->primary_thumbprint);
        free(d->secondary_thumbprint);
        *d = (HubDevice) { 0 };
}

static int copy_text(const char *s, char **ret) {
        if (!s)
                return 0;
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

int hub_device_copy(const HubDevice *d, HubDevice *ret) {
        _cleanup_(hub_device_done) HubDevice c = *d;

        c.id = c.module_id = c.status_reason = NULL;
        c.scope = c.parent_scope = c.managed_by = c.twin = NULL;
        c.primary_key = c.secondary_key = c.primary_thumbprint = c.secondary_thumbprint = NULL;
        if (copy_text(d->id, &c.id) < 0 || copy_text(d->module_id, &c.module_id) < 0 ||
            copy_text(d->scope, &c.scope) < 0 ||
            copy_text(d->parent_scope, &c.parent_scope) < 0 ||
            copy_text(d->managed_by, &c.managed_by) < 0 || copy_text(d->twin, &c.twin) < 0 ||
            copy_text(d->status_reason, &c.status_reason) < 0 ||
            copy_text(d->primary_key, &c.primary_key) < 0 ||
            copy_text(d->secondary_key, &c.secondary_key) < 0 ||
            copy_text(d->primary_thumbprint, &c.primary_thumbprint) < 0 ||
            copy_text(d->secondary_thumbprint, &c.secondary_thumbprint) < 0)
                return -ENOMEM;

        *ret = c;
        c = (HubDevice) { 0 };
        return 0;
}

int hub_key_make(char **ret) {
        uint8_t key[KEY_BYTES];
        size_t n;
        int r;

        if (RAND_bytes(key, sizeof(key)) != 1)
                return -EIO;
        r = base64_encode(key, sizeof(key), ret, &n);
        explicit_bzero(key, sizeof(key));
        return r;
}

int hub_device_make_keys(HubDevice *d) {
        int r;

        if (d->auth != HUB_DEVICE_AUTH_SAS || d->primary_key)
                return 0;
        r = hub_key_make(&d->primary_key);
        if (r < 0)
                return r;
        return hub_key_make(&d->secondary_key);
}

int hub_etag_format(uint64_t etag, char **ret) {
        char text[21];
        size_t n;

        n = (size_t) snprintf(text, sizeof(text), "%" PRIu64, etag);
        return base64_encode(text, n, ret, &n);
}

int hub_etag_parse(const char *s, uint64_t *ret) {
        _cleanup_free_ void *text = NULL;
        size_t n;
        int r;

        r = base64_decode(s, strlen(s), &text, &n);
        if (r < 0)
                return r;
        if (memchr(text, '\0', n) || parse_u64(text, ret) < 0)
                return -EINVAL;
        return 0;
}

static int read_text(struct json_object *o, const char *field, size_t max, char **ret) {
        const char *s;
        size_t n;
        int r;

        r = json_get_string(o, field, &s, &n);
        if (r <= 0)
                return r;
        if (n == 0)
                return 0; /* as absent: SDKs send "" for keys that the hub shall make */
        if (n > max || memchr(s, '\0', n))
                return -EINVAL;
        return copy_text(s, ret);
}

static int check_key(const char *key) {
        _cleanup_free_ void *bytes = NULL;
        size_t n;
        int r;

        if (!key)
                return 0;
        r = base64_decode(key, strlen(key), &bytes, &n);
        if (r < 0)
                return r;
        explicit_bzero(bytes, n);
        return n >= KEY_BYTES_MIN && n <= KEY_BYTES_MAX ? 0 : -EINVAL;
}

static int check_thumbprint(const char *s) {
        size_t n;

        if (!s)
                return 0;
        n = strlen(s);
        if (n != SHA1_HEX && n != SHA256_HEX)
                return -EINVAL;
        return strspn(s, "0123456789abcdefABCDEF") == n ? 0 : -EINVAL;
}

static int read_keys(struct json_object *authentication, HubDevice *d, const char **reterr_text) {
        struct json_object *keys;
        int r;

        r = json_get_object(authentication, "symmetricKey", &keys);
        if (r > 0) {
                r = read_text(keys, "primaryKey", 128, &d->primary_key);
                if (r >= 0)
                        r = read_text(keys, "secondaryKey", 128, &d->secondary_key);
        }
        if (r == -ENOMEM)
                return r;
        if (r < 0 || check_key(d->primary_key) < 0 || check_key(d->secondary_key) < 0) {
                *reterr_text = "Invalid device key length";
                return -EINVAL;
        }
        if (!d->primary_key != !d->secondary_key) {
                *reterr_text = "Either no keys or both keys can be set";
                return -EINVAL;
        }
        return 0;
}

static int read_thumbprints(struct json_object *authentication, HubDevice *d,
                            const char **reterr_text) {
        struct json_object *x509;
        int r;

        r = json_get_object(authentication, "x509Thumbprint", &x509);
        if (r > 0) {
                r = read_text(x509, "primaryThumbprint", SHA256_HEX, &d->primary_thumbprint);
                if (r >= 0)
                        r = read_text(x509, "secondaryThumbprint", SHA256_HEX,
                                      &d->secondary_thumbprint);
        }
        if (r == -ENOMEM)
                return r;
        if (r < 0 || check_thumbprint(d->primary_thumbprint) < 0 ||
            check_thumbprint(d->secondary_thumbprint) < 0) {
                *reterr_text = "String is not a thumbprint: 40 or 64 hexadecimal digits are needed";
                return -EINVAL;
        }
        return 0;
}

static int read_authentication(struct json_object *o, HubDevice *d, const char **reterr_text) {
        struct json_object *authentication;
        const char *type;
        size_t n;
        int r;

        r = json_get_object(o, "authentication", &authentication);
        if (r < 0)
                *reterr_text = "authentication is not an object";
        if (r <= 0)
                return r;

        r = read_keys(authentication, d, reterr_text);
        if (r < 0)
                return r;
        r = read_thumbprints(authentication, d, reterr_text);
        if (r < 0)
                return r;

        r = json_get_string(authentication, "type", &type, &n);
        if (r == 0) {
                /* Clients of older versions send no type: thumbprints tell it. */
                d->auth = d->primary_thumbprint || d->secondary_thumbprint
                                          ? HUB_DEVICE_AUTH_SELF_SIGNED
                                          : HUB_DEVICE_AUTH_SAS;
                return 0;
        }
        for (HubDeviceAuth a = 0; r > 0 && a < _HUB_DEVICE_AUTH_MAX; a++)
                if (strcasecmp(type, auth_names[a]) == 0) {
                        if (a == HUB_DEVICE_AUTH_NONE && !d->module_id)
                                break;
                        /* Seen: a client's module gets keys all the same. */
                        d->auth = a == HUB_DEVICE_AUTH_NONE ? HUB_DEVICE_AUTH_SAS : a;
                        return 0;
                }
        *reterr_text = "DeviceAuthenticationTypeIsMissing: sas, selfSigned or certificateAuthority "
                       "is needed";
        return -EINVAL;
}

static int read_status(struct json_object *o, HubDevice *d, const char **reterr_text) {
        const char *status;
        size_t n;
        int r;

        d->enabled = true;
        r = json_get_string(o, "status", &status, &n);
        if (r > 0 && strcasecmp(status, "disabled") == 0)
                d->enabled = false;
        else if (r < 0 || (r > 0 && strcasecmp(status, "enabled") != 0)) {
                *reterr_text = "status is neither enabled nor disabled";
                return -EINVAL;
        }

        r = read_text(o, "statusReason", HUB_STATUS_REASON_MAX, &d->status_reason);
        if (r == -EINVAL)
                *reterr_text = "statusReason is no text of at most 128 characters";
        return r;
}

static int read_ids(struct json_object *o, HubDeviceForm form, HubDevice *d,
                    const char **reterr_text) {
        int r;

        *reterr_text = "deviceId is missing or holds characters that no id may have";
        r = read_text(o, form == HUB_DEVICE_FORM_BULK ? "id" : "deviceId", HUB_ID_MAX, &d->id);
        if (r < 0)
                return r;
        if (!d->id || hub_device_id_check(d->id, /* for_mqtt= */ false) < 0)
                return -EINVAL;
        if (form == HUB_DEVICE_FORM_DEVICE)
                return 0;

        *reterr_text = "moduleId is missing or holds characters that no id may have";
        r = read_text(o, "moduleId", HUB_ID_MAX, &d->module_id);
        if (r < 0)
                return r;
        if (!d->module_id)
                return form == HUB_DEVICE_FORM_BULK ? 0 : -EINVAL;
        return hub_device_id_check(d->module_id, /* for_mqtt= */ false);
}

static int read_scopes(struct json_object *o, HubDevice *d, const char **reterr_text) {
        struct json_object *parents, *first;
        int r;

        *reterr_text = "InvalidDeviceScope: deviceScope and parentScopes hold scopes of edge devices";
        r = read_text(o, "deviceScope", HUB_SCOPE_MAX, &d->scope);
        if (r < 0)
                return r;
        if (d->scope && !startswith(d->scope, HUB_EDGE_SCOPE_PREFIX))
                return -EINVAL;
        r = json_get_array(o, "parentScopes", &parents);
        if (r <= 0 || json_object_array_length(parents) == 0)
                return r;
        first = json_object_array_get_idx(parents, 0);
        if (json_object_array_length(parents) > 1 || !json_object_is_type(first, json_type_string) ||
            !startswith(json_object_get_string(first), HUB_EDGE_SCOPE_PREFIX) ||
            json_object_get_string_len(first) > (int) HUB_SCOPE_MAX)
                return -EINVAL;
        return copy_text(json_object_get_string(first), &d->parent_scope);
}

static int read_device_fields(struct json_object *o, HubDevice *d, const char **reterr_text) {
        struct json_object *capabilities;
        int r;

        r = read_status(o, d, reterr_text);
        if (r < 0)
                return r;
        *reterr_text = "capabilities is not an object with a boolean iotEdge";
        r = json_get_object(o, "capabilities", &capabilities);
        if (r > 0)
                r = json_get_bool(capabilities, "iotEdge", &d->iot_edge);
        if (r < 0)
                return -EINVAL;
        return read_scopes(o, d, reterr_text);
}

int hub_device_from_json(struct json_object *o, HubDeviceForm form, HubDevice *ret,
                         const char **reterr_text) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int r;

        assert(ret);
        assert(reterr_text);

        r = read_ids(o, form, &d, reterr_text);
        if (r < 0)
                return r;
        if (d.module_id) {
                d.enabled = true; /* modules have no status of their own */
                *reterr_text = "managedBy is no text of at most 128 characters";
                r = read_text(o, "managedBy", HUB_STATUS_REASON_MAX, &d.managed_by);
        } else
                r = read_device_fields(o, &d, reterr_text);
        if (r < 0)
                return r;
        r = read_authentication(o, &d, reterr_text);
        if (r < 0)
                return r;

        *ret = d;
        d = (HubDevice) { 0 };
        return 0;
}

int hub_device_add_time(struct json_object *o, const char *field, usec_t t, bool with_z) {
        char buf[FORMAT_TIMESTAMP_MAX] = "0001-01-01T00:00:00Z";
        size_t n;

        if (t != 0)
                format_timestamp(buf, sizeof(buf), t);
        n = strlen(buf);
        if (!with_z && n > 0 && buf[n - 1] == 'Z')
                buf[n - 1] = '\0';
        return json_add_string(o, field, buf);
}

int hub_device_add_text(struct json_object *o, const char *field, const char *s) {
        if (s)
                return json_add_string(o, field, s);
        return json_object_object_add(o, field, NULL) < 0 ? -ENOMEM : 0;
}

int hub_device_add_thumbprints(struct json_object *o, const HubDevice *d) {
        struct json_object *x509 = json_object_new_object();

        if (json_add(o, "x509Thumbprint", x509) < 0 ||
            hub_device_add_text(x509, "primaryThumbprint", d->primary_thumbprint) < 0 ||
            hub_device_add_text(x509, "secondaryThumbprint", d->secondary_thumbprint) < 0)
                return -ENOMEM;
        return 0;
}

int hub_device_add_scopes(struct json_object *o, const HubDevice *d) {
        struct json_object *parents = json_object_new_array(), *parent = NULL;

        if (d->parent_scope)
                parent = json_object_new_string(d->parent_scope);
        if (!parents || (d->parent_scope && !parent) ||
            (parent && json_object_array_add(parents, parent) < 0)) {
                json_object_put(parents);
                return -ENOMEM;
        }
        if (!d->parent_scope)
                json_object_put(parents);
        else if (json_add(o, "parentScopes", parents) < 0)
                return -ENOMEM;
        return json_add_string(o, "deviceScope", d->scope);
}

static int add_authentication(struct json_object *o, const HubDevice *d) {
        _cleanup_json_ struct json_object *a = json_object_new_object();
        struct json_object *keys = json_object_new_object();

        if (!a || json_add(a, "symmetricKey", keys) < 0 ||
            hub_device_add_text(keys, "primaryKey", d->primary_key) < 0 ||
            hub_device_add_text(keys, "secondaryKey", d->secondary_key) < 0 ||
            hub_device_add_thumbprints(a, d) < 0 ||
            json_add_string(a, "type", auth_names[d->auth]) < 0)
                return -ENOMEM;
        return json_add(o, "authentication", TAKE_PTR(a));
}

const char *hub_device_auth_name(HubDeviceAuth auth) {
        return auth_names[auth];
}

int hub_device_client_id(const char *id, const char *module_id, char **ret) {
        return module_id ? format_string(ret, "%s/%s", id, module_id) : format_string(ret, "%s", id);
}

usec_t hub_device_created_usec(const HubDevice *d) {
        return d->generation > HUB_TICKS_AT_1970 ? (d->generation - HUB_TICKS_AT_1970) / 10 : 0;
}

static const char *connection_state(const HubDevice *d) {
        return d->connected ? "Connected" : "Disconnected";
}

static int add_module_fields(struct json_object *o, const HubDevice *d, const char *generation,
                             const char *etag, bool with_z) {
        if (json_add_string(o, "moduleId", d->module_id) < 0 ||
            hub_device_add_text(o, "managedBy", d->managed_by) < 0 ||
            json_add_string(o, "deviceId", d->id) < 0 ||
            json_add_string(o, "generationId", generation) < 0 ||
            json_add_string(o, "etag", etag) < 0 ||
            json_add_string(o, "connectionState", connection_state(d)) < 0)
                return -ENOMEM;
        return hub_device_add_time(o, "connectionStateUpdatedTime", d->connection_updated_usec,
                                   with_z);
}

static int add_device_fields(struct json_object *o, const HubDevice *d, const char *generation,
                             const char *etag, bool with_z) {
        if (json_add_string(o, "deviceId", d->id) < 0 ||
            json_add_string(o, "generationId", generation) < 0 ||
            json_add_string(o, "etag", etag) < 0 ||
            json_add_string(o, "connectionState", connection_state(d)) < 0 ||
            json_add_string(o, "status", d->enabled ? "enabled" : "disabled") < 0 ||
            hub_device_add_text(o, "statusReason", d->status_reason) < 0 ||
            hub_device_add_time(o, "connectionStateUpdatedTime", d->connection_updated_usec,
                                with_z) < 0)
                return -ENOMEM;
        return hub_device_add_time(o, "statusUpdatedTime", d->status_updated_usec, with_z);
}

static int add_capabilities(struct json_object *o, const HubDevice *d) {
        struct json_object *capabilities = json_object_new_object();

        if (json_add(o, "capabilities", capabilities) < 0 ||
            json_add_bool(capabilities, "iotEdge", d->iot_edge) < 0)
                return -ENOMEM;
        return hub_device_add_scopes(o, d);
}

int hub_device_to_json(const HubDevice *d, bool with_z, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        _cleanup_free_ char *etag = NULL;
        char generation[21];
        int r;

        if (!o || hub_etag_format(d->etag, &etag) < 0)
                return -ENOMEM;
        /* Always fits. */
        (void) snprintf(generation, sizeof(generation), "%" PRIu64, d->generation);
        if (d->module_id)
                r = add_module_fields(o, d, generation, etag, with_z);
        else
                r = add_device_fields(o, d, generation, etag, with_z);
        if (r >= 0)
                r = hub_device_add_time(o, "lastActivityTime", d->last_activity_usec, with_z);
        if (r >= 0)
                r = json_add_u64(o, "cloudToDeviceMessageCount", d->n_c2d);
        if (r >= 0)
                r = add_authentication(o, d);
        if (r >= 0 && !d->module_id)
                r = add_capabilities(o, d);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}
