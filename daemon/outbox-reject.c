/* The way of a message that the hub will never take: read again, copied to the dead letters on the background thread,
 * then ended. If the copy fails it stays queued, set aside, and the copy is tried again: later and later, and at once
 * when the disk takes something else. */
#include "daemon/outbox-internal.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/log.h"
#include "daemon/outbox-dead-letter.h"

#define RETRY_MIN USEC_PER_SEC
#define RETRY_MAX USEC_PER_MINUTE
#define READ_TRIES 3U /* in a row, before a record that cannot be read, in a file that can, is given up */

/* Of a message that was rejected, from then until its end is decided. */
typedef struct OutboxReject {
        OutboxBackgroundJob job;
        struct OutboxReject *next; /* of those that wait */
        const OutboxIo *io;
        int dir_fd;
        OutboxDeadLetters *dead_letters; /* the background thread's, while jobs are under way */
        OutboxSegment *segment;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        uint64_t offset, seq, salt;
        uint32_t size;
        OutboxLane lane;
        usec_t realtime_usec;
        char *reason;
        bool copied;            /* the letter is durable, or there is to be none */
        bool unreadable;        /* the last try found the record damaged, or the disk refused it and gave another part */
        unsigned n_unreadable;  /* so many tries in a row: those that failed for another reason say nothing about the record */
        unsigned n_failures;
        usec_t retry_at;        /* CLOCK_BOOTTIME */
        int result;
        uint64_t n_letters, letter_bytes;
} OutboxReject;

static OutboxReject *reject_free(OutboxReject *j) {
        if (!j)
                return NULL;
        free(j->reason);
        free(j);
        return NULL;
}

/* Only a record that is whole makes a letter. */
static int read_record(OutboxReject *j, uint8_t *data) {
        uint8_t header[OUTBOX_SEGMENT_HEADER_SIZE];
        OutboxRecord record;
        ssize_t n;
        int fd, r;

        fd = j->io->openat(j->io, j->dir_fd, j->name, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0) {
                j->unreadable = fd == -ENOENT;
                return fd;
        }
        n = outbox_read_full(j->io, fd, data, j->size, j->offset);
        r = n < 0 ? (int) n : outbox_record_decode(data, (size_t) n, j->salt, &record, NULL);
        j->unreadable = n >= 0 || outbox_read_full(j->io, fd, header, sizeof(header), 0) >= 0;
        (void) j->io->close(j->io, fd); /* read only */
        return r == -ENODATA ? -EBADMSG : r;
}

static int copy_letter(OutboxReject *j) {
        _cleanup_free_ uint8_t *record = NULL;
        int r;

        j->unreadable = false;
        record = malloc(j->size);
        if (!record)
                return -ENOMEM;
        r = read_record(j, record);
        if (r < 0)
                return r;
        j->unreadable = false;
        return outbox_dead_letters_add(j->dead_letters, record, j->size, j->reason, j->realtime_usec);
}

static void reject_run(OutboxJob *job) {
        OutboxReject *j = container_of(job, OutboxReject, job.job);

        j->result = copy_letter(j);
        j->n_letters = outbox_dead_letters_count(j->dead_letters);
        j->letter_bytes = outbox_dead_letters_bytes(j->dead_letters);
}

static void try_later(Outbox *o, OutboxReject *j, int error) {
        usec_t delay = RETRY_MIN << MIN(j->n_failures, 6U);

        if (j->n_failures == 0)
                outbox_notice(o, LOG_ERR, MSG_MESSAGE_REJECTED,
                              "Message %" PRIu64 " was rejected, but could not be copied to the dead letters; it stays "
                              "queued, set aside, until that can be done: %s", j->seq, strerror(-error));
        j->retry_at = usec_add(outbox_now_boottime(o), MIN(delay, RETRY_MAX));
        j->n_failures++;
        j->next = o->rejects;
        o->rejects = j;
}

/* Takes j over. */
static void end_rejected(Outbox *o, OutboxReject *j, const char *note) {
        OutboxEntry *e;
        size_t i;

        e = outbox_lane_find(&o->lanes[j->lane], j->seq, &i);
        assert(e && e->state == OUTBOX_ENTRY_REJECTING);
        j->copied = true;
        if (!outbox_ends_reserve(o)) {
                try_later(o, j, -ENOMEM);
                return;
        }
        outbox_notice(o, LOG_WARNING, MSG_MESSAGE_REJECTED, "Message %" PRIu64 " was rejected%s: %s", j->seq, note, j->reason);
        outbox_end_message(o, j->lane, e, OUTBOX_END_REJECTED, j->reason);
        outbox_lane_remove_entry(&o->lanes[j->lane], i);
        o->n_rejecting--;
        reject_free(j);
}

/* Damage took what was to be copied: there is no message any more. */
static void end_lost(Outbox *o, OutboxReject *j) {
        OutboxEntry *e;
        uint64_t lane_seq;
        size_t i;

        e = outbox_lane_find(&o->lanes[j->lane], j->seq, &i);
        assert(e && e->state == OUTBOX_ENTRY_REJECTING);
        lane_seq = e->lane_seq;
        outbox_lane_remove_entry(&o->lanes[j->lane], i);
        o->n_rejecting--;
        outbox_lost(o, j->lane, j->segment, lane_seq, lane_seq);
        reject_free(j);
}

static void reject_done(Outbox *o, OutboxBackgroundJob *job) {
        OutboxReject *j = container_of(job, OutboxReject, job);

        j->segment->n_pins--;
        o->n_dead_letters = j->n_letters;
        o->dead_letter_bytes = j->letter_bytes;
        j->n_unreadable = j->unreadable ? j->n_unreadable + 1 : 0;
        if (j->result == -EMSGSIZE)
                end_rejected(o, j, ", without a copy because it is larger than the space for dead letters");
        else if (j->result >= 0) {
                end_rejected(o, j, "");
                outbox_rejects_retry(o, /* now= */ true);
        } else if (j->n_unreadable >= READ_TRIES)
                end_lost(o, j);
        else
                try_later(o, j, j->result);
}

static void submit(Outbox *o, OutboxReject *j) {
        j->segment->n_pins++;
        outbox_worker_submit(o->background, &j->job.job);
}

void outbox_reject(Outbox *o, OutboxLane lane, OutboxEntry *e, const char *reason) {
        OutboxReject *j;

        assert(e->state == OUTBOX_ENTRY_REJECTING);

        o->n_rejecting++;
        j = malloc(sizeof(*j));
        if (j) {
                *j = (OutboxReject) {
                        .job = { .job = { .run = reject_run }, .done = reject_done },
                        .io = o->io,
                        .dir_fd = o->dir_fd,
                        .dead_letters = o->dead_letters,
                        .segment = e->segment,
                        .offset = e->offset,
                        .seq = e->seq,
                        .salt = e->segment->salt,
                        .size = e->size,
                        .lane = lane,
                        .realtime_usec = outbox_now_realtime(o),
                        .reason = strdup(strempty(reason)),
                };
        }
        if (!j || !j->reason) {
                /* Without memory it goes to the hub once more, and will be rejected once more. */
                free(j);
                e->state = OUTBOX_ENTRY_READY;
                o->lanes[lane].n_ready++;
                o->n_rejecting--;
                return;
        }
        outbox_segment_name(false, e->segment->number, j->name);
        if (o->options.dead_letter_size == 0)
                end_rejected(o, j, ""); /* the administrator wants no box: the end and its reason are all that stays */
        else
                submit(o, j);
}

void outbox_rejects_retry(Outbox *o, bool now) {
        usec_t t = outbox_now_boottime(o);
        OutboxReject *j = TAKE_PTR(o->rejects);

        while (j) {
                OutboxReject *next = TAKE_PTR(j->next);

                if (t < j->retry_at && (!now || j->unreadable)) {
                        j->next = o->rejects;
                        o->rejects = j;
                } else if (j->copied)
                        end_rejected(o, j, "");
                else
                        submit(o, j);
                j = next;
        }
}

usec_t outbox_rejects_deadline(Outbox *o) {
        usec_t deadline = USEC_INFINITY;

        for (const OutboxReject *j = o->rejects; j; j = j->next)
                deadline = MIN(deadline, j->retry_at);
        return deadline;
}

void outbox_rejects_free(Outbox *o) {
        while (o->rejects) {
                OutboxReject *j = o->rejects;

                o->rejects = j->next;
                reject_free(j);
        }
}
