/* Drain rate and CPU of the uplink, beside the usual way to use libmosquitto
 * (mosquitto_loop_start() and a window), both against the same two brokers in the same run: stock
 * mosquitto with TLS, and a sink that only acknowledges, so that the client is the limit. The
 * outbox is in memory: this is about the connection.
 *
 *     bench-uplink [MESSAGES [BODY_BYTES]] */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <mosquitto.h>

#include "lib/parse-util.h"
#include "daemon/log.h"
#include "daemon/uplink.h"
#include "tests/support/memory-outbox.h"
#include "tests/support/sink-broker.h"

#define WINDOW 200U

static uint64_t n_messages = 300000;
static uint64_t body_size = 200;
static char folder[] = "/tmp/iothubd-bench.XXXXXX", ca_file[128], cert_file[128], key_file[128];

static void die(const char *what) {
        fprintf(stderr, "bench-uplink: %s: %s\n", what, strerror(errno));
        exit(1);
}

static void shell(const char *format, ...) _printf_(1, 2);
static void shell(const char *format, ...) {
        char command[2048];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(command, sizeof(command), format, ap);
        va_end(ap);
        if (system(command) != 0)
                die(command);
}

static void make_certificates(void) {
        shell("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=bench-ca "
              "-keyout ca.key -out ca.pem "
              "2>/dev/null && openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "
              "key.pem -out csr.pem "
              "2>/dev/null && echo subjectAltName=DNS:localhost,IP:127.0.0.1 >ext && openssl x509 "
              "-req -in csr.pem -CA "
              "ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out cert.pem 2>/dev/null "
              "&& chmod 644 *.pem",
              folder);
        (void) snprintf(ca_file, sizeof(ca_file), "%s/ca.pem", folder);
        (void) snprintf(cert_file, sizeof(cert_file), "%s/cert.pem", folder);
        (void) snprintf(key_file, sizeof(key_file), "%s/key.pem", folder);
}

static unsigned free_port(void) {
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(a);
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || bind(fd, (struct sockaddr *) &a, sizeof(a)) < 0 ||
            getsockname(fd, (struct sockaddr *) &a, &n) < 0)
                die("socket");
        return ntohs(a.sin_port);
}

static bool answers(unsigned port) {
        struct sockaddr_in a = { .sin_family = AF_INET,
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                 .sin_port = htons((uint16_t) port) };
        _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        return connect(fd, (struct sockaddr *) &a, sizeof(a)) == 0;
}

static pid_t start_mosquitto(unsigned *ret_port) {
        char config[128];
        FILE *f;
        pid_t pid;

        *ret_port = free_port();
        (void) snprintf(config, sizeof(config), "%s/mosquitto.conf", folder);
        f = fopen(config, "we");
        if (!f)
                die(config);
        fprintf(f,
                "listener %u 127.0.0.1\nallow_anonymous true\ncertfile %s\nkeyfile "
                "%s\nset_tcp_nodelay true\n"
                "max_inflight_messages 0\nmax_queued_messages 0\npersistence false\nlog_dest "
                "none\nuser root\n",
                *ret_port, cert_file, key_file);
        if (fclose(f) != 0)
                die(config);
        pid = fork();
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                (void) execlp("mosquitto", "mosquitto", "-c", config, NULL);
                (void) execl("/usr/sbin/mosquitto", "mosquitto", "-c", config, NULL);
                _exit(127);
        }
        while (!answers(*ret_port)) {
                if (waitpid(pid, NULL, WNOHANG) == pid)
                        return -ENOENT;
                (void) usleep(10000); /* a benchmark may wait */
        }
        return pid;
}

/* Ours. */

static struct {
        sd_event *event;
        Outbox *outbox;
        Uplink *uplink;
} ours;

static int look(sd_event_source *s, void *userdata) {
        MemoryOutboxBooks books;

        memory_outbox_get_books(ours.outbox, &books);
        return books.n_confirmed == n_messages ? sd_event_exit(ours.event, 0) : 0;
}

static void run_uplink(unsigned port) {
        UplinkOptions o = {
                .ca_file = ca_file,
                .mqtt_port = port,
                .window = WINDOW,
                .window_bytes = 1024 * 1024,
                .keep_alive_usec = 60 * USEC_PER_SEC,
                .connect_timeout_usec = 30 * USEC_PER_SEC,
                .ack_timeout_usec = 60 * USEC_PER_SEC,
                .retry_min_usec = USEC_PER_SEC,
                .retry_max_usec = 60 * USEC_PER_SEC,
                .retry_cut_max_usec = 300 * USEC_PER_SEC,
                .retry_refused_max_usec = 600 * USEC_PER_SEC,
        };
        CredentialsOptions c = {
                .connection_string = "HostName=localhost;DeviceId=bench;SharedAccessKey="
                                     "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                .token_lifetime_usec = USEC_PER_HOUR,
        };
        UplinkEvents e = {};
        sd_event_source *source = NULL;
        Credentials *credentials;

        log_setup(LOG_TARGET_STDERR, LOG_WARNING);
        ours.outbox = memory_outbox_new(n_messages, body_size);
        if (sd_event_new(&ours.event) < 0 || credentials_new(&c, &credentials) < 0 ||
            uplink_new(ours.event, ours.outbox, credentials, &o, &e, &ours.uplink) < 0 ||
            sd_event_add_post(ours.event, &source, look, NULL) < 0 ||
            uplink_start(ours.uplink) < 0 || sd_event_loop(ours.event) < 0)
                die("uplink");
}

/* The usual way. */

static sem_t room;
static atomic_uint_fast64_t n_confirmed;

static void on_usual_connect(struct mosquitto *m, void *userdata, int code) {
        if (sem_post(userdata) < 0 || code != 0)
                die("connect");
}

static void on_usual_puback(struct mosquitto *m, void *userdata, int mid) {
        atomic_fetch_add(&n_confirmed, 1);
        (void) sem_post(&room);
}

static void run_usual(unsigned port) {
        char *body = malloc(body_size), topic[256];
        struct mosquitto *m;
        sem_t up;

        (void) mosquitto_lib_init();
        m = mosquitto_new("usual", false, &up);
        if (!m || !body || sem_init(&up, 0, 0) < 0 || sem_init(&room, 0, WINDOW) < 0)
                die("mosquitto_new");
        memset(body, 'x', body_size);
        mosquitto_connect_callback_set(m, on_usual_connect);
        mosquitto_publish_callback_set(m, on_usual_puback);
        if (mosquitto_tls_set(m, ca_file, NULL, NULL, NULL, NULL) != 0 ||
            mosquitto_max_inflight_messages_set(m, WINDOW) != 0 ||
            mosquitto_int_option(m, MOSQ_OPT_TCP_NODELAY, 1) != 0 ||
            mosquitto_connect(m, "localhost", (int) port, 60) != 0 ||
            mosquitto_loop_start(m) != 0 || sem_wait(&up) < 0)
                die("mosquitto_connect");
        for (uint64_t i = 0; i < n_messages; i++) {
                (void) snprintf(topic, sizeof(topic),
                                "devices/bench/messages/events/%%24.mid=0123456789abcdef-%" PRIu64
                                "&%%24.ct=text%%2Fplain",
                                i);
                while (sem_wait(&room) < 0)
                        ;
                if (mosquitto_publish(m, NULL, topic, (int) body_size, body, 1, false) != 0)
                        die("mosquitto_publish");
        }
        for (unsigned i = 0; i < WINDOW; i++)
                while (sem_wait(&room) < 0)
                        ;
        if (atomic_load(&n_confirmed) != n_messages)
                die("count");
}

/* In a process of its own, so that its CPU and memory can be told apart. */
static void measure(const char *client, const char *broker, void (*run)(unsigned port),
                    unsigned port) {
        usec_t start = now_usec(CLOCK_MONOTONIC), cpu;
        struct rusage u;
        double seconds;
        int status;
        pid_t pid = fork();

        if (pid < 0)
                die("fork");
        if (pid == 0) {
                run(port);
                _exit(0);
        }
        if (wait4(pid, &status, 0, &u) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
                die(client);
        seconds = (double) (now_usec(CLOCK_MONOTONIC) - start) / 1e6;
        cpu = (usec_t) (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * USEC_PER_SEC +
              (usec_t) u.ru_utime.tv_usec + (usec_t) u.ru_stime.tv_usec;
        printf("%-22s %-12s %9.0f msg/s %7.2f us CPU/msg (user %.2f, system %.2f) %8ld voluntary "
               "switches\n",
               client, broker, (double) n_messages / seconds, (double) cpu / (double) n_messages,
               ((double) u.ru_utime.tv_sec * 1e6 + (double) u.ru_utime.tv_usec) /
                       (double) n_messages,
               ((double) u.ru_stime.tv_sec * 1e6 + (double) u.ru_stime.tv_usec) /
                       (double) n_messages,
               u.ru_nvcsw);
        fflush(stdout);
}

int main(int argc, char **argv) {
        SinkBrokerOptions sink = { .cert_file = cert_file, .key_file = key_file };
        unsigned sink_port, broker_port;
        pid_t sink_pid, broker_pid;

        if ((argc > 1 && parse_u64_range(argv[1], 1, 100000000, &n_messages) < 0) ||
            (argc > 2 && parse_u64_range(argv[2], 1, 200000, &body_size) < 0) || !mkdtemp(folder))
                die("arguments");
        make_certificates();
        sink_pid = sink_broker_start(&sink, &sink_port);
        broker_pid = start_mosquitto(&broker_port);
        if (sink_pid < 0)
                die("sink");

        printf("%" PRIu64 " messages of %" PRIu64 " bytes, QoS 1, window %u, TLS\n", n_messages,
               body_size, WINDOW);
        measure("uplink", "sink", run_uplink, sink_port);
        measure("mosquitto_loop_start", "sink", run_usual, sink_port);
        if (broker_pid > 0) {
                measure("uplink", "mosquitto", run_uplink, broker_port);
                measure("mosquitto_loop_start", "mosquitto", run_usual, broker_port);
        } else
                printf("mosquitto (the broker) is not installed: its part is skipped\n");
        sink_broker_stop(sink_pid);
        sink_broker_stop(broker_pid);
        shell("rm -rf %s", folder);
        return 0;
}
