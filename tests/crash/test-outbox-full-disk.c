/* Goal: P4 and P5 on a real, small ext4 that fills and has room again: senders get an error that says so, nothing
 * accepted is lost, delivery goes on, and it recovers unaided.
 * Method: another file takes the room; the outbox of this process, with its threads, goes on through it all. */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/statvfs.h>

#include "daemon/log.h"
#include "daemon/outbox.h"
#include "lib/fd-util.h"
#include "tests/support/loop-disk.h"
#include "tests/support/test.h"

#define DISK_MEBIBYTES 64U
#define BODY_BYTES 3000U
#define CALL_MESSAGES 16U
#define MESSAGES_MAX 100000U

typedef struct Box {
        Outbox *outbox;
        uint8_t *durable; /* by number */
        uint64_t n_sent, n_durable, n_open, n_settled, n_taken;
        int refused; /* the last error */
        uint64_t n_told; /* that it is full, or that the disk takes nothing */
} Box;

typedef struct Call {
        Box *box;
        uint64_t number;
} Call;

static void on_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        Call *c = userdata;

        c->box->n_open--;
        if (error < 0)
                c->box->refused = error;
        else {
                memset(c->box->durable + c->number, 1, CALL_MESSAGES);
                c->box->n_durable += CALL_MESSAGES;
        }
        free(c);
}

static void on_settled(const OutboxSettled *s, void *userdata) {
        ck_assert_int_eq(s->end, OUTBOX_END_CONFIRMED);
        ((Box *) userdata)->n_settled++;
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
        Box *b = userdata;

        printf("# %s\n", text);
        fflush(stdout); /* an assertion that fails ends the process at once */
        if (streq(message_id, MSG_OUTBOX_FULL) || streq(message_id, MSG_OUTBOX_DISK_ERROR))
                b->n_told++;
}

static void box_open(Box *b, const char *path, uint64_t keep_free) {
        OutboxEvents events = { on_settled, on_deliverable, on_notice, b };
        OutboxOptions options = {
                .max_size = UINT64_C(1) << 30, /* the disk is the limit here */
                .keep_free = keep_free,
                .segment_size = 1U << 20,
                .full = OUTBOX_FULL_REJECT,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = 1U << 20,
                .n_receipts = 100,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 1000,
                .threaded = true,
        };

        assert_ok(outbox_open(path, &options, &events, &b->outbox));
        assert_ok(outbox_set_identity(b->outbox, "hub", "device", false));
}

static void box_turn(Box *b) {
        struct pollfd p = { .fd = outbox_fd(b->outbox), .events = POLLIN };
        usec_t now = now_usec(CLOCK_BOOTTIME), deadline = outbox_next_deadline(b->outbox);
        int timeout = 10000;

        if (deadline != USEC_INFINITY)
                timeout = (int) MIN((uint64_t) timeout, usec_sub(deadline, now) / USEC_PER_MSEC + 1);
        ck_assert_int_ge(poll(&p, 1, timeout), 0);
        assert_ok(outbox_process(b->outbox));
}

/* One call; waits for its report. 0 or the error. */
static int box_send(Box *b) {
        static uint8_t bodies[CALL_MESSAGES][BODY_BYTES];
        OutboxMessage messages[CALL_MESSAGES];
        Call *c = malloc(sizeof(*c));
        uint64_t next;
        int r;

        ck_assert(c != NULL);
        ck_assert_uint_lt(b->n_sent, MESSAGES_MAX - CALL_MESSAGES);
        *c = (Call) { b, b->n_sent };
        for (size_t i = 0; i < CALL_MESSAGES; i++) {
                uint64_t number = b->n_sent + i;

                memset(bodies[i], (int) (number & 0xff), BODY_BYTES);
                memcpy(bodies[i], &number, sizeof(number));
                messages[i] = (OutboxMessage) { .lane = OUTBOX_LANE_NORMAL, .body = bodies[i], .body_size = BODY_BYTES,
                                                .time_to_live_usec = USEC_INFINITY };
        }
        b->refused = 0;
        r = outbox_append(b->outbox, messages, CALL_MESSAGES, NULL, 0, on_durable, c, &next);
        if (r < 0) {
                free(c);
                return r;
        }
        b->n_sent += CALL_MESSAGES;
        b->n_open++;
        while (b->n_open > 0)
                box_turn(b);
        return b->refused;
}

/* There is room; that this is seen may take some turns. */
static void box_send_again(Box *b) {
        int r;

        for (int i = 0; (r = box_send(b)) != 0; i++) {
                ck_assert_msg(i < 200, "no recovery from a full disk: %s", strerror(-r));
                box_turn(b);
        }
}

/* Takes the next and confirms it, or gives up when none comes. All come in the order sent, without those refused. */
static bool box_deliver(Box *b) {
        _cleanup_(outbox_delivery_freep) OutboxDelivery *d = NULL;
        uint64_t number;

        while (outbox_next(b->outbox, &d) < 0) {
                OutboxStats s;

                outbox_get_stats(b->outbox, &s);
                if (s.queued == s.in_flight)
                        return false;
                box_turn(b);
        }
        ck_assert_uint_eq(d->body_size, BODY_BYTES);
        memcpy(&number, d->body, sizeof(number));
        ck_assert_uint_ge(number, b->n_taken);
        for (uint64_t i = b->n_taken; i < number; i++)
                ck_assert_msg(!b->durable[i], "message %" PRIu64 " was durable and is skipped", i);
        ck_assert_msg(b->durable[number], "message %" PRIu64 " was refused and is delivered", number);
        b->n_taken = number + 1;
        assert_ok(outbox_settle(b->outbox, d->seq, OUTBOX_END_CONFIRMED, NULL));
        return true;
}

static void fill(const char *path) {
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        static uint8_t data[65536];
        ssize_t n;

        ck_assert_int_ge(fd, 0);
        for (size_t size = sizeof(data); size >= 4096; size /= 2)
                while ((n = write(fd, data, size)) == (ssize_t) size)
                        ;
        (void) fsync(fd); /* the disk is full: what counts is that the room is taken */
}

static void balance(Box *b) {
        OutboxStats s;

        outbox_get_stats(b->outbox, &s);
        ck_assert_uint_eq(s.accepted, s.confirmed + s.expired + s.dropped + s.rejected + s.queued);
        ck_assert_uint_eq(s.accepted, b->n_durable);
}

TEST_FULL(full_ext4_refuses_delivers_and_recovers, 300, 2) {
        _cleanup_free_ char *dir = test_tempdir(), *disk = loop_disk_mount(dir, DISK_MEBIBYTES), *box = NULL, *filler = NULL;
        uint64_t keep_free = _i == 0 ? 0 : 8U << 20, n_refused = 0;
        Box b = { .durable = calloc(MESSAGES_MAX, 1) };
        struct statvfs fs;
        OutboxStats s;
        int r;

        ck_assert_int_ge(asprintf(&box, "%s/box", disk), 0);
        ck_assert_int_ge(asprintf(&filler, "%s/filler", disk), 0);
        box_open(&b, box, keep_free);
        for (int round = 0; round < 3; round++) {
                const uint64_t n_told = b.n_told;

                for (int i = 0; i < 50; i++)
                        box_send_again(&b);
                if (round == 1) /* somebody else takes all the room at once */
                        fill(filler);
                while ((r = box_send(&b)) == 0)
                        ck_assert_uint_lt(b.n_sent, MESSAGES_MAX - 100);
                ck_assert_msg(r == -ENOSPC, "a full disk gives %s", strerror(-r));
                outbox_get_stats(b.outbox, &s);
                /* Room may have come back meanwhile: a failed call gives its segments up. */
                ck_assert(s.is_full || s.disk_error == -ENOSPC || b.n_told > n_told);
                ck_assert_int_eq(statvfs(disk, &fs), 0);
                if (round != 1)
                        ck_assert_uint_ge((uint64_t) fs.f_bavail * fs.f_frsize + (1U << 20), keep_free);
                n_refused++;
                balance(&b);

                /* Delivery goes on while it is full, and is recorded: the room for that is always there. */
                for (int i = 0; i < 40; i++)
                        ck_assert(box_deliver(&b));
                while (b.n_settled < b.n_taken && b.n_settled + 1 < 40)
                        box_turn(&b);
                balance(&b);

                /* Room: unlinked by its owner, or what was delivered. */
                (void) unlink(filler);
                while (box_deliver(&b))
                        ;
                box_send_again(&b);
        }
        while (b.n_open > 0)
                box_turn(&b);
        balance(&b);
        b.outbox = outbox_free(b.outbox);
        box_open(&b, box, keep_free);
        balance(&b);
        while (box_deliver(&b))
                ;
        outbox_get_stats(b.outbox, &s);
        ck_assert_uint_eq(s.n_lost_records, 0);
        b.outbox = outbox_free(b.outbox);
        printf("# %" PRIu64 " messages, %" PRIu64 " times full\n", b.n_durable, n_refused);
        fflush(stdout);
        free(b.durable);
}
