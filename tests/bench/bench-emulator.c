/* How fast the emulator takes telemetry, beside stock mosquitto with TLS: one connection, QoS 1,
 * 200 in flight. The publisher is as light as can be, so that it is the broker that is measured. */

#include <assert.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <openssl/ssl.h>

#include "emulator/hub.h"
#include "lib/buffer.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/parse-util.h"
#include "lib/sas-token.h"

#define WINDOW 200U
#define MESSAGES 200000U
#define BODY_BYTES 200U
#define ROUNDS 3U
#define DEVICE "bench"

#define TRY(what, ok)                                                                              \
        do {                                                                                       \
                if (!(ok)) {                                                                       \
                        fprintf(stderr, "bench-emulator: %s failed: %s\n", what, strerror(errno)); \
                        exit(EXIT_FAILURE);                                                        \
                }                                                                                  \
        } while (0)

static pid_t child;

static void stop_child(void) {
        if (child > 0) {
                kill(child, SIGTERM);
                waitpid(child, NULL, 0);
                child = 0;
        }
}

static int connect_loopback(unsigned port) {
        struct sockaddr_in a = { .sin_family = AF_INET,
                                 .sin_port = htons((uint16_t) port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

        if (connect(fd, (struct sockaddr *) &a, sizeof(a)) < 0) {
                close(fd);
                return -errno;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        return fd;
}

static void add_packet(Buffer *b, uint8_t type, const Buffer *body) {
        size_t n = body->size;

        buffer_append(b, &type, 1);
        do {
                uint8_t byte = (uint8_t) ((n & 0x7f) | (n > 0x7f ? 0x80 : 0));

                buffer_append(b, &byte, 1);
                n >>= 7;
        } while (n > 0);
        buffer_append(b, body->data, body->size);
}

static void add_text(Buffer *b, const char *s) {
        size_t n = strlen(s);

        buffer_append(b, (uint8_t[]) { (uint8_t) (n >> 8), (uint8_t) n }, 2);
        buffer_append_string(b, s);
}

static void write_tls(SSL *ssl, const Buffer *b) {
        size_t at = 0, n;

        while (at < b->size) {
                TRY("SSL_write", SSL_write_ex(ssl, b->data + at, b->size - at, &n) == 1);
                at += n;
        }
}

static void send_connect(SSL *ssl, const char *user, const char *password) {
        Buffer body = { 0 }, packet = { 0 };
        uint8_t answer[4];
        size_t n;

        add_text(&body, "MQTT");
        buffer_append(&body, (uint8_t[]) { 4, 0xc2, 0, 60 }, 4);
        add_text(&body, DEVICE);
        add_text(&body, user);
        add_text(&body, password);
        add_packet(&packet, 0x10, &body);
        write_tls(ssl, &packet);
        TRY("CONNACK",
            SSL_read_ex(ssl, answer, sizeof(answer), &n) == 1 && n == 4 && answer[3] == 0);
        buffer_done(&body);
        buffer_done(&packet);
}

/* Messages per second. */
static double publish(SSL *ssl) {
        Buffer out = { 0 }, body = { 0 };
        char topic[] = "devices/" DEVICE "/messages/events/%24.mid=m-0000000001&sensor=wind",
             text[BODY_BYTES];
        uint8_t answers[4096];
        unsigned sent = 0, acknowledged_bytes = 0;
        usec_t start = now_usec(CLOCK_MONOTONIC);
        size_t n;

        memset(text, 'x', sizeof(text));
        while (acknowledged_bytes / 4 < MESSAGES) {
                out.size = 0;
                for (; sent < MESSAGES && sent - acknowledged_bytes / 4 < WINDOW; sent++) {
                        unsigned mid = sent % 65535 + 1;

                        body.size = 0;
                        add_text(&body, topic);
                        buffer_append(&body, (uint8_t[]) { (uint8_t) (mid >> 8), (uint8_t) mid }, 2);
                        buffer_append(&body, text, sizeof(text));
                        add_packet(&out, 0x32, &body);
                }
                if (out.size > 0)
                        write_tls(ssl, &out);
                do {
                        TRY("PUBACK", SSL_read_ex(ssl, answers, sizeof(answers), &n) == 1);
                        acknowledged_bytes += (unsigned) n;
                } while (SSL_has_pending(ssl));
        }
        buffer_done(&out);
        buffer_done(&body);
        return MESSAGES / ((double) (now_usec(CLOCK_MONOTONIC) - start) / USEC_PER_SEC);
}

static double measure(unsigned port, const char *ca, const char *user, const char *password) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL *ssl;
        double rate;
        int fd;

        TRY("CA", SSL_CTX_load_verify_locations(ctx, ca, NULL) == 1);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        fd = connect_loopback(port);
        TRY("connect", fd >= 0);
        ssl = SSL_new(ctx);
        SSL_set1_host(ssl, "localhost");
        SSL_set_fd(ssl, fd);
        TRY("TLS", SSL_connect(ssl) == 1);
        send_connect(ssl, user, password);
        rate = publish(ssl);
        SSL_free(ssl);
        close(fd);
        SSL_CTX_free(ctx);
        return rate;
}

static unsigned start_emulator(const char *dir, char **ret_key) {
        HubDevice wanted = { .id = (char *) DEVICE, .enabled = true }, made;
        char *program, line[256] = "";
        const char *build = getenv("IOTHUBD_BUILD");
        unsigned mqtt, https;
        int fds[2], r;
        FILE *f;
        Hub *hub;

        r = hub_open(AT_FDCWD, "localhost", &hub);
        TRY("hub_open", r >= 0);
        r = hub_device_create(hub, &wanted, &made);
        if (r == -EEXIST)
                r = hub_device_get(hub, DEVICE, NULL, &made);
        TRY("hub_device_create", r >= 0);
        *ret_key = strdup(made.primary_key);
        hub_device_done(&made);
        hub_free(hub);

        TRY("asprintf",
            asprintf(&program, "%s/emulator/iothub-emulator", build ? build : "build") > 0);
        TRY("pipe", pipe2(fds, O_CLOEXEC) == 0);
        child = fork();
        if (child == 0) {
                dup2(fds[1], STDOUT_FILENO);
                execl(program, program, "--state", dir, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0",
                      (char *) NULL);
                _exit(127);
        }
        close(fds[1]);
        f = fdopen(fds[0], "r");
        TRY("READY", fgets(line, sizeof(line), f) &&
                                     sscanf(line, "READY mqtt=%u https=%u", &mqtt, &https) == 2);
        fclose(f);
        free(program);
        return mqtt;
}

static unsigned start_mosquitto(void) {
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(a);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        unsigned port;
        FILE *f;

        TRY("port", bind(fd, (struct sockaddr *) &a, sizeof(a)) == 0 &&
                                    getsockname(fd, (struct sockaddr *) &a, &size) == 0);
        close(fd);
        port = ntohs(a.sin_port);
        f = fopen("stock.conf", "w");
        TRY("stock.conf", f != NULL);
        fprintf(f,
                "listener %u 127.0.0.1\ncafile ca.pem\ncertfile server.pem\nkeyfile "
                "server-key.pem\n"
                "allow_anonymous true\nset_tcp_nodelay true\nlog_type error\n%s",
                port, geteuid() == 0 ? "user root\n" : "");
        fclose(f);
        child = fork();
        if (child == 0) {
                execl("/usr/sbin/mosquitto", "mosquitto", "-c", "stock.conf", (char *) NULL);
                _exit(127);
        }
        for (unsigned i = 0; i < 200; i++) {
                fd = connect_loopback(port);
                if (fd >= 0) {
                        close(fd);
                        return port;
                }
                poll(NULL, 0, 25);
        }
        TRY("mosquitto", false);
        return 0;
}

int main(void) {
        char dir[] = "/tmp/bench-emulator.XXXXXX", command[64];
        char *key, *resource, *token, *user;
        double best_stock = 0, best_emulator = 0;

        if (access("/usr/sbin/mosquitto", X_OK) < 0) {
                printf("bench-emulator: skipped, no mosquitto here\n");
                return 77;
        }
        signal(SIGPIPE, SIG_IGN);
        atexit(stop_child);
        TRY("mkdtemp", mkdtemp(dir) != NULL && chdir(dir) == 0);

        for (unsigned i = 0; i < ROUNDS; i++) {
                unsigned port = start_emulator(dir, &key);
                double rate;

                TRY("token",
                    sas_resource_device("localhost", DEVICE, NULL, &resource) >= 0 &&
                                    sas_token_make(key, resource,
                                                   now_usec(CLOCK_REALTIME) / USEC_PER_SEC + 3600,
                                                   NULL, &token) >= 0 &&
                                    hub_user_name("localhost", DEVICE, NULL, NULL, &user) >= 0);
                rate = measure(port, "ca.pem", user, token);
                stop_child();
                unlink("events.jsonl");
                best_emulator = MAX(best_emulator, rate);

                port = start_mosquitto();
                best_stock = MAX(best_stock, measure(port, "ca.pem", user, token));
                stop_child();
                free(key);
                free(resource);
                free(token);
                free(user);
        }
        printf("%u messages of %u bytes, QoS 1, window %u, TLS, best of %u rounds\n", MESSAGES,
               BODY_BYTES, WINDOW, ROUNDS);
        printf("stock mosquitto   %8.0f msg/s\n", best_stock);
        printf("emulator          %8.0f msg/s   %.2f of stock\n", best_emulator,
               best_emulator / best_stock);
        (void) snprintf(command, sizeof(command), "rm -rf %s", dir);
        return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
