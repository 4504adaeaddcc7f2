/* Reads queued messages block by block. What was just written is in the page cache and read at once; what lies
 * deeper may need the disk, which can take as long as a sync, so the background thread reads it.
 *
 * A read that fails is tried again in small parts, and again later. What could not be read several times is damage
 * and counts as zeros, if another part of the segment can be read. If none can, the disk is away: nothing is given
 * up. A file that somebody removed is gone. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/log.h"

#define READ_BLOCK (256U * 1024U)
#define READ_PART 4096U
#define FAILURES_MAX 3U         /* tries, seconds apart, before what cannot be read is given up */

typedef struct OutboxReadJob {
        OutboxBackgroundJob job;
        OutboxReader *reader; /* NULL: nobody waits any more */
        OutboxSegment *segment;
        const OutboxIo *io;
        int fd;
        uint64_t offset;
        bool last_try;
        uint8_t *data;
        size_t n;
        ssize_t result;
        bool holes;
} OutboxReadJob;

void outbox_reader_forget(OutboxReader *r) {
        free(r->data);
        r->data = NULL;
        r->n = r->allocated = 0;
        r->segment = NULL;
}

void outbox_reader_done(OutboxReader *r) {
        if (r->job)
                r->job->reader = NULL;
        outbox_reader_forget(r);
        r->job = NULL;
}

static void read_parts(OutboxReadJob *j) {
        uint8_t page[READ_PART];
        ssize_t k = 0, error = 0;
        size_t n_read = 0;

        for (size_t at = 0, n; at < j->n; at += n) {
                n = READ_PART - (j->offset + at) % READ_PART; /* pages, as the disk has them */
                n = MIN(n, j->n - at);
                k = outbox_read_full(j->io, j->fd, j->data + at, n, j->offset + at);
                if (k >= 0)
                        n_read++;
                else
                        error = k;
                k = MAX(k, (ssize_t) 0);
                memset(j->data + at + k, 0, n - (size_t) k);
        }
        if (error == 0 || (j->last_try && (n_read > 0 || outbox_read_full(j->io, j->fd, page, sizeof(page), 0) > 0))) {
                j->result = (ssize_t) j->n;
                j->holes = error < 0;
        } else
                j->result = error;
}

static void read_run(OutboxJob *job) {
        OutboxReadJob *j = container_of(job, OutboxReadJob, job.job);

        j->result = outbox_read_full(j->io, j->fd, j->data, j->n, j->offset);
        if (j->result < 0)
                read_parts(j);
        else if ((size_t) j->result < j->n) {
                /* Truncated: the missing part is a hole. */
                memset(j->data + j->result, 0, j->n - (size_t) j->result);
                j->result = (ssize_t) j->n;
                j->holes = true;
        }
}

static void read_failed(Outbox *o, OutboxReader *r, const OutboxSegment *s, int error) {
        char name[OUTBOX_SEGMENT_NAME_MAX];

        r->error = error;
        r->retry_at = usec_add(outbox_now_boottime(o), USEC_PER_SEC << MIN(r->n_failures, 5U));
        if (r->n_failures++ != FAILURES_MAX)
                return;
        outbox_segment_name(false, s->number, name);
        outbox_notice(o, LOG_ERR, MSG_OUTBOX_UNREADABLE, "Cannot read %s, its messages of lane %s wait until that works again: %s",
                      name, outbox_lane_to_string((OutboxLane) s->lane), strerror(-error));
}

static void read_works(Outbox *o, OutboxReader *r, const OutboxSegment *s) {
        if (r->n_failures > FAILURES_MAX)
                outbox_notice(o, LOG_NOTICE, MSG_OUTBOX_READABLE, "The outbox can be read again, lane %s goes on",
                              outbox_lane_to_string((OutboxLane) s->lane));
        r->error = 0;
        r->n_failures = 0;
}

static void read_finish(Outbox *o, OutboxReadJob *j) {
        OutboxReader *r = j->reader;

        j->segment->n_pins--;
        if (r) {
                r->job = NULL;
                if (j->result < 0)
                        read_failed(o, r, j->segment, (int) j->result);
                else {
                        read_works(o, r, j->segment);
                        if (j->holes)
                                j->segment->damaged = true;
                        free(r->data);
                        r->data = TAKE_PTR(j->data);
                        r->allocated = r->n = j->n;
                        r->segment = j->segment;
                        r->salt = j->segment->salt;
                        r->start = j->offset;
                }
        }
        free(j->data);
        free(j);
}

static void read_done(Outbox *o, OutboxBackgroundJob *job) {
        read_finish(o, container_of(job, OutboxReadJob, job));
}

static bool is_being_written(const Outbox *o, const OutboxSegment *s) {
        for (size_t i = 0; o->running && i < o->running->n_writes; i++)
                if (o->running->writes[i].segment == s)
                        return true;
        return false;
}

/* -ENOENT: its name was removed, and that for good. */
static int segment_open_read(Outbox *o, OutboxReader *r, OutboxSegment *s) {
        char name[OUTBOX_SEGMENT_NAME_MAX];

        if (s->read_fd >= 0)
                return 0;
        if (s->gone)
                return -ENOENT;
        outbox_segment_name(s->position, s->number, name);
        s->read_fd = o->io->openat(o->io, o->dir_fd, name, O_RDONLY | O_CLOEXEC, 0);
        if (s->read_fd >= 0) {
                s->n_missing = 0;
                return 0;
        }
        if (s->read_fd == -ENOENT && s->write_fd >= 0 && !is_being_written(o, s)) {
                /* What it is written with reads it, too. Nothing more is written: it would not last. */
                s->unlinked = true;
                outbox_lane_close_active(o, &o->lanes[s->lane]);
                outbox_admission_reset(o);
                return 0;
        }
        if (s->read_fd == -ENOENT && s->state == OUTBOX_SEGMENT_CLOSED && ++s->n_missing > FAILURES_MAX)
                return -ENOENT;
        read_failed(o, r, s, s->read_fd);
        return -EAGAIN;
}

static void let_go(Outbox *o, OutboxReader *r, OutboxSegment *s) {
        if (r->segment && r->segment != s && r->segment->n_pins == 0 && r->segment->read_fd >= 0 && !r->segment->unlinked) {
                (void) o->io->close(o->io, r->segment->read_fd); /* read only */
                r->segment->read_fd = -EBADF;
        }
}

static int reader_load(Outbox *o, OutboxReader *r, OutboxSegment *s, uint64_t offset, size_t n) {
        OutboxReadJob *j;
        int q;

        if (r->job)
                return -EAGAIN;
        if (r->error < 0 && outbox_now_boottime(o) < r->retry_at)
                return -EAGAIN;
        let_go(o, r, s);
        q = segment_open_read(o, r, s);
        if (q < 0)
                return q;
        j = malloc(sizeof(*j));
        if (!j)
                return -ENOMEM;
        *j = (OutboxReadJob) {
                .job = { .job = { .run = read_run }, .done = read_done },
                .reader = r,
                .segment = s,
                .io = o->io,
                .fd = s->read_fd,
                .offset = offset,
                .last_try = r->n_failures >= FAILURES_MAX,
                .data = malloc(n),
                .n = n,
        };
        if (!j->data) {
                free(j);
                return -ENOMEM;
        }
        s->n_pins++;
        if (o->options.threaded && s->state != OUTBOX_SEGMENT_ACTIVE) {
                r->job = j;
                outbox_worker_submit(o->background, &j->job.job);
                return -EAGAIN;
        }
        read_run(&j->job.job);
        read_finish(o, j);
        return r->error < 0 ? -EAGAIN : 0;
}

int outbox_reader_get(Outbox *o, OutboxReader *r, OutboxSegment *s, uint64_t offset, uint64_t limit, size_t want,
                      const uint8_t **ret, size_t *ret_n) {
        size_t load;
        int q;

        assert(offset < limit);
        want = (size_t) MIN((uint64_t) want, limit - offset);
        load = MAX(want, (size_t) READ_BLOCK);
        if (r->segment != s || r->salt != s->salt || offset < r->start || offset + want > r->start + r->n) {
                q = reader_load(o, r, s, offset, (size_t) MIN((uint64_t) load, limit - offset));
                if (q < 0)
                        return q;
        }
        *ret = r->data + (offset - r->start);
        *ret_n = (size_t) (r->start + r->n - offset);
        return 0;
}
