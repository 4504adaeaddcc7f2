#include "emulator/broker.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "emulator/hub-report.h"
#include "lib/buffer.h"
#include "lib/fd-util.h"

#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>

void __asan_init(void);
#endif

#define READY_FD 3
#define CONFIG "broker.conf"
#define PLUGIN "hub-mqtt.so"

/* Larger than any message that the hub takes, with its topic; beyond it the broker cuts without
 * reading on. */
#define PACKET_BYTES_MAX (384U * 1024U)

/* Beside the program, as in the build tree, or where it is installed. */
static int find_plugin(char **ret) {
        char exe[PATH_MAX];
        _cleanup_free_ char *path = NULL;
        ssize_t n;
        char *slash;

        n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
        if (n < 0)
                return -errno;
        exe[n] = '\0';
        slash = strrchr(exe, '/');
        if (asprintf(&path, "%.*s/" PLUGIN, (int) (slash ? slash - exe : 0), exe) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        if (access(path, R_OK) < 0) {
                free(path);
                path = strdup(EMULATOR_PLUGIN_DIR "/" PLUGIN);
                if (!path)
                        return -ENOMEM;
                if (access(path, R_OK) < 0)
                        return -errno;
        }
        *ret = TAKE_PTR(path);
        return 0;
}

static int find_mosquitto(char **ret) {
        static const char *const folders[] = { "/usr/sbin", "/usr/local/sbin", "/usr/bin",
                                               "/usr/local/bin" };

        for (size_t i = 0; i < ELEMENTSOF(folders); i++) {
                _cleanup_free_ char *path = NULL;

                if (asprintf(&path, "%s/mosquitto", folders[i]) < 0) {
                        path = NULL;
                        return -ENOMEM;
                }
                if (access(path, X_OK) == 0) {
                        *ret = TAKE_PTR(path);
                        return 0;
                }
        }
        return -ENOENT;
}

static int write_config(const BrokerOptions *o, const char *plugin) {
        _cleanup_(buffer_done) Buffer b = { 0 };
        int r;

        r = buffer_appendf(&b,
                           "listener 0 " BROKER_SOCKET "\n"
                           "max_qos 1\n"
                           "max_packet_size %u\n"
                           "allow_anonymous false\n"
                           "plugin %s\n"
                           "plugin_opt_host %s\n"
                           "plugin_opt_secret %s\n"
                           "plugin_opt_token_grace %" PRIu64 "\n"
                           "plugin_opt_amqp_port %" PRIu64 "\n"
                           "plugin_opt_retain_usec %" PRIu64 "\n"
                           "plugin_opt_retain_bytes %" PRIu64 "\n"
                           "plugin_opt_ready_fd %d\n"
                           "plugin_opt_report_fd %d\n"
                           "persistence false\n"
                           "sys_interval 0\n"
                           "connection_messages false\n"
                           "log_timestamp false\n"
                           "log_dest stderr\n"
                           "log_type error\n",
                           PACKET_BYTES_MAX, plugin, o->host, o->secret, o->token_grace_sec, o->amqp_port,
                           o->events.retain_usec, o->events.retain_bytes, READY_FD, HUB_REPORT_FD);
        /* As root it would change to a user who may not read the state; that also clears the death
         * signal. */
        if (r >= 0 && geteuid() == 0)
                r = buffer_append_string(&b, "user root\n");
        if (r >= 0)
                r = replace_file(CONFIG, b.data, b.size, 0600);
        if (b.data)
                explicit_bzero(b.data, b.size);
        return r;
}

#ifdef __SANITIZE_ADDRESS__
/* A plugin with the address sanitizer needs its runtime in the broker before all else. */
static void preload_sanitizer(void) {
        Dl_info info;

        if (dladdr((void *) (uintptr_t) __asan_init, &info) == 0 ||
            setenv("LD_PRELOAD", info.dli_fname, 1) < 0 ||
            /* What the broker itself leaves at its exit is not ours to judge. */
            setenv("ASAN_OPTIONS", "detect_leaks=0", 1) < 0)
                _exit(EXIT_FAILURE);
}
#endif

/* Descriptors for the plugin, at the numbers that it is told. 0 or -1. */
static int place_fds(int ready_fd, int report_fd) {
        /* Neither may sit where the other goes. */
        int ready = fcntl(ready_fd, F_DUPFD_CLOEXEC, HUB_REPORT_FD + 1),
            report = fcntl(report_fd, F_DUPFD_CLOEXEC, HUB_REPORT_FD + 1);

        return ready < 0 || report < 0 || dup2(ready, READY_FD) < 0 ||
                               dup2(report, HUB_REPORT_FD) < 0
                       ? -1
                       : 0;
}

static void run_broker(const char *mosquitto, int ready_fd, int report_fd, pid_t parent)
                __attribute__((noreturn));
static void run_broker(const char *mosquitto, int ready_fd, int report_fd, pid_t parent) {
        sigset_t none;

        /* The parent may die between fork() and prctl(). */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
                _exit(EXIT_FAILURE);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL); /* with valid arguments it cannot fail */
        (void) umask(0077);
        /* The broker would tell our manager that it is ready before we are. */
        (void) unsetenv("NOTIFY_SOCKET");
        /* A terminal's ^C goes to the main process, which stops the broker in order. */
        (void) setpgid(0, 0);
        if (place_fds(ready_fd, report_fd) < 0)
                _exit(EXIT_FAILURE);
#ifdef __SANITIZE_ADDRESS__
        preload_sanitizer();
#endif
        (void) execl(mosquitto, "mosquitto", "-c", CONFIG, (char *) NULL);
        _exit(127);
}

int broker_start(const BrokerOptions *o, pid_t *ret_pid, int *ret_ready_fd,
                 const char **reterr_what) {
        _cleanup_free_ char *plugin = NULL, *mosquitto = NULL;
        _cleanup_close_ int ready_fd = -EBADF, child_fd = -EBADF;
        int fds[2], r;
        pid_t pid, parent = getpid();

        *reterr_what = "cannot find the broker's plugin " PLUGIN;
        r = find_plugin(&plugin);
        if (r < 0)
                return r;
        *reterr_what = "cannot find mosquitto: install the broker (package mosquitto)";
        r = find_mosquitto(&mosquitto);
        if (r < 0)
                return r;
        *reterr_what = "cannot start the broker";
        r = write_config(o, plugin);
        if (r < 0)
                return r;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        ready_fd = fds[0];
        child_fd = fds[1];
        pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                run_broker(mosquitto, child_fd, o->report_fd, parent);

        *ret_pid = pid;
        *ret_ready_fd = TAKE_FD(ready_fd);
        return 0;
}
