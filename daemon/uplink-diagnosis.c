#include "daemon/uplink-diagnosis.h"

#include "daemon/uplink-state.h"

#define CERTIFICATE_LIFE_USEC (398 * USEC_PER_DAY)

bool uplink_clock_wrong(usec_t realtime_usec, usec_t newest_usec) {
        usec_t later = MAX(newest_usec, TIME_OF_RELEASE_USEC);

        return realtime_usec < usec_sub(later, UPLINK_CLOCK_SLACK_USEC);
}

bool uplink_clock_wrong_after_tls(usec_t realtime_usec, usec_t newest_usec) {
        return uplink_clock_wrong(realtime_usec, newest_usec) &&
               usec_sub(newest_usec, realtime_usec) <= CERTIFICATE_LIFE_USEC;
}

static UplinkErrorClass diagnose_cut(const UplinkSymptoms *s) {
        if (!s->was_connected)
                return s->n_cuts_early > UPLINK_CUTS_EARLY ? UPLINK_ERROR_THROTTLED
                                                           : UPLINK_ERROR_CUT;
        if (s->quota)
                return UPLINK_ERROR_QUOTA;
        if (s->late)
                return UPLINK_ERROR_THROTTLED;
        if (s->n_short > UPLINK_SHORT_MAX && !s->one_message)
                return UPLINK_ERROR_TAKEN_OVER;
        return UPLINK_ERROR_CUT;
}

UplinkErrorClass uplink_diagnose(const UplinkSymptoms *s) {
        if (s->class == UPLINK_ERROR_CUT)
                return diagnose_cut(s);
        if (s->class == UPLINK_ERROR_REFUSED && s->clock_wrong)
                return UPLINK_ERROR_CLOCK;
        return s->class;
}
