#include "emulator/hub-front.h"

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "emulator/mqtt-connect.h"
#include "lib/buffer.h"
#include "lib/fd-util.h"
#include "lib/time-util.h"

/* Each connection has two descriptors, both watched edge-triggered for reading and writing from the
 * start, so no epoll_ctl() is needed later. An event only says that a direction may move again;
 * what can move is moved until nothing can, or until the connection had its turn. */

#define PIPE_BYTES (128U * 1024U)              /* one direction of one connection */
#define TURNS_MAX 8U                           /* rounds before the next connection has its turn */
#define HELLO_TIMEOUT_USEC (30 * USEC_PER_SEC) /* from accept to a whole CONNECT */
#define HELLO_CHECK_MSEC 1000
#define EVENTS_MAX 64

typedef struct Watch {
        enum { WATCH_LISTENER, WATCH_CLIENT, WATCH_BACKEND, WATCH_OTHER } kind;
        void *owner;
} Watch;

typedef struct Listener {
        Watch watch;
        FrontDoor door;
        int fd;
        SSL_CTX *tls;
        char *backend;
        struct Listener *next;
} Listener;

typedef struct Other {
        Watch watch;
        void (*on_readable)(void *userdata);
        void *userdata;
        struct Other *next;
} Other;

typedef struct Pipe {
        uint8_t *data; /* PIPE_BYTES */
        size_t from, to;
        bool ended;  /* the source will give no more */
        bool closed; /* the destination takes no more */
} Pipe;

typedef enum ConnState {
        CONN_HANDSHAKE,
        CONN_HELLO, /* gathering the CONNECT */
        CONN_OPEN,
        CONN_DEAD,
} ConnState;

typedef struct Conn {
        Front *front;
        Listener *listener;
        ConnState state;
        Watch client_watch, backend_watch;
        int client_fd, backend_fd;
        SSL *ssl;
        Buffer hello;
        usec_t hello_until_usec; /* monotonic */
        Pipe up, down;
        bool client_readable, client_writable, backend_readable, backend_writable;
        bool ready; /* on the list of those that can go on */
        struct Conn *previous, *next, *next_ready;
} Conn;

struct Front {
        int epoll_fd;
        char *secret;
        bool stop;
        bool accepting;
        Listener *listeners;
        Other *others;
        Conn *conns, *dead, *ready;
};

static int add_to_epoll(Front *f, int fd, uint32_t events, Watch *w) {
        struct epoll_event e = { .events = events, .data.ptr = w };

        return epoll_ctl(f->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

int front_new(const char *secret, Front **ret) {
        _cleanup_(front_freep) Front *f = NULL;

        f = malloc(sizeof(*f));
        if (!f)
                return -ENOMEM;
        *f = (Front) { .epoll_fd = -EBADF, .accepting = true };
        f->secret = strdup(secret);
        if (!f->secret)
                return -ENOMEM;
        f->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (f->epoll_fd < 0)
                return -errno;
        *ret = TAKE_PTR(f);
        return 0;
}

/* Closing a descriptor takes it out of epoll. The memory goes after the turn: events for it may be
 * pending. */
static void conn_kill(Conn *c) {
        Front *f = c->front;

        if (c->state == CONN_DEAD)
                return;
        c->state = CONN_DEAD;
        if (c->ssl) {
                (void) SSL_shutdown(c->ssl); /* a farewell; the peer may be gone */
                SSL_free(c->ssl);
                c->ssl = NULL;
        }
        ERR_clear_error();
        c->client_fd = safe_close(c->client_fd);
        c->backend_fd = safe_close(c->backend_fd);

        if (c->previous)
                c->previous->next = c->next;
        else
                f->conns = c->next;
        if (c->next)
                c->next->previous = c->previous;
        c->previous = NULL;
        c->next = f->dead;
        f->dead = c;
}

static void conn_free(Conn *c) {
        buffer_done(&c->hello);
        free(c->up.data);
        free(c->down.data);
        free(c);
}

static void accept_again(Front *f) {
        if (f->accepting)
                return;
        f->accepting = true;
        for (Listener *l = f->listeners; l; l = l->next)
                /* Without room the next close tries again. */
                (void) add_to_epoll(f, l->fd, EPOLLIN, &l->watch);
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
                conn_kill(f->conns);
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
        *l = (Listener) { .watch = { WATCH_LISTENER, l },
                          .door = door,
                          .fd = fd,
                          .tls = tls,
                          .next = f->listeners };
        l->backend = strdup(backend);
        r = l->backend ? add_to_epoll(f, fd, EPOLLIN, &l->watch) : -ENOMEM;
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
        *o = (Other) { { WATCH_OTHER, o }, on_readable, userdata, f->others };
        r = add_to_epoll(f, fd, EPOLLIN, &o->watch);
        if (r < 0) {
                free(o);
                return r;
        }
        f->others = o;
        return 0;
}

void front_stop(Front *f) {
        f->stop = true;
}

/* TLS calls. All give: > 0 bytes, 0 the peer ended, -EAGAIN, -ECONNRESET. */

static int tls_result(Conn *c, int k) {
        switch (SSL_get_error(c->ssl, k)) {
        case SSL_ERROR_WANT_READ: c->client_readable = false; return -EAGAIN;
        case SSL_ERROR_WANT_WRITE: c->client_writable = false; return -EAGAIN;
        case SSL_ERROR_ZERO_RETURN: return 0;
        default: return -ECONNRESET;
        }
}

static int tls_read(Conn *c, void *data, size_t n) {
        size_t got;
        int k;

        ERR_clear_error();
        k = SSL_read_ex(c->ssl, data, n, &got);
        return k == 1 ? (int) got : tls_result(c, k);
}

static int tls_write(Conn *c, const void *data, size_t n) {
        size_t done;
        int k;

        ERR_clear_error();
        k = SSL_write_ex(c->ssl, data, n, &done);
        return k == 1 ? (int) done : tls_result(c, k);
}

static int connect_backend(Conn *c) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int r;

        if (strlen(c->listener->backend) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, c->listener->backend);

        c->backend_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (c->backend_fd < 0)
                return -errno;
        /* It blocks while the backlog is full, which ends when the broker, who never waits for us,
         * accepts. */
        do
                r = connect(c->backend_fd, (struct sockaddr *) &address, sizeof(address));
        while (r < 0 && errno == EINTR);
        if (r < 0 || fcntl(c->backend_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;

        c->up.data = malloc(PIPE_BYTES);
        c->down.data = malloc(PIPE_BYTES);
        if (!c->up.data || !c->down.data)
                return -ENOMEM;
        c->backend_readable = c->backend_writable = true;
        return add_to_epoll(c->front, c->backend_fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                            &c->backend_watch);
}

static void format_hex(const uint8_t *bytes, size_t n, char *out) {
        for (size_t i = 0; i < n; i++)
                (void) sprintf(out + 2 * i, "%02x", bytes[i]);
}

/* "SECRET SHA1 SHA256 " */
static int format_prefix(Conn *c, char **ret) {
        X509 *certificate = SSL_get0_peer_certificate(c->ssl);
        char sha1[41] = "-", sha256[65] = "-";
        uint8_t digest[EVP_MAX_MD_SIZE];
        unsigned n;

        if (certificate) {
                if (X509_digest(certificate, EVP_sha1(), digest, &n) != 1)
                        return -ENOMEM;
                format_hex(digest, n, sha1);
                if (X509_digest(certificate, EVP_sha256(), digest, &n) != 1)
                        return -ENOMEM;
                format_hex(digest, n, sha256);
        }
        if (asprintf(ret, "%s %s %s ", c->front->secret, sha1, sha256) < 0) {
                *ret = NULL;
                return -ENOMEM;
        }
        return 0;
}

/* Hands the CONNECT over. Later bytes of the client follow it. 1, 0 (not whole yet) or -errno. */
static int pass_hello(Conn *c) {
        _cleanup_(erase_and_freep) char *prefix = NULL;
        _cleanup_(buffer_done) Buffer packet = { 0 };
        size_t taken;
        int r;

        r = format_prefix(c, &prefix);
        if (r < 0)
                return r;
        r = mqtt_connect_prefix_user(c->hello.data, c->hello.size, prefix, &packet, &taken);
        if (r <= 0)
                return r;
        r = connect_backend(c);
        if (r < 0)
                return r;

        /* The broker reads it before anything else can fill its socket: a CONNECT fits the socket's
         * buffer, or it waits for the broker, who never waits for us. */
        r = fcntl(c->backend_fd, F_SETFL, 0) < 0
                            ? -errno
                            : write_all(c->backend_fd, packet.data, packet.size);
        if (r >= 0)
                r = write_all(c->backend_fd, c->hello.data + taken, c->hello.size - taken);
        if (r < 0)
                return r;
        if (fcntl(c->backend_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        buffer_done(&c->hello);
        return 1;
}

/* 1 when open, 0 to wait, -errno to end. */
static int say_hello(Conn *c) {
        uint8_t data[4096];
        int k, r;

        if (c->state == CONN_HANDSHAKE) {
                ERR_clear_error();
                k = SSL_accept(c->ssl);
                if (k != 1) {
                        k = tls_result(c, k);
                        return k == -EAGAIN ? 0 : -ECONNRESET;
                }
                c->state = CONN_HELLO;
        }
        if (c->listener->door == FRONT_DOOR_PLAIN) {
                r = connect_backend(c);
                return r < 0 ? r : 1;
        }
        for (;;) {
                k = tls_read(c, data, sizeof(data));
                if (k == -EAGAIN)
                        return 0;
                if (k <= 0)
                        return -ECONNRESET;
                r = buffer_append(&c->hello, data, (size_t) k);
                if (r >= 0)
                        r = pass_hello(c);
                if (r != 0)
                        return r;
                if (c->hello.size > MQTT_CONNECT_BYTES_MAX + 5)
                        return -EMSGSIZE;
        }
}

static bool pipe_is_empty(const Pipe *p) {
        return p->from == p->to;
}

static void pipe_took(Pipe *p, size_t n) {
        p->from += n;
        if (p->from == p->to)
                p->from = p->to = 0;
}

/* Client to backend. Returns whether anything moved. */
static bool move_up(Conn *c) {
        Pipe *p = &c->up;
        bool moved = false;

        while (!p->ended && c->client_readable && p->to < PIPE_BYTES) {
                int k = tls_read(c, p->data + p->to, PIPE_BYTES - p->to);

                if (k > 0)
                        p->to += (size_t) k;
                else if (k == -EAGAIN)
                        break;
                else {
                        p->ended = true;
                        if (k < 0)
                                c->down.closed = true;
                }
                moved = true;
        }
        if (!pipe_is_empty(p) && c->backend_writable && !p->closed) {
                ssize_t k = send(c->backend_fd, p->data + p->from, p->to - p->from, MSG_NOSIGNAL);

                if (k > 0) {
                        pipe_took(p, (size_t) k);
                        moved = true;
                } else if (errno == EAGAIN)
                        c->backend_writable = false;
                else if (errno == EINTR)
                        moved = true; /* again */
                else
                        p->closed = true; /* what the broker said before it cut still goes down */
        }
        if (p->closed)
                p->from = p->to = 0;
        if (p->ended && pipe_is_empty(p) && !p->closed) {
                (void) shutdown(c->backend_fd, SHUT_WR); /* the backend ends its side in turn */
                p->closed = true;
                moved = true;
        }
        return moved;
}

/* Backend to client. */
static bool move_down(Conn *c) {
        Pipe *p = &c->down;
        bool moved = false;

        if (!p->ended && c->backend_readable && p->to < PIPE_BYTES) {
                ssize_t k = recv(c->backend_fd, p->data + p->to, PIPE_BYTES - p->to, 0);

                if (k > 0)
                        p->to += (size_t) k;
                else if (k < 0 && errno == EAGAIN)
                        c->backend_readable = false;
                else if (k == 0 || errno != EINTR)
                        p->ended = true;
                moved = c->backend_readable;
        }
        if (p->closed)
                p->from = p->to = 0; /* nobody is left to hear it */
        while (!pipe_is_empty(p) && c->client_writable) {
                int k = tls_write(c, p->data + p->from, p->to - p->from);

                if (k == -EAGAIN)
                        break;
                if (k <= 0) {
                        p->closed = true;
                        c->up.ended = true;
                        p->from = p->to = 0;
                } else
                        pipe_took(p, (size_t) k);
                moved = true;
        }
        return moved;
}

static void make_ready(Conn *c) {
        if (c->ready || c->state == CONN_DEAD)
                return;
        c->ready = true;
        c->next_ready = c->front->ready;
        c->front->ready = c;
}

static void conn_turn(Conn *c) {
        int r;

        if (c->state == CONN_DEAD)
                return;
        if (c->state != CONN_OPEN) {
                r = say_hello(c);
                if (r < 0)
                        conn_kill(c);
                if (r <= 0)
                        return;
                c->state = CONN_OPEN;
        }

        for (unsigned i = 0; i < TURNS_MAX; i++) {
                bool moved = move_up(c);

                moved = move_down(c) || moved;
                /* Once the backend has ended and all it said is out, nobody is left to talk to. */
                if (c->down.ended && pipe_is_empty(&c->down)) {
                        conn_kill(c);
                        return;
                }
                if (!moved)
                        return;
        }
        make_ready(c);
}

static int conn_new(Listener *l, Front *f, int fd) {
        Conn *c;
        int one = 1;

        c = malloc(sizeof(*c));
        if (!c) {
                safe_close(fd);
                return -ENOMEM;
        }
        *c = (Conn) { .front = f,
                      .listener = l,
                      .client_fd = fd,
                      .backend_fd = -EBADF,
                      .client_readable = true,
                      .client_writable = true,
                      .hello_until_usec = now_usec(CLOCK_MONOTONIC) + HELLO_TIMEOUT_USEC,
                      .next = f->conns };
        c->client_watch = (Watch) { WATCH_CLIENT, c };
        c->backend_watch = (Watch) { WATCH_BACKEND, c };
        if (f->conns)
                f->conns->previous = c;
        f->conns = c;

        /* Slower without, not wrong. */
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        c->ssl = SSL_new(l->tls);
        if (!c->ssl || SSL_set_fd(c->ssl, fd) != 1 ||
            add_to_epoll(f, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->client_watch) < 0) {
                conn_kill(c);
                return -ENOMEM;
        }
        return 0;
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

static void on_event(Front *f, const struct epoll_event *e) {
        Watch *w = e->data.ptr;
        bool readable = e->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);
        bool writable = e->events & (EPOLLOUT | EPOLLHUP | EPOLLERR);
        Conn *c = w->owner;

        switch (w->kind) {
        case WATCH_LISTENER: accept_all(f, w->owner); return;
        case WATCH_OTHER: ((Other *) w->owner)->on_readable(((Other *) w->owner)->userdata); return;
        case WATCH_CLIENT:
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
static bool check_hellos(Front *f) {
        usec_t now = now_usec(CLOCK_MONOTONIC);
        bool any = false;

        for (Conn *c = f->conns, *next; c; c = next) {
                next = c->next;
                if (c->state == CONN_OPEN)
                        continue;
                if (c->hello_until_usec <= now)
                        conn_kill(c);
                else
                        any = true;
        }
        return any;
}

int front_run(Front *f) {
        struct epoll_event events[EVENTS_MAX];
        usec_t checked_usec = 0;
        bool hellos = false;

        while (!f->stop) {
                Conn *ready;
                int n;

                n = epoll_wait(f->epoll_fd, events, EVENTS_MAX,
                               f->ready ? 0
                               : hellos ? HELLO_CHECK_MSEC
                                        : -1);
                if (n < 0 && errno != EINTR)
                        return -errno;
                for (int i = 0; i < n; i++)
                        on_event(f, events + i);

                ready = f->ready;
                f->ready = NULL;
                while (ready) {
                        Conn *c = ready;

                        ready = c->next_ready;
                        c->ready = false;
                        conn_turn(c);
                }
                if (now_usec(CLOCK_MONOTONIC) - checked_usec >= HELLO_CHECK_MSEC * USEC_PER_MSEC) {
                        hellos = check_hellos(f);
                        checked_usec = now_usec(CLOCK_MONOTONIC);
                } else
                        hellos = true; /* look again before sleeping for good */
                bury_dead(f);
        }
        return 0;
}

static int accept_any(int ok, X509_STORE_CTX *store) {
        return 1; /* the thumbprint decides, at CONNECT */
}

int front_tls_new(const char *certificate_file, const char *key_file, bool ask_certificate,
                  SSL_CTX **ret) {
        SSL_CTX *tls;

        tls = SSL_CTX_new(TLS_server_method());
        if (!tls)
                return -ENOMEM;
        if (SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION) != 1 ||
            SSL_CTX_use_certificate_chain_file(tls, certificate_file) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls, key_file, SSL_FILETYPE_PEM) != 1) {
                SSL_CTX_free(tls);
                return -EINVAL;
        }
        SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_read_ahead(tls, 1); /* whole records in one read */
        /* No resumption: each connection proves its certificate anew. */
        SSL_CTX_set_options(tls, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION |
                                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
        (void) SSL_CTX_set_num_tickets(tls, 0); /* cannot fail */
        if (ask_certificate)
                SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, accept_any);

        *ret = tls;
        return 0;
}
