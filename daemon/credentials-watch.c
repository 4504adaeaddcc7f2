#include "daemon/credentials-watch.h"

#include <limits.h>
#include <sys/inotify.h>

#include "daemon/log.h"
#include "lib/fd-util.h"

/* IN_CREATE is for symbolic links, which are made and replaced without being written to. */
#define EVENTS (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_ATTRIB | IN_ONLYDIR)

struct CredentialsWatch {
        CredentialsChanged changed;
        void *userdata;
        int fd;
        sd_event_source *io_source, *timer_source;
        usec_t delay_usec, looked_usec; /* CLOCK_BOOTTIME */
};

static void drain(int fd) {
        char buf[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)];

        while (read(fd, buf, sizeof(buf)) > 0)
                ; /* which file it was does not matter: links lead to others */
}

/* What happens from now on until the timer is gathered by the kernel. */
static int on_sign(sd_event_source *s, int fd, uint32_t revents, void *userdata) {
        CredentialsWatch *w = userdata;
        int r;

        if (usec_sub(now_usec(CLOCK_BOOTTIME), w->looked_usec) > USEC_PER_MINUTE)
                w->delay_usec = CREDENTIALS_WATCH_USEC_MIN;
        r = sd_event_source_set_time_relative(w->timer_source, w->delay_usec);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->timer_source, SD_EVENT_ONESHOT);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->io_source, SD_EVENT_OFF);
        return r;
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata) {
        CredentialsWatch *w = userdata;

        drain(w->fd); /* before the look, so that what comes during it is a new sign */
        w->looked_usec = now_usec(CLOCK_BOOTTIME);
        w->delay_usec = w->changed(w->userdata) ?
                                        CREDENTIALS_WATCH_USEC_MIN :
                                        MIN(2 * w->delay_usec, CREDENTIALS_WATCH_USEC_MAX);
        return sd_event_source_set_enabled(w->io_source, SD_EVENT_ON);
}

static int watch_folder_of(CredentialsWatch *w, const char *path) {
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *folder = NULL;

        if (!slash)
                folder = strdup(".");
        else
                folder = strndup(path, slash > path ? (size_t) (slash - path) : 1);
        if (!folder)
                return -ENOMEM;
        /* The same folder twice is one watch. */
        if (inotify_add_watch(w->fd, folder, EVENTS) < 0)
                log_debug("Cannot watch %s for new credentials, SIGHUP tells of them", folder);
        return 0;
}

int credentials_watch_new(sd_event *event, const char *const *paths, size_t n_paths,
                          CredentialsChanged changed, void *userdata, CredentialsWatch **ret) {
        _cleanup_(credentials_watch_freep) CredentialsWatch *w = NULL;
        int r = 0;

        w = malloc(sizeof(*w));
        if (!w)
                return -ENOMEM;
        *w = (CredentialsWatch){ .changed = changed,
                                 .userdata = userdata,
                                 .delay_usec = CREDENTIALS_WATCH_USEC_MIN };
        w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (w->fd < 0)
                return -errno;
        for (size_t i = 0; i < n_paths && r >= 0; i++)
                r = watch_folder_of(w, paths[i]);
        if (r >= 0)
                r = sd_event_add_io(event, &w->io_source, w->fd, EPOLLIN, on_sign, w);
        if (r >= 0)
                r = sd_event_add_time(event, &w->timer_source, CLOCK_BOOTTIME, 0,
                                      50 * USEC_PER_MSEC, on_timer, w);
        if (r >= 0)
                r = sd_event_source_set_enabled(w->timer_source, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(w);
        return 0;
}

CredentialsWatch *credentials_watch_free(CredentialsWatch *w) {
        if (!w)
                return NULL;
        sd_event_source_disable_unref(w->io_source);
        sd_event_source_disable_unref(w->timer_source);
        safe_close(w->fd);
        free(w);
        return NULL;
}
