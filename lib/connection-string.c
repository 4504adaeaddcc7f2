#include "lib/connection-string.h"

#include <stdarg.h>

#include "lib/base64.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"

#define KEY_BYTES_MIN 16U
#define KEY_BYTES_MAX 64U

typedef enum Key {
        KEY_HOST_NAME,
        KEY_GATEWAY_HOST_NAME,
        KEY_DEVICE_ID,
        KEY_MODULE_ID,
        KEY_SHARED_ACCESS_KEY_NAME,
        KEY_SHARED_ACCESS_KEY,
        KEY_SHARED_ACCESS_SIGNATURE,
        KEY_X509,
        _KEY_MAX,
        _KEY_INVALID = -EINVAL,
} Key;

/* In the order of the canonical text. */
static const char *const key_names[_KEY_MAX] = {
        [KEY_HOST_NAME] = "HostName",
        [KEY_GATEWAY_HOST_NAME] = "GatewayHostName",
        [KEY_DEVICE_ID] = "DeviceId",
        [KEY_MODULE_ID] = "ModuleId",
        [KEY_SHARED_ACCESS_KEY_NAME] = "SharedAccessKeyName",
        [KEY_SHARED_ACCESS_KEY] = "SharedAccessKey",
        [KEY_SHARED_ACCESS_SIGNATURE] = "SharedAccessSignature",
        [KEY_X509] = "x509",
};

/* Where the value of a key lives; x509 has none. */
static char **value_of(ConnectionString *c, Key key) {
        switch (key) {
        case KEY_HOST_NAME: return &c->host_name;
        case KEY_GATEWAY_HOST_NAME: return &c->gateway_host_name;
        case KEY_DEVICE_ID: return &c->device_id;
        case KEY_MODULE_ID: return &c->module_id;
        case KEY_SHARED_ACCESS_KEY_NAME: return &c->shared_access_key_name;
        case KEY_SHARED_ACCESS_KEY: return &c->shared_access_key;
        case KEY_SHARED_ACCESS_SIGNATURE: return &c->shared_access_signature;
        default: return NULL;
        }
}

/* -EINVAL with a text, or -ENOMEM. No caller passes a value, only names of keys: values may be secrets. */
static int fail(char **reterr, const char *format, ...) _printf_(2, 3);
static int fail(char **reterr, const char *format, ...) {
        va_list ap;
        int r = 0;

        va_start(ap, format);
        if (reterr)
                r = vformat_string(reterr, format, ap);
        va_end(ap);
        return r < 0 ? r : -EINVAL;
}

static Key key_from_name(const char *s, size_t n) {
        for (Key k = 0; k < _KEY_MAX; k++)
                if (strlen(key_names[k]) == n && memcmp(key_names[k], s, n) == 0)
                        return k;
        return _KEY_INVALID;
}

/* The word is never quoted: half of a key may stand where a name should, and no rule tells the two apart for sure. */
static int fail_unknown(const char *s, size_t n, unsigned part, char **reterr) {
        static const char *const event_hub_keys[] = { "Endpoint", "EntityPath" };

        for (Key k = 0; k < _KEY_MAX; k++)
                if (strlen(key_names[k]) == n && strncasecmp(key_names[k], s, n) == 0)
                        return fail(reterr, "%s: upper and lower case matter, write it exactly so", key_names[k]);
        for (size_t i = 0; i < ELEMENTSOF(event_hub_keys); i++)
                if (strlen(event_hub_keys[i]) == n && memcmp(event_hub_keys[i], s, n) == 0)
                        return fail(reterr, "%s: this is a connection string of an Event Hubs endpoint, take the one "
                                            "that begins with HostName=",
                                    event_hub_keys[i]);
        return fail(reterr,
                    "Part %u begins with none of the known keys, HostName, GatewayHostName, DeviceId, ModuleId, "
                    "SharedAccessKeyName, SharedAccessKey, SharedAccessSignature and x509: was the connection string "
                    "copied whole, on one line?",
                    part);
}

static int parse_part(const char *s, size_t n, unsigned part, ConnectionString *c, bool seen[static _KEY_MAX],
                      char **reterr) {
        const char *equals = memchr(s, '=', n);
        size_t name_size = equals ? (size_t) (equals - s) : n, value_size = equals ? n - name_size - 1 : 0;
        Key key = key_from_name(s, name_size);
        char **value;

        if (key < 0)
                return fail_unknown(s, name_size, part, reterr);
        if (!equals)
                return fail(reterr, "%s: has no value, write %s=VALUE", key_names[key], key_names[key]);
        if (seen[key])
                return fail(reterr, "%s: comes twice, keep one", key_names[key]);
        if (value_size == 0)
                return fail(reterr, "%s: its value is empty", key_names[key]);
        /* Inner NULs cannot come; line breaks and other control characters come from a copy that went wrong. */
        for (size_t i = 0; i < value_size; i++)
                if ((unsigned char) equals[1 + i] < 0x20 || equals[1 + i] == 0x7f)
                        return fail(reterr,
                                    "%s: its value contains a line break or another control character, write the "
                                    "connection string on one line",
                                    key_names[key]);
        seen[key] = true;
        if (key == KEY_X509) {
                if (value_size != 4 || memcmp(equals + 1, "true", 4) != 0)
                        return fail(reterr, "x509: only x509=true is allowed");
                c->x509 = true;
                return 0;
        }
        value = value_of(c, key);
        *value = strndup(equals + 1, value_size);
        return *value ? 0 : -ENOMEM;
}

static int check_host(const char *s, Key key, char **reterr) {
        _cleanup_free_ char *host = NULL;
        unsigned port;
        int r = s[strcspn(s, " /?#@\\\"'<>")] ? -EINVAL : host_port_split(s, 1, &host, &port);

        if (r == -EINVAL)
                return fail(reterr, "%s: not a host name, write it like myhub.azure-devices.net", key_names[key]);
        return r;
}

static int check_shared_access_key(const char *s, char **reterr) {
        size_t n;
        void *key;
        int r = base64_decode(s, strlen(s), &key, &n);

        if (r == -EINVAL)
                return fail(reterr, "SharedAccessKey: not valid base64, copy the key whole, with the = at its end");
        if (r < 0)
                return r;
        explicit_bzero(key, n);
        free(key);
        if (n < KEY_BYTES_MIN || n > KEY_BYTES_MAX)
                return fail(reterr, "SharedAccessKey: a key has %u to %u bytes, this one has %zu", KEY_BYTES_MIN,
                            KEY_BYTES_MAX, n);
        return 0;
}

static int check_signature(const char *s, char **reterr) {
        _cleanup_(sas_token_done) SasToken t = {};
        int r = sas_token_parse(s, &t);

        if (r == -EINVAL)
                return fail(reterr, "SharedAccessSignature: not a token of the form \"SharedAccessSignature "
                                    "sr=...&sig=...&se=...\"");
        return r;
}

static int check_id(const char *s, Key key, char **reterr) {
        if (hub_device_id_check(s, /* for_mqtt= */ false) < 0)
                return fail(reterr,
                            "%s: an id is 1 to 128 ASCII letters, digits and - . %% _ * ? ! ( ) , = @ $ ' : + #",
                            key_names[key]);
        return 0;
}

static int check_device(const ConnectionString *c, char **reterr) {
        int n_credentials = !!c->shared_access_key + !!c->shared_access_signature + c->x509;
        int r;

        /* The most common mistake, so it is told before anything that follows from it. */
        if (c->shared_access_key_name)
                return fail(reterr, "SharedAccessKeyName: this is a connection string of a shared access policy, which "
                                    "may manage the whole hub; give the device's own (iothubctl device "
                                    "connection-string ID prints it)");
        if (!c->host_name)
                return fail(reterr, "HostName: missing, add HostName=myhub.azure-devices.net");
        if (!c->device_id)
                return fail(reterr, "DeviceId: missing, add DeviceId=ID; iothubctl device connection-string ID prints "
                                    "the whole string");
        r = check_id(c->device_id, KEY_DEVICE_ID, reterr);
        if (r < 0)
                return r;
        if (c->module_id) {
                r = check_id(c->module_id, KEY_MODULE_ID, reterr);
                if (r < 0)
                        return r;
        }
        if (n_credentials == 0)
                return fail(reterr, "SharedAccessKey: missing, add SharedAccessKey=KEY (or x509=true)");
        if (n_credentials > 1)
                return fail(reterr, "SharedAccessKey, SharedAccessSignature and x509: more than one of them, keep one");
        return 0;
}

static int check_service(const ConnectionString *c, char **reterr) {
        if (c->device_id)
                return fail(reterr, "DeviceId: this is a connection string of one device; give that of a shared access "
                                    "policy such as iothubowner, with SharedAccessKeyName");
        if (c->module_id)
                return fail(reterr, "ModuleId: belongs to a device's connection string, leave it out");
        if (c->gateway_host_name)
                return fail(reterr, "GatewayHostName: belongs to a device's connection string, leave it out");
        if (c->x509)
                return fail(reterr, "x509: belongs to a device's connection string, leave it out");
        if (c->shared_access_signature)
                return fail(reterr, "SharedAccessSignature: not for a policy, give SharedAccessKeyName and "
                                    "SharedAccessKey");
        if (!c->host_name)
                return fail(reterr, "HostName: missing, add HostName=myhub.azure-devices.net");
        if (!c->shared_access_key_name)
                return fail(reterr, "SharedAccessKeyName: missing, add the name of the policy, such as "
                                    "SharedAccessKeyName=iothubowner");
        if (!c->shared_access_key)
                return fail(reterr, "SharedAccessKey: missing, add SharedAccessKey=KEY");
        return 0;
}

static int check(const ConnectionString *c, char **reterr) {
        int r = c->kind == CONNECTION_STRING_DEVICE ? check_device(c, reterr) : check_service(c, reterr);

        if (r >= 0)
                r = check_host(c->host_name, KEY_HOST_NAME, reterr);
        if (r >= 0 && c->gateway_host_name)
                r = check_host(c->gateway_host_name, KEY_GATEWAY_HOST_NAME, reterr);
        if (r >= 0 && c->shared_access_key)
                r = check_shared_access_key(c->shared_access_key, reterr);
        if (r >= 0 && c->shared_access_signature)
                r = check_signature(c->shared_access_signature, reterr);
        return r;
}

int connection_string_parse(const char *s, ConnectionStringKind kind, ConnectionString *ret, char **reterr) {
        _cleanup_(connection_string_done) ConnectionString c = { .kind = kind };
        static const char blanks[] = " \t\r\n";
        bool seen[_KEY_MAX] = {};
        const char *end;
        int r;

        s += strspn(s, blanks);
        end = s + strlen(s);
        while (end > s && strchr(blanks, end[-1]))
                end--;
        if (s == end)
                return fail(reterr, "The connection string is empty: it begins with HostName=");

        for (unsigned part = 1; s < end; part++) {
                const char *semicolon = memchr(s, ';', (size_t) (end - s));
                const char *part_end = semicolon ? semicolon : end;

                r = parse_part(s, (size_t) (part_end - s), part, &c, seen, reterr);
                if (r < 0)
                        return r;
                s = part_end + 1; /* a semicolon may end the text */
        }
        r = check(&c, reterr);
        if (r < 0)
                return r;
        *ret = c;
        c = (ConnectionString) {};
        return 0;
}

int connection_string_format(const ConnectionString *c, char **ret) {
        ConnectionString values = *c; /* value_of() hands out places to write to */
        size_t size = sizeof("x509=true");
        char *s, *p;

        for (Key k = 0; k < _KEY_MAX; k++) {
                char **value = value_of(&values, k);

                if (!value || !*value)
                        continue;
                if (strchr(*value, ';'))
                        return -EINVAL;
                size += strlen(key_names[k]) + 1 + strlen(*value) + 1;
        }
        p = s = malloc(size);
        if (!s)
                return -ENOMEM;
        for (Key k = 0; k < _KEY_MAX; k++) {
                char **value = value_of(&values, k);

                if (!(value ? !!*value : values.x509))
                        continue;
                if (p > s)
                        *p++ = ';';
                p = stpcpy(p, key_names[k]);
                *p++ = '=';
                p = stpcpy(p, value ? *value : "true");
        }
        *p = 0;
        *ret = s;
        return 0;
}

void connection_string_done(ConnectionString *c) {
        for (Key k = 0; k < _KEY_MAX; k++) {
                char **value = value_of(c, k);

                if (value)
                        *value = erase_and_free(*value);
        }
        *c = (ConnectionString) {};
}

int host_port_split(const char *s, unsigned default_port, char **ret_host, unsigned *ret_port) {
        const char *host = s, *colon;
        size_t host_size;
        uint64_t port = default_port;

        if (*s == '[') {
                const char *bracket = strchr(s, ']');

                if (!bracket || (bracket[1] && bracket[1] != ':'))
                        return -EINVAL;
                host = s + 1;
                host_size = (size_t) (bracket - host);
                colon = bracket[1] ? bracket + 1 : NULL;
        } else {
                colon = strchr(s, ':');
                if (colon && strchr(colon + 1, ':')) /* an IPv6 address needs its brackets */
                        return -EINVAL;
                host_size = colon ? (size_t) (colon - s) : strlen(s);
        }
        if (host_size == 0)
                return -EINVAL;
        if (colon && parse_u64_range(colon + 1, 1, 65535, &port) < 0)
                return -EINVAL;
        *ret_host = strndup(host, host_size);
        if (!*ret_host)
                return -ENOMEM;
        *ret_port = (unsigned) port;
        return 0;
}
