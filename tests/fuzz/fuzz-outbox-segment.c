/* Goal: whatever bytes a segment file holds, the reader stays inside them, goes forward, gives the same records from a
 * file that is read in pieces as from memory, and a message that it accepts is the one that encoding it gives.
 * Method: the input as it is; and once more with the CRC of whatever looks like a record made right, since chance
 * never finds one. */
#include "daemon/outbox-segment.h"

#include "lib/buffer.h"
#include "tests/fuzz/fuzz.h"

#define INPUT_BYTES_MAX (1024U * 1024U)

typedef struct Memory {
        const uint8_t *data;
        size_t n;
        size_t piece; /* longest read that is served at once */
} Memory;

static ssize_t memory_pread(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset) {
        const Memory *m = io->userdata;

        if (offset >= m->n)
                return 0;
        n = MIN(n, m->piece);
        n = MIN(n, m->n - (size_t) offset);
        memcpy(data, m->data + offset, n);
        return (ssize_t) n;
}

/* Every part of an accepted message lies inside its record, and encoding the parts gives a record that says the same. */
static void check_message(const OutboxRecord *record, const OutboxMessageRecord *m) {
        _cleanup_free_ uint8_t *again = NULL;
        const uint8_t *end = record->data + record->size;
        OutboxMessageRecord n;
        OutboxRecord r;
        size_t size;

        fuzz_require((const uint8_t *) m->message_id >= record->data && m->message_id_size <= record->size);
        fuzz_require((const uint8_t *) m->body >= record->data && m->body_size <= record->size);
        fuzz_require((const uint8_t *) m->bag + m->bag_size <= end && (const uint8_t *) m->body + m->body_size <= end);

        size = outbox_message_record_size(m);
        if (m->time_to_live_usec == USEC_INFINITY && size != record->size)
                return; /* a time-to-live is written, and it is "none": valid, but not how we say it */
        fuzz_require(size == record->size);
        again = malloc(size);
        fuzz_require(again);
        outbox_message_record_encode(m, record->lane, again);
        outbox_record_finish(again, record->salt, record->batch);
        fuzz_require(outbox_record_decode(again, size, record->salt, &r, NULL) == 0);
        fuzz_require(r.kind == record->kind && r.lane == record->lane && r.batch == record->batch);
        fuzz_require(outbox_message_record_decode(&r, &n) == 0);
        fuzz_require(n.seq == m->seq && n.lane_seq == m->lane_seq && n.position == m->position && n.uid == m->uid);
        fuzz_require(n.has_stream == m->has_stream && memcmp(n.stream, m->stream, sizeof(n.stream)) == 0);
        fuzz_require(n.time_to_live_usec == m->time_to_live_usec && n.realtime_plausible == m->realtime_plausible);
        fuzz_require(n.first_of_call == m->first_of_call && n.last_of_call == m->last_of_call);
        fuzz_require(n.accepted_realtime_usec == m->accepted_realtime_usec);
        fuzz_require(n.accepted_boottime_usec == m->accepted_boottime_usec);
        fuzz_require(memcmp(n.body, m->body, m->body_size) == 0 && memcmp(n.bag, m->bag, m->bag_size) == 0);
        fuzz_require(memcmp(n.message_id, m->message_id, m->message_id_size) == 0);
}

/* Walks all records; what was seen goes to log. */
static void walk(OutboxSegmentScan *s, uint64_t salt, uint64_t start, size_t n, Buffer *log) {
        uint64_t offset, expected = start;
        OutboxMessageRecord m;
        OutboxRecord r;

        while (outbox_segment_scan_next(s, &r, &offset) > 0) {
                fuzz_require(offset >= expected && offset % OUTBOX_RECORD_ALIGN == 0);
                fuzz_require(r.size >= OUTBOX_RECORD_PREFIX_SIZE && offset + r.size <= n);
                fuzz_require(s->damaged_before == (offset != expected));
                fuzz_require(salt == 0 || r.salt == salt);
                expected = offset + r.size;
                fuzz_require(buffer_appendf(log, "%llu %zu %d %llu\n", (unsigned long long) offset, r.size, (int) r.kind,
                                            (unsigned long long) r.batch) == 0);
                if (outbox_message_record_decode(&r, &m) == 0)
                        check_message(&r, &m);
        }
        fuzz_require(!s->unreadable);
}

static void scan_both_ways(const uint8_t *data, size_t n, uint64_t salt, uint64_t start) {
        static const size_t pieces[] = { 1000, 65536, SIZE_MAX };
        _cleanup_(buffer_done) Buffer want = {};
        OutboxSegmentScan s;

        outbox_segment_scan_bytes(&s, data, n, salt, start);
        walk(&s, salt, start, n, &want);
        outbox_segment_scan_done(&s);
        for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
                _cleanup_(buffer_done) Buffer got = {};
                Memory memory = { data, n, pieces[i] };
                OutboxIo io = { .userdata = &memory, .pread = memory_pread };

                outbox_segment_scan_file(&s, &io, 1, salt, start, n);
                walk(&s, salt, start, n, &got);
                outbox_segment_scan_done(&s);
                fuzz_require(got.size == want.size && (got.size == 0 || memcmp(got.data, want.data, got.size) == 0));
        }
}

static void header(const uint8_t *data) {
        uint8_t again[OUTBOX_SEGMENT_HEADER_SIZE];
        OutboxSegmentHeader h, i;

        if (outbox_segment_header_decode(data, &h) < 0)
                return;
        outbox_segment_header_encode(&h, again);
        fuzz_require(outbox_segment_header_decode(again, &i) == 0);
        fuzz_require(i.salt == h.salt && i.number == h.number && i.lane == h.lane && i.batch == h.batch);
}

/* Makes the CRC right wherever a record seems to start, and the size fit. */
static void repair(uint8_t *data, size_t n) {
        static const uint8_t magic[] = { 0x4f, 0x42, 0x52, 0x31 };

        for (size_t at = 0; n - at >= OUTBOX_RECORD_PREFIX_SIZE; at += OUTBOX_RECORD_ALIGN) {
                size_t size;

                if (memcmp(data + at, magic, sizeof(magic)) != 0)
                        continue;
                size = get_le32(data + at + 24) & ~(size_t) (OUTBOX_RECORD_ALIGN - 1);
                size = MAX(size, (size_t) OUTBOX_RECORD_PREFIX_SIZE);
                size = MIN(size, (n - at) & ~(size_t) (OUTBOX_RECORD_ALIGN - 1));
                put_le32(data + at + 24, (uint32_t) size);
                outbox_record_reopen(data + at);
                outbox_record_finish(data + at, get_le64(data + at + 8), get_le64(data + at + 16));
                at += size - OUTBOX_RECORD_ALIGN;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_free_ uint8_t *copy = NULL;

        if (n < OUTBOX_SEGMENT_HEADER_SIZE || n > INPUT_BYTES_MAX)
                return 0;
        header(data);
        scan_both_ways(data, n, 0, 0);
        scan_both_ways(data, n, get_le64(data + 24), OUTBOX_SEGMENT_HEADER_SIZE);

        copy = malloc(n);
        fuzz_require(copy);
        memcpy(copy, data, n);
        repair(copy, n);
        scan_both_ways(copy, n, 0, OUTBOX_SEGMENT_HEADER_SIZE);
        return 0;
}
