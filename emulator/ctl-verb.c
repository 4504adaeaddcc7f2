#include "emulator/ctl-verb.h"

#include <getopt.h>

#include "emulator/hub-c2d.h"
#include "emulator/hub-counter.h"
#include "emulator/hub-trouble.h"
#include "lib/buffer.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"
#include "lib/utf8.h"

#define INTERFACE "io.iothubd.emulator."
#define RATE_MAX 1000000U
#define MAX_WAIT_DEFAULT_USEC (30 * USEC_PER_SEC)

typedef enum Option {
        OPTION_STATE,
        OPTION_DEVICE,
        OPTION_FOR,
        OPTION_CODE,
        OPTION_DELAY,
        OPTION_DROP,
        OPTION_OFF,
        OPTION_BURST,
        OPTION_MAX_WAIT,
        OPTION_CONNECTS,
        OPTION_RESET,
        OPTION_JSON,
        OPTION_COUNT,
        OPTION_TOTAL,
        OPTION_TIMEOUT,
        OPTION_DUPLICATE,
        OPTION_REJECT,
        OPTION_EXCEED,
        OPTION_MESSAGE_ID,
        OPTION_ACK,
        OPTION_TTL,
        OPTION_PROPERTY,
        OPTION_ANSWER,
        OPTION_CUT,
        OPTION_CALLS,
        OPTION_REFUSE,
        OPTION_DETACH,
        OPTION_CLOSE,
        OPTION_CONDITION,
        OPTION_RETRY_AFTER,
        OPTION_DONE,
        OPTION_HELP,
        _OPTION_MAX,
} Option;

#define OPTION_BASE 256 /* getopt's value of the first */

static const struct option option_table[_OPTION_MAX + 1] = {
        { "state", required_argument, NULL, OPTION_BASE + OPTION_STATE },
        { "device", required_argument, NULL, OPTION_BASE + OPTION_DEVICE },
        { "for", required_argument, NULL, OPTION_BASE + OPTION_FOR },
        { "code", required_argument, NULL, OPTION_BASE + OPTION_CODE },
        { "delay", required_argument, NULL, OPTION_BASE + OPTION_DELAY },
        { "drop", required_argument, NULL, OPTION_BASE + OPTION_DROP },
        { "off", no_argument, NULL, OPTION_BASE + OPTION_OFF },
        { "burst", required_argument, NULL, OPTION_BASE + OPTION_BURST },
        { "max-wait", required_argument, NULL, OPTION_BASE + OPTION_MAX_WAIT },
        { "connects", required_argument, NULL, OPTION_BASE + OPTION_CONNECTS },
        { "reset", no_argument, NULL, OPTION_BASE + OPTION_RESET },
        { "json", no_argument, NULL, OPTION_BASE + OPTION_JSON },
        { "count", required_argument, NULL, OPTION_BASE + OPTION_COUNT },
        { "total", required_argument, NULL, OPTION_BASE + OPTION_TOTAL },
        { "timeout", required_argument, NULL, OPTION_BASE + OPTION_TIMEOUT },
        { "duplicate", required_argument, NULL, OPTION_BASE + OPTION_DUPLICATE },
        { "reject", required_argument, NULL, OPTION_BASE + OPTION_REJECT },
        { "exceed", required_argument, NULL, OPTION_BASE + OPTION_EXCEED },
        { "message-id", required_argument, NULL, OPTION_BASE + OPTION_MESSAGE_ID },
        { "ack", required_argument, NULL, OPTION_BASE + OPTION_ACK },
        { "ttl", required_argument, NULL, OPTION_BASE + OPTION_TTL },
        { "property", required_argument, NULL, OPTION_BASE + OPTION_PROPERTY },
        { "answer", required_argument, NULL, OPTION_BASE + OPTION_ANSWER },
        { "cut", required_argument, NULL, OPTION_BASE + OPTION_CUT },
        { "calls", required_argument, NULL, OPTION_BASE + OPTION_CALLS },
        { "refuse", required_argument, NULL, OPTION_BASE + OPTION_REFUSE },
        { "detach", required_argument, NULL, OPTION_BASE + OPTION_DETACH },
        { "close", required_argument, NULL, OPTION_BASE + OPTION_CLOSE },
        { "condition", required_argument, NULL, OPTION_BASE + OPTION_CONDITION },
        { "retry-after", required_argument, NULL, OPTION_BASE + OPTION_RETRY_AFTER },
        { "done", no_argument, NULL, OPTION_BASE + OPTION_DONE },
        { "help", no_argument, NULL, OPTION_BASE + OPTION_HELP },
        { NULL },
};

typedef struct Parser {
        const char *values[_OPTION_MAX]; /* NULL: not given; "" for those without a value */
        const char *argument;            /* the verb's own, NULL where it has none */
        const char *second;              /* likewise */
        struct json_object *properties;  /* of --property, which may be repeated; NULL: none */
        const char *verb;
        struct json_object *o;       /* what the verb fills in */
        struct json_object *trouble; /* borrowed from o; NULL for verbs that set none */
        CtlRequest *request;
        char **error;
} Parser;

/* Says what is wrong; -EINVAL, or -ENOMEM. */
static int bad(Parser *p, const char *format, ...) _printf_(2, 3);
static int bad(Parser *p, const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r >= 0)
                r = p->verb ? format_string(p->error, "%s: %s", p->verb, text) :
                              format_string(p->error, "%s", text);
        return r < 0 ? r : -EINVAL;
}

static int bad_value(Parser *p, Option option, const char *allowed) {
        return bad(p, "--%s: \"%s\" is not %s", option_table[option].name, p->values[option],
                   allowed);
}

static int put_number(Parser *p, struct json_object *o, const char *field, Option option,
                      uint64_t min, uint64_t max) {
        uint64_t v;

        if (!p->values[option])
                return 0;
        if (parse_u64_range(p->values[option], min, max, &v) < 0) {
                char allowed[64];

                (void) snprintf(allowed, sizeof(allowed), "a number from %" PRIu64 " to %" PRIu64,
                                min, max);
                return bad_value(p, option, allowed);
        }
        return json_add_u64(o, field, v);
}

static int put_span(Parser *p, struct json_object *o, const char *field, Option option) {
        usec_t v;

        if (!p->values[option])
                return 0;
        if (parse_timespan(p->values[option], &v) < 0 || v == 0 || v == USEC_INFINITY)
                return bad_value(p, option, "a span of time such as 30s or 5min");
        return json_add_u64(o, field, v);
}

/* "12", "12/s", "100/min", "5/h" to the time between two. 0 or -EINVAL. */
static int parse_rate(const char *s, usec_t *ret) {
        static const struct {
                const char *unit;
                usec_t usec;
        } units[] = { { "/s", USEC_PER_SEC },
                      { "/min", USEC_PER_MINUTE },
                      { "/h", USEC_PER_HOUR } };
        const char *slash = strchr(s, '/');
        _cleanup_free_ char *number = slash ? strndup(s, (size_t) (slash - s)) : strdup(s);
        usec_t unit = slash ? 0 : USEC_PER_SEC;
        uint64_t n;

        for (size_t i = 0; slash && i < ELEMENTSOF(units); i++)
                if (streq(slash, units[i].unit))
                        unit = units[i].usec;
        if (!number || unit == 0 || parse_u64_range(number, 1, RATE_MAX, &n) < 0)
                return -EINVAL;
        *ret = unit / n;
        return 0;
}

#define RATE_ALLOWED "a rate from 1 to 1000000, such as 12/s, 100/min or 5/h"

/* "on" gives 1, "off" 0. */
static int is_on(Parser *p) {
        if (streq(p->argument, "on"))
                return 1;
        return streq(p->argument, "off") ? 0 : bad(p, "\"%s\" is neither on nor off", p->argument);
}

static int put_device(Parser *p, struct json_object *o) {
        const char *device = p->values[OPTION_DEVICE];

        if (!device)
                return 0;
        if (hub_client_id_check(device) < 0)
                return bad_value(p, OPTION_DEVICE, "an id of a device, or DEVICE/MODULE");
        return json_add_string(o, "device", device);
}

/* From here on the call sets a trouble of that kind. */
static int set(Parser *p, TroubleKind kind) {
        int r;

        p->request->method = INTERFACE "SetTrouble";
        p->trouble = json_object_new_object();
        r = json_add(p->o, "trouble", p->trouble);
        if (r >= 0)
                r = json_add_string(p->trouble, "kind", trouble_kind_to_string(kind));
        if (r >= 0)
                r = put_device(p, p->trouble);
        if (r >= 0)
                r = put_span(p, p->trouble, "endsInUSec", OPTION_FOR);
        return r;
}

static int add_kind(struct json_object *kinds, TroubleKind kind) {
        struct json_object *name = json_object_new_string(trouble_kind_to_string(kind));

        if (!name || json_object_array_add(kinds, name) < 0) {
                json_object_put(name);
                return -ENOMEM;
        }
        return 0;
}

/* Or ends those of some kinds; nothing but a device goes with that. */
static int end_all(Parser *p, const TroubleKind *which, size_t n) {
        struct json_object *kinds = json_object_new_array();
        int r;

        p->request->method = INTERFACE "EndTroubles";
        r = json_add(p->o, "kinds", kinds);
        for (size_t i = 0; r >= 0 && i < n; i++)
                r = add_kind(kinds, which[i]);
        if (r < 0)
                return r;
        for (Option i = 0; i < _OPTION_MAX; i++)
                if (p->values[i] && i != OPTION_DEVICE && i != OPTION_STATE && i != OPTION_OFF)
                        return bad(p, "--%s makes no sense when it is ended", option_table[i].name);
        return put_device(p, p->o);
}

static int end(Parser *p, TroubleKind kind) {
        return end_all(p, &kind, 1);
}

static int set_or_end(Parser *p, TroubleKind kind) {
        int r = is_on(p);

        return r < 0 ? r : r > 0 ? set(p, kind) : end(p, kind);
}

static int verb_quota(Parser *p) {
        return set_or_end(p, TROUBLE_QUOTA);
}

static int verb_basic_tier(Parser *p) {
        return set_or_end(p, TROUBLE_TIER);
}

static int verb_silent(Parser *p) {
        return set_or_end(p, TROUBLE_SILENT);
}

static int verb_throttle(Parser *p) {
        usec_t interval, connects;
        int r;

        if (streq(p->argument, "off"))
                return end(p, TROUBLE_THROTTLE);
        if (parse_rate(p->argument, &interval) < 0)
                return bad(p, "\"%s\" is not " RATE_ALLOWED ", nor off", p->argument);
        r = set(p, TROUBLE_THROTTLE);
        if (r >= 0)
                r = json_add_u64(p->trouble, "intervalUSec", interval);
        if (r >= 0)
                r = put_number(p, p->trouble, "burst", OPTION_BURST, 0, TROUBLE_COUNT_MAX);
        if (r >= 0 && !p->values[OPTION_MAX_WAIT])
                r = json_add_u64(p->trouble, "delayUSec", MAX_WAIT_DEFAULT_USEC);
        else if (r >= 0)
                r = put_span(p, p->trouble, "delayUSec", OPTION_MAX_WAIT);
        if (r < 0 || !p->values[OPTION_CONNECTS])
                return r;
        if (parse_rate(p->values[OPTION_CONNECTS], &connects) < 0)
                return bad_value(p, OPTION_CONNECTS, RATE_ALLOWED);
        return json_add_u64(p->trouble, "connectIntervalUSec", connects);
}

static int verb_refuse(Parser *p) {
        uint64_t n, code = 5;
        const char *value = p->values[OPTION_CODE];
        int r;

        if (streq(p->argument, "off"))
                return end(p, TROUBLE_REFUSE);
        if (parse_u64_range(p->argument, 1, TROUBLE_COUNT_MAX, &n) < 0)
                return bad(p, "\"%s\" is not a number from 1 to %u, nor off", p->argument,
                           TROUBLE_COUNT_MAX);
        if (value && streq(value, "cut"))
                code = TROUBLE_CODE_CUT;
        else if (value && parse_u64_range(value, 1, TROUBLE_CODE_MAX, &code) < 0)
                return bad_value(p, OPTION_CODE, "a code of a CONNACK, 1 to 5, or cut");
        r = set(p, TROUBLE_REFUSE);
        if (r >= 0)
                r = json_add_u64(p->trouble, "count", n);
        return r < 0 ? r : json_add_u64(p->trouble, "code", code);
}

static int verb_puback(Parser *p) {
        static const TroubleKind both[] = { TROUBLE_PUBACK_DELAY, TROUBLE_PUBACK_DROP };
        bool delay = p->values[OPTION_DELAY], drop = p->values[OPTION_DROP],
             off = p->values[OPTION_OFF];
        int r;

        if (delay + drop + off != 1)
                return bad(p, "one of --delay SPAN, --drop N and --off is needed");
        if (off)
                return end_all(p, both, ELEMENTSOF(both));
        r = set(p, delay ? TROUBLE_PUBACK_DELAY : TROUBLE_PUBACK_DROP);
        if (r >= 0)
                r = put_span(p, p->trouble, "delayUSec", OPTION_DELAY);
        return r < 0 ? r : put_number(p, p->trouble, "count", OPTION_DROP, 1, TROUBLE_COUNT_MAX);
}

static int verb_c2d(Parser *p) {
        static const struct {
                Option option;
                TroubleKind kind;
        } table[] = {
                { OPTION_DROP, TROUBLE_C2D_DROP },
                { OPTION_DUPLICATE, TROUBLE_C2D_DUPLICATE },
                { OPTION_REJECT, TROUBLE_C2D_REJECT },
                { OPTION_EXCEED, TROUBLE_C2D_EXCEED },
        };
        TroubleKind kinds[ELEMENTSOF(table)];
        size_t given = SIZE_MAX, n = p->values[OPTION_OFF] ? 1 : 0;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                kinds[i] = table[i].kind;
                if (p->values[table[i].option]) {
                        given = i;
                        n++;
                }
        }
        if (n != 1)
                return bad(p, "one of --drop N, --duplicate N, --reject N, --exceed N and --off is "
                              "needed");
        if (given == SIZE_MAX)
                return end_all(p, kinds, ELEMENTSOF(kinds));
        r = set(p, kinds[given]);
        return r < 0 ? r
                     : put_number(p, p->trouble, "count", table[given].option, 1, TROUBLE_COUNT_MAX);
}

static int put_calls(Parser *p) {
        const char *calls = p->values[OPTION_CALLS];

        if (!calls)
                return 0;
        if (trouble_calls_from_string(calls) < 0)
                return bad_value(p, OPTION_CALLS, "bulk, query, single or all");
        return json_add_string(p->trouble, "calls", calls);
}

static int put_answer(Parser *p) {
        int r;

        r = put_number(p, p->trouble, "code", OPTION_ANSWER, TROUBLE_HUB_CODE_MIN,
                       TROUBLE_HUB_CODE_MAX);
        if (r >= 0)
                r = put_number(p, p->trouble, "retryAfterSec", OPTION_RETRY_AFTER, 1,
                               TROUBLE_RETRY_AFTER_SEC_MAX);
        return r >= 0 && p->values[OPTION_DONE] ? json_add_bool(p->trouble, "done", true) : r;
}

static int verb_https(Parser *p) {
        static const TroubleKind all[] = { TROUBLE_HTTPS_ANSWER, TROUBLE_HTTPS_DELAY,
                                           TROUBLE_HTTPS_CUT };
        bool answer = p->values[OPTION_ANSWER], delay = p->values[OPTION_DELAY],
             cut = p->values[OPTION_CUT], off = p->values[OPTION_OFF];
        int r;

        if (answer + delay + cut + off != 1)
                return bad(p, "one of --answer CODE, --delay SPAN, --cut N and --off is needed");
        if (off)
                return end_all(p, all, ELEMENTSOF(all));
        if (!answer && (p->values[OPTION_RETRY_AFTER] || p->values[OPTION_DONE]))
                return bad(p, "--retry-after and --done go with --answer");
        if (cut && p->values[OPTION_COUNT])
                return bad(p, "--cut has its count already");
        r = set(p, answer ? TROUBLE_HTTPS_ANSWER : delay ? TROUBLE_HTTPS_DELAY : TROUBLE_HTTPS_CUT);
        if (r >= 0)
                r = put_calls(p);
        if (r >= 0)
                r = put_answer(p);
        if (r >= 0)
                r = put_span(p, p->trouble, "delayUSec", OPTION_DELAY);
        return r < 0 ? r : put_number(p, p->trouble, "count", cut ? OPTION_CUT : OPTION_COUNT, 1,
                                      TROUBLE_COUNT_MAX);
}

static int verb_amqp(Parser *p) {
        static const struct {
                Option option;
                TroubleKind kind;
        } table[] = {
                { OPTION_REFUSE, TROUBLE_AMQP_REFUSE },
                { OPTION_DETACH, TROUBLE_AMQP_DETACH },
                { OPTION_CLOSE, TROUBLE_AMQP_CLOSE },
        };
        static const TroubleKind all[] = { TROUBLE_AMQP_REFUSE, TROUBLE_AMQP_DETACH, TROUBLE_AMQP_CLOSE };
        size_t given = SIZE_MAX, n = p->values[OPTION_OFF] ? 1 : 0;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (p->values[table[i].option]) {
                        given = i;
                        n++;
                }
        if (n != 1)
                return bad(p, "one of --refuse N, --detach N, --close N and --off is needed");
        if (given == SIZE_MAX)
                return end_all(p, all, ELEMENTSOF(all));
        r = set(p, table[given].kind);
        if (r >= 0)
                r = json_add_string(p->trouble, "mark", p->values[OPTION_CONDITION]);
        return r < 0 ? r
                     : put_number(p, p->trouble, "count", table[given].option, 1, TROUBLE_COUNT_MAX);
}

static int verb_send(Parser *p) {
        const char *ack = p->values[OPTION_ACK];
        int r;

        p->request->method = INTERFACE "SendMessage";
        if (hub_client_id_check(p->argument) < 0)
                return bad(p, "\"%s\" is neither an id of a device nor DEVICE/MODULE", p->argument);
        if (ack && hub_c2d_ack_from_string(ack) < 0)
                return bad_value(p, OPTION_ACK, "none, positive, negative or full");
        if (!utf8_is_valid(p->second, strlen(p->second)))
                return bad(p, "the body is no valid UTF-8");
        r = json_add_string(p->o, "device", p->argument);
        if (r >= 0)
                r = json_add_string(p->o, "body", p->second);
        if (r >= 0)
                r = json_add_string(p->o, "messageId", p->values[OPTION_MESSAGE_ID]);
        if (r >= 0)
                r = json_add_string(p->o, "ack", ack);
        if (r >= 0)
                r = put_span(p, p->o, "timeToLiveUSec", OPTION_TTL);
        if (r >= 0 && p->properties)
                r = json_add(p->o, "properties", json_object_get(p->properties));
        return r;
}

static int verb_ca(Parser *p) {
        bool add = streq(p->argument, "add"), remove = streq(p->argument, "remove");

        if (!add && !remove && !streq(p->argument, "list"))
                return bad(p, "\"%s\" is none of add, remove, list", p->argument);
        if ((add || remove) != (p->second != NULL))
                return bad(p, add    ? "add needs the FILE of a certificate" :
                              remove ? "remove needs the THUMBPRINT that list shows" :
                                       "list takes nothing");
        p->request->method = add    ? INTERFACE "AddAuthority" :
                             remove ? INTERFACE "RemoveAuthority" :
                                      INTERFACE "ListAuthorities";
        p->request->json = p->values[OPTION_JSON];
        if (add) {
                p->request->file = p->second;
                p->request->file_field = "certificate";
        }
        return remove ? json_add_string(p->o, "thumbprint", p->second) : 0;
}

static int verb_cut_on_marked(Parser *p) {
        int r;

        if (streq(p->argument, "off"))
                return end(p, TROUBLE_MARKED);
        if (!*p->argument || strlen(p->argument) > TEXT_FINDER_MAX)
                return bad(p, "the text has 1 to %u bytes", TEXT_FINDER_MAX);
        r = set(p, TROUBLE_MARKED);
        return r < 0 ? r : json_add_string(p->trouble, "mark", p->argument);
}

static int verb_certificate(Parser *p) {
        TroubleCertificate c = trouble_certificate_from_string(p->argument);
        int r;

        if (c == TROUBLE_CERTIFICATE_GOOD)
                return end(p, TROUBLE_CERTIFICATE);
        if (c < 0)
                return bad(p,
                           "\"%s\" is none of expired, not-yet-valid, unknown-issuer, "
                           "wrong-name, good",
                           p->argument);
        r = set(p, TROUBLE_CERTIFICATE);
        return r < 0 ? r : json_add_string(p->trouble, "certificate", p->argument);
}

static int verb_cut(Parser *p) {
        p->request->method = INTERFACE "CutConnections";
        if (p->argument && !streq(p->argument, "all")) {
                if (hub_client_id_check(p->argument) < 0)
                        return bad(p, "\"%s\" is neither an id of a device nor all", p->argument);
                if (json_add_string(p->o, "device", p->argument) < 0)
                        return -ENOMEM;
        }
        return p->values[OPTION_RESET] ? json_add_bool(p->o, "reset", true) : 0;
}

static int verb_clear(Parser *p) {
        p->request->method = INTERFACE "EndTroubles";
        return 0;
}

static int verb_status(Parser *p) {
        p->request->method = INTERFACE "GetStatus";
        p->request->json = p->values[OPTION_JSON];
        return put_device(p, p->o);
}

static int bad_counter(Parser *p) {
        _cleanup_(buffer_done) Buffer names = { 0 };

        for (HubCounter i = 0; i < _HUB_COUNTER_MAX; i++)
                if (buffer_appendf(&names, "%s%s", i > 0 ? ", " : "", hub_counter_to_string(i)) < 0)
                        return -ENOMEM;
        return bad(p, "\"%s\" is none of %.*s", p->argument, (int) names.size, names.data);
}

static int verb_wait(Parser *p) {
        int r;

        p->request->method = INTERFACE "Wait";
        if (hub_counter_from_string(p->argument) < 0)
                return bad_counter(p);
        if (p->values[OPTION_COUNT] && p->values[OPTION_TOTAL])
                return bad(p, "--count and --total exclude each other");
        r = json_add_string(p->o, "counter", p->argument);
        if (r >= 0)
                r = put_device(p, p->o);
        if (r >= 0)
                r = put_number(p, p->o, "count", OPTION_COUNT, 0, INT64_MAX);
        if (r >= 0)
                r = put_number(p, p->o, "total", OPTION_TOTAL, 0, INT64_MAX);
        if (r < 0 || !p->values[OPTION_TIMEOUT])
                return r;
        return parse_timespan(p->values[OPTION_TIMEOUT], &p->request->timeout_usec) < 0 ?
                               bad_value(p, OPTION_TIMEOUT, "a span of time such as 30s") :
                               0;
}

#define BIT(o) (1U << (o))
#define DEVICE_AND_TIME (BIT(OPTION_DEVICE) | BIT(OPTION_FOR))

static const struct {
        const char *name;
        const char *argument; /* NULL: none; "[...]": may be absent */
        const char *second;   /* likewise */
        unsigned options;     /* beside --state and --help */
        int (*parse)(Parser *p);
} verbs[] = {
        { "quota", "on|off", NULL, DEVICE_AND_TIME, verb_quota },
        { "basic-tier", "on|off", NULL, DEVICE_AND_TIME, verb_basic_tier },
        { "throttle", "RATE|off", NULL,
          DEVICE_AND_TIME | BIT(OPTION_BURST) | BIT(OPTION_MAX_WAIT) | BIT(OPTION_CONNECTS),
          verb_throttle },
        { "refuse", "N|off", NULL, DEVICE_AND_TIME | BIT(OPTION_CODE), verb_refuse },
        { "puback", NULL, NULL, DEVICE_AND_TIME | BIT(OPTION_DELAY) | BIT(OPTION_DROP) | BIT(OPTION_OFF),
          verb_puback },
        { "c2d", NULL, NULL,
          DEVICE_AND_TIME | BIT(OPTION_DROP) | BIT(OPTION_DUPLICATE) | BIT(OPTION_REJECT) |
                          BIT(OPTION_EXCEED) | BIT(OPTION_OFF),
          verb_c2d },
        { "https", NULL, NULL,
          DEVICE_AND_TIME | BIT(OPTION_ANSWER) | BIT(OPTION_COUNT) | BIT(OPTION_RETRY_AFTER) |
                          BIT(OPTION_DONE) | BIT(OPTION_DELAY) | BIT(OPTION_CUT) |
                          BIT(OPTION_CALLS) | BIT(OPTION_OFF),
          verb_https },
        { "amqp", NULL, NULL,
          BIT(OPTION_FOR) | BIT(OPTION_REFUSE) | BIT(OPTION_DETACH) | BIT(OPTION_CLOSE) |
                          BIT(OPTION_CONDITION) | BIT(OPTION_OFF),
          verb_amqp },
        { "send", "DEVICE", "BODY",
          BIT(OPTION_MESSAGE_ID) | BIT(OPTION_ACK) | BIT(OPTION_TTL) | BIT(OPTION_PROPERTY),
          verb_send },
        { "ca", "add|remove|list", "[FILE|THUMBPRINT]", BIT(OPTION_JSON), verb_ca },
        { "cut", "[all|DEVICE]", NULL, BIT(OPTION_RESET), verb_cut },
        { "cut-on-marked", "TEXT|off", NULL, DEVICE_AND_TIME, verb_cut_on_marked },
        { "silent", "on|off", NULL, DEVICE_AND_TIME, verb_silent },
        { "certificate", "KIND|good", NULL, BIT(OPTION_FOR), verb_certificate },
        { "clear", NULL, NULL, 0, verb_clear },
        { "status", NULL, NULL, BIT(OPTION_DEVICE) | BIT(OPTION_JSON), verb_status },
        { "wait", "COUNTER", NULL,
          BIT(OPTION_DEVICE) | BIT(OPTION_COUNT) | BIT(OPTION_TOTAL) | BIT(OPTION_TIMEOUT),
          verb_wait },
};

const char *ctl_help(void) {
        return "iothub-emulator ctl [--state DIR] VERB [OPTION...]\n\n"
               "Makes trouble at the doors of the emulator that runs with the state folder "
               "DIR.\n\n"
               "  quota on|off              cut at each publish, as with a used-up daily quota\n"
               "  basic-tier on|off         cut at each subscribe, as in the basic tier\n"
               "  throttle RATE|off         acknowledge at most RATE (12/s, 100/min), later and "
               "later,\n"
               "                            then cut: [--burst N] [--max-wait TIME] [--connects "
               "RATE]\n"
               "  refuse N|off              refuse the next N CONNECTs [--code 1..5|cut] (default "
               "5)\n"
               "  puback --delay TIME       acknowledge this late\n"
               "  puback --drop N           never acknowledge the next N\n"
               "  puback --off              acknowledge at once again\n"
               "  cut [all|DEVICE]          end connections now [--reset] (RST instead of FIN)\n"
               "  cut-on-marked TEXT|off    cut at a publish with TEXT in topic or body\n"
               "  silent on|off             read and answer nothing, also to new connections\n"
               "  certificate KIND|good     show new connections a certificate that is expired,\n"
               "                            not-yet-valid, of an unknown-issuer, or a wrong-name\n"
               "  c2d --drop N              lose the next N acknowledgements of messages by devices\n"
               "  c2d --duplicate N         deliver the next N messages twice\n"
               "  c2d --reject N            end the next N messages as ones that were rejected\n"
               "  c2d --exceed N            end the next N as ones that were delivered too often\n"
               "  c2d --off                 none of these any more\n"
               "  https --answer CODE       answer requests with an error of the hub, such as 429001,\n"
               "                            [--retry-after SECONDS] and do not, or [--done] do, what is\n"
               "                            asked for: [--count N]\n"
               "  https --delay TIME        answer this late [--count N]\n"
               "  https --cut N             end the next N answers in the middle\n"
               "  https --off               none of these any more\n"
               "                            [--calls bulk|query|single] only those\n"
               "  amqp --refuse N           refuse the next N links of readers and senders\n"
               "  amqp --detach N           detach the links of the next N messages, which are not passed on\n"
               "  amqp --close N            likewise close their connections\n"
               "                            [--condition NAME] and say that, such as\n"
               "                            com.microsoft:server-busy\n"
               "  amqp --off                none of these any more\n"
               "  clear                     end all trouble\n"
               "  status [--json]           what is on, and counters [--device ID]\n"
               "  wait COUNTER              until it rises by [--count N] (default 1), or is at\n"
               "                            [--total N] [--device ID] [--timeout TIME]\n"
               "  send DEVICE BODY          a message to a device, as a service sends it: [--ack none|\n"
               "                            positive|negative|full] [--message-id ID] [--ttl TIME]\n"
               "                            [--property NAME=VALUE]..\n"
               "  ca add FILE               a certificate authority of devices: certificates that it has\n"
               "                            signed are good for devices of type certificateAuthority\n"
               "  ca remove THUMBPRINT, ca list [--json]\n\n"
               "  --device ID               for that device only\n"
               "  --for TIME                ends by itself after TIME\n";
}

static int find_verb(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(verbs[i].name, name))
                        return (int) i;
        return -EINVAL;
}

static int bad_verb(Parser *p, const char *given) {
        _cleanup_(buffer_done) Buffer names = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (buffer_appendf(&names, "%s%s", i > 0 ? ", " : "", verbs[i].name) < 0)
                        return -ENOMEM;
        if (!given)
                return bad(p, "a verb is needed: %.*s", (int) names.size, names.data);
        return bad(p, "\"%s\" is none of %.*s", given, (int) names.size, names.data);
}

static int add_property(Parser *p, const char *text) {
        const char *equals = strchr(text, '=');
        _cleanup_free_ char *name = equals ? strndup(text, (size_t) (equals - text)) : NULL;

        if (!equals || equals == text || !utf8_is_valid(text, strlen(text)))
                return bad_value(p, OPTION_PROPERTY, "NAME=VALUE");
        if (!p->properties)
                p->properties = json_object_new_object();
        return name ? json_add_string(p->properties, name, equals + 1) : -ENOMEM;
}

static int read_options(Parser *p, int argc, char **argv) {
        int c, r, i = 0;

        optind = 0; /* from the start, also a second time */
        opterr = 0;
        while ((c = getopt_long(argc, argv, ":h", option_table, &i)) >= 0) {
                if (c == 'h')
                        i = OPTION_HELP;
                else if (c == ':')
                        return bad(p, "%s needs a value", argv[optind - 1]);
                else if (c < OPTION_BASE)
                        return bad(p, "unknown option %s", argv[optind - 1]);
                else
                        i = c - OPTION_BASE;
                p->values[i] = optarg ? optarg : "";
                r = i == OPTION_PROPERTY ? add_property(p, optarg) : 0;
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_options(Parser *p, unsigned allowed) {
        for (Option i = 0; i < _OPTION_MAX; i++)
                if (p->values[i] && i != OPTION_STATE && !(allowed & BIT(i)))
                        return bad(p, "--%s does not belong to it", option_table[i].name);
        return 0;
}

static int take_arguments(Parser *p, const char *form, const char *second, int n,
                          char **arguments) {
        int most = (form ? 1 : 0) + (second ? 1 : 0);

        if (n > most)
                return bad(p, "unexpected argument \"%s\"", arguments[most]);
        if (n == 0 && form && *form != '[')
                return bad(p, "%s is needed", form);
        if (n == 1 && second && *second != '[')
                return bad(p, "%s is needed", second);
        p->argument = n > 0 ? arguments[0] : NULL;
        p->second = n > 1 ? arguments[1] : NULL;
        return 0;
}

int ctl_parse(int argc, char **argv, CtlRequest *ret, char **reterr_text) {
        _cleanup_json_ struct json_object *o = json_object_new_object(), *properties = NULL;
        CtlRequest request = { .timeout_usec = USEC_INFINITY };
        Parser p = { .o = o, .request = &request, .error = reterr_text };
        int r, verb;

        if (!o)
                return -ENOMEM;
        r = read_options(&p, argc, argv);
        properties = p.properties;
        if (r < 0)
                return r;
        request.state = p.values[OPTION_STATE];
        if (!p.values[OPTION_HELP]) {
                verb = optind < argc ? find_verb(argv[optind]) : -EINVAL;
                if (verb < 0)
                        return bad_verb(&p, optind < argc ? argv[optind] : NULL);
                p.verb = request.verb = verbs[verb].name;
                r = take_arguments(&p, verbs[verb].argument, verbs[verb].second, argc - optind - 1,
                                   argv + optind + 1);
                if (r >= 0)
                        r = check_options(&p, verbs[verb].options);
                if (r >= 0)
                        r = verbs[verb].parse(&p);
                if (r < 0)
                        return r;
        }
        request.parameters = TAKE_PTR(o);
        *ret = request;
        return 0;
}

void ctl_request_done(CtlRequest *r) {
        json_object_put(r->parameters);
        *r = (CtlRequest){ 0 };
}
