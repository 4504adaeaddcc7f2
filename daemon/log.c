/* Each line is put together on the stack and leaves in one system call, so that lines of different
 * threads never mix and logging needs no lock and no heap. */
#include "daemon/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <systemd/sd-journal.h>

#include "lib/fd-util.h"
#include "lib/time-util.h"

#define LINE_BYTES_MAX 2048U /* a longer sentence is cut: nobody reads it to the end */
#define FIELDS_MAX 12U       /* of one event, our own included */

/* Written by log_setup() before there is a second thread, only read afterwards. */
static struct {
        bool to_journal;
        bool with_prefix; /* "<4>" tells systemd the priority of a line on stderr */
        int max_level;
} log_state = { .max_level = LOG_INFO };

static const char *const level_names[] = {
        [LOG_EMERG] = "emerg", [LOG_ALERT] = "alert",     [LOG_CRIT] = "crit",
        [LOG_ERR] = "err",     [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice",
        [LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
};

LogTarget log_target_from_string(const char *s) {
        static const char *const names[_LOG_TARGET_MAX] = {
                [LOG_TARGET_AUTO] = "auto",
                [LOG_TARGET_JOURNAL] = "journal",
                [LOG_TARGET_STDERR] = "stderr",
        };

        for (size_t i = 0; s && i < ELEMENTSOF(names); i++)
                if (streq(s, names[i]))
                        return (LogTarget) i;
        return _LOG_TARGET_INVALID;
}

int log_level_from_string(const char *s) {
        if (!s)
                return -EINVAL;
        for (size_t i = 0; i < ELEMENTSOF(level_names); i++)
                if (streq(s, level_names[i]))
                        return (int) i;
        if (streq(s, "error"))
                return LOG_ERR;
        return -EINVAL;
}

/* systemd puts "DEVICE:INODE" of the stream that it connected to us into $JOURNAL_STREAM; a
 * redirected stderr is another file (systemd.exec(5)). */
static bool stderr_is_journal(void) {
        const char *e = getenv("JOURNAL_STREAM");
        unsigned long long dev, ino;
        struct stat st;

        return e && sscanf(e, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) >= 0 &&
               st.st_dev == dev && st.st_ino == ino;
}

void log_setup(LogTarget target, int max_level) {
        bool stream = stderr_is_journal();

        log_state.to_journal =
                        target == LOG_TARGET_JOURNAL || (target == LOG_TARGET_AUTO && stream);
        log_state.with_prefix = stream;
        log_state.max_level = max_level;
}

bool log_enabled(int priority) {
        return LOG_PRI(priority) <= log_state.max_level;
}

static void write_stderr(int priority, const char *text) {
        char line[LINE_BYTES_MAX + 8];
        int n;

        n = log_state.with_prefix ?
                            snprintf(line, sizeof(line), "<%d>%s\n", LOG_PRI(priority), text) :
                            snprintf(line, sizeof(line), "%s\n", text);
        (void) write_all(STDERR_FILENO, line, (size_t) n); /* nobody is left to tell */
}

/* A name from a file or a peer must not make two lines out of one, nor reach a terminal's escape
 * codes. */
static void make_one_line(char *s) {
        for (; *s; s++)
                if ((unsigned char) *s < ' ' || *s == 0x7f)
                        *s = ' ';
}

static struct iovec text_iov(const char *s) {
        return (struct iovec){ .iov_base = (char *) s, .iov_len = strlen(s) };
}

static int write_journal(int priority, const char *text, int error, const char *message_id,
                         const char *const *fields) {
        char message[LINE_BYTES_MAX + sizeof("MESSAGE=")], level[sizeof("PRIORITY=7")], id[64],
                        number[32];
        struct iovec iov[FIELDS_MAX];
        int n = 0;

        (void) snprintf(message, sizeof(message), "MESSAGE=%s", text);
        (void) snprintf(level, sizeof(level), "PRIORITY=%d", LOG_PRI(priority) & 7);
        iov[n++] = text_iov(message);
        iov[n++] = text_iov(level);
        if (error != 0) {
                (void) snprintf(number, sizeof(number), "ERRNO=%d", error < 0 ? -error : error);
                iov[n++] = text_iov(number);
        }
        if (message_id) {
                (void) snprintf(id, sizeof(id), "MESSAGE_ID=%s", message_id);
                iov[n++] = text_iov(id);
        }
        for (; fields && *fields && n < (int) FIELDS_MAX; fields++)
                iov[n++] = text_iov(*fields);
        return sd_journal_sendv(iov, n);
}

_printf_(5, 0) static void log_fullv(int priority, int error, const char *message_id,
                                     const char *const *fields, const char *format, va_list ap) {
        char text[LINE_BYTES_MAX];
        int saved = errno;

        if (!log_enabled(priority))
                return;

        if (error != 0)
                errno = error < 0 ? -error : error; /* for %m */
        (void) vsnprintf(text, sizeof(text), format, ap);
        make_one_line(text);
        if (!log_state.to_journal || write_journal(priority, text, error, message_id, fields) < 0)
                write_stderr(priority, text);
        errno = saved;
}

void log_full(int priority, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        log_fullv(priority, 0, NULL, NULL, format, ap);
        va_end(ap);
}

int log_full_errno(int priority, int error, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        log_fullv(priority, error, NULL, NULL, format, ap);
        va_end(ap);
        return error > 0 ? -error : error;
}

void log_event(int priority, const char *message_id, const char *const *fields, const char *format,
               ...) {
        va_list ap;

        va_start(ap, format);
        log_fullv(priority, 0, message_id, fields, format, ap);
        va_end(ap);
}

int log_event_errno(int priority, int error, const char *message_id, const char *format, ...) {
        va_list ap;

        va_start(ap, format);
        log_fullv(priority, error, message_id, NULL, format, ap);
        va_end(ap);
        return error > 0 ? -error : error;
}

bool log_rate_pass(LogRate *r, uint64_t *ret_n_suppressed) {
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        usec_t now = now_usec(CLOCK_MONOTONIC);
        bool pass;

        (void) pthread_mutex_lock(&lock);
        if (r->window_start_usec == 0 ||
            now - r->window_start_usec >= r->interval_sec * USEC_PER_SEC) {
                r->window_start_usec = now;
                r->n_in_window = 0;
        }
        pass = r->n_in_window < r->burst;
        if (pass) {
                r->n_in_window++;
                if (ret_n_suppressed)
                        *ret_n_suppressed = r->n_suppressed;
                r->n_suppressed = 0;
        } else
                r->n_suppressed++;
        (void) pthread_mutex_unlock(&lock);
        return pass;
}
