/* Goal: the set of ended messages behaves as a set, and a position record carries everything over.
 * Method: random additions beside a plain array of flags; random positions both ways. */
#include "daemon/outbox-position.h"
#include "daemon/outbox-stream.h"
#include "daemon/outbox.h"
#include "tests/support/random.h"
#include "tests/support/test.h"

#define N 300U

static void check_set(const OutboxSettledSet *s, const bool *flags, Random *r) {
        uint64_t first = 1 + random_below(r, N), last = first + random_below(r, N - first + 1), missing = 0, next = first;

        for (uint64_t x = 1; x <= N; x++)
                ck_assert_int_eq(outbox_settled_set_contains(s, x), flags[x]);
        for (uint64_t x = first; x <= last; x++)
                missing += !flags[x];
        while (next <= N && flags[next])
                next++;
        ck_assert_uint_eq(outbox_settled_set_missing(s, first, last), missing);
        ck_assert_int_eq(outbox_settled_set_contains_all(s, first, last), missing == 0);
        ck_assert_uint_eq(outbox_settled_set_next(s, first), next);
        for (size_t i = 0; i < s->n; i++) {
                /* Sorted, apart from each other and from the watermark: so the record is as small as can be. */
                ck_assert_uint_le(s->ranges[i].first, s->ranges[i].last);
                ck_assert_uint_gt(s->ranges[i].first, (i > 0 ? s->ranges[i - 1].last : s->watermark) + 1);
        }
}

TEST(ranges_behave_as_a_set_of_numbers) {
        Random r = { test_seed() };

        for (unsigned round = 0; round < 200; round++) {
                OutboxSettledSet s = { 0 };
                bool flags[N + 2] = { true };

                for (unsigned step = 0; step < 60; step++) {
                        uint64_t first = 1 + random_below(&r, N), last = MIN(first + random_below(&r, 9), (uint64_t) N);

                        assert_ok(outbox_settled_set_add(&s, first, last));
                        for (uint64_t x = first; x <= last; x++)
                                flags[x] = true;
                        check_set(&s, flags, &r);
                }
                outbox_settled_set_done(&s);
        }
}

static void fill(OutboxPosition *p, OutboxStreamTable *streams, Random *r) {
        *p = (OutboxPosition) {
                .full = random_one_in(r, 2),
                .outbox_id = random_u64(r),
                .next_seq = random_u64(r),
                .totals = { random_u64(r), random_u64(r), random_u64(r), random_u64(r), random_u64(r), random_u64(r) },
                .newest_realtime_usec = random_u64(r),
        };
        for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                p->lanes[lane].tail = random_below(r, 1U << 30);
                p->lanes[lane].queued_bytes = random_u64(r);
                for (unsigned i = 0; i < 20; i++)
                        assert_ok(outbox_settled_set_add(&p->lanes[lane].settled, 2 + 100 * i, 2 + 100 * i + random_below(r, 50)));
        }
        if (!p->full)
                return;
        p->hub = strdup("contoso-test.azure-devices.net");
        p->device = strdup("dev01/module");
        for (unsigned i = 0; i < 50; i++) {
                uint8_t id[16];
                OutboxStreamEntry *e;

                for (size_t k = 0; k < sizeof(id); k++)
                        id[k] = (uint8_t) random_u64(r);
                e = outbox_stream_add(streams, id, (uint32_t) random_u64(r), i % OUTBOX_N_MESSAGE_LANES);
                ck_assert_ptr_nonnull(e);
                e->next = e->pending_next = random_u64(r);
        }
}

static void compare_streams(OutboxStreamTable *a, OutboxStreamTable *b) {
        ck_assert_uint_eq(outbox_stream_count(a), outbox_stream_count(b));
        for (size_t i = 0; i < outbox_stream_count(a); i++) {
                const OutboxStreamEntry *x = outbox_stream_get(a, i), *y = outbox_stream_find(b, x->id);

                ck_assert_ptr_nonnull(y);
                ck_assert_uint_eq(x->next, y->next);
                ck_assert_uint_eq(x->uid, y->uid);
                ck_assert_uint_eq(x->lane, y->lane);
        }
}

TEST(a_position_is_read_back_as_it_was) {
        Random r = { test_seed() };

        for (unsigned round = 0; round < 200; round++) {
                _cleanup_(outbox_stream_table_freep) OutboxStreamTable *streams = outbox_stream_table_new();
                _cleanup_(outbox_stream_table_freep) OutboxStreamTable *read = outbox_stream_table_new();
                _cleanup_(outbox_position_done) OutboxPosition p = { 0 }, q = { 0 };
                _cleanup_free_ uint8_t *data = NULL;
                OutboxRecord record;
                size_t size;
                bool full;

                ck_assert(streams && read);
                fill(&p, streams, &r);
                size = outbox_position_size(&p, streams);
                data = malloc(size);
                ck_assert_ptr_nonnull(data);
                outbox_position_encode(&p, p.full ? streams : NULL, OUTBOX_LANE_POSITION, data);
                outbox_record_finish(data, 1, 2);
                assert_ok(outbox_record_decode(data, size, 1, &record, NULL));
                ck_assert(outbox_position_is(&record, &full) && full == p.full);
                assert_ok(outbox_position_decode(&record, read, &q));

                ck_assert_uint_eq(p.outbox_id, q.outbox_id);
                ck_assert_uint_eq(p.next_seq, q.next_seq);
                ck_assert_mem_eq(&p.totals, &q.totals, sizeof(p.totals));
                ck_assert_uint_eq(p.newest_realtime_usec, q.newest_realtime_usec);
                for (unsigned lane = 0; lane < OUTBOX_N_MESSAGE_LANES; lane++) {
                        const OutboxPositionLane *x = &p.lanes[lane], *y = &q.lanes[lane];

                        ck_assert_uint_eq(x->tail, y->tail);
                        ck_assert_uint_eq(x->queued_bytes, y->queued_bytes);
                        ck_assert_uint_eq(x->settled.watermark, y->settled.watermark);
                        ck_assert_uint_eq(x->settled.n, y->settled.n);
                        ck_assert_mem_eq(x->settled.ranges, y->settled.ranges, x->settled.n * sizeof(OutboxRange));
                }
                if (!p.full)
                        continue;
                ck_assert_str_eq(p.hub, q.hub);
                ck_assert_str_eq(p.device, q.device);
                compare_streams(streams, read);
        }
}

/* Whatever a position says after damage that the CRC cannot see, reading it stays within its bytes. */
TEST(a_forged_position_is_refused_or_read_within_its_bytes) {
        Random r = { test_seed() };

        for (unsigned round = 0; round < 3000; round++) {
                _cleanup_(outbox_stream_table_freep) OutboxStreamTable *streams = outbox_stream_table_new();
                _cleanup_(outbox_position_done) OutboxPosition p = { 0 }, q = { 0 };
                _cleanup_free_ uint8_t *data = NULL;
                OutboxRecord record;
                size_t size;

                ck_assert_ptr_nonnull(streams);
                fill(&p, streams, &r);
                size = outbox_position_size(&p, streams);
                data = malloc(size); /* exact, so that a sanitizer sees a byte too far */
                ck_assert_ptr_nonnull(data);
                outbox_position_encode(&p, p.full ? streams : NULL, OUTBOX_LANE_POSITION, data);
                for (unsigned i = 0; i < 4; i++)
                        data[OUTBOX_RECORD_PREFIX_SIZE + random_below(&r, size - OUTBOX_RECORD_PREFIX_SIZE)] = (uint8_t) random_u64(&r);
                outbox_record_reopen(data);
                outbox_record_finish(data, 1, 2);
                assert_ok(outbox_record_decode(data, size, 1, &record, NULL));
                (void) outbox_position_decode(&record, NULL, &q); /* any answer, no crash */
        }
}
