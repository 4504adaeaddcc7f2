#include "client/hub-error.h"

#include <strings.h>

#include "lib/hub-code.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"
#include "client/output.h"

#define BODY_DEPTH_MAX 16
#define RAW_TEXT_MAX 200 /* of a body that is no JSON, such as a gateway's page */

#define THROTTLED "wait, send less at a time, or add units to the hub"
#define PASSING "a fault of the service: try again; see the hub's status page if it lasts"
#define LOGIN                                                                                      \
        "check the policy's name, key and rights, the HostName, and this machine's clock "         \
        "(timedatectl)"

const HubErrorRule hub_error_rules[] = {
        { 400000, "the request is malformed", "the hub's text tells what it misses", EX_DATAERR },
        { 400001, "the hub does not speak this version of its interface", "update iothubctl",
          EX_PROTOCOL },
        { 400003, "not possible for this device",
          "look at its kind and state: iothubctl device show", EX_DATAERR },
        { 400004, "a value is not allowed",
          "the hub's text names it; its limits are in docs/hub-limits.md",
          EX_DATAERR },
        { 400005, "a value is missing", "the hub's text names it", EX_DATAERR },
        { 400006, "the hub cannot read the request", "report it with the tracking id (--verbose)",
          EX_DATAERR },
        { 400008, "the storage container is not usable", "check its address and access token",
          EX_DATAERR },
        { 400012, "the hub cannot read the JSON", "check the JSON that was given", EX_DATAERR },
        { 400013, "some of the devices could not be changed", "see the error of each", EX_DATAERR },
        { 400014, "the hub has no storage account", "link one in the portal", EX_DATAERR },
        { 400015, "the upload's id is wrong", "give the id that the upload began with", EX_DATAERR },
        { 400016, "the upload was told too late", "start it again", EX_DATAERR },
        { 400020, "the storage refused", "check the rights on the container", EX_DATAERR },
        { 400023, "it was changed meanwhile", "look at it again, then repeat; --force overrides",
          EXIT_TRY_AGAIN },
        { 400024, "the hub gave up waiting", "try again", EXIT_TRY_AGAIN },
        { 400027, "two clients connect with one identity",
          "look for a copy of the device or a test tool", EX_DATAERR },
        { 400028, "the scope is not that of an edge device",
          "name the parent with --parent; an edge device's own scope never changes", EX_DATAERR },
        { 400029, "the service was upgraded", "nothing: the next try works", EXIT_TRY_AGAIN },
        { 400030, "the service is being upgraded", "try again", EXIT_TRY_AGAIN },
        { 400035, "no such kind of key", "primary, secondary, both or swap are", EX_DATAERR },
        { 400036, "some keys could not be renewed", "see the error of each", EX_DATAERR },
        { 401000, "the hub refuses the login", LOGIN, EX_NOPERM },
        { 401001, "no hub of that name", "check HostName", EX_NOPERM },
        { 401002, "the hub refuses the login",
          LOGIN "; for a module, that its device exists and is enabled", EX_NOPERM },
        { 401003, "the hub refuses the login", LOGIN, EX_NOPERM },
        { 403000, "the hub does not allow it",
          "check the policy's rights, the hub's IP filter and network settings", EX_NOPERM },
        { 403001, "the hub is suspended", "check the subscription in the portal", EX_NOPERM },
        { 403002, "the day's messages are used up",
          "wait for 00:00 UTC, add units, or raise the tier", EXIT_TRY_AGAIN },
        { 403003, "another import or export job runs", "wait for its end", EXIT_TRY_AGAIN },
        { 403004, "50 messages wait for the device already",
          "iothubctl c2d purge empties its queue", EXIT_TRY_AGAIN },
        { 403006, "10 uploads of the device are under way", "let the device tell the end of each",
          EXIT_TRY_AGAIN },
        { 403007, "too many bytes wait for the device", "iothubctl c2d purge empties its queue",
          EXIT_TRY_AGAIN },
        { 403009, "the expiry is past or too far",
          "at most two days ahead; check this machine's clock (timedatectl)", EX_DATAERR },
        { 403010, "the hub's tier lacks this",
          "twins, methods and messages to devices need the Standard tier", EX_NOPERM },
        { 403012, "the device is disabled", "iothubctl device enable", EX_NOPERM },
        { 403800, "too many calls of the device are open", "try again", EXIT_TRY_AGAIN },
        { 404000, "not found", "check spelling and case of the id, and HostName", EXIT_NOT_FOUND },
        { 404001, "device not found", "check spelling and case; iothubctl device list",
          EXIT_NOT_FOUND },
        { 404002, "job not found", "check its id", EXIT_NOT_FOUND },
        { 404010, "module not found", "check spelling and case; iothubctl module list",
          EXIT_NOT_FOUND },
        { 404012, "the hub moves to another region", "wait", EXIT_TRY_AGAIN },
        { 404013, "the hub's tier or region lacks this",
          "raise the tier in the portal, or use another region", EX_NOPERM },
        { 404103, "the device is not connected, or takes no methods",
          "is it running, and has it subscribed to methods? --connect-timeout waits for it",
          EX_NOHOST },
        { 404104, "the device's connection ended", "try again", EXIT_TRY_AGAIN },
        { 404301, "configuration not found", "check its id", EXIT_NOT_FOUND },
        { 405000, "the hub does not know this call",
          "check HostName; update iothubctl", EX_PROTOCOL },
        { 405102, "not possible now", "try again later", EXIT_TRY_AGAIN },
        { 409000, "it exists already", "choose another id", EXIT_EXISTS },
        { 409001, "the device exists already", "choose another id, or iothubctl device update",
          EXIT_EXISTS },
        { 409002, "the device's older connection is still there", "try again", EXIT_TRY_AGAIN },
        { 409103, "the job exists already", "choose another id", EXIT_EXISTS },
        { 409301, "the module exists already", "choose another id, or iothubctl module update",
          EXIT_EXISTS },
        { 409401, "the configuration exists already", "choose another id", EXIT_EXISTS },
        { 412000, "it was changed meanwhile", "look at it again, then repeat; --force overrides",
          EXIT_TRY_AGAIN },
        { 412001, "it was changed meanwhile", "look at it again, then repeat; --force overrides",
          EXIT_TRY_AGAIN },
        { 412002, "the message was settled too late", "it comes again; settle within 60 s",
          EXIT_TRY_AGAIN },
        { 413000, "the request is too large", "send less at a time", EX_DATAERR },
        { 413001, "the message is too large",
          "256 KB from devices and 64 KB to them are the limits: split it", EX_DATAERR },
        { 413002, "the hub's registry is full", "delete devices, or use another hub", EX_DATAERR },
        { 413003, "the device holds no more modules", "delete modules; 50 are the limit",
          EX_DATAERR },
        { 413101, "the hub holds no more configurations", "delete some", EX_DATAERR },
        { 415000, "the hub does not know the Content-Type",
          "report it with the tracking id (--verbose)", EX_PROTOCOL },
        { 429000, "the hub is throttling", THROTTLED, EXIT_TRY_AGAIN },
        { 429001, "the hub is throttling", THROTTLED, EXIT_TRY_AGAIN },
        { 429002, "the hub is throttling: its backlog is full", THROTTLED, EXIT_TRY_AGAIN },
        { 429003, "the hub is throttling: the call waited too long", THROTTLED, EXIT_TRY_AGAIN },
        { 429004, "too many jobs are active", "wait for the end of one", EXIT_TRY_AGAIN },
        { 429005, "the hub is throttling this device", "spread the load", EXIT_TRY_AGAIN },
        { 499000, "the call was cut off", "try again", EXIT_TRY_AGAIN },
        { 500000, "the hub failed", PASSING, EXIT_TRY_AGAIN },
        { 500001, "the hub failed", PASSING "; look first whether the change was made",
          EXIT_TRY_AGAIN },
        { 500008, "the hub gave up waiting", PASSING, EXIT_TRY_AGAIN },
        { 502000, "the hub's gateway failed", PASSING, EXIT_TRY_AGAIN },
        { 503000, "the hub is not available", PASSING, EXIT_TRY_AGAIN },
        { 503001, "the hub is not available", PASSING, EXIT_TRY_AGAIN },
        { 503003, "a part of the hub is moving", PASSING, EXIT_TRY_AGAIN },
        { 503005, "the hub is busy", PASSING, EXIT_TRY_AGAIN },
        { 503006, "the hub is being restored", "wait", EXIT_TRY_AGAIN },
        { 503101, "the hub is not available", PASSING, EXIT_TRY_AGAIN },
        { 503102, "the device's part of the hub is not available", PASSING, EXIT_TRY_AGAIN },
        { 504000, "no answer in time", PASSING, EXIT_TRY_AGAIN },
        { 504101, "the device did not answer in time; the method may have run",
          "raise --timeout, or look at the device before calling again", EXIT_TRY_AGAIN },
        {},
};

const HubErrorRule *hub_error_find(unsigned code, const char *name) {
        if (code == 404102) /* printed so in one table of the documents */
                code = 404103;
        if (code == 409104)
                code = 409103;
        if (code == 0 && name)
                code = hub_code_from_name(name);
        for (const HubErrorRule *r = hub_error_rules; r->code != 0; r++)
                if (r->code == code)
                        return r;
        return NULL;
}

/* AMQP 1.0 part 2, section 2.8.15 and part 3, section 3.5; "com.microsoft" as the SDKs know them.
 * Where a condition says what a code of HTTP says, the code's row serves. */
static const struct {
        const char *condition;
        unsigned code; /* 0: the row here */
        HubErrorRule rule;
} conditions[] = {
        { "amqp:unauthorized-access", 401003, {} },
        { "amqp:not-found",
          0,
          { 0, "not found",
            "check HostName, and --consumer-group: it has to be made at the hub; for messages the "
            "ids",
            EXIT_NOT_FOUND } },
        { "amqp:internal-error", 500001, {} },
        { "amqp:link:message-size-exceeded", 413001, {} },
        { "amqp:precondition-failed", 412001, {} },
        { "amqp:not-allowed",
          0,
          { 0, "the hub does not allow it",
            "check the policy's rights (ServiceConnect), the hub's IP filter and network settings",
            EX_NOPERM } },
        { "amqp:not-implemented",
          0,
          { 0, "the hub does not do this", "check HostName; update iothubctl", EX_PROTOCOL } },
        { "amqp:decode-error",
          0,
          { 0, "the hub cannot read what was sent", "report it with the output of --verbose",
            EX_PROTOCOL } },
        { "amqp:invalid-field",
          0,
          { 0, "the hub refuses a value", "the hub's text names it", EX_DATAERR } },
        { "amqp:illegal-state",
          0,
          { 0, "the hub sees a step out of order",
            "try again; if it lasts, report it with the output of --verbose", EXIT_TRY_AGAIN } },
        { "amqp:resource-locked",
          0,
          { 0, "another client holds it", "try again, or end the other client", EXIT_TRY_AGAIN } },
        { "amqp:resource-deleted",
          0,
          { 0, "it was deleted meanwhile", "look whether it is still there", EXIT_NOT_FOUND } },
        { "amqp:frame-size-too-small",
          0,
          { 0, "a message does not fit", "send less at a time", EX_DATAERR } },
        { "amqp:link:transfer-limit-exceeded",
          0,
          { 0, "more was sent than the hub asked for", "report it with the output of --verbose",
            EX_PROTOCOL } },
        { "amqp:connection:framing-error",
          0,
          { 0, "the hub cannot read what was sent",
            "look for what changes the bytes in between, such as a proxy; check --amqp-port",
            EX_PROTOCOL } },
        { "amqp:connection:redirect",
          0,
          { 0, "the hub sends us elsewhere", "report it with the output of --verbose",
            EX_PROTOCOL } },
        { "amqp:resource-limit-exceeded",
          0,
          { 0, "a limit of the hub is reached",
            "messages to a device: 50 may wait, iothubctl c2d purge empties its queue; readers: 5 "
            "for a "
            "partition and --consumer-group",
            EXIT_TRY_AGAIN } },
        { "amqp:link:stolen",
          0,
          { 0, "another reader took the partition over",
            "end the other reader, or name another --consumer-group", EX_NOPERM } },
        { "amqp:link:detach-forced",
          0,
          { 0, "the hub ended the link", "try again; it does so when it moves or is idle",
            EXIT_TRY_AGAIN } },
        { "amqp:connection:forced",
          0,
          { 0, "the hub ended the connection", "try again; it does so when it moves or is idle",
            EXIT_TRY_AGAIN } },
        { "amqp:link:redirect",
          0,
          { 0, "the hub sends us elsewhere", "report it with the output of --verbose",
            EX_PROTOCOL } },
        { "com.microsoft:server-busy", 503005, {} },
        { "com.microsoft:timeout", 500008, {} },
        { "com.microsoft:operation-cancelled", 499000, {} },
        { "com.microsoft:argument-error", 400004, {} },
        { "com.microsoft:argument-out-of-range", 400004, {} },
        { "com.microsoft:auth-failed", 401003, {} },
        { "com.microsoft:unauthorized-access", 401003, {} },
        { "com.microsoft:entity-disabled",
          0,
          { 0, "the hub's endpoint for events is disabled",
            "look at the hub's state in the portal; enable it, or ask the support of Azure",
            EX_NOPERM } },
        { "com.microsoft:quota-exceeded", 403002, {} },
        { "com.microsoft:iot-hub-suspended", 403001, {} },
        { "com.microsoft:iot-hub-not-found-error", 401001, {} },
        { "com.microsoft:device-container-throttled", 429001, {} },
        { "com.microsoft:message-lock-lost", 412002, {} },
        { "com.microsoft:precondition-failed", 412001, {} },
        { "com.microsoft:device-already-exists", 409001, {} },
        { "com.microsoft:container-close",
          0,
          { 0, "the hub ended the link", "try again; it does so when it moves or is idle",
            EXIT_TRY_AGAIN } },
};

const HubErrorRule *hub_error_find_condition(const char *condition) {
        for (size_t i = 0; i < ELEMENTSOF(conditions); i++)
                if (strcasecmp(condition, conditions[i].condition) == 0)
                        return conditions[i].code != 0 ? hub_error_find(conditions[i].code, NULL) :
                                                         &conditions[i].rule;
        return NULL;
}

const char *hub_error_condition(size_t i) {
        return i < ELEMENTSOF(conditions) ? conditions[i].condition : NULL;
}

const HubErrorRule *hub_error_of_condition(const char *condition) {
        static const HubErrorRule none = { 0, "the hub ended it without a reason", "try again",
                                           EXIT_TRY_AGAIN };
        static const HubErrorRule unknown = {
                0, "the hub refuses it", "the hub's text tells more; report it with the output of --verbose",
                EX_PROTOCOL,
        };
        const HubErrorRule *rule;

        if (!*condition)
                return &none;
        rule = hub_error_find_condition(condition);
        return rule ? rule : &unknown;
}

const HubErrorRule *hub_error_of_module(const HubErrorRule *rule) {
        static const HubErrorRule either = { 404010, "module not found, or its device is missing",
                                             "check spelling and case; iothubctl module list",
                                             EXIT_NOT_FOUND };

        return rule->code == 404001 ? &either : rule;
}

const HubErrorRule *hub_error_of_status(long status) {
        static const HubErrorRule refused = { 400000, "the hub refuses it", NULL, EX_DATAERR };
        static const HubErrorRule failed = { 500000, "the hub failed", PASSING, EXIT_TRY_AGAIN };
        static const HubErrorRule strange = { 0, "the hub's answer is not understood", NULL,
                                              EX_PROTOCOL };
        const HubErrorRule *r = status > 0 ? hub_error_find((unsigned) status * 1000, NULL) : NULL;

        if (r)
                return r;
        return status >= 500 ? &failed : status >= 400 ? &refused : &strange;
}

static struct json_object *parse_object(const char *text, size_t n) {
        struct json_tokener *t = json_tokener_new_ex(BODY_DEPTH_MAX);
        struct json_object *o = NULL;

        if (!t)
                return NULL;
        if (n > 0 && n <= INT32_MAX)
                o = json_tokener_parse_ex(t, text, (int) n);
        json_tokener_free(t);
        if (o && !json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                o = NULL;
        }
        return o;
}

static int set(char **to, const char *s, size_t n) {
        if (n == 0 || *to)
                return 0;
        *to = strndup(s, n);
        return *to ? 0 : -ENOMEM;
}

static int set_member(struct json_object *o, const char *field, char **to) {
        const char *s;
        size_t n;

        return json_get_string(o, field, &s, &n) > 0 ? set(to, s, strlen(s)) : 0;
}

/* {"errorCode":404103,"trackingId":..,"message":..}; the code may also be a name. */
static int read_coded(struct json_object *o, HubError *e) {
        const char *code = NULL;
        uint64_t number = 0;
        int r = 0;

        if (json_get_u64(o, "errorCode", &number) > 0 && number <= 999999)
                e->code = (unsigned) number;
        else if (json_get_string(o, "errorCode", &code, NULL) > 0) {
                if (parse_u64_range(code, 100000, 999999, &number) >= 0)
                        e->code = (unsigned) number;
                else
                        r = set(&e->name, code, strlen(code));
        }
        if (r >= 0)
                r = set_member(o, "message", &e->text);
        return r < 0 ? r : set_member(o, "trackingId", &e->tracking_id);
}

/* "ErrorCode:NAME;text", or an object as text, or just text. */
static int read_message(const char *message, HubError *e) {
        const char *rest = startswith(message, "ErrorCode:");
        _cleanup_json_ struct json_object *inner = NULL;
        size_t n;
        int r;

        if (rest) {
                n = strcspn(rest, ";");
                r = set(&e->name, rest, n);
                if (r >= 0 && rest[n] == ';')
                        r = set(&e->text, rest + n + 1, strlen(rest + n + 1));
                return r;
        }
        if (message[0] == '{')
                inner = parse_object(message, strlen(message));
        return inner ? read_coded(inner, e) : set(&e->text, message, strlen(message));
}

static int read_tracking(struct json_object *o, HubError *e) {
        const char *s, *rest;

        if (json_get_string(o, "ExceptionMessage", &s, NULL) <= 0)
                return 0;
        rest = startswith(s, "Tracking ID:");
        return set(&e->tracking_id, rest ? rest : s, strlen(rest ? rest : s));
}

/* A page of a gateway is no sentence; a short line may be one. */
static int read_raw(const char *body, size_t n, HubError *e) {
        if (n == 0 || n > RAW_TEXT_MAX || body[0] == '<' || memchr(body, '\n', n) ||
            memchr(body, '\0', n) || body[0] == '[' || body[0] == '{' ||
            (n == 4 && memcmp(body, "null", 4) == 0))
                return 0;
        return set(&e->text, body, n);
}

static void find_rule(HubError *e, const HubErrorRule *otherwise) {
        e->rule = e->code != 0 ? hub_error_find(e->code, NULL) : NULL;
        if (!e->rule && e->name)
                e->rule = hub_error_find(0, e->name);
        e->known = e->rule;
        if (!e->rule)
                e->rule = otherwise;
}

int hub_error_parse(long status, const char *header, const char *body, size_t n, HubError *ret) {
        _cleanup_json_ struct json_object *o = parse_object(body, n);
        HubError e = {};
        const char *message;
        int r = 0;

        if (header && *header)
                r = set(&e.name, header, strlen(header));
        if (r >= 0 && !o)
                r = read_raw(body, n, &e);
        if (r >= 0 && o && json_get_string(o, "Message", &message, NULL) > 0)
                r = read_message(message, &e);
        if (r >= 0 && o)
                r = read_tracking(o, &e);
        if (r >= 0 && o)
                r = read_coded(o, &e);

        find_rule(&e, hub_error_of_status(status));
        *ret = e;
        return r;
}

int hub_error_parse_item(struct json_object *item, HubError *ret) {
        static const HubErrorRule refused = { 0, "the hub refuses it", "the hub's text tells why",
                                              EX_DATAERR };
        static const HubErrorRule no_device = {
                401002, "its device is missing or disabled",
                "create the device before its module, or enable it: iothubctl device enable",
                EXIT_NOT_FOUND
        };
        const char *message;
        HubError e = {};
        int r;

        r = read_coded(item, &e);
        if (r >= 0 && json_get_string(item, "errorStatus", &message, NULL) > 0)
                r = read_message(message, &e);
        find_rule(&e, &refused);
        /* The call was let in, so it is not the login: hubs speak of that where a module's device is missing. */
        if (e.known && e.rule->code == no_device.code &&
            json_get_string(item, "moduleId", &message, NULL) > 0)
                e.rule = &no_device;
        *ret = e;
        return r;
}

int hub_error_format(const HubError *e, char **ret) {
        const char *name = e->name ? e->name : e->known ? hub_code_to_name(e->rule->code) : NULL;
        const unsigned number = e->known ? e->rule->code : e->code;
        char code[16] = "";

        if (number != 0)
                snprintf(code, sizeof(code), "%u", number);
        return format_string(ret, "%s%s%s%s%s%s%s%s", e->rule->meaning, *code || name ? " (" : "", code,
                             *code && name ? " " : "", strempty(name), *code || name ? ")" : "",
                             e->text ? ": " : "", strempty(e->text));
}

void hub_error_done(HubError *e) {
        free(e->name);
        free(e->text);
        free(e->tracking_id);
        *e = (HubError){};
}
