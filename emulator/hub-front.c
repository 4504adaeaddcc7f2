#include "emulator/hub-front-private.h"

#include <assert.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "lib/fd-util.h"

/* Doors, the loop and its timers. What happens on a connection is in hub-conn.c. */

#define HELLO_CHECK_MSEC 1000
#define EVENTS_MAX 64
#define WAIT_MSEC_MAX 3600000U /* longer waits are cut into such */

int front_add_to_epoll(Front *f, int fd, uint32_t events, Watch *w) {
        struct epoll_event e = { .events = events, .data.ptr = w };

        return epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

int front_new(const char *secret, Authorities *authorities, Front **ret) {
        _cleanup_(front_freep) Front *f = NULL;

        f = malloc(sizeof(*f));
        if (!f)
                return -ENOMEM;
        *f = (Front){ .epoll_fd = -EBADF, .report_fd = -EBADF, .authorities = authorities, .accepting = true, .next_due_usec = USEC_INFINITY };
        f->secret = strdup(secret);
        f->counters = hub_counters_new();
        if (!f->secret || !f->counters)
                return -ENOMEM;
        f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (f->epoll_fd < 0)
                return -errno;
        *ret = TAKE_PTR(f);
        return 0;
}

static void accept_again(Front *f) {
        if (f->accepting)
                return;
        f->accepting = true;
        for (Listener *l = f->listeners; l; l = l->next)
                /* Without room the next close tries again. */
                (void) front_add_to_epoll(f, l->fd, EPOLLIN, &l->watch);
}

static void bury_dead(Front *f) {
        Conn **link = &f->ready;
        bool any = f->dead;

        while (*link)
                if ((*link)->state == CONN_DEAD)
                        *link = (*link)->next_ready;
                else
                        link = &(*link)->next_ready;
        while (f->dead) {
                Conn *c = f->dead;

                f->dead = c->next;
                conn_free(c);
        }
        if (any)
                accept_again(f);
}

Front *front_free(Front *f) {
        if (!f)
                return NULL;
        while (f->conns)
                conn_kill(f->conns, /* reset= */ false);
        bury_dead(f);
        while (f->listeners) {
                Listener *l = f->listeners;

                f->listeners = l->next;
                l->fd = safe_close(l->fd);
                free(l->backend);
                free(l);
        }
        while (f->others) {
                Other *o = f->others;

                f->others = o->next;
                free(o);
        }
        for (size_t i = 0; i < ELEMENTSOF(f->odd_tls); i++)
                SSL_CTX_free(f->odd_tls[i]);
        troubles_done(&f->troubles);
        hub_counters_free(f->counters);
        f->epoll_fd = safe_close(f->epoll_fd);
        erase_and_free(f->secret);
        free(f);
        return NULL;
}

int front_listen(Front *f, FrontDoor door, int fd, SSL_CTX *tls, const char *backend) {
        Listener *l;
        int r;

        l = malloc(sizeof(*l));
        if (!l)
                return -ENOMEM;
        *l = (Listener){ .watch = { WATCH_LISTENER, l },
                         .door = door,
                         .fd = fd,
                         .tls = tls,
                         .next = f->listeners };
        l->backend = strdup(backend);
        r = l->backend ? front_add_to_epoll(f, fd, EPOLLIN, &l->watch) : -ENOMEM;
        if (r < 0) {
                free(l->backend);
                free(l);
                return r;
        }
        f->listeners = l;
        return 0;
}

int front_watch(Front *f, int fd, void (*on_readable)(void *userdata), void *userdata) {
        Other *o;
        int r;

        o = malloc(sizeof(*o));
        if (!o)
                return -ENOMEM;
        *o = (Other){ { WATCH_OTHER, o }, fd, on_readable, userdata, f->others };
        r = front_add_to_epoll(f, fd, EPOLLIN, &o->watch);
        if (r < 0) {
                free(o);
                return r;
        }
        f->others = o;
        return 0;
}

void front_unwatch(Front *f, int fd) {
        for (Other *o = f->others; o; o = o->next) {
                if (o->fd != fd)
                        continue;
                (void) epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* it was added */
                o->fd = -EBADF; /* an event for it may be pending: freed after the turn */
                f->unwatched = true;
        }
}

static void free_unwatched(Front *f) {
        Other **link = &f->others;

        while (f->unwatched && *link) {
                Other *o = *link;

                if (o->fd >= 0) {
                        link = &o->next;
                        continue;
                }
                *link = o->next;
                free(o);
        }
        f->unwatched = false;
}

void front_after_turn(Front *f, void (*after_turn)(void *userdata), void *userdata) {
        f->after_turn = after_turn;
        f->after_turn_userdata = userdata;
}

void front_set_hub(Front *f, int report_fd) {
        f->report_fd = report_fd;
}

int front_hub(const Front *f) {
        return f->report_fd;
}

Authorities *front_authorities(Front *f) {
        return f->authorities;
}

Troubles *front_troubles(Front *f) {
        return &f->troubles;
}

const HubCounters *front_counters(const Front *f) {
        return f->counters;
}

bool front_has_odd_tls(const Front *f, TroubleCertificate c) {
        return f->odd_tls[c];
}

void front_set_odd_tls(Front *f, TroubleCertificate c, SSL_CTX *tls) {
        SSL_CTX_free(f->odd_tls[c]);
        f->odd_tls[c] = tls;
}

static bool is_of(const Conn *c, const char *device) {
        if (c->listener->door != FRONT_DOOR_MQTT)
                return false;
        return !device || (c->client_id && trouble_names_client(device, c->client_id));
}

size_t front_cut(Front *f, const char *device, bool reset) {
        size_t n = 0;

        for (Conn *c = f->conns, *next; c; c = next) {
                next = c->next;
                if (!is_of(c, device))
                        continue;
                hub_counters_add(f->counters, c->client_id, HUB_COUNTER_CUT, 1);
                conn_kill(c, reset);
                n++;
        }
        return n;
}

size_t front_connections(const Front *f, const char *device) {
        size_t n = 0;

        for (const Conn *c = f->conns; c; c = c->next)
                n += c->said_hello && is_of(c, device);
        return n;
}

void front_stop(Front *f) {
        f->stop = true;
}

static void accept_all(Front *f, Listener *l) {
        for (;;) {
                int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0) {
                        (void) conn_new(l, f, fd); /* that client is closed, the others go on */
                        continue;
                }
                if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                        /* Out of descriptors: wait until a connection ends, instead of spinning. */
                        for (Listener *i = f->listeners; i; i = i->next)
                                (void) epoll_ctl(f->epoll_fd, EPOLL_CTL_DEL, i->fd, NULL);
                        f->accepting = false;
                }
                return;
        }
}

static void call_other(Other *o) {
        if (o->fd >= 0)
                o->on_readable(o->userdata);
}

static void on_event(Front *f, const struct epoll_event *e) {
        Watch *w = e->data.ptr;
        bool readable = e->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
        bool writable = e->events & (EPOLLOUT | EPOLLHUP | EPOLLERR);
        Conn *c = w->owner;

        switch (w->kind) {
        case WATCH_LISTENER: accept_all(f, w->owner); return;
        case WATCH_OTHER: call_other(w->owner); return;
        case WATCH_CLIENT:
                if (e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) && conn_is_silent(c)) {
                        /* Gone, and nobody will be told otherwise; else it stayed as long as the
                         * silence. */
                        conn_kill(c, /* reset= */ false);
                        return;
                }
                c->client_readable = c->client_readable || readable;
                c->client_writable = c->client_writable || writable;
                break;
        case WATCH_BACKEND:
                c->backend_readable = c->backend_readable || readable;
                c->backend_writable = c->backend_writable || writable;
                break;
        }
        conn_turn(c);
}

/* Whether some connection still owes its first packet; those that owe it for too long are closed.
 */
static bool check_hellos(Front *f, usec_t now) {
        bool any = false;

        for (Conn *c = f->conns, *next; c; c = next) {
                next = c->next;
                if (c->state == CONN_OPEN || conn_is_silent(c))
                        continue;
                if (c->hello_until_usec <= now)
                        conn_kill(c, /* reset= */ false);
                else
                        any = true;
        }
        return any;
}

/* What happens by time: trouble that ends, PUBACKs that are due. Returns when to look again. */
static usec_t run_timers(Front *f, usec_t now) {
        usec_t next_end = troubles_expire(&f->troubles, now);

        if (f->troubles_seen != f->troubles.serial) {
                f->troubles_seen = f->troubles.serial;
                for (Conn *c = f->conns, *next; c; c = next) {
                        next = c->next;
                        conn_review(c, now);
                }
        }
        if (f->next_due_usec <= now) {
                f->next_due_usec = USEC_INFINITY; /* each that still waits says when */
                for (Conn *c = f->conns, *next; c; c = next) {
                        next = c->next;
                        if (c->filter.n_held > 0)
                                conn_turn(c);
                }
        }
        return MIN(next_end, f->next_due_usec);
}

static int wait_msec(usec_t now, usec_t until) {
        if (until == USEC_INFINITY)
                return -1;
        return (int) MIN((usec_sub(until, now) + USEC_PER_MSEC - 1) / USEC_PER_MSEC,
                         (usec_t) WAIT_MSEC_MAX);
}

static void turn_ready(Front *f) {
        Conn *ready = f->ready;

        f->ready = NULL;
        while (ready) {
                Conn *c = ready;

                ready = c->next_ready;
                c->ready = false;
                conn_turn(c);
        }
}

int front_run(Front *f) {
        struct epoll_event events[EVENTS_MAX];
        usec_t hello_check_usec = USEC_INFINITY, timers_usec = USEC_INFINITY;

        while (!f->stop) {
                usec_t now = now_usec(CLOCK_MONOTONIC);
                int n;

                n = epoll_wait(f->epoll_fd, events, EVENTS_MAX,
                               f->ready ? 0 : wait_msec(now, MIN(hello_check_usec, timers_usec)));
                if (n < 0 && errno != EINTR)
                        return -errno;
                for (int i = 0; i < n; i++)
                        on_event(f, events + i);
                turn_ready(f);

                now = now_usec(CLOCK_MONOTONIC);
                timers_usec = run_timers(f, now);
                if (hello_check_usec == USEC_INFINITY)
                        hello_check_usec = now + HELLO_CHECK_MSEC * USEC_PER_MSEC;
                else if (hello_check_usec <= now)
                        hello_check_usec = check_hellos(f, now) ?
                                                           now + HELLO_CHECK_MSEC * USEC_PER_MSEC :
                                                           USEC_INFINITY;
                if (f->after_turn)
                        f->after_turn(f->after_turn_userdata);
                bury_dead(f);
                free_unwatched(f);
        }
        return 0;
}
