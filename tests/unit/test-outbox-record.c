/* Goal: what is written to disk is read back equal, and what is not whole is not taken for a record.
 * Method: random messages from a seed both ways; every bit of a record flipped, every prefix tried. */
#include "daemon/outbox-record.h"
#include "daemon/outbox.h"
#include "tests/support/random.h"
#include "tests/support/test.h"

#define SALT UINT64_C(0x1122334455667788)

typedef struct Example {
        OutboxMessageRecord m;
        char id[129], bag[400];
        uint8_t body[600];
} Example;

static void example_fill(Example *e, Random *r) {
        for (size_t i = 0; i < sizeof(e->body); i++)
                e->body[i] = (uint8_t) random_u64(r);
        memset(e->id, 'i', sizeof(e->id));
        memset(e->bag, 'b', sizeof(e->bag));
        e->m = (OutboxMessageRecord) {
                .seq = random_u64(r),
                .lane_seq = random_u64(r),
                .accepted_realtime_usec = random_u64(r),
                .accepted_boottime_usec = random_u64(r),
                .realtime_plausible = random_one_in(r, 2),
                .first_of_call = random_one_in(r, 2),
                .last_of_call = random_one_in(r, 2),
                .time_to_live_usec = random_one_in(r, 2) ? USEC_INFINITY : random_below(r, 1000),
                .has_stream = random_one_in(r, 2),
                .message_id = e->id,
                .bag = e->bag,
                .body = e->body,
                .message_id_size = random_below(r, sizeof(e->id)),
                .bag_size = random_below(r, sizeof(e->bag)),
                .body_size = random_below(r, sizeof(e->body)),
        };
        if (e->m.has_stream) {
                e->m.position = random_u64(r);
                e->m.uid = (uint32_t) random_u64(r);
                for (size_t i = 0; i < sizeof(e->m.stream); i++)
                        e->m.stream[i] = (uint8_t) random_u64(r);
        }
}

static uint8_t *example_encode(const Example *e, unsigned lane, uint64_t batch, size_t *ret_size) {
        size_t size = outbox_message_record_size(&e->m);
        uint8_t *data = malloc(size);

        ck_assert_ptr_nonnull(data);
        outbox_message_record_encode(&e->m, lane, data);
        outbox_record_finish(data, SALT, batch);
        *ret_size = size;
        return data;
}

TEST(a_message_is_read_back_as_it_was) {
        Random r = { test_seed() };

        for (unsigned round = 0; round < 2000; round++) {
                unsigned lane = (unsigned) random_below(&r, OUTBOX_N_MESSAGE_LANES);
                _cleanup_free_ uint8_t *data = NULL;
                OutboxMessageRecord m;
                OutboxRecord record;
                size_t size, told;
                Example e;

                example_fill(&e, &r);
                data = example_encode(&e, lane, round + 1, &size);
                ck_assert_uint_eq(size % OUTBOX_RECORD_ALIGN, 0);
                assert_ok(outbox_record_decode(data, size, SALT, &record, &told));
                ck_assert_uint_eq(told, size);
                ck_assert_int_eq(record.kind, OUTBOX_RECORD_MESSAGE);
                ck_assert_uint_eq(record.lane, lane);
                ck_assert_uint_eq(record.batch, round + 1);
                assert_ok(outbox_message_record_decode(&record, &m));
                ck_assert_uint_eq(m.seq, e.m.seq);
                ck_assert_uint_eq(m.lane_seq, e.m.lane_seq);
                ck_assert_uint_eq(m.accepted_realtime_usec, e.m.accepted_realtime_usec);
                ck_assert_uint_eq(m.accepted_boottime_usec, e.m.accepted_boottime_usec);
                ck_assert_uint_eq(m.time_to_live_usec, e.m.time_to_live_usec);
                ck_assert_int_eq(m.realtime_plausible, e.m.realtime_plausible);
                ck_assert_int_eq(m.first_of_call, e.m.first_of_call);
                ck_assert_int_eq(m.last_of_call, e.m.last_of_call);
                ck_assert_int_eq(m.has_stream, e.m.has_stream);
                if (m.has_stream) {
                        ck_assert_mem_eq(m.stream, e.m.stream, 16);
                        ck_assert_uint_eq(m.position, e.m.position);
                        ck_assert_uint_eq(m.uid, e.m.uid);
                }
                ck_assert_uint_eq(m.message_id_size, e.m.message_id_size);
                ck_assert_uint_eq(m.bag_size, e.m.bag_size);
                ck_assert_uint_eq(m.body_size, e.m.body_size);
                ck_assert(memcmp(m.message_id, e.id, m.message_id_size) == 0);
                ck_assert(memcmp(m.bag, e.bag, m.bag_size) == 0);
                ck_assert(memcmp(m.body, e.body, m.body_size) == 0);
        }
}

TEST(no_flipped_bit_goes_unnoticed) {
        Random r = { test_seed() };
        _cleanup_free_ uint8_t *data = NULL;
        OutboxRecord record;
        size_t size;
        Example e;

        example_fill(&e, &r);
        data = example_encode(&e, OUTBOX_LANE_BULK, 7, &size);
        for (size_t bit = 0; bit < size * 8; bit++) {
                data[bit / 8] ^= (uint8_t) (1U << bit % 8);
                ck_assert_int_lt(outbox_record_decode(data, size, SALT, &record, NULL), 0);
                data[bit / 8] ^= (uint8_t) (1U << bit % 8);
        }
        assert_ok(outbox_record_decode(data, size, SALT, &record, NULL));
}

TEST(a_prefix_asks_for_the_rest_and_another_use_is_none) {
        Random r = { test_seed() };
        _cleanup_free_ uint8_t *data = NULL;
        OutboxRecord record;
        size_t size;
        Example e;

        example_fill(&e, &r);
        data = example_encode(&e, OUTBOX_LANE_URGENT, 7, &size);
        for (size_t n = 0; n < size; n++) {
                size_t want = 0;

                assert_error(outbox_record_decode(data, n, SALT, &record, &want), -ENODATA);
                ck_assert_uint_eq(want, n < OUTBOX_RECORD_PREFIX_SIZE ? OUTBOX_RECORD_PREFIX_SIZE : size);
        }
        assert_error(outbox_record_decode(data, size, SALT + 1, &record, NULL), -EBADMSG);
        assert_ok(outbox_record_decode(data, size, /* salt= */ 0, &record, NULL));
}

/* A record that failed to be written goes to another segment: same bytes, other salt and batch. */
TEST(a_reopened_record_can_be_finished_elsewhere) {
        Random r = { test_seed() };
        _cleanup_free_ uint8_t *data = NULL;
        OutboxRecord record;
        size_t size;
        Example e;

        example_fill(&e, &r);
        data = example_encode(&e, OUTBOX_LANE_NORMAL, 7, &size);
        outbox_record_reopen(data);
        assert_error(outbox_record_decode(data, size, 0, &record, NULL), -EBADMSG);
        outbox_record_finish(data, SALT + 5, 8);
        assert_ok(outbox_record_decode(data, size, SALT + 5, &record, NULL));
        ck_assert_uint_eq(record.batch, 8);
}

TEST(the_largest_record_fits_and_one_more_byte_does_not) {
        OutboxMessageRecord m = {
                .time_to_live_usec = USEC_INFINITY,
                .body_size = OUTBOX_RECORD_BYTES_MAX - OUTBOX_MESSAGE_FIXED_SIZE,
        };

        ck_assert_uint_eq(outbox_message_record_size(&m), OUTBOX_RECORD_BYTES_MAX);
        m.body_size++;
        ck_assert_uint_eq(outbox_message_record_size(&m), 0);
        m.body_size = 0;
        m.bag_size = UINT16_MAX + (size_t) 1;
        ck_assert_uint_eq(outbox_message_record_size(&m), 0);
}

TEST(search_finds_the_next_record_behind_garbage) {
        Random r = { test_seed() };
        _cleanup_free_ uint8_t *data = NULL, *all = NULL;
        OutboxRecord record;
        size_t size, offset = 0;
        Example e;

        example_fill(&e, &r);
        data = example_encode(&e, OUTBOX_LANE_NORMAL, 7, &size);
        all = calloc(1, size + 4096);
        ck_assert_ptr_nonnull(all);
        memcpy(all, "OBR1", 4); /* looks like one */
        memcpy(all + 2048, data, size);
        ck_assert_int_eq(outbox_record_search(all, size + 4096, SALT, true, &offset, &record), 1);
        ck_assert_uint_eq(offset, 2048);
        offset += size;
        ck_assert_int_eq(outbox_record_search(all, size + 4096, SALT, true, &offset, &record), 0);
}
