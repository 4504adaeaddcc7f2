#include "emulator/trouble-json.h"

#include <limits.h>

#include "lib/hub-topic.h"

static int add_number(struct json_object *o, const char *field, bool used, uint64_t v) {
        return used ? json_add_u64(o, field, v) : 0;
}

int trouble_to_json(const Trouble *t, usec_t now_usec, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        bool throttles = t->kind == TROUBLE_THROTTLE;

        if (!o || json_add_string(o, "kind", trouble_kind_to_string(t->kind)) < 0 ||
            json_add_string(o, "device", t->device) < 0 ||
            add_number(o, "endsInUSec", t->ends_usec != USEC_INFINITY,
                       usec_sub(t->ends_usec, now_usec)) < 0 ||
            add_number(o, "count", t->count > 0, t->count) < 0 ||
            add_number(o, "code", t->kind == TROUBLE_REFUSE || t->kind == TROUBLE_HTTPS_ANSWER,
                       t->code) < 0 ||
            add_number(o, "retryAfterSec", t->retry_after_sec > 0, t->retry_after_sec) < 0 ||
            (t->done && json_add_bool(o, "done", true) < 0) ||
            (t->calls != TROUBLE_CALLS_ALL &&
             json_add_string(o, "calls", trouble_calls_to_string(t->calls)) < 0) ||
            add_number(o, "delayUSec",
                       throttles || t->kind == TROUBLE_PUBACK_DELAY || t->kind == TROUBLE_HTTPS_DELAY,
                       t->delay_usec) < 0 ||
            add_number(o, "intervalUSec", throttles, t->interval_usec) < 0 ||
            add_number(o, "connectIntervalUSec", throttles && t->connect_usec > 0,
                       t->connect_usec) < 0 ||
            add_number(o, "burst", throttles, t->burst) < 0 ||
            json_add_string(o, "mark", t->mark) < 0 ||
            json_add_string(o, "certificate",
                            t->kind == TROUBLE_CERTIFICATE ?
                                            trouble_certificate_to_string(t->certificate) :
                                            NULL) < 0)
                return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}

static int take_number(struct json_object *o, const char *field, uint64_t *ret,
                       const char **reterr_field) {
        if (json_get_u64(o, field, ret) >= 0)
                return 0;
        *reterr_field = field;
        return -EINVAL;
}

static int take_text(struct json_object *o, const char *field, char **ret,
                     const char **reterr_field) {
        const char *s;
        size_t n;
        int r;

        r = json_get_string(o, field, &s, &n);
        if (r == 0)
                return 0;
        if (r < 0 || strlen(s) != n) {
                *reterr_field = field;
                return -EINVAL;
        }
        *ret = strdup(s);
        return *ret ? 0 : -ENOMEM;
}

static int take_numbers(struct json_object *o, usec_t now_usec, Trouble *t,
                        const char **reterr_field) {
        uint64_t code = TROUBLE_CODE_CUT, ends_in = USEC_INFINITY;
        const struct {
                const char *field;
                uint64_t *to;
        } numbers[] = {
                { "endsInUSec", &ends_in },
                { "count", &t->count },
                { "code", &code },
                { "delayUSec", &t->delay_usec },
                { "intervalUSec", &t->interval_usec },
                { "connectIntervalUSec", &t->connect_usec },
                { "burst", &t->burst },
                { "retryAfterSec", &t->retry_after_sec },
        };

        for (size_t i = 0; i < ELEMENTSOF(numbers); i++) {
                int r = take_number(o, numbers[i].field, numbers[i].to, reterr_field);

                if (r < 0)
                        return r;
        }
        t->code = (unsigned) MIN(code, (uint64_t) UINT_MAX);
        t->ends_usec = usec_add(now_usec, ends_in);
        return 0;
}

int trouble_from_json(struct json_object *o, usec_t now_usec, Trouble *ret,
                      const char **reterr_field) {
        _cleanup_(trouble_done) Trouble t = { 0 };
        _cleanup_free_ char *kind = NULL, *certificate = NULL, *calls = NULL;
        int r;

        r = take_text(o, "kind", &kind, reterr_field);
        if (r >= 0)
                r = take_text(o, "device", &t.device, reterr_field);
        if (r >= 0)
                r = take_text(o, "mark", &t.mark, reterr_field);
        if (r >= 0)
                r = take_text(o, "certificate", &certificate, reterr_field);
        if (r >= 0)
                r = take_text(o, "calls", &calls, reterr_field);
        if (r >= 0 && json_get_bool(o, "done", &t.done) < 0) {
                *reterr_field = "done";
                r = -EINVAL;
        }
        if (r >= 0)
                r = take_numbers(o, now_usec, &t, reterr_field);
        if (r < 0)
                return r;

        t.kind = kind ? trouble_kind_from_string(kind) : _TROUBLE_KIND_INVALID;
        if (t.kind < 0) {
                *reterr_field = "kind";
                return -EINVAL;
        }
        if (t.device && hub_client_id_check(t.device) < 0) {
                *reterr_field = "device";
                return -EINVAL;
        }
        if (certificate) {
                t.certificate = trouble_certificate_from_string(certificate);
                if (t.certificate < 0) {
                        *reterr_field = "certificate";
                        return -EINVAL;
                }
        }
        if (calls) {
                t.calls = trouble_calls_from_string(calls);
                if (t.calls < 0 || !trouble_kind_is_of_hub(t.kind)) {
                        *reterr_field = "calls";
                        return -EINVAL;
                }
        }
        *ret = t;
        t = (Trouble){ 0 };
        return 0;
}

int troubles_append_json(const Troubles *t, usec_t now_usec, struct json_object *list) {
        for (size_t i = 0; i < t->n; i++) {
                struct json_object *o;

                if (trouble_to_json(troubles_get(t, i), now_usec, &o) < 0)
                        return -ENOMEM;
                if (json_object_array_add(list, o) < 0) {
                        json_object_put(o);
                        return -ENOMEM;
                }
        }
        return 0;
}

/* Bit k for kind k. */
static int get_kinds(struct json_object *parameters, unsigned *ret) {
        struct json_object *list;
        unsigned kinds = 0;
        int r;

        r = json_get_array(parameters, "kinds", &list);
        if (r <= 0) {
                *ret = UINT_MAX;
                return r;
        }
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                const char *name = json_object_get_string(json_object_array_get_idx(list, i));
                TroubleKind kind = name ? trouble_kind_from_string(name) : _TROUBLE_KIND_INVALID;

                if (kind < 0)
                        return -EINVAL;
                kinds |= 1U << kind;
        }
        *ret = kinds;
        return 0;
}

int troubles_end_from_json(Troubles *t, struct json_object *parameters, size_t *ret_n,
                           const char **reterr_field) {
        const char *device = NULL;
        unsigned kinds;
        size_t n = 0, size;
        int r;

        *reterr_field = "kinds";
        if (get_kinds(parameters, &kinds) < 0)
                return -EINVAL;
        *reterr_field = "device";
        r = json_get_string(parameters, "device", &device, &size);
        if (r < 0 || (r > 0 && (strlen(device) != size || hub_client_id_check(device) < 0)))
                return -EINVAL;
        for (TroubleKind k = 0; k < _TROUBLE_KIND_MAX; k++)
                if (kinds & 1U << k)
                        n += troubles_end(t, k, device);
        *ret_n = n;
        return 0;
}
