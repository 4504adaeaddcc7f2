#include "daemon/uplink-memory.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#include "lib/fd-util.h"

#define THREAD_STACK_BYTES (512U * 1024U)

#define FORMAT "iothubd-uplink 1 %36s %u %" PRIu64 " %d %u %u %u %u %u %u %u\n"
#define N_FIELDS 11

void uplink_memory_format(const UplinkMemory *m, char *buf, size_t size) {
        const UplinkMachine *s = &m->machine;

        (void) snprintf(buf, size, FORMAT, m->boot_id, m->n_starts, m->started_usec, (int) s->law,
                        s->law_attempt, s->n_failed, s->n_cuts_early, s->n_cuts_late, s->n_refused,
                        s->n_throttled, s->key);
}

bool uplink_memory_parse(const char *text, UplinkMemory *ret) {
        UplinkMemory m = {};
        UplinkMachine *s = &m.machine;
        int law;

        if (sscanf(text, FORMAT, m.boot_id, &m.n_starts, &m.started_usec, &law, &s->law_attempt,
                   &s->n_failed, &s->n_cuts_early, &s->n_cuts_late, &s->n_refused, &s->n_throttled,
                   &s->key) != N_FIELDS ||
            !strchr(text, '\n') || law < 0 || law >= _BACKOFF_KIND_MAX || m.n_starts == 0)
                return false;
        s->law = (BackoffKind) law;
        *ret = m;
        return true;
}

/* Beyond these the waits are as long as they get. */
static UplinkMachine essence(const UplinkMachine *s) {
        return (UplinkMachine){
                .law = s->law,
                .law_attempt = MIN(s->law_attempt, 8U),
                .n_failed = MIN(s->n_failed, 8U),
                .n_cuts_early = MIN(s->n_cuts_early, UPLINK_CUTS_EARLY + 8U),
                .n_cuts_late = MIN(s->n_cuts_late, UPLINK_CUTS_LATE + 8U),
                .n_refused = MIN(s->n_refused, 8U),
                .n_throttled = MIN(s->n_throttled, 8U),
                .key = s->key,
        };
}

bool uplink_memory_keep(UplinkMemory *m, const UplinkMachine *s) {
        UplinkMachine now = essence(s);
        bool changed = memcmp(&now, &m->machine, sizeof(now)) != 0,
             waits = s->state == UPLINK_STATE_BACKOFF &&
                     s->deadline_usec - s->since_usec >= UPLINK_MEMORY_USEC,
             well = s->proven && m->machine.law_attempt > 0;

        if (!changed || !(waits || well))
                return false;
        m->machine = now;
        return true;
}

usec_t uplink_memory_begin(const UplinkMemory *previous, const char *boot_id,
                           const UplinkTimes *times, usec_t now, uint64_t random, UplinkMemory *ret,
                           UplinkMachine *machine) {
        usec_t delay = 0;

        *ret = (UplinkMemory){ .n_starts = 1, .started_usec = now };
        (void) snprintf(ret->boot_id, sizeof(ret->boot_id), "%s", boot_id);
        if (!previous || !streq(previous->boot_id, boot_id) || previous->started_usec > now)
                return 0;

        if (now - previous->started_usec < UPLINK_MEMORY_LOOP_USEC)
                ret->n_starts = MIN(previous->n_starts, UINT32_MAX - 1) + 1;
        ret->machine = essence(&previous->machine);
        machine->n_failed = previous->machine.n_failed;
        machine->n_cuts_early = previous->machine.n_cuts_early;
        machine->n_cuts_late = previous->machine.n_cuts_late;
        machine->n_refused = previous->machine.n_refused;
        machine->n_throttled = previous->machine.n_throttled;
        machine->key = previous->machine.key < 2 ? previous->machine.key : 0;
        if (machine->n_failed > 0)
                delay = backoff_delay_usec(previous->machine.law, previous->machine.law_attempt,
                                           &times->backoff, random);
        if (ret->n_starts > 1)
                delay = MAX(delay, backoff_delay_usec(BACKOFF_FAILED, ret->n_starts - 2,
                                                      &times->backoff, random));
        return delay;
}

int uplink_memory_read_boot_id(char ret[static 37]) {
        _cleanup_free_ char *text = NULL;
        size_t size;
        int r = read_file("/proc/sys/kernel/random/boot_id", 64, &text, &size);

        if (r < 0)
                return r;
        if (sscanf(text, "%36s", ret) != 1)
                return -EBADMSG;
        return 0;
}

/* Shared by the loop and the thread of a write, freed by the last that lets go. */
struct UplinkMemoryFile {
        char *path, *temporary;
        pthread_mutex_t mutex;
        unsigned n_references;
        bool writing, removed; /* removed: what is still on its way must not come back */
        char text[UPLINK_MEMORY_TEXT_MAX];
};

static void unreference(UplinkMemoryFile *f) {
        bool last;

        (void) pthread_mutex_lock(&f->mutex); /* fails only when misused */
        last = --f->n_references == 0;
        (void) pthread_mutex_unlock(&f->mutex);
        if (!last)
                return;
        (void) pthread_mutex_destroy(&f->mutex);
        free(f->path);
        free(f->temporary);
        free(f);
}

int uplink_memory_file_new(const char *path, UplinkMemoryFile **ret) {
        UplinkMemoryFile *f = malloc(sizeof(*f));

        if (!f)
                return -ENOMEM;
        *f = (UplinkMemoryFile){ .mutex = PTHREAD_MUTEX_INITIALIZER,
                                 .n_references = 1,
                                 .path = strdup(path) };
        if (!f->path || asprintf(&f->temporary, "%s.new", path) < 0) {
                f->temporary = NULL;
                unreference(f);
                return -ENOMEM;
        }
        *ret = f;
        return 0;
}

UplinkMemoryFile *uplink_memory_file_free(UplinkMemoryFile *f) {
        if (f)
                unreference(f);
        return NULL;
}

bool uplink_memory_file_load(UplinkMemoryFile *f, UplinkMemory *ret) {
        _cleanup_free_ char *text = NULL;
        size_t size;

        return read_file(f->path, UPLINK_MEMORY_TEXT_MAX, &text, &size) >= 0 &&
               uplink_memory_parse(text, ret);
}

/* No sync: see the header. A reader still finds the old text or the new one. */
static int write_temporary(const UplinkMemoryFile *f) {
        _cleanup_close_ int fd = open(f->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        if (fd < 0)
                return -errno;
        return write_all(fd, f->text, strlen(f->text));
}

static bool is_removed(UplinkMemoryFile *f) {
        bool removed;

        (void) pthread_mutex_lock(&f->mutex);
        removed = f->removed;
        (void) pthread_mutex_unlock(&f->mutex);
        return removed;
}

/* The mutex is never held while the disk works: the loop takes it, and the disk may hang. */
static void *write_main(void *userdata) {
        UplinkMemoryFile *f = userdata;
        bool removed, renamed;

        renamed = write_temporary(f) >= 0 && !is_removed(f) && rename(f->temporary, f->path) >= 0;
        if (!renamed) /* it costs a quick try after a crash */
                (void) unlink(f->temporary);
        (void) pthread_mutex_lock(&f->mutex);
        f->writing = false;
        removed = f->removed;
        (void) pthread_mutex_unlock(&f->mutex);
        if (renamed && removed) /* meanwhile */
                (void) unlink(f->path);
        unreference(f);
        return NULL;
}

static int start_thread(UplinkMemoryFile *f) {
        sigset_t all, before;
        pthread_attr_t attr;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attr);
        if (r != 0)
                return -r;
        (void) pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED); /* a valid value */
        /* Little of it is touched. With the process's default no thread starts under
         * ThreadSanitizer, which keeps more than that in it. */
        (void) pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the loop's business */
        r = pthread_create(&thread, &attr, write_main, f);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void) pthread_attr_destroy(&attr);
        return -r;
}

int uplink_memory_file_save(UplinkMemoryFile *f, const UplinkMemory *m) {
        bool busy;
        int r;

        (void) pthread_mutex_lock(&f->mutex);
        busy = f->writing || f->removed;
        if (!busy) {
                f->writing = true;
                f->n_references++;
                uplink_memory_format(m, f->text, sizeof(f->text));
        }
        (void) pthread_mutex_unlock(&f->mutex);
        if (busy)
                return -EBUSY;

        r = start_thread(f);
        if (r < 0) {
                f->writing = false;
                unreference(f);
        }
        return r;
}

void uplink_memory_file_remove(UplinkMemoryFile *f) {
        bool writing;

        (void) pthread_mutex_lock(&f->mutex);
        f->removed = true;
        writing = f->writing;
        (void) pthread_mutex_unlock(&f->mutex);
        if (!writing) /* else the thread does it, unless its disk hangs until the process is gone */
                (void) unlink(f->path); /* absent is as good */
}
