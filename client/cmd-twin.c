/* Twins: what a service keeps about a device, and what it wants of it. */
#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "client/identity.h"
#include "client/output.h"
#include "client/twin-patch.h"

#define INPUT_BYTES_MAX (1024U * 1024U)
#define ASSIGNMENTS_MAX 64U

typedef struct Assignments {
        const char *texts[ASSIGNMENTS_MAX];
        size_t n;
} Assignments;

typedef struct TwinSettings {
        const char *module, *file;
        Assignments tags, desired;
        IdentityGuard guard;
} TwinSettings;

static int option_assignment(const char *value, void *field) {
        Assignments *a = field;

        if (a->n >= ASSIGNMENTS_MAX)
                return -ERANGE;
        a->texts[a->n++] = value;
        return strchr(value, '=') && *value != '=' ? 0 : -EINVAL;
}

#define MODULE_OPTION                                                                              \
        { "module", 0, "ID", "The twin of that module of the device", option_string,               \
          offsetof(TwinSettings, module) }
#define INPUT_OPTIONS                                                                              \
        { "tag", 0, "NAME=VALUE",                                                                  \
          "Set a tag; NAME may be site.floor, VALUE is JSON or else text, null deletes",           \
          option_assignment, offsetof(TwinSettings, tags) },                                       \
        { "desired", 0, "NAME=VALUE", "Set a desired property likewise", option_assignment,        \
          offsetof(TwinSettings, desired) },                                                       \
        { "file", 0, "PATH", "Read the JSON from a file; \"-\": standard input", option_path,      \
          offsetof(TwinSettings, file) }

static const Option show_options[] = { MODULE_OPTION, {} };
static const Option change_options[] = {
        MODULE_OPTION,
        INPUT_OPTIONS,
        IDENTITY_GUARD_OPTIONS(TwinSettings, guard),
        {},
};

static int twin_call(const HubSession *h, const IdentityName *name, const IdentityCall *call,
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
        if (identity_path("twins", name, &path) < 0 || identity_what(call->verb, name, &what) < 0)
                return say_out_of_memory();
        request.path = path;
        request.what = what;
        request.module_of = name->module ? name->device : NULL;
        r = registry_client_call(h->client, &request, &answer);
        if (ret_status)
                *ret_status = answer.status;
        if (r != EX_OK)
                return r;
        if (!json_object_is_type(answer.body, json_type_object)) {
                say_error("The hub's answer is not understood");
                return EX_PROTOCOL;
        }
        *ret = TAKE_PTR(answer.body);
        return EX_OK;
}

static int get_twin(const HubSession *h, const IdentityName *name, struct json_object **ret) {
        return twin_call(h, name, &(IdentityCall){ .method = "GET", .verb = "read the twin of" }, ret,
                         NULL);
}

static void show_twin(const Globals *g, struct json_object *twin) {
        if (g->json)
                print_json(twin);
        else
                print_json_pretty(twin);
}

static int cmd_show(const Verb *verb, Globals *g, int argc, char **argv) {
        _cleanup_json_ struct json_object *twin = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        TwinSettings s = {};
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK)
                r = get_twin(&h, &(IdentityName){ argv[0], s.module }, &twin);
        if (r == EX_OK)
                show_twin(g, twin);
        return r;
}

static int read_text(const TwinSettings *s, const char *argument, char **ret) {
        int r;

        if (argument && s->file) {
                say_error("Either the JSON or --file");
                return EX_USAGE;
        }
        if (argument) {
                *ret = strdup(argument);
                return *ret ? EX_OK : say_out_of_memory();
        }
        if (!s->file)
                return EX_OK;
        r = read_file(streq(s->file, "-") ? "/dev/stdin" : s->file, INPUT_BYTES_MAX, ret, NULL);
        if (r < 0) {
                say_error("Cannot read %s: %s", s->file, strerror(-r));
                return EX_NOINPUT;
        }
        return EX_OK;
}

static int member(struct json_object *o, const char *name, struct json_object **ret) {
        int r;

        r = json_get_object(o, name, ret);
        if (r != 0)
                return r < 0 ? r : 0;
        *ret = json_object_new_object();
        return json_add(o, name, *ret);
}

static int assign(struct json_object *o, const char *option, const Assignments *a) {
        for (size_t i = 0; i < a->n; i++) {
                int r = twin_patch_set(o, a->texts[i]);

                if (r == -EINVAL) {
                        say_error("%s %s: it is no NAME=VALUE, or contradicts another", option,
                                  a->texts[i]);
                        return EX_USAGE;
                }
                if (r < 0)
                        return say_out_of_memory();
        }
        return EX_OK;
}

static int add_assignments(const TwinSettings *s, struct json_object *patch) {
        struct json_object *tags, *properties, *desired;
        int r = EX_OK;

        if (s->tags.n > 0) {
                if (member(patch, "tags", &tags) < 0)
                        return say_out_of_memory();
                r = assign(tags, "--tag", &s->tags);
        }
        if (r == EX_OK && s->desired.n > 0) {
                if (member(patch, "properties", &properties) < 0 ||
                    member(properties, "desired", &desired) < 0)
                        return say_out_of_memory();
                r = assign(desired, "--desired", &s->desired);
        }
        return r;
}

/* The change from the argument or file, and the options on top. */
static int make_patch(const TwinSettings *s, const char *argument, struct json_object **ret) {
        _cleanup_json_ struct json_object *patch = NULL;
        struct json_object *properties;
        _cleanup_free_ char *text = NULL;
        size_t at;
        int r;

        r = read_text(s, argument, &text);
        if (r != EX_OK)
                return r;
        if (text) {
                r = twin_patch_parse(text, strlen(text), &patch, &at);
                if (r == -EINVAL) {
                        say_error("%s is no JSON object, at byte %zu",
                                  s->file ? s->file : "The change", at);
                        return EX_DATAERR;
                }
                if (r < 0)
                        return say_out_of_memory();
        } else if (s->tags.n + s->desired.n == 0) {
                say_error("What to change is missing: JSON, --file, --tag or --desired");
                return EX_USAGE;
        } else
                patch = json_object_new_object();
        if (!patch)
                return say_out_of_memory();
        if (text && !json_object_object_get_ex(patch, "tags", NULL) &&
            !(json_object_object_get_ex(patch, "properties", &properties) &&
              json_object_is_type(properties, json_type_object) &&
              json_object_object_get_ex(properties, "desired", NULL))) {
                say_error("The change has neither \"tags\" nor \"properties\": {\"desired\": ...}; reported "
                          "properties are the device's alone");
                return EX_DATAERR;
        }
        r = add_assignments(s, patch);
        if (r == EX_OK)
                *ret = TAKE_PTR(patch);
        return r;
}

static void tell_conflict(const HubSession *h, const IdentityName *name, const TwinSettings *s,
                          struct json_object *before) {
        _cleanup_json_ struct json_object *now = NULL;

        say_error("The twin of %s was changed meanwhile (HTTP 412 412001 PreconditionFailed)",
                  name->device);
        if (get_twin(h, name, &now) != EX_OK)
                return;
        if (s->guard.etag)
                say_error("  its etag is %s now, not %s", strempty(identity_text(now, "etag")),
                          s->guard.etag);
        if (before)
                identity_tell_changes(before, now);
        say_error("What to do: look at it again, then repeat; --force overrides");
}

/* A merge leaves alone what it does not name, so it needs no guard; a replacement takes the place of
 * what was read. */
static int change_twin(const Verb *verb, Globals *g, int argc, char **argv, bool replace) {
        _cleanup_json_ struct json_object *patch = NULL, *before = NULL, *twin = NULL;
        _cleanup_(hub_session_done) HubSession h = {};
        _cleanup_free_ char *if_match = NULL;
        TwinSettings s = {};
        IdentityName name;
        long status = 0;
        int r;

        r = verb_parse(verb, g, &s, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        name = (IdentityName){ argv[0], s.module };
        r = make_patch(&s, argc > 1 ? argv[1] : NULL, &patch);
        if (r == EX_OK)
                r = hub_session_open(g, /* quiet= */ false, &h);
        if (r == EX_OK && replace && !s.guard.force)
                r = get_twin(&h, &name, &before);
        if (r != EX_OK)
                return r;
        if (!replace && !s.guard.etag)
                s.guard.force = true;
        if (identity_guard_header(&s.guard, before, &if_match) < 0)
                return say_out_of_memory();
        r = twin_call(&h, &name,
                      &(IdentityCall){ .method = replace ? "PUT" : "PATCH",
                                       .verb = replace ? "replace the twin of" : "update the twin of",
                                       .if_match = if_match,
                                       .body = patch,
                                       .expect_conflict = true },
                      &twin, &status);
        if (r != EX_OK && status == 412)
                tell_conflict(&h, &name, &s, before);
        if (r == EX_OK)
                show_twin(g, twin);
        return r;
}

static int cmd_update(const Verb *verb, Globals *g, int argc, char **argv) {
        return change_twin(verb, g, argc, argv, /* replace= */ false);
}

static int cmd_replace(const Verb *verb, Globals *g, int argc, char **argv) {
        return change_twin(verb, g, argc, argv, /* replace= */ true);
}

const Verb verb_twin_show = {
        .group = "device-twin",
        .hub = true,
        .name = "show",
        .arguments = "DEVICE",
        .arguments_min = 1,
        .arguments_max = 1,
        .summary = "Show the twin of a device",
        .options = show_options,
        .run = cmd_show,
};

const Verb verb_twin_update = {
        .group = "device-twin",
        .hub = true,
        .name = "update",
        .arguments = "DEVICE [JSON]",
        .arguments_min = 1,
        .arguments_max = 2,
        .summary = "Merge tags and desired properties into a twin",
        .description = "JSON is {\"tags\":{..},\"properties\":{\"desired\":{..}}}; null deletes.",
        .options = change_options,
        .run = cmd_update,
};

const Verb verb_twin_replace = {
        .group = "device-twin",
        .hub = true,
        .name = "replace",
        .arguments = "DEVICE [JSON]",
        .arguments_min = 1,
        .arguments_max = 2,
        .summary = "Replace all tags and desired properties of a twin",
        .description = "JSON as of update; what it does not hold is deleted.",
        .options = change_options,
        .run = cmd_replace,
};
