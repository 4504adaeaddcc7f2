#include "emulator/hub-trouble.h"

#include <assert.h>

/* A list in the order of setting. One that names the device counts before one for all, so "all
 * devices, but that one differently" can be said. */

struct TroubleEntry {
        Trouble trouble;
        TextFinder finder; /* MARKED */
        /* THROTTLE: when the next one would be served if none could pass at once (the generic cell
         * rate algorithm, ITU-T I.371) */
        usec_t next_usec, next_connect_usec;
};

static const char *const kind_names[_TROUBLE_KIND_MAX] = {
        [TROUBLE_QUOTA] = "quota",
        [TROUBLE_THROTTLE] = "throttle",
        [TROUBLE_REFUSE] = "refuse",
        [TROUBLE_PUBACK_DELAY] = "puback-delay",
        [TROUBLE_PUBACK_DROP] = "puback-drop",
        [TROUBLE_MARKED] = "cut-on-marked",
        [TROUBLE_TIER] = "basic-tier",
        [TROUBLE_SILENT] = "silent",
        [TROUBLE_CERTIFICATE] = "certificate",
        [TROUBLE_C2D_DROP] = "c2d-drop",
        [TROUBLE_C2D_DUPLICATE] = "c2d-duplicate",
        [TROUBLE_C2D_REJECT] = "c2d-reject",
        [TROUBLE_C2D_EXCEED] = "c2d-exceed",
        [TROUBLE_HTTPS_ANSWER] = "https-answer",
        [TROUBLE_HTTPS_DELAY] = "https-delay",
        [TROUBLE_HTTPS_CUT] = "https-cut",
        [TROUBLE_AMQP_REFUSE] = "amqp-refuse",
        [TROUBLE_AMQP_DETACH] = "amqp-detach",
        [TROUBLE_AMQP_CLOSE] = "amqp-close",
};

static const char *const certificate_names[_TROUBLE_CERTIFICATE_MAX] = {
        [TROUBLE_CERTIFICATE_GOOD] = "good",
        [TROUBLE_CERTIFICATE_EXPIRED] = "expired",
        [TROUBLE_CERTIFICATE_NOT_YET_VALID] = "not-yet-valid",
        [TROUBLE_CERTIFICATE_UNKNOWN_ISSUER] = "unknown-issuer",
        [TROUBLE_CERTIFICATE_WRONG_NAME] = "wrong-name",
};

static const char *const calls_names[_TROUBLE_CALLS_MAX] = {
        [TROUBLE_CALLS_ALL] = "all",
        [TROUBLE_CALLS_BULK] = "bulk",
        [TROUBLE_CALLS_QUERY] = "query",
        [TROUBLE_CALLS_SINGLE] = "single",
};

static const char *name_of(const char *const *names, int n, int value) {
        return value >= 0 && value < n ? names[value] : NULL;
}

static int value_of(const char *const *names, int n, const char *s) {
        for (int i = 0; i < n; i++)
                if (streq(names[i], s))
                        return i;
        return -EINVAL;
}

const char *trouble_kind_to_string(TroubleKind k) {
        return name_of(kind_names, _TROUBLE_KIND_MAX, k);
}

TroubleKind trouble_kind_from_string(const char *s) {
        return value_of(kind_names, _TROUBLE_KIND_MAX, s);
}

const char *trouble_certificate_to_string(TroubleCertificate c) {
        return name_of(certificate_names, _TROUBLE_CERTIFICATE_MAX, c);
}

TroubleCertificate trouble_certificate_from_string(const char *s) {
        return value_of(certificate_names, _TROUBLE_CERTIFICATE_MAX, s);
}

const char *trouble_calls_to_string(TroubleCalls c) {
        return name_of(calls_names, _TROUBLE_CALLS_MAX, c);
}

TroubleCalls trouble_calls_from_string(const char *s) {
        return value_of(calls_names, _TROUBLE_CALLS_MAX, s);
}

static bool is_of_amqp(TroubleKind k) {
        return k == TROUBLE_AMQP_REFUSE || k == TROUBLE_AMQP_DETACH || k == TROUBLE_AMQP_CLOSE;
}

bool trouble_kind_is_of_hub(TroubleKind k) {
        return k == TROUBLE_HTTPS_ANSWER || k == TROUBLE_HTTPS_DELAY || k == TROUBLE_HTTPS_CUT ||
               is_of_amqp(k);
}

void trouble_done(Trouble *t) {
        free(t->device);
        free(t->mark);
        *t = (Trouble){ 0 };
}

static void entry_done(TroubleEntry *e) {
        trouble_done(&e->trouble);
}

void troubles_done(Troubles *t) {
        for (size_t i = 0; i < t->n; i++)
                entry_done(t->entries + i);
        free(t->entries);
        *t = (Troubles){ 0 };
}

/* A symbol of AMQP is ASCII. */
static bool is_condition(const char *s) {
        size_t n = strlen(s);

        if (n < 1 || n > TEXT_FINDER_MAX)
                return false;
        for (size_t i = 0; i < n; i++)
                if (s[i] <= ' ' || s[i] > '~')
                        return false;
        return true;
}

static const char *bad_field(const Trouble *t) {
        switch (t->kind) {
        case TROUBLE_AMQP_REFUSE:
        case TROUBLE_AMQP_DETACH:
        case TROUBLE_AMQP_CLOSE:
                return t->count < 1 || t->count > TROUBLE_COUNT_MAX ? "count" :
                       t->device                                    ? "device" :
                       t->mark && !is_condition(t->mark)            ? "mark" :
                                                                      NULL;
        case TROUBLE_REFUSE:
                if (t->code > TROUBLE_CODE_MAX)
                        return "code";
                __attribute__((fallthrough));
        case TROUBLE_PUBACK_DROP:
        case TROUBLE_C2D_DROP:
        case TROUBLE_C2D_DUPLICATE:
        case TROUBLE_C2D_REJECT:
        case TROUBLE_C2D_EXCEED:
        case TROUBLE_HTTPS_CUT:
                return t->count < 1 || t->count > TROUBLE_COUNT_MAX ? "count" : NULL;
        case TROUBLE_THROTTLE:
                return t->interval_usec < 1 || t->interval_usec > USEC_PER_DAY ? "intervalUSec" :
                       t->connect_usec > USEC_PER_DAY ? "connectIntervalUSec" :
                       t->burst > TROUBLE_COUNT_MAX   ? "burst" :
                                                        NULL;
        case TROUBLE_HTTPS_ANSWER:
                return t->code < TROUBLE_HUB_CODE_MIN || t->code > TROUBLE_HUB_CODE_MAX ? "code" :
                       t->retry_after_sec > TROUBLE_RETRY_AFTER_SEC_MAX ? "retryAfterSec" :
                       t->count > TROUBLE_COUNT_MAX                     ? "count" :
                                                                          NULL;
        case TROUBLE_HTTPS_DELAY:
                if (t->count > TROUBLE_COUNT_MAX)
                        return "count";
                __attribute__((fallthrough));
        case TROUBLE_PUBACK_DELAY: return t->delay_usec < 1 ? "delayUSec" : NULL;
        case TROUBLE_MARKED:
                return !t->mark || !*t->mark || strlen(t->mark) > TEXT_FINDER_MAX ? "mark" : NULL;
        case TROUBLE_CERTIFICATE:
                return t->device                                      ? "device" :
                       t->certificate == TROUBLE_CERTIFICATE_GOOD     ? "certificate" :
                       !trouble_certificate_to_string(t->certificate) ? "certificate" :
                                                                        NULL;
        case TROUBLE_QUOTA:
        case TROUBLE_TIER:
        case TROUBLE_SILENT: return NULL;
        default: return "kind";
        }
}

static bool same_device(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

static int copy_entry(const Trouble *from, TroubleEntry *ret) {
        TroubleEntry e = { .trouble = *from };

        e.trouble.device = from->device ? strdup(from->device) : NULL;
        e.trouble.mark = from->mark ? strdup(from->mark) : NULL;
        if ((from->device && !e.trouble.device) || (from->mark && !e.trouble.mark)) {
                entry_done(&e);
                return -ENOMEM;
        }
        if (from->mark)
                (void) text_finder_init(&e.finder, from->mark, strlen(from->mark)); /* checked */
        *ret = e;
        return 0;
}

int troubles_set(Troubles *t, const Trouble *trouble, const char **reterr_field) {
        TroubleEntry entry, *grown;
        const char *bad = bad_field(trouble);
        int r;

        if (bad) {
                *reterr_field = bad;
                return -EINVAL;
        }
        r = copy_entry(trouble, &entry);
        if (r < 0)
                return r;

        for (size_t i = 0; i < t->n; i++) {
                TroubleEntry *e = t->entries + i;

                if (e->trouble.kind != trouble->kind || e->trouble.calls != trouble->calls ||
                    !same_device(e->trouble.device, trouble->device))
                        continue;
                entry_done(e);
                *e = entry;
                t->serial++;
                return 0;
        }

        grown = t->n < TROUBLES_MAX ? realloc(t->entries, (t->n + 1) * sizeof(*t->entries)) : NULL;
        if (!grown) {
                entry_done(&entry);
                return t->n < TROUBLES_MAX ? -ENOMEM : -E2BIG;
        }
        t->entries = grown;
        t->entries[t->n++] = entry;
        t->serial++;
        return 0;
}

static void remove_entry(Troubles *t, size_t i) {
        entry_done(t->entries + i);
        memmove(t->entries + i, t->entries + i + 1, (t->n - i - 1) * sizeof(*t->entries));
        t->n--;
        t->serial++;
}

size_t troubles_end(Troubles *t, TroubleKind kind, const char *device) {
        size_t n = 0;

        for (size_t i = t->n; i-- > 0;) {
                const Trouble *x = &t->entries[i].trouble;

                if (x->kind != kind || (device && !same_device(x->device, device)))
                        continue;
                remove_entry(t, i);
                n++;
        }
        return n;
}

usec_t troubles_expire(Troubles *t, usec_t now_usec) {
        usec_t next = USEC_INFINITY;

        for (size_t i = t->n; i-- > 0;)
                if (t->entries[i].trouble.ends_usec <= now_usec)
                        remove_entry(t, i);
                else
                        next = MIN(next, t->entries[i].trouble.ends_usec);
        return next;
}

const Trouble *troubles_get(const Troubles *t, size_t i) {
        assert(i < t->n);
        return &t->entries[i].trouble;
}

bool trouble_names_client(const char *device, const char *client_id) {
        const char *rest = startswith(client_id, device);

        return rest && (*rest == '\0' || *rest == '/');
}

static TroubleEntry *find(const Troubles *t, TroubleKind kind, const char *client_id) {
        TroubleEntry *general = NULL;

        for (size_t i = 0; i < t->n; i++) {
                TroubleEntry *e = t->entries + i;

                if (e->trouble.kind != kind)
                        continue;
                if (!e->trouble.device)
                        general = e;
                else if (client_id && trouble_names_client(e->trouble.device, client_id))
                        return e;
        }
        return general;
}

/* One of the next N is due; the last one ends the trouble. */
static void use_up(Troubles *t, TroubleEntry *e) {
        if (--e->trouble.count == 0)
                remove_entry(t, (size_t) (e - t->entries));
}

/* When one that comes now is served, at one per interval, "burst" of them in advance. */
static usec_t meter(usec_t *next_usec, usec_t interval_usec, uint64_t burst, usec_t now_usec) {
        usec_t credit = burst > USEC_INFINITY / interval_usec ? USEC_INFINITY :
                                                                burst * interval_usec;
        usec_t served;

        *next_usec = MAX(*next_usec, now_usec);
        served = MAX(credit >= *next_usec ? 0 : *next_usec - credit, now_usec);
        *next_usec = usec_add(*next_usec, interval_usec);
        return served;
}

TroubleVerdict troubles_on_connect(Troubles *t, const char *client_id, usec_t now_usec,
                                   unsigned *ret_code, const char **ret_cause) {
        TroubleEntry *e;

        e = find(t, TROUBLE_THROTTLE, client_id);
        if (e && e->trouble.connect_usec > 0) {
                usec_t before = e->next_connect_usec;

                if (meter(&e->next_connect_usec, e->trouble.connect_usec, 0, now_usec) > now_usec) {
                        e->next_connect_usec = before; /* what is cut was not served */
                        *ret_cause = "throttled: too many connects";
                        return TROUBLE_CUT;
                }
        }
        e = find(t, TROUBLE_REFUSE, client_id);
        if (!e)
                return TROUBLE_PASS;
        *ret_cause = "refuse";
        *ret_code = e->trouble.code;
        use_up(t, e);
        return *ret_code == TROUBLE_CODE_CUT ? TROUBLE_CUT : TROUBLE_ANSWER;
}

TroubleVerdict troubles_on_publish(Troubles *t, const char *client_id, const char **ret_cause) {
        if (!find(t, TROUBLE_QUOTA, client_id))
                return TROUBLE_PASS;
        *ret_cause = "quota exceeded";
        return TROUBLE_CUT;
}

TroubleVerdict troubles_on_subscribe(Troubles *t, const char *client_id, const char **ret_cause) {
        if (!find(t, TROUBLE_TIER, client_id))
                return TROUBLE_PASS;
        *ret_cause = "no subscriptions in the basic tier";
        return TROUBLE_CUT;
}

TroubleVerdict troubles_on_puback(Troubles *t, const char *client_id, usec_t now_usec,
                                  usec_t *ret_due_usec, const char **ret_cause) {
        usec_t due = now_usec;
        TroubleEntry *e;

        e = find(t, TROUBLE_PUBACK_DROP, client_id);
        if (e) {
                use_up(t, e);
                *ret_cause = "puback dropped";
                return TROUBLE_DROP;
        }
        e = find(t, TROUBLE_PUBACK_DELAY, client_id);
        if (e)
                due = usec_add(now_usec, e->trouble.delay_usec);
        e = find(t, TROUBLE_THROTTLE, client_id);
        if (e) {
                usec_t before = e->next_usec;
                usec_t served = meter(&e->next_usec, e->trouble.interval_usec, e->trouble.burst,
                                      now_usec);

                if (served - now_usec > e->trouble.delay_usec) {
                        e->next_usec = before; /* what is cut was not served */
                        *ret_cause = "throttled: the backlog is full";
                        return TROUBLE_CUT;
                }
                due = MAX(due, served);
        }
        if (due <= now_usec)
                return TROUBLE_PASS;
        *ret_due_usec = due;
        *ret_cause = "puback held back";
        return TROUBLE_HOLD;
}

TroubleC2d troubles_on_c2d(Troubles *t, const char *client_id, bool repeated) {
        static const struct {
                TroubleKind kind;
                TroubleC2d what;
        } table[] = {
                { TROUBLE_C2D_DROP, TROUBLE_C2D_LOST },
                { TROUBLE_C2D_DUPLICATE, TROUBLE_C2D_REPEATED },
                { TROUBLE_C2D_REJECT, TROUBLE_C2D_REJECTED },
                { TROUBLE_C2D_EXCEED, TROUBLE_C2D_EXCEEDED },
        };

        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                TroubleEntry *e = find(t, table[i].kind, client_id);

                if (!e || (table[i].kind == TROUBLE_C2D_DUPLICATE && repeated))
                        continue;
                use_up(t, e);
                return table[i].what;
        }
        return TROUBLE_C2D_COMPLETED;
}

/* The one that names more of a request counts. */
static TroubleEntry *find_for_request(const Troubles *t, TroubleKind kind, const char *device,
                                      TroubleCalls calls) {
        TroubleEntry *found = NULL;
        unsigned found_rank = 0;

        for (size_t i = 0; i < t->n; i++) {
                TroubleEntry *e = t->entries + i;
                const Trouble *x = &e->trouble;
                unsigned rank = 1 + (x->device ? 2 : 0) + (x->calls != TROUBLE_CALLS_ALL ? 1 : 0);

                if (x->kind != kind || rank <= found_rank ||
                    (x->calls != TROUBLE_CALLS_ALL && x->calls != calls) ||
                    (x->device && !(device && trouble_names_client(x->device, device))))
                        continue;
                found = e;
                found_rank = rank;
        }
        return found;
}

static void use_up_if_counted(Troubles *t, TroubleEntry *e) {
        if (e->trouble.count > 0)
                use_up(t, e);
}

void troubles_on_request(Troubles *t, const char *device, TroubleCalls calls, TroubleRequest *ret) {
        TroubleRequest q = { 0 };
        TroubleEntry *e;

        assert(calls != TROUBLE_CALLS_ALL);

        e = find_for_request(t, TROUBLE_HTTPS_ANSWER, device, calls);
        if (e) {
                q.code = e->trouble.code;
                q.retry_after_sec = e->trouble.retry_after_sec;
                q.done = e->trouble.done;
                use_up_if_counted(t, e);
        }
        e = find_for_request(t, TROUBLE_HTTPS_DELAY, device, calls);
        if (e) {
                q.delay_usec = e->trouble.delay_usec;
                use_up_if_counted(t, e);
        }
        /* What is refused is no answer to cut. */
        e = q.code == 0 ? find_for_request(t, TROUBLE_HTTPS_CUT, device, calls) : NULL;
        if (e) {
                q.cut = true;
                use_up(t, e);
        }
        *ret = q;
}

bool troubles_on_amqp(Troubles *t, TroubleKind kind, const char **ret_condition) {
        static const char *const conditions[_TROUBLE_KIND_MAX] = {
                [TROUBLE_AMQP_REFUSE] = "com.microsoft:server-busy",
                [TROUBLE_AMQP_DETACH] = "amqp:link:detach-forced",
                [TROUBLE_AMQP_CLOSE] = "amqp:connection:forced",
        };
        TroubleEntry *e = find(t, kind, NULL);

        if (!e)
                return false;
        (void) snprintf(t->condition, sizeof(t->condition), "%s",
                        e->trouble.mark ? e->trouble.mark : conditions[kind]); /* fits */
        *ret_condition = t->condition;
        use_up(t, e);
        return true;
}

bool troubles_have_amqp(const Troubles *t) {
        for (size_t i = 0; i < t->n; i++)
                if (is_of_amqp(t->entries[i].trouble.kind))
                        return true;
        return false;
}

bool troubles_hold_pubacks(const Troubles *t, const char *client_id) {
        return find(t, TROUBLE_PUBACK_DELAY, client_id) || find(t, TROUBLE_THROTTLE, client_id);
}

bool troubles_are_silent(const Troubles *t, const char *client_id) {
        return t->n > 0 && find(t, TROUBLE_SILENT, client_id);
}

TroubleCertificate troubles_certificate(const Troubles *t) {
        const TroubleEntry *e = find(t, TROUBLE_CERTIFICATE, NULL);

        return e ? e->trouble.certificate : TROUBLE_CERTIFICATE_GOOD;
}

const TextFinder *troubles_mark(const Troubles *t, const char *client_id) {
        const TroubleEntry *e = t->n > 0 ? find(t, TROUBLE_MARKED, client_id) : NULL;

        return e ? &e->finder : NULL;
}
