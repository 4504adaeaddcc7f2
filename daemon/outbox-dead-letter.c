#include "daemon/outbox-dead-letter.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/random.h>

#include "daemon/outbox.h"
#include "daemon/outbox-segment.h"

#define REASON_MAX 1024U
#define FIXED_SIZE 48U /* prefix 32, time of the end 8, size of the reason 4, size of the message record 4 */

typedef struct Box {
        bool exists;
        uint64_t salt, end, n, first_batch;
} Box;

struct OutboxDeadLetters {
        const OutboxIo *io;
        int dir_fd;
        uint64_t max_bytes;
        uint64_t next_batch; /* counts letters, so that the newer file is known */
        Box boxes[2];
        unsigned active;
};

static void box_name(unsigned i, char ret[static OUTBOX_SEGMENT_NAME_MAX]) {
        (void) snprintf(ret, OUTBOX_SEGMENT_NAME_MAX, "dead-letter-%u", i);
}

/* Finds the end of a box. Damage in it costs the letters it hit. */
static int box_load(OutboxDeadLetters *d, unsigned i) {
        uint8_t data[OUTBOX_SEGMENT_HEADER_SIZE];
        char name[OUTBOX_SEGMENT_NAME_MAX];
        Box *b = &d->boxes[i];
        OutboxSegmentHeader h;
        OutboxSegmentScan scan;
        OutboxRecord record;
        uint64_t size, offset;
        int fd, r;

        box_name(i, name);
        fd = d->io->openat(d->io, d->dir_fd, name, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        r = d->io->fsize(d->io, fd, &size);
        if (r >= 0 && outbox_read_full(d->io, fd, data, sizeof(data), 0) == (ssize_t) sizeof(data) &&
            outbox_segment_header_decode(data, &h) == 0) {
                *b = (Box) { .exists = true, .salt = h.salt, .end = sizeof(data), .first_batch = h.batch };
                outbox_segment_scan_file(&scan, d->io, fd, h.salt, sizeof(data), size);
                while ((r = outbox_segment_scan_next(&scan, &record, &offset)) > 0) {
                        b->end = offset + record.size;
                        b->n++;
                        d->next_batch = MAX(d->next_batch, record.batch + 1);
                }
                outbox_segment_scan_done(&scan);
        }
        (void) d->io->close(d->io, fd); /* read only */
        return r;
}

static int box_remove(OutboxDeadLetters *d, unsigned i) {
        char name[OUTBOX_SEGMENT_NAME_MAX];
        int r;

        if (!d->boxes[i].exists)
                return 0;
        box_name(i, name);
        r = d->io->unlinkat(d->io, d->dir_fd, name);
        if (r < 0 && r != -ENOENT)
                return r;
        d->boxes[i] = (Box) { 0 };
        return d->io->fsync(d->io, d->dir_fd); /* or it comes back when the power goes, and takes its room again */
}

int outbox_dead_letters_new(const OutboxIo *io, int dir_fd, uint64_t max_bytes, OutboxDeadLetters **ret) {
        _cleanup_(outbox_dead_letters_freep) OutboxDeadLetters *d = NULL;
        int r;

        d = malloc(sizeof(*d));
        if (!d)
                return -ENOMEM;
        *d = (OutboxDeadLetters) { .io = io, .dir_fd = dir_fd, .max_bytes = max_bytes, .next_batch = 1 };
        for (unsigned i = 0; i < ELEMENTSOF(d->boxes); i++) {
                r = box_load(d, i);
                if (r < 0)
                        return r;
        }
        d->active = d->boxes[1].exists && (!d->boxes[0].exists || d->boxes[1].first_batch > d->boxes[0].first_batch);
        if (max_bytes > 0 && d->boxes[0].end + d->boxes[1].end > max_bytes)
                (void) box_remove(d, !d->active); /* the box was larger; on failure the next letter tries again */
        *ret = TAKE_PTR(d);
        return 0;
}

OutboxDeadLetters *outbox_dead_letters_free(OutboxDeadLetters *d) {
        free(d);
        return NULL;
}

/* Empties a box and writes its header. Durable with the first letter. */
static int box_start(OutboxDeadLetters *d, unsigned i, int fd) {
        OutboxSegmentHeader h = { .lane = OUTBOX_LANE_DEAD_LETTER, .batch = d->next_batch };
        uint8_t data[OUTBOX_SEGMENT_HEADER_SIZE];
        int r;

        do {
                if (getrandom(&h.salt, sizeof(h.salt), 0) < 0)
                        return -errno;
        } while (h.salt == 0);
        d->boxes[i] = (Box) { 0 };
        r = d->io->ftruncate(d->io, fd, 0);
        if (r < 0)
                return r;
        outbox_segment_header_encode(&h, data);
        r = outbox_write_full(d->io, fd, data, sizeof(data), 0);
        if (r < 0)
                return r;
        r = d->io->fsync(d->io, d->dir_fd);
        if (r < 0)
                return r;
        d->boxes[i] = (Box) { .exists = true, .salt = h.salt, .end = sizeof(data), .first_batch = h.batch };
        d->active = i;
        return 0;
}

static int letter_encode(OutboxDeadLetters *d, const void *record, size_t size, const char *reason, usec_t realtime_usec,
                         uint8_t **ret, size_t *ret_size) {
        size_t reason_size = MIN(strlen(reason), (size_t) REASON_MAX), total = FIXED_SIZE + outbox_align(reason_size) + size;
        uint8_t *p;

        if (total > OUTBOX_RECORD_BYTES_MAX || total + OUTBOX_SEGMENT_HEADER_SIZE > d->max_bytes)
                return -EMSGSIZE;
        p = calloc(1, total);
        if (!p)
                return -ENOMEM;
        put_le64(p + 32, realtime_usec);
        put_le32(p + 40, (uint32_t) reason_size);
        put_le32(p + 44, (uint32_t) size);
        memcpy(p + FIXED_SIZE, reason, reason_size);
        memcpy(p + FIXED_SIZE + outbox_align(reason_size), record, size);
        outbox_record_start(p, total, OUTBOX_RECORD_DEAD_LETTER, OUTBOX_LANE_DEAD_LETTER, 0);
        *ret = p;
        *ret_size = total;
        return 0;
}

static bool has_room(const OutboxDeadLetters *d, unsigned i, size_t total) {
        return !d->boxes[i].exists || d->boxes[i].end + total <= d->max_bytes / 2;
}

int outbox_dead_letters_add(OutboxDeadLetters *d, const void *record, size_t size, const char *reason, usec_t realtime_usec) {
        _cleanup_free_ uint8_t *letter = NULL;
        char name[OUTBOX_SEGMENT_NAME_MAX];
        unsigned i = d->active;
        uint64_t before;
        size_t total;
        int fd, r;

        r = letter_encode(d, record, size, reason, realtime_usec, &letter, &total);
        if (r < 0)
                return r;
        if (!has_room(d, i, total))
                i = !i;
        /* A letter that takes more than its file's half of the box pushes those of the other file out, too. */
        before = i == d->active && d->boxes[i].exists ? d->boxes[i].end : OUTBOX_SEGMENT_HEADER_SIZE;
        if (d->boxes[!i].end + before + total > d->max_bytes) {
                r = box_remove(d, !i);
                if (r < 0)
                        return r;
        }
        box_name(i, name);
        fd = d->io->openat(d->io, d->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                return fd;
        if (i != d->active || !d->boxes[i].exists)
                r = box_start(d, i, fd);
        if (r >= 0) {
                outbox_record_finish(letter, d->boxes[i].salt, d->next_batch);
                r = outbox_write_full(d->io, fd, letter, total, d->boxes[i].end);
        }
        if (r >= 0)
                r = d->io->fsync(d->io, fd);
        (void) d->io->close(d->io, fd); /* synced or failed */
        if (r < 0) {
                /* A header that was not synced with a first letter may be gone: it is written again. */
                if (d->boxes[i].n == 0)
                        d->boxes[i] = (Box) { 0 };
                return r;
        }
        d->boxes[i].end += total;
        d->boxes[i].n++;
        d->next_batch++;
        return 0;
}

uint64_t outbox_dead_letters_count(const OutboxDeadLetters *d) {
        return d->boxes[0].n + d->boxes[1].n;
}

uint64_t outbox_dead_letters_bytes(const OutboxDeadLetters *d) {
        return d->boxes[0].end + d->boxes[1].end;
}
