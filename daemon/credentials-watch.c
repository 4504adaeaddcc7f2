#include "daemon/credentials-watch.h"

#include <limits.h>
#include <sys/inotify.h>

#include "daemon/log.h"
#include "lib/fd-util.h"

/* IN_CREATE is for symbolic links, which are made and replaced without being written to. The folder
 * itself may be taken away and another put in its place: *_SELF. */
#define FOLDER_EVENTS                                                                              \
        (IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF |    \
         IN_ONLYDIR)

/* Of the nearest folder above one that is not there. */
#define ABOVE_EVENTS                                                                               \
        (IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

#define LOOKS_MAX 16U /* somebody who makes and removes folders all the time is not followed for ever */

typedef struct Folder {
        char *path;
        int wd; /* what is watched for it: itself or a folder above; -1: nothing */
} Folder;

struct CredentialsWatch {
        CredentialsChanged changed;
        void *userdata;
        int fd;
        Folder *folders;
        size_t n_folders;
        sd_event_source *io_source, *timer_source;
        usec_t delay_usec, looked_usec; /* CLOCK_BOOTTIME */
};

static void drain(int fd) {
        char buf[16 * (sizeof(struct inotify_event) + NAME_MAX + 1)];

        while (read(fd, buf, sizeof(buf)) > 0)
                ; /* which file it was does not matter: links lead to others */
}

/* Cuts the last part off a path: "/a/b" to "/a", "/a" to "/", "a" to ".". False: nothing is above. */
static bool go_up(char *path) {
        char *slash = strrchr(path, '/');

        if (streq(path, "/") || streq(path, "."))
                return false;
        if (!slash)
                strcpy(path, ".");
        else
                slash[slash == path] = '\0';
        return true;
}

static bool is_needed(const CredentialsWatch *w, int wd) {
        for (size_t i = 0; i < w->n_folders; i++)
                if (w->folders[i].wd == wd)
                        return true;
        return false;
}

/* The folder, or the nearest above it that is there. -1: nothing can be watched. */
static int watch_nearest(int fd, const char *path) {
        _cleanup_free_ char *above = strdup(path);
        int wd;

        if (!above)
                return -1;
        wd = inotify_add_watch(fd, above, FOLDER_EVENTS | IN_MASK_ADD);
        while (wd < 0 && go_up(above))
                wd = inotify_add_watch(fd, above, ABOVE_EVENTS | IN_MASK_ADD);
        return wd;
}

/* What is made between the looks at two folders would be overlooked, so they are looked at until the same is the
 * nearest twice. */
static int add_watch(const CredentialsWatch *w, const char *path) {
        int wd = watch_nearest(w->fd, path);

        for (unsigned i = 0; i < LOOKS_MAX && wd >= 0; i++) {
                int again = watch_nearest(w->fd, path);

                if (again == wd)
                        break;
                if (!is_needed(w, wd))
                        (void) inotify_rm_watch(w->fd, wd); /* it may be gone already */
                wd = again;
        }
        return wd;
}

/* Watches what the paths lead to now. A watch belongs to a folder and not to its name, so one that was
 * replaced has to be found anew. */
static void follow_paths(CredentialsWatch *w) {
        for (size_t i = 0; i < w->n_folders; i++) {
                Folder *f = w->folders + i;
                int old = f->wd;

                f->wd = add_watch(w, f->path);
                if (f->wd < 0)
                        log_debug("Cannot watch %s for new credentials, SIGHUP tells of them",
                                  f->path);
                /* One that is gone already is no fault. */
                if (old >= 0 && !is_needed(w, old))
                        (void) inotify_rm_watch(w->fd, old);
        }
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
        follow_paths(w);
        w->looked_usec = now_usec(CLOCK_BOOTTIME);
        w->delay_usec = w->changed(w->userdata) ?
                                        CREDENTIALS_WATCH_USEC_MIN :
                                        MIN(2 * w->delay_usec, CREDENTIALS_WATCH_USEC_MAX);
        return sd_event_source_set_enabled(w->io_source, SD_EVENT_ON);
}

static int add_folder_of(CredentialsWatch *w, const char *file) {
        _cleanup_free_ char *path = strdup(file);

        if (!path)
                return -ENOMEM;
        (void) go_up(path);
        for (size_t i = 0; i < w->n_folders; i++)
                if (streq(w->folders[i].path, path))
                        return 0;
        w->folders[w->n_folders++] = (Folder){ .path = TAKE_PTR(path), .wd = -1 };
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
        w->folders = calloc(MAX(n_paths, 1U), sizeof(*w->folders));
        if (!w->folders)
                return -ENOMEM;
        for (size_t i = 0; i < n_paths && r >= 0; i++)
                r = add_folder_of(w, paths[i]);
        follow_paths(w);
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
        for (size_t i = 0; i < w->n_folders; i++)
                free(w->folders[i].path);
        free(w->folders);
        free(w);
        return NULL;
}
