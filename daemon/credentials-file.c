#include "daemon/credentials-file.h"

#include <pthread.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "daemon/log.h"
#include "lib/fd-util.h"
#include "lib/string-util.h"

int credentials_fail(int error, char **reterr_problem, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(reterr_problem, format, ap);
        va_end(ap);
        return r < 0 ? r : error;
}

/* Whether this file, as it is, was told already: it is read again and again while the hub refuses, and
 * by the connections' threads, too. The change time tells another mode or content. */
static bool was_told(const struct stat *st) {
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        static struct stat told[8]; /* more than there are credentials */
        static size_t next;
        bool found = false;

        (void) pthread_mutex_lock(&mutex); /* fails only when misused */
        for (size_t i = 0; i < ELEMENTSOF(told) && !found; i++)
                found = told[i].st_dev == st->st_dev && told[i].st_ino == st->st_ino &&
                        told[i].st_ctim.tv_sec == st->st_ctim.tv_sec &&
                        told[i].st_ctim.tv_nsec == st->st_ctim.tv_nsec;
        if (!found) {
                told[next] = *st;
                next = (next + 1) % ELEMENTSOF(told);
        }
        (void) pthread_mutex_unlock(&mutex);
        return found;
}

static void warn_if_exposed(const char *path) {
        struct stat st;

        if (stat(path, &st) >= 0 && (st.st_mode & S_IROTH) && !was_told(&st))
                log_event(LOG_WARNING, MSG_KEY_EXPOSED, NULL,
                          "%s holds a device key and everyone may read it: chmod o-r %s", path,
                          path);
}

int credentials_read_file(const char *path, size_t max, bool is_secret, const char *what,
                          const char *how, char **ret, char **reterr_problem) {
        _cleanup_(erase_and_freep) char *text = NULL;
        struct stat st;
        size_t size;
        int r;

        /* To open a pipe could take for ever, and this runs on the event loop. */
        if (stat(path, &st) >= 0 && !S_ISREG(st.st_mode))
                return credentials_fail(-EINVAL, reterr_problem,
                                        "%s is not a file: it must be one that holds %s%s", path, what,
                                        how);
        r = read_file(path, max, &text, &size);
        if (r == -ENOMEM)
                return r;
        if (r == -ENOENT)
                return credentials_fail(r, reterr_problem, "%s is missing: write %s into it%s",
                                        path, what, how);
        if (r == -EACCES)
                return credentials_fail(r, reterr_problem,
                                        "%s may not be read by the user of iothubd: chgrp iothubd "
                                        "and chmod 0640",
                                        path);
        if (r == -EFBIG)
                return credentials_fail(r, reterr_problem,
                                        "%s is longer than %s can be: it must hold nothing else",
                                        path, what);
        if (r < 0)
                return credentials_fail(r, reterr_problem, "%s cannot be read: %s", path,
                                        strerror(-r));
        if (strlen(text) != size) {
                explicit_bzero(text, size);
                return credentials_fail(-EINVAL, reterr_problem,
                                        "%s is not a text file: it must hold %s and nothing else",
                                        path, what);
        }
        if (is_secret)
                warn_if_exposed(path);
        *ret = TAKE_PTR(text);
        return 0;
}

int credentials_systemd_path(const char *name, char **ret) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY");

        if (directory)
                return format_string(ret, "%s/%s", directory, name);
        *ret = NULL;
        return 0;
}

bool credentials_is_snapshot(const char *path) {
        const char *directory = getenv("CREDENTIALS_DIRECTORY"), *rest;

        rest = directory ? startswith(path, directory) : NULL;
        return rest && *rest == '/';
}

void credentials_add_restart(const char *path, char **problem) {
        char *longer;

        if (!*problem || !credentials_is_snapshot(path))
                return;
        if (format_string(&longer,
                          "%s. This file is the copy that systemd made at the start of what "
                          "LoadCredential= names: mend "
                          "that, then systemctl restart",
                          *problem) < 0)
                return;
        free(*problem);
        *problem = longer;
}
