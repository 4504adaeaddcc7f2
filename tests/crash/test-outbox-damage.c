/* Goal: P4: damage costs the records that it hit and nothing else; every start succeeds; what is lost is counted.
 * Method: a store of 100 records on a simulated disk. Each file is cut at each offset and each bit of what is written
 * is flipped, one at a time, on a clone of the disk; the outbox is opened on it and everything taken out.
 * In the zeros behind the records only every 61st bit is flipped, unless IOTHUBD_TEST_LONG is set. */
#include <inttypes.h>
#include <malloc.h>
#include <poll.h>

#include "daemon/outbox-segment.h"
#include "tests/support/outbox-model.h"
#include "tests/support/test.h"

#define N_RECORDS 100U
#define FILES_MAX 32U
#define RECORDS_MAX 512U
#define N_PARTS 4 /* processes that the flips are dealt to */

/* A start takes some large buffers; from the kernel each time they would cost more than all the rest. */
__attribute__((constructor)) static void keep_memory(void) {
        (void) mallopt(M_MMAP_THRESHOLD, 64 << 20);
        (void) mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

static const OutboxOptions base_options = {
        .max_size = 24U << 20,
        .segment_size = 512U << 10,
        .full = OUTBOX_FULL_REJECT,
        .time_to_live_usec = USEC_INFINITY,
        .dead_letter_size = 1U << 20,
        .n_receipts = 64,
        .position_interval_usec = USEC_PER_SEC,
        .position_messages = 20,
};

/* ck_assert_msg() writes a mark to a file each time, also where all is well: too slow for what is asked this often. */
#define require(expr, ...)                                                                         \
        do {                                                                                       \
                if (!(expr))                                                                       \
                        ck_abort_msg(__VA_ARGS__);                                                 \
        } while (0)

typedef struct Place {
        uint64_t offset, size, seq; /* of a message record */
} Place;

typedef struct File {
        char name[64];
        uint64_t size, end; /* end: of what is not zero */
        Place places[RECORDS_MAX];
        size_t n_places;
} File;

typedef struct Store {
        SimDisk *disk;
        OutboxModel *model; /* holds what was appended */
        File files[FILES_MAX];
        size_t n_files;
} Store;

/* What came out of a damaged store. */
typedef struct Found {
        bool seq[4096];
        uint64_t n, n_settled;
        OutboxStats stats;
} Found;

static void store_map_file(Store *s, File *f) {
        _cleanup_free_ uint8_t *data = malloc(f->size + 1);
        OutboxSegmentScan scan;
        OutboxRecord r;
        uint64_t offset;

        ck_assert(data != NULL);
        sim_disk_file_read(s->disk, f->name, 0, data, f->size);
        for (f->end = f->size; f->end > 0 && data[f->end - 1] == 0; f->end--)
                ;
        if (!strstr(f->name, "segment-"))
                return;
        outbox_segment_scan_bytes(&scan, data, f->size, 0, OUTBOX_SEGMENT_HEADER_SIZE);
        while (outbox_segment_scan_next(&scan, &r, &offset) > 0) {
                OutboxMessageRecord m;

                if (outbox_message_record_decode(&r, &m) < 0)
                        continue;
                ck_assert_uint_lt(f->n_places, RECORDS_MAX);
                f->places[f->n_places++] = (Place) { offset, r.size, m.seq };
        }
        outbox_segment_scan_done(&scan);
}

static void store_map(Store *s) {
        s->n_files = sim_disk_n_files(s->disk);
        ck_assert_uint_le(s->n_files, FILES_MAX);
        for (size_t i = 0; i < s->n_files; i++) {
                File *f = &s->files[i];

                (void) snprintf(f->name, sizeof(f->name), "%s", sim_disk_file_name(s->disk, i));
                f->size = sim_disk_file_size(s->disk, f->name);
                store_map_file(s, f);
        }
}

/* 100 messages in batches of ten over all lanes; the first n_confirmed are delivered and confirmed. */
static void store_make(Store *s, size_t n_confirmed) {
        ModelStream *stream;

        memset(s, 0, sizeof(*s));
        s->disk = sim_disk_new(1, UINT64_MAX);
        s->model = outbox_model_new(s->disk, &base_options, 1, "test-outbox-damage");
        assert_ok(outbox_model_open(s->model));
        outbox_model_verify_start(s->model, true);
        stream = outbox_model_stream_new(s->model, OUTBOX_LANE_NORMAL);
        for (size_t i = 0; i < N_RECORDS / 10; i++) {
                ModelMessage *x[10];

                if (i % 4 == 1)
                        assert_ok(outbox_model_append_stream(s->model, stream, stream->n_pending, 10));
                else {
                        for (size_t k = 0; k < ELEMENTSOF(x); k++)
                                x[k] = outbox_model_message_new(s->model, (OutboxLane) (i % _OUTBOX_LANE_MAX), 20 + k * 5,
                                                                USEC_INFINITY);
                        assert_ok(outbox_model_append(s->model, x, ELEMENTSOF(x)));
                }
                outbox_model_run(s->model);
        }
        for (size_t i = 0; i < n_confirmed; i++) {
                ModelMessage *x;

                assert_ok(outbox_model_next(s->model, &x));
                outbox_model_settle(s->model, x, OUTBOX_END_CONFIRMED);
                outbox_model_run(s->model);
        }
        outbox_model_close(s->model);
        store_map(s);
}

static void store_done(Store *s) {
        outbox_model_free(s->model);
        sim_disk_free(s->disk);
}

static void on_settled(const OutboxSettled *settled, void *userdata) {
        ((Found *) userdata)->n_settled++;
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
}

static void process(Outbox *o) {
        struct pollfd p = { .fd = outbox_fd(o), .events = POLLIN };

        while (poll(&p, 1, 0) > 0)
                require(outbox_process(o) >= 0, "outbox_process failed");
}

static void take_one(const Store *s, const OutboxDelivery *d, Found *found, const char *what) {
        const ModelMessage *x = NULL;

        require(d->seq < ELEMENTSOF(found->seq), "%s: seq %" PRIu64, what, d->seq);
        for (size_t i = 0; i < s->model->n_messages && !x; i++)
                if (s->model->messages[i]->seq == d->seq)
                        x = s->model->messages[i];
        require(x != NULL, "%s: seq %" PRIu64 " was never appended", what, d->seq);
        require(d->lane == x->lane && d->body_size == x->body_size && memcmp(d->body, x->body, x->body_size) == 0,
                      "%s: seq %" PRIu64 " has other bytes", what, d->seq);
        require(!found->seq[d->seq], "%s: seq %" PRIu64 " comes twice", what, d->seq);
        found->seq[d->seq] = true;
        found->n++;
}

/* Opens the outbox on the disk and takes everything out. */
static void take_out(const Store *s, SimDisk *disk, Found *found, const char *what) {
        OutboxOptions options = base_options;
        OutboxEvents events = { on_settled, on_deliverable, on_notice, found };
        Outbox *o = NULL;
        OutboxDelivery *d;
        int r;

        memset(found, 0, sizeof(*found));
        options.io = sim_disk_io(disk);
        options.clock = &s->model->clock;
        r = outbox_open("box", &options, &events, &o);
        require(r >= 0, "%s: the start failed: %s", what, strerror(-r));
        r = outbox_set_identity(o, "hub.example", "device", false);
        require(r >= 0, "%s: the identity was refused: %s", what, strerror(-r));
        for (int round = 0; round < 40; round++) {
                process(o);
                while (outbox_next(o, &d) == 0) {
                        take_one(s, d, found, what);
                        outbox_delivery_free(d);
                }
                process(o);
                outbox_get_stats(o, &found->stats);
                if (found->stats.queued == found->n)
                        break;
                s->model->boottime_usec += USEC_PER_SEC; /* what cannot be read is tried again, and later given up */
        }
        outbox_get_stats(o, &found->stats);
        require(found->stats.accepted == found->stats.confirmed + found->stats.expired + found->stats.dropped +
                              found->stats.rejected + found->stats.queued,
                      "%s: the books do not balance", what);
        require(found->stats.queued == found->n, "%s: %" PRIu64 " queued, %" PRIu64 " found", what, found->stats.queued,
                      found->n);
        require(found->n_settled == 0, "%s: %" PRIu64 " ends without a reason", what, found->n_settled);
        outbox_free(o);
        require(sim_disk_n_open(disk) == 0, "%s: descriptors stay open", what);
}

/* Whether the damage to [from, to) of the file may cost this message. */
static bool is_hit(const File *f, uint64_t from, uint64_t to, uint64_t seq) {
        for (size_t i = 0; i < f->n_places; i++)
                if (f->places[i].seq == seq)
                        return f->places[i].offset < to && from < f->places[i].offset + f->places[i].size;
        return false;
}

/* All messages are there that the damage did not hit. position_hit: confirmed ones may be queued again. */
static void check_found(const Store *s, const File *f, uint64_t from, uint64_t to, const Found *found, const char *what) {
        uint64_t n_lost = 0;

        for (size_t i = 0; i < s->model->n_messages; i++) {
                const ModelMessage *x = s->model->messages[i];

                if (x->end != OUTBOX_END_QUEUED || x->seq == 0 || found->seq[x->seq])
                        continue;
                n_lost++;
                require(is_hit(f, from, to, x->seq), "%s: seq %" PRIu64 " is lost and was not hit", what, x->seq);
        }
        require(found->stats.n_lost_records == n_lost, "%s: %" PRIu64 " lost, %" PRIu64 " counted", what, n_lost,
                      found->stats.n_lost_records);
}

/* A second start on the damaged store gives the same again. */
static void check_again(const Store *s, SimDisk *disk, const Found *first, const char *what) {
        Found second;

        take_out(s, disk, &second, what);
        require(memcmp(first->seq, second.seq, sizeof(first->seq)) == 0, "%s: a second start finds %" PRIu64
                      " instead of %" PRIu64, what, second.n, first->n);
}

static void flip(const Store *s, const File *f, uint64_t bit, bool again) {
        SimDisk *disk = sim_disk_clone(s->disk, bit);
        char what[128];
        Found found;
        uint8_t c;

        (void) snprintf(what, sizeof(what), "%s bit %" PRIu64 " (byte %" PRIu64 ")", f->name, bit, bit / 8);
        sim_disk_file_read(disk, f->name, bit / 8, &c, 1);
        c ^= (uint8_t) (1U << bit % 8);
        sim_disk_file_write(disk, f->name, bit / 8, &c, 1);
        take_out(s, disk, &found, what);
        check_found(s, f, bit / 8, bit / 8 + 1, &found, what);
        if (again)
                check_again(s, disk, &found, what);
        sim_disk_free(disk);
}

static void flip_part(const Store *s, int part) {
        uint64_t step = getenv("IOTHUBD_TEST_LONG") ? 1 : 61, n = 0;

        for (size_t i = 0; i < s->n_files; i++) {
                const File *f = &s->files[i];
                uint64_t written = MIN(f->end + 64, f->size) * 8;

                for (uint64_t bit = 0; bit < f->size * 8; bit += bit < written ? 1 : step * 100)
                        if (n++ % N_PARTS == (uint64_t) part)
                                flip(s, f, bit, n % 17 == 0);
        }
        printf("# part %d of %" PRIu64 " flips\n", part, n);
}

TEST_FULL(flipped_bit_costs_its_record_only, 600, N_PARTS) {
        Store s;

        store_make(&s, 0);
        flip_part(&s, _i);
        store_done(&s);
}

TEST_FULL(cut_file_costs_what_was_cut_off, 600, 1) {
        Store s;

        store_make(&s, 0);
        for (size_t i = 0; i < s.n_files; i++) {
                const File *f = &s.files[i];

                for (uint64_t at = 0; at < f->size; at += at < f->end + 64 ? 1 : 4099) {
                        SimDisk *disk = sim_disk_clone(s.disk, at);
                        char what[128];
                        Found found;

                        (void) snprintf(what, sizeof(what), "%s cut at %" PRIu64, f->name, at);
                        sim_disk_file_truncate(disk, f->name, at);
                        take_out(&s, disk, &found, what);
                        check_found(&s, f, at, UINT64_MAX, &found, what);
                        if (at % 13 == 0)
                                check_again(&s, disk, &found, what);
                        sim_disk_free(disk);
                }
        }
        store_done(&s);
}

/* Goal: whole pages gone, as flash loses them: zeros, ones, or unreadable. */
TEST_FULL(lost_page_costs_its_records_only, 600, 3) {
        uint8_t page[4096];
        Store s;

        memset(page, _i == 0 ? 0 : 0xff, sizeof(page));
        store_make(&s, 0);
        for (size_t i = 0; i < s.n_files; i++) {
                const File *f = &s.files[i];

                for (uint64_t at = 0; at < MIN(f->size, f->end + 2 * sizeof(page)); at += sizeof(page)) {
                        SimDisk *disk = sim_disk_clone(s.disk, at);
                        size_t n = MIN(sizeof(page), f->size - at);
                        char what[128];
                        Found found;

                        (void) snprintf(what, sizeof(what), "%s page at %" PRIu64 " %s", f->name, at,
                                        _i == 0 ? "zero" : _i == 1 ? "ones" : "unreadable");
                        if (_i < 2)
                                sim_disk_file_write(disk, f->name, at, page, n);
                        else
                                sim_disk_break_range(disk, f->name, at, n);
                        take_out(&s, disk, &found, what);
                        check_found(&s, f, at, at + n, &found, what);
                        check_again(&s, disk, &found, what);
                        sim_disk_free(disk);
                }
        }
        store_done(&s);
}

/* Goal: a missing file costs what was in it. */
TEST_FULL(missing_file_costs_its_records_only, 600, 1) {
        Store s;

        store_make(&s, 0);
        for (size_t i = 0; i < s.n_files; i++) {
                SimDisk *disk = sim_disk_clone(s.disk, i);
                char what[128];
                Found found;

                (void) snprintf(what, sizeof(what), "%s missing", s.files[i].name);
                sim_disk_file_unlink(disk, s.files[i].name);
                take_out(&s, disk, &found, what);
                check_found(&s, &s.files[i], 0, UINT64_MAX, &found, what);
                sim_disk_free(disk);
        }
        store_done(&s);
}

/* Goal: names are hints: a copy of a segment under another name, as a careless restore leaves it, gives no message
 * twice and costs none. */
TEST_FULL(copied_segment_counts_once, 600, 1) {
        Store s;

        store_make(&s, 0);
        for (size_t i = 0; i < s.n_files; i++) {
                const File *f = &s.files[i];
                _cleanup_free_ uint8_t *data = malloc(f->size + 1);
                SimDisk *disk;
                char what[128];
                Found found;

                if (f->n_places == 0)
                        continue;
                disk = sim_disk_clone(s.disk, i);
                (void) snprintf(what, sizeof(what), "%s copied", f->name);
                sim_disk_file_read(disk, f->name, 0, data, f->size);
                sim_disk_file_add(disk, "box/segment-00000fff", data, f->size);
                take_out(&s, disk, &found, what);
                check_found(&s, f, 0, 0, &found, what);
                check_again(&s, disk, &found, what);
                sim_disk_free(disk);
        }
        store_done(&s);
}

/* Goal: confirmed messages stay away after damage anywhere but in the positions; there they may come again, and still
 * nothing is lost. */
TEST_FULL(damaged_position_costs_duplicates_only, 600, 1) {
        Store s;

        store_make(&s, 60);
        for (size_t i = 0; i < s.n_files; i++) {
                const File *f = &s.files[i];

                for (uint64_t at = 0; at < MIN(f->size, f->end + 8); at += 3)
                        flip(&s, f, at * 8 + at % 8, at % 5 == 0);
        }
        store_done(&s);
}
