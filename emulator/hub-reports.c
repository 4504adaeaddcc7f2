#include "emulator/hub-reports.h"

#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include "emulator/hub-c2d-call.h"
#include "emulator/hub-c2d.h"
#include "emulator/hub-report.h"

struct HubReports {
        Hub *hub;
        HubTroubles *troubles;
        int fd;
        pthread_t thread;
        bool started;

        pthread_mutex_t mutex; /* held while reports are taken, so that none is between socket and
                                  hub */
        Buffer text;
};

static void answer_call(HubReports *s, const HubReport *call, usec_t now) {
        HubReport answer = { .kind = HUB_REPORT_ANSWER, .number = call->number };
        _cleanup_free_ char *text = NULL;

        if (call->value == HUB_CALL_SEND_MESSAGE)
                answer.value = hub_c2d_call(s->hub, (const char *) s->text.data, s->text.size, now,
                                            &text);
        else
                answer.value = hub_troubles_call(s->troubles, (HubCall) call->value,
                                                 (const char *) s->text.data, s->text.size, &text);
        /* Who reads no answers gets none. */
        (void) hub_report_try_write(s->fd, &answer, text, text ? strlen(text) : 0);
}

static int take_report(HubReports *s, const HubReport *report, usec_t now) {
        if (report->kind == HUB_REPORT_REPEAT)
                return hub_c2d_repeat(s->hub, report->number);
        return hub_c2d_settle(s->hub, report->number, (HubC2dEnd) report->value, now);
}

/* What waits, in one transaction where no call comes between. 0, or -errno: the front is gone. */
static int take_all(HubReports *s) {
        usec_t now = now_usec(CLOCK_REALTIME);
        HubReport report;
        bool begun = false, call;
        int r = 0, k;

        while ((k = hub_report_read(s->fd, &report, &s->text)) > 0) {
                call = report.kind == HUB_REPORT_CALL;
                if (call && begun)
                        r = hub_end(s->hub, r);
                else if (!call && !begun)
                        r = hub_begin(s->hub);
                begun = !call && (begun || r >= 0);
                if (call)
                        answer_call(s, &report, now);
                else if (begun && r >= 0)
                        r = take_report(s, &report, now);
        }
        if (begun)
                r = hub_end(s->hub, r);
        if (r < 0)
                /* A log that cannot be written has nobody to tell. */
                (void) fprintf(stderr,
                               "iothub-emulator: cannot store that messages were delivered, so "
                               "they "
                               "will be again: %s\n",
                               strerror(-r));
        return k;
}

void hub_reports_catch_up(HubReports *s) {
        (void) pthread_mutex_lock(
                        &s->mutex); /* cannot fail: not recursive, never destroyed in use */
        (void) take_all(s);         /* without the front nobody connects any more */
        (void) pthread_mutex_unlock(&s->mutex);
}

static void *run(void *userdata) {
        HubReports *s = userdata;
        int r = 0;

        while (r >= 0) {
                struct pollfd p = { .fd = s->fd, .events = POLLIN };

                if (poll(&p, 1, -1) < 0)
                        continue; /* interrupted */
                (void) pthread_mutex_lock(&s->mutex);
                r = take_all(s);
                (void) pthread_mutex_unlock(&s->mutex);
        }
        return NULL;
}

int hub_reports_new(Hub *hub, HubTroubles *troubles, int fd, HubReports **ret) {
        _cleanup_(hub_reports_freep) HubReports *s = NULL;
        sigset_t all, old;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (HubReports){ .hub = hub, .troubles = troubles, .fd = fd };
        (void) pthread_mutex_init(&s->mutex, NULL); /* cannot fail without attributes on Linux */
        if (buffer_reserve(&s->text, HUB_REPORT_TEXT_MAX + 1) < 0) /* so that no read lacks it */
                return -ENOMEM;
        /* Signals are for the broker's thread, which they wake. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old); /* with valid arguments it cannot fail */
        r = pthread_create(&s->thread, NULL, run, s);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r != 0)
                return -r;
        s->started = true;
        *ret = TAKE_PTR(s);
        return 0;
}

HubReports *hub_reports_free(HubReports *s) {
        if (!s)
                return NULL;
        if (s->started) {
                (void) shutdown(s->fd, SHUT_RD); /* ends the thread; the front may have ended it */
                (void) pthread_join(s->thread, NULL);
        }
        (void) pthread_mutex_destroy(&s->mutex);
        buffer_done(&s->text);
        free(s);
        return NULL;
}
