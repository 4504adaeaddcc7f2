/* iothub-emulator: a hub on one machine. This process makes the certificates, starts the broker
 * (which holds the hub, see hub-mqtt.c) and then is the TLS front of all doors. */

#include <assert.h>
#include <ctype.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sysexits.h>

#include <openssl/rand.h>
#include <systemd/sd-daemon.h>

#include "emulator/authorities.h"
#include "emulator/broker.h"
#include "emulator/certificates.h"
#include "emulator/ctl.h"
#include "emulator/hub-ctl.h"
#include "emulator/hub-front.h"
#include "emulator/hub-report.h"
#include "emulator/hub-tls.h"
#include "emulator/hub.h"
#include "emulator/state-folder.h"
#include "lib/connection-string.h"
#include "lib/fd-util.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define START_TIMEOUT_MSEC 30000
#define STOP_TIMEOUT_MSEC 5000
#define HOST_MAX 253U /* a DNS name */
#define LOCK_TIMEOUT_MSEC 2000
#define RETAIN_BYTES_MIN (1024U * 1024U) /* some events of the largest size */

typedef enum Door {
        DOOR_MQTT,
        DOOR_HTTPS,
        DOOR_AMQP,
        _DOOR_MAX,
} Door;

static const char *const door_names[_DOOR_MAX] = { [DOOR_MQTT] = "mqtt", [DOOR_HTTPS] = "https",
                                                [DOOR_AMQP] = "amqp" };

typedef struct Settings {
        const char *state;
        const char *host;
        uint64_t ports[_DOOR_MAX]; /* 0: any free one */
        uint64_t token_grace_sec;
        HubEventsLimits events;
} Settings;

typedef struct Emulator {
        Settings settings;
        int lock_fd, signal_fd, broker_fd, report_fd;
        pid_t broker;
        SSL_CTX *tls[_DOOR_MAX];
        Authorities *authorities;
        Front *front;
        HubCtl *ctl;
        char secret[33];
        bool broker_died;
} Emulator;

static int fail(int code, const char *format, ...) _printf_(2, 3);
static int fail(int code, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        (void) fputs("iothub-emulator: ", stderr);
        (void) vfprintf(stderr, format, ap);
        (void) fputc('\n', stderr);
        va_end(ap);
        return code;
}

static void print_help(void) {
        printf("iothub-emulator [OPTION...]\n"
               "iothub-emulator ctl [--state DIR] VERB...   makes trouble; ctl --help tells more\n\n"
               "A small IoT hub on this machine, for trying out, demos and tests.\n\n"
               "  --state DIR          keep certificates, registry and events in DIR\n"
               "                       (default: %s)\n"
               "  --host NAME          name of the hub (default: localhost)\n"
               "  --mqtt-port PORT     devices (default: 8883); 0 takes a free port, also below\n"
               "  --https-port PORT    registry (default: 443)\n"
               "  --amqp-port PORT     readers of events, senders to devices (default: 5671)\n"
               "  --token-grace TIME   let a connection outlive its token by this (default: 0)\n"
               "  --retain-time TIME   delete older events (default: 1d)\n"
               "  --retain-size SIZE   delete the oldest events beyond this (default: 1G)\n"
               "  --help, --version\n\n"
               "Prints \"READY mqtt=PORT https=PORT amqp=PORT\" when it serves, and writes the same "
               "to DIR/ports.\n"
               "Clients trust DIR/ca.pem; DIR/connection-string is that of the policy "
               "iothubowner,\n"
               "DIR/event-hubs-connection-string that of its events.\n",
               geteuid() == 0 ? "/var/lib/iothub-emulator" : "~/.local/state/iothub-emulator");
}

static bool is_host_name(const char *s) {
        size_t n = strlen(s);

        if (n == 0 || n > HOST_MAX)
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char) *s) && *s != '-' && *s != '.')
                        return false;
        return true;
}

enum {
        OPTION_STATE = 256,
        OPTION_HOST,
        OPTION_MQTT_PORT,
        OPTION_HTTPS_PORT,
        OPTION_AMQP_PORT,
        OPTION_TOKEN_GRACE,
        OPTION_RETAIN_TIME,
        OPTION_RETAIN_SIZE,
        OPTION_VERSION,
};

/* 0 to go on, -1 when all is done, or an exit code. */
static int parse_options(int argc, char **argv, Settings *s) {
        static const struct option options[] = {
                { "state", required_argument, NULL, OPTION_STATE },
                { "host", required_argument, NULL, OPTION_HOST },
                { "mqtt-port", required_argument, NULL, OPTION_MQTT_PORT },
                { "https-port", required_argument, NULL, OPTION_HTTPS_PORT },
                { "amqp-port", required_argument, NULL, OPTION_AMQP_PORT },
                { "token-grace", required_argument, NULL, OPTION_TOKEN_GRACE },
                { "retain-time", required_argument, NULL, OPTION_RETAIN_TIME },
                { "retain-size", required_argument, NULL, OPTION_RETAIN_SIZE },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, OPTION_VERSION },
                { NULL },
        };
        const char *allowed = "0 to 65535";
        usec_t grace;
        int c, i = 0, r;

        while ((c = getopt_long(argc, argv, "h", options, &i)) >= 0) {
                r = 0;
                switch (c) {
                case OPTION_STATE: s->state = optarg; break;
                case OPTION_HOST:
                        s->host = optarg;
                        allowed = "a host name of letters, digits, - and .";
                        r = is_host_name(optarg) ? 0 : -EINVAL;
                        break;
                case OPTION_MQTT_PORT:
                        r = parse_u64_range(optarg, 0, 65535, &s->ports[DOOR_MQTT]);
                        break;
                case OPTION_HTTPS_PORT:
                        r = parse_u64_range(optarg, 0, 65535, &s->ports[DOOR_HTTPS]);
                        break;
                case OPTION_AMQP_PORT:
                        r = parse_u64_range(optarg, 0, 65535, &s->ports[DOOR_AMQP]);
                        break;
                case OPTION_TOKEN_GRACE:
                        allowed = "a span of time such as 10min";
                        r = parse_timespan(optarg, &grace);
                        if (r >= 0)
                                s->token_grace_sec = grace / USEC_PER_SEC;
                        break;
                case OPTION_RETAIN_TIME:
                        allowed = "a span of time of at least 1s, such as 7d";
                        r = parse_timespan(optarg, &s->events.retain_usec);
                        if (r >= 0 && s->events.retain_usec < USEC_PER_SEC)
                                r = -ERANGE;
                        break;
                case OPTION_RETAIN_SIZE:
                        allowed = "a size of at least 1M, such as 4G";
                        r = parse_size(optarg, &s->events.retain_bytes);
                        if (r >= 0 && s->events.retain_bytes < RETAIN_BYTES_MIN)
                                r = -ERANGE;
                        break;
                case OPTION_VERSION: printf("iothub-emulator %s\n", PROJECT_VERSION); return -1;
                case 'h': print_help(); return -1;
                default: return EX_USAGE;
                }
                if (r < 0)
                        return fail(EX_USAGE, "--%s: \"%s\" is not %s", options[i].name, optarg,
                                    allowed);
        }
        if (optind < argc)
                return fail(EX_USAGE, "unexpected argument %s", argv[optind]);
        return 0;
}

/* The folder becomes the working directory: a unix socket's path is short, a state folder's may be
 * long. */
static int enter_state(Emulator *e) {
        _cleanup_free_ char *path = NULL;
        int r;

        r = state_folder_path(e->settings.state, &path);
        if (r < 0)
                return fail(EX_OSERR, "out of memory");

        r = state_folder_make(path);
        if (r < 0)
                return fail(EX_CANTCREAT, "cannot make the state folder %s: %s", path,
                            strerror(-r));
        if (chdir(path) < 0)
                return fail(EX_CANTCREAT, "cannot enter the state folder %s: %s", path,
                            strerror(errno));
        e->lock_fd = open("lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (e->lock_fd < 0)
                return fail(EX_CANTCREAT, "cannot write in the state folder %s: %s", path,
                            strerror(errno));
        if (flock(e->lock_fd, LOCK_EX | LOCK_NB) < 0)
                return fail(EX_TEMPFAIL, "another emulator uses the state folder %s", path);
        (void) unlink("ports"); /* of the last run; a script waits for the new one */
        return 0;
}

/* As the portal shows it for the built-in endpoint. The event hub has the name of the hub. */
static int write_events_string(const char *host, uint64_t port, const char *key) {
        _cleanup_(erase_and_freep) char *line = NULL;
        char at[16] = "";
        int r;

        if (port != 5671)
                (void) snprintf(at, sizeof(at), ":%" PRIu64, port);
        r = format_string(&line,
                          "Endpoint=sb://%s%s/;SharedAccessKeyName=" HUB_POLICY_OWNER
                          ";SharedAccessKey=%s;EntityPath=%.*s\n",
                          host, at, key, (int) strcspn(host, "."), host);
        return r < 0 ? r
                     : replace_file("event-hubs-connection-string", line, strlen(line), 0600);
}

/* Opens the hub once, alone, so that its policies exist before the broker starts, and writes down
 * the one that people need. */
static int write_connection_strings(const char *host, uint64_t amqp_port) {
        _cleanup_(hub_freep) Hub *hub = NULL;
        _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL, *text = NULL,
                                        *line = NULL;
        unsigned rights;
        int r;

        r = hub_open(AT_FDCWD, host, &hub);
        if (r == -EBADMSG)
                return fail(EX_DATAERR, "the hub's state is damaged: registry.db");
        if (r < 0)
                return fail(EX_IOERR, "cannot open the hub's state: %s", strerror(-r));
        r = hub_policy_get(hub, HUB_POLICY_OWNER, &primary, &secondary, &rights);
        if (r >= 0) {
                ConnectionString c = { .kind = CONNECTION_STRING_SERVICE,
                                       .host_name = (char *) host,
                                       .shared_access_key_name = (char *) HUB_POLICY_OWNER,
                                       .shared_access_key = primary };

                r = connection_string_format(&c, &text);
        }
        if (r >= 0 && asprintf(&line, "%s\n", text) < 0) {
                line = NULL;
                r = -ENOMEM;
        }
        if (r >= 0)
                r = replace_file("connection-string", line, strlen(line), 0600);
        if (r >= 0)
                r = write_events_string(host, amqp_port, primary);
        if (r < 0)
                return fail(EX_IOERR, "cannot write the connection string: %s", strerror(-r));
        return 0;
}

/* Loopback only: this hub's keys are for tests. SO_REUSEADDR lets a restart take the port at once.
 */
static int listen_loopback(uint64_t *port) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons((uint16_t) *port),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t size = sizeof(address);
        int one = 1;

        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
            bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
            listen(fd, SOMAXCONN) < 0 || getsockname(fd, (struct sockaddr *) &address, &size) < 0)
                return -errno;
        *port = ntohs(address.sin_port);
        return TAKE_FD(fd);
}

static int make_odd_tls(TroubleCertificate certificate, SSL_CTX **ret, void *userdata) {
        const Emulator *e = userdata;
        EVP_PKEY *key = NULL;
        X509 *x = NULL;
        int r;

        r = certificates_make_odd(AT_FDCWD, e->settings.host, certificate, &x, &key);
        if (r >= 0)
                r = hub_tls_new_pair(x, key, /* ask_certificate= */ true, ret);
        X509_free(x);
        EVP_PKEY_free(key);
        return r;
}

static int open_doors(Emulator *e) {
        static const char *const sockets[_DOOR_MAX] = { [DOOR_MQTT] = BROKER_SOCKET,
                                                        [DOOR_HTTPS] = REGISTRY_SOCKET,
                                                        [DOOR_AMQP] = AMQP_SOCKET };
        int r;

        r = front_new(e->secret, e->authorities, &e->front);
        if (r < 0)
                return fail(EX_OSERR, "cannot start: %s", strerror(-r));
        for (Door d = 0; d < _DOOR_MAX; d++) {
                _cleanup_close_ int fd = -EBADF;

                r = hub_tls_new(CERTIFICATES_SERVER, CERTIFICATES_SERVER_KEY, d == DOOR_MQTT,
                                  &e->tls[d]);
                if (r < 0)
                        return fail(EX_SOFTWARE, "cannot use the server certificate: %s",
                                    strerror(-r));
                fd = listen_loopback(&e->settings.ports[d]);
                if (fd < 0)
                        return fail(EX_UNAVAILABLE,
                                    "cannot listen on port %" PRIu64
                                    ": %s; name another with --%s-port, or 0 for any",
                                    e->settings.ports[d], strerror(-fd), door_names[d]);
                r = front_listen(e->front, d == DOOR_MQTT ? FRONT_DOOR_MQTT : FRONT_DOOR_PLAIN, fd,
                                 e->tls[d], sockets[d]);
                if (r < 0)
                        return fail(EX_OSERR, "cannot start: %s", strerror(-r));
                (void) TAKE_FD(fd);
        }
        r = hub_ctl_new(e->front, make_odd_tls, e, &e->ctl);
        if (r < 0)
                return fail(EX_CANTCREAT, "cannot make the socket " HUB_CTL_SOCKET ": %s",
                            strerror(-r));
        return 0;
}

static int start_broker(Emulator *e) {
        _cleanup_close_ int ready_fd = -EBADF;
        _cleanup_close_ int report_fd = -EBADF;
        BrokerOptions o = { .host = e->settings.host,
                            .secret = e->secret,
                            .token_grace_sec = e->settings.token_grace_sec,
                            .amqp_port = e->settings.ports[DOOR_AMQP],
                            .events = e->settings.events };
        struct pollfd poll_fds[2];
        const char *what;
        int report_fds[2], r;
        char byte;

        r = hub_report_pair(report_fds);
        if (r < 0)
                return fail(EX_OSERR, "cannot start: %s", strerror(-r));
        e->report_fd = report_fds[0];
        o.report_fd = report_fd = report_fds[1];
        front_set_hub(e->front, e->report_fd);
        r = broker_start(&o, &e->broker, &ready_fd, &what);
        if (r < 0)
                return fail(EX_UNAVAILABLE, "%s: %s", what, strerror(-r));
        e->broker_fd = (int) syscall(SYS_pidfd_open, e->broker, 0);
        if (e->broker_fd < 0)
                return fail(EX_OSERR, "cannot watch the broker: %s", strerror(errno));

        poll_fds[0] = (struct pollfd) { .fd = ready_fd, .events = POLLIN };
        poll_fds[1] = (struct pollfd) { .fd = e->signal_fd, .events = POLLIN };
        r = poll(poll_fds, 2, START_TIMEOUT_MSEC);
        if (r <= 0)
                return fail(EX_UNAVAILABLE, "the broker does not get ready");
        if (poll_fds[1].revents)
                return EXIT_SUCCESS + 1; /* told to stop before it served */
        if (read(ready_fd, &byte, 1) != 1)
                return fail(EX_UNAVAILABLE,
                            "the broker has ended at its start; its last words are above");
        return 0;
}

static void stop_broker(Emulator *e) {
        struct pollfd p = { .fd = e->broker_fd, .events = POLLIN };

        if (e->broker <= 0)
                return;
        (void) kill(e->broker, SIGTERM); /* it may have ended by itself */
        if (e->broker_fd < 0 || poll(&p, 1, STOP_TIMEOUT_MSEC) <= 0)
                (void) kill(e->broker, SIGKILL);
        (void) waitpid(e->broker, NULL, 0); /* ours, and ended or killed */
        e->broker = 0;
}

static void on_signal(void *userdata) {
        front_stop(((Emulator *) userdata)->front);
}

static void on_broker_died(void *userdata) {
        Emulator *e = userdata;

        e->broker_died = true;
        front_stop(e->front);
}

static int announce(const Emulator *e) {
        char text[64];
        int r;

        (void) snprintf(text, sizeof(text), "mqtt=%" PRIu64 " https=%" PRIu64 " amqp=%" PRIu64,
                        e->settings.ports[DOOR_MQTT], e->settings.ports[DOOR_HTTPS],
                        e->settings.ports[DOOR_AMQP]);

        {
                char lines[sizeof(text) + 1];

                (void) snprintf(lines, sizeof(lines), "%s\n", text); /* one byte more than text */
                for (char *s = lines; *s; s++)
                        if (*s == ' ')
                                *s = '\n';
                r = replace_file("ports", lines, strlen(lines), 0644);
                if (r < 0)
                        return fail(EX_IOERR, "cannot write the file ports: %s", strerror(-r));
        }
        printf("READY %s\n", text);
        if (fflush(stdout) != 0)
                return fail(EX_IOERR, "cannot write to standard output: %s", strerror(errno));
        /* Without a manager there is nobody to tell. */
        (void) sd_notifyf(0, "READY=1\nSTATUS=%s", text);
        return 0;
}

static int serve(Emulator *e) {
        int r;

        r = announce(e);
        if (r != 0)
                return r;
        r = front_watch(e->front, e->signal_fd, on_signal, e);
        if (r >= 0)
                r = front_watch(e->front, e->broker_fd, on_broker_died, e);
        if (r >= 0)
                r = hub_ctl_serve_hub(e->ctl);
        if (r >= 0)
                r = front_run(e->front);
        if (r < 0)
                return fail(EX_OSERR, "cannot go on: %s", strerror(-r));
        if (e->broker_died)
                return fail(EX_SOFTWARE, "the broker has ended unexpectedly");
        (void) sd_notify(0, "STOPPING=1");
        return EXIT_SUCCESS;
}

static int prepare_process(Emulator *e) {
        struct rlimit files;
        uint8_t secret[16];
        sigset_t signals;

        (void) umask(0022);
        (void) signal(SIGPIPE, SIG_IGN);
        (void) sigemptyset(&signals);
        (void) sigaddset(&signals, SIGTERM);
        (void) sigaddset(&signals, SIGINT);
        (void) sigaddset(&signals, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
                return fail(EX_OSERR, "cannot block signals: %s", strerror(errno));
        e->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        if (e->signal_fd < 0)
                return fail(EX_OSERR, "cannot watch signals: %s", strerror(errno));

        /* Two descriptors per connection here, one in the broker. */
        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &files); /* fewer connections otherwise */
        }
        if (RAND_bytes(secret, sizeof(secret)) != 1)
                return fail(EX_OSERR, "no random numbers");
        (void) format_id128(secret, e->secret);
        return 0;
}

static int run(Emulator *e) {
        int r;

        r = prepare_process(e);
        if (r == 0)
                r = enter_state(e);
        if (r != 0)
                return r;
        r = certificates_ensure(AT_FDCWD, e->settings.host);
        if (r < 0)
                return fail(EX_IOERR, "cannot make the certificates: %s", strerror(-r));
        r = authorities_open(&e->authorities);
        if (r == -EBADMSG)
                return fail(EX_DATAERR, AUTHORITIES_FILE " is damaged; without it no authority is known");
        if (r < 0)
                return fail(EX_IOERR, "cannot read " AUTHORITIES_FILE ": %s", strerror(-r));
        r = open_doors(e);
        if (r == 0)
                r = write_connection_strings(e->settings.host, e->settings.ports[DOOR_AMQP]);
        if (r == 0)
                r = start_broker(e);
        if (r == 0)
                r = serve(e);
        return r;
}

int main(int argc, char **argv) {
        Emulator e = { .settings = { .host = "localhost",
                                     .ports = { [DOOR_MQTT] = 8883, [DOOR_HTTPS] = 443,
                                                [DOOR_AMQP] = 5671 },
                                     .events = HUB_EVENTS_LIMITS_DEFAULT },
                       .lock_fd = -EBADF,
                       .signal_fd = -EBADF,
                       .broker_fd = -EBADF,
                       .report_fd = -EBADF };
        int r;

        if (standard_fds_fill() < 0)
                return EX_OSERR;
        if (argc > 1 && streq(argv[1], "ctl"))
                return ctl_main(argc - 1, argv + 1);
        r = parse_options(argc, argv, &e.settings);
        if (r != 0)
                return r < 0 ? EXIT_SUCCESS : r;
        r = run(&e);

        hub_ctl_free(e.ctl);
        front_free(e.front);
        authorities_free(e.authorities);
        stop_broker(&e);
        for (Door d = 0; d < _DOOR_MAX; d++)
                SSL_CTX_free(e.tls[d]);
        explicit_bzero(e.secret, sizeof(e.secret));
        e.report_fd = safe_close(e.report_fd);
        e.broker_fd = safe_close(e.broker_fd);
        e.signal_fd = safe_close(e.signal_fd);
        e.lock_fd = safe_close(e.lock_fd);
        return r;
}
