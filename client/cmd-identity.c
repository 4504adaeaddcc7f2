#include "client/cmd-identity.h"

#include "lib/json-util.h"
#include "client/identity-auth.h"
#include "client/identity.h"
#include "client/output.h"

static IdentityName name_of(const Verb *verb, char **argv) {
        return (IdentityName){ .device = argv[0],
                               .module = streq(verb->group, "module") ? argv[1] : NULL };
}

typedef struct Settings {
        AuthSettings auth;
        IdentityGuard guard;
        bool disabled;
        const char *status, *status_reason, *managed_by, *parent;
        bool edge, no_edge;
} Settings;

#define REASON_OPTION                                                                              \
        { "status-reason", 0, "TEXT", "Why it is enabled or disabled", option_string,              \
          offsetof(Settings, status_reason) }
#define PARENT_OPTIONS                                                                             \
        { "edge", 0, NULL, "It is an IoT Edge device, which can be a parent of others",            \
          option_flag, offsetof(Settings, edge) },                                                 \
        { "parent", 0, "ID", "The edge device that it connects through; \"\": none",               \
          option_string, offsetof(Settings, parent) }
#define MANAGED_BY_OPTION                                                                          \
        { "managed-by", 0, "TEXT", "Who manages the module", option_string,                        \
          offsetof(Settings, managed_by) }

const Option device_create_options[] = {
        IDENTITY_AUTH_OPTIONS(Settings, auth),
        { "disabled", 0, NULL, "Make it, but do not let it connect yet", option_flag,
          offsetof(Settings, disabled) },
        REASON_OPTION,
        PARENT_OPTIONS,
        {},
};

const Option module_create_options[] = {
        IDENTITY_AUTH_OPTIONS(Settings, auth),
        MANAGED_BY_OPTION,
        {},
};

const Option device_update_options[] = {
        IDENTITY_AUTH_OPTIONS(Settings, auth),
        { "status", 0, "enabled|disabled", "Whether it may connect", option_string,
          offsetof(Settings, status) },
        REASON_OPTION,
        PARENT_OPTIONS,
        { "no-edge", 0, NULL, "It is no IoT Edge device any more", option_flag,
          offsetof(Settings, no_edge) },
        IDENTITY_GUARD_OPTIONS(Settings, guard),
        {},
};

const Option module_update_options[] = {
        IDENTITY_AUTH_OPTIONS(Settings, auth),
        MANAGED_BY_OPTION,
        IDENTITY_GUARD_OPTIONS(Settings, guard),
        {},
};

const Option device_status_options[] = {
        { "reason", 0, "TEXT", "Why", option_string, offsetof(Settings, status_reason) },
        IDENTITY_GUARD_OPTIONS(Settings, guard),
        {},
};

static int set_string(struct json_object *o, const char *field, const char *value) {
        if (!value)
                return 0;
        return *value ? json_add_string(o, field, value) : json_object_object_add(o, field, NULL);
}

/* A parent is named by its scope, which only the hub knows. */
static int set_parent(const HubSession *h, struct json_object *o, const char *parent, bool edge) {
        _cleanup_identity_ struct json_object *p = NULL;
        struct json_object *parents;
        const char *scope;
        int r;

        json_object_object_del(o, "parentScopes");
        if (!edge)
                json_object_object_del(o, "deviceScope");
        if (!*parent)
                return EX_OK;
        r = identity_get(h, &(IdentityName){ .device = parent }, "read the parent", &p);
        if (r != EX_OK)
                return r;
        scope = identity_text(p, "deviceScope");
        if (!scope) {
                say_error("%s is no IoT Edge device, so it can be nobody's parent", parent);
                return EX_DATAERR;
        }
        parents = json_object_new_array();
        if (!parents || json_object_array_add(parents, json_object_new_string(scope)) < 0 ||
            json_add(o, "parentScopes", parents) < 0 ||
            (!edge && json_add_string(o, "deviceScope", scope) < 0))
                return say_out_of_memory();
        return EX_OK;
}

static int set_edge(struct json_object *o, bool edge) {
        struct json_object *capabilities = json_object_new_object();

        if (json_add(o, "capabilities", capabilities) < 0)
                return -ENOMEM;
        return json_add_bool(capabilities, "iotEdge", edge);
}

static bool is_edge(struct json_object *o) {
        struct json_object *capabilities;
        bool edge = false;

        if (json_get_object(o, "capabilities", &capabilities) > 0)
                (void) json_get_bool(capabilities, "iotEdge", &edge); /* absent is "no" */
        return edge;
}

static int apply_settings(const HubSession *h, const Settings *s, struct json_object *o) {
        int r;

        r = identity_auth_apply(&s->auth, o);
        if (r != EX_OK)
                return r;
        if (set_string(o, "status", s->status) < 0 ||
            set_string(o, "statusReason", s->status_reason) < 0 ||
            set_string(o, "managedBy", s->managed_by) < 0 ||
            ((s->edge || s->no_edge) && set_edge(o, s->edge) < 0))
                return say_out_of_memory();
        if (s->no_edge)
                json_object_object_del(o, "deviceScope"); /* it was its own */
        return s->parent ? set_parent(h, o, s->parent, is_edge(o)) : EX_OK;
}

static int check_settings(const Settings *s) {
        if (s->status && !streq(s->status, "enabled") && !streq(s->status, "disabled")) {
                say_error("--status: \"%s\" is neither enabled nor disabled", s->status);
                return EX_USAGE;
        }
        if (s->edge && s->no_edge) {
                say_error("--edge and --no-edge exclude each other");
                return EX_USAGE;
        }
        return EX_OK;
}

int cmd_identity_create(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_identity_ struct json_object *body = json_object_new_object(), *made = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        IdentityName name;
        Settings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = name_of(verb, argv);
        r = identity_name_check(&name);
        if (r != EX_OK)
                return r;
        if (!name.module)
                s.status = s.disabled ? "disabled" : "enabled";
        if (!body || json_add_string(body, "deviceId", name.device) < 0 ||
            json_add_string(body, "moduleId", name.module) < 0)
                return say_out_of_memory();

        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = apply_settings(&h, &s, body);
        if (r == EX_OK)
                r = identity_call(&h, &name,
                                  &(IdentityCall){ .method = "PUT", .verb = "create", .body = body },
                                  &made, NULL);
        return r == EX_OK ? identity_show(&h, g, made, /* keys= */ true) : r;
}

typedef struct ShowSettings {
        bool keys;
} ShowSettings;

const Option identity_show_options[] = {
        { "keys", 0, NULL, "Print the keys and the connection string too", option_flag,
          offsetof(ShowSettings, keys) },
        {},
};

int cmd_identity_show(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_identity_ struct json_object *o = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        IdentityName name;
        ShowSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = name_of(verb, argv);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = identity_get(&h, &name, "show", &o);
        return r == EX_OK ? identity_show(&h, g, o, s.keys) : r;
}

static int check_change(const Settings *s) {
        if (identity_auth_given(&s->auth) || s->status || s->status_reason || s->managed_by ||
            s->parent || s->edge || s->no_edge)
                return EX_OK;
        say_error("What to change is missing; --help lists the options");
        return EX_USAGE;
}

typedef struct Change {
        const HubSession *session;
        const Settings *settings;
} Change;

static int apply_change(struct json_object *o, void *userdata) {
        const Change *c = userdata;

        return apply_settings(c->session, c->settings, o);
}

int cmd_identity_update(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_identity_ struct json_object *o = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        IdentityName name;
        Settings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = check_settings(&s);
        if (r == EX_OK)
                r = check_change(&s);
        if (r != EX_OK)
                return r;
        name = name_of(verb, argv);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = identity_change(&h, &name, &s.guard, "update", apply_change,
                                    &(Change){ &h, &s }, &o);
        return r == EX_OK ? identity_show(&h, g, o, /* keys= */ false) : r;
}

/* Each of several; the first failure is the exit code. */
static int set_status(const Verb *verb, Globals *g, const char *status, int argc, char **argv) {
        _cleanup_(hub_session_done) HubSession h = {};
        Settings s = { .status = status };
        int r, exit_code;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        if (!s.status_reason)
                s.status_reason = ""; /* the reason for the old status is none for the new one */
        exit_code = hub_session_open(g, /* quiet= */ false, &h);
        if (exit_code != EX_OK)
                return exit_code;
        for (int i = 0; i < argc; i++) {
                _cleanup_identity_ struct json_object *o = NULL;

                r = identity_change(&h, &(IdentityName){ .device = argv[i] }, &s.guard, verb->name,
                                    apply_change, &(Change){ &h, &s }, &o);
                if (r == EX_OK && g->json)
                        r = identity_show(&h, g, o, /* keys= */ false);
                else if (r == EX_OK)
                        printf("Device %s is %s\n", argv[i], status);
                if (exit_code == EX_OK)
                        exit_code = r;
        }
        return exit_code;
}

int cmd_device_enable(const Verb *verb, Globals *g, int argc, char **argv) {
        return set_status(verb, g, "enabled", argc, argv);
}

int cmd_device_disable(const Verb *verb, Globals *g, int argc, char **argv) {
        return set_status(verb, g, "disabled", argc, argv);
}

typedef struct DeleteSettings {
        IdentityGuard guard;
} DeleteSettings;

const Option identity_delete_options[] = {
        IDENTITY_GUARD_OPTIONS(DeleteSettings, guard),
        {},
};

static int delete_one(const HubSession *h, const Globals *g, const IdentityName *name,
                      const IdentityGuard *guard) {
        _cleanup_identity_ struct json_object *before = NULL;
        _cleanup_free_ char *if_match = NULL, *what = NULL;
        long status = 0;
        int r;

        if (identity_what("delete", name, &what) < 0)
                return say_out_of_memory();
        if (!guard->force && !guard->etag) {
                r = identity_get(h, name, "delete", &before);
                if (r != EX_OK)
                        return r;
        }
        r = identity_guard_header(guard, before, &if_match);
        if (r < 0)
                return r == -ENOMEM ? say_out_of_memory() : EX_PROTOCOL;
        r = identity_call(h, name,
                          &(IdentityCall){ .method = "DELETE",
                                           .verb = "delete",
                                           .if_match = if_match,
                                           .expect_conflict = true },
                          NULL, &status);
        if (r != EX_OK && status == 412)
                identity_tell_conflict(h, name, guard, what, before);
        if (r == EX_OK && !g->json)
                printf("Deleted %s %s%s%s\n", name->module ? "module" : "device", name->device,
                       name->module ? "/" : "", strempty(name->module));
        return r;
}

int cmd_identity_delete(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(hub_session_done) HubSession h = {};
        DeleteSettings s = {};
        int r, exit_code;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        exit_code = hub_session_open(g, /* quiet= */ false, &h);
        if (exit_code != EX_OK)
                return exit_code;
        if (streq(verb->group, "module")) {
                IdentityName name = name_of(verb, argv);

                return delete_one(&h, g, &name, &s.guard);
        }
        for (int i = 0; i < argc; i++) {
                r = delete_one(&h, g, &(IdentityName){ .device = argv[i] }, &s.guard);
                if (exit_code == EX_OK)
                        exit_code = r;
        }
        return exit_code;
}

typedef struct RenewSettings {
        const char *which;
        IdentityGuard guard;
} RenewSettings;

const Option identity_renew_key_options[] = {
        { "key", 0, "primary|secondary|both|swap",
          "Which key to make anew (default: primary), or exchange the two", option_string,
          offsetof(RenewSettings, which) },
        IDENTITY_GUARD_OPTIONS(RenewSettings, guard),
        {},
};

static int renew(struct json_object *keys, const char *which) {
        const bool swap = streq(which, "swap"), both = streq(which, "both");
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;
        const char *old[2] = {};
        int r = 0;

        (void) json_get_string(keys, "primaryKey", &old[0], NULL); /* looked at before */
        (void) json_get_string(keys, "secondaryKey", &old[1], NULL);
        if (swap) {
                primary = strdup(old[1]);
                secondary = strdup(old[0]);
                r = primary && secondary ? 0 : -ENOMEM;
        }
        if (r >= 0 && (both || streq(which, "primary")))
                r = identity_key_make(&primary);
        if (r >= 0 && (both || streq(which, "secondary")))
                r = identity_key_make(&secondary);
        if (r >= 0 && primary)
                r = json_add_string(keys, "primaryKey", primary);
        if (r >= 0 && secondary)
                r = json_add_string(keys, "secondaryKey", secondary);
        return r;
}

static int apply_renewal(struct json_object *o, void *userdata) {
        struct json_object *authentication, *keys;

        if (!identity_key(o, /* secondary= */ false) || !identity_key(o, /* secondary= */ true)) {
                say_error("It has no keys: it signs in by %s", strempty(identity_auth_type(o)));
                return EX_DATAERR;
        }
        if (json_get_object(o, "authentication", &authentication) <= 0 ||
            json_get_object(authentication, "symmetricKey", &keys) <= 0 ||
            renew(keys, userdata) < 0)
                return say_out_of_memory();
        return EX_OK;
}

int cmd_identity_renew_key(const Verb *verb, Globals *g, int argc, char **argv) {
        static const char *const known[] = { "primary", "secondary", "both", "swap" };
        _cleanup_identity_ struct json_object *o = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        RenewSettings s = { .which = "primary" };
        bool found = false;
        IdentityName name;
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                found = found || streq(s.which, known[i]);
        if (!found) {
                say_error("--key: \"%s\" is not primary, secondary, both or swap", s.which);
                return EX_USAGE;
        }
        name = name_of(verb, argv);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = identity_change(&h, &name, &s.guard, "renew the keys of", apply_renewal,
                                    (void *) (uintptr_t) s.which, &o);
        return r == EX_OK ? identity_show(&h, g, o, /* keys= */ true) : r;
}

typedef struct ConnectionStringSettings {
        bool secondary;
} ConnectionStringSettings;

const Option identity_connection_string_options[] = {
        { "secondary", 0, NULL, "With the secondary key", option_flag,
          offsetof(ConnectionStringSettings, secondary) },
        {},
};

int cmd_identity_connection_string(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_(erase_and_freep) char *text = NULL;
        _cleanup_identity_ struct json_object *o = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        ConnectionStringSettings s = {};
        IdentityName name;
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = name_of(verb, argv);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = identity_get(&h, &name, "read", &o);
        if (r != EX_OK)
                return r;
        r = identity_connection_string(&h, o, s.secondary, &text);
        if (r == -EINVAL) {
                if (strchr(name.device, ';') || strchr(strempty(name.module), ';'))
                        say_error("No connection string can name it: a semicolon ends the id there");
                else
                        say_error("It has no such key: it signs in by %s",
                                  strempty(identity_auth_type(o)));
                return EX_DATAERR;
        }
        if (r < 0)
                return say_out_of_memory();
        puts(text);
        return EX_OK;
}
