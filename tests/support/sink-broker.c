#include "tests/support/sink-broker.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <openssl/ssl.h>

#include "lib/buffer.h"
#include "lib/macro.h"

#define MQTT_CONNECT 0x10
#define MQTT_PUBLISH 0x30
#define MQTT_UNSUBSCRIBE 0xa0
#define MQTT_PINGREQ 0xc0
#define MQTT_DISCONNECT 0xe0

typedef struct Session {
        const SinkBrokerOptions *options;
        SSL *ssl;
        Buffer in, out;
        uint64_t n_publishes;
        bool subscribed;
} Session;

/* Length of the whole packet, 0 when its header is not complete. */
static size_t packet_size(const uint8_t *p, size_t n, size_t *ret_header) {
        size_t length = 0, i;

        for (i = 1; i < n && i < 5; i++) {
                length |= (size_t) (p[i] & 0x7f) << (7 * (i - 1));
                if (!(p[i] & 0x80)) {
                        *ret_header = i + 1;
                        return i + 1 + length;
                }
        }
        return 0;
}

static bool answer(Session *s, const void *data, size_t n) {
        return buffer_append(&s->out, data, n) >= 0;
}

static bool on_publish(Session *s, const uint8_t *p, const uint8_t *body) {
        size_t n_topic = (size_t) body[0] << 8 | body[1];
        const uint8_t *mid = body + 2 + n_topic;
        const SinkBrokerOptions *o = s->options;

        if (s->subscribed || o->cut_always || (o->cut_at && memmem(body + 2, n_topic, o->cut_at, strlen(o->cut_at))))
                return false;
        if (o->stop_after > 0 && s->n_publishes >= o->stop_after)
                return false;
        s->n_publishes++;
        if (!(p[0] & 0x06) || o->no_puback)
                return true;
        return answer(s, (uint8_t[]) { 0x40, 2, mid[0], mid[1] }, 4);
}

static bool on_connect(Session *s) {
        uint8_t present = s->options->old_session;

        s->subscribed = present;
        return s->options->no_connack || answer(s, (uint8_t[]) { 0x20, 2, present, s->options->connack }, 4);
}

static bool on_unsubscribe(Session *s, const uint8_t *body) {
        static const char filter[] = "devices/dev/messages/devicebound/#";

        if (((size_t) body[2] << 8 | body[3]) != sizeof(filter) - 1 || memcmp(body + 4, filter, sizeof(filter) - 1) != 0)
                return false;
        s->subscribed = false;
        return answer(s, (uint8_t[]) { 0xb0, 2, body[0], body[1] }, 4);
}

static bool on_packet(Session *s, const uint8_t *p, const uint8_t *body) {
        switch (p[0] & 0xf0) {
        case MQTT_CONNECT: return on_connect(s);
        case MQTT_UNSUBSCRIBE: return on_unsubscribe(s, body);
        case MQTT_PUBLISH: return on_publish(s, p, body);
        case MQTT_PINGREQ: return answer(s, (uint8_t[]) { 0xd0, 0 }, 2);
        case MQTT_DISCONNECT:
        default: return false;
        }
}

static bool on_bytes(Session *s) {
        size_t header = 0, size, done = 0;
        bool go_on = true;

        while (go_on && (size = packet_size(s->in.data + done, s->in.size - done, &header)) > 0 &&
               s->in.size - done >= size) {
                const uint8_t *p = s->in.data + done;

                go_on = on_packet(s, p, p + header);
                done += size;
        }
        buffer_consume(&s->in, done);
        return go_on;
}

static void serve(Session *s) {
        uint8_t chunk[65536];
        bool go_on = SSL_accept(s->ssl) == 1;

        while (go_on) {
                int n = SSL_read(s->ssl, chunk, sizeof(chunk));

                if (n <= 0 || buffer_append(&s->in, chunk, (size_t) n) < 0)
                        return;
                /* All records that the socket brought are answered in one write. */
                while (SSL_pending(s->ssl) > 0 && (n = SSL_read(s->ssl, chunk, sizeof(chunk))) > 0)
                        if (buffer_append(&s->in, chunk, (size_t) n) < 0)
                                return;
                go_on = on_bytes(s);
                if (s->out.size > 0 && SSL_write(s->ssl, s->out.data, (int) s->out.size) <= 0)
                        return;
                s->out.size = 0;
        }
}

/* Closing with unread bytes would send RST, which may overtake the last PUBACKs. */
static void hang_up(int fd) {
        char chunk[65536];

        (void) shutdown(fd, SHUT_WR);
        while (read(fd, chunk, sizeof(chunk)) > 0)
                ;
        (void) close(fd);
}

static void run(const SinkBrokerOptions *o, int listen_fd) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

        if (!ctx || SSL_CTX_use_certificate_chain_file(ctx, o->cert_file) != 1 ||
            SSL_CTX_use_PrivateKey_file(ctx, o->key_file, SSL_FILETYPE_PEM) != 1)
                _exit(1);
        SSL_CTX_set_read_ahead(ctx, 1);
        (void) signal(SIGPIPE, SIG_IGN);
        for (;;) {
                int fd = accept(listen_fd, NULL, NULL), on = 1;
                Session s = { .options = o, .ssl = SSL_new(ctx) };

                if (fd < 0 || !s.ssl)
                        _exit(1);
                (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
                SSL_set_fd(s.ssl, fd);
                if (!o->cut_tls)
                        serve(&s);
                SSL_free(s.ssl);
                buffer_done(&s.in);
                buffer_done(&s.out);
                hang_up(fd);
        }
}

pid_t sink_broker_start(const SinkBrokerOptions *options, unsigned *ret_port) {
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(a);
        _cleanup_close_ int fd = -EBADF;
        pid_t parent = getpid(), pid;

        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (options->address && inet_pton(AF_INET, options->address, &a.sin_addr) != 1)
                return -EINVAL;
        if (fd < 0 || bind(fd, (struct sockaddr *) &a, sizeof(a)) < 0 || listen(fd, 16) < 0 ||
            getsockname(fd, (struct sockaddr *) &a, &n) < 0)
                return -errno;
        *ret_port = ntohs(a.sin_port);
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid > 0)
                return pid;
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
                run(options, fd);
        _exit(0);
}

void sink_broker_stop(pid_t pid) {
        if (pid <= 0)
                return;
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
}
