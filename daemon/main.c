#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sysexits.h>

#include "lib/fd-util.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/manager.h"

#define THREAD_STACK_BYTES (256U * 1024U)
#define DESCRIPTORS_BESIDE_CLIENTS 128U

static const char help_text[] =
                "Usage: iothubd [OPTIONS]\n\n"
                "Takes messages from local programs, keeps them safe on disk, delivers them to "
                "Azure IoT Hub.\n\n"
                "  -c, --config FILE  settings (default: " CONFIG_FILE_DEFAULT ")\n"
                "      --check        read the settings, say what is wrong with them, and end\n"
                "  -h, --help         show this text\n"
                "      --version      show the version\n\n"
                "See iothubd(8) and iothubd.conf(5).\n";

/* Promise P7: no core dump, no ptrace by the same user. */
static void protect_secrets(void) {
        const struct rlimit none = {};

        (void) setrlimit(RLIMIT_CORE, &none); /* either would do; both together surely do */
        (void) prctl(PR_SET_DUMPABLE, 0);
}

/* The daemon runs for months beside programs that matter more: memory goes back when it is no
 * longer needed. Two arenas, because glibc's eight per processor each keep what they once had; no
 * huge pages, one of which is a third of what we take altogether. */
static void limit_memory(void) {
        pthread_attr_t attr;

        (void) mallopt(M_ARENA_MAX, 2); /* each of these only saves memory */
        (void) mallopt(M_MMAP_THRESHOLD, 128 * 1024);
        (void) mallopt(M_TRIM_THRESHOLD, 256 * 1024);
        (void) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
        if (pthread_attr_init(&attr) != 0)
                return;
        if (pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES) == 0)
                (void) pthread_setattr_default_np(&attr);
        (void) pthread_attr_destroy(&attr);
}

static void raise_descriptor_limit(unsigned connections_max) {
        rlim_t want = (rlim_t) connections_max + DESCRIPTORS_BESIDE_CLIENTS;
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= want)
                return;
        limit.rlim_cur = MIN(want, limit.rlim_max);
        (void) setrlimit(RLIMIT_NOFILE, &limit); /* then accepting pauses at the old limit */
}

static void block_signals(void) {
        sigset_t set;

        (void) sigemptyset(&set); /* these three cannot fail with valid arguments */
        (void) sigaddset(&set, SIGTERM);
        (void) sigaddset(&set, SIGINT);
        (void) sigaddset(&set, SIGHUP);
        (void) pthread_sigmask(SIG_BLOCK, &set, NULL);
        (void) signal(SIGPIPE, SIG_IGN);
}

static int load_config(const char *path, Config *ret) {
        int r;

        r = config_load(path ? path : CONFIG_FILE_DEFAULT, ret);
        if (r == -ENOENT && !path) {
                log_notice("There is no %s, all settings are at their defaults",
                           CONFIG_FILE_DEFAULT);
                return config_default(ret);
        }
        if (r < 0 && r != -EINVAL) /* a bad value was logged with its line */
                log_event_errno(LOG_ERR, r, MSG_CONFIG_INVALID, "Cannot read %s: %m",
                                path ? path : CONFIG_FILE_DEFAULT);
        return r;
}

static int exit_code(int r) {
        switch (r) {
        case 0: return EX_OK;
        case -EBUSY:
        case -EADDRINUSE: return EX_TEMPFAIL;
        case -ESRCH: /* the socket's group */
        case -ENAMETOOLONG:
        case -EEXIST:
        case -ENOTSOCK: return EX_CONFIG;
        case -EACCES:
        case -EPERM: return EX_NOPERM;
        case -EIO:
        case -EROFS:
        case -ENOSPC: return EX_IOERR;
        default: return EX_OSERR;
        }
}

static int run(const char *path, bool check) {
        _cleanup_(config_done) Config config = {};
        _cleanup_(manager_freep) Manager *manager = NULL;
        int r;

        if (load_config(path, &config) < 0)
                return EX_CONFIG;
        if (check)
                return EX_OK;
        log_setup(config.log_target, config.log_level);
        raise_descriptor_limit(config.ipc.connections_max);
        block_signals();
        r = manager_new(&config, &manager);
        if (r >= 0)
                r = manager_run(manager);
        return exit_code(r);
}

int main(int argc, char **argv) {
        enum {
                OPTION_CHECK = 0x100,
                OPTION_VERSION,
        };
        static const struct option options[] = {
                { "config", required_argument, NULL, 'c' },
                { "check", no_argument, NULL, OPTION_CHECK },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, OPTION_VERSION },
                {},
        };
        const char *path = NULL;
        bool check = false;
        int o;

        /* Else a file of the outbox would get the number of a closed standard error, and log lines
         * with it. */
        if (standard_fds_fill() < 0)
                return EX_OSERR;
        protect_secrets();
        limit_memory();
        log_setup(LOG_TARGET_AUTO, LOG_INFO);
        while ((o = getopt_long(argc, argv, "c:h", options, NULL)) >= 0)
                switch (o) {
                case 'c': path = optarg; break;
                case OPTION_CHECK: check = true; break;
                case 'h': return fputs(help_text, stdout) < 0 ? EX_IOERR : EX_OK;
                case OPTION_VERSION: return puts("iothubd " PROJECT_VERSION) < 0 ? EX_IOERR : EX_OK;
                default: return EX_USAGE; /* getopt_long() said why */
                }
        if (optind < argc) {
                fprintf(stderr, "iothubd takes no arguments, see iothubd --help\n");
                return EX_USAGE;
        }
        return run(path, check);
}
