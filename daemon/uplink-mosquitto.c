/* How it works: the thread looks the name up, then tries each of its addresses with an equal share
 * of the time that is left. libmosquitto is given the address (mosquitto_connect_async() with a
 * number neither resolves nor blocks) and a TLS context of ours, which checks the chain and the
 * host name. The handshake is driven here, because only so its errors can be told apart (and
 * libmosquitto 2.0 spins when a connection is reset in mid-handshake).
 *
 * Once connected the thread polls the socket and a wake-up descriptor. mosquitto_threaded_set()
 * makes mosquitto_publish() only queue, so a batch costs one mosquitto_loop_write(); a buffer below
 * TLS gathers its records, and read-ahead above the socket gathers the PUBACKs. The usual
 * mosquitto_loop_start() costs a multiple of the CPU (tests/bench/bench-uplink.c runs both). */
#include "daemon/uplink-mosquitto.h"

#include <assert.h>
#include <inttypes.h>
#include <netdb.h>
#include <strings.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <mosquitto.h>
#include <openssl/crypto.h>
#include <openssl/err.h>

#include "lib/buffer.h"
#include "lib/fd-util.h"
#include "lib/property-bag.h"
#include "daemon/uplink-tls.h"
#include "daemon/uplink-window.h"

#define THREAD_STACK_BYTES (512U * 1024U) /* name service modules want more than the smallest */
#define TEXT_MAX 640U
#define CONNACK_NONE (-1)
#define CONNACK_SESSION_PRESENT 1

/* Longest wait for PINGRESP; half the keep-alive where that is shorter. */
#define PONG_USEC_MAX (30 * USEC_PER_SEC)

typedef enum Phase {
        PHASE_RESOLVING,
        PHASE_KEY, /* fetches the private key, which a device may keep */
        PHASE_CONNECTING,
        PHASE_TLS,
        PHASE_MQTT,
        PHASE_CONNECTED,
} Phase;

typedef struct Unsendable {
        uint64_t seq;
        const char *reason; /* static text */
} Unsendable;

/* Shared by two threads and freed by the second that lets go. */
struct UplinkMosquitto {
        /* Fixed before the thread starts, read by both. */
        char *host, *client_id, *user_name, *topic_prefix, *ca_file;
        ClientCertificate *certificate;
        unsigned port;
        usec_t keep_alive_usec, connect_timeout_usec, ack_timeout_usec;
        int wake_fd;   /* loop to thread */
        int report_fd; /* thread to loop */

        /* Both, under the mutex. */
        pthread_mutex_t mutex;
        unsigned n_references;
        bool abandoned, disconnect;
        Phase phase;
        char address[NI_MAXHOST];
        Buffer inbox; /* OutboxDelivery *, handed over and not yet taken by the thread */
        usec_t inbox_since_usec;
        Buffer confirmed;  /* uint64_t seqs, not yet told */
        Buffer unsendable; /* Unsendable, not yet told */
        bool connected, ended;
        bool reported; /* report_fd is readable */

        /* The thread alone. end_*: the loop's once ended is set. */
        char *password;
        struct mosquitto *mosq;
        SSL_CTX *tls_context;
        UplinkTlsPeer peer;
        char library_line[256]; /* the last error line of the library, which keeps no other trace of
                                   some errors */
        UplinkWindow in_flight; /* by message id of MQTT; the value is the seq */
        Buffer outgoing;        /* swapped with the inbox */
        Buffer topic;
        Buffer confirmed_now; /* gathered while reading, handed over after it */
        bool no_memory;
        int connack;
        usec_t connected_usec, last_in_usec, last_out_usec,
                ping_usec; /* CLOCK_MONOTONIC, as in the library */
        UplinkErrorClass end_class;
        int end_connack;
        char end_text[TEXT_MAX];

        /* The loop's thread alone. */
        UplinkMosquittoEvents events;
        bool told_resolved, told_connected;
        Buffer telling;
};

static atomic_uint n_abandoned; /* threads left behind that have not ended yet */

static void init_libraries(void) {
        /* Threads are left behind when the process ends: the clean-up of OpenSSL at exit would free
         * what they use. */
        (void) OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT,
                                   NULL); /* a failure shows with the first context */
        (void) mosquitto_lib_init();      /* always succeeds on Linux */
        (void) signal(SIGPIPE,
                      SIG_IGN); /* a closed socket is an error code here; cannot fail for SIGPIPE */
}

void uplink_mosquitto_init(void) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;

        (void) pthread_once(&once, init_libraries); /* fails only for a bad argument */
}

static void lock(UplinkMosquitto *m) {
        (void) pthread_mutex_lock(&m->mutex); /* fails only when misused */
}

static void unlock(UplinkMosquitto *m) {
        (void) pthread_mutex_unlock(&m->mutex);
}

static void signal_fd(int fd) {
        (void) eventfd_write(fd, 1); /* fails only when it is readable for long */
}

static void drain_fd(int fd) {
        eventfd_t value;

        (void) eventfd_read(fd, &value); /* empty is fine: the flags under the mutex count */
}

static void free_deliveries(Buffer *b) {
        OutboxDelivery **d = (OutboxDelivery **) b->data;

        for (size_t i = 0; i < b->size / sizeof(*d); i++)
                outbox_delivery_free(d[i]);
        b->size = 0;
}

static void destroy(UplinkMosquitto *m) {
        free_deliveries(&m->inbox);
        free_deliveries(&m->outgoing);
        buffer_done(&m->inbox);
        buffer_done(&m->outgoing);
        buffer_done(&m->confirmed);
        buffer_done(&m->confirmed_now);
        buffer_done(&m->unsendable);
        buffer_done(&m->telling);
        buffer_done(&m->topic);
        uplink_window_done(&m->in_flight);
        erase_and_free(m->password);
        free(m->host);
        free(m->client_id);
        free(m->user_name);
        free(m->topic_prefix);
        free(m->ca_file);
        client_certificate_unref(m->certificate);
        safe_close(m->wake_fd);
        safe_close(m->report_fd);
        (void) pthread_mutex_destroy(&m->mutex);
        free(m);
}

static void unreference(UplinkMosquitto *m) {
        bool last;

        lock(m);
        last = --m->n_references == 0;
        unlock(m);
        if (last)
                destroy(m);
}

/* The report lasts until process(), so that a burst of PUBACKs wakes the loop once. Under the
 * mutex. */
static void report_locked(UplinkMosquitto *m) {
        if (m->reported)
                return;
        m->reported = true;
        signal_fd(m->report_fd);
}

static void set_phase(UplinkMosquitto *m, Phase phase, const char *address) {
        lock(m);
        m->phase = phase;
        if (address)
                (void) snprintf(m->address, sizeof(m->address), "%s", address);
        report_locked(m);
        unlock(m);
}

static bool is_abandoned(UplinkMosquitto *m) {
        bool b;

        lock(m);
        b = m->abandoned;
        unlock(m);
        return b;
}

/* Sets why the connection is over, or why an address did not do. Returns -ECANCELED, for the
 * caller's way out. */
static int end(UplinkMosquitto *m, UplinkErrorClass class, const char *format, ...) _printf_(3, 4);
static int end(UplinkMosquitto *m, UplinkErrorClass class, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        m->end_class = class;
        (void) vsnprintf(m->end_text, sizeof(m->end_text), format, ap);
        va_end(ap);
        return -ECANCELED;
}

/* The thread: from the name to CONNACK. */

/* Waits for the socket. 1 when it is ready, 0 at the deadline, -ECANCELED when the connection was
 * abandoned. */
static int wait_socket(UplinkMosquitto *m, int fd, short events, usec_t deadline_usec) {
        for (;;) {
                struct pollfd p[] = {
                        { .fd = fd, .events = events },
                        { .fd = m->wake_fd, .events = POLLIN },
                };
                usec_t now = now_usec(CLOCK_MONOTONIC);
                int r;

                if (now >= deadline_usec)
                        return 0;
                r = poll(p, ELEMENTSOF(p),
                         (int) MIN((deadline_usec - now) / USEC_PER_MSEC + 1, (usec_t) INT32_MAX));
                if (r > 0 && p[1].revents != 0) {
                        drain_fd(m->wake_fd);
                        if (is_abandoned(m))
                                return -ECANCELED;
                }
                if (r > 0 && p[0].revents != 0)
                        return 1;
        }
}

static UplinkErrorClass connack_class(int code, const char **ret_text) {
        switch (code) {
        case 1: *ret_text = "it does not speak MQTT 3.1.1"; return UPLINK_ERROR_REFUSED;
        case 2: *ret_text = "it does not accept the client id"; return UPLINK_ERROR_REFUSED;
        case 3: *ret_text = "it is not available now"; return UPLINK_ERROR_UNAVAILABLE;
        default: *ret_text = "not authorized"; return UPLINK_ERROR_REFUSED;
        }
}

/* Nothing here takes messages to the device, and the library acknowledges whatever comes: it would be lost. The session
 * may still hold the subscription of another program that once used this identity. Without it the hub keeps them.
 * Queued before the first message of ours; what the hub has sent by then cannot be helped. */
static void unsubscribe(UplinkMosquitto *m) {
        _cleanup_free_ char *filter = NULL;

        if (strchr(m->client_id, '/') || /* a module gets none */
            asprintf(&filter, "devices/%s/messages/devicebound/#", m->client_id) < 0)
                return;
        (void) mosquitto_unsubscribe(m->mosq, NULL, filter); /* without memory the session stays as it was */
}

static void on_connect(struct mosquitto *mosq, void *userdata, int code, int flags) {
        UplinkMosquitto *m = userdata;

        m->connack = code;
        if (code == 0 && (flags & CONNACK_SESSION_PRESENT))
                unsubscribe(m);
}

static void on_puback(struct mosquitto *mosq, void *userdata, int mid) {
        UplinkMosquitto *m = userdata;
        uint64_t seq;

        if (!uplink_window_take(&m->in_flight, (uint64_t) mid, &seq))
                return; /* the library checks that it was in flight, so this cannot be */
        if (buffer_append(&m->confirmed_now, &seq, sizeof(seq)) < 0)
                m->no_memory = true; /* the connection ends, the message is sent again */
}

/* Runs on the thread. Of several errors the first is the cause. */
static void on_log(struct mosquitto *mosq, void *userdata, int level, const char *line) {
        UplinkMosquitto *m = userdata;

        if (level == MOSQ_LOG_ERR && m->library_line[0] == '\0')
                (void) snprintf(m->library_line, sizeof(m->library_line), "%s", line);
}

static int new_instance(UplinkMosquitto *m) {
        mosquitto_destroy(m->mosq);
        m->library_line[0] = '\0';
        m->mosq = mosquitto_new(m->client_id, /* clean_start= */ false, m);
        if (!m->mosq)
                return end(m, UPLINK_ERROR_LOCAL, "Cannot prepare the connection: %s",
                           strerror(errno));

        mosquitto_connect_with_flags_callback_set(m->mosq, on_connect);
        mosquitto_publish_callback_set(m->mosq, on_puback);
        mosquitto_log_callback_set(m->mosq, on_log);
        if (mosquitto_threaded_set(m->mosq, true) != MOSQ_ERR_SUCCESS ||
            mosquitto_int_option(m->mosq, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V311) !=
                    MOSQ_ERR_SUCCESS ||
            mosquitto_int_option(m->mosq, MOSQ_OPT_TCP_NODELAY, 1) != MOSQ_ERR_SUCCESS ||
            /* The window is kept by the caller; the library must never queue on its own account. */
            mosquitto_int_option(m->mosq, MOSQ_OPT_SEND_MAXIMUM, UINT16_MAX) != MOSQ_ERR_SUCCESS ||
            mosquitto_int_option(m->mosq, MOSQ_OPT_SSL_CTX_WITH_DEFAULTS, 0) != MOSQ_ERR_SUCCESS ||
            mosquitto_void_option(m->mosq, MOSQ_OPT_SSL_CTX, m->tls_context) != MOSQ_ERR_SUCCESS ||
            mosquitto_username_pw_set(m->mosq, m->user_name, m->password) != MOSQ_ERR_SUCCESS)
                return end(m, UPLINK_ERROR_LOCAL,
                           "Cannot prepare the connection: the MQTT library refused its options");
        return 0;
}

/* Sets the reason from the library's last line: 0 where another address may do, or -ECANCELED. */
static int explain_line(UplinkMosquitto *m) {
        m->end_class = uplink_tls_describe_line(&m->peer, m->library_line, m->end_text,
                                                sizeof(m->end_text));
        return m->end_class == UPLINK_ERROR_NETWORK ? 0 : -ECANCELED;
}

/* Starts to connect; 1 when the address accepted, 0 when it did not (the reason is set, another
 * may), or -ECANCELED. */
static int connect_address(UplinkMosquitto *m, const char *address, usec_t deadline_usec) {
        unsigned user_timeout_msec =
                (unsigned) MIN(m->ack_timeout_usec / USEC_PER_MSEC, (usec_t) INT32_MAX);
        struct sockaddr_storage peer;
        socklen_t n = sizeof(peer);
        int r, fd, error, first_error;

        set_phase(m, PHASE_CONNECTING, address);
        errno = 0;
        r = mosquitto_connect_async(m->mosq, address, (int) m->port,
                                    (int) (m->keep_alive_usec / USEC_PER_SEC));
        first_error = errno;
        fd = mosquitto_socket(m->mosq);
        /* The peer was quick enough for the library's own try at the handshake. */
        if (r == MOSQ_ERR_TLS)
                return explain_line(m);
        if (r != MOSQ_ERR_SUCCESS || fd < 0) {
                error = r == MOSQ_ERR_ERRNO ? first_error : 0;
                goto failed;
        }

        /* Only makes a dead link known sooner than the PUBACK deadline does; where it fails that
         * one remains. */
        (void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_msec,
                          sizeof(user_timeout_msec));
        r = wait_socket(m, fd, POLLOUT, deadline_usec);
        if (r < 0)
                return r;
        if (r == 0) {
                error = ETIMEDOUT;
                goto failed;
        }
        n = sizeof(error);
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
                error = errno;
        n = sizeof(peer);
        /* The library tried to write at once, which may have taken the error off the socket. */
        if (error == 0 && getpeername(fd, (struct sockaddr *) &peer, &n) < 0)
                error = first_error != 0 && first_error != EAGAIN && first_error != EINPROGRESS
                                ? first_error
                                : errno;
        if (error == 0)
                return 1;

failed:
        (void) end(m, error == ETIMEDOUT ? UPLINK_ERROR_TIMEOUT : UPLINK_ERROR_NETWORK,
                   "Cannot connect to %s (%s, port %u): %s",
                   m->host, address, m->port, error != 0 ? strerror(error) : mosquitto_strerror(r));
        return 0;
}

/* As above. A certificate that is not accepted is final: the other addresses are the same
 * server's. */
static int shake_hands(UplinkMosquitto *m, usec_t deadline_usec) {
        SSL *ssl = mosquitto_ssl_get(m->mosq);
        int fd = mosquitto_socket(m->mosq), r, error;

        if (!ssl)
                return end(m, UPLINK_ERROR_LOCAL,
                           "Cannot prepare the connection: TLS is missing in the MQTT library");
        set_phase(m, PHASE_TLS, NULL);
        for (;;) {
                ERR_clear_error();
                errno = 0;
                r = SSL_do_handshake(ssl);
                if (r == 1)
                        break;
                error = SSL_get_error(ssl, r);
                if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
                        m->end_class = uplink_tls_describe_failure(
                                &m->peer, error, errno, m->end_text, sizeof(m->end_text));
                        return m->end_class == UPLINK_ERROR_NETWORK ? 0 : -ECANCELED;
                }
                r = wait_socket(m, fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT,
                                deadline_usec);
                if (r < 0)
                        return r;
                if (r == 0) {
                        (void) end(m, UPLINK_ERROR_TIMEOUT,
                                   "%s (%s, port %u) accepted the connection but did not answer "
                                   "TLS",
                                   m->host, m->address, m->port);
                        return 0;
                }
        }

        uplink_tls_forget_roots(m->tls_context);
        /* libmosquitto 2.0.11 calls SSL_connect() once more here, which tells it that the handshake
         * is over; later versions never try on their own and just find nothing to read. */
        if (mosquitto_loop_read(m->mosq, 1) != MOSQ_ERR_SUCCESS)
                return explain_line(m); /* the peer closed behind its handshake */
        if (uplink_tls_buffer_push(ssl) < 0)
                return end(m, UPLINK_ERROR_LOCAL, "Cannot prepare the connection: out of memory");
        return 1;
}

static int refused(UplinkMosquitto *m) {
        const char *text;
        UplinkErrorClass class = connack_class(m->connack, &text);

        m->end_connack = m->connack;
        return end(m, class, "%s refused the connection: %s (MQTT return code %d)", m->host, text,
                   m->connack);
}

static bool is_network_down(int error) {
        return error == ENETDOWN || error == ENETUNREACH || error == EHOSTUNREACH;
}

/* Sends CONNECT and waits for CONNACK. 1, or -ECANCELED. */
static int introduce(UplinkMosquitto *m, usec_t deadline_usec) {
        int fd = mosquitto_socket(m->mosq), r, error = 0;
        socklen_t n = sizeof(error);

        set_phase(m, PHASE_MQTT, NULL);
        m->connack = CONNACK_NONE;
        while (m->connack == CONNACK_NONE) {
                SSL *ssl = mosquitto_ssl_get(m->mosq);
                bool more;

                if (mosquitto_want_write(m->mosq) &&
                    mosquitto_loop_write(m->mosq, 1) != MOSQ_ERR_SUCCESS)
                        break;
                if (uplink_tls_buffer_flush(ssl) < 0)
                        break;
                more = mosquitto_want_write(m->mosq) || uplink_tls_buffer_pending(ssl);
                r = wait_socket(m, fd, (short) (POLLIN | (more ? POLLOUT : 0)), deadline_usec);
                if (r < 0)
                        return r;
                if (r == 0)
                        return end(m, UPLINK_ERROR_TIMEOUT,
                                   "%s (port %u) did not answer the MQTT connect", m->host,
                                   m->port);
                /* Asked for before the library reads, which takes it off. */
                (void) getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n); /* only names the reason */
                if (mosquitto_loop_read(m->mosq, 1) != MOSQ_ERR_SUCCESS)
                        break;
        }

        if (m->connack == 0)
                return 1;
        if (m->connack != CONNACK_NONE)
                return refused(m);
        if (uplink_tls_line_is_about_us(&m->peer, m->library_line))
                return explain_line(m);
        if (error == ETIMEDOUT)
                return end(m, UPLINK_ERROR_TIMEOUT, "%s (port %u) did not answer the MQTT connect",
                           m->host, m->port);
        if (is_network_down(error))
                return end(m, UPLINK_ERROR_NETWORK, "The network failed during the MQTT connect: %s",
                           strerror(error));
        return end(m, UPLINK_ERROR_CUT,
                   "%s closed the connection without an answer to the MQTT connect", m->host);
}

/* 1 when connected, 0 when another address may do better, -ECANCELED when the attempt is over. */
static int try_address(UplinkMosquitto *m, const struct addrinfo *a, usec_t deadline_usec) {
        char address[NI_MAXHOST];
        int r;

        r = getnameinfo(a->ai_addr, a->ai_addrlen, address, sizeof(address), NULL, 0,
                        NI_NUMERICHOST);
        if (r != 0) {
                (void) end(m, UPLINK_ERROR_LOCAL, "Cannot write down an address of %s: %s", m->host,
                           gai_strerror(r));
                return 0;
        }
        r = new_instance(m);
        if (r < 0)
                return r;
        r = connect_address(m, address, deadline_usec);
        if (r <= 0)
                return r;
        r = shake_hands(m, deadline_usec);
        if (r <= 0)
                return r;
        return introduce(m, deadline_usec);
}

static int try_addresses(UplinkMosquitto *m, const struct addrinfo *list) {
        usec_t deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), m->connect_timeout_usec);
        unsigned n_left = 0;

        for (const struct addrinfo *a = list; a; a = a->ai_next)
                n_left++;
        for (const struct addrinfo *a = list; a; a = a->ai_next, n_left--) {
                usec_t now = now_usec(CLOCK_MONOTONIC);
                int r;

                /* A silent address leaves the others their share. */
                r = try_address(m, a, usec_add(now, usec_sub(deadline_usec, now) / n_left));
                if (r != 0)
                        return r;
        }
        return -ECANCELED; /* the last one said why */
}

/* localhost is this machine without asking anybody (RFC 6761 section 6.3): a minimal system has no hosts file, and
 * where there is no network the name server does not answer for it. */
static const char *name_to_look_up(const char *host) {
        return strcasecmp(host, "localhost") == 0 ? "127.0.0.1" : host;
}

static int take_certificate(UplinkMosquitto *m) {
        _cleanup_free_ char *problem = NULL;
        int r;

        if (!m->certificate)
                return 0;
        set_phase(m, PHASE_KEY, NULL);
        r = client_certificate_use(m->certificate, m->tls_context, &problem);
        if (is_abandoned(m))
                return -ECANCELED;
        if (r < 0)
                return end(m, UPLINK_ERROR_CERTIFICATE, "%s",
                           problem ? problem : "The device's certificate cannot be used: out of memory");
        return 0;
}

/* The hub does not say what it has against a device; where the certificate's dates are wrong they
 * come first. */
static void blame_dates(UplinkMosquitto *m) {
        char text[TEXT_MAX / 2];
        CertificateAge age;
        size_t n = strlen(m->end_text);

        if (!m->certificate || (m->end_class != UPLINK_ERROR_REFUSED && m->end_class != UPLINK_ERROR_TLS &&
                                m->end_class != UPLINK_ERROR_CERTIFICATE))
                return;
        age = client_certificate_age(m->certificate, now_usec(CLOCK_REALTIME), text, sizeof(text));
        if (age != CERTIFICATE_ENDED && age != CERTIFICATE_NOT_YET_VALID)
                return;
        m->end_class = UPLINK_ERROR_CERTIFICATE;
        (void) snprintf(m->end_text + n, sizeof(m->end_text) - n, ". %s", text);
}

static int resolve_and_connect(UplinkMosquitto *m) {
        static const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
        struct addrinfo *list;
        int r, saved;

        m->peer.host = m->host;
        m->peer.knows_us = m->certificate;
        if (uplink_tls_context_new(m->ca_file, &m->peer, &m->tls_context, m->end_text,
                                   sizeof(m->end_text)) < 0) {
                m->end_class = UPLINK_ERROR_LOCAL;
                return -ECANCELED;
        }
        r = getaddrinfo(name_to_look_up(m->host), NULL, &hints, &list);
        saved = errno;
        if (is_abandoned(m)) {
                if (r == 0)
                        freeaddrinfo(list);
                return -ECANCELED;
        }
        if (r != 0)
                return end(m, UPLINK_ERROR_DNS, "Cannot find the address of %s: %s", m->host,
                           r == EAI_SYSTEM ? strerror(saved) : gai_strerror(r));
        r = take_certificate(m);
        if (r >= 0)
                r = try_addresses(m, list);
        freeaddrinfo(list);
        if (r < 0)
                blame_dates(m);
        return r;
}

/* The thread: connected. */

static int library_failed(UplinkMosquitto *m, int r, int error, int socket_error) {
        char span[FORMAT_TIMESPAN_MAX];
        int e = socket_error != 0 ? socket_error : error;

        format_timespan(span, sizeof(span), now_usec(CLOCK_MONOTONIC) - m->connected_usec);
        if (r == MOSQ_ERR_NOMEM)
                return end(m, UPLINK_ERROR_LOCAL, "The connection was given up: out of memory");
        if (r == MOSQ_ERR_KEEPALIVE || socket_error == ETIMEDOUT)
                return end(m, UPLINK_ERROR_TIMEOUT,
                           "%s stopped answering after %s", m->host, span);
        if (is_network_down(socket_error))
                return end(m, UPLINK_ERROR_NETWORK, "The network failed after %s: %s", span,
                           strerror(e));
        if (r == MOSQ_ERR_PROTOCOL)
                return end(m, UPLINK_ERROR_CUT, "%s broke the MQTT protocol after %s", m->host,
                           span);
        return end(m, UPLINK_ERROR_CUT,
                   "%s closed the connection after %s with %zu messages unconfirmed%s%s", m->host,
                   span, m->in_flight.n, socket_error != 0 ? ": " : "",
                   socket_error != 0 ? strerror(socket_error) : "");
}

static int hand_over_confirmed(UplinkMosquitto *m) {
        int r;

        if (m->confirmed_now.size == 0)
                return 0;
        lock(m);
        r = buffer_append(&m->confirmed, m->confirmed_now.data, m->confirmed_now.size);
        report_locked(m);
        unlock(m);
        m->confirmed_now.size = 0;
        return r;
}

/* Reads until nothing is left, neither in the socket nor in OpenSSL's buffer, of which poll() knows
 * nothing. */
static int read_all(UplinkMosquitto *m, int socket_error) {
        char c;
        int r;

        do {
                SSL *ssl;

                errno = 0;
                r = mosquitto_loop_read(m->mosq, 1);
                if (r != MOSQ_ERR_SUCCESS) {
                        int error = errno;

                        (void) hand_over_confirmed(m); /* without memory they are sent again */
                        return library_failed(m, r, error, socket_error);
                }
                ssl = mosquitto_ssl_get(m->mosq);
                if (!ssl || !SSL_has_pending(ssl))
                        break;
                r = SSL_peek(ssl, &c, 1);
                ERR_clear_error();
        } while (r > 0);

        m->last_in_usec = now_usec(CLOCK_MONOTONIC);
        m->ping_usec = 0;
        if (hand_over_confirmed(m) < 0 || m->no_memory)
                return library_failed(m, MOSQ_ERR_NOMEM, 0, 0);
        return 0;
}

static int build_topic(UplinkMosquitto *m, const OutboxDelivery *d) {
        int r;

        m->topic.size = 0;
        r = buffer_append_string(&m->topic, m->topic_prefix);
        if (r >= 0)
                r = buffer_append_string(&m->topic, "%24.mid=");
        if (r >= 0)
                r = percent_encode_append(&m->topic, d->message_id, strlen(d->message_id));
        if (r >= 0 && d->bag_size > 0)
                r = buffer_append(&m->topic, "&", 1);
        if (r >= 0 && d->bag_size > 0)
                r = buffer_append(&m->topic, d->bag, d->bag_size);
        if (r >= 0)
                r = buffer_append(&m->topic, "", 1);
        return r;
}

/* NULL when the library's refusal is not the message's fault. */
static const char *unsendable_reason(int code) {
        switch (code) {
        case MOSQ_ERR_INVAL: return "its topic is longer than 65535 bytes or holds + or #";
        case MOSQ_ERR_MALFORMED_UTF8: return "its topic is not valid UTF-8";
        case MOSQ_ERR_PAYLOAD_SIZE:
        case MOSQ_ERR_OVERSIZE_PACKET: return "it is too large for MQTT";
        default: return NULL;
        }
}

static int hand_over_unsendable(UplinkMosquitto *m, uint64_t seq, const char *reason) {
        Unsendable u = { .seq = seq, .reason = reason };
        int r;

        lock(m);
        r = buffer_append(&m->unsendable, &u, sizeof(u));
        report_locked(m);
        unlock(m);
        return r;
}

static int publish(UplinkMosquitto *m, const OutboxDelivery *d) {
        const char *reason;
        uint64_t oldest;
        int r, mid;

        if (build_topic(m, d) < 0)
                return library_failed(m, MOSQ_ERR_NOMEM, 0, 0);
        r = mosquitto_publish(m->mosq, &mid, (const char *) m->topic.data, (int) d->body_size,
                              d->body, /* qos= */ 1,
                              /* retain= */ false);
        if (r != MOSQ_ERR_SUCCESS) {
                reason = unsendable_reason(r);
                if (reason && hand_over_unsendable(m, d->seq, reason) >= 0)
                        return 0;
                return library_failed(m, reason ? MOSQ_ERR_NOMEM : r, errno, 0);
        }
        /* Message ids have 16 bits and come round: one that is still unconfirmed must not be given
         * twice. */
        if (uplink_window_oldest(&m->in_flight, &oldest) && oldest == (uint64_t) mid)
                return end(m, UPLINK_ERROR_UNCONFIRMED,
                           "%s leaves a message unconfirmed while it confirms later ones", m->host);
        uplink_window_add(&m->in_flight, (uint64_t) mid, d->seq);
        return 0;
}

/* Takes what was handed over and lets the library queue it; the caller writes. */
static int publish_inbox(UplinkMosquitto *m, bool *ret_disconnect) {
        OutboxDelivery **d;
        Buffer taken;
        int r = 0;

        lock(m);
        if (m->abandoned) {
                unlock(m);
                return -ECANCELED;
        }
        taken = m->inbox;
        m->inbox = m->outgoing;
        m->outgoing = taken;
        m->inbox_since_usec = 0;
        *ret_disconnect = m->disconnect;
        unlock(m);

        d = (OutboxDelivery **) taken.data;
        for (size_t i = 0; r >= 0 && i < taken.size / sizeof(*d); i++)
                r = publish(m, d[i]);
        free_deliveries(&m->outgoing);
        return r;
}

static int write_all_queued(UplinkMosquitto *m) {
        int r;

        if (mosquitto_want_write(m->mosq)) {
                errno = 0;
                r = mosquitto_loop_write(m->mosq, 1); /* one call empties the queue */
                if (r != MOSQ_ERR_SUCCESS)
                        return library_failed(m, r, errno, 0);
                m->last_out_usec = now_usec(CLOCK_MONOTONIC);
        }
        if (uplink_tls_buffer_flush(mosquitto_ssl_get(m->mosq)) < 0)
                return library_failed(m, MOSQ_ERR_CONN_LOST, errno, 0);
        return 0;
}

static usec_t pong_timeout(const UplinkMosquitto *m) {
        return MIN(m->keep_alive_usec / 2, PONG_USEC_MAX);
}

/* The library counts whole seconds; with one more it agrees that a PINGREQ is due. */
static usec_t keep_alive_due(const UplinkMosquitto *m) {
        if (m->ping_usec > 0)
                return usec_add(m->ping_usec, pong_timeout(m));
        return usec_add(MIN(m->last_in_usec, m->last_out_usec), m->keep_alive_usec + USEC_PER_SEC);
}

/* The library's own loop looks once a second and gives a dead link a whole second interval. */
static int keep_alive(UplinkMosquitto *m) {
        usec_t now = now_usec(CLOCK_MONOTONIC);
        int r;

        if (now < keep_alive_due(m))
                return 0;
        if (m->ping_usec > 0)
                return library_failed(m, MOSQ_ERR_KEEPALIVE, 0, 0);
        r = mosquitto_loop_misc(m->mosq);
        if (r != MOSQ_ERR_SUCCESS)
                return library_failed(m, r, errno, 0);
        if (mosquitto_want_write(m->mosq))
                m->ping_usec = now;
        else
                m->last_in_usec = m->last_out_usec =
                        now - m->keep_alive_usec; /* it was not due yet: in a second */
        return write_all_queued(m);
}

/* The library closes the socket right behind its DISCONNECT, so all else must have left before. */
static int say_goodbye(UplinkMosquitto *m) {
        uplink_tls_buffer_pop(mosquitto_ssl_get(m->mosq));
        if (mosquitto_disconnect(m->mosq) == MOSQ_ERR_SUCCESS)
                (void) mosquitto_loop_write(m->mosq,
                                            1); /* a goodbye that is lost changes nothing */
        return end(m, UPLINK_ERROR_NONE, "Disconnected");
}

/* One turn of the connected thread. 0, or -ECANCELED at the end of the connection. */
static int turn(UplinkMosquitto *m) {
        SSL *ssl = mosquitto_ssl_get(m->mosq);
        int fd = mosquitto_socket(m->mosq), r, socket_error = 0;
        usec_t now = now_usec(CLOCK_MONOTONIC);
        bool blocked, disconnect = false;
        struct pollfd p[2];

        blocked = mosquitto_want_write(m->mosq) || uplink_tls_buffer_pending(ssl);
        p[0] = (struct pollfd) { .fd = fd, .events = (short) (POLLIN | (blocked ? POLLOUT : 0)) };
        p[1] = (struct pollfd) { .fd = m->wake_fd, .events = POLLIN };
        r = poll(p, ELEMENTSOF(p),
                 (int) MIN(usec_sub(keep_alive_due(m), now) / USEC_PER_MSEC + 1,
                           (usec_t) INT32_MAX));
        if (r < 0)
                return errno == EINTR || errno == ENOMEM
                               ? 0
                               : library_failed(m, MOSQ_ERR_ERRNO, errno, 0);

        if (p[1].revents != 0)
                drain_fd(m->wake_fd);
        if (p[0].revents & POLLERR) {
                socklen_t n = sizeof(socket_error);

                (void) getsockopt(fd, SOL_SOCKET, SO_ERROR, &socket_error,
                                  &n); /* only names the reason */
        }
        if (p[0].revents & (POLLIN | POLLERR | POLLHUP)) {
                r = read_all(m, socket_error);
                if (r < 0)
                        return r;
        }
        r = publish_inbox(m, &disconnect);
        if (r < 0)
                return r;
        r = write_all_queued(m);
        if (r < 0)
                return r;
        if (disconnect && !mosquitto_want_write(m->mosq) &&
            !uplink_tls_buffer_pending(mosquitto_ssl_get(m->mosq)))
                return say_goodbye(m);
        return keep_alive(m);
}

static void stay_connected(UplinkMosquitto *m) {
        m->connected_usec = m->last_in_usec = m->last_out_usec = now_usec(CLOCK_MONOTONIC);
        m->password = erase_and_free(m->password);
        /* Without a reconnect inside the library it needs no name and token any more. */
        (void) mosquitto_username_pw_set(m->mosq, NULL, NULL); /* only frees */
        mosquitto_log_callback_set(m->mosq, NULL); /* it would format a line for each packet */
        lock(m);
        m->phase = PHASE_CONNECTED;
        m->connected = true;
        report_locked(m);
        unlock(m);

        while (turn(m) >= 0)
                ;
}

static void *thread_main(void *userdata) {
        UplinkMosquitto *m = userdata;
        bool abandoned;

        if (resolve_and_connect(m) > 0)
                stay_connected(m);
        mosquitto_destroy(m->mosq);
        SSL_CTX_free(m->tls_context);
        OPENSSL_thread_stop(); /* now, so that nothing of ours is left once this thread counts as
                                  gone */

        lock(m);
        m->ended = true;
        abandoned = m->abandoned;
        report_locked(m);
        unlock(m);
        unreference(m);
        if (abandoned)
                atomic_fetch_sub(&n_abandoned, 1);
        return NULL;
}

/* The loop's side. */

static int start_thread(UplinkMosquitto *m) {
        sigset_t all, before;
        pthread_attr_t attr;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attr);
        if (r != 0)
                return -r;
        (void) pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED); /* a valid value */
        (void) pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES); /* else the default is used */
        /* Signals are the loop's business. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, &attr, thread_main, m);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void) pthread_attr_destroy(&attr);
        if (r != 0)
                return -r;
        (void) pthread_setname_np(thread, "uplink"); /* cosmetic */
        return 0;
}

static int copy_options(UplinkMosquitto *m, const UplinkMosquittoOptions *o) {
        const struct {
                const char *from;
                char **to;
        } strings[] = {
                { o->host, &m->host },
                { o->client_id, &m->client_id },
                { o->user_name, &m->user_name },
                { o->password, &m->password },
                { o->topic_prefix, &m->topic_prefix },
                { o->ca_file, &m->ca_file },
        };

        for (size_t i = 0; i < ELEMENTSOF(strings); i++) {
                if (!strings[i].from)
                        continue;
                *strings[i].to = strdup(strings[i].from);
                if (!*strings[i].to)
                        return -ENOMEM;
        }
        m->certificate = client_certificate_ref(o->certificate);
        m->port = o->port;
        m->keep_alive_usec = o->keep_alive_usec;
        m->connect_timeout_usec = o->connect_timeout_usec;
        m->ack_timeout_usec = o->ack_timeout_usec;
        return uplink_window_init(&m->in_flight, o->window);
}

int uplink_mosquitto_new(const UplinkMosquittoOptions *options, const UplinkMosquittoEvents *events,
                         UplinkMosquitto **ret) {
        UplinkMosquitto *m;
        int r;

        uplink_mosquitto_init();
        if (atomic_load(&n_abandoned) >= UPLINK_MOSQUITTO_ABANDONED_MAX)
                return -EBUSY;
        m = malloc(sizeof(*m));
        if (!m)
                return -ENOMEM;
        *m = (UplinkMosquitto) { .wake_fd = -EBADF,
                                .report_fd = -EBADF,
                                .events = *events,
                                .n_references = 2,
                                .mutex = PTHREAD_MUTEX_INITIALIZER,
                                .connack = CONNACK_NONE };
        m->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        m->report_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = m->wake_fd < 0 || m->report_fd < 0 ? -errno : copy_options(m, options);
        if (r >= 0)
                r = start_thread(m);
        if (r < 0) {
                destroy(m);
                return r;
        }
        *ret = m;
        return 0;
}

UplinkMosquitto *uplink_mosquitto_free(UplinkMosquitto *m) {
        if (!m)
                return NULL;
        lock(m);
        m->abandoned = true;
        if (!m->ended)
                atomic_fetch_add(&n_abandoned, 1);
        signal_fd(m->wake_fd);
        unlock(m);
        unreference(m);
        return NULL;
}

unsigned uplink_mosquitto_n_abandoned(void) {
        return atomic_load(&n_abandoned);
}

int uplink_mosquitto_fd(UplinkMosquitto *m) {
        return m->report_fd;
}

static void tell_unsendable(UplinkMosquitto *m, Buffer *b) {
        const Unsendable *u = (const Unsendable *) b->data;

        for (size_t i = 0; i < b->size / sizeof(*u); i++)
                m->events.on_unsendable(u[i].seq, u[i].reason, m->events.userdata);
        buffer_done(b);
}

void uplink_mosquitto_process(UplinkMosquitto *m) {
        bool resolved, connected, ended;
        Buffer taken, unsendable;

        lock(m);
        drain_fd(m->report_fd);
        m->reported = false;
        resolved = m->phase > PHASE_RESOLVING;
        connected = m->connected;
        ended = m->ended;
        /* The two buffers swap places, so neither is ever allocated anew. */
        taken = m->confirmed;
        m->confirmed = m->telling;
        m->telling = taken;
        unsendable = m->unsendable;
        m->unsendable = (Buffer) {};
        unlock(m);

        if (resolved && !m->told_resolved) {
                m->told_resolved = true;
                m->events.on_resolved(m->events.userdata);
        }
        if (connected && !m->told_connected) {
                m->told_connected = true;
                m->events.on_connected(m->events.userdata);
        }
        if (m->telling.size > 0) {
                m->events.on_confirmed((const uint64_t *) m->telling.data,
                                       m->telling.size / sizeof(uint64_t), m->events.userdata);
                m->telling.size = 0;
        }
        tell_unsendable(m, &unsendable);
        if (ended) {
                UplinkMosquittoEnd e = { .class = m->end_class,
                                         .connack = m->end_connack,
                                         .text = m->end_text };

                m->events.on_ended(&e, m->events.userdata);
        }
}

int uplink_mosquitto_send(UplinkMosquitto *m, OutboxDelivery **deliveries, size_t n_deliveries) {
        bool wake;
        int r;

        lock(m);
        wake = m->inbox.size == 0;
        r = buffer_append(&m->inbox, deliveries, n_deliveries * sizeof(*deliveries));
        if (r >= 0 && wake)
                m->inbox_since_usec = now_usec(CLOCK_BOOTTIME);
        unlock(m);
        if (r < 0)
                for (size_t i = 0; i < n_deliveries; i++)
                        outbox_delivery_free(deliveries[i]);
        else if (wake)
                signal_fd(m->wake_fd);
        return r;
}

void uplink_mosquitto_disconnect(UplinkMosquitto *m) {
        lock(m);
        m->disconnect = true;
        if (m->inbox_since_usec == 0)
                m->inbox_since_usec = now_usec(CLOCK_BOOTTIME);
        unlock(m);
        signal_fd(m->wake_fd);
}

usec_t uplink_mosquitto_busy_since(UplinkMosquitto *m) {
        usec_t since;

        lock(m);
        since = m->phase == PHASE_CONNECTED && !m->ended ? m->inbox_since_usec : 0;
        unlock(m);
        return since;
}

void uplink_mosquitto_phase(UplinkMosquitto *m, char *buf, size_t size,
                            UplinkErrorClass *ret_class) {
        lock(m);
        *ret_class = m->phase == PHASE_RESOLVING ? UPLINK_ERROR_DNS : UPLINK_ERROR_TIMEOUT;
        if (m->phase == PHASE_RESOLVING)
                (void) snprintf(buf, size, "No name server answered for %s in time", m->host);
        else if (m->phase == PHASE_KEY)
                (void) snprintf(buf, size,
                                "What keeps the device's private key did not answer in time");
        else
                (void) snprintf(buf, size, "%s (%s, port %u) did not answer in time", m->host,
                                m->address, m->port);
        unlock(m);
}
