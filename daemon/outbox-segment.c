#include "daemon/outbox-segment.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/crc32c.h"
#include "daemon/outbox.h"

#define HEADER_MAGIC 0x3153424fU /* "OBS1" */
#define SCAN_BLOCK (256U * 1024U)
#define UNREADABLE_STEP 4096U /* what a failing read skips at a time */

void outbox_segment_header_encode(const OutboxSegmentHeader *h, uint8_t data[static OUTBOX_SEGMENT_HEADER_SIZE]) {
        memset(data, 0, OUTBOX_SEGMENT_HEADER_SIZE);
        put_le32(data, HEADER_MAGIC);
        put_le32(data + 8, OUTBOX_FORMAT_VERSION);
        put_le32(data + 12, h->number);
        put_le32(data + 16, h->size);
        put_le32(data + 20, h->lane);
        put_le64(data + 24, h->salt);
        put_le64(data + 32, h->batch);
        put_le64(data + 40, h->first_lane_seq);
        put_le64(data + 48, h->first_seq);
        put_le64(data + 56, h->outbox_id);
        memcpy(data + 64, h->boot_id, 16);
        put_le32(data + 80, h->attempt);
        put_le32(data + 4, crc32c(0, data + 8, OUTBOX_SEGMENT_HEADER_SIZE - 8));
}

int outbox_segment_header_decode(const uint8_t data[static OUTBOX_SEGMENT_HEADER_SIZE], OutboxSegmentHeader *ret) {
        static const uint8_t zeros[OUTBOX_SEGMENT_HEADER_SIZE];

        if (memcmp(data, zeros, sizeof(zeros)) == 0)
                return -ENODATA;
        if (get_le32(data) != HEADER_MAGIC || get_le32(data + 4) != crc32c(0, data + 8, OUTBOX_SEGMENT_HEADER_SIZE - 8))
                return -EBADMSG;
        if (get_le32(data + 8) > OUTBOX_FORMAT_VERSION)
                return -EPROTONOSUPPORT;
        if (get_le32(data + 20) > OUTBOX_LANE_DEAD_LETTER || get_le64(data + 24) == 0)
                return -EBADMSG;

        *ret = (OutboxSegmentHeader) {
                .number = get_le32(data + 12),
                .size = get_le32(data + 16),
                .lane = get_le32(data + 20),
                .salt = get_le64(data + 24),
                .batch = get_le64(data + 32),
                .first_lane_seq = get_le64(data + 40),
                .first_seq = get_le64(data + 48),
                .outbox_id = get_le64(data + 56),
                .attempt = get_le32(data + 80),
        };
        memcpy(ret->boot_id, data + 64, 16);
        return 0;
}

void outbox_segment_scan_file(OutboxSegmentScan *s, const OutboxIo *io, int fd, uint64_t salt, uint64_t offset, uint64_t limit) {
        *s = (OutboxSegmentScan) {
                .io = io,
                .fd = fd,
                .salt = salt,
                .limit = limit,
                .start = offset,
                .next = offset,
        };
}

void outbox_segment_scan_bytes(OutboxSegmentScan *s, const void *data, size_t n, uint64_t salt, uint64_t offset) {
        *s = (OutboxSegmentScan) {
                .fd = -EBADF,
                .salt = salt,
                .limit = n,
                .bytes = data,
                .n_bytes = n,
                .next = offset,
        };
}

void outbox_segment_scan_done(OutboxSegmentScan *s) {
        free(s->buffer);
        *s = (OutboxSegmentScan) { .fd = -EBADF };
}

static ssize_t scan_load_parts(OutboxSegmentScan *s, uint64_t offset, size_t n) {
        for (size_t at = 0, step; at < n; at += step) {
                ssize_t k;

                step = UNREADABLE_STEP - (offset + at) % UNREADABLE_STEP; /* pages, as the disk has them */
                step = MIN(step, n - at);
                k = outbox_read_full(s->io, s->fd, s->buffer + at, step, offset + at);

                if (k < 0) {
                        memset(s->buffer + at, 0, step);
                        s->unreadable = true;
                        continue;
                }
                s->readable = true;
                if ((size_t) k < step)
                        return (ssize_t) at + k;
        }
        return (ssize_t) n;
}

/* Puts the n bytes from offset on into the buffer; a part that the disk will not read counts as zeros. */
static int scan_load(OutboxSegmentScan *s, uint64_t offset, size_t n) {
        ssize_t k;

        if (offset >= s->limit)
                n = 0;
        else
                n = (size_t) MIN((uint64_t) n, s->limit - offset);
        if (n > s->allocated) {
                uint8_t *b = realloc(s->buffer, n);

                if (!b)
                        return -ENOMEM;
                s->buffer = b;
                s->allocated = n;
        }

        k = outbox_read_full(s->io, s->fd, s->buffer, n, offset);
        if (k < 0)
                k = scan_load_parts(s, offset, n);
        else
                s->readable = true;
        if ((size_t) k < n)
                s->limit = offset + (uint64_t) k; /* the file ends early: truncated */
        s->bytes = s->buffer;
        s->start = offset;
        s->n_bytes = (size_t) k;
        return 0;
}

int outbox_segment_scan_next(OutboxSegmentScan *s, OutboxRecord *ret, uint64_t *ret_offset) {
        uint64_t expected = s->next;
        size_t want = SCAN_BLOCK;

        for (;;) {
                size_t at = (size_t) (s->next - s->start);
                bool final;
                int r;

                if (s->next < s->start || at > s->n_bytes)
                        at = s->n_bytes = 0, s->start = s->next;
                final = s->start + s->n_bytes >= s->limit;
                r = outbox_record_search(s->bytes, s->n_bytes, s->salt, final, &at, ret);
                if (r > 0) {
                        *ret_offset = s->start + at;
                        s->damaged_before = *ret_offset != expected;
                        s->next = *ret_offset + ret->size;
                        return 1;
                }
                if (s->start + at > s->next)
                        want = SCAN_BLOCK; /* the search moved on: what it needed more of was nothing */
                s->next = s->start + at;
                if (final || !s->io)
                        return 0;
                if (s->next == s->start && s->n_bytes >= want)
                        want = OUTBOX_RECORD_BYTES_MAX; /* a record that starts here is larger than a block */
                r = scan_load(s, s->next, want);
                if (r < 0)
                        return r;
        }
}

void outbox_segment_name(bool position, uint32_t number, char ret[static OUTBOX_SEGMENT_NAME_MAX]) {
        (void) snprintf(ret, OUTBOX_SEGMENT_NAME_MAX, "%s-%08x", position ? "position" : "segment", number);
}

int outbox_segment_name_parse(const char *name, bool *ret_position, uint32_t *ret_number) {
        const char *digits;
        char *end;
        bool position;
        unsigned long v;

        if ((digits = startswith(name, "segment-")))
                position = false;
        else if ((digits = startswith(name, "position-")))
                position = true;
        else
                return -EINVAL;
        if (strlen(digits) != 8 || strspn(digits, "0123456789abcdef") != 8)
                return -EINVAL;
        v = strtoul(digits, &end, 16);
        *ret_position = position;
        *ret_number = (uint32_t) v;
        return 0;
}

ssize_t outbox_read_full(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset) {
        size_t done = 0;

        while (done < n) {
                ssize_t k = io->pread(io, fd, (uint8_t *) data + done, n - done, offset + done);

                if (k == -EINTR)
                        continue;
                if (k < 0)
                        return k;
                if (k == 0)
                        break;
                done += (size_t) k;
        }
        return (ssize_t) done;
}

int outbox_write_full(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset) {
        size_t done = 0;

        while (done < n) {
                ssize_t k = io->pwrite(io, fd, (const uint8_t *) data + done, n - done, offset + done);

                if (k == -EINTR)
                        continue;
                if (k < 0)
                        return (int) k;
                if (k == 0)
                        return -EIO; /* no progress and no reason */
                done += (size_t) k;
        }
        return 0;
}

static int segment_fill(const OutboxIo *io, int fd, uint32_t size) {
        /* A page at a time, so that the page cache holds single pages: a record then dirties the page it is in, and
         * not the 64 KiB or more that were written at once. */
        static const uint8_t zeros[4096];
        uint32_t at;
        int r;

        for (at = 0; at < size; at += (uint32_t) MIN(sizeof(zeros), size - at)) {
                r = outbox_write_full(io, fd, zeros, MIN(sizeof(zeros), size - at), at);
                if (r < 0)
                        return r;
        }
        return io->fsync(io, fd);
}

int outbox_segment_create(const OutboxIo *io, int dir_fd, const char *name, uint32_t size) {
        int fd, r;

        fd = io->openat(io, dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd < 0)
                return fd;
        r = segment_fill(io, fd, size);
        (void) io->close(io, fd); /* synced or given up */
        if (r >= 0)
                r = io->fsync(io, dir_fd);
        if (r < 0)
                (void) io->unlinkat(io, dir_fd, name); /* what stays is found and used, or removed, at the next start */
        return r;
}
