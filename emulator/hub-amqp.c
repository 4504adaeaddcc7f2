#include "emulator/hub-amqp.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "emulator/hub-amqp-private.h"
#include "emulator/hub-c2d.h"
#include "lib/fd-util.h"

#define TICK_MSEC 1000 /* heartbeats, ends of tokens */
#define EVENTS_PER_TURN 64

static void drain(int fd) {
        uint64_t n;

        (void) read(fd, &n, sizeof(n)); /* what was counted does not matter */
}

static void accept_some(HubAmqp *a) {
        int fd;

        while ((fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
                if (a->n_conns >= AMQP_CONNECTIONS_MAX)
                        (void) close(fd);
                else
                        (void) amqp_conn_new(a, fd); /* without memory the client sees an end */
}

static void turn_all(HubAmqp *a) {
        for (AmqpConn *c = a->conns, *next; c; c = next) {
                next = c->next;
                amqp_conn_turn(c);
                if (c->dead)
                        amqp_conn_free(c);
        }
}

static bool has_more(const HubAmqp *a) {
        for (const AmqpConn *c = a->conns; c; c = c->next)
                if (c->again)
                        return true;
        return false;
}

static void *run(void *userdata) {
        HubAmqp *a = userdata;
        struct epoll_event events[EVENTS_PER_TURN];
        bool stop = false;

        while (!stop) {
                int timeout = has_more(a) ? 0 : a->conns ? TICK_MSEC : -1;
                int n = epoll_wait(a->epoll_fd, events, ELEMENTSOF(events), timeout);

                for (int i = 0; i < n; i++)
                        if (events[i].data.ptr == &a->stop_fd)
                                stop = true;
                        else if (events[i].data.ptr == &a->listen_fd)
                                accept_some(a);
                        else if (events[i].data.ptr == &a->events_fd)
                                drain(a->events_fd);
                        else if (events[i].data.ptr == &a->feedback_fd)
                                drain(a->feedback_fd);
                /* There are few, and each may have to do with what came. */
                turn_all(a);
        }
        while (a->conns) {
                amqp_conn_close(a->conns, "amqp:connection:forced", "the hub stops");
                amqp_conn_free(a->conns);
        }
        return NULL;
}

static int add_fd(HubAmqp *a, int *fd) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = fd };

        if (*fd < 0)
                return *fd;
        return epoll_ctl(a->epoll_fd, EPOLL_CTL_ADD, *fd, &e) < 0 ? -errno : 0;
}

static int make_eventfd(void) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        return fd < 0 ? -errno : fd;
}

static int open_fds(HubAmqp *a, const char *path) {
        int r;

        a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (a->epoll_fd < 0)
                return -errno;
        a->listen_fd = listen_unix_stream(path);
        a->stop_fd = make_eventfd();
        a->events_fd = make_eventfd();
        a->feedback_fd = make_eventfd();
        r = add_fd(a, &a->listen_fd);
        if (r >= 0)
                r = add_fd(a, &a->stop_fd);
        if (r >= 0)
                r = add_fd(a, &a->events_fd);
        return r < 0 ? r : add_fd(a, &a->feedback_fd);
}

static void door_done(HubAmqp *a) {
        safe_close(a->listen_fd);
        safe_close(a->stop_fd);
        safe_close(a->events_fd);
        safe_close(a->feedback_fd);
        safe_close(a->epoll_fd);
        buffer_done(&a->out);
        free(a->entity);
        free(a);
}

/* Signals belong to the broker's thread. */
static int start_thread(HubAmqp *a) {
        sigset_t all, old;
        int r;

        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &old); /* with valid arguments it cannot fail */
        r = pthread_create(&a->thread, NULL, run, a);
        (void) pthread_sigmask(SIG_SETMASK, &old, NULL);
        return -r;
}

int hub_amqp_new(Hub *hub, const HubAmqpSettings *settings, HubAmqp **ret) {
        const char *host = hub_host(hub);
        HubAmqp *a;
        int r;

        a = calloc(1, sizeof(*a));
        if (!a)
                return -ENOMEM;
        a->hub = hub;
        a->port = settings->port;
        a->troubles = settings->troubles;
        a->listen_fd = a->epoll_fd = a->stop_fd = a->events_fd = a->feedback_fd = -EBADF;
        /* The hub's name is its host's up to the first dot, and so is the event hub's. */
        a->entity = strndup(host, strcspn(host, "."));
        r = a->entity ? open_fds(a, settings->path) : -ENOMEM;
        if (r < 0) {
                door_done(a);
                return r;
        }
        hub_events_set_wake_fd(hub_events(hub), a->events_fd);
        hub_feedback_notify(hub, a->feedback_fd);
        r = start_thread(a);
        if (r < 0) {
                hub_events_set_wake_fd(hub_events(hub), -1);
                hub_feedback_notify(hub, -1);
                door_done(a);
                return r;
        }
        *ret = a;
        return 0;
}

HubAmqp *hub_amqp_free(HubAmqp *a) {
        uint64_t one = 1;

        if (!a)
                return NULL;
        (void) write(a->stop_fd, &one, sizeof(one)); /* an eventfd that nobody fills takes it */
        (void) pthread_join(a->thread, NULL);
        hub_events_set_wake_fd(hub_events(a->hub), -1);
        hub_feedback_notify(a->hub, -1);
        door_done(a);
        return NULL;
}
