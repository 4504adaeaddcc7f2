/* Goal: what was appended is read, once, in order, from wherever a reader asked to begin, whatever
 * happened to the files in between.
 * Method: a store in a temporary folder with small limits; restarts, cut and changed files, clocks
 * of the test's own; readers on other threads while events come. */

#include "tests/support/test.h"

#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "emulator/hub-events.h"
#include "lib/fd-util.h"
#include "lib/string-util.h"
#include "tests/support/random.h"

#define START (UINT64_C(1767251289) * USEC_PER_SEC)
#define SMALL ((HubEventsLimits){ .retain_usec = USEC_INFINITY, .retain_bytes = 1024 * 1024 })
#define ROOMY ((HubEventsLimits){ .retain_usec = USEC_INFINITY, .retain_bytes = UINT64_C(1) << 40 })

static int open_dir(void) {
        _cleanup_free_ char *path = test_tempdir();
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fchdir(fd), 0);
        return fd;
}

static HubEvents *open_events(int dir_fd, HubEventsLimits limits) {
        HubEvents *e;
        char *what;

        ck_assert_msg(hub_events_open(dir_fd, &limits, &e, &what) >= 0, "%s", what ? what : "?");
        return e;
}

static void append_at(HubEvents *e, const char *device, const char *body, usec_t usec) {
        HubEvent event = { .device_id = device,
                           .generation = 1,
                           .enqueued_usec = usec,
                           .bag = "",
                           .body = body,
                           .body_size = strlen(body) };

        assert_ok(hub_events_append(e, &event));
}

/* Bodies "0", "1", ... of one device, one second apart. */
static void append_numbers(HubEvents *e, const char *device, int64_t from, int64_t to) {
        for (; from < to; from++) {
                char body[24];

                (void) snprintf(body, sizeof(body), "%" PRId64, from);
                append_at(e, device, body, START + (usec_t) from * USEC_PER_SEC);
        }
}

static HubEventsReader *open_at(HubEvents *e, unsigned partition, HubEventsFrom from, int64_t value,
                                bool inclusive) {
        HubEventsPosition p = { from, value, inclusive };
        HubEventsReader *r;
        char *reason;

        ck_assert_msg(hub_events_reader_open(e, partition, &p, &r, &reason) >= 0, "%s",
                      reason ? reason : "?");
        return r;
}

static HubEventsReader *open_earliest(HubEvents *e, const char *device) {
        return open_at(e, hub_events_partition(device), HUB_EVENTS_FROM_EARLIEST, 0, false);
}

/* The body of the next event as a number; -1: none yet. */
static int64_t next_number(HubEventsReader *r) {
        const HubStoredEvent *event;
        char body[24];

        if (assert_ok(hub_events_reader_next(r, &event)) == 0)
                return -1;
        ck_assert_uint_lt(event->body_size, sizeof(body));
        memcpy(body, event->body, event->body_size);
        body[event->body_size] = '\0';
        return strtoll(body, NULL, 10);
}

static void assert_numbers(HubEventsReader *r, int64_t from, int64_t to) {
        for (; from < to; from++)
                ck_assert_int_eq(next_number(r), from);
        ck_assert_int_eq(next_number(r), -1);
}

static size_t count_segments(void) {
        glob_t g;
        size_t n;

        n = glob("events-*.jsonl", 0, NULL, &g) == 0 ? g.gl_pathc : 0;
        globfree(&g);
        return n;
}

static int64_t begin_of(HubEvents *e, const char *device) {
        HubEventsInfo info;

        hub_events_info(e, hub_events_partition(device), &info);
        return info.begin_sequence;
}

TEST(a_device_is_in_the_same_partition_everywhere) {
        /* From another program: FNV-1a of 32 bits, upper half folded in, modulo 4. */
        static const struct {
                const char *id;
                unsigned partition;
        } known[] = {
                { "windmill", 2 }, { "d1", 3 }, { "d2", 2 }, { "device-0", 0 }, { "device-1", 3 }
        };
        unsigned n[HUB_EVENTS_PARTITIONS] = { 0 };

        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                ck_assert_msg(hub_events_partition(known[i].id) == known[i].partition, "%s: %u",
                              known[i].id, hub_events_partition(known[i].id));
        for (unsigned i = 0; i < 10000; i++) {
                char id[24];

                (void) snprintf(id, sizeof(id), "sensor-%05u", i);
                n[hub_events_partition(id)]++;
        }
        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++)
                ck_assert_uint_gt(n[p], 2000);
}

TEST(an_empty_store_is_empty) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        HubEventsInfo info;

        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++) {
                _cleanup_(hub_events_reader_freep) HubEventsReader *r =
                                open_at(e, p, HUB_EVENTS_FROM_OFFSET, -1, false);

                hub_events_info(e, p, &info);
                ck_assert_int_eq(info.empty, true);
                ck_assert_int_eq(info.begin_sequence, 0);
                ck_assert_int_eq(info.last_sequence, -1);
                ck_assert_int_eq(info.last_offset, -1);
                ck_assert_int_eq(next_number(r), -1);
        }
}

TEST(numbers_offsets_and_times_rise_within_a_partition_over_restarts) {
        _cleanup_close_ int dir_fd = open_dir();
        Random random = { .state = test_seed() };
        HubEventPlace last[HUB_EVENTS_PARTITIONS];
        usec_t clock = START, created = 0;

        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++)
                last[p] = (HubEventPlace){ .sequence = -1, .offset = -1 };
        for (unsigned round = 0; round < 5; round++) {
                _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, ROOMY);

                if (round > 0)
                        ck_assert_uint_eq(hub_events_created_usec(e), created);
                created = hub_events_created_usec(e) / USEC_PER_MSEC * USEC_PER_MSEC;
                for (unsigned i = 0; i < 200; i++) {
                        char device[16];

                        (void) snprintf(device, sizeof(device), "d%u", i % 7);
                        clock += random_below(&random, 3) * USEC_PER_SEC; /* and sometimes back */
                        append_at(e, device, "x",
                                  clock - random_below(&random, 5) * USEC_PER_MINUTE);
                }
        }
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, ROOMY);
        unsigned n = 0;

        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++) {
                _cleanup_(hub_events_reader_freep) HubEventsReader *r =
                                open_at(e, p, HUB_EVENTS_FROM_EARLIEST, 0, false);
                const HubStoredEvent *event;
                HubEventsInfo info;

                for (; assert_ok(hub_events_reader_next(r, &event)) > 0; n++) {
                        ck_assert_uint_eq(hub_events_partition(event->device_id.data), p);
                        ck_assert_int_eq(event->place.sequence, last[p].sequence + 1);
                        ck_assert_int_gt(event->place.offset, last[p].offset);
                        ck_assert_uint_ge(event->place.enqueued_usec, last[p].enqueued_usec);
                        last[p] = event->place;
                }
                hub_events_info(e, p, &info);
                ck_assert_int_eq(info.last_sequence, last[p].sequence);
                ck_assert_int_eq(info.last_offset, last[p].offset);
                ck_assert_uint_eq(info.last_enqueued_usec, last[p].enqueued_usec);
        }
        ck_assert_uint_eq(n, 1000);
}

TEST(a_reader_begins_where_it_asked_to) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        _cleanup_(hub_events_reader_freep) HubEventsReader *all = NULL;
        unsigned p = hub_events_partition("d");
        const HubStoredEvent *event;
        int64_t offsets[3000];

        /* 1 MiB in several segments, none of which goes; another device's events in between. */
        for (int64_t i = 0; i < 3000; i++) {
                append_numbers(e, "d", i, i + 1);
                if (i % 3 == 0)
                        append_numbers(e, "other", i, i + 1);
        }
        ck_assert_uint_gt(count_segments(), 3);
        ck_assert_int_eq(begin_of(e, "d"), 0);
        all = open_earliest(e, "d");
        for (int64_t i = 0; i < 3000; i++) {
                do
                        ck_assert_int_eq(assert_ok(hub_events_reader_next(all, &event)), 1);
                while (!streq(event->device_id.data, "d"));
                offsets[i] = event->place.offset;
        }
        ck_assert_uint_ne(p, hub_events_partition("other"));

        for (int64_t i = 0; i < 3000; i++) {
                int64_t usec = (int64_t) (START + (usec_t) i * USEC_PER_SEC);
                const struct {
                        HubEventsFrom from;
                        int64_t value;
                        bool inclusive;
                        int64_t want;
                } cases[] = {
                        { HUB_EVENTS_FROM_OFFSET, offsets[i], true, i },
                        { HUB_EVENTS_FROM_OFFSET, offsets[i], false, i + 1 },
                        { HUB_EVENTS_FROM_OFFSET, offsets[i] - 1, false, i },
                        { HUB_EVENTS_FROM_SEQUENCE, i, true, i },
                        { HUB_EVENTS_FROM_SEQUENCE, i, false, i + 1 },
                        { HUB_EVENTS_FROM_TIME, usec, true, i },
                        { HUB_EVENTS_FROM_TIME, usec, false, i + 1 },
                        { HUB_EVENTS_FROM_TIME, usec - 1, false, i },
                };

                for (size_t k = 0; k < ELEMENTSOF(cases); k++) {
                        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_at(
                                        e, p, cases[k].from, cases[k].value, cases[k].inclusive);

                        ck_assert_int_eq(next_number(r), cases[k].want < 3000 ? cases[k].want : -1);
                }
        }
}

TEST(a_place_beyond_the_end_is_named_and_a_time_is_waited_for) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        unsigned p = hub_events_partition("d");
        static const struct {
                HubEventsFrom from;
                int64_t value;
                const char *want;
        } cases[] = {
                { HUB_EVENTS_FROM_SEQUENCE, 3,
                  "the sequence number 3 is not valid: the last one of the partition is 2" },
                { HUB_EVENTS_FROM_SEQUENCE, INT64_MAX, "9223372036854775807" },
                { HUB_EVENTS_FROM_OFFSET, 100000,
                  "the offset 100000 is not valid: the last one of the partition is " },
        };
        HubEventsReader *none;
        char *reason;

        assert_error(hub_events_reader_open(
                                     e, p, &(HubEventsPosition){ HUB_EVENTS_FROM_OFFSET, 0, false },
                                     &none, &reason),
                     -ERANGE);
        ck_assert_str_eq(reason, "the offset 0 is not valid: the partition has had no event yet");
        free(reason);
        append_numbers(e, "d", 0, 3);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                assert_error(hub_events_reader_open(e, p,
                                                    &(HubEventsPosition){ cases[i].from,
                                                                          cases[i].value, false },
                                                    &none, &reason),
                             -ERANGE);
                ck_assert_msg(strstr(reason, cases[i].want) != NULL, "%s", reason);
                free(reason);
        }

        _cleanup_(hub_events_reader_freep) HubEventsReader *r =
                        open_at(e, p, HUB_EVENTS_FROM_TIME, INT64_MAX, true);
        _cleanup_(hub_events_reader_freep) HubEventsReader *latest =
                        open_at(e, p, HUB_EVENTS_FROM_LATEST, 0, false);

        append_numbers(e, "d", 3, 4);
        assert_numbers(r, 3, 4);
        assert_numbers(latest, 3, 4);
        hub_events_reader_seek(latest, 1);
        assert_numbers(latest, 1, 4);
        hub_events_reader_seek(latest, 2); /* lines that it has read already */
        assert_numbers(latest, 2, 4);
}

TEST(a_reader_goes_on_over_closed_files_and_restarts_find_all) {
        _cleanup_close_ int dir_fd = open_dir();
        HubEvents *e = open_events(dir_fd, SMALL);
        HubEventsReader *r = open_earliest(e, "d");

        for (int64_t i = 0; i < 4000; i += 100) {
                append_numbers(e, "d", i, i + 100);
                assert_numbers(r, i, i + 100);
        }
        ck_assert_uint_gt(count_segments(), 4);
        hub_events_reader_free(r);
        hub_events_free(e);

        e = open_events(dir_fd, SMALL);
        append_numbers(e, "d", 4000, 4010);
        r = open_earliest(e, "d");
        assert_numbers(r, begin_of(e, "d"), 4010);
        hub_events_reader_free(r);
        hub_events_free(e);
}

TEST(the_oldest_files_go_when_there_is_too_much) {
        _cleanup_close_ int dir_fd = open_dir();
        HubEvents *e = open_events(dir_fd, SMALL);
        HubEventsReader *slow = open_earliest(e, "d");
        HubEventsInfo quiet, info;
        int64_t begin;

        append_numbers(e, "quiet", 0, 5);
        append_numbers(e, "d", 0, 10);
        ck_assert_int_eq(next_number(slow), 0);
        append_numbers(e, "d", 10, 20000);
        begin = begin_of(e, "d");
        ck_assert_int_gt(begin, 10000);
        ck_assert_uint_lt(count_segments(), 9);
        /* The reader stood in a file that is gone. */
        assert_numbers(slow, begin, 20000);
        hub_events_reader_free(slow);

        ck_assert_uint_ne(hub_events_partition("quiet"), hub_events_partition("d"));
        hub_events_info(e, hub_events_partition("quiet"), &quiet);
        ck_assert_int_eq(quiet.empty, true);
        ck_assert_int_eq(quiet.begin_sequence, 5);
        ck_assert_int_eq(quiet.last_sequence, 4);
        hub_events_free(e);

        /* A partition of which nothing is left goes on counting. */
        e = open_events(dir_fd, SMALL);
        hub_events_info(e, hub_events_partition("quiet"), &info);
        ck_assert_int_eq(info.begin_sequence, 5);
        ck_assert_int_eq(info.last_offset, quiet.last_offset);
        ck_assert_uint_eq(info.last_enqueued_usec, quiet.last_enqueued_usec);
        ck_assert_int_eq(begin_of(e, "d"), begin);
        append_at(e, "quiet", "5", START);
        hub_events_info(e, hub_events_partition("quiet"), &info);
        ck_assert_int_eq(info.last_sequence, 5);
        ck_assert_uint_eq(info.last_enqueued_usec, quiet.last_enqueued_usec);
        _cleanup_(hub_events_reader_freep) HubEventsReader *old =
                        open_at(e, hub_events_partition("d"), HUB_EVENTS_FROM_SEQUENCE, 3, true);
        assert_numbers(old, begin, 20000);
        hub_events_reader_free(TAKE_PTR(old));
        hub_events_free(e);
}

TEST(what_is_too_old_goes_by_the_clock) {
        _cleanup_close_ int dir_fd = open_dir();
        HubEventsLimits limits = { .retain_usec = 100 * USEC_PER_SEC,
                                   .retain_bytes = UINT64_C(1) << 30 };
        usec_t now = now_usec(CLOCK_REALTIME);
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, limits);
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_earliest(e, "d");

        append_at(e, "d", "0", now);
        hub_events_tick(e, now + 40 * USEC_PER_SEC);
        ck_assert_uint_eq(count_segments(), 0);
        hub_events_tick(e, now + 60 * USEC_PER_SEC);
        ck_assert_uint_eq(count_segments(), 1);
        append_at(e, "d", "1", now + 60 * USEC_PER_SEC);
        hub_events_tick(e, now + 99 * USEC_PER_SEC);
        ck_assert_int_eq(begin_of(e, "d"), 0);
        hub_events_tick(e, now + 101 * USEC_PER_SEC);
        ck_assert_int_eq(begin_of(e, "d"), 1);
        ck_assert_uint_eq(count_segments(), 0);
        assert_numbers(r, 1, 2);
        /* All of it, also when nothing comes any more. */
        hub_events_tick(e, now + 200 * USEC_PER_SEC);
        ck_assert_int_eq(begin_of(e, "d"), 2);
        append_at(e, "d", "2", now + 200 * USEC_PER_SEC);
        assert_numbers(r, 2, 3);
}

TEST(a_torn_last_line_is_cut_and_its_number_used_again) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_free_ char *text = NULL;
        size_t size, first;
        HubEvents *e = open_events(dir_fd, SMALL);

        append_numbers(e, "d", 0, 2);
        hub_events_free(e);
        assert_ok(read_file_at(dir_fd, HUB_EVENTS_FILE, 4096, &text, &size));
        first = (size_t) (strchr(text, '\n') + 1 - text);
        for (size_t n = first; n < size; n++) {
                _cleanup_(hub_events_reader_freep) HubEventsReader *r = NULL;

                assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, text, n, 0640));
                e = open_events(dir_fd, SMALL);
                append_numbers(e, "d", 1, 2);
                r = open_earliest(e, "d");
                assert_numbers(r, 0, 2);
                hub_events_reader_free(TAKE_PTR(r));
                hub_events_free(e);
        }
}

static void assert_damaged(int dir_fd, const char *want) {
        HubEvents *e;
        char *what;

        assert_error(hub_events_open(dir_fd, &SMALL, &e, &what), -EBADMSG);
        ck_assert_ptr_nonnull(what);
        ck_assert_msg(strstr(what, want) != NULL, "%s", what);
        free(what);
}

TEST(a_damaged_file_is_named_with_its_line) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_free_ char *text = NULL, *changed = NULL;
        char *second, *third;
        size_t size;
        HubEvents *e = open_events(dir_fd, SMALL);

        append_numbers(e, "d", 0, 3);
        hub_events_free(e);
        assert_ok(read_file_at(dir_fd, HUB_EVENTS_FILE, 4096, &text, &size));
        second = strchr(text, '\n') + 1;
        third = strchr(second, '\n') + 1;

        changed = strdup(text);
        changed[second - text] = '[';
        assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, changed, size, 0640));
        assert_damaged(dir_fd, "events.jsonl, line 2: it is not a line that was written here");

        /* The second line is gone. */
        memcpy(changed, text, size);
        memmove(changed + (second - text), third, size - (size_t) (third - text));
        assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, changed,
                                  size - (size_t) (third - second), 0640));
        assert_damaged(dir_fd, "events.jsonl, line 2: its offset is not its place in the stream");

        assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, text, size, 0640));
        assert_ok(replace_file_at(dir_fd, "events-begin.json", "{}", 2, 0640));
        assert_damaged(dir_fd, "events-begin.json");
}

TEST(a_line_that_somebody_changed_is_told_and_passed) {
        /* It is no line, or one of another event. */
        static const char *const changes[][2] = { { "{\"deviceId", "[" },
                                                  { "\"sequenceNumber\":1",
                                                    "\"sequenceNumber\":2" },
                                                  { "\"partition\":3", "\"partition\":0" } };
        _cleanup_close_ int dir_fd = open_dir();

        for (size_t i = 0; i < ELEMENTSOF(changes); i++) {
                HubEvents *e = open_events(dir_fd, SMALL);
                _cleanup_free_ char *text = NULL;
                const HubStoredEvent *event;
                HubEventsReader *r;
                HubEventsInfo info;
                char *line;
                size_t n;
                int fd;

                append_numbers(e, "d", 0, 2);
                hub_events_info(e, hub_events_partition("d"), &info);
                append_numbers(e, "d", 2, 3);
                assert_ok(read_file_at(dir_fd, HUB_EVENTS_FILE, 4096, &text, &n));
                line = strstr(text + info.last_offset, changes[i][0]);
                ck_assert_ptr_nonnull(line);
                fd = open(HUB_EVENTS_FILE, O_WRONLY | O_CLOEXEC);
                assert_ok(pwrite_all(fd, changes[i][1], strlen(changes[i][1]), line - text));
                close(fd);

                r = open_earliest(e, "d");
                ck_assert_int_eq(next_number(r), 0);
                assert_error(hub_events_reader_next(r, &event), -EBADMSG);
                ck_assert_int_eq(event->place.sequence, 1);
                ck_assert_int_eq(event->place.offset, info.last_offset);
                assert_numbers(r, 2, 3);
                hub_events_reader_free(r);
                hub_events_free(e);
                ck_assert_int_eq(unlink(HUB_EVENTS_FILE), 0);
        }
}

static void copy_file(int dir_fd, const char *from, const char *to) {
        _cleanup_free_ char *text = NULL;
        size_t n;

        assert_ok(read_file_at(dir_fd, from, 1024 * 1024, &text, &n));
        assert_ok(replace_file_at(dir_fd, to, text, n, 0640));
}

/* The path is the caller's. */
static char *oldest_file(void) {
        char *path;
        glob_t g;

        ck_assert_int_eq(glob("events-*.jsonl", 0, NULL, &g), 0);
        path = strdup(g.gl_pathv[0]);
        globfree(&g);
        return path;
}

TEST(a_file_whose_deletion_a_crash_cut_short_is_deleted) {
        _cleanup_close_ int dir_fd = open_dir();
        HubEvents *e = open_events(dir_fd, SMALL);
        _cleanup_free_ char *oldest = NULL, *now_oldest = NULL;
        int64_t begin;

        append_numbers(e, "d", 0, 1500);
        oldest = oldest_file();
        copy_file(dir_fd, oldest, "kept");
        append_numbers(e, "d", 1500, 6000);
        begin = begin_of(e, "d");
        ck_assert_int_gt(begin, 0);
        hub_events_free(e);
        ck_assert_int_eq(rename("kept", oldest), 0);

        e = open_events(dir_fd, SMALL);
        ck_assert_int_eq(begin_of(e, "d"), begin);
        now_oldest = oldest_file();
        ck_assert_str_ne(now_oldest, oldest);
        hub_events_free(e);
}

TEST(files_that_do_not_follow_each_other_are_named) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(buffer_done) Buffer line = { 0 };
        HubEvents *e = open_events(dir_fd, SMALL);
        HubEvent event = { .device_id = "d", .bag = "", .body = "" };
        HubEventPlace place = { .partition = hub_events_partition("d") };
        _cleanup_free_ char *oldest = NULL;

        append_numbers(e, "d", 0, 1500);
        hub_events_free(e);
        oldest = oldest_file();

        place.offset = 100000000;
        assert_ok(hub_event_format(&event, &place, &line));
        assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, line.data, line.size, 0640));
        assert_damaged(dir_fd,
                       "events.jsonl, line 1: its sequence number does not follow the one before");

        line.size = 0;
        place.sequence = 100000000;
        place.offset = 10;
        assert_ok(hub_event_format(&event, &place, &line));
        assert_ok(replace_file_at(dir_fd, HUB_EVENTS_FILE, line.data, line.size, 0640));
        assert_damaged(dir_fd, "events.jsonl, line 1: its offset is in an older file");
}

TEST(files_that_somebody_removed_are_a_gap) {
        _cleanup_close_ int dir_fd = open_dir();
        HubEvents *e = open_events(dir_fd, SMALL);
        HubEventsReader *r;
        int64_t n;
        glob_t g;

        append_numbers(e, "d", 0, 3000);
        hub_events_free(e);
        ck_assert_int_eq(glob("events-*.jsonl", 0, NULL, &g), 0);
        ck_assert_uint_gt(g.gl_pathc, 3);
        ck_assert_int_eq(unlink(g.gl_pathv[1]), 0);
        ck_assert_int_eq(unlink(HUB_EVENTS_FILE), 0);
        globfree(&g);

        e = open_events(dir_fd, SMALL);
        r = open_earliest(e, "d");
        ck_assert_int_eq(next_number(r), 0);
        for (n = 1; next_number(r) >= 0;)
                n++;
        ck_assert_int_gt(n, 1000);
        ck_assert_int_lt(n, 2500);
        append_numbers(e, "d", 7, 8);
        assert_numbers(r, 7, 8);
        hub_events_reader_free(r);
        hub_events_free(e);
}

TEST(lines_longer_than_any_block_come_back) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_earliest(e, "d");
        _cleanup_free_ char *body = malloc(262145);

        memset(body, 1, 262144); /* six bytes each in the file */
        body[262144] = '\0';
        for (unsigned i = 0; i < 3; i++) {
                const HubStoredEvent *event;

                append_numbers(e, "d", 0, 1);
                append_at(e, "d", body, START);
                ck_assert_int_eq(next_number(r), 0);
                ck_assert_int_eq(assert_ok(hub_events_reader_next(r, &event)), 1);
                ck_assert_uint_eq(event->body_size, 262144);
                ck_assert_mem_eq(event->body, body, 262144);
        }
}

TEST(an_event_that_is_refused_uses_no_number) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        HubEvent bad = { .device_id = "d", .bag = "a=%zz", .bag_size = 5, .body = "" };
        HubEvent large = { .device_id = "d", .bag = "", .body = "", .body_size = 262145 };
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_earliest(e, "d");

        append_numbers(e, "d", 0, 1);
        assert_error(hub_events_append(e, &bad), -EINVAL);
        assert_error(hub_events_append(e, &large), -EMSGSIZE);
        append_numbers(e, "d", 1, 2);
        assert_numbers(r, 0, 2);
        ck_assert_int_eq(begin_of(e, "d"), 0);
}

TEST(a_full_disk_refuses_an_event_and_leaves_no_trace_of_it) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_earliest(e, "d");
        HubEvent event = { .device_id = "d", .bag = "", .body = "lost", .body_size = 4 };
        struct rlimit limit;
        struct stat st;

        append_numbers(e, "d", 0, 2);
        assert_numbers(r, 0, 2);
        ck_assert_int_eq(stat(HUB_EVENTS_FILE, &st), 0);
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
        signal(SIGXFSZ, SIG_IGN);
        limit.rlim_cur = (rlim_t) st.st_size + 100;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        assert_error(hub_events_append(e, &event), -EFBIG);
        ck_assert_int_eq(next_number(r), -1);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        append_numbers(e, "d", 2, 4);
        assert_numbers(r, 2, 4);
}

static bool is_awake(int fd) {
        uint64_t n;

        return read(fd, &n, sizeof(n)) == sizeof(n);
}

TEST(one_who_was_told_to_wait_is_woken_once) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, SMALL);
        _cleanup_(hub_events_reader_freep) HubEventsReader *r = open_earliest(e, "d");
        _cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        hub_events_set_wake_fd(e, fd);
        append_numbers(e, "d", 0, 1);
        ck_assert_int_eq(is_awake(fd), false); /* nobody has asked */
        assert_numbers(r, 0, 1);
        append_numbers(e, "d", 1, 2);
        ck_assert_int_eq(is_awake(fd), true);
        append_numbers(e, "d", 2, 3);
        ck_assert_int_eq(is_awake(fd), false);
        assert_numbers(r, 1, 3);
        append_numbers(e, "other", 0, 1);
        ck_assert_int_eq(is_awake(fd), false); /* another partition */
        append_numbers(e, "d", 3, 4);
        ck_assert_int_eq(is_awake(fd), true);
        hub_events_set_wake_fd(e, -1);
        assert_numbers(r, 3, 4);
        append_numbers(e, "d", 4, 5);
        ck_assert_int_eq(is_awake(fd), false);
}

#define THREADS 3
#define BUSY_EVENTS 30000

typedef struct Follower {
        HubEvents *events;
        pthread_t thread;
        int64_t n, last, n_lost;
} Follower;

static void *follow(void *userdata) {
        Follower *f = userdata;
        HubEventsReader *r = open_earliest(f->events, "d");

        while (f->last < BUSY_EVENTS - 1) {
                int64_t number = next_number(r);

                if (number < 0)
                        continue;
                ck_assert_int_gt(number, f->last);
                f->n_lost += number - f->last - 1;
                f->last = number;
                f->n++;
        }
        hub_events_reader_free(r);
        return NULL;
}

/* A reader that is slower than a limit of 1 MiB loses what is deleted, and nothing else. */
TEST_LOOP(readers_on_other_threads_see_all_that_is_kept, 2) {
        _cleanup_close_ int dir_fd = open_dir();
        _cleanup_(hub_events_freep) HubEvents *e = open_events(dir_fd, _i == 0 ? ROOMY : SMALL);
        Follower followers[THREADS];

        for (unsigned i = 0; i < THREADS; i++) {
                followers[i] = (Follower){ .events = e, .last = -1 };
                ck_assert_int_eq(pthread_create(&followers[i].thread, NULL, follow, followers + i),
                                 0);
        }
        append_numbers(e, "d", 0, BUSY_EVENTS);
        for (unsigned i = 0; i < THREADS; i++) {
                ck_assert_int_eq(pthread_join(followers[i].thread, NULL), 0);
                ck_assert_int_eq(followers[i].n + followers[i].n_lost, BUSY_EVENTS);
                if (_i == 0)
                        ck_assert_int_eq(followers[i].n_lost, 0);
        }
}
