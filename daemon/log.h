/* log.h: the journal's native protocol or stderr (with <N> prefixes under systemd, plain on a
 * terminal). Never a key, token, payload or connection string (promise P7). Thread-safe. */
#pragma once

#include <stdbool.h>
#include <syslog.h>

#include "lib/macro.h"

/* Catalog entries: systemd/iothubd.catalog; a test compares the two. */
#define MSG_STARTED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c01"
#define MSG_STOPPING "5ab9e0b6e8a34cd3a9a1f1d1a30a8c02"
#define MSG_CONNECTED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c03"
#define MSG_DISCONNECTED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c04"
#define MSG_CONNECT_FAILED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c05"
#define MSG_CREDENTIALS_MISSING "5ab9e0b6e8a34cd3a9a1f1d1a30a8c06"
#define MSG_OUTBOX_FULL "5ab9e0b6e8a34cd3a9a1f1d1a30a8c07"
#define MSG_OUTBOX_ROOM "5ab9e0b6e8a34cd3a9a1f1d1a30a8c08"
#define MSG_OUTBOX_DISK_ERROR "5ab9e0b6e8a34cd3a9a1f1d1a30a8c09"
#define MSG_OUTBOX_DISK_OK "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0a"
#define MSG_OUTBOX_UNREADABLE "17696a6d5b994e878beb2b3f7d953446"
#define MSG_OUTBOX_READABLE "db1c60980ebc4abeb0d49d161f555685"
#define MSG_OUTBOX_DAMAGE "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0b"
#define MSG_OUTBOX_EXPIRED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0c"
#define MSG_OUTBOX_DROPPED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0d"
#define MSG_MESSAGE_REJECTED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0e"
#define MSG_OUTBOX_OTHER_DEVICE "5ab9e0b6e8a34cd3a9a1f1d1a30a8c0f"
#define MSG_CLIENT_LIMIT "5ab9e0b6e8a34cd3a9a1f1d1a30a8c10"
#define MSG_REFUSED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c21"
#define MSG_TLS_FAILED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c22"
#define MSG_CLOCK_WRONG "5ab9e0b6e8a34cd3a9a1f1d1a30a8c23"
#define MSG_TAKEN_OVER "5ab9e0b6e8a34cd3a9a1f1d1a30a8c24"
#define MSG_THROTTLED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c25"
#define MSG_QUOTA "5ab9e0b6e8a34cd3a9a1f1d1a30a8c26"
#define MSG_KEY_REFUSED "5ab9e0b6e8a34cd3a9a1f1d1a30a8c27"
#define MSG_CERTIFICATE_ENDS "5ab9e0b6e8a34cd3a9a1f1d1a30a8c30"
#define MSG_DISK_SLOW "1fc7fd2dee6a44e08ba26be1c51cd106"
#define MSG_DISK_DONE "7ae37c64621c47e79871a06c01d2e833"
#define MSG_STUCK "f85160e413c54ca3bfad5d01b8561565"
#define MSG_CONFIG_INVALID "aef7b8ae08a9422683e2fa4ae475fa20"
#define MSG_KEY_EXPOSED "b9806615303444268b3fcdbed1637046"
#define MSG_FAILED "0e572822946e41a6b14716759b6a24a9"
#define MSG_RELOADED "7b633e7d8a9744daba190211624a8e62"
#define MSG_CREDENTIALS_UNUSABLE "65142dda6eba4bb69b8e55a32a531b61"

typedef enum LogTarget {
        LOG_TARGET_AUTO, /* journal if stderr is connected to it (JOURNAL_STREAM), else stderr */
        LOG_TARGET_JOURNAL,
        LOG_TARGET_STDERR,
        _LOG_TARGET_MAX,
        _LOG_TARGET_INVALID = -EINVAL,
} LogTarget;

LogTarget log_target_from_string(const char *s);
int log_level_from_string(const char *s); /* LOG_ERR ... LOG_DEBUG by syslog's names, or -EINVAL */

void log_setup(LogTarget target, int max_level);
bool log_enabled(int priority);

/* A sentence without a period or newline. log_error_errno() sets errno to -error for %m and returns
 * error. */
void log_full(int priority, const char *format, ...) _printf_(2, 3);
#define log_debug(...) (log_enabled(LOG_DEBUG) ? log_full(LOG_DEBUG, __VA_ARGS__) : (void) 0)
#define log_info(...) log_full(LOG_INFO, __VA_ARGS__)
#define log_notice(...) log_full(LOG_NOTICE, __VA_ARGS__)
#define log_warning(...) log_full(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_full(LOG_ERR, __VA_ARGS__)
int log_full_errno(int priority, int error, const char *format, ...) _printf_(3, 4);
#define log_error_errno(error, ...) log_full_errno(LOG_ERR, error, __VA_ARGS__)
#define log_warning_errno(error, ...) log_full_errno(LOG_WARNING, error, __VA_ARGS__)

/* With a message id and up to a handful of "NAME=value" fields (each a complete string),
 * NULL-terminated. */
void log_event(int priority, const char *message_id, const char *const *fields, const char *format,
               ...) _printf_(4, 5);
/* With errno for %m and as a field, without others. Returns error. */
int log_event_errno(int priority, int error, const char *message_id, const char *format, ...)
                _printf_(4, 5);

/* At most burst lines per interval for each LogRate; what was suppressed is told with the next line
 * that passes. */
typedef struct LogRate {
        unsigned burst;
        unsigned interval_sec;
        uint64_t window_start_usec;
        unsigned n_in_window;
        uint64_t n_suppressed;
} LogRate;

bool log_rate_pass(LogRate *r, uint64_t *ret_n_suppressed);
