/* Goal: the service manager's watchdog is fed while all is well and not while something is stuck,
 * so that it restarts the daemon. Method: a service manager of our own, the socket that
 * $NOTIFY_SOCKET names, and an answer to "are you alive" that the test gives. */
#include "daemon/watchdog.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/fd-util.h"
#include "tests/support/test.h"

typedef struct Manager {
        sd_event *event;
        int fd;
        bool alive;
        unsigned n_asked;
        unsigned n_asked_max; /* then the loop ends */
} Manager;

static bool is_alive(void *userdata) {
        Manager *m = userdata;

        if (++m->n_asked >= m->n_asked_max)
                ck_assert_int_ge(sd_event_exit(m->event, 0), 0);
        return m->alive;
}

/* Abstract: nothing of it stays behind. */
static void listen_as_manager(Manager *m) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        char name[64];
        int n;

        n = snprintf(name, sizeof(name), "@iothubd-test-watchdog-%ld", (long) getpid());
        memcpy(address.sun_path + 1, name + 1, (size_t) n - 1);
        m->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_ge(m->fd, 0);
        ck_assert_int_eq(bind(m->fd, (struct sockaddr *) &address,
                              (socklen_t) (offsetof(struct sockaddr_un, sun_path) + (size_t) n)),
                         0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", name, 1), 0);
        ck_assert_int_eq(setenv("WATCHDOG_USEC", "16000", 1), 0);
        ck_assert_int_eq(unsetenv("WATCHDOG_PID"), 0);
        ck_assert_int_ge(sd_event_new(&m->event), 0);
}

static unsigned n_fed(Manager *m) {
        char text[64];
        unsigned n_meals = 0;

        for (;;) {
                ssize_t n = recv(m->fd, text, sizeof(text) - 1, 0);

                if (n < 0)
                        return n_meals;
                text[n] = 0;
                ck_assert_str_eq(text, "WATCHDOG=1");
                n_meals++;
        }
}

static void ask(Manager *m, bool alive, unsigned n) {
        _cleanup_(watchdog_freep) Watchdog *w = NULL;

        m->alive = alive;
        m->n_asked = 0;
        m->n_asked_max = n;
        ck_assert_int_eq(watchdog_new(m->event, is_alive, m, &w), 0);
        ck_assert_ptr_nonnull(w);
        ck_assert_int_eq(sd_event_loop(m->event), 0);
        ck_assert_uint_eq(m->n_asked, n);
}

static void leave(Manager *m) {
        m->event = sd_event_unref(m->event);
        m->fd = safe_close(m->fd);
}

TEST(a_daemon_that_is_alive_feeds_each_time) {
        Manager m = {};

        listen_as_manager(&m);
        ask(&m, true, 3);
        ck_assert_uint_eq(n_fed(&m), 3);
        leave(&m);
}

TEST(one_that_is_stuck_feeds_nothing_and_is_asked_on) {
        Manager m = {};

        listen_as_manager(&m);
        ask(&m, false, 5);
        ck_assert_uint_eq(n_fed(&m), 0);
        leave(&m);
}

TEST(without_a_watchdog_nothing_runs) {
        Watchdog *w = (Watchdog *) 1;

        ck_assert_int_eq(unsetenv("WATCHDOG_USEC"), 0);
        ck_assert_int_eq(watchdog_new(NULL, is_alive, NULL, &w), 0);
        ck_assert_ptr_null(w);
}

TEST(a_minute_at_one_thing_is_stuck) {
        usec_t begin = 5 * USEC_PER_HOUR;

        ck_assert(!watchdog_is_stuck(begin, begin));
        ck_assert(!watchdog_is_stuck(begin, begin + USEC_PER_MINUTE - 1));
        ck_assert(watchdog_is_stuck(begin, begin + USEC_PER_MINUTE));
        ck_assert(!watchdog_is_stuck(begin, begin - USEC_PER_MINUTE)); /* read before it began */
        ck_assert(!watchdog_is_stuck(0, begin));                       /* it waits for work */
}
