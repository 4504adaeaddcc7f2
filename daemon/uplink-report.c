#include "daemon/uplink-report.h"

#include <inttypes.h>
#include <stdarg.h>

void uplink_report_init(UplinkReport *r) {
        /* A hub that cuts at once must not fill the journal. */
        *r = (UplinkReport) { .rate = { .burst = 20, .interval_sec = 600 } };
}

void uplink_report_error(UplinkReport *r, UplinkErrorClass class, bool disconnected,
                         const char *format, ...) {
        va_list ap;

        r->class = class;
        r->diagnosed = false;
        r->disconnected = disconnected;
        r->error_realtime_usec = now_usec(CLOCK_REALTIME);
        va_start(ap, format);
        (void) vsnprintf(r->error, sizeof(r->error), format, ap);
        va_end(ap);
}

void uplink_report_diagnosis(UplinkReport *r, UplinkErrorClass class) {
        r->diagnosed = r->class != class;
        r->class = class;
}

static const char *message_id(const UplinkReport *r) {
        switch (r->class) {
        case UPLINK_ERROR_TLS:
        case UPLINK_ERROR_TLS_ISSUER:
        case UPLINK_ERROR_TLS_EXPIRED:
        case UPLINK_ERROR_TLS_NAME: return MSG_TLS_FAILED;
        case UPLINK_ERROR_CLOCK: return MSG_CLOCK_WRONG;
        case UPLINK_ERROR_REFUSED:
        case UPLINK_ERROR_CREDENTIALS:
        case UPLINK_ERROR_CERTIFICATE: return MSG_REFUSED;
        case UPLINK_ERROR_TAKEN_OVER: return MSG_TAKEN_OVER;
        case UPLINK_ERROR_THROTTLED: return MSG_THROTTLED;
        case UPLINK_ERROR_QUOTA: return MSG_QUOTA;
        default: return r->disconnected ? MSG_DISCONNECTED : MSG_CONNECT_FAILED;
        }
}

/* One cut is a matter of course; what lasts or needs a person is not. */
static int priority(const UplinkReport *r, const UplinkNews *news) {
        bool passes = r->class == UPLINK_ERROR_CUT || r->class == UPLINK_ERROR_TIMEOUT ||
                      r->class == UPLINK_ERROR_UNCONFIRMED || r->class == UPLINK_ERROR_NETWORK;

        return passes && r->disconnected && news->type == UPLINK_NEWS_FAILED ? LOG_NOTICE
                                                                             : LOG_WARNING;
}

static const char *format_next_try(const UplinkReportAbout *about, char *buf, size_t size) {
        char span[FORMAT_TIMESPAN_MAX];

        *buf = '\0';
        if (about->next_try_in_usec == USEC_INFINITY)
                return buf;
        format_timespan(span, sizeof(span),
                        about->next_try_in_usec / USEC_PER_MSEC * USEC_PER_MSEC);
        (void) snprintf(buf, size, "; next try in %s", span);
        return buf;
}

static void log_failure(const UplinkReport *r, const UplinkNews *news,
                        const UplinkReportAbout *about, const char *const *fields,
                        const char *suppressed) {
        const UplinkReason *reason = uplink_reason(r->class);
        char next[128], span[FORMAT_TIMESPAN_MAX], still[128] = "";

        format_next_try(about, next, sizeof(next));
        if (news->type == UPLINK_NEWS_STILL)
                (void) snprintf(still, sizeof(still), "Still so after %u more tries in %s: ",
                                news->n_tries,
                                format_timespan(span, sizeof(span),
                                                news->span_usec / USEC_PER_SEC * USEC_PER_SEC));
        log_event(priority(r, news), message_id(r), fields, "%s%s%s%s; %s%s%s", still,
                  r->diagnosed && reason ? reason->what : "", r->diagnosed && reason ? ": " : "",
                  r->error, reason ? reason->remedy : "no remedy is known", next, suppressed);
}

/* A link that was well for a moment in between was not away all that time. */
static const char *format_times(const UplinkNews *news, char *buf, size_t size) {
        char span[FORMAT_TIMESPAN_MAX];

        *buf = '\0';
        if (news->n_times > 1)
                (void) snprintf(buf, size, ", %u times in %s", news->n_times,
                                format_timespan(span, sizeof(span),
                                                news->span_usec / USEC_PER_MSEC * USEC_PER_MSEC));
        return buf;
}

static void log_connection(const UplinkNews *news, const UplinkReportAbout *about,
                           const char *const *fields, const char *suppressed) {
        char span[FORMAT_TIMESPAN_MAX], with[64] = "", times[FORMAT_TIMESPAN_MAX + 32];

        if (about->key)
                (void) snprintf(with, sizeof(with), " with the %s key", about->key);
        if (news->type == UPLINK_NEWS_CONNECTED)
                log_event(LOG_NOTICE, MSG_CONNECTED, fields, "Connected to %s as %s%s%s",
                          strempty(about->hub), strempty(about->device), with, suppressed);
        else
                log_event(LOG_NOTICE, MSG_CONNECTED, fields,
                          "%s to %s as %s%s, after %s and %u %s (%s)%s%s",
                          news->class == UPLINK_ERROR_THROTTLED ? "Keeping pace again, connected"
                                                                : "Connected again",
                          strempty(about->hub), strempty(about->device), with,
                          format_timespan(span, sizeof(span),
                                          news->span_last_usec / USEC_PER_MSEC * USEC_PER_MSEC),
                          news->n_tries_last, news->n_tries_last == 1 ? "try" : "tries",
                          strempty(uplink_error_class_to_string(news->class)),
                          format_times(news, times, sizeof(times)), suppressed);
}

void uplink_report_news(UplinkReport *r, const UplinkNews *news, const UplinkReportAbout *about) {
        char device[256], class[64], tries[64], span[64], remedy[400], suppressed[96] = "";
        const char *fields[] = { device, class, tries, span, remedy, NULL };
        uint64_t n_suppressed = 0;
        bool is_failure;

        if (news->type == UPLINK_NEWS_NONE) {
                if (news->class != UPLINK_ERROR_NONE && news->n_tries > 0)
                        log_debug("Another try failed: %s", r->error);
                return;
        }
        is_failure = news->type == UPLINK_NEWS_FAILED || news->type == UPLINK_NEWS_STILL;
        /* The last word must not be of a failure that is over; there are no more of these than of
         * failures that were told. */
        if (!log_rate_pass(&r->rate, &n_suppressed)) {
                if (is_failure || !r->told_failure)
                        return;
                n_suppressed = r->rate.n_suppressed - 1; /* without this one */
                r->rate.n_suppressed = 0;
        }
        r->told_failure = is_failure;
        if (n_suppressed > 0)
                (void) snprintf(suppressed, sizeof(suppressed),
                                " (%" PRIu64 " lines about the connection were left out)",
                                n_suppressed);
        (void) snprintf(device, sizeof(device), "IOTHUBD_DEVICE=%s", strempty(about->device));
        (void) snprintf(class, sizeof(class), "IOTHUBD_ERROR_CLASS=%s",
                        strempty(uplink_error_class_to_string(news->class)));
        (void) snprintf(tries, sizeof(tries), "IOTHUBD_TRIES=%u", news->n_tries);
        (void) snprintf(span, sizeof(span), "IOTHUBD_TROUBLE_USEC=%" PRIu64, news->span_usec);
        (void) snprintf(remedy, sizeof(remedy), "IOTHUBD_REMEDY=%s",
                        uplink_reason(news->class) ? uplink_reason(news->class)->remedy : "");

        if (is_failure)
                log_failure(r, news, about, fields, suppressed);
        else {
                if (news->type == UPLINK_NEWS_CONNECTED)
                        fields[1] = NULL;
                log_connection(news, about, fields, suppressed);
        }
}

void uplink_report_key_refused(const UplinkReportAbout *about, const char *refused_key) {
        char device[256], key[64];
        const char *fields[] = { device, key, NULL };

        (void) snprintf(device, sizeof(device), "IOTHUBD_DEVICE=%s", strempty(about->device));
        (void) snprintf(key, sizeof(key), "IOTHUBD_KEY=%s", strempty(about->key));
        log_event(LOG_WARNING, MSG_KEY_REFUSED, fields,
                  "The hub refused the %s key and takes the %s one; put the right one in its place",
                  refused_key, strempty(about->key));
}

void uplink_report_clock_wait(usec_t realtime_usec, usec_t span_usec) {
        char span[FORMAT_TIMESPAN_MAX], time[FORMAT_TIMESTAMP_MAX];

        log_event(LOG_WARNING, MSG_CLOCK_WRONG, NULL,
                  "The clock says %s, which cannot be; waiting for it to be set before connecting, "
                  "at most %s",
                  format_timestamp(time, sizeof(time), realtime_usec),
                  format_timespan(span, sizeof(span), span_usec));
}
