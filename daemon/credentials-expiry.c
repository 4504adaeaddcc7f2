#include "daemon/credentials-expiry.h"

#include "daemon/credentials-certificate.h"
#include "daemon/log.h"
#include "lib/time-util.h"

struct CredentialsExpiry {
        Credentials *credentials;
        ClientCertificate *seen; /* the one that was looked at last */
        sd_event_source *timer;
};

static void tell(const ClientCertificate *c) {
        char text[512], ends[FORMAT_TIMESTAMP_MAX],
                        field[sizeof("IOTHUBD_CERTIFICATE_ENDS=") + FORMAT_TIMESTAMP_MAX];
        const char *fields[] = { field, NULL };

        if (client_certificate_age(c, now_usec(CLOCK_REALTIME), text, sizeof(text)) ==
            CERTIFICATE_VALID)
                return;
        (void) snprintf(field, sizeof(field), "IOTHUBD_CERTIFICATE_ENDS=%s",
                        format_timestamp(ends, sizeof(ends), client_certificate_ends_usec(c)));
        log_event(LOG_WARNING, MSG_CERTIFICATE_ENDS, fields, "%s", text);
}

/* One wake-up a day, and none without a certificate. */
static void look(CredentialsExpiry *e) {
        if (e->seen)
                tell(e->seen);
        /* Fail only for sources that are gone. */
        (void) sd_event_source_set_time_relative(e->timer, USEC_PER_DAY);
        (void) sd_event_source_set_enabled(e->timer, e->seen ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata) {
        look(userdata);
        return 0;
}

void credentials_expiry_look(CredentialsExpiry *e) {
        ClientCertificate *now = credentials_certificate(e->credentials);

        if (client_certificate_equal(e->seen, now))
                return;
        client_certificate_unref(e->seen);
        e->seen = client_certificate_ref(now);
        look(e);
}

int credentials_expiry_new(sd_event *event, Credentials *credentials, CredentialsExpiry **ret) {
        _cleanup_(credentials_expiry_freep) CredentialsExpiry *e = NULL;
        int r;

        e = malloc(sizeof(*e));
        if (!e)
                return -ENOMEM;
        *e = (CredentialsExpiry){ .credentials = credentials };
        r = sd_event_add_time(event, &e->timer, CLOCK_BOOTTIME, 0, USEC_PER_MINUTE, on_timer, e);
        if (r >= 0)
                r = sd_event_source_set_enabled(e->timer, SD_EVENT_OFF);
        if (r < 0)
                return r;
        credentials_expiry_look(e);
        *ret = TAKE_PTR(e);
        return 0;
}

CredentialsExpiry *credentials_expiry_free(CredentialsExpiry *e) {
        if (!e)
                return NULL;
        client_certificate_unref(e->seen);
        sd_event_source_disable_unref(e->timer);
        free(e);
        return NULL;
}
