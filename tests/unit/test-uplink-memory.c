/* Goal: a daemon that crashes again and again does not hammer the hub, one that is restarted
 * connects at once, and the file that this needs is hardly ever written (promise P6). Method: text
 * and back, runs that follow each other, the file itself. */
#include "tests/support/test.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include "daemon/uplink-memory.h"
#include "tests/support/random.h"

#define BOOT "0f5a2c1e-1111-4222-8333-444455556666"

static const UplinkTimes times = {
        .connect_timeout_usec = 30 * USEC_PER_SEC,
        .ack_timeout_usec = 120 * USEC_PER_SEC,
        .backoff = { .min_usec = USEC_PER_SEC,
                     .max_usec = 60 * USEC_PER_SEC,
                     .cut_max_usec = 300 * USEC_PER_SEC,
                     .refused_max_usec = 600 * USEC_PER_SEC },
};

static usec_t begin(const UplinkMemory *previous, usec_t now, UplinkMemory *ret,
                    UplinkMachine *machine) {
        uplink_machine_init(machine, now);
        return uplink_memory_begin(previous, BOOT, &times, now, UINT64_MAX / 2, ret, machine);
}

TEST(text_comes_back_as_it_was_and_damage_is_no_memory) {
        UplinkMemory m = { .boot_id = BOOT,
                           .n_starts = 7,
                           .started_usec = UINT64_MAX - 1,
                           .machine = { .law = BACKOFF_REFUSED,
                                        .law_attempt = 3,
                                        .n_failed = 4,
                                        .n_cuts_early = 1,
                                        .n_cuts_late = 2,
                                        .n_refused = 5,
                                        .n_throttled = 6,
                                        .key = 1 } },
                     back;
        char text[UPLINK_MEMORY_TEXT_MAX];

        uplink_memory_format(&m, text, sizeof(text));
        ck_assert(uplink_memory_parse(text, &back));
        ck_assert_int_eq(memcmp(&m, &back, sizeof(m)), 0);
        for (size_t n = 0; n < strlen(text); n++) {
                char cut[UPLINK_MEMORY_TEXT_MAX] = {};

                memcpy(cut, text, n);
                ck_assert(!uplink_memory_parse(cut, &back));
        }
        ck_assert(!uplink_memory_parse("iothubd-uplink 2 " BOOT " 1 1 1 1 1 1 1 1 1 1\n", &back));
        ck_assert(!uplink_memory_parse("iothubd-uplink 1 " BOOT " 1 1 99 1 1 1 1 1 1 1\n", &back));
}

TEST(crash_loop_waits_ever_longer_and_other_runs_do_not_wait) {
        UplinkMemory m, next;
        UplinkMachine machine;
        usec_t now = USEC_PER_HOUR, last = 0, sum = 0;

        ck_assert_uint_eq(begin(NULL, now, &m, &machine), 0);
        for (unsigned i = 0; i < 20; i++) { /* each run dies a second after it connected */
                usec_t delay = begin(&m, now += USEC_PER_SEC, &next, &machine);

                ck_assert_uint_ge(delay, MAX(last, USEC_PER_SEC / 2));
                ck_assert_uint_le(delay, 60 * USEC_PER_SEC);
                last = delay;
                sum += delay;
                now += delay;
                m = next;
        }
        ck_assert_uint_ge(sum, 10 * USEC_PER_MINUTE);

        /* It had run for long: one crash. */
        begin(&m, now + UPLINK_MEMORY_LOOP_USEC, &next, &machine);
        ck_assert_uint_eq(next.n_starts, 1);
        /* Another boot. */
        ck_assert_uint_eq(uplink_memory_begin(&m, "another", &times, now, 0, &next, &machine), 0);
        /* A clock that runs from an earlier point than the memory: not this boot, whatever the id
         * says. */
        ck_assert_uint_eq(begin(&m, m.started_usec - 1, &next, &machine), 0);
}

TEST(crash_keeps_the_slow_waits_of_a_refusal_and_the_key) {
        UplinkMemory m, next;
        UplinkMachine machine;
        usec_t delay;

        begin(NULL, 0, &m, &machine);
        machine.state = UPLINK_STATE_BACKOFF;
        machine.since_usec = 0;
        machine.deadline_usec = 500 * USEC_PER_SEC;
        machine.law = BACKOFF_REFUSED;
        machine.law_attempt = 7;
        machine.n_failed = machine.n_refused = 8;
        machine.key = 1;
        ck_assert(uplink_memory_keep(&m, &machine));
        delay = begin(&m, USEC_PER_SEC, &next, &machine);
        ck_assert_uint_ge(delay, 300 * USEC_PER_SEC);
        ck_assert_uint_le(delay, 600 * USEC_PER_SEC);
        ck_assert_uint_eq(machine.n_refused, 8);
        ck_assert_uint_eq(machine.key, 1);
}

TEST(a_trouble_of_a_year_is_written_a_few_times) {
        UplinkMachine machine;
        UplinkMemory m;
        unsigned n_written = 0, n_tries = 0;
        Random rng = { 4711 };

        begin(NULL, 0, &m, &machine);
        for (usec_t now = 0; now < 365 * USEC_PER_DAY; n_tries++) {
                UplinkEvent start = { .type = n_tries == 0 ? UPLINK_EVENT_START :
                                                             UPLINK_EVENT_TIMER },
                            refused = { .type = UPLINK_EVENT_ENDED,
                                        .class = UPLINK_ERROR_REFUSED,
                                        .refused = true };

                machine = uplink_decide(&machine, &times, &start, now, random_u64(&rng)).machine;
                machine = uplink_decide(&machine, &times, &refused, now, random_u64(&rng)).machine;
                n_written += uplink_memory_keep(&m, &machine);
                now = machine.deadline_usec;
        }
        ck_assert_uint_gt(n_tries, 10000);
        ck_assert_uint_le(n_written, 10);
        machine.proven = true;
        machine.law_attempt = machine.n_failed = machine.n_refused = 0;
        ck_assert(uplink_memory_keep(&m, &machine)); /* all is well again */
        ck_assert(!uplink_memory_keep(&m, &machine));
}

static bool load(UplinkMemoryFile *f, UplinkMemory *ret, unsigned n_starts) {
        return uplink_memory_file_load(f, ret) && ret->n_starts == n_starts;
}

TEST(the_file_is_replaced_whole_and_gone_after_an_orderly_stop) {
        _cleanup_free_ char *folder = test_tempdir(), *path = NULL;
        UplinkMemory m = { .boot_id = BOOT, .n_starts = 1 }, back;
        UplinkMemoryFile *f;
        struct stat st;

        ck_assert_int_gt(asprintf(&path, "%s/uplink", folder), 0);
        assert_ok(uplink_memory_file_new(path, &f));
        ck_assert(!uplink_memory_file_load(f, &back));
        for (m.n_starts = 1; m.n_starts < 50; m.n_starts++) {
                while (uplink_memory_file_save(f, &m) == -EBUSY)
                        (void) sched_yield();
                while (!load(f, &back, m.n_starts))
                        (void) sched_yield();
        }
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 0777, 0600);
        uplink_memory_file_remove(f);
        while (stat(path, &st) == 0) /* the thread may be at its last steps, and then does it */
                (void) sched_yield();
        assert_error(uplink_memory_file_save(f, &m), -EBUSY);
        uplink_memory_file_free(f);
}

/* Method: where the text is written first stands a pipe that nobody reads, on which the thread
 * waits as on a disk that hangs. */
TEST(a_disk_that_hangs_holds_up_nobody_and_brings_nothing_back) {
        _cleanup_free_ char *folder = test_tempdir(), *path = NULL, *temporary = NULL;
        UplinkMemory m = { .boot_id = BOOT, .n_starts = 1 };
        _cleanup_close_ int fd = -EBADF;
        UplinkMemoryFile *f;
        struct stat st;

        ck_assert_int_gt(asprintf(&path, "%s/uplink", folder), 0);
        ck_assert_int_gt(asprintf(&temporary, "%s.new", path), 0);
        ck_assert_int_eq(mkfifo(temporary, 0600), 0);
        assert_ok(uplink_memory_file_new(path, &f));
        assert_ok(uplink_memory_file_save(f, &m));
        assert_error(uplink_memory_file_save(f, &m), -EBUSY);
        uplink_memory_file_remove(f);
        uplink_memory_file_free(f);
        fd = open(temporary, O_RDONLY | O_CLOEXEC); /* the disk goes on */
        ck_assert_int_ge(fd, 0);
        while (stat(temporary, &st) == 0)
                (void) sched_yield();
        ck_assert_int_lt(stat(path, &st), 0);
}

TEST(a_folder_that_is_not_there_costs_only_the_memory) {
        UplinkMemory m = { .boot_id = BOOT, .n_starts = 1 };
        UplinkMemoryFile *f;

        assert_ok(uplink_memory_file_new("/nonexistent/folder/uplink", &f));
        for (unsigned i = 0; i < 20; i++)
                (void) uplink_memory_file_save(f, &m);
        ck_assert(!uplink_memory_file_load(f, &m));
        uplink_memory_file_free(f);
}
