/* Single promises of the outbox that a random life meets too rarely, on a simulated disk beside the model. */
#include <inttypes.h>

#include "daemon/outbox-segment.h"
#include "tests/support/outbox-rig.h"
#include "tests/support/test.h"

/* Goal: P3: the streams used last are remembered over a crash, at least 1,024 of them. */
TEST(a_thousand_streams_are_remembered_over_a_crash) {
        OutboxOptions options = base_options();
        ModelStream *streams[OUTBOX_STREAMS_MAX];
        Rig g;

        rig_open(&g, &options, 1, UINT64_MAX);
        for (size_t i = 0; i < ELEMENTSOF(streams); i++) {
                streams[i] = outbox_model_stream_new(g.model, (OutboxLane) (i % _OUTBOX_LANE_MAX));
                assert_ok(outbox_model_append_stream(g.model, streams[i], 0, 1 + i % 3));
                outbox_model_run(g.model);
                if (i % 200 == 199)
                        confirm_all(g.model);
        }
        outbox_model_crash(g.model, MODEL_REBOOTED);
        reopen(&g, false);
        for (size_t i = 0; i < ELEMENTSOF(streams); i++)
                ck_assert_uint_eq(outbox_model_stream_next(g.model, streams[i]), 1 + i % 3);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P2: what was confirmed before the last so many messages never comes back. Method: crash after each of many
 * confirmations; the model knows the bound. */
TEST(confirmations_come_back_within_the_bound_only) {
        OutboxOptions options = base_options();
        Rig g;

        options.position_messages = 7;
        options.position_interval_usec = USEC_PER_HOUR;
        rig_open(&g, &options, 2, UINT64_MAX);
        for (unsigned n = 1; n < 60; n++) {
                ModelMessage *x;
                uint64_t back = g.model->n_came_back;

                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 30, 50, USEC_INFINITY));
                for (unsigned i = 0; i < n && outbox_model_next(g.model, &x) == 0; i++) {
                        outbox_model_settle(g.model, x, OUTBOX_END_CONFIRMED);
                        outbox_model_run(g.model);
                }
                outbox_model_crash(g.model, MODEL_CUT);
                reopen(&g, false);
                ck_assert_uint_le(g.model->n_came_back - back, options.position_messages);
                confirm_all(g.model);
        }
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P5: never above max_size, and full is no dead end: what is delivered makes room. */
TEST(full_outbox_refuses_within_max_size_and_takes_again) {
        OutboxOptions options = base_options();
        Rig g;

        options.max_size = 8 * MIB;
        rig_open(&g, &options, 3, UINT64_MAX);
        for (int round = 0; round < 5; round++) {
                unsigned n = 0;
                OutboxStats s;

                while (append_some(g.model, (OutboxLane) (n % 3), 4, 3000 + n % 100, USEC_INFINITY) == 0)
                        ck_assert_uint_lt(++n, 1000);
                ck_assert_uint_gt(n, 4 * MIB / (4 * 3100)); /* most of max_size is of use */
                outbox_get_stats(g.model->outbox, &s);
                ck_assert(s.is_full);
                ck_assert_uint_le(s.used_bytes, s.max_bytes);
                if (round % 2) {
                        outbox_model_crash(g.model, MODEL_CUT);
                        reopen(&g, false);
                }
                confirm_all(g.model);
                outbox_model_advance(g.model, 2 * USEC_PER_SEC);
                outbox_model_run(g.model);
        }
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P2, P4: on a disk without one free page, ends are still recorded and stay recorded. */
TEST(full_disk_has_room_for_positions) {
        OutboxOptions options = base_options();
        Rig g;

        rig_open(&g, &options, 4, 64 * MIB);
        for (int i = 0; i < 20; i++)
                assert_ok(append_some(g.model, (OutboxLane) (i % 3), 10, 200, USEC_INFINITY));
        g.model->trouble = true;
        sim_disk_set_capacity(g.disk, 0); /* nothing more can be allocated */
        g.model->trouble = false;         /* and yet none of what follows may fail */
        for (int i = 0; i < 30; i++) {
                ModelMessage *x;

                for (int k = 0; k < 5; k++) {
                        if (outbox_model_next(g.model, &x) < 0)
                                break;
                        outbox_model_settle(g.model, x, OUTBOX_END_CONFIRMED);
                }
                outbox_model_advance(g.model, 2 * USEC_PER_SEC);
                outbox_model_run(g.model);
                if (i % 10 == 9) {
                        outbox_model_crash(g.model, MODEL_CUT);
                        ck_assert_uint_eq(g.model->n_came_back, 0);
                        reopen(&g, false);
                        ck_assert_uint_eq(g.model->n_came_back, 0);
                }
        }
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: drop-oldest takes bulk first, then normal, never urgent, each from its oldest on, and says so. */
TEST(drop_oldest_spares_urgent_and_takes_bulk_first) {
        OutboxOptions options = base_options();
        uint64_t dropped[_OUTBOX_LANE_MAX] = {};
        Rig g;

        options.max_size = 10 * MIB;
        options.full = OUTBOX_FULL_DROP_OLDEST;
        rig_open(&g, &options, 5, UINT64_MAX);
        for (int i = 0; i < 100; i++)
                assert_ok(append_some(g.model, (OutboxLane) (i % 3), 4, 5000, USEC_INFINITY));
        for (int i = 0; i < 600 && g.model->n_settled[OUTBOX_END_DROPPED] < 1200; i++)
                (void) append_some(g.model, OUTBOX_LANE_NORMAL, 4, 5000, USEC_INFINITY); /* refusals are checked there */
        for (size_t i = 0; i < g.model->n_messages; i++) {
                const ModelMessage *x = g.model->messages[i];

                if (x->end != OUTBOX_END_DROPPED)
                        continue;
                dropped[x->lane]++;
                for (size_t k = 0; k < i; k++)
                        ck_assert_msg(g.model->messages[k]->lane != x->lane || g.model->messages[k]->end == OUTBOX_END_DROPPED,
                                      "message %zu was dropped before the older %zu", i, k);
        }
        ck_assert_uint_eq(dropped[OUTBOX_LANE_URGENT], 0);
        ck_assert_uint_gt(dropped[OUTBOX_LANE_NORMAL], 0);
        ck_assert_uint_gt(dropped[OUTBOX_LANE_BULK], 0);
        outbox_model_crash(g.model, MODEL_REBOOTED);
        reopen(&g, false);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: a time-to-live is never over early: not by a wall clock that jumps within a boot, not by one that is wrong
 * after a boot. */
TEST(time_to_live_is_never_over_early) {
        OutboxOptions options = base_options();
        Rig g;

        rig_open(&g, &options, 6, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 50, 100 * USEC_PER_SEC));
        outbox_model_step_realtime(g.model, (int64_t) (1000 * USEC_PER_DAY));
        outbox_model_run(g.model);
        ck_assert_uint_eq(outbox_model_n_queued(g.model), 5);
        outbox_model_step_realtime(g.model, -(int64_t) (1000 * USEC_PER_DAY));
        outbox_model_crash(g.model, MODEL_REBOOTED);

        /* The board has no battery: it wakes in 1970. */
        outbox_model_step_realtime(g.model, -(int64_t) (g.model->realtime_usec - USEC_PER_SEC));
        reopen(&g, false);
        outbox_model_advance(g.model, USEC_PER_DAY);
        outbox_model_run(g.model);
        ck_assert_uint_eq(outbox_model_n_queued(g.model), 5);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: within a boot it is over on time, also for what waits to go again, and the end survives. */
TEST(time_to_live_is_over_on_time) {
        OutboxOptions options = base_options();
        ModelMessage *x;
        Rig g;

        rig_open(&g, &options, 7, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 50, 100 * USEC_PER_SEC));
        assert_ok(outbox_model_next(g.model, &x));
        outbox_model_requeue(g.model);
        outbox_model_advance(g.model, 101 * USEC_PER_SEC);
        outbox_model_run(g.model);
        ck_assert_uint_eq(outbox_model_n_queued(g.model), 0);
        ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_EXPIRED], 5);
        outbox_model_crash(g.model, MODEL_CUT);
        reopen(&g, false);
        ck_assert_uint_eq(outbox_model_n_queued(g.model), 0);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P4: a disk that will not read for a while costs nothing, neither at work nor at a start. */
TEST(reads_that_fail_for_a_while_cost_nothing) {
        OutboxOptions options = base_options();
        Rig g;

        for (int at_start = 0; at_start < 2; at_start++) {
                rig_open(&g, &options, 8, UINT64_MAX);
                for (int i = 0; i < 40; i++)
                        assert_ok(append_some(g.model, (OutboxLane) (i % 3), 20, 1500, USEC_INFINITY));
                if (at_start)
                        outbox_model_close(g.model);
                g.model->trouble = true;
                sim_disk_fail_at(g.disk, 1U << SIM_PREAD, 0, UINT64_MAX, EIO);
                if (!at_start || outbox_model_open(g.model) == 0) {
                        for (int i = 0; i < 50; i++) {
                                outbox_model_run(g.model);
                                (void) outbox_model_next(g.model, NULL); /* nothing, or what is in memory */
                                outbox_model_advance(g.model, 5 * USEC_PER_SEC);
                        }
                        outbox_model_requeue(g.model);
                        sim_disk_fail_at(g.disk, 0, 0, 0, 0);
                        if (at_start)
                                outbox_model_verify_start(g.model, false);
                        outbox_model_recover(g.model);
                        outbox_model_close(g.model);
                }
                sim_disk_fail_at(g.disk, 0, 0, 0, 0);
                g.model->trouble = false;
                reopen(&g, true);
                ck_assert_uint_ge(outbox_model_n_queued(g.model), 800);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: one process at a time; the second is told, and harms nothing. */
TEST(second_opener_is_refused) {
        OutboxOptions options = base_options();
        OutboxEvents events = {};
        Outbox *o = NULL;
        Rig g;

        rig_open(&g, &options, 9, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 50, USEC_INFINITY));
        assert_error(outbox_open("box", &g.model->options, &events, &o), -EBUSY);
        ck_assert(o == NULL);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 50, USEC_INFINITY));
        outbox_model_crash(g.model, MODEL_CUT);
        reopen(&g, false);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: what waits for one device is not given to another, unless the administrator says so; also over a crash. */
TEST(messages_of_another_device_are_held) {
        OutboxOptions options = base_options();
        OutboxDelivery *d = NULL;
        Rig g;

        rig_open(&g, &options, 10, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 50, USEC_INFINITY));
        for (int i = 0; i < 2; i++) {
                assert_error(outbox_set_identity(g.model->outbox, "hub.example", "other", false), -EREMCHG);
                outbox_model_run(g.model);
                assert_error(outbox_next(g.model->outbox, &d), -EREMCHG);
                outbox_model_crash(g.model, MODEL_CUT);
                reopen(&g, false); /* by its own name they come, all of them */
                ck_assert_uint_eq(outbox_model_n_queued(g.model), 5);
        }
        assert_error(outbox_set_identity(g.model->outbox, "hub.example", "other", false), -EREMCHG);
        assert_ok(outbox_set_identity(g.model->outbox, "hub.example", "other", true));
        ck_assert_uint_eq(outbox_model_next_all(g.model), 5);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: the hub's largest message has room, a larger one than the format holds is refused, and the queue is as
 * before. */
TEST(too_large_a_message_is_refused_and_harmless) {
        OutboxOptions options = base_options();
        Rig g;

        rig_open(&g, &options, 11, UINT64_MAX);
        for (int i = 0; i < 5; i++) {
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 2, 256 * 1024, USEC_INFINITY));
                assert_error(append_some(g.model, OUTBOX_LANE_NORMAL, 1, OUTBOX_RECORD_BYTES_MAX, USEC_INFINITY), -EMSGSIZE);
                outbox_model_crash(g.model, MODEL_CUT);
                reopen(&g, false);
                ck_assert_uint_eq(confirm_all(g.model), 2);
        }
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P5: also the smallest outbox that the configuration allows is no dead end, whichever lanes are in use: what is
 * delivered makes room. */
TEST(smallest_outbox_takes_again_what_it_delivered) {
        for (uint64_t size = MIB; size <= 4 * MIB; size += MIB / 2) {
                OutboxOptions options = base_options();
                Rig g;

                options.max_size = size;
                rig_open(&g, &options, 12, UINT64_MAX);
                for (unsigned round = 0; round < 12; round++) {
                        unsigned n = 0;

                        while (append_some(g.model, (OutboxLane) (round % 3), 4, 30000, USEC_INFINITY) == 0)
                                ck_assert_uint_lt(++n, 1000);
                        ck_assert_msg(n > 0, "%" PRIu64 " bytes, round %u: nothing waits, and it is full", size, round);
                        confirm_all(g.model);
                        outbox_model_advance(g.model, 2 * USEC_PER_SEC);
                        outbox_model_run(g.model);
                }
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P1: a name that a killed process had not synced is synced before anything in that file is reported durable,
 * also where the first try to do so fails. */
TEST(directory_that_would_not_sync_is_synced_before_anything_is_told) {
        for (uint64_t n = 0; n < 120; n++) {
                OutboxOptions options = base_options();
                Rig g;

                rig_open(&g, &options, 100 + n, UINT64_MAX);
                sim_disk_crash_at(g.disk, n / 2);
                (void) append_some(g.model, OUTBOX_LANE_NORMAL, 1, 100, USEC_INFINITY);
                outbox_model_crash(g.model, MODEL_KILLED);
                g.model->trouble = true;
                sim_disk_fail_at(g.disk, 1U << SIM_FSYNC, n % 2, 1, EIO);
                if (outbox_model_open(g.model) < 0)
                        assert_ok(outbox_model_open(g.model));
                outbox_model_verify_start(g.model, false);
                sim_disk_fail_at(g.disk, 0, 0, 0, 0);
                outbox_model_recover(g.model);
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 100, USEC_INFINITY));
                outbox_model_crash(g.model, MODEL_CUT);
                reopen(&g, false);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P1: of a batch that failed and was tried again, the files of the first try do not count, though they could not be
 * removed. Method: a batch that goes on in a fresh segment, whose first sync fails, and the removal after it; what follows
 * lets a position know it; the power goes, and the first try's segment is there, torn, with the retry's beside it. */
TEST(first_try_of_a_batch_that_stays_takes_nothing_away) {
        unsigned n_stayed = 0;

        for (uint64_t seed = 0; seed < 400; seed++) {
                OutboxOptions options = base_options();
                Rig g;

                rig_open(&g, &options, 300 + seed, UINT64_MAX);
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 8, 60000, USEC_INFINITY));
                g.model->trouble = true;
                sim_disk_fail_at(g.disk, 1U << SIM_FDATASYNC | 1U << SIM_UNLINKAT, seed % 2, 2, EIO);
                (void) append_some(g.model, OUTBOX_LANE_NORMAL, 12, 10000, USEC_INFINITY);
                n_stayed += sim_disk_n_failed(g.disk) == 2 && outbox_model_n_queued(g.model) == 20;
                sim_disk_fail_at(g.disk, 0, 0, 0, 0);
                for (uint64_t i = 0; i < seed / 2 % 8; i++)
                        (void) append_some(g.model, OUTBOX_LANE_NORMAL, i + 1, 20000, USEC_INFINITY);
                if (seed & 1)
                        outbox_model_checkpoint(g.model);
                outbox_model_crash(g.model, MODEL_CUT);
                reopen(&g, false);
                outbox_model_close(g.model);
                rig_done(&g);
        }
        ck_assert_uint_gt(n_stayed, 0);
}

/* Goal: a read that failed is tried again later, and until somebody wants it nobody is woken for it again and again. */
TEST(failed_read_that_nobody_wants_wakes_nobody) {
        OutboxOptions options = base_options();
        OutboxDelivery *d = NULL;
        Rig g;

        rig_open(&g, &options, 13, UINT64_MAX);
        for (int i = 0; i < 20; i++)
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 2, 60000, USEC_INFINITY));
        ck_assert_uint_eq(outbox_model_next_all(g.model), 40);
        outbox_model_requeue(g.model);
        g.model->trouble = true;
        sim_disk_fail_at(g.disk, 1U << SIM_PREAD, 0, UINT64_MAX, EIO);
        assert_error(outbox_next(g.model->outbox, &d), -EAGAIN);
        outbox_model_run(g.model);
        for (int i = 0; i < 10; i++) {
                usec_t deadline = outbox_next_deadline(g.model->outbox);

                if (deadline != USEC_INFINITY && deadline > g.model->boottime_usec)
                        outbox_model_advance(g.model, deadline - g.model->boottime_usec);
                outbox_process(g.model->outbox);
        }
        ck_assert_uint_gt(outbox_next_deadline(g.model->outbox), g.model->boottime_usec);
        sim_disk_fail_at(g.disk, 0, 0, 0, 0);
        outbox_model_recover(g.model);
        ck_assert_uint_ge(outbox_model_next_all(g.model), 40);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P4: a file under the name of a segment that is none of a lane's, for example a copy of a dead letter box,
 * harms nothing. */
TEST(segment_of_no_lane_is_put_aside) {
        for (unsigned lane = OUTBOX_LANE_DEAD_LETTER; lane < 256; lane += 251) {
                OutboxOptions options = base_options();
                uint8_t data[4096] = { 0 };
                Rig g;

                rig_open(&g, &options, 14, UINT64_MAX);
                assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 5, 50, USEC_INFINITY));
                outbox_model_close(g.model);
                if (lane == OUTBOX_LANE_DEAD_LETTER)
                        outbox_segment_header_encode(&(OutboxSegmentHeader) {
                                .number = 99, .size = sizeof(data), .lane = lane, .salt = 5, .batch = 1,
                        }, data);
                else
                        data[0] = 1; /* a header that tells nothing: the record does */
                outbox_record_start(data + OUTBOX_SEGMENT_HEADER_SIZE, 64, OUTBOX_RECORD_DEAD_LETTER, lane, 0);
                outbox_record_finish(data + OUTBOX_SEGMENT_HEADER_SIZE, 5, 1);
                sim_disk_file_add(g.disk, "box/segment-00000063", data, sizeof(data));
                reopen(&g, true);
                ck_assert_uint_eq(outbox_model_n_queued(g.model), 5);
                assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 5, 50, USEC_INFINITY));
                confirm_all(g.model);
                outbox_model_close(g.model);
                reopen(&g, true);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P5: a file that cannot be removed still counts. Method: fill, deliver, so that what is no spare is removed, which
 * fails; fill again; what lies on the disk stays under max_size. When removing works again all of it is of use again. */
TEST(files_that_cannot_be_removed_count_against_max_size) {
        OutboxOptions options = base_options();
        unsigned n = 0, again = 0;
        Rig g;

        options.max_size = 8 * MIB;
        rig_open(&g, &options, 9, UINT64_MAX);
        while (append_some(g.model, OUTBOX_LANE_NORMAL, 4, 3000, USEC_INFINITY) == 0)
                n++;
        sim_disk_fail_at(g.disk, 1U << SIM_UNLINKAT, 0, UINT64_MAX, EIO);
        confirm_all(g.model);
        outbox_model_advance(g.model, USEC_PER_MINUTE);
        outbox_model_run(g.model);
        while (append_some(g.model, OUTBOX_LANE_BULK, 4, 3000, USEC_INFINITY) == 0)
                ck_assert_uint_le(sim_disk_used(g.disk), options.max_size);
        ck_assert_uint_gt(sim_disk_n_failed(g.disk), 0);
        ck_assert_uint_le(sim_disk_used(g.disk), options.max_size);

        sim_disk_fail_at(g.disk, 0, 0, 0, 0);
        confirm_all(g.model);
        for (unsigned i = 0; i < 10; i++) {
                outbox_model_advance(g.model, USEC_PER_MINUTE);
                outbox_model_run(g.model);
        }
        while (append_some(g.model, OUTBOX_LANE_NORMAL, 4, 3000, USEC_INFINITY) == 0)
                again++;
        ck_assert_uint_ge(again + again / 4, n);
        ck_assert_uint_le(sim_disk_used(g.disk), options.max_size);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* A file of the outbox by the number of its use: "segment" 0 is the first one. NULL: there are fewer. */
static const char *find_file(const SimDisk *d, const char *kind, size_t i) {
        for (size_t k = 0; k < sim_disk_n_files(d); k++)
                if (strstr(sim_disk_file_name(d, k), kind) && i-- == 0)
                        return sim_disk_file_name(d, k);
        return NULL;
}

/* What is in a segment file, as the numbers of the messages. */
static size_t messages_in(const SimDisk *d, const char *name, uint64_t *ret, size_t n_max) {
        _cleanup_free_ uint8_t *data = malloc(sim_disk_file_size(d, name));
        OutboxSegmentScan scan;
        OutboxRecord r;
        uint64_t offset;
        size_t n = 0;

        ck_assert(data != NULL);
        sim_disk_file_read(d, name, 0, data, sim_disk_file_size(d, name));
        outbox_segment_scan_bytes(&scan, data, sim_disk_file_size(d, name), 0, OUTBOX_SEGMENT_HEADER_SIZE);
        while (outbox_segment_scan_next(&scan, &r, &offset) > 0) {
                OutboxMessageRecord m;

                if (outbox_message_record_decode(&r, &m) < 0)
                        continue;
                ck_assert_uint_lt(n, n_max);
                ret[n++] = m.seq;
        }
        outbox_segment_scan_done(&scan);
        return n;
}

/* Delivers what can be had, and takes what cannot out of the model: all of that must be in the list. Returns how many. */
static uint64_t give_up_lost(OutboxModel *m, const uint64_t *seqs, size_t n_seqs) {
        uint64_t n_lost = 0;
        OutboxStats s;

        m->trouble = m->verifying = true; /* the model does not know yet what is lost */
        for (size_t i = 0; i < m->n_messages; i++)
                m->messages[i]->out_of_order = true; /* the lost ones are overtaken */
        for (unsigned i = 0; i < 60; i++) {
                ModelMessage *x;

                outbox_model_next_all(m);
                while ((x = outbox_model_in_flight(m, 0)))
                        outbox_model_settle(m, x, OUTBOX_END_CONFIRMED);
                outbox_get_stats(m->outbox, &s);
                outbox_model_advance(m, USEC_PER_SEC);
                outbox_model_run(m);
        }
        m->verifying = false;
        outbox_get_stats(m->outbox, &s);
        ck_assert_uint_eq(s.queued, 0);
        for (size_t i = 0; i < m->n_messages; i++) {
                ModelMessage *x = m->messages[i];
                bool listed = false;

                if (x->state != MODEL_DURABLE || x->end != OUTBOX_END_QUEUED)
                        continue;
                for (size_t k = 0; k < n_seqs; k++)
                        listed = listed || seqs[k] == x->seq;
                ck_assert_msg(listed, "message %zu is lost and was not hit", i);
                x->state = MODEL_GONE;
                n_lost++;
        }
        ck_assert_uint_eq(s.n_lost_records, n_lost);
        m->n_durable -= n_lost;
        m->trouble = false;
        outbox_model_run(m);
        return n_lost;
}

/* Goal: P4 and P2: a segment that somebody removes, or cuts to nothing, while the daemon runs costs what was in it, once,
 * in one line that names the file; the lane goes on, the books balance, and what is accepted afterwards is safe. */
TEST(segment_removed_while_running_costs_what_was_in_it) {
        for (int how = 0; how < 8; how++) {
                uint64_t seqs[4096], n_lost;
                OutboxOptions options = base_options();
                const char *name;
                size_t n_seqs;
                Rig g;

                rig_open(&g, &options, 18, UINT64_MAX);
                for (int i = 0; i < 30; i++) { /* several segments */
                        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                        if (i == 2)
                                assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 10, 100, USEC_INFINITY));
                }
                if (how & 2) { /* some are in flight: these end as they end */
                        for (int i = 0; i < 60; i++)
                                assert_ok(outbox_model_next(g.model, NULL));
                }
                name = find_file(g.disk, "segment-", how < 4 ? 2 : 3); /* nothing of it is in memory */
                ck_assert(name != NULL);
                n_seqs = messages_in(g.disk, name, seqs, ELEMENTSOF(seqs));
                ck_assert_uint_gt(n_seqs, 0);
                if (how & 1)
                        sim_disk_file_truncate(g.disk, name, 0);
                else
                        sim_disk_file_unlink(g.disk, name);
                if (how & 2)
                        outbox_model_requeue(g.model);
                n_lost = give_up_lost(g.model, seqs, n_seqs);
                ck_assert_uint_ge(n_lost, n_seqs / 2); /* the rest was in memory */
                ck_assert_uint_eq(g.model->n_damage_notices, 1);
                ck_assert_msg(strstr(g.model->damage_notice, "segment-"), "%s", g.model->damage_notice);

                for (int i = 0; i < 5; i++)
                        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                ck_assert_uint_eq(confirm_all(g.model), 50);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P1: a message is not called safe when it went to a file that has no name any more, whichever file that is, and
 * what had been stored in it is delivered as long as the process lives. */
TEST(removed_file_takes_no_further_message) {
        static const char *const kinds[] = { "segment-", "position-" };

        for (size_t kind = 0; kind < ELEMENTSOF(kinds); kind++)
                for (size_t i = 0; i < 6; i++) {
                        OutboxOptions options = base_options();
                        Rig g;

                        rig_open(&g, &options, 19 + i, UINT64_MAX);
                        for (int k = 0; k < 30; k++) {
                                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                                if (k == 20)
                                        confirm_all(g.model); /* spares */
                        }
                        if (!find_file(g.disk, kinds[kind], i)) {
                                ck_assert_uint_ge(i, 2);
                                outbox_model_close(g.model);
                                rig_done(&g);
                                break;
                        }
                        confirm_all(g.model);
                        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 3, 9000, USEC_INFINITY));
                        for (size_t k = 0; k <= i; k++) /* one, or several */
                                if (i % 2 == 0 || k == i)
                                        sim_disk_file_unlink(g.disk, find_file(g.disk, kinds[kind], i % 2 ? i : 0));
                        for (int k = 0; k < 12; k++)
                                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                        ck_assert_uint_eq(outbox_model_next_all(g.model), 123);
                        outbox_model_requeue(g.model);
                        ck_assert_uint_eq(outbox_model_next_all(g.model), 123);
                        while (outbox_model_in_flight(g.model, 120))
                                outbox_model_settle(g.model, outbox_model_in_flight(g.model, 0), OUTBOX_END_CONFIRMED);
                        outbox_model_advance(g.model, 2 * USEC_PER_SEC);
                        outbox_model_run(g.model);
                        outbox_model_crash(g.model, MODEL_CUT);
                        reopen(&g, false);
                        ck_assert_uint_ge(outbox_model_n_queued(g.model), 120);
                        outbox_model_close(g.model);
                        rig_done(&g);
                }
}

/* Goal: P4: while the files of one lane cannot be read, the others are delivered. */
TEST(unreadable_lane_does_not_hold_up_the_others) {
        OutboxOptions options = base_options();
        char name[64];
        Rig g;

        rig_open(&g, &options, 20, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_URGENT, 5, 1000, USEC_INFINITY));
        (void) snprintf(name, sizeof(name), "%s", find_file(g.disk, "segment-", 0));
        outbox_model_close(g.model);
        reopen(&g, true);
        for (int i = 0; i < 2; i++)
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 5, 1000, USEC_INFINITY));
        outbox_model_close(g.model);
        reopen(&g, true);
        g.model->trouble = true;
        assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 5, 1000, USEC_INFINITY));
        sim_disk_break_range(g.disk, name, 0, 512 << 10);
        for (int i = 0; i < 20; i++) {
                outbox_model_next_all(g.model);
                outbox_model_advance(g.model, USEC_PER_SEC);
        }
        ck_assert_uint_ge(outbox_model_n_in_flight(g.model), 15);
        outbox_model_crash(g.model, MODEL_KILLED);
        rig_done(&g);
}

/* Goal: drop-oldest drops nothing when there is room again, however short a time after the disk was full. */
TEST(nothing_is_dropped_when_there_is_room_again) {
        for (int how = 0; how < 2; how++) {
                OutboxOptions options = base_options();
                Rig g;

                options.full = OUTBOX_FULL_DROP_OLDEST;
                rig_open(&g, &options, 21, UINT64_MAX);
                for (int i = 0; i < 20; i++)
                        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                g.model->trouble = true;
                sim_disk_set_capacity(g.disk, sim_disk_used(g.disk));
                if (how == 0) { /* whoever took the room did so after it was looked for */
                        sim_disk_fail_at(g.disk, 1U << SIM_PWRITE, 0, UINT64_MAX, ENOSPC);
                        (void) append_some(g.model, OUTBOX_LANE_NORMAL, 1, 9000, USEC_INFINITY);
                }
                sim_disk_fail_at(g.disk, 0, 0, 0, 0);
                sim_disk_set_capacity(g.disk, UINT64_MAX);
                if (how == 0)
                        outbox_model_recover(g.model);
                for (int i = 0; i < 20; i++)
                        (void) append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY);
                ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_DROPPED], 0);
                ck_assert_uint_ge(outbox_model_n_queued(g.model), 400);
                g.model->trouble = true;
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: drop-oldest drops nothing when a quota gives room again, which statfs does not show: a file is tried before
 * anything gives way. Method: no spare can be made when a segment is half full; then it can, and much more comes. */
TEST(nothing_is_dropped_when_a_quota_gives_room_again) {
        OutboxOptions options = base_options();
        Rig g;

        options.full = OUTBOX_FULL_DROP_OLDEST;
        rig_open(&g, &options, 23, UINT64_MAX);
        for (int i = 0; i < 20; i++) /* several segments that might give way */
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
        assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 1, 9000, USEC_INFINITY));
        g.model->trouble = true;
        sim_disk_fail_at(g.disk, 1U << SIM_FSYNC, 0, UINT64_MAX, EDQUOT); /* of a new file: a commit calls fdatasync */
        for (int i = 0; i < 100 && sim_disk_n_failed(g.disk) == 0; i++)
                assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 1, 9000, USEC_INFINITY));
        ck_assert_uint_gt(sim_disk_n_failed(g.disk), 0);
        sim_disk_fail_at(g.disk, 0, 0, 0, 0);
        outbox_model_advance(g.model, 2 * USEC_PER_SEC);
        for (int i = 0; i < 12; i++)
                assert_ok(append_some(g.model, OUTBOX_LANE_BULK, 10, 9000, USEC_INFINITY));
        ck_assert_uint_eq(g.model->n_settled[OUTBOX_END_DROPPED], 0);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P5: a call that needs many segments keeps to keep_free, also where somebody else has just taken room. */
TEST(large_call_leaves_what_is_kept_free) {
        for (uint64_t free_mib = 0; free_mib < 6; free_mib++) {
                OutboxOptions options = base_options();
                uint64_t capacity;
                Rig g;

                options.keep_free = 4 * MIB;
                rig_open(&g, &options, 22, 40 * MIB);
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 9000, USEC_INFINITY));
                g.model->trouble = true;
                capacity = sim_disk_used(g.disk) + (4 + free_mib) * MIB;
                sim_disk_set_capacity(g.disk, capacity);
                (void) append_some(g.model, OUTBOX_LANE_BULK, 64, 90000, USEC_INFINITY);
                ck_assert_msg(capacity - sim_disk_used(g.disk) >= options.keep_free, "%" PRIu64 " bytes are left free",
                              capacity - sim_disk_used(g.disk));
                sim_disk_set_capacity(g.disk, UINT64_MAX);
                outbox_model_recover(g.model);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P5: after segment_size was changed, files of the old size count by their own size: max_size holds, and what is
 * delivered makes room for as much as before. */
TEST(segments_of_another_size_count_by_it) {
        for (int how = 0; how < 2; how++) {
                OutboxOptions options = base_options();
                unsigned n = 0;
                OutboxStats s;
                Rig g;

                options.max_size = 32 * MIB;
                options.segment_size = how ? 512 << 10 : 4 * MIB;
                rig_open(&g, &options, 23, UINT64_MAX);
                for (int i = 0; i < 30; i++)
                        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 10, 30000, USEC_INFINITY));
                outbox_model_close(g.model);
                g.model->options.segment_size = how ? 4 * MIB : 512 << 10;
                reopen(&g, true);
                while (append_some(g.model, OUTBOX_LANE_NORMAL, 10, 30000, USEC_INFINITY) == 0)
                        ck_assert_uint_lt(++n, 1000);
                ck_assert_uint_ge(n, 55); /* of some 100 in all, less what was there */
                outbox_get_stats(g.model->outbox, &s);
                ck_assert_uint_ge(s.used_bytes + MIB, sim_disk_used(g.disk)); /* letters and receipts come when needed */
                ck_assert_uint_le(s.used_bytes, sim_disk_used(g.disk) + MIB);
                confirm_all(g.model);
                outbox_model_advance(g.model, 2 * USEC_PER_SEC);
                outbox_model_run(g.model);
                for (n = 0; append_some(g.model, OUTBOX_LANE_NORMAL, 10, 30000, USEC_INFINITY) == 0; n++)
                        ck_assert_uint_lt(n, 1000);
                ck_assert_uint_ge(n, 80);
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Every other record of these is hit. */
static void damage_every_other_record(SimDisk *d) {
        const char *name;

        for (size_t i = 0; (name = find_file(d, "segment-", i)); i++) {
                uint64_t size = sim_disk_file_size(d, name), offset;
                _cleanup_free_ uint8_t *data = malloc(size);
                OutboxSegmentScan scan;
                OutboxRecord r;
                size_t n = 0;

                ck_assert(data != NULL);
                sim_disk_file_read(d, name, 0, data, size);
                outbox_segment_scan_bytes(&scan, data, size, 0, OUTBOX_SEGMENT_HEADER_SIZE);
                while (outbox_segment_scan_next(&scan, &r, &offset) > 0)
                        if (r.kind == OUTBOX_RECORD_MESSAGE && n++ % 2)
                                sim_disk_file_write(d, name, offset + 8, "damaged", 7);
                outbox_segment_scan_done(&scan);
        }
}

static void process_all(Outbox *o) {
        for (int i = 0; i < 50; i++)
                assert_ok(outbox_process(o));
}

static void on_durable_error(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        *(int *) userdata = error;
}

/* Records as small as they can be: all of them in one segment. */
static void append_empty(Outbox *o, OutboxLane lane, unsigned n) {
        OutboxMessage m[64];

        for (size_t i = 0; i < ELEMENTSOF(m); i++)
                m[i] = (OutboxMessage) { .lane = lane, .time_to_live_usec = USEC_INFINITY };
        for (unsigned i = 0; i < n; i += ELEMENTSOF(m)) {
                int error = 1;

                assert_ok(outbox_append(o, m, ELEMENTSOF(m), NULL, 0, on_durable_error, &error, NULL));
                process_all(o);
                assert_ok(error);
        }
}

/* One message as large as a record can be. The error, if not at once then in the report. */
static int append_largest(Outbox *o) {
        static const uint8_t body[380 * 1024];
        OutboxMessage m = { .lane = OUTBOX_LANE_NORMAL, .body = body, .body_size = sizeof(body),
                            .time_to_live_usec = USEC_INFINITY };
        int error = 1, r;

        r = outbox_append(o, &m, 1, NULL, 0, on_durable_error, &error, NULL);
        process_all(o);
        return r < 0 ? r : error;
}

static uint64_t deliver_all(Outbox *o) {
        OutboxDelivery *d;
        uint64_t n = 0;

        for (int idle = 0; idle < 3;) {
                if (outbox_next(o, &d) < 0) {
                        process_all(o);
                        idle++;
                        continue;
                }
                assert_ok(outbox_settle(o, d->seq, OUTBOX_END_CONFIRMED, NULL));
                outbox_delivery_free(d);
                idle = 0;
                n++;
        }
        return n;
}

/* Goal: P4: also with ten thousand gaps between the messages, whose list alone fills much of a segment, nothing breaks: it
 * starts, says that it is full, delivers, takes messages again, and forgets nothing in between. */
TEST(ten_thousand_gaps_are_no_dead_end) {
        OutboxOptions options = base_options();
        Outbox *o = NULL;
        uint64_t n = 0;
        OutboxStats s;
        Rig g;

        rig_open(&g, &options, 24, UINT64_MAX);
        outbox_model_close(g.model);
        assert_ok(outbox_open("box", &g.model->options, &(OutboxEvents) { 0 }, &o));
        for (int lane = 0; lane < _OUTBOX_LANE_MAX; lane++)
                append_empty(o, (OutboxLane) lane, 6400);
        o = outbox_free(o);
        damage_every_other_record(g.disk);

        for (int start = 0; start < 3; start++) {
                assert_ok(outbox_open("box", &g.model->options, &(OutboxEvents) { 0 }, &o));
                assert_ok(outbox_set_identity(o, "hub.example", "device", false));
                process_all(o);
                if (start < 2)
                        ck_assert_int_eq(append_largest(o), -ENOSPC);
                else {
                        n = deliver_all(o);
                        assert_ok(append_largest(o));
                        ck_assert_uint_eq(deliver_all(o), 1);
                }
                outbox_get_stats(o, &s);
                ck_assert_uint_eq(s.accepted, s.confirmed + s.queued);
                o = outbox_free(o);
        }
        ck_assert_uint_eq(n, 3 * 3200);
        ck_assert_uint_eq(s.n_lost_records, 3 * 3200);
        rig_done(&g);
}

static void on_lookup(int error, const OutboxSettled *s, void *userdata) {
        *(int *) userdata = error < 0 ? error : (int) s->end;
}

/* Goal: how a message ended is known to a look-up also after the process was killed, except for what ended in the last
 * moments, also where nothing happened since. */
TEST(ends_are_known_after_a_kill) {
        OutboxOptions options = base_options();
        ModelMessage *confirmed, *rejected, *expired;
        Rig g;

        rig_open(&g, &options, 25, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_URGENT, 2, 100, USEC_INFINITY));
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 100, 60 * USEC_PER_SEC));
        assert_ok(outbox_model_next(g.model, &confirmed));
        assert_ok(outbox_model_next(g.model, &rejected));
        expired = g.model->messages[2];
        outbox_model_settle(g.model, confirmed, OUTBOX_END_CONFIRMED);
        outbox_model_settle(g.model, rejected, OUTBOX_END_REJECTED);
        outbox_model_run(g.model);
        outbox_model_advance(g.model, USEC_PER_HOUR);
        outbox_model_run(g.model);
        outbox_model_crash(g.model, MODEL_KILLED);
        reopen(&g, false);
        for (int i = 0; i < 3; i++) {
                const ModelMessage *x = i == 0 ? confirmed : i == 1 ? rejected : expired;
                int end = -EBUSY;

                assert_ok(outbox_lookup(g.model->outbox, x->seq, NULL, on_lookup, &end));
                outbox_model_run(g.model);
                ck_assert_int_eq(end, i == 0 ? OUTBOX_END_CONFIRMED : i == 1 ? OUTBOX_END_REJECTED : OUTBOX_END_EXPIRED);
        }
        outbox_model_close(g.model);
        rig_done(&g);
}
