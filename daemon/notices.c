#include "daemon/notices.h"

#include <inttypes.h>

#include "lib/time-util.h"
#include "daemon/log.h"

#define KINDS_MAX 16U

typedef struct Kind {
        const char *message_id;
        LogRate rate;
        uint64_t n_left_out;
        int priority;
        char last[256]; /* of those left out */
} Kind;

struct Notices {
        sd_event_source *timer; /* on while something is left out */
        Kind kinds[KINDS_MAX];
        size_t n_kinds;
};

static bool same_id(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

/* NULL when there are too many kinds, whose lines all pass. */
static Kind *find_kind(Notices *n, const char *message_id) {
        for (size_t i = 0; i < n->n_kinds; i++)
                if (same_id(n->kinds[i].message_id, message_id))
                        return &n->kinds[i];
        if (n->n_kinds == KINDS_MAX)
                return NULL;
        n->kinds[n->n_kinds] = (Kind) {
                .message_id = message_id,
                .rate = { .burst = NOTICES_BURST, .interval_sec = NOTICES_INTERVAL_SEC },
        };
        return &n->kinds[n->n_kinds++];
}

static void tell_left_out(Notices *n) {
        for (size_t i = 0; i < n->n_kinds; i++) {
                Kind *k = &n->kinds[i];

                if (k->n_left_out == 1)
                        log_event(k->priority, k->message_id, NULL, "%s", k->last);
                else if (k->n_left_out > 1)
                        log_event(k->priority, k->message_id, NULL,
                                  "%s (the last of %" PRIu64 " such lines; iothubctl status has the totals)", k->last,
                                  k->n_left_out);
                k->n_left_out = 0;
        }
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        tell_left_out(userdata);
        return 0;
}

int notices_new(sd_event *event, Notices **ret) {
        _cleanup_(notices_freep) Notices *n = NULL;
        int r;

        n = calloc(1, sizeof(*n));
        if (!n)
                return -ENOMEM;
        r = sd_event_add_time(event, &n->timer, CLOCK_MONOTONIC, 0, USEC_PER_SEC, on_timer, n);
        if (r >= 0)
                r = sd_event_source_set_enabled(n->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(n);
        return 0;
}

Notices *notices_free(Notices *n) {
        if (!n)
                return NULL;
        tell_left_out(n);
        sd_event_source_disable_unref(n->timer);
        free(n);
        return NULL;
}

static void leave_out(Notices *n, Kind *k, int priority, const char *text) {
        int enabled = SD_EVENT_OFF;

        k->priority = priority;
        (void) snprintf(k->last, sizeof(k->last), "%s", text);
        k->n_left_out++;
        /* Both fail only for a source that is gone. */
        (void) sd_event_source_get_enabled(n->timer, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void) sd_event_source_set_time_relative(n->timer, NOTICES_INTERVAL_SEC * USEC_PER_SEC);
        (void) sd_event_source_set_enabled(n->timer, SD_EVENT_ONESHOT);
}

void notices_pass(Notices *n, int priority, const char *message_id, const char *text) {
        Kind *k = find_kind(n, message_id);

        if (k && (k->n_left_out > 0 || !log_rate_pass(&k->rate, NULL)))
                leave_out(n, k, priority, text);
        else
                log_event(priority, message_id, NULL, "%s", text);
}
