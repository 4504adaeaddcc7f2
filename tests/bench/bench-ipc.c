/* Question: what does taking a message over the socket cost, whole (parse, check, record, sync,
 * reply)? Method: the built iothubd on a temporary folder without credentials, so that nothing is
 * delivered; one pipelining client; CPU and memory of the daemon from /proc. Arguments: path of
 * iothubd. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/buffer.h"
#include "lib/fd-util.h"
#include "lib/time-util.h"

typedef struct Daemon {
        char folder[64];
        char socket[96];
        pid_t pid;
} Daemon;

static void fail(const char *what) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(EXIT_FAILURE);
}

static int try_connect(const Daemon *d) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        memcpy(address.sun_path, d->socket, strlen(d->socket) + 1);
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) >= 0)
                return fd;
        close(fd);
        return -1;
}

static void daemon_start(Daemon *d, const char *program) {
        _cleanup_(buffer_done) Buffer config = {};
        char path[96];
        int fd;

        (void) snprintf(d->folder, sizeof(d->folder), "/tmp/iothubd-bench.XXXXXX");
        if (!mkdtemp(d->folder))
                fail("mkdtemp");
        (void) snprintf(d->socket, sizeof(d->socket), "%s/sock", d->folder);
        (void) snprintf(path, sizeof(path), "%s/conf", d->folder);
        if (buffer_appendf(&config,
                           "state_directory = \"%s/state\"; socket = \"%s\"; log_target = "
                           "\"stderr\"; log_level = "
                           "\"err\";\noutbox: { max_size = \"2G\"; keep_free = \"1M\"; };\n",
                           d->folder, d->socket) < 0 ||
            replace_file(path, config.data, config.size, 0600) < 0)
                fail(path);

        d->pid = fork();
        if (d->pid == 0) {
                execl(program, program, "-c", path, NULL);
                _exit(127);
        }
        while ((fd = try_connect(d)) < 0) {
                if (waitpid(d->pid, NULL, WNOHANG) != 0)
                        fail("the daemon ended");
                (void) usleep(2000);
        }
        close(fd);
}

static void daemon_stop(Daemon *d) {
        _cleanup_free_ char *command = NULL;

        (void) kill(d->pid, SIGTERM);
        (void) waitpid(d->pid, NULL, 0);
        if (asprintf(&command, "rm -rf '%s'", d->folder) >= 0 && system(command) != 0)
                fprintf(stderr, "%s stays\n", d->folder);
}

static double daemon_cpu_sec(const Daemon *d) {
        unsigned long user = 0, system = 0;
        char path[64];
        FILE *f;

        (void) snprintf(path, sizeof(path), "/proc/%d/stat", (int) d->pid);
        f = fopen(path, "re");
        if (!f || fscanf(f, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                         &system) != 2)
                fail(path);
        fclose(f);
        return (double) (user + system) / (double) sysconf(_SC_CLK_TCK);
}

static long daemon_memory_kib(const Daemon *d) {
        char path[64], line[128];
        long kib = -1;
        FILE *f;

        (void) snprintf(path, sizeof(path), "/proc/%d/status", (int) d->pid);
        f = fopen(path, "re");
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "RssAnon: %ld", &kib) == 1)
                        break;
        if (f)
                fclose(f);
        return kib;
}

static void make_call(Buffer *call, unsigned n_messages) {
        int r = buffer_appendf(call,
                               "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":[");

        for (unsigned i = 0; i < n_messages && r >= 0; i++)
                r = buffer_appendf(call,
                                   "%s{\"body\":\"{\\\"windSpeed\\\":%u.12345,\\\"sensor\\\":"
                                   "\\\"north-%u\\\"}\","
                                   "\"contentType\":\"application/"
                                   "json\",\"contentEncoding\":\"utf-8\","
                                   "\"properties\":{\"alert\":\"false\"}}",
                                   i > 0 ? "," : "", i, i);
        if (r < 0 || buffer_append(call, "]}}", sizeof("]}}")) < 0)
                fail("call");
}

/* Takes what has come; returns the number of replies. */
static unsigned read_replies(int fd) {
        char data[65536];
        ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);
        unsigned n_replies = 0;

        if (n <= 0)
                fail("the daemon closed the connection");
        for (ssize_t i = 0; i < n; i++)
                n_replies += data[i] == 0;
        if (memmem(data, (size_t) n, "\"error\"", 7)) {
                errno = EPROTO;
                fail(data);
        }
        return n_replies;
}

static void run(const Daemon *d, unsigned batch, unsigned n_calls, unsigned depth) {
        _cleanup_(buffer_done) Buffer call = {};
        _cleanup_close_ int fd = try_connect(d);
        unsigned sent = 0, replied = 0;
        double cpu = daemon_cpu_sec(d), n = (double) batch * n_calls, span_sec;
        usec_t start = now_usec(CLOCK_MONOTONIC);
        size_t offset = 0;

        make_call(&call, batch);
        while (replied < n_calls) {
                bool more = offset > 0 || (sent < n_calls && sent - replied < depth);
                struct pollfd p = { .fd = fd, .events = (short) (POLLIN | (more ? POLLOUT : 0)) };

                if (poll(&p, 1, -1) < 0)
                        fail("poll");
                if (p.revents & POLLOUT) {
                        ssize_t k = send(fd, call.data + offset, call.size - offset,
                                         MSG_DONTWAIT | MSG_NOSIGNAL);

                        offset += k > 0 ? (size_t) k : 0;
                        if (offset == call.size) {
                                offset = 0;
                                sent++;
                        }
                }
                if (p.revents & POLLIN)
                        replied += read_replies(fd);
        }
        span_sec = (double) (now_usec(CLOCK_MONOTONIC) - start) / (double) USEC_PER_SEC;
        printf("%5u a call, %4u calls in flight: %8.0f msg/s durable, %5.2f us CPU/msg, RssAnon "
               "%ld KiB\n",
               batch, depth, n / span_sec, (daemon_cpu_sec(d) - cpu) / n * 1e6,
               daemon_memory_kib(d));
}

int main(int argc, char **argv) {
        Daemon d;

        if (argc != 2) {
                fprintf(stderr, "Usage: bench-ipc IOTHUBD\n");
                return EXIT_FAILURE;
        }
        daemon_start(&d, argv[1]);
        printf("idle: RssAnon %ld KiB\n", daemon_memory_kib(&d));
        run(&d, 500, 1000, 8);
        run(&d, 100, 2000, 16);
        run(&d, 1, 50000, 500);
        run(&d, 1, 1000, 1);
        daemon_stop(&d);
        return 0;
}
