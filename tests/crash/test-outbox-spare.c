/* Goal: a refusal is for want of room: what an outbox refuses when it is full, it refuses until something has ended, also
 * where its disk is slow. Method: a real folder, threads, and a disk on which the thread that makes segments ahead of
 * time is held up near the limit, so that senders get there first. */
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>

#include "daemon/outbox-io.h"
#include "daemon/outbox.h"
#include "tests/support/test.h"

#define MIB (UINT64_C(1) << 20)
#define MAX_SIZE (16 * MIB)
#define BODY_BYTES 20000U

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool held; /* under the mutex */

static void hold(bool yes) {
        pthread_mutex_lock(&mutex);
        held = yes;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
}

static int held_fsync(const OutboxIo *io, int fd) {
        char name[16] = "";

        ck_assert_int_eq(prctl(PR_GET_NAME, name), 0);
        pthread_mutex_lock(&mutex);
        while (held && streq(name, "outbox-reader")) /* daemon/outbox.c: the thread in the background */
                pthread_cond_wait(&changed, &mutex);
        pthread_mutex_unlock(&mutex);
        return outbox_io_real.fsync(&outbox_io_real, fd);
}

static void on_settled(const OutboxSettled *s, void *userdata) {
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
        printf("# %s\n", text);
}

static void on_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        ck_assert_int_eq(error, 0);
        *(bool *) userdata = true;
}

static void turn(Outbox *o) {
        struct pollfd p = { .fd = outbox_fd(o), .events = POLLIN };

        ck_assert_int_ge(poll(&p, 1, 100), 0); /* its deadlines are of no interest here */
        assert_ok(outbox_process(o));
}

/* One message; waits until it is durable. 0 or the refusal. */
static int send_one(Outbox *o) {
        static const uint8_t body[BODY_BYTES];
        const OutboxMessage m = { .lane = OUTBOX_LANE_NORMAL, .body = body, .body_size = sizeof(body),
                                  .time_to_live_usec = USEC_INFINITY };
        bool durable = false;
        uint64_t next;
        int r;

        r = outbox_append(o, &m, 1, NULL, 0, on_durable, &durable, &next);
        while (r >= 0 && !durable)
                turn(o);
        return r;
}

TEST(what_is_refused_for_want_of_room_stays_refused) {
        _cleanup_free_ char *dir = test_tempdir(), *path = NULL;
        OutboxEvents events = { on_settled, on_deliverable, on_notice, NULL };
        OutboxIo io = outbox_io_real;
        OutboxOptions options = {
                .max_size = MAX_SIZE,
                .segment_size = MIB,
                .full = OUTBOX_FULL_REJECT,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = MIB,
                .n_receipts = 100,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 1000,
                .threaded = true,
                .io = &io,
        };
        Outbox *o = NULL;
        OutboxStats s;
        int r;

        io.fsync = held_fsync;
        ck_assert_int_ge(asprintf(&path, "%s/box", dir), 0);
        assert_ok(outbox_open(path, &options, &events, &o));
        assert_ok(outbox_set_identity(o, "hub", "device", false));
        do {
                outbox_get_stats(o, &s);
                hold(s.queued > 0 && s.used_bytes + 4 * MIB > MAX_SIZE);
                r = send_one(o);
        } while (r >= 0);
        ck_assert_int_eq(r, -ENOSPC);
        hold(false);
        for (int i = 0; i < 5; i++) { /* whatever was held up is done by then, or was not begun */
                turn(o);
                assert_error(send_one(o), -ENOSPC);
        }
        outbox_free(o);
}
