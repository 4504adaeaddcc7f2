/* A turn is: Proton's events to their owners, what Proton wants to say to the socket, one poll(),
 * and what the socket has to say to Proton. Before that, the same turns go through name, TCP and
 * TLS. Proton knows neither socket nor TLS: it gets and gives bytes. */
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <openssl/err.h>
#include <openssl/rand.h>
#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/logger.h>
#include <proton/sasl.h>
#include <proton/session.h>
#include <proton/transport.h>

#include "lib/buffer.h"
#include "lib/string-util.h"
#include "client/amqp-connection.h"
#include "client/amqp-tls.h"
#include "client/http-trace.h"
#include "client/name-lookup.h"
#include "client/output.h"

#define CONNECT_TIMEOUT_USEC (20 * USEC_PER_SEC) /* as for HTTPS */
#define OPEN_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define IDLE_TIMEOUT_MSEC                                                                          \
        60000U /* a dead link is noticed after that long; hubs send empty frames for it */
/* The window is counted in frames, of which a small message takes one as well: this many bytes can
 * be sent ahead of us at most, and this many small messages (their quotient) without waiting for
 * us. */
#define WINDOW_BYTES (64U * 1024U * 1024U)
#define FRAME_BYTES_MAX (16U * 1024U)
#define READ_BYTES (32U * 1024U)
#define READS_PER_TURN 16U

typedef enum State {
        STATE_NAME,
        STATE_CONNECT,
        STATE_TLS,
        STATE_AMQP,
        STATE_OVER,
} State;

struct AmqpConnection {
        char *host, *name, *ca_file, *user, *password;
        unsigned port;
        bool verbose;

        State state;
        AmqpError error;
        usec_t deadline_usec; /* for the state, or for the greeting */
        NameLookup *lookup;
        struct addrinfo *addresses, *next_address;
        int fd;
        SSL *ssl;
        pn_connection_driver_t driver;
        bool driver_used;
        pn_session_t *session;
        bool open;
        bool write_blocked, read_pending;
};

void amqp_connection_trace(const AmqpConnection *c, const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        va_list ap;
        int r;

        if (!c->verbose)
                return;
        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r >= 0)
                say_trace(text, strlen(text));
}

/* Frames, for --verbose; a token or a key in them is struck out. Proton's own complaints come here,
 * too: they are told by their conditions. */
static void on_log(intptr_t context, pn_log_subsystem_t subsystem, pn_log_level_t level,
                   const char *message) {
        const AmqpConnection *c = (const AmqpConnection *) context;
        _cleanup_(buffer_done) Buffer out = {};

        (void) subsystem; /* frames of SASL and AMQP look alike */
        if (c->verbose && level == PN_LEVEL_FRAME &&
            http_trace_header(&out, "* ", message, strlen(message)) >= 0)
                say_trace((const char *) out.data, out.size);
}

static int copy_settings(AmqpConnection *c, const AmqpConnectionSettings *s) {
        if (copy_string(&c->host, s->host) < 0 ||
            copy_string(&c->name, s->name ? s->name : s->host) < 0 ||
            copy_string(&c->ca_file, s->ca_file) < 0 || copy_string(&c->user, s->user) < 0 ||
            copy_string(&c->password, s->password) < 0)
                return -ENOMEM;
        c->port = s->port;
        c->verbose = s->verbose;
        (void) snprintf(c->error.host, sizeof(c->error.host), "%s",
                        c->host); /* longer ones are no hosts */
        c->error.port = c->port;
        return 0;
}

static void set_container(pn_connection_t *p) {
        uint64_t random = 0;
        char id[40];

        (void) RAND_bytes((unsigned char *) &random,
                          sizeof(random)); /* it only helps a reader of traces */
        (void) snprintf(id, sizeof(id), "iothubctl-%016" PRIx64, random); /* fits */
        pn_connection_set_container(p, id);
}

static int set_up_proton(AmqpConnection *c) {
        pn_transport_t *t;
        pn_logger_t *logger;
        pn_sasl_t *sasl;

        if (pn_connection_driver_init(&c->driver, NULL, NULL) != 0)
                return -ENOMEM;
        c->driver_used = true;
        t = c->driver.transport;
        logger = pn_transport_logger(t);
        pn_logger_reset_mask(logger, PN_SUBSYSTEM_ALL, PN_LEVEL_ALL);
        pn_logger_set_log_sink(logger, on_log, (intptr_t) c);
        if (c->verbose)
                pn_logger_set_mask(logger, PN_SUBSYSTEM_AMQP | PN_SUBSYSTEM_SASL, PN_LEVEL_FRAME);
        pn_transport_set_max_frame(t, FRAME_BYTES_MAX);
        pn_transport_set_idle_timeout(t, IDLE_TIMEOUT_MSEC);

        set_container(c->driver.connection);
        pn_connection_set_hostname(c->driver.connection, c->name);
        if (c->user) {
                pn_connection_set_user(c->driver.connection, c->user);
                pn_connection_set_password(c->driver.connection, c->password);
        }
        sasl = pn_sasl(t);
        pn_sasl_allowed_mechs(sasl, c->user ? "PLAIN" : "ANONYMOUS");
        pn_sasl_set_allow_insecure_mechs(sasl, true); /* TLS is below Proton, and always there */
        pn_connection_open(c->driver.connection);
        c->session = pn_session(c->driver.connection);
        if (!c->session || pn_connection_driver_bind(&c->driver) != 0)
                return -ENOMEM;
        pn_session_set_incoming_capacity(c->session, WINDOW_BYTES);
        pn_session_open(c->session);
        return 0;
}

int amqp_connection_new(const AmqpConnectionSettings *settings, AmqpConnection **ret) {
        _cleanup_(amqp_connection_freep) AmqpConnection *c = malloc(sizeof(*c));
        int r;

        if (!c)
                return -ENOMEM;
        *c = (AmqpConnection){ .fd = -EBADF };
        r = copy_settings(c, settings);
        if (r >= 0)
                r = set_up_proton(c);
        if (r >= 0)
                r = name_lookup_start(c->host, c->port, &c->lookup);
        if (r < 0)
                return r;
        c->deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), CONNECT_TIMEOUT_USEC);
        amqp_connection_trace(c, "* Looking up %s", c->host);
        *ret = TAKE_PTR(c);
        return 0;
}

bool amqp_connection_is_open(const AmqpConnection *c) {
        return c->open && c->state == STATE_AMQP;
}

AmqpError *amqp_connection_error(AmqpConnection *c) {
        return &c->error;
}

/* ---- Proton's events ---- */

static void fail_link(AmqpConnection *c, AmqpLink *l, pn_condition_t *condition) {
        AmqpError *e = l->error ? l->error : &c->error;

        l->closed = true;
        l->attached = false;
        if (l->may_close)
                return;
        amqp_error_set_condition(e, l->stage, pn_condition_get_name(condition),
                                 pn_condition_get_description(condition));
}

static void on_link_closed(AmqpConnection *c, pn_link_t *link) {
        AmqpLink *l = pn_link_get_context(link);

        if (l)
                fail_link(c, l, pn_link_remote_condition(link));
        pn_link_close(link);
}

/* A refused link is answered with an attach without source or target, and detached at once. */
static void on_link_open(pn_link_t *link) {
        AmqpLink *l = pn_link_get_context(link);
        pn_terminus_t *theirs = pn_link_is_sender(link) ? pn_link_remote_target(link) :
                                                          pn_link_remote_source(link);

        if (l)
                l->attached = pn_terminus_get_type(theirs) != PN_UNSPECIFIED;
}

static void on_transport_error(AmqpConnection *c) {
        pn_condition_t *condition = pn_transport_condition(c->driver.transport);
        const char *text = pn_condition_is_set(condition) ?
                                           pn_condition_get_description(condition) :
                                           NULL;
        pn_sasl_outcome_t outcome = pn_sasl_outcome(pn_sasl(c->driver.transport));

        if (outcome != PN_SASL_OK && outcome != PN_SASL_NONE)
                amqp_error_set_condition(&c->error, AMQP_STAGE_SASL, "amqp:unauthorized-access",
                                         text);
        else if (pn_condition_is_set(condition) && pn_condition_get_name(condition) &&
                 !streq(pn_condition_get_name(condition), "amqp:connection:framing-error"))
                amqp_error_set_condition(&c->error, c->open ? AMQP_STAGE_OPEN : AMQP_STAGE_SASL,
                                         pn_condition_get_name(condition), text);
        else
                amqp_error_set(&c->error, c->open ? AMQP_STAGE_OPEN : AMQP_STAGE_SASL,
                               EXIT_NO_DAEMON, NULL, "%s",
                               text ? text : "the other side ended the connection");
}

static void on_event(AmqpConnection *c, pn_event_t *event) {
        switch (pn_event_type(event)) {
        case PN_CONNECTION_REMOTE_OPEN:
                c->open = true;
                c->deadline_usec = USEC_INFINITY;
                amqp_connection_trace(c, "* AMQP connection is open");
                break;
        case PN_CONNECTION_REMOTE_CLOSE: {
                pn_condition_t *condition =
                                pn_connection_remote_condition(pn_event_connection(event));

                amqp_error_set_condition(&c->error, AMQP_STAGE_OPEN,
                                         pn_condition_get_name(condition),
                                         pn_condition_get_description(condition));
                pn_connection_close(c->driver.connection);
                break;
        }
        case PN_SESSION_REMOTE_CLOSE: {
                pn_condition_t *condition = pn_session_remote_condition(pn_event_session(event));

                amqp_error_set_condition(&c->error, AMQP_STAGE_OPEN,
                                         pn_condition_get_name(condition),
                                         pn_condition_get_description(condition));
                break;
        }
        case PN_LINK_REMOTE_OPEN: on_link_open(pn_event_link(event)); break;
        case PN_LINK_REMOTE_CLOSE:
        case PN_LINK_REMOTE_DETACH: on_link_closed(c, pn_event_link(event)); break;
        case PN_DELIVERY: {
                AmqpLink *l = pn_link_get_context(pn_event_link(event));

                if (l && l->on_delivery)
                        l->on_delivery(l, pn_event_delivery(event));
                break;
        }
        case PN_TRANSPORT_ERROR: on_transport_error(c); break;
        default: break;
        }
}

static void dispatch(AmqpConnection *c) {
        pn_event_t *event;

        while ((event = pn_connection_driver_next_event(&c->driver)))
                on_event(c, event);
}

/* ---- links ---- */

int amqp_connection_attach(AmqpConnection *c, bool receiver, const char *name, const char *address,
                           const char *other, AmqpLink *link) {
        pn_link_t *l = receiver ? pn_receiver(c->session, name) : pn_sender(c->session, name);
        pn_terminus_t *near, *far;

        if (!l)
                return -ENOMEM;
        near = receiver ? pn_link_source(l) : pn_link_target(l);
        far = receiver ? pn_link_target(l) : pn_link_source(l);
        if (pn_terminus_set_address(near, address) < 0 ||
            pn_terminus_set_address(far, other ? other : name) < 0)
                return -ENOMEM;
        pn_link_set_snd_settle_mode(l, receiver ? PN_SND_UNSETTLED : PN_SND_MIXED);
        pn_link_set_context(l, link);
        pn_link_open(l);
        link->link = l;
        link->attached = link->closed = false;
        amqp_connection_trace(c, "* Attaching %s %s", receiver ? "to" : "as sender to", address);
        return 0;
}

void amqp_link_close(AmqpLink *link) {
        if (!link->link)
                return;
        pn_link_set_context(link->link, NULL);
        pn_link_close(link->link);
        link->link = NULL;
        link->attached = false;
}

/* ---- bytes ---- */

static void set_io_error(AmqpConnection *c) {
        char text[256];

        amqp_error_set(&c->error, c->open ? AMQP_STAGE_OPEN : AMQP_STAGE_SASL, EXIT_NO_DAEMON, NULL,
                       "%s", amqp_tls_error_text(NULL, text, sizeof(text)));
}

static void write_some(AmqpConnection *c) {
        pn_bytes_t b = pn_connection_driver_write_buffer(&c->driver);

        c->write_blocked = false;
        while (b.size > 0) {
                size_t n;
                int r;

                errno = 0;
                ERR_clear_error();
                r = SSL_write_ex(c->ssl, b.start, b.size, &n);
                if (r != 1) {
                        r = SSL_get_error(c->ssl, r);
                        if (r == SSL_ERROR_WANT_WRITE || r == SSL_ERROR_WANT_READ)
                                c->write_blocked = true;
                        else
                                set_io_error(c);
                        return;
                }
                b = pn_connection_driver_write_done(&c->driver, n);
        }
}

/* 1: there may be more; 0: not now. */
static int read_once(AmqpConnection *c) {
        pn_rwbytes_t b = pn_connection_driver_read_buffer_sized(&c->driver, READ_BYTES);
        size_t n;
        int r;

        if (b.size == 0)
                return 0;
        errno = 0;
        ERR_clear_error();
        r = SSL_read_ex(c->ssl, b.start, b.size, &n);
        if (r == 1) {
                pn_connection_driver_read_done(&c->driver, n);
                return 1;
        }
        r = SSL_get_error(c->ssl, r);
        if (r == SSL_ERROR_WANT_READ || r == SSL_ERROR_WANT_WRITE)
                return 0;
        pn_connection_driver_read_close(&c->driver);
        dispatch(c); /* what came before the end, which may be the reason for it */
        set_io_error(c);
        return 0;
}

static void read_some(AmqpConnection *c) {
        c->read_pending = false;
        for (unsigned i = 0; i < READS_PER_TURN && !c->error.set; i++) {
                if (read_once(c) <= 0)
                        return;
                dispatch(c);
        }
        c->read_pending = true;
}

/* ---- the way to the first frame ---- */

static void drop_socket(AmqpConnection *c) {
        SSL_free(c->ssl);
        c->ssl = NULL;
        closep(&c->fd);
        c->fd = -EBADF;
}

/* One address after the other; the last one's error is told. */
static void connect_next(AmqpConnection *c) {
        int error = ECONNREFUSED, one = 1;

        drop_socket(c);
        for (; c->next_address; error = errno) {
                const struct addrinfo *a = c->next_address;

                c->next_address = a->ai_next;
                c->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                               a->ai_protocol);
                if (c->fd < 0)
                        continue;
                /* Frames are written whole: waiting for more gains nothing. */
                (void) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                if (connect(c->fd, a->ai_addr, a->ai_addrlen) >= 0 || errno == EINPROGRESS) {
                        c->state = STATE_CONNECT;
                        c->deadline_usec =
                                        usec_add(now_usec(CLOCK_MONOTONIC), CONNECT_TIMEOUT_USEC);
                        return;
                }
                closep(&c->fd);
                c->fd = -EBADF;
        }
        amqp_error_set(&c->error, AMQP_STAGE_CONNECT, EXIT_NO_DAEMON,
                       "for the emulator, name --amqp-port", "%s", strerror(error));
}

static void after_lookup(AmqpConnection *c) {
        int code = name_lookup_result(c->lookup, &c->addresses);

        c->lookup = name_lookup_free(c->lookup);
        if (code != 0) {
                amqp_error_set(&c->error, AMQP_STAGE_NAME, EXIT_NO_DAEMON,
                               "check HostName in the login, and this machine's DNS", "%s",
                               gai_strerror(code));
                return;
        }
        c->next_address = c->addresses;
        amqp_connection_trace(c, "* Connecting to %s:%u", c->host, c->port);
        connect_next(c);
}

static void after_connect(AmqpConnection *c) {
        socklen_t n = sizeof(int);
        int error = 0, r;

        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
                error = errno;
        if (error != 0 && c->next_address)
                return connect_next(c);
        if (error != 0) {
                amqp_error_set(&c->error, AMQP_STAGE_CONNECT, EXIT_NO_DAEMON,
                               "for the emulator, name --amqp-port", "%s", strerror(error));
                return;
        }
        r = amqp_tls_new(c->fd, c->name, c->ca_file, &c->error, &c->ssl);
        if (r == -ENOMEM)
                amqp_error_set(&c->error, AMQP_STAGE_TLS, EX_OSERR, NULL, "out of memory");
        c->state = STATE_TLS;
        c->deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), OPEN_TIMEOUT_USEC);
}

static short go_on(AmqpConnection *c) {
        short events = POLLIN;

        switch (c->state) {
        case STATE_NAME: return POLLIN;
        case STATE_CONNECT: return POLLOUT;
        case STATE_TLS:
                if (amqp_tls_handshake(c->ssl, &c->error, &events) <= 0)
                        return events;
                c->state = STATE_AMQP;
                amqp_connection_trace(c, "* %s with %s, certificate of %s verified",
                                      SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl),
                                      c->name);
                return POLLIN;
        default: return POLLIN;
        }
}

static void after_poll(AmqpConnection *c) {
        switch (c->state) {
        case STATE_NAME: after_lookup(c); break;
        case STATE_CONNECT: after_connect(c); break;
        case STATE_AMQP: read_some(c); break;
        default: break;
        }
}

static void set_timeout_error(AmqpConnection *c) {
        static const AmqpStage stages[] = {
                [STATE_NAME] = AMQP_STAGE_NAME,
                [STATE_CONNECT] = AMQP_STAGE_CONNECT,
                [STATE_TLS] = AMQP_STAGE_TLS,
                [STATE_AMQP] = AMQP_STAGE_SASL,
        };

        if (c->state == STATE_CONNECT && c->next_address)
                return connect_next(c);
        amqp_error_set(&c->error, stages[c->state], EXIT_NO_DAEMON, NULL, "no answer in time");
}

/* ---- the loop ---- */

static usec_t tick(AmqpConnection *c) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        int64_t next_msec = 0;

        if (c->state == STATE_AMQP)
                next_msec = pn_transport_tick(c->driver.transport, (int64_t) (now / USEC_PER_MSEC));
        return next_msec > 0 ? MIN(c->deadline_usec, (usec_t) next_msec * USEC_PER_MSEC) :
                               c->deadline_usec;
}

static int timeout_msec(usec_t deadline_usec) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);

        if (deadline_usec == USEC_INFINITY)
                return -1;
        if (deadline_usec <= now)
                return 0;
        return (int) (MIN(deadline_usec - now, USEC_PER_HOUR) / USEC_PER_MSEC + 1);
}

static int end_turn(AmqpConnection *c) {
        if (!c->error.set)
                return 0;
        c->state = STATE_OVER;
        return -EIO;
}

#define MORE_MAX 3U

int amqp_connection_turn(AmqpConnection *c, struct pollfd *more, size_t n_more,
                         usec_t deadline_usec) {
        struct pollfd fds[1 + MORE_MAX] = { { .fd = -1 } };
        short events;
        int n;

        if (c->state == STATE_OVER)
                return -EIO;
        deadline_usec = MIN(deadline_usec, tick(c));
        events = go_on(c);
        if (c->state == STATE_AMQP) {
                dispatch(c);
                write_some(c);
                dispatch(c);
                if (c->write_blocked)
                        events |= POLLOUT;
        }
        if (c->error.set)
                return end_turn(c);

        fds[0] = (struct pollfd){ c->state == STATE_NAME ? name_lookup_fd(c->lookup) : c->fd,
                                  events, 0 };
        memcpy(fds + 1, more, MIN(n_more, MORE_MAX) * sizeof(*more));
        n = poll(fds, (nfds_t) (1 + MIN(n_more, MORE_MAX)),
                 c->read_pending ? 0 : timeout_msec(deadline_usec));
        if (n < 0 && errno != EINTR) {
                amqp_error_set(&c->error, AMQP_STAGE_OPEN, EX_OSERR, NULL, "poll: %m");
                return end_turn(c);
        }
        for (size_t i = 0; i < MIN(n_more, MORE_MAX); i++)
                more[i].revents = n > 0 ? fds[1 + i].revents : 0;
        if ((n > 0 && fds[0].revents != 0) || c->read_pending)
                after_poll(c);
        else if (now_usec(CLOCK_MONOTONIC) >= c->deadline_usec)
                set_timeout_error(c);
        return end_turn(c);
}

AmqpConnection *amqp_connection_free(AmqpConnection *c) {
        if (!c)
                return NULL;
        if (c->state == STATE_AMQP && c->driver.connection) {
                pn_connection_close(c->driver.connection);
                dispatch(c);
                write_some(c);
                (void) SSL_shutdown(c->ssl); /* a goodbye that nobody waits for */
        }
        if (c->driver_used)
                pn_connection_driver_destroy(&c->driver);
        drop_socket(c);
        name_lookup_free(c->lookup);
        if (c->addresses)
                freeaddrinfo(c->addresses);
        free(c->host);
        free(c->name);
        free(c->ca_file);
        free(c->user);
        erase_and_free(c->password);
        free(c);
        return NULL;
}
