#include "daemon/watchdog.h"

#include <inttypes.h>
#include <time.h>

#include <systemd/sd-daemon.h>

#include "daemon/notify.h"

#define STUCK_USEC (60 * USEC_PER_SEC)

struct Watchdog {
        sd_event_source *timer;
        uint64_t interval_usec;
        bool (*is_alive)(void *userdata);
        void *userdata;
};

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Watchdog *w = userdata;
        bool alive = w->is_alive(w->userdata);
        int r;

        if (alive)
                notify_manager("WATCHDOG=1");
        /* A single no, such as right after a suspend, leaves time for more than one other look. */
        r = sd_event_source_set_time_relative(source,
                                              alive ? w->interval_usec : w->interval_usec / 8);
        return r < 0 ? r : sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int watchdog_new(sd_event *event, bool (*is_alive)(void *userdata), void *userdata,
                 Watchdog **ret) {
        _cleanup_(watchdog_freep) Watchdog *w = NULL;
        uint64_t watchdog_usec;
        int r;

        r = sd_watchdog_enabled(/* unset_environment= */ 0, &watchdog_usec);
        if (r < 0)
                return r;
        if (r == 0) {
                *ret = NULL;
                return 0;
        }
        w = malloc(sizeof(*w));
        if (!w)
                return -ENOMEM;
        *w = (Watchdog){ .interval_usec = watchdog_usec / 2,
                         .is_alive = is_alive,
                         .userdata = userdata };
        r = sd_event_add_time_relative(event, &w->timer, CLOCK_MONOTONIC, w->interval_usec,
                                       w->interval_usec / 8, on_timer, w);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(w);
        return 0;
}

Watchdog *watchdog_free(Watchdog *w) {
        if (!w)
                return NULL;
        sd_event_source_disable_unref(w->timer);
        free(w);
        return NULL;
}

bool watchdog_is_stuck(usec_t busy_since_usec, usec_t now_usec) {
        return busy_since_usec > 0 && usec_sub(now_usec, busy_since_usec) >= STUCK_USEC;
}
