#include "daemon/outbox-worker.h"

#include <pthread.h>
#include <signal.h>

#define STACK_SIZE (256U * 1024U)

struct OutboxWorker {
        bool threaded, stop;
        int event_fd;
        size_t n_out; /* submitted and not taken back; the submitter's thread only */
        pthread_t thread;
        bool thread_started;
        pthread_mutex_t mutex;
        pthread_cond_t wake, idle;
        OutboxJob *todo, **todo_end;
        OutboxJob *done, **done_end;
        bool running;
        usec_t busy_since;
};

static void list_append(OutboxJob ***end, OutboxJob *j) {
        j->next = NULL;
        **end = j;
        *end = &j->next;
}

static OutboxJob *list_pop(OutboxJob **head, OutboxJob ***end) {
        OutboxJob *j = *head;

        if (j) {
                *head = j->next;
                if (!*head)
                        *end = head;
        }
        return j;
}

static void *worker_main(void *arg) {
        OutboxWorker *w = arg;

        pthread_mutex_lock(&w->mutex);
        for (;;) {
                OutboxJob *j;
                uint64_t one = 1;

                while (!w->todo && !w->stop)
                        pthread_cond_wait(&w->wake, &w->mutex);
                j = list_pop(&w->todo, &w->todo_end);
                if (!j)
                        break;
                w->running = true;
                w->busy_since = now_usec(CLOCK_BOOTTIME);
                pthread_mutex_unlock(&w->mutex);

                j->run(j);

                pthread_mutex_lock(&w->mutex);
                list_append(&w->done_end, j);
                w->running = false;
                w->busy_since = 0;
                pthread_cond_broadcast(&w->idle);
                pthread_mutex_unlock(&w->mutex);
                (void) !write(w->event_fd, &one, sizeof(one)); /* fails only when the counter is full: then it is readable */
                pthread_mutex_lock(&w->mutex);
        }
        pthread_mutex_unlock(&w->mutex);
        return NULL;
}

static int worker_start(OutboxWorker *w, const char *name) {
        pthread_attr_t attr;
        sigset_t all, saved;
        int r;

        r = pthread_attr_init(&attr);
        if (r > 0)
                return -r;
        (void) pthread_attr_setstacksize(&attr, STACK_SIZE); /* the default works too */
        /* Signals belong to the event loop. */
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &saved);
        r = pthread_create(&w->thread, &attr, worker_main, w);
        pthread_sigmask(SIG_SETMASK, &saved, NULL);
        pthread_attr_destroy(&attr);
        if (r > 0)
                return -r;
        w->thread_started = true;
        (void) pthread_setname_np(w->thread, name); /* for people who look at the threads */
        return 0;
}

int outbox_worker_new(bool threaded, int event_fd, const char *name, OutboxWorker **ret) {
        _cleanup_(outbox_worker_freep) OutboxWorker *w = NULL;
        int r;

        w = malloc(sizeof(*w));
        if (!w)
                return -ENOMEM;
        *w = (OutboxWorker) { .threaded = threaded, .event_fd = event_fd };
        w->todo_end = &w->todo;
        w->done_end = &w->done;
        pthread_mutex_init(&w->mutex, NULL);
        pthread_cond_init(&w->wake, NULL);
        pthread_cond_init(&w->idle, NULL);
        if (threaded) {
                r = worker_start(w, name);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(w);
        return 0;
}

OutboxWorker *outbox_worker_free(OutboxWorker *w) {
        if (!w)
                return NULL;
        if (w->thread_started) {
                pthread_mutex_lock(&w->mutex);
                w->stop = true;
                pthread_cond_signal(&w->wake);
                pthread_mutex_unlock(&w->mutex);
                pthread_join(w->thread, NULL);
        }
        pthread_cond_destroy(&w->wake);
        pthread_cond_destroy(&w->idle);
        pthread_mutex_destroy(&w->mutex);
        free(w);
        return NULL;
}

void outbox_worker_submit(OutboxWorker *w, OutboxJob *j) {
        w->n_out++;
        pthread_mutex_lock(&w->mutex);
        list_append(&w->todo_end, j);
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->mutex);
        if (!w->threaded) {
                uint64_t one = 1;

                (void) !write(w->event_fd, &one, sizeof(one)); /* as in worker_main() */
        }
}

OutboxJob *outbox_worker_take(OutboxWorker *w) {
        OutboxJob *j;

        if (!w->threaded) {
                j = list_pop(&w->todo, &w->todo_end);
                if (j)
                        j->run(j);
        } else {
                pthread_mutex_lock(&w->mutex);
                j = list_pop(&w->done, &w->done_end);
                pthread_mutex_unlock(&w->mutex);
        }
        if (j)
                w->n_out--;
        return j;
}

bool outbox_worker_busy(const OutboxWorker *w) {
        return w->n_out > 0;
}

void outbox_worker_wait(OutboxWorker *w) {
        if (!w->threaded)
                return;
        pthread_mutex_lock(&w->mutex);
        while (w->todo || w->running)
                pthread_cond_wait(&w->idle, &w->mutex);
        pthread_mutex_unlock(&w->mutex);
}

usec_t outbox_worker_busy_since(OutboxWorker *w) {
        usec_t since;

        pthread_mutex_lock(&w->mutex);
        since = w->busy_since;
        pthread_mutex_unlock(&w->mutex);
        return since;
}
