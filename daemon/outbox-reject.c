/* The way of a message that the hub will never take: read again, copied to the dead letters on the background thread,
 * then ended. If the copy fails it stays queued, set aside. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/log.h"
#include "daemon/outbox-dead-letter.h"

typedef struct OutboxRejectJob {
        OutboxBackgroundJob job;
        const OutboxIo *io;
        int dir_fd;
        OutboxDeadLetters *dead_letters; /* the background thread's, while jobs are under way */
        OutboxSegment *segment;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        uint64_t offset, seq;
        uint32_t size;
        OutboxLane lane;
        usec_t realtime_usec;
        char *reason;
        int result;
        uint64_t n_letters, letter_bytes;
} OutboxRejectJob;

static int copy_letter(OutboxRejectJob *j) {
        _cleanup_free_ uint8_t *record = NULL;
        ssize_t n;
        int fd;

        record = malloc(j->size);
        if (!record)
                return -ENOMEM;
        fd = j->io->openat(j->io, j->dir_fd, j->name, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return fd;
        n = outbox_read_full(j->io, fd, record, j->size, j->offset);
        (void) j->io->close(j->io, fd); /* read only */
        if (n < (ssize_t) j->size)
                return n < 0 ? (int) n : -EIO;
        return outbox_dead_letters_add(j->dead_letters, record, j->size, j->reason, j->realtime_usec);
}

static void reject_run(OutboxJob *job) {
        OutboxRejectJob *j = container_of(job, OutboxRejectJob, job.job);

        j->result = copy_letter(j);
        j->n_letters = outbox_dead_letters_count(j->dead_letters);
        j->letter_bytes = outbox_dead_letters_bytes(j->dead_letters);
}

static void stay_aside(Outbox *o, OutboxLane lane, OutboxEntry *e, int error) {
        e->state = OUTBOX_ENTRY_ASIDE;
        o->lanes[lane].n_aside++;
        outbox_notice(o, LOG_ERR, MSG_MESSAGE_REJECTED,
                      "Message %" PRIu64 " was rejected, but could not be copied to the dead letters; it stays queued, set aside: %s",
                      e->seq, strerror(-error));
}

static void end_rejected(Outbox *o, OutboxLane lane, size_t i, const char *reason) {
        OutboxEntry *e = outbox_lane_entry(&o->lanes[lane], i);

        if (!outbox_ends_reserve(o)) {
                stay_aside(o, lane, e, -ENOMEM);
                return;
        }
        outbox_notice(o, LOG_WARNING, MSG_MESSAGE_REJECTED, "Message %" PRIu64 " was rejected: %s", e->seq, reason);
        outbox_end_message(o, lane, e, OUTBOX_END_REJECTED, reason);
        outbox_lane_remove_entry(&o->lanes[lane], i);
}

static void reject_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxRejectJob *j = container_of(job, OutboxRejectJob, job);
        OutboxEntry *e;
        size_t i;

        j->segment->n_pins--;
        o->n_dead_letters = j->n_letters;
        o->dead_letter_bytes = j->letter_bytes;
        e = outbox_lane_find(&o->lanes[j->lane], j->seq, &i);
        assert(e && e->state == OUTBOX_ENTRY_REJECTING);
        if (j->result < 0)
                stay_aside(o, j->lane, e, j->result);
        else
                end_rejected(o, j->lane, i, j->reason);
        free(j->reason);
        free(j);
}

void outbox_reject(Outbox *o, OutboxLane lane, OutboxEntry *e, const char *reason) {
        OutboxRejectJob *j;

        if (o->options.dead_letter_size == 0) {
                /* The administrator wants no box: the end and its reason are all that stays. */
                size_t i;

                (void) outbox_lane_find(&o->lanes[lane], e->seq, &i);
                end_rejected(o, lane, i, strempty(reason));
                return;
        }
        j = malloc(sizeof(*j));
        if (j) {
                *j = (OutboxRejectJob) {
                        .job = { .job = { .run = reject_run }, .done = reject_done },
                        .io = o->io,
                        .dir_fd = o->dir_fd,
                        .dead_letters = o->dead_letters,
                        .segment = e->segment,
                        .offset = e->offset,
                        .seq = e->seq,
                        .size = e->size,
                        .lane = lane,
                        .realtime_usec = outbox_now_realtime(o),
                        .reason = strdup(strempty(reason)),
                };
        }
        if (!j || !j->reason) {
                free(j);
                stay_aside(o, lane, e, -ENOMEM);
                return;
        }
        outbox_segment_name(false, e->segment->number, j->name);
        e->segment->n_pins++;
        outbox_worker_submit(o->background, &j->job.job);
}
