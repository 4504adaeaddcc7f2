#include "daemon/uplink-trouble.h"

bool uplink_trouble_is_on(const UplinkTrouble *t) {
        return t->class != UPLINK_ERROR_NONE && !t->over;
}

UplinkNews uplink_trouble_on_failed(UplinkTrouble *t, UplinkErrorClass class, usec_t now) {
        UplinkNews news = { .type = UPLINK_NEWS_FAILED, .class = class, .n_tries = 1 };
        bool again = t->class != UPLINK_ERROR_NONE && !t->over;

        if (t->class == UPLINK_ERROR_NONE) {
                t->since_usec = now;
                t->n_tries = t->n_times = 0;
        }
        if (!again) {
                t->begun_usec = now;
                t->n_tries_begun = 0;
                t->n_times++;
        }
        t->class = class;
        t->over = false;
        t->n_tries++;
        t->n_tries_begun++;
        t->n_untold++;

        if (again && t->told_class == class) {
                if (t->n_untold < t->tell_after && now - t->told_usec < UPLINK_TROUBLE_TELL_USEC) {
                        news.type = UPLINK_NEWS_NONE;
                        return news;
                }
                news.type = UPLINK_NEWS_STILL;
                news.n_tries = t->n_untold;
                news.span_usec = now - t->told_usec;
                t->tell_after = MIN(t->tell_after * 4, 1024U);
        } else
                t->tell_after = 4;
        t->told_class = class;
        t->told_usec = now;
        t->n_untold = 0;
        return news;
}

UplinkNews uplink_trouble_on_cure(UplinkTrouble *t, UplinkCure cure, usec_t now) {
        UplinkNews news = { .class = t->class };
        bool first = !t->was_connected;

        t->was_connected = true;
        if (uplink_trouble_is_on(t)) {
                if (cure >= uplink_reason(t->class)->cure) {
                        t->over = true;
                        news.type = UPLINK_NEWS_CURED;
                        news.n_tries = t->n_tries;
                        news.span_usec = now - t->since_usec;
                        news.n_times = t->n_times;
                        news.n_tries_last = t->n_tries_begun;
                        news.span_last_usec = now - t->begun_usec;
                }
        } else if (first)
                news.type = UPLINK_NEWS_CONNECTED;
        if (cure == UPLINK_CURE_LIVED && !uplink_trouble_is_on(t))
                t->class = UPLINK_ERROR_NONE;
        return news;
}
