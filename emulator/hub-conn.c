#include "emulator/hub-front-private.h"

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <openssl/err.h>

#include "emulator/authorities.h"
#include "emulator/hub-c2d.h"
#include "emulator/hub-report.h"
#include "emulator/mqtt-connect.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/string-util.h"

/* One connection has two descriptors, both watched edge-triggered for reading and writing from the
 * start, so no epoll_ctl() is needed later. An event only says that a direction may move again;
 * what can move is moved until nothing can, or until the connection had its turn. */

#define PIPE_BYTES (128U * 1024U)              /* one direction of one connection */
#define TURNS_MAX 8U                           /* rounds before the next connection has its turn */
#define HELLO_TIMEOUT_USEC (30 * USEC_PER_SEC) /* from accept to a whole CONNECT */
#define HELLO_READ_BYTES 4096U

static bool speaks_mqtt(const Conn *c) {
        return c->listener->door == FRONT_DOOR_MQTT;
}

static void count(const Conn *c, HubCounter counter) {
        if (speaks_mqtt(c))
                hub_counters_add(c->front->counters, c->client_id, counter, 1);
}

static void tell_cut(const Conn *c, const char *what, const char *cause) {
        /* A log that cannot be written has nobody to tell. */
        (void) fprintf(stderr, "iothub-emulator: %s %s on request: %s\n",
                       c->client_id ? c->client_id : "(no valid client id)", what, cause);
}

/* Closing a descriptor takes it out of epoll. */
void conn_kill(Conn *c, bool reset) {
        static const struct linger none = { .l_onoff = 1 };
        Front *f = c->front;

        if (c->state == CONN_DEAD)
                return;
        c->state = CONN_DEAD;
        if (c->said_hello)
                count(c, HUB_COUNTER_ENDED);
        if (c->ssl) {
                if (reset)
                        /* Else it ends by a FIN. */
                        (void) setsockopt(c->client_fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
                else
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

void conn_free(Conn *c) {
        mqtt_filter_done(&c->filter);
        free(c->client_id);
        buffer_done(&c->hello);
        free(c->up.data);
        free(c->down.data);
        free(c);
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
        return front_add_to_epoll(c->front, c->backend_fd,
                                  EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->backend_watch);
}

/* As at FRONT_DOOR_MQTT. */
static int format_prefix(Conn *c, char **ret) {
        CertificateProof p;
        int r;

        r = authorities_judge(c->front->authorities, c->ssl, &p);
        if (r < 0)
                return r;
        if (!*p.sha1)
                return format_string(ret, "%s - - - - - ", c->front->secret);
        return format_string(ret, "%s %s %s %d %d =%s ", c->front->secret, p.sha1, p.sha256, p.dates,
                             p.chain, p.common_name);
}

/* The broker's plugin, which never waits for us, takes them at its next turn. */
static void on_acknowledged(uint64_t sequence, TroubleC2d what, void *userdata) {
        const Front *f = userdata;
        static const HubC2dEnd ends[] = {
                [TROUBLE_C2D_COMPLETED] = HUB_C2D_SUCCESS,
                [TROUBLE_C2D_REJECTED] = HUB_C2D_REJECTED,
                [TROUBLE_C2D_EXCEEDED] = HUB_C2D_DELIVERY_COUNT_EXCEEDED,
        };
        HubReport report = { .kind = HUB_REPORT_REPEAT, .number = sequence };

        if (what != TROUBLE_C2D_REPEATED) {
                report.kind = HUB_REPORT_SETTLED;
                report.value = (int32_t) ends[what];
        }
        /* It fails with the broker's death, which ends all. */
        if (f->report_fd >= 0)
                (void) hub_report_write(f->report_fd, &report, NULL, 0);
}

static int note_client(Conn *c, const MqttConnect *connect) {
        _cleanup_free_ char *id =
                        strndup((const char *) connect->client_id, connect->client_id_size);

        if (!id)
                return -ENOMEM;
        /* What is no id is not remembered: it may be anything, and goes to logs and tables. */
        if (hub_client_id_check(id) >= 0 && strlen(id) == connect->client_id_size)
                c->client_id = TAKE_PTR(id);
        c->said_hello = true;
        c->filter = (MqttFilter){ .troubles = &c->front->troubles,
                                  .counters = c->front->counters,
                                  .client_id = c->client_id,
                                  .on_acknowledged = on_acknowledged,
                                  .userdata = c->front };
        count(c, HUB_COUNTER_CONNECTS);
        return 0;
}

/* 0, or -ECONNABORTED when the CONNECT is not to reach the broker. */
static int judge_connect(Conn *c) {
        uint8_t connack[] = { 0x20, 2, 0, 0 };
        const char *cause;
        unsigned code;

        switch (troubles_on_connect(&c->front->troubles, c->client_id, now_usec(CLOCK_MONOTONIC),
                                    &code, &cause)) {
        case TROUBLE_ANSWER:
                connack[3] = (uint8_t) code;
                (void) tls_write(c, connack, sizeof(connack)); /* four bytes fit, or it is gone */
                count(c, HUB_COUNTER_REFUSED);
                tell_cut(c, "refused", cause);
                return -ECONNABORTED;
        case TROUBLE_CUT:
                count(c, HUB_COUNTER_CUT);
                tell_cut(c, "cut", cause);
                return -ECONNABORTED;
        default: return 0;
        }
}

/* Hands the CONNECT over. What the client sent behind it waits in the pipe. 1, 0 (not whole yet) or
 * -errno. */
static int pass_hello(Conn *c) {
        _cleanup_(erase_and_freep) char *prefix = NULL;
        _cleanup_(buffer_done) Buffer packet = { 0 };
        MqttConnect connect;
        size_t rest;
        int r;

        r = format_prefix(c, &prefix);
        if (r < 0)
                return r;
        r = mqtt_connect_prefix_user(c->hello.data, c->hello.size, prefix, &packet, &connect);
        if (r <= 0)
                return r;
        r = note_client(c, &connect);
        if (r >= 0)
                r = judge_connect(c);
        if (r >= 0)
                r = connect_backend(c);
        if (r < 0)
                return r;

        /* The broker reads it before anything else can fill its socket: a CONNECT fits the socket's
         * buffer, or it waits for the broker, who never waits for us. */
        r = fcntl(c->backend_fd, F_SETFL, 0) < 0 ?
                            -errno :
                            write_all(c->backend_fd, packet.data, packet.size);
        if (r < 0)
                return r;
        if (fcntl(c->backend_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;

        rest = c->hello.size - connect.taken; /* of one read, since it was not whole before */
        assert(rest <= HELLO_READ_BYTES);
        memcpy(c->up.data, c->hello.data + connect.taken, rest);
        c->up.to = rest;
        buffer_done(&c->hello);
        return 1;
}

/* 1 when open, 0 to wait, -errno to end. */
static int say_hello(Conn *c) {
        uint8_t data[HELLO_READ_BYTES];
        int k, r;

        if (c->state == CONN_HANDSHAKE) {
                ERR_clear_error();
                k = SSL_accept(c->ssl);
                if (k != 1) {
                        k = tls_result(c, k);
                        if (k == -EAGAIN)
                                return 0;
                        count(c, HUB_COUNTER_ABORTED);
                        return -ECONNRESET;
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

/* Nothing that may go on. */
static bool pipe_is_empty(const Pipe *p) {
        return p->from == p->passed;
}

static void pipe_took(Pipe *p, size_t n) {
        p->from += n;
        if (p->from < p->passed)
                return;
        memmove(p->data, p->data + p->passed, p->to - p->passed);
        p->to -= p->passed;
        p->from = p->passed = 0;
}

static void pipe_clear(Pipe *p) {
        p->from = p->passed = p->to = 0;
}

/* No more is read from the client; what was let through still reaches the broker, whose last words
 * still reach the client. */
static void cut_on_request(Conn *c, const char *cause) {
        if (c->up.ended)
                return;
        c->up.ended = true;
        c->up.to = c->up.passed;
        count(c, HUB_COUNTER_CUT);
        tell_cut(c, "cut", cause);
}

static void examine_up(Conn *c) {
        Pipe *p = &c->up;
        const char *cause;
        size_t pass;
        int r;

        if (p->passed == p->to)
                return;
        if (!speaks_mqtt(c)) {
                p->passed = p->to;
                return;
        }
        r = mqtt_filter_up(&c->filter, p->data + p->passed, p->to - p->passed, &pass, &cause);
        p->passed += pass;
        if (r < 0)
                cut_on_request(c, cause);
}

/* 0, or -ENOMEM. */
static int examine_down(Conn *c) {
        Pipe *p = &c->down;
        size_t n = p->to - p->passed, pass;
        const char *cause;
        int r;

        if (n == 0)
                return 0;
        if (!speaks_mqtt(c)) {
                p->passed = p->to;
                return 0;
        }
        r = mqtt_filter_down(&c->filter, p->data + p->passed, &n, now_usec(CLOCK_MONOTONIC), &pass,
                             &cause);
        p->to = p->passed + n;
        p->passed += pass;
        if (r == -ECONNABORTED) {
                cut_on_request(c, cause);
                p->ended = true;
                r = 0;
        }
        return r;
}

/* Puts the PUBACKs that are due before what was not let through. Returns whether there were any. */
static bool release_held(Conn *c) {
        Pipe *p = &c->down;
        uint8_t packets[1024];
        bool any = false;
        usec_t now, next;
        size_t n;

        if (c->filter.n_held == 0)
                return false;
        now = now_usec(CLOCK_MONOTONIC);
        while ((n = mqtt_filter_release(&c->filter, now, packets,
                                        MIN(sizeof(packets), PIPE_BYTES - p->to))) > 0) {
                memmove(p->data + p->passed + n, p->data + p->passed, p->to - p->passed);
                memcpy(p->data + p->passed, packets, n);
                p->passed += n;
                p->to += n;
                any = true;
        }
        /* One that is due and could not go waits for its pipe, not for the time. */
        next = mqtt_filter_next_usec(&c->filter);
        if (next > now)
                c->front->next_due_usec = MIN(c->front->next_due_usec, next);
        return any;
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
        examine_up(c);
        if (!pipe_is_empty(p) && c->backend_writable && !p->closed) {
                ssize_t k = send(c->backend_fd, p->data + p->from, p->passed - p->from,
                                 MSG_NOSIGNAL);

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
                pipe_clear(p);
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
        if (examine_down(c) < 0)
                p->closed = p->ended = c->up.ended = true; /* better cut than wrong */
        moved = release_held(c) || moved;
        if (p->closed)
                pipe_clear(p); /* nobody is left to hear it */
        while (!pipe_is_empty(p) && c->client_writable) {
                int k = tls_write(c, p->data + p->from, p->passed - p->from);

                if (k == -EAGAIN)
                        break;
                if (k <= 0) {
                        p->closed = true;
                        c->up.ended = true;
                        pipe_clear(p);
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

bool conn_is_silent(const Conn *c) {
        return speaks_mqtt(c) && troubles_are_silent(&c->front->troubles, c->client_id);
}

void conn_review(Conn *c, usec_t now_usec) {
        mqtt_filter_review(&c->filter);
        /* The silence may have eaten its time. */
        c->hello_until_usec = MAX(c->hello_until_usec, now_usec + HELLO_TIMEOUT_USEC);
        conn_turn(c);
}

void conn_turn(Conn *c) {
        int r;

        if (c->state == CONN_DEAD || conn_is_silent(c))
                return;
        if (c->state != CONN_OPEN) {
                r = say_hello(c);
                if (r < 0)
                        conn_kill(c, /* reset= */ false);
                if (r <= 0)
                        return;
                c->state = CONN_OPEN;
                if (conn_is_silent(c)) /* the name is known only now */
                        return;
        }

        for (unsigned i = 0; i < TURNS_MAX; i++) {
                bool moved = move_up(c);

                moved = move_down(c) || moved;
                /* Once the backend has ended and all it said is out, nobody is left to talk to. */
                if (c->down.ended && pipe_is_empty(&c->down)) {
                        conn_kill(c, /* reset= */ false);
                        return;
                }
                if (!moved)
                        return;
        }
        make_ready(c);
}

static SSL *new_ssl(const Conn *c) {
        SSL_CTX *odd = speaks_mqtt(c) ? c->front->odd_tls[troubles_certificate(
                                                        &c->front->troubles)] :
                                        NULL;

        return SSL_new(odd ? odd : c->listener->tls);
}

int conn_new(Listener *l, Front *f, int fd) {
        Conn *c;
        int one = 1;

        c = malloc(sizeof(*c));
        if (!c) {
                safe_close(fd);
                return -ENOMEM;
        }
        *c = (Conn){ .front = f,
                     .listener = l,
                     .client_fd = fd,
                     .backend_fd = -EBADF,
                     .client_readable = true,
                     .client_writable = true,
                     .hello_until_usec = now_usec(CLOCK_MONOTONIC) + HELLO_TIMEOUT_USEC,
                     .next = f->conns };
        c->client_watch = (Watch){ WATCH_CLIENT, c };
        c->backend_watch = (Watch){ WATCH_BACKEND, c };
        if (f->conns)
                f->conns->previous = c;
        f->conns = c;

        /* Slower without, not wrong. */
        (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        c->ssl = new_ssl(c);
        if (!c->ssl || SSL_set_fd(c->ssl, fd) != 1 ||
            front_add_to_epoll(f, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->client_watch) <
                            0) {
                conn_kill(c, /* reset= */ false);
                return -ENOMEM;
        }
        count(c, HUB_COUNTER_OPENED);
        return 0;
}
