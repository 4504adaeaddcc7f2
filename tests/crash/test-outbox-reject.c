/* Messages that the hub will never take, on a disk that fails meanwhile. */
#include "tests/support/outbox-rig.h"
#include "tests/support/test.h"

static ModelMessage *reject_one(OutboxModel *m, size_t body_size) {
        ModelMessage *x;

        assert_ok(append_some(m, OUTBOX_LANE_NORMAL, 1, body_size, USEC_INFINITY));
        assert_ok(outbox_model_next(m, &x));
        outbox_model_settle(m, x, OUTBOX_END_REJECTED);
        outbox_model_run(m);
        return x;
}

/* Goal: P2: a rejected message whose dead letter cannot be written stays queued, is told apart, and ends as soon as the
 * disk takes the letter, without a restart; meanwhile it is tried a few times, not all the time. */
TEST(dead_letter_that_failed_is_tried_again) {
        OutboxOptions options = base_options();
        uint64_t n_tries;
        ModelMessage *x;
        OutboxStats s;
        Rig g;

        rig_open(&g, &options, 15, UINT64_MAX);
        g.model->trouble = true;
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 100, USEC_INFINITY));
        assert_ok(outbox_model_next(g.model, &x));
        sim_disk_fail_at(g.disk, 1U << SIM_OPENAT, 0, UINT64_MAX, EIO);
        outbox_model_settle(g.model, x, OUTBOX_END_REJECTED);
        for (unsigned sec = 0; sec < 3600; sec++) {
                outbox_model_run(g.model);
                outbox_model_advance(g.model, USEC_PER_SEC);
        }
        outbox_get_stats(g.model->outbox, &s);
        ck_assert_uint_eq(s.queued, 1);
        ck_assert_uint_eq(s.ending, 1);
        n_tries = sim_disk_n_failed(g.disk);
        ck_assert_uint_ge(n_tries, 30);
        ck_assert_uint_le(n_tries, 200);

        sim_disk_fail_at(g.disk, 0, 0, 0, 0);
        outbox_model_recover(g.model);
        ck_assert_int_eq(x->end, OUTBOX_END_REJECTED);
        outbox_get_stats(g.model->outbox, &s);
        ck_assert_uint_eq(s.ending, 0);
        ck_assert_uint_eq(s.n_dead_letters, 1);
        outbox_model_crash(g.model, MODEL_CUT);
        reopen(&g, false);
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: a large dead letter pushes older ones out; what is larger than all of the box ends without one; the box keeps to
 * its size. */
TEST(dead_letters_of_any_size_end_and_keep_to_their_box) {
        static const size_t sizes[] = { 1000, 90000, 150000, 1000, 190000, 1000, 60000, 250000, 120000, 1000 };
        OutboxOptions options = base_options();
        Rig g;

        options.dead_letter_size = 200 * 1024;
        rig_open(&g, &options, 16, UINT64_MAX);
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                uint64_t size = 0;
                OutboxStats s;

                ck_assert_int_eq(reject_one(g.model, sizes[i])->end, OUTBOX_END_REJECTED);
                for (size_t k = 0; k < sim_disk_n_files(g.disk); k++)
                        if (strstr(sim_disk_file_name(g.disk, k), "dead-letter"))
                                size += sim_disk_file_size(g.disk, sim_disk_file_name(g.disk, k));
                ck_assert_uint_le(size, options.dead_letter_size);
                outbox_get_stats(g.model->outbox, &s);
                ck_assert_uint_ge(s.n_dead_letters, 1);
                if (i % 3 == 0) {
                        outbox_model_crash(g.model, MODEL_CUT);
                        reopen(&g, false);
                }
        }
        outbox_model_close(g.model);
        rig_done(&g);
}

/* Goal: P4: a record that damage took between delivery and rejection is counted as lost, once, and holds nothing up. */
TEST(rejected_message_that_the_disk_lost_is_counted) {
        for (int how = 0; how < 3; how++) {
                OutboxOptions options = base_options();
                const char *name = NULL;
                ModelMessage *x;
                OutboxStats s;
                Rig g;

                rig_open(&g, &options, 17, UINT64_MAX);
                assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 9000, USEC_INFINITY));
                assert_ok(outbox_model_next(g.model, &x));
                for (size_t k = 0; k < sim_disk_n_files(g.disk); k++) {
                        name = sim_disk_file_name(g.disk, k);
                        if (strstr(name, "segment-"))
                                break;
                }
                if (how == 0)
                        sim_disk_file_unlink(g.disk, name);
                else if (how == 1)
                        sim_disk_file_truncate(g.disk, name, 8192);
                else
                        sim_disk_break_range(g.disk, name, 8192, 4096);
                x->state = MODEL_GONE; /* it may end as nothing any more */
                x->in_flight = false;
                assert_ok(outbox_settle(g.model->outbox, x->seq, OUTBOX_END_REJECTED, "no"));
                for (unsigned sec = 0; sec < 30; sec++) {
                        while (outbox_next_deadline(g.model->outbox) <= g.model->boottime_usec)
                                outbox_process(g.model->outbox);
                        outbox_process(g.model->outbox);
                        outbox_model_advance(g.model, USEC_PER_SEC);
                }
                outbox_get_stats(g.model->outbox, &s);
                ck_assert_uint_eq(s.queued + s.ending + s.rejected, 0);
                ck_assert_uint_eq(s.n_lost_records, 1);
                ck_assert_uint_eq(s.accepted, 0);
                g.model->trouble = true;
                outbox_model_close(g.model);
                rig_done(&g);
        }
}

/* Goal: P4: one read that fails costs no message, however often the copy had failed before for want of a disk that
 * takes it. */
TEST(read_that_fails_once_costs_no_rejected_message) {
        OutboxOptions options = base_options();
        ModelMessage *x;
        OutboxStats s;
        Rig g;

        rig_open(&g, &options, 19, UINT64_MAX);
        assert_ok(append_some(g.model, OUTBOX_LANE_NORMAL, 1, 9000, USEC_INFINITY));
        assert_ok(outbox_model_next(g.model, &x));
        g.model->trouble = true;
        sim_disk_set_read_only(g.disk, true);
        outbox_model_settle(g.model, x, OUTBOX_END_REJECTED);
        for (unsigned i = 0; i < 5; i++) {
                outbox_model_run(g.model);
                outbox_model_advance(g.model, 61 * USEC_PER_SEC);
        }
        sim_disk_set_read_only(g.disk, false);
        sim_disk_fail_at(g.disk, 1U << SIM_PREAD, 0, 1, EIO);
        outbox_model_run(g.model);
        ck_assert_uint_eq(sim_disk_n_failed(g.disk), 1);
        outbox_model_advance(g.model, 61 * USEC_PER_SEC);
        outbox_model_run(g.model);
        ck_assert(x->end == OUTBOX_END_REJECTED);
        outbox_get_stats(g.model->outbox, &s);
        ck_assert_uint_eq(s.n_lost_records, 0);
        ck_assert_uint_eq(s.n_dead_letters, 1);
        outbox_model_close(g.model);
        rig_done(&g);
}
