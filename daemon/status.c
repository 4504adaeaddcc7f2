#include "daemon/status.h"

#include "lib/json-util.h"

static bool is_busy(const OutboxStats *o) {
        return o->queued > 0 || o->in_flight > 0;
}

/* A point or span of time where there is one. */
static int add_usec(struct json_object *o, const char *field, usec_t usec, bool zero_is_none) {
        if (usec == USEC_INFINITY || (usec == 0 && zero_is_none))
                return 0;
        return json_add_u64(o, field, usec);
}

static int add_uplink(struct json_object *o, const UplinkStatus *u) {
        int r;

        r = json_add_string(o, "hub", u->hub);
        if (r >= 0)
                r = json_add_string(o, "device", u->device);
        if (r >= 0)
                r = json_add_string(o, "module", u->module);
        if (r >= 0)
                r = json_add_bool(o, "connected", u->connected);
        if (r >= 0)
                r = json_add_string(o, "connectionState", uplink_state_to_string(u->state));
        if (r >= 0)
                r = add_usec(o, "connectionSinceUSec", u->state_since_realtime_usec,
                             /* zero_is_none= */ true);
        return r < 0 ? r : json_add_string(o, "hold", u->hold);
}

static int add_totals(struct json_object *o, const OutboxStats *s) {
        const struct {
                const char *field;
                uint64_t value;
        } totals[] = {
                { "accepted", s->accepted },  { "confirmed", s->confirmed },
                { "expired", s->expired },    { "dropped", s->dropped },
                { "rejected", s->rejected },  { "queued", s->queued },
                { "inFlight", s->in_flight }, { "duplicatesSentAgain", s->sent_again },
        };
        int r = 0;

        for (size_t i = 0; i < ELEMENTSOF(totals) && r >= 0; i++)
                r = json_add_u64(o, totals[i].field, totals[i].value);
        return r;
}

static int add_lanes(struct json_object *o, const OutboxStats *s) {
        struct json_object *lanes = json_object_new_object();
        int r;

        r = json_add(o, "lanes", lanes);
        for (int i = 0; i < _OUTBOX_LANE_MAX && r >= 0; i++) {
                struct json_object *lane = json_object_new_object();

                r = json_add(lanes, outbox_lane_to_string((OutboxLane) i), lane);
                if (r >= 0)
                        r = json_add_u64(lane, "queued", s->lanes[i].n_queued);
                if (r >= 0)
                        r = json_add_u64(lane, "queuedBytes", s->lanes[i].queued_bytes);
                if (r >= 0)
                        r = add_usec(lane, "oldestAgeUSec", s->lanes[i].oldest_age_usec,
                                     /* zero_is_none= */ false);
        }
        return r;
}

static int add_trouble(struct json_object *o, const UplinkStatus *u) {
        const UplinkReason *reason = uplink_reason(u->trouble);
        struct json_object *trouble;
        int r;

        if (!reason)
                return 0;
        trouble = json_object_new_object();
        r = json_add(o, "trouble", trouble);
        if (r >= 0)
                r = json_add_string(trouble, "class", reason->name);
        if (r >= 0)
                r = json_add_string(trouble, "what", reason->what);
        if (r >= 0)
                r = json_add_string(trouble, "remedy", reason->remedy);
        if (r >= 0)
                r = json_add_u64(trouble, "lastingUSec", u->trouble_usec);
        if (r >= 0)
                r = json_add_u64(trouble, "sinceUSec",
                                 usec_sub(now_usec(CLOCK_REALTIME), u->trouble_usec));
        return r < 0 ? r : json_add_u64(trouble, "tries", u->trouble_tries);
}

static int add_retry(struct json_object *o, const UplinkStatus *u) {
        struct json_object *retry = json_object_new_object();
        int r;

        r = json_add(o, "retry", retry);
        if (r >= 0)
                r = json_add_u64(retry, "attempt", u->attempt);
        if (r >= 0)
                r = add_usec(retry, "nextTryInUSec", u->next_try_in_usec,
                             /* zero_is_none= */ false);
        if (r >= 0)
                r = json_add_string(retry, "lastErrorClass", u->last_error_class);
        if (r >= 0)
                r = json_add_string(retry, "lastError", u->last_error);
        return r < 0 ? r :
                       add_usec(retry, "lastErrorUSec", u->last_error_realtime_usec,
                                /* zero_is_none= */ true);
}

/* How long the disk has been at work on one thing, where that is worth telling; else 0. */
static usec_t disk_busy_usec(const OutboxStats *s) {
        usec_t since = s->busy_since_boottime_usec,
               span = since > 0 ? usec_sub(now_usec(CLOCK_BOOTTIME), since) : 0;

        return span >= USEC_PER_SEC ? span : 0;
}

static int add_outbox(struct json_object *o, const OutboxStats *s) {
        struct json_object *outbox = json_object_new_object();
        int r;

        r = json_add(o, "outbox", outbox);
        if (r >= 0)
                r = json_add_u64(outbox, "usedBytes", s->used_bytes);
        if (r >= 0)
                r = json_add_u64(outbox, "maxBytes", s->max_bytes);
        if (r >= 0)
                r = json_add_u64(outbox, "keepFreeBytes", s->keep_free_bytes);
        if (r >= 0)
                r = json_add_string(outbox, "full",
                                    s->full == OUTBOX_FULL_REJECT ? "reject" : "drop-oldest");
        if (r >= 0 && s->disk_error < 0)
                r = json_add_string(outbox, "diskError", strerror(-s->disk_error));
        if (r >= 0 && disk_busy_usec(s) > 0)
                r = json_add_u64(outbox, "diskBusyUSec", disk_busy_usec(s));
        if (r >= 0)
                r = json_add_u64(outbox, "lostRecords", s->n_lost_records);
        return r < 0 ? r : json_add_u64(outbox, "deadLetters", s->n_dead_letters);
}

static int add_keys(struct json_object *o, const UplinkStatus *u) {
        int r = json_add_string(o, "key", u->key);

        if (r >= 0 && u->key)
                r = json_add_bool(o, "otherKeyRefused", u->other_key_refused);
        if (r >= 0)
                r = add_usec(o, "certificateEndsUSec", u->certificate_ends_realtime_usec,
                             /* zero_is_none= */ true);
        if (r >= 0 && *u->certificate_problem)
                r = json_add_string(o, "certificateProblem", u->certificate_problem);
        return r;
}

int status_to_json(const OutboxStats *outbox, const UplinkStatus *uplink,
                   usec_t started_realtime_usec, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        int r;

        r = json_add_string(o, "version", PROJECT_VERSION);
        if (r >= 0)
                r = add_uplink(o, uplink);
        if (r >= 0)
                r = json_add_string(o, "sendStatus", is_busy(outbox) ? "BUSY" : "IDLE");
        if (r >= 0)
                r = add_totals(o, outbox);
        if (r >= 0)
                r = add_lanes(o, outbox);
        if (r >= 0)
                r = add_trouble(o, uplink);
        if (r >= 0)
                r = add_retry(o, uplink);
        if (r >= 0)
                r = add_keys(o, uplink);
        if (r >= 0)
                r = json_add_u64(o, "sendWindow", uplink->window);
        if (r >= 0)
                r = add_outbox(o, outbox);
        if (r >= 0)
                r = json_add_u64(o, "startedUSec", started_realtime_usec);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(o);
        return 0;
}

/* "refused for 5min 2s (12 tries): REMEDY; next try in 3s", as far as there is something to say. */
static void format_trouble(const UplinkStatus *u, char *buf, size_t size) {
        const UplinkReason *reason = uplink_reason(u->trouble);
        char span[FORMAT_TIMESPAN_MAX] = "", next[FORMAT_TIMESPAN_MAX] = "";

        if (u->next_try_in_usec != USEC_INFINITY && u->state == UPLINK_STATE_BACKOFF)
                format_timespan(next, sizeof(next), u->next_try_in_usec);
        (void) snprintf(buf, size, "%s%s", *next ? "next try in " : "", next);
        if (u->trouble_usec >= USEC_PER_SEC)
                format_timespan(span, sizeof(span),
                                u->trouble_usec / USEC_PER_SEC * USEC_PER_SEC);
        if (reason)
                (void) snprintf(buf, size, "%s%s%s (%u %s): %s%s%s", reason->name,
                                *span ? " for " : "", span, u->trouble_tries,
                                u->trouble_tries == 1 ? "try" : "tries", reason->remedy,
                                *next ? "; next try in " : "", next);
}

static void format_state(const UplinkStatus *u, char *buf, size_t size) {
        char span[FORMAT_TIMESPAN_MAX], trouble[512];

        format_trouble(u, trouble, sizeof(trouble));
        if (u->hold)
                (void) snprintf(buf, size, "Not sending: %s", u->hold);
        else if (u->connected)
                (void) snprintf(buf, size, "Connected to %s as %s%s%s%s%s%s%s", strempty(u->hub),
                                strempty(u->device), u->module ? "/" : "", strempty(u->module),
                                u->key && u->other_key_refused ? ", with the " : "",
                                u->key && u->other_key_refused ? u->key : "",
                                u->key && u->other_key_refused ? " key, the other is refused" : "",
                                u->trouble == UPLINK_ERROR_THROTTLED ? ", throttled" :
                                u->trouble != UPLINK_ERROR_NONE ? ", not proven yet" : "");
        else if (u->state == UPLINK_STATE_CLOCK)
                (void) snprintf(buf, size, "Waiting for the clock to be set, at most %s more",
                                format_timespan(span, sizeof(span), u->next_try_in_usec));
        else if (u->state == UPLINK_STATE_BACKOFF && u->last_error)
                (void) snprintf(buf, size, "Not connected (%s), %s", u->last_error, trouble);
        else
                (void) snprintf(buf, size, "Not connected (%s)%s%s",
                                uplink_state_to_string(u->state), *trouble ? ", " : "", trouble);
}

void status_to_line(const OutboxStats *outbox, const UplinkStatus *uplink, char *buf, size_t size) {
        char state[960];

        format_state(uplink, state, sizeof(state));
        (void) snprintf(buf, size, "%s, %" PRIu64 " queued%s", state, outbox->queued,
                        outbox->disk_error < 0     ? ", disk error" :
                        outbox->is_full            ? ", outbox full" :
                        disk_busy_usec(outbox) > 0 ? ", disk busy" :
                        *uplink->certificate_problem ? ", certificate to be replaced" :
                                                     "");
}
