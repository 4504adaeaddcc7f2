#include "daemon/outbox-receipts.h"

#include <assert.h>
#include <fcntl.h>

#include "daemon/crc32c.h"
#include "daemon/outbox-segment.h"

#define FILE_NAME "receipts"
#define FIND_BLOCK (64U * OUTBOX_RECEIPT_SIZE * 16U)

enum {
        RECEIPT_HAS_POSITION = 1 << 0,
};

struct OutboxReceipts {
        const OutboxIo *io;
        int dir_fd, fd;
        unsigned n_slots;
        uint64_t index, size;
        uint8_t *pending;
        unsigned n_pending;
};

uint64_t outbox_id_hash(const char *message_id) {
        uint64_t h = 0xcbf29ce484222325U; /* FNV-1a, 64 bit: spreads well enough, and nothing rests on it alone */

        for (const char *p = message_id; *p; p++)
                h = (h ^ (uint8_t) *p) * 0x100000001b3U;
        return h;
}

int outbox_receipts_new(const OutboxIo *io, int dir_fd, unsigned n, uint64_t index, OutboxReceipts **ret) {
        _cleanup_(outbox_receipts_freep) OutboxReceipts *r = NULL;

        r = malloc(sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (OutboxReceipts) { .io = io, .dir_fd = dir_fd, .fd = -EBADF, .n_slots = n, .index = index };
        r->fd = io->openat(io, dir_fd, FILE_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (r->fd >= 0)
                (void) io->fsize(io, r->fd, &r->size); /* 0 is a safe guess */
        *ret = TAKE_PTR(r);
        return 0;
}

OutboxReceipts *outbox_receipts_free(OutboxReceipts *r) {
        if (!r)
                return NULL;
        if (r->fd >= 0)
                (void) r->io->close(r->io, r->fd); /* never promised */
        free(r->pending);
        free(r);
        return NULL;
}

static void receipt_encode(const OutboxReceipt *c, uint8_t d[static OUTBOX_RECEIPT_SIZE]) {
        put_le64(d, c->seq);
        put_le64(d + 8, c->accepted_realtime_usec);
        put_le64(d + 16, c->settled_realtime_usec);
        put_le64(d + 24, c->id_hash);
        put_le64(d + 32, c->position);
        d[40] = (uint8_t) c->end;
        d[41] = (uint8_t) c->lane;
        put_le16(d + 42, c->has_position ? RECEIPT_HAS_POSITION : 0);
        put_le32(d + 44, crc32c(0, d, 44));
}

static int receipt_decode(const uint8_t d[static OUTBOX_RECEIPT_SIZE], OutboxReceipt *ret) {
        if (get_le64(d) == 0 || get_le32(d + 44) != crc32c(0, d, 44) || d[40] >= _OUTBOX_END_MAX ||
            d[41] >= _OUTBOX_LANE_MAX)
                return -EBADMSG;
        *ret = (OutboxReceipt) {
                .seq = get_le64(d),
                .accepted_realtime_usec = get_le64(d + 8),
                .settled_realtime_usec = get_le64(d + 16),
                .id_hash = get_le64(d + 24),
                .position = get_le64(d + 32),
                .end = d[40],
                .lane = d[41],
                .has_position = get_le16(d + 42) & RECEIPT_HAS_POSITION,
        };
        return 0;
}

void outbox_receipts_add(OutboxReceipts *r, const OutboxReceipt *receipt) {
        if (r->n_slots == 0 || r->fd < 0)
                return;
        if (!r->pending) {
                r->pending = malloc(OUTBOX_RECEIPTS_PENDING_MAX * OUTBOX_RECEIPT_SIZE);
                if (!r->pending)
                        return; /* a look-up will not know this one */
        }
        if (r->n_pending == OUTBOX_RECEIPTS_PENDING_MAX) /* the owner had no memory to write them */
                r->n_pending = 0;
        receipt_encode(receipt, r->pending + r->n_pending++ * OUTBOX_RECEIPT_SIZE);
}

bool outbox_receipts_want_write(const OutboxReceipts *r) {
        return r->n_pending == OUTBOX_RECEIPTS_PENDING_MAX;
}

bool outbox_receipts_take(OutboxReceipts *r, OutboxReceiptsBlock *ret) {
        if (r->n_pending == 0)
                return false;
        *ret = (OutboxReceiptsBlock) {
                .io = r->io,
                .fd = r->fd,
                .n_slots = r->n_slots,
                .data = TAKE_PTR(r->pending),
                .n = r->n_pending,
                .index = r->index,
        };
        r->index += r->n_pending;
        r->n_pending = 0;
        return true;
}

void outbox_receipts_write(OutboxReceiptsBlock *b) {
        unsigned done = 0;

        while (done < b->n) {
                uint64_t slot = (b->index + done) % b->n_slots;
                unsigned n = (unsigned) MIN((uint64_t) (b->n - done), b->n_slots - slot);

                /* On failure these are not known to a look-up, and that is all. */
                if (outbox_write_full(b->io, b->fd, b->data + done * OUTBOX_RECEIPT_SIZE, n * OUTBOX_RECEIPT_SIZE,
                                      slot * OUTBOX_RECEIPT_SIZE) >= 0)
                        b->end = MAX(b->end, (slot + n) * OUTBOX_RECEIPT_SIZE);
                done += n;
        }
}

void outbox_receipts_written(OutboxReceipts *r, OutboxReceiptsBlock *b) {
        r->size = MAX(r->size, b->end);
        if (r->pending)
                free(b->data);
        else
                r->pending = b->data;
        b->data = NULL;
}

uint64_t outbox_receipts_bytes(const OutboxReceipts *r) {
        return r->size;
}

int outbox_receipts_find(const OutboxIo *io, int dir_fd, uint64_t seq, uint64_t id_hash, OutboxReceipt *ret) {
        _cleanup_free_ uint8_t *block = NULL;
        OutboxReceipt best = { 0 };
        int fd, r = 0;

        block = malloc(FIND_BLOCK);
        if (!block)
                return -ENOMEM;
        fd = io->openat(io, dir_fd, FILE_NAME, O_RDONLY | O_CLOEXEC, 0);
        if (fd < 0)
                return fd;
        for (uint64_t offset = 0;; offset += FIND_BLOCK) {
                ssize_t n = outbox_read_full(io, fd, block, FIND_BLOCK, offset);

                if (n < 0)
                        r = (int) n;
                for (ssize_t at = 0; at + (ssize_t) OUTBOX_RECEIPT_SIZE <= n; at += OUTBOX_RECEIPT_SIZE) {
                        OutboxReceipt c;

                        if (receipt_decode(block + at, &c) < 0)
                                continue;
                        if (seq > 0 ? c.seq == seq : (c.id_hash == id_hash && c.seq >= best.seq))
                                best = c;
                }
                if (n < (ssize_t) FIND_BLOCK)
                        break;
        }
        (void) io->close(io, fd); /* read only */
        if (best.seq == 0)
                return r < 0 ? r : -ENOENT;
        *ret = best;
        return 0;
}
