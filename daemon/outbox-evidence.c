/* Files that are not needed any more: removed, or kept aside as evidence of damage. */
#include "daemon/outbox-internal.h"

/* A file that is not needed any more, removed or renamed off the event loop. */
typedef struct OutboxFileJob {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        char from[OUTBOX_SEGMENT_NAME_MAX], to[OUTBOX_SEGMENT_NAME_MAX]; /* to empty: removed */
        int result;
        uint32_t size;
        bool counted; /* in unremoved_bytes */
        struct OutboxFileJob *next;
} OutboxFileJob;

static void file_run(OutboxJob *job) {
        OutboxFileJob *j = container_of(job, OutboxFileJob, job.job);

        j->result = j->to[0] ? j->io->renameat(j->io, j->dir_fd, j->from, j->to)
                             : j->io->unlinkat(j->io, j->dir_fd, j->from);
}

void outbox_evidence_name(uint32_t number, char ret[static OUTBOX_SEGMENT_NAME_MAX]) {
        (void) snprintf(ret, OUTBOX_SEGMENT_NAME_MAX, "damaged-%08x", number);
}

int outbox_evidence_name_parse(const char *name, uint32_t *ret_number) {
        const char *digits = startswith(name, "damaged-");

        if (!digits || strlen(digits) != 8 || strspn(digits, "0123456789abcdef") != 8)
                return -EINVAL;
        *ret_number = (uint32_t) strtoul(digits, NULL, 16);
        return 0;
}

void outbox_evidence_add(Outbox *o, uint32_t number, uint32_t size) {
        if (o->n_evidence == OUTBOX_EVIDENCE_MAX)
                return;
        o->evidence[o->n_evidence].number = number;
        o->evidence[o->n_evidence++].size = size;
}

uint64_t outbox_evidence_bytes(const Outbox *o) {
        uint64_t n = 0;

        for (unsigned i = 0; i < o->n_evidence; i++)
                n += o->evidence[i].size;
        return n;
}

static void evidence_forget(Outbox *o, const char *name) {
        uint32_t number;

        if (outbox_evidence_name_parse(name, &number) < 0)
                return;
        for (unsigned i = 0; i < o->n_evidence; i++)
                if (o->evidence[i].number == number) {
                        memmove(o->evidence + i, o->evidence + i + 1, (o->n_evidence - i - 1) * sizeof(*o->evidence));
                        o->n_evidence--;
                        return;
                }
}

/* What could not be renamed waits for the next start, which finds it. What could not be removed takes room until it is,
 * and counts as a segment that long. */
static void file_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxFileJob *j = container_of(job, OutboxFileJob, job);

        if (j->result == -ENOENT && j->to[0])
                evidence_forget(o, j->to); /* somebody removed it before us */
        if (j->result < 0 && j->result != -ENOENT && !j->to[0]) {
                if (!j->counted) {
                        j->counted = true;
                        o->unremoved_bytes += j->size;
                }
                j->next = o->unremoved;
                o->unremoved = j;
                return;
        }
        if (j->counted) {
                o->unremoved_bytes -= j->size;
                outbox_wake(o);
        }
        free(j);
}

void outbox_remove_again(Outbox *o) {
        OutboxFileJob *j = TAKE_PTR(o->unremoved);

        while (j) {
                OutboxFileJob *next = TAKE_PTR(j->next);

                outbox_worker_submit(o->background, &j->job.job);
                j = next;
        }
}

void outbox_unremoved_free(Outbox *o) {
        while (o->unremoved) {
                OutboxFileJob *j = o->unremoved;

                o->unremoved = j->next;
                free(j);
        }
}

static void submit_file_job(Outbox *o, const char *from, const char *to, uint32_t size) {
        OutboxFileJob *j = malloc(sizeof(*j));

        if (!j)
                return; /* as if it had failed */
        *j = (OutboxFileJob) {
                .job = { .job = { .run = file_run }, .done = file_done },
                .io = o->io,
                .dir_fd = o->dir_fd,
                .size = size,
        };
        (void) snprintf(j->from, sizeof(j->from), "%s", from);
        (void) snprintf(j->to, sizeof(j->to), "%s", strempty(to));
        outbox_worker_submit(o->background, &j->job.job);
}

/* Evidence gives way before anyone is refused. */
bool outbox_evidence_sacrifice(Outbox *o) {
        char name[OUTBOX_SEGMENT_NAME_MAX];

        if (o->n_evidence == 0)
                return false;
        o->n_evidence--;
        outbox_evidence_name(o->evidence[o->n_evidence].number, name);
        submit_file_job(o, name, NULL, o->evidence[o->n_evidence].size);
        return true;
}

void outbox_discard_segment(Outbox *o, OutboxSegment *s, bool as_evidence) {
        char name[OUTBOX_SEGMENT_NAME_MAX], aside[OUTBOX_SEGMENT_NAME_MAX];

        outbox_segment_name(s->position, s->number, name);
        outbox_evidence_name(s->number, aside);
        if (s->on_disk) {
                if (as_evidence)
                        outbox_evidence_add(o, s->number, s->size);
                submit_file_job(o, name, as_evidence ? aside : NULL, s->size);
        }
        outbox_segment_free(o, s);
}
