/* The prefix of a record, in bytes:
 *
 *   0  magic (4)   4  CRC (4)   8  salt (8)   16  batch (8)   24  size (4)   28  kind (1)   29  lane (1)   30  flags (2)
 *
 * The CRC runs over bytes 24 to the end and then over 8 to 23. So it can be taken while the record is encoded, and
 * salt and batch, which are known only when the place on disk is, are added by 16 bytes more. */
#include "daemon/outbox-record.h"

#include <assert.h>

#include "daemon/crc32c.h"
#include "daemon/outbox.h"

#define RECORD_MAGIC 0x3152424fU /* "OBR1" */

enum {
        MESSAGE_FIRST_OF_CALL = 1 << 0,
        MESSAGE_LAST_OF_CALL = 1 << 1,
        MESSAGE_REALTIME_PLAUSIBLE = 1 << 2,
        MESSAGE_HAS_TTL = 1 << 3,
        MESSAGE_HAS_STREAM = 1 << 4,
};

#define TTL_SIZE 8U
#define STREAM_SIZE 32U /* id 16, position 8, uid 4, zero 4 */

int outbox_record_decode(const void *data, size_t n, uint64_t salt, OutboxRecord *ret, size_t *ret_size) {
        const uint8_t *p = data;
        uint32_t size, crc;

        if (n < OUTBOX_RECORD_PREFIX_SIZE) {
                if (ret_size)
                        *ret_size = OUTBOX_RECORD_PREFIX_SIZE;
                return -ENODATA;
        }
        if (get_le32(p) != RECORD_MAGIC || (salt != 0 && get_le64(p + 8) != salt))
                return -EBADMSG;
        size = get_le32(p + 24);
        if (size < OUTBOX_RECORD_PREFIX_SIZE || size > OUTBOX_RECORD_BYTES_MAX || size % OUTBOX_RECORD_ALIGN != 0)
                return -EBADMSG;
        if (size > n) {
                if (ret_size)
                        *ret_size = size;
                return -ENODATA;
        }
        crc = crc32c(crc32c(0, p + 24, size - 24), p + 8, 16);
        if (crc != get_le32(p + 4))
                return -EBADMSG;

        *ret = (OutboxRecord) {
                .kind = p[28],
                .lane = p[29],
                .flags = get_le16(p + 30),
                .salt = get_le64(p + 8),
                .batch = get_le64(p + 16),
                .data = p,
                .size = size,
        };
        if (ret_size)
                *ret_size = size;
        return 0;
}

int outbox_record_search(const void *data, size_t n, uint64_t salt, bool final, size_t *offset, OutboxRecord *ret) {
        const uint8_t *p = data;
        size_t at;

        assert(*offset % OUTBOX_RECORD_ALIGN == 0);

        for (at = *offset; at < n && n - at >= OUTBOX_RECORD_PREFIX_SIZE; at += OUTBOX_RECORD_ALIGN) {
                int r;

                if (get_le32(p + at) != RECORD_MAGIC)
                        continue;
                r = outbox_record_decode(p + at, n - at, salt, ret, NULL);
                if (r == 0) {
                        *offset = at;
                        return 1;
                }
                if (r == -ENODATA && !final)
                        break;
        }
        *offset = at;
        return 0;
}

void outbox_record_start(uint8_t *data, size_t size, OutboxRecordKind kind, unsigned lane, unsigned flags) {
        assert(size >= OUTBOX_RECORD_PREFIX_SIZE && size <= OUTBOX_RECORD_BYTES_MAX);
        assert(size % OUTBOX_RECORD_ALIGN == 0);

        put_le32(data, RECORD_MAGIC);
        put_le32(data + 24, (uint32_t) size);
        data[28] = (uint8_t) kind;
        data[29] = (uint8_t) lane;
        put_le16(data + 30, (uint16_t) flags);
        outbox_record_reopen(data);
}

void outbox_record_finish(uint8_t *data, uint64_t salt, uint64_t batch) {
        put_le64(data + 8, salt);
        put_le64(data + 16, batch);
        put_le32(data + 4, crc32c(get_le32(data + 4), data + 8, 16));
}

void outbox_record_reopen(uint8_t *data) {
        put_le32(data + 4, crc32c(0, data + 24, outbox_record_size(data) - 24));
}

size_t outbox_record_size(const uint8_t *data) {
        return get_le32(data + 24);
}

size_t outbox_message_record_size(const OutboxMessageRecord *m) {
        size_t size;

        if (m->message_id_size > UINT16_MAX || m->bag_size > UINT16_MAX || m->body_size > OUTBOX_RECORD_BYTES_MAX)
                return 0;
        size = OUTBOX_MESSAGE_FIXED_SIZE + (m->time_to_live_usec != USEC_INFINITY ? TTL_SIZE : 0) +
               (m->has_stream ? STREAM_SIZE : 0) + m->message_id_size + m->bag_size + m->body_size;
        size = outbox_align(size);
        return size <= OUTBOX_RECORD_BYTES_MAX ? size : 0;
}

static uint8_t *put_bytes(uint8_t *p, const void *data, size_t n) {
        if (n > 0)
                memcpy(p, data, n);
        return p + n;
}

void outbox_message_record_encode(const OutboxMessageRecord *m, unsigned lane, uint8_t *data) {
        size_t size = outbox_message_record_size(m);
        unsigned flags = 0;
        uint8_t *p = data + OUTBOX_MESSAGE_FIXED_SIZE;

        assert(size > 0);

        put_le64(data + 32, m->seq);
        put_le64(data + 40, m->lane_seq);
        put_le64(data + 48, m->accepted_realtime_usec);
        put_le64(data + 56, m->accepted_boottime_usec);
        put_le16(data + 64, (uint16_t) m->message_id_size);
        put_le16(data + 66, (uint16_t) m->bag_size);
        put_le32(data + 68, (uint32_t) m->body_size);
        if (m->first_of_call)
                flags |= MESSAGE_FIRST_OF_CALL;
        if (m->last_of_call)
                flags |= MESSAGE_LAST_OF_CALL;
        if (m->realtime_plausible)
                flags |= MESSAGE_REALTIME_PLAUSIBLE;
        if (m->time_to_live_usec != USEC_INFINITY) {
                flags |= MESSAGE_HAS_TTL;
                put_le64(p, m->time_to_live_usec);
                p += TTL_SIZE;
        }
        if (m->has_stream) {
                flags |= MESSAGE_HAS_STREAM;
                memcpy(p, m->stream, 16);
                put_le64(p + 16, m->position);
                put_le32(p + 24, m->uid);
                put_le32(p + 28, 0);
                p += STREAM_SIZE;
        }
        p = put_bytes(p, m->message_id, m->message_id_size);
        p = put_bytes(p, m->bag, m->bag_size);
        p = put_bytes(p, m->body, m->body_size);
        memset(p, 0, data + size - p);
        outbox_record_start(data, size, OUTBOX_RECORD_MESSAGE, lane, flags);
}

int outbox_message_record_decode(const OutboxRecord *r, OutboxMessageRecord *ret) {
        const uint8_t *p = r->data;
        OutboxMessageRecord m = { .time_to_live_usec = USEC_INFINITY };
        size_t fixed = OUTBOX_MESSAGE_FIXED_SIZE;

        if (r->kind != OUTBOX_RECORD_MESSAGE || r->lane >= OUTBOX_N_MESSAGE_LANES || r->size < fixed)
                return -EBADMSG;
        m.seq = get_le64(p + 32);
        m.lane_seq = get_le64(p + 40);
        m.accepted_realtime_usec = get_le64(p + 48);
        m.accepted_boottime_usec = get_le64(p + 56);
        m.message_id_size = get_le16(p + 64);
        m.bag_size = get_le16(p + 66);
        m.body_size = get_le32(p + 68);
        m.first_of_call = r->flags & MESSAGE_FIRST_OF_CALL;
        m.last_of_call = r->flags & MESSAGE_LAST_OF_CALL;
        m.realtime_plausible = r->flags & MESSAGE_REALTIME_PLAUSIBLE;
        m.has_stream = r->flags & MESSAGE_HAS_STREAM;
        if (r->flags & MESSAGE_HAS_TTL)
                fixed += TTL_SIZE;
        if (m.has_stream)
                fixed += STREAM_SIZE;
        if (m.seq == 0 || m.lane_seq == 0 || m.body_size > r->size ||
            outbox_align(fixed + m.message_id_size + m.bag_size + m.body_size) != r->size)
                return -EBADMSG;

        p += OUTBOX_MESSAGE_FIXED_SIZE;
        if (r->flags & MESSAGE_HAS_TTL) {
                m.time_to_live_usec = get_le64(p);
                p += TTL_SIZE;
        }
        if (m.has_stream) {
                memcpy(m.stream, p, 16);
                m.position = get_le64(p + 16);
                m.uid = get_le32(p + 24);
                p += STREAM_SIZE;
        }
        m.message_id = (const char *) p;
        m.bag = p + m.message_id_size;
        m.body = p + m.message_id_size + m.bag_size;
        *ret = m;
        return 0;
}
