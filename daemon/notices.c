#include "daemon/notices.h"

#include <inttypes.h>

#include "daemon/log.h"

#define KINDS_MAX 16U
#define TEXT_BYTES_MAX 256U

typedef struct Kind {
        const char *message_id;
        LogRate rate;
        uint64_t n_left_out;
        int priority;
        char last[TEXT_BYTES_MAX]; /* of those left out */
} Kind;

typedef struct Lasting {
        const char *begins, *ends; /* message ids */
        Notices *notices;
        sd_event_source *timer; /* on from the end until that is told */
        bool told;              /* that it began, and not yet that it ended */
        bool over;
        usec_t began_usec, ended_usec; /* CLOCK_BOOTTIME */
        uint64_t n_times;
        int priority; /* of the end, and its text */
        char text[TEXT_BYTES_MAX];
} Lasting;

struct Notices {
        NoticesLine on_line;
        void *userdata;
        usec_t settle_usec;
        sd_event_source *timer; /* on while something is left out */
        Kind kinds[KINDS_MAX];
        size_t n_kinds;
        Lasting lasting[2];
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
        char text[TEXT_BYTES_MAX + 96];

        for (size_t i = 0; i < n->n_kinds; i++) {
                Kind *k = &n->kinds[i];

                if (k->n_left_out == 1)
                        n->on_line(k->priority, k->message_id, k->last, n->userdata);
                else if (k->n_left_out > 1) {
                        (void) snprintf(text, sizeof(text),
                                        "%s (the last of %" PRIu64 " such lines; iothubctl status has the totals)", k->last,
                                        k->n_left_out);
                        n->on_line(k->priority, k->message_id, text, n->userdata);
                }
                k->n_left_out = 0;
        }
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        tell_left_out(userdata);
        return 0;
}

/* Lasting states. */

static void tell_end(Lasting *l) {
        Notices *n = l->notices;
        char text[TEXT_BYTES_MAX + FORMAT_TIMESPAN_MAX + 64], span[FORMAT_TIMESPAN_MAX];

        if (!l->told || !l->over)
                return;
        l->told = l->over = false;
        (void) format_timespan(span, sizeof(span), usec_sub(l->ended_usec, l->began_usec));
        if (l->n_times > 1)
                (void) snprintf(text, sizeof(text), "%s (after %s, in which that began %" PRIu64 " times)", l->text, span,
                                l->n_times);
        else
                (void) snprintf(text, sizeof(text), "%s (after %s)", l->text, span);
        n->on_line(l->priority, l->ends, text, n->userdata);
}

static int on_settled(sd_event_source *source, uint64_t usec, void *userdata) {
        tell_end(userdata);
        return 0;
}

/* Whether the line is dealt with. */
static bool lasting_begins(Lasting *l) {
        if (!l->told) {
                l->told = true;
                l->began_usec = now_usec(CLOCK_BOOTTIME);
                l->n_times = 1;
                return false; /* which is told as any other line */
        }
        if (!l->over)
                return false;
        l->over = false;
        l->n_times++;
        (void) sd_event_source_set_enabled(l->timer, SD_EVENT_OFF); /* fails only for a source that is gone */
        return true;
}

static bool lasting_ends(Lasting *l, int priority, const char *text) {
        int r;

        if (!l->told)
                return false;
        l->over = true;
        l->ended_usec = now_usec(CLOCK_BOOTTIME);
        l->priority = priority;
        (void) snprintf(l->text, sizeof(l->text), "%s", text);
        r = sd_event_source_set_time_relative(l->timer, l->notices->settle_usec);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->timer, SD_EVENT_ONESHOT);
        if (r < 0)
                tell_end(l); /* too early rather than never */
        return true;
}

static bool pass_lasting(Notices *n, int priority, const char *message_id, const char *text) {
        for (size_t i = 0; i < ELEMENTSOF(n->lasting); i++) {
                if (same_id(n->lasting[i].begins, message_id))
                        return lasting_begins(&n->lasting[i]);
                if (same_id(n->lasting[i].ends, message_id))
                        return lasting_ends(&n->lasting[i], priority, text);
        }
        return false;
}

static int new_timer(sd_event *event, sd_event_time_handler_t handler, void *userdata, sd_event_source **ret) {
        int r = sd_event_add_time(event, ret, CLOCK_MONOTONIC, 0, USEC_PER_SEC, handler, userdata);

        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

int notices_new(sd_event *event, usec_t settle_usec, NoticesLine on_line, void *userdata, Notices **ret) {
        _cleanup_(notices_freep) Notices *n = NULL;
        int r;

        n = calloc(1, sizeof(*n));
        if (!n)
                return -ENOMEM;
        n->on_line = on_line;
        n->userdata = userdata;
        n->settle_usec = settle_usec;
        n->lasting[0] = (Lasting) { .begins = MSG_OUTBOX_FULL, .ends = MSG_OUTBOX_ROOM };
        n->lasting[1] = (Lasting) { .begins = MSG_OUTBOX_DISK_ERROR, .ends = MSG_OUTBOX_DISK_OK };
        r = new_timer(event, on_timer, n, &n->timer);
        for (size_t i = 0; i < ELEMENTSOF(n->lasting) && r >= 0; i++) {
                n->lasting[i].notices = n;
                r = new_timer(event, on_settled, &n->lasting[i], &n->lasting[i].timer);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(n);
        return 0;
}

Notices *notices_free(Notices *n) {
        if (!n)
                return NULL;
        tell_left_out(n);
        for (size_t i = 0; i < ELEMENTSOF(n->lasting); i++) {
                tell_end(&n->lasting[i]);
                sd_event_source_disable_unref(n->lasting[i].timer);
        }
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
        Kind *k;

        if (pass_lasting(n, priority, message_id, text))
                return;
        k = find_kind(n, message_id);
        if (k && (k->n_left_out > 0 || !log_rate_pass(&k->rate, NULL)))
                leave_out(n, k, priority, text);
        else
                n->on_line(priority, message_id, text, n->userdata);
}
