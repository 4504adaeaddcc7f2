#include "daemon/ipc-server.h"

#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <systemd/sd-daemon.h>

#include "lib/fd-util.h"
#include "daemon/ipc-server-private.h"

#define ACCEPTS_PER_TURN 16U
#define TRIM_BYTES_MIN (1024U * 1024U)
#define ACCEPT_RETRY_USEC USEC_PER_SEC
#define USERS_GONE_MAX 256U /* remembered because they sent much just before */
#define RATE_ACCURACY_USEC (5 * USEC_PER_MSEC)
/* "devices/" + 128 + "/modules/" + 128 + "/messages/events/": docs/hub-limits.md, "Topics" */
#define TOPIC_PREFIX_BYTES_MAX (8U + 128U + 9U + 128U + 17U)

static int on_run(sd_event_source *source, void *userdata);
static int on_trim(sd_event_source *source, void *userdata);

static int add_deferred(IpcServer *s, int64_t priority, sd_event_handler_t handler,
                        sd_event_source **ret) {
        int r;

        r = sd_event_add_defer(s->event, ret, handler, s);
        if (r < 0)
                return r;
        r = sd_event_source_set_priority(*ret, priority);
        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

int ipc_server_new(sd_event *event, const IpcServerOptions *options, Outbox *outbox, Uplink *uplink,
                   IpcServer **ret) {
        _cleanup_(ipc_server_freep) IpcServer *s = NULL;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (IpcServer){
                .event = sd_event_ref(event),
                .options = *options,
                .outbox = outbox,
                .uplink = uplink,
                .topic_prefix_size = TOPIC_PREFIX_BYTES_MAX,
                .client_rate = { .burst = 5, .interval_sec = 60 },
                .accept_rate = { .burst = 1, .interval_sec = 60 },
        };
        s->run_queue_end = &s->run_queue;
        s->options.socket = s->socket = options->socket ? strdup(options->socket) : NULL;
        s->options.socket_group = s->socket_group =
                        options->socket_group ? strdup(options->socket_group) : NULL;
        s->read_buffer = malloc(IPC_READ_BYTES);
        if ((options->socket && !s->socket) || (options->socket_group && !s->socket_group) ||
            !s->read_buffer)
                return -ENOMEM;

        r = add_deferred(s, SD_EVENT_PRIORITY_NORMAL, on_run, &s->run);
        if (r < 0)
                return r;
        r = add_deferred(s, SD_EVENT_PRIORITY_IDLE, on_trim, &s->trim);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(s);
        return 0;
}

static void user_forget(IpcServer *s, IpcUser *u) {
        for (IpcUser **p = &s->users; *p; p = &(*p)->next)
                if (*p == u) {
                        *p = u->next;
                        free(u);
                        return;
                }
}

/* A new connection must not bring new tokens, so whoever used some up is remembered; but not more than so many. */
static void forget_idle_users(IpcServer *s, usec_t now) {
        size_t n = 0;

        for (IpcUser *u = s->users, *next; u; u = next) {
                next = u->next;
                if (u->n_connections > 0)
                        continue;
                if (token_bucket_full(&u->messages, now) || ++n > USERS_GONE_MAX)
                        user_forget(s, u);
        }
}

static void close_listener(sd_event_source *source) {
        int fd = sd_event_source_get_io_fd(source);

        sd_event_source_disable_unref(source);
        (void) safe_close(fd);
}

IpcServer *ipc_server_free(IpcServer *s) {
        if (!s)
                return NULL;
        /* The name first: a daemon that follows takes it for its own as soon as nobody listens. */
        if (s->bound)
                (void) unlink(s->socket); /* whoever finds it refuses the connection anyhow */
        for (size_t i = 0; i < s->n_listeners; i++)
                close_listener(s->listeners[i]);
        free(s->listeners);
        for (IpcConnection *c = s->connections; c; c = c->next)
                ipc_connection_write(c); /* what has been decided in the last turn is told as far as
                                            a socket takes it */
        while (s->connections)
                (void) ipc_connection_free(s->connections);
        while (s->users)
                user_forget(s, s->users);
        while (s->subscriptions.heads[IPC_WAIT_ORPHAN]) {
                IpcCall *call = s->subscriptions.heads[IPC_WAIT_ORPHAN];

                ipc_subscription_remove(s, call);
                call->server = NULL; /* the outbox frees it with its callback */
        }
        sd_event_source_disable_unref(s->accept_timer);
        sd_event_source_disable_unref(s->rate_timer);
        sd_event_source_disable_unref(s->run);
        sd_event_source_disable_unref(s->trim);
        sd_event_unref(s->event);
        free(s->read_buffer);
        free(s->socket);
        free(s->socket_group);
        free(s);
        return NULL;
}

/* Users and budgets. */

static IpcUser *user_get(IpcServer *s, uid_t uid) {
        usec_t now = now_usec(CLOCK_BOOTTIME);
        IpcUser *u;

        for (u = s->users; u; u = u->next)
                if (u->uid == uid)
                        return u;
        forget_idle_users(s, now);
        u = malloc(sizeof(*u));
        if (!u)
                return NULL;
        *u = (IpcUser){ .uid = uid, .next = s->users };
        token_bucket_init(&u->messages, s->options.user_messages_per_sec,
                          MAX(s->options.user_messages_burst, (uint64_t) 1), now);
        s->users = u;
        return u;
}

static void user_release(IpcServer *s, IpcUser *u) {
        if (u->n_connections == 0 && token_bucket_full(&u->messages, now_usec(CLOCK_BOOTTIME)))
                user_forget(s, u);
}

/* The connection that can best be done without, of one user (NULL: of all): an incomplete one
 * before an idle one, of these the one that got or took bytes longest ago; only those at least this
 * idle. */
static IpcConnection *find_victim(IpcServer *s, const IpcUser *u, const IpcConnection *except,
                                  unsigned idleness_min) {
        IpcConnection *victim = NULL;
        unsigned victim_idleness = idleness_min;

        for (IpcConnection *c = s->connections; c; c = c->next) {
                unsigned idleness = ipc_connection_idleness(c);

                if ((u && c->user != u) || c == except || c->running || idleness < victim_idleness)
                        continue;
                if (!victim || idleness > victim_idleness || c->progress < victim->progress) {
                        victim = c;
                        victim_idleness = idleness;
                }
        }
        return victim;
}

/* The connection of a user that holds most bytes which are not on their way to the disk, if that is
 * much. */
static IpcConnection *find_hog(IpcServer *s, const IpcUser *u, const IpcConnection *except) {
        uint64_t most = IPC_READ_BYTES / 2;
        IpcConnection *hog = NULL;

        for (IpcConnection *c = s->connections; c; c = c->next)
                if (c->user == u && c != except && !c->running &&
                    c->charged - c->append_bytes > most) {
                        most = c->charged - c->append_bytes;
                        hog = c;
                }
        return hog;
}

static void log_client_limit(IpcServer *s, uid_t uid, const char *what) {
        uint64_t n_suppressed;
        char field[64], more[64] = "";

        if (!log_rate_pass(&s->client_rate, &n_suppressed))
                return;
        if (n_suppressed > 0)
                (void) snprintf(more, sizeof(more), " (%" PRIu64 " more since the last such line)",
                                n_suppressed);
        (void) snprintf(field, sizeof(field), "IOTHUBD_PEER_UID=%lu", (unsigned long) uid);
        log_event(LOG_WARNING, MSG_CLIENT_LIMIT, (const char *const[]){ field, NULL },
                  "Local user %lu reached a limit, %s%s", (unsigned long) uid, what,
                  more);
}

static void evict(IpcServer *s, IpcConnection *c) {
        log_client_limit(s, c->uid, "closing its oldest incomplete or idle connection");
        (void) ipc_connection_free(c);
}

static IpcUser *largest_user(IpcServer *s) {
        IpcUser *largest = s->users;

        for (IpcUser *u = s->users; u; u = u->next)
                if (u->bytes > largest->bytes)
                        largest = u;
        return largest;
}

bool ipc_server_has_budget(IpcServer *s, IpcConnection *c, size_t n) {
        for (;;) {
                bool user_over = c->user->bytes + n > s->options.user_bytes_max,
                     all_over = s->bytes + n > s->options.buffer_bytes_max;
                uint64_t bytes = user_over ? c->user->bytes : s->bytes,
                         append_bytes = user_over ? c->user->append_bytes : s->append_bytes;
                const IpcUser *u = user_over ? c->user : largest_user(s);
                IpcConnection *victim;

                if (!user_over && !all_over)
                        return true;
                if (append_bytes >= bytes / 2)
                        return false; /* most of it is on its way to the disk and will be free soon
                                       */
                victim = find_victim(s, u, c, 2);
                if (!victim)
                        victim = find_hog(s, u, c);
                if (!victim)
                        victim = find_victim(s, u, c, 1); /* many that keep a little each */
                if (!victim)
                        return false;
                evict(s, victim);
        }
}

bool ipc_server_is_over_budget(IpcServer *s, const IpcConnection *c) {
        return c->user->bytes > s->options.user_bytes_max ||
               (s->bytes > s->options.buffer_bytes_max && c->user == largest_user(s));
}

void ipc_server_unlink_connection(IpcServer *s, IpcConnection *c) {
        for (IpcConnection **p = &s->run_queue; c->scheduled && *p; p = &(*p)->run_next)
                if (*p == c) {
                        *p = c->run_next;
                        if (!*p)
                                s->run_queue_end = p;
                        break;
                }
        ipc_server_remove_waiting(s, c);

        *(c->prev ? &c->prev->next : &s->connections) = c->next;
        *(c->next ? &c->next->prev : &s->connections_tail) = c->prev;
        s->n_connections--;
        if (c->charged > IPC_READ_BYTES / 4)
                ipc_server_trim_later(s);
        s->bytes -= c->charged;
        s->append_bytes -= c->append_bytes;
        c->user->bytes -= c->charged;
        c->user->append_bytes -= c->append_bytes;
        c->user->n_connections--;
        user_release(s, c->user);
        ipc_server_wake(s);
}

static void take_tokens(IpcServer *s, IpcUser *u, uint64_t n) {
        usec_t now = now_usec(CLOCK_BOOTTIME);

        if (token_bucket_full(&u->messages, now))
                u->limit_told = false;
        token_bucket_take(&u->messages, n, now);
        if (token_bucket_ready(&u->messages, now) || u->limit_told)
                return;
        log_client_limit(s, u->uid, "its further messages wait (ipc.user_messages_per_sec)");
        u->limit_told = true;
}

void ipc_server_append_started(IpcServer *s, IpcCall *call, uint64_t n_tokens) {
        IpcConnection *c = call->connection;

        if (s->options.user_messages_per_sec > 0)
                take_tokens(s, c->user, n_tokens);

        call->in_outbox = true;
        c->append_bytes += call->frame_size;
        c->user->append_bytes += call->frame_size;
        s->append_bytes += call->frame_size;
        s->n_appends++;
}

void ipc_server_append_done(IpcCall *call) {
        IpcConnection *c = call->connection;
        IpcServer *s = call->server;

        call->in_outbox = false;
        if (c) {
                c->append_bytes -= call->frame_size;
                c->user->append_bytes -= call->frame_size;
                s->append_bytes -= call->frame_size;
        }
        if (s) {
                s->n_appends--;
                s->outbox_has_room = true;
                ipc_server_wake(s);
                ipc_server_state_changed(s);
        }
}

bool ipc_server_may_send(IpcServer *s, const IpcConnection *c) {
        return s->options.user_messages_per_sec == 0 || s->shutting_down ||
               token_bucket_ready(&c->user->messages, now_usec(CLOCK_BOOTTIME));
}

static int on_rate_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        ipc_server_wake(userdata);
        return 0;
}

/* Wakes those who wait for tokens when the first of them has some. */
static void set_rate_timer(IpcServer *s) {
        usec_t at = USEC_INFINITY;
        int r = 0;

        if (s->options.user_messages_per_sec == 0)
                return;
        for (IpcConnection *c = s->waiting; c; c = c->wait_next)
                if (c->waits_for == IPC_HOLD_RATE)
                        at = MIN(at, token_bucket_ready_at(&c->user->messages));
        if (at == USEC_INFINITY)
                return;
        if (!s->rate_timer)
                r = sd_event_add_time(s->event, &s->rate_timer, CLOCK_BOOTTIME, at,
                                      RATE_ACCURACY_USEC, on_rate_timer, s);
        else
                r = sd_event_source_set_time(s->rate_timer, at);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->rate_timer, SD_EVENT_ONESHOT);
        if (r < 0) {
                log_error_errno(r, "Cannot wait for the rate of a local user, giving it up: %m");
                s->options.user_messages_per_sec = 0;
                ipc_server_wake(s);
        }
}

/* Turns. */

void ipc_server_schedule(IpcServer *s, IpcConnection *c) {
        if (c) {
                c->run_next = NULL;
                *s->run_queue_end = c;
                s->run_queue_end = &c->run_next;
        }
        (void) sd_event_source_set_enabled(
                        s->run, SD_EVENT_ONESHOT); /* fails only for a source that is gone */
}

void ipc_server_add_waiting(IpcServer *s, IpcConnection *c) {
        if (c->waiting)
                return;
        c->waiting = true;
        c->wait_next = NULL;
        if (c->waits_for == IPC_HOLD_RATE)
                ipc_server_schedule(s, NULL); /* to set the timer */
        c->wait_prev = s->waiting_tail;
        *(c->wait_prev ? &c->wait_prev->wait_next : &s->waiting) = c;
        s->waiting_tail = c;
        s->n_waiting++;
}

void ipc_server_remove_waiting(IpcServer *s, IpcConnection *c) {
        if (!c->waiting)
                return;
        if (s->wake_next == c)
                s->wake_next = c->wait_next;
        *(c->wait_prev ? &c->wait_prev->wait_next : &s->waiting) = c->wait_next;
        *(c->wait_next ? &c->wait_next->wait_prev : &s->waiting_tail) = c->wait_prev;
        c->wait_prev = c->wait_next = NULL;
        c->waiting = false;
        s->n_waiting--;
}

void ipc_server_wake(IpcServer *s) {
        if (!s->waiting)
                return;
        s->wake = true;
        ipc_server_schedule(s, NULL);
}

static void run_queue(IpcServer *s) {
        IpcConnection **end = s->run_queue_end;

        while (s->run_queue) {
                IpcConnection *c = s->run_queue;
                bool last = &c->run_next == end;

                s->run_queue = c->run_next;
                if (!s->run_queue)
                        s->run_queue_end = &s->run_queue;
                c->scheduled = false;
                ipc_connection_run(c);
                if (last)
                        return; /* what was added meanwhile has the next turn, so that sockets get
                                   theirs */
        }
}

static size_t count_users(const IpcServer *s) {
        size_t n = 0;

        for (const IpcUser *u = s->users; u; u = u->next)
                n += u->n_connections > 0;
        return n;
}

/* It got no room although it was first: it stays so. */
static void wait_first_again(IpcServer *s, IpcConnection *c) {
        ipc_server_remove_waiting(s, c);
        c->waiting = true;
        c->wait_next = s->waiting;
        *(c->wait_next ? &c->wait_next->wait_prev : &s->waiting_tail) = c;
        s->waiting = c;
        s->n_waiting++;
}

/* In the order in which they began to wait, each at most once. What is not run keeps its place,
 * what must wait again goes to the end. */
static void run_waiting_of(IpcServer *s, size_t n_users, bool above_share) {
        size_t n = s->n_waiting;

        for (IpcConnection *c = s->waiting; c && n > 0; c = s->wake_next, n--) {
                size_t n_appends = s->n_appends;

                s->wake_next = c->wait_next; /* moved on when that one stops waiting */
                if ((c->waits_for == IPC_HOLD_OUTBOX && s->outbox_busy) ||
                    (c->waits_for == IPC_HOLD_RATE && !ipc_server_may_send(s, c)) ||
                    (c->user->append_bytes * n_users > s->append_bytes) != above_share)
                        continue;
                ipc_connection_run(c);
                if (s->outbox_busy && s->n_appends == n_appends && s->waiting_tail == c &&
                    c->waits_for == IPC_HOLD_OUTBOX)
                        wait_first_again(s, c);
        }
        s->wake_next = NULL;
}

/* What room there is goes first to users who have less than their share of what is on its way to
 * the disk: else one who always has more to send, on many connections, would leave none to the
 * others. Until somebody finds no room again (outbox_busy), which also keeps those from pushing in
 * who did not wait. */
static void run_waiting(IpcServer *s) {
        size_t n_users = count_users(s);

        s->wake = false;
        if (s->outbox_has_room)
                s->outbox_busy = s->outbox_has_room = false;
        run_waiting_of(s, n_users, /* above_share= */ false);
        run_waiting_of(s, n_users, /* above_share= */ true);
}

static int on_run(sd_event_source *source, void *userdata) {
        IpcServer *s = userdata;

        ipc_subscriptions_run(s);
        run_queue(s);
        if (s->wake)
                run_waiting(s);
        if (s->run_queue || s->wake)
                ipc_server_schedule(s, NULL);
        else
                set_rate_timer(s);
        return 0;
}

/* A parsed call takes up to 300 times its text ("{}" 750 bytes), and glibc keeps what lies below
 * the top of its heap. Nothing else is to be done now, so there is time to give it back, if it is
 * worth the page faults later. */
static int on_trim(sd_event_source *source, void *userdata) {
        if (mallinfo2().fordblks > TRIM_BYTES_MIN)
                (void) malloc_trim(0); /* tells whether it found something; either is fine */
        return 0;
}

void ipc_server_trim_later(IpcServer *s) {
        (void) sd_event_source_set_enabled(
                        s->trim, SD_EVENT_ONESHOT); /* fails only for a source that is gone */
}

/* Accepting. */

static void refuse(int fd, const char *limit) {
        char text[256];
        int n = snprintf(text, sizeof(text),
                         "{\"error\":\"io.iothubd.LimitExceeded\",\"parameters\":{\"limit\":\"%s\","
                         "\"reason\":\"too many connections, all of them busy\"}}",
                         limit);

        (void) send(fd, text, (size_t) n + 1,
                    MSG_DONTWAIT | MSG_NOSIGNAL); /* a courtesy; the end of file tells it, too */
}

/* Whether there is room for one more of that user, after closing an idle one where needed. */
static bool make_room(IpcServer *s, IpcUser *u, int fd) {
        bool user_full = u->n_connections > s->options.connections_per_user_max,
             all_full = s->n_connections >= s->options.connections_max;
        IpcConnection *victim;

        if (!user_full && !all_full)
                return true;
        victim = find_victim(s, u, NULL, 1);
        if (!victim && !user_full)
                victim = find_victim(s, NULL, NULL,
                                     2); /* anybody's half a frame, but nobody's idle connection */
        if (victim) {
                evict(s, victim);
                return true;
        }
        log_client_limit(s, u->uid, "refusing a connection");
        refuse(fd, user_full ? "ipc.connections_per_user_max" : "ipc.connections_max");
        return false;
}

int ipc_server_add_connection(IpcServer *s, int fd_consumed) {
        _cleanup_close_ int fd = fd_consumed;
        struct ucred peer;
        socklen_t n = sizeof(peer);
        IpcUser *u;
        int r = -EUSERS;

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
                return -errno;
        u = user_get(s, peer.uid);
        if (!u)
                return -ENOMEM;
        u->n_connections++; /* this one; so the user stays while others of its connections are
                               closed */
        if (make_room(s, u, fd))
                r = ipc_connection_new(s, u, TAKE_FD(fd));
        if (r < 0) {
                u->n_connections--;
                user_release(s, u);
        }
        return r;
}

static int on_accept_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        IpcServer *s = userdata;

        for (size_t i = 0; i < s->n_listeners; i++)
                (void) sd_event_source_set_enabled(s->listeners[i], SD_EVENT_ON);
        return 0;
}

/* Descriptors or memory ran out: without a pause the loop would spin on a socket that stays
 * readable. */
static void pause_accept(IpcServer *s, int error) {
        int r;

        if (log_rate_pass(&s->accept_rate, NULL)) /* it is tried again each second */
                log_warning_errno(error, "Cannot accept local connections for the moment: %m");
        for (size_t i = 0; i < s->n_listeners; i++)
                (void) sd_event_source_set_enabled(s->listeners[i], SD_EVENT_OFF);
        s->accept_timer = sd_event_source_disable_unref(s->accept_timer);
        r = sd_event_add_time_relative(s->event, &s->accept_timer, CLOCK_MONOTONIC,
                                       ACCEPT_RETRY_USEC, 0, on_accept_retry, s);
        if (r < 0)
                log_error_errno(r, "Cannot wait for descriptors, accepting no more: %m");
}

static bool is_transient(int error) {
        return error == EINTR || error == ECONNABORTED || error == EPROTO || error == EPERM;
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        IpcServer *s = userdata;

        for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
                int c = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (c < 0 && errno == EAGAIN)
                        return 0;
                if (c < 0 && is_transient(errno))
                        continue;
                if (c < 0) {
                        pause_accept(s, -errno);
                        return 0;
                }
                (void) ipc_server_add_connection(
                                s, c); /* a refusal was logged; else the client sees the end */
        }
        return 0;
}

/* Listening. */

static int add_listener(IpcServer *s, int fd_consumed) {
        _cleanup_close_ int fd = fd_consumed;
        sd_event_source **listeners, *source;
        int r;

        listeners = reallocarray(s->listeners, s->n_listeners + 1, sizeof(*listeners));
        if (!listeners)
                return -ENOMEM;
        s->listeners = listeners;
        r = sd_event_add_io(s->event, &source, fd, EPOLLIN, on_accept, s);
        if (r < 0)
                return r;
        s->listeners[s->n_listeners++] = source;
        (void) TAKE_FD(fd);
        return 0;
}

static int set_nonblocking(int fd) {
        int flags = fcntl(fd, F_GETFL);

        return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static int listen_handed_over(IpcServer *s, int n) {
        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i, r;

                r = sd_is_socket_unix(fd, SOCK_STREAM, /* listening= */ 1, NULL, 0);
                if (r <= 0)
                        return r < 0 ? r : -ENOTSOCK;
                r = set_nonblocking(fd);
                if (r < 0)
                        return r;
                r = add_listener(s, fd);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int socket_address(const char *path, struct sockaddr_un *ret, socklen_t *ret_size) {
        size_t n = strlen(path);

        if (n >= sizeof(ret->sun_path))
                return -ENAMETOOLONG;
        *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
        memcpy(ret->sun_path, path, n + 1);
        *ret_size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + n + 1);
        return 0;
}

/* A socket that nobody listens on is left from a crash and in nobody's way; another file is
 * somebody's. */
static int check_not_in_use(const char *path) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address;
        socklen_t size;
        struct stat st;
        int r;

        r = socket_address(path, &address, &size);
        if (r < 0)
                return r;
        if (lstat(path, &st) >= 0 && !S_ISSOCK(st.st_mode))
                return -EEXIST;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *) &address, size) >= 0 || errno == EAGAIN)
                return -EADDRINUSE;
        return 0;
}

static int set_access(const char *path, const char *group, mode_t mode) {
        gid_t gid = (gid_t) -1;

        if (group) {
                const struct group *g;

                errno = 0;
                g = getgrnam(group);
                if (!g)
                        return errno > 0 ? -errno : -ESRCH;
                gid = g->gr_gid;
        }
        if (chmod(path, mode) < 0 || (group && chown(path, (uid_t) -1, gid) < 0))
                return -errno;
        return 0;
}

static int bind_as(IpcServer *s, int fd, const char *temporary) {
        struct sockaddr_un address;
        socklen_t size;
        int r;

        r = socket_address(temporary, &address, &size);
        if (r < 0)
                return r;
        (void) unlink(temporary); /* of an earlier process with our id */
        if (bind(fd, (const struct sockaddr *) &address, size) < 0)
                return -errno;
        r = set_access(temporary, s->options.socket_group, s->options.socket_mode);
        if (r >= 0 && listen(fd, SOMAXCONN) < 0)
                r = -errno;
        if (r >= 0 && rename(temporary, s->socket) < 0)
                r = -errno;
        if (r < 0)
                (void) unlink(temporary); /* the first error is the one to tell */
        return r;
}

static int listen_path(IpcServer *s) {
        _cleanup_free_ char *temporary = NULL;
        _cleanup_close_ int fd = -EBADF;
        int r;

        r = check_not_in_use(s->socket);
        if (r < 0)
                return r;
        if (asprintf(&temporary, "%s.%lx", s->socket, (unsigned long) getpid()) < 0)
                return -ENOMEM;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        r = bind_as(s, fd, temporary);
        if (r < 0)
                return r;
        s->bound = true;
        return add_listener(s, TAKE_FD(fd));
}

int ipc_server_listen(IpcServer *s) {
        /* The environment stays as it is: there are threads already, and nothing is executed that
         * could inherit it. */
        int n = sd_listen_fds(/* unset_environment= */ 0);

        if (n < 0)
                return n;
        return n > 0 ? listen_handed_over(s, n) : listen_path(s);
}

/* News from the other parts. */

void ipc_server_set_topic_prefix_size(IpcServer *s, size_t n) {
        s->topic_prefix_size = n;
}

void ipc_server_settled(IpcServer *s, const OutboxSettled *settled) {
        ipc_subscriptions_settled(s, settled);
}

void ipc_server_state_changed(IpcServer *s) {
        if (ipc_subscriptions_pending(s))
                ipc_server_schedule(s, NULL);
}

void ipc_server_shut_down(IpcServer *s) {
        s->shutting_down = true;
        ipc_server_wake(s);
}
