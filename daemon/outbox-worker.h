/* outbox-worker.h: one thread that runs jobs in order and hands them back through an eventfd. With threaded = false
 * a job runs inside outbox_worker_take(), so that a test decides when. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct OutboxJob OutboxJob;

/* Embedded in the job's own struct. run: on the worker's thread; everything it touches is its own until the job was
 * taken back. */
struct OutboxJob {
        void (*run)(OutboxJob *j);
        OutboxJob *next;
};

typedef struct OutboxWorker OutboxWorker;

/* event_fd: borrowed, gets 1 for each finished job. 0 or -errno. */
int outbox_worker_new(bool threaded, int event_fd, const char *name, OutboxWorker **ret);

/* Runs what was submitted to its end first. */
OutboxWorker *outbox_worker_free(OutboxWorker *w);
DEFINE_CLEANUP(OutboxWorker *, outbox_worker_free);

void outbox_worker_submit(OutboxWorker *w, OutboxJob *j);

/* A finished job, or NULL. */
OutboxJob *outbox_worker_take(OutboxWorker *w);

/* Whether a job was submitted and not taken back yet. */
bool outbox_worker_busy(const OutboxWorker *w);

/* Waits until nothing is under way; take() then gives all results. */
void outbox_worker_wait(OutboxWorker *w);

/* CLOCK_BOOTTIME since which the thread has been at one job; 0: idle. */
usec_t outbox_worker_busy_since(OutboxWorker *w);
