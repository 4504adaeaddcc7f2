/* The devices of a hub: its identity registry. */
#include <sysexits.h>

#include "lib/hub-topic.h"
#include "lib/json-util.h"
#include "lib/property-bag.h"
#include "client/login.h"
#include "client/output.h"
#include "client/registry-client.h"
#include "client/verb.h"

/* What a call needs; zero-initialised, done by hub_done(). */
typedef struct Hub {
        ConnectionString login;
        RegistryClient *client;
} Hub;

static void hub_done(Hub *h) {
        registry_client_free(h->client);
        connection_string_done(&h->login);
}

static int hub_open(const Globals *g, Hub *h) {
        int r;

        r = login_load(g, &h->login);
        if (r != EX_OK)
                return r;
        r = registry_client_new(&h->login, g->ca_file, g->https_port, &h->client);
        if (r == -EINVAL) {
                say_error("The login's HostName is not a host name");
                return EX_CONFIG;
        }
        return r < 0 ? say_out_of_memory() : EX_OK;
}

typedef struct DeviceCall {
        const char *method;
        const char *verb; /* "create": for the sentence about a failure */
        const char *if_match;
        struct json_object *body;
} DeviceCall;

/* One call to /devices/ID. EX_OK or the exit code, told. */
static int device_call(const Hub *h, const char *id, const DeviceCall *call,
                       struct json_object **ret) {
        _cleanup_free_ char *encoded = NULL, *path = NULL, *what = NULL;
        RegistryRequest request = {
                .method = call->method,
                .if_match = call->if_match,
                .body = call->body,
        };

        if (hub_device_id_check(id, /* for_mqtt= */ false) < 0) {
                say_error("\"%s\" is no device id: 1 to 128 of A-Z a-z 0-9 - : . + %% _ # * ? ! ( ) , = @ ; $ '",
                          id);
                return EX_USAGE;
        }
        if (percent_encode(id, strlen(id), &encoded) < 0 ||
            asprintf(&path, "/devices/%s", encoded) < 0 ||
            asprintf(&what, "Cannot %s device %s", call->verb, id) < 0)
                return say_out_of_memory();
        request.path = path;
        request.what = what;
        return registry_client_call(h->client, &request, ret);
}

static const char *text_of(struct json_object *o, const char *field) {
        const char *s = NULL;

        (void) json_get_string(o, field, &s, NULL); /* absent is absent */
        return s;
}

static const char *key_of(struct json_object *device, bool secondary) {
        struct json_object *authentication, *keys;

        if (json_get_object(device, "authentication", &authentication) <= 0 ||
            json_get_object(authentication, "symmetricKey", &keys) <= 0)
                return NULL;
        return text_of(keys, secondary ? "secondaryKey" : "primaryKey");
}

static const char *auth_method_of(struct json_object *device) {
        struct json_object *authentication;
        const char *type = NULL;

        if (json_get_object(device, "authentication", &authentication) > 0)
                type = text_of(authentication, "type");
        if (!type && key_of(device, /* secondary= */ false))
                type = "sas"; /* hubs of old versions gave no type */
        return type;
}

/* "Year 1" is the hub's way to say never. */
static const char *time_of(struct json_object *o, const char *field) {
        const char *s = text_of(o, field);

        return s && startswith(s, "0001-01-01T00:00:00") ? "never" : s;
}

/* The device's own connection string; -EINVAL where it has no key of that kind, or an id that cannot
 * stand in one. */
static int make_connection_string(const Hub *h, struct json_object *device, bool secondary,
                                  char **ret) {
        const char *id = text_of(device, "deviceId"), *key = key_of(device, secondary);
        _cleanup_free_ char *host = NULL;
        unsigned port;
        int r;

        if (!id || strchr(id, ';') || !key || !*key)
                return -EINVAL;
        /* Without a port: the login's is that of HTTPS. */
        r = host_port_split(h->login.host_name, 0, &host, &port);
        if (r < 0)
                return r;
        r = asprintf(ret, "HostName=%s;DeviceId=%s;SharedAccessKey=%s", host, id, key);
        return r < 0 ? -ENOMEM : 0;
}

/* json-c keeps copies of the keys; they are erased where they lie before the object goes. */
static void device_erasep(struct json_object **device) {
        for (int i = 0; i < 2; i++) {
                const char *key = key_of(*device, i);

                if (key)
                        explicit_bzero((char *) (uintptr_t) key, strlen(key));
        }
        json_object_put(*device);
}
#define _cleanup_device_ _cleanup_(device_erasep)

static void print_flag(const char *name, struct json_object *o, const char *field) {
        bool b = false;

        (void) json_get_bool(o, field, &b); /* absent is "false" */
        print_field(name, b ? "true" : "false");
}

static void print_device(struct json_object *d, bool keys) {
        uint64_t n = 0;

        print_field("deviceId", text_of(d, "deviceId"));
        print_field("generationId", text_of(d, "generationId"));
        print_field("etag", text_of(d, "etag"));
        if (keys) {
                print_field("primaryKey", key_of(d, /* secondary= */ false));
                print_field("secondaryKey", key_of(d, /* secondary= */ true));
        }
        print_field("connectionState", text_of(d, "connectionState"));
        print_field("connectionStateUpdatedTime", time_of(d, "connectionStateUpdatedTime"));
        print_field("status", text_of(d, "status"));
        print_field("statusReason", text_of(d, "statusReason"));
        print_field("statusUpdatedTime", time_of(d, "statusUpdatedTime"));
        print_field("lastActivityTime", time_of(d, "lastActivityTime"));
        (void) json_get_u64(d, "cloudToDeviceMessageCount", &n); /* absent is none */
        print_fieldf("cloudToDeviceMessageCount", "%" PRIu64, n);
        print_flag("isManaged", d, "isManaged");
        print_field("authMethod", auth_method_of(d));
}

/* The hub's object, without the keys or with what print_device() shows added flat. */
static int print_device_json(struct json_object *d, bool keys, const char *connection_string) {
        struct json_object *authentication;
        int r = 0;

        if (keys) {
                r = json_add_string(d, "primaryKey", key_of(d, /* secondary= */ false));
                if (r >= 0)
                        r = json_add_string(d, "secondaryKey", key_of(d, /* secondary= */ true));
        }
        if (r >= 0)
                r = json_add_string(d, "authMethod", auth_method_of(d));
        if (r >= 0)
                r = json_add_string(d, "connectionString", connection_string);
        if (r >= 0 && !json_object_object_get_ex(d, "isManaged", NULL))
                r = json_add_bool(d, "isManaged", false);
        if (r < 0)
                return r;
        if (!keys && json_get_object(d, "authentication", &authentication) > 0)
                json_object_object_del(authentication, "symmetricKey");
        print_json(d);
        return 0;
}

static int show_device(const Hub *h, const Globals *g, struct json_object *d, bool keys) {
        _cleanup_(erase_and_freep) char *connection_string = NULL;
        int r;

        if (!json_object_is_type(d, json_type_object)) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        if (keys) {
                r = make_connection_string(h, d, /* secondary= */ false, &connection_string);
                if (r == -ENOMEM)
                        return say_out_of_memory();
        }
        if (g->json)
                return print_device_json(d, keys, connection_string) < 0 ? say_out_of_memory() :
                                                                           EX_OK;
        print_device(d, keys);
        if (connection_string)
                print_field("connectionString", connection_string);
        return EX_OK;
}

typedef struct CreateSettings {
        bool disabled;
        const char *status_reason;
} CreateSettings;

static const Option create_options[] = {
        { "disabled", 0, NULL, "Make it, but do not let it connect yet", option_flag,
          offsetof(CreateSettings, disabled) },
        { "status-reason", 0, "TEXT", "Why it is enabled or disabled", option_string,
          offsetof(CreateSettings, status_reason) },
        {},
};

static int cmd_create(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_json_ struct json_object *body = json_object_new_object();
        _cleanup_device_ struct json_object *device = NULL;
        _cleanup_(hub_done) Hub h = {};
        CreateSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = body ? json_add_string(body, "deviceId", argv[0]) : -ENOMEM;
        if (r >= 0)
                r = json_add_string(body, "status", s.disabled ? "disabled" : "enabled");
        if (r >= 0)
                r = json_add_string(body, "statusReason", s.status_reason);
        if (r < 0)
                return say_out_of_memory();

        r = hub_open(g, &h);
        if (r == EX_OK)
                r = device_call(&h, argv[0],
                                &(DeviceCall){ .method = "PUT", .verb = "create", .body = body },
                                &device);
        return r == EX_OK ? show_device(&h, g, device, /* keys= */ true) : r;
}

const Verb verb_device_create = {
        .group = "device",
        .name = "create",
        .arguments = "ID",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Create a device and print its keys and connection string",
        .description = "The hub makes the keys. Exit code 73 when the device exists.",
        .options = create_options,
        .run = cmd_create,
};

typedef struct ShowSettings {
        bool keys;
} ShowSettings;

static const Option show_options[] = {
        { "keys", 0, NULL, "Print the keys and the connection string too", option_flag,
          offsetof(ShowSettings, keys) },
        {},
};

static int cmd_show(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_device_ struct json_object *device = NULL;
        _cleanup_(hub_done) Hub h = {};
        ShowSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = hub_open(g, &h);
        if (r == EX_OK)
                r = device_call(&h, argv[0], &(DeviceCall){ .method = "GET", .verb = "show" },
                                &device);
        return r == EX_OK ? show_device(&h, g, device, s.keys) : r;
}

const Verb verb_device_show = {
        .group = "device",
        .name = "show",
        .arguments = "ID",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Show a device",
        .options = show_options,
        .run = cmd_show,
};

typedef struct ListSettings {
        uint64_t top;
} ListSettings;

static const Option list_options[] = {
        { "top", 0, "N", "At most that many, up to 1000, which is the hub's limit (default)",
          option_u64, offsetof(ListSettings, top) },
        {},
};

static int by_id(const void *a, const void *b) {
        struct json_object *const *x = a, *const *y = b;

        return strcmp(strempty(text_of(*x, "deviceId")), strempty(text_of(*y, "deviceId")));
}

static int add_device(Table *t, struct json_object *d) {
        uint64_t n = 0;
        int r;

        (void) json_get_u64(d, "cloudToDeviceMessageCount", &n); /* absent is none */
        r = table_add(t, text_of(d, "deviceId"));
        if (r >= 0)
                r = table_add(t, text_of(d, "status"));
        if (r >= 0)
                r = table_add(t, text_of(d, "connectionState"));
        if (r >= 0)
                r = table_add(t, time_of(d, "lastActivityTime"));
        if (r >= 0)
                r = table_addf(t, "%" PRIu64, n);
        if (r >= 0)
                r = table_add(t, auth_method_of(d));
        return r;
}

static int print_devices(struct json_object *devices) {
        static const char *const headers[] = {
                "DEVICE", "STATUS", "CONNECTION", "LAST ACTIVITY", "C2D", "AUTHENTICATION", NULL
        };
        _cleanup_(table_freep) Table *t = NULL;
        int r;

        r = table_new(headers, &t);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(devices); i++)
                r = add_device(t, json_object_array_get_idx(devices, i));
        if (r >= 0)
                table_print(t, stdout);
        return r;
}

static void remove_keys(struct json_object *devices) {
        for (size_t i = 0; i < json_object_array_length(devices); i++) {
                struct json_object *authentication, *d = json_object_array_get_idx(devices, i);

                for (int k = 0; k < 2; k++)
                        if (key_of(d, k))
                                explicit_bzero((char *) (uintptr_t) key_of(d, k),
                                               strlen(key_of(d, k)));
                if (json_get_object(d, "authentication", &authentication) > 0)
                        json_object_object_del(authentication, "symmetricKey");
        }
}

static int cmd_list(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_json_ struct json_object *devices = NULL;
        _cleanup_(hub_done) Hub h = {};
        ListSettings s = { .top = 1000 };
        char query[32];
        RegistryRequest request = {
                .method = "GET",
                .path = "/devices",
                .query = query,
                .what = "Cannot list the devices",
        };
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (s.top < 1 || s.top > 1000) {
                say_error("--top: 1 to 1000");
                return EX_USAGE;
        }
        r = hub_open(g, &h);
        if (r != EX_OK)
                return r;
        snprintf(query, sizeof(query), "top=%" PRIu64, s.top);
        r = registry_client_call(h.client, &request, &devices);
        if (r != EX_OK)
                return r;
        if (!json_object_is_type(devices, json_type_array)) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        remove_keys(devices);
        json_object_array_sort(devices, by_id);
        if (g->json)
                print_json(devices);
        else if (print_devices(devices) < 0)
                return say_out_of_memory();
        return EX_OK;
}

const Verb verb_device_list = {
        .group = "device",
        .name = "list",
        .summary = "List the devices of the hub, at most 1000",
        .options = list_options,
        .run = cmd_list,
};

static int cmd_delete(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(hub_done) Hub h = {};
        int r;

        r = verb_parse(verb, g, NULL, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = hub_open(g, &h);
        if (r == EX_OK)
                r = device_call(&h, argv[0],
                                &(DeviceCall){ .method = "DELETE",
                                               .verb = "delete",
                                               .if_match = "\"*\"" },
                                NULL);
        if (r == EX_OK && !g->json)
                printf("Deleted device %s\n", argv[0]);
        return r;
}

const Verb verb_device_delete = {
        .group = "device",
        .name = "delete",
        .arguments = "ID",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Delete a device, with its twin and modules",
        .run = cmd_delete,
};

typedef struct ConnectionStringSettings {
        bool secondary;
} ConnectionStringSettings;

static const Option connection_string_options[] = {
        { "secondary", 0, NULL, "With the secondary key", option_flag,
          offsetof(ConnectionStringSettings, secondary) },
        {},
};

static int cmd_connection_string(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(erase_and_freep) char *text = NULL;
        _cleanup_device_ struct json_object *device = NULL;
        _cleanup_(hub_done) Hub h = {};
        ConnectionStringSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = hub_open(g, &h);
        if (r == EX_OK)
                r = device_call(&h, argv[0], &(DeviceCall){ .method = "GET", .verb = "read" },
                                &device);
        if (r != EX_OK)
                return r;
        r = make_connection_string(&h, device, s.secondary, &text);
        if (r == -EINVAL) {
                if (strchr(argv[0], ';'))
                        say_error("No connection string can name %s: a semicolon ends the id there",
                                  argv[0]);
                else
                        say_error("Device %s has no key: it authenticates by %s", argv[0],
                                  strempty(auth_method_of(device)));
                return EX_DATAERR;
        }
        if (r < 0)
                return say_out_of_memory();
        puts(text);
        return EX_OK;
}

const Verb verb_device_connection_string = {
        .group = "device",
        .name = "connection-string",
        .arguments = "ID",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Print the connection string of a device, alone, as iothubd reads it",
        .options = connection_string_options,
        .run = cmd_connection_string,
};
