#include "client/name-lookup.h"

#include <fcntl.h>
#include <pthread.h>

/* The thread's own: who gave up the lookup has closed the other end of the pipe, and no longer
 * knows it. */
typedef struct Job {
        char *host;
        char port[8];
        int fd; /* where the answer goes */
} Job;

typedef struct Answer {
        struct addrinfo *list;
        int code;
} Answer;

struct NameLookup {
        int fd;
};

static void job_free(Job *j) {
        closep(&j->fd);
        free(j->host);
        free(j);
}

static void *look_up(void *userdata) {
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
        Job *j = userdata;
        Answer a = {};

        a.code = getaddrinfo(j->host, j->port, &hints, &a.list);
        /* Smaller than PIPE_BUF: all or nothing; SIGPIPE is ignored. */
        if (write(j->fd, &a, sizeof(a)) != (ssize_t) sizeof(a) && a.list)
                freeaddrinfo(a.list);
        job_free(j);
        return NULL;
}

static int start_thread(Job *j) {
        pthread_attr_t attributes;
        pthread_t thread;
        int r;

        r = pthread_attr_init(&attributes);
        if (r != 0)
                return -r;
        r = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        if (r == 0)
                r = pthread_create(&thread, &attributes, look_up, j);
        (void) pthread_attr_destroy(&attributes); /* cannot fail for what was initialised */
        return -r;
}

int name_lookup_start(const char *host, unsigned port, NameLookup **ret) {
        _cleanup_(name_lookup_freep) NameLookup *l = NULL;
        int fds[2], r;
        Job *j;

        l = malloc(sizeof(*l));
        if (!l)
                return -ENOMEM;
        if (pipe2(fds, O_CLOEXEC) < 0) {
                l->fd = -EBADF;
                return -errno;
        }
        l->fd = fds[0];
        j = malloc(sizeof(*j));
        if (!j) {
                (void) close(fds[1]); /* nothing was written */
                return -ENOMEM;
        }
        *j = (Job){ .host = strdup(host), .fd = fds[1] };
        (void) snprintf(j->port, sizeof(j->port), "%u", port); /* at most five digits */
        r = j->host ? start_thread(j) : -ENOMEM;
        if (r < 0) {
                job_free(j);
                return r;
        }
        *ret = TAKE_PTR(l);
        return 0;
}

NameLookup *name_lookup_free(NameLookup *l) {
        if (!l)
                return NULL;
        closep(&l->fd);
        free(l);
        return NULL;
}

int name_lookup_fd(const NameLookup *l) {
        return l->fd;
}

int name_lookup_result(NameLookup *l, struct addrinfo **ret) {
        Answer a;

        if (read(l->fd, &a, sizeof(a)) != (ssize_t) sizeof(a))
                return EAI_SYSTEM;
        if (a.code == 0)
                *ret = a.list;
        return a.code;
}
