/* Goal: P1 to P3 with real threads on a real disk: what a process said was durable is there after it was killed, or
 * after its file system lost all that was not synced.
 * Method: a child appends, delivers and confirms, and says so in a pipe; it is killed after a random number of words,
 * or kills itself at a random disk call. The parent opens the outbox, takes everything out, compares, goes on. The
 * words in the pipe outlive the child. The seed is printed; OUTBOX_STORM_SEED repeats it, as far as threads can be. */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "daemon/outbox.h"
#include "daemon/outbox-io.h"
#include "tests/support/loop-disk.h"
#include "tests/support/random.h"
#include "tests/support/test.h"

#define BODY_BYTES_MAX 400U
#define IDS_MAX 400000U
#define POSITION_MESSAGES 50U
#define QUEUED_MAX 1500U /* the parent takes all of it out at once; the outbox hands out no more than 2,048 */
#define N_KILLS 100U
#define N_CUTS 20U

typedef struct Word {
        enum { WORD_DURABLE, WORD_SETTLED } kind;
        uint32_t lane;
        uint64_t id; /* the n-th of its lane, from 0; in the lane of the stream its position */
} Word;

typedef struct Lane {
        uint8_t told[IDS_MAX]; /* 1 durable, 2 settled */
        uint8_t found[IDS_MAX];
        uint64_t n; /* ids below have been given out */
} Lane;

static const uint8_t stream_id[16] = "one storm stream";
static Lane *lanes; /* of the parent */

/* What a message of this lane and number must hold. */
static size_t body_make(uint32_t lane, uint64_t id, uint8_t body[static BODY_BYTES_MAX]) {
        Random r = { .state = id * 4 + lane };
        size_t n = 16 + random_below(&r, BODY_BYTES_MAX - 16);

        memcpy(body, &id, 8);
        memset(body + 8, (int) lane, 8);
        for (size_t i = 16; i < n; i++)
                body[i] = (uint8_t) random_u64(&r);
        return n;
}

static OutboxOptions options_make(const OutboxIo *io) {
        return (OutboxOptions) {
                .max_size = 32U << 20,
                .keep_free = 0,
                .segment_size = 512U << 10,
                .full = OUTBOX_FULL_REJECT,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = 1U << 20,
                .n_receipts = 100,
                .position_interval_usec = USEC_PER_HOUR, /* the bound is then in messages alone */
                .position_messages = POSITION_MESSAGES,
                .threaded = true,
                .io = io,
        };
}

/* The child */

typedef struct Child {
        Outbox *outbox;
        Random random;
        int pipe_fd;
        uint64_t next[_OUTBOX_LANE_MAX];
        unsigned n_open;
} Child;

typedef struct Call {
        Child *child;
        uint32_t lane;
        uint64_t id;
        size_t n;
} Call;

static OutboxIo suicidal; /* outbox_io_real that dies at a call */
static int calls_left;

static void count_call(void) {
        if (__atomic_sub_fetch(&calls_left, 1, __ATOMIC_SEQ_CST) == 0)
                (void) kill(getpid(), SIGKILL);
}

static ssize_t suicidal_pwrite(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset) {
        count_call();
        return outbox_io_real.pwrite(&outbox_io_real, fd, data, n, offset);
}

static int suicidal_fdatasync(const OutboxIo *io, int fd) {
        count_call();
        return outbox_io_real.fdatasync(&outbox_io_real, fd);
}

static int suicidal_fsync(const OutboxIo *io, int fd) {
        count_call();
        return outbox_io_real.fsync(&outbox_io_real, fd);
}

static int suicidal_unlinkat(const OutboxIo *io, int dir_fd, const char *name) {
        count_call();
        return outbox_io_real.unlinkat(&outbox_io_real, dir_fd, name);
}

static int suicidal_renameat(const OutboxIo *io, int dir_fd, const char *from, const char *to) {
        count_call();
        return outbox_io_real.renameat(&outbox_io_real, dir_fd, from, to);
}

static void say(const Child *c, int kind, uint32_t lane, uint64_t id) {
        Word w = { .kind = kind, .lane = lane, .id = id };

        if (write(c->pipe_fd, &w, sizeof(w)) != sizeof(w))
                _exit(3); /* the parent is gone */
}

static void child_durable(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata) {
        Call *call = userdata;

        for (size_t i = 0; error == 0 && i < call->n; i++)
                say(call->child, WORD_DURABLE, call->lane, call->id + i);
        call->child->n_open--;
        if (error < 0)
                _exit(4); /* a disk that is cut off; the parent knows whether it should be */
        free(call);
}

static void child_settled(const OutboxSettled *s, void *userdata) {
        uint64_t id;

        /* The id is in the message id, as decimal. */
        if (sscanf(s->message_id, "%" SCNu64, &id) == 1)
                say(userdata, WORD_SETTLED, (uint32_t) s->lane, id);
}

static void ignore_deliverable(void *userdata) {
}

static void ignore_notice(int priority, const char *message_id, const char *text, void *userdata) {
}

static void child_append(Child *c) {
        uint32_t lane = (uint32_t) random_below(&c->random, _OUTBOX_LANE_MAX);
        size_t n = 1 + random_below(&c->random, random_one_in(&c->random, 4) ? 50 : 4);
        OutboxStream stream = { .position = c->next[lane] };
        uint8_t bodies[50][BODY_BYTES_MAX];
        OutboxMessage messages[50];
        char ids[50][32];
        Call *call = malloc(sizeof(*call));
        uint64_t next;
        int r;

        if (!call)
                _exit(5);
        memcpy(stream.id, stream_id, sizeof(stream.id));
        *call = (Call) { c, lane, c->next[lane], n };
        for (size_t i = 0; i < n; i++) {
                (void) snprintf(ids[i], sizeof(ids[i]), "%" PRIu64, c->next[lane] + i);
                messages[i] = (OutboxMessage) { .lane = (OutboxLane) lane, .message_id = ids[i], .body = bodies[i],
                                                .body_size = body_make(lane, c->next[lane] + i, bodies[i]),
                                                .time_to_live_usec = USEC_INFINITY };
        }
        r = outbox_append(c->outbox, messages, n, lane == OUTBOX_LANE_NORMAL ? &stream : NULL, 7, child_durable, call, &next);
        if (r < 0) {
                free(call);
                return; /* full, or too much on its way: deliver first */
        }
        c->n_open++;
        c->next[lane] += n;
}

static void child_deliver(Child *c) {
        for (size_t n = random_below(&c->random, 40); n > 0; n--) {
                _cleanup_(outbox_delivery_freep) OutboxDelivery *d = NULL;

                if (outbox_next(c->outbox, &d) < 0)
                        return;
                if (random_one_in(&c->random, 100))
                        outbox_requeue(c->outbox);
                else
                        (void) outbox_settle(c->outbox, d->seq, OUTBOX_END_CONFIRMED, NULL); /* it was just handed out */
        }
}

static void child_run(const char *dir, Child *c, bool dies_at_call) {
        OutboxEvents events = { child_settled, ignore_deliverable, ignore_notice, c };
        OutboxOptions options = options_make(dies_at_call ? &suicidal : NULL);
        int r;

        suicidal = outbox_io_real;
        suicidal.pwrite = suicidal_pwrite;
        suicidal.fdatasync = suicidal_fdatasync;
        suicidal.fsync = suicidal_fsync;
        suicidal.unlinkat = suicidal_unlinkat;
        suicidal.renameat = suicidal_renameat;
        r = outbox_open(dir, &options, &events, &c->outbox);
        if (r >= 0)
                r = outbox_set_identity(c->outbox, "hub", "device", false);
        if (r >= 0)
                r = outbox_stream_next(c->outbox, stream_id, 7, &c->next[OUTBOX_LANE_NORMAL]);
        if (r < 0)
                _exit(6);
        for (;;) {
                struct pollfd p = { .fd = outbox_fd(c->outbox), .events = POLLIN };
                OutboxStats s;

                outbox_get_stats(c->outbox, &s);
                if (c->n_open < 8 && s.queued < QUEUED_MAX)
                        child_append(c);
                child_deliver(c);
                (void) poll(&p, 1, c->n_open < 8 ? 0 : 1000); /* at the latest then: a deadline may have come */
                if (outbox_process(c->outbox) < 0)
                        _exit(7);
        }
}

/* The parent */

static void take_word(const Word *w) {
        Lane *l = &lanes[w->lane];

        ck_assert_uint_lt(w->id, IDS_MAX);
        l->n = MAX(l->n, w->id + 1);
        ck_assert_msg(w->kind == WORD_DURABLE || l->told[w->id] == 1, "lane %u: message %" PRIu64 " ended in state %u", w->lane,
                      w->id, l->told[w->id]);
        l->told[w->id] = w->kind == WORD_DURABLE ? 1 : 2;
}

/* Until the child has said so many words, or is gone. */
static void listen_for(int fd, uint64_t n_words) {
        for (uint64_t i = 0; i < n_words; i++) {
                Word w;

                if (read(fd, &w, sizeof(w)) != sizeof(w))
                        return;
                take_word(&w);
        }
}

static void take_one(const OutboxDelivery *d, uint64_t *last_seq) {
        uint8_t want[BODY_BYTES_MAX];
        uint64_t id;

        ck_assert_uint_ge(d->body_size, 16);
        memcpy(&id, d->body, 8);
        ck_assert_uint_lt(id, IDS_MAX);
        ck_assert_uint_eq(d->body_size, body_make((uint32_t) d->lane, id, want));
        ck_assert_int_eq(memcmp(d->body, want, d->body_size), 0);
        ck_assert_msg(!lanes[d->lane].found[id], "lane %d: message %" PRIu64 " is there twice", (int) d->lane, id);
        ck_assert_msg(d->seq > last_seq[d->lane], "lane %d: out of order", (int) d->lane);
        last_seq[d->lane] = d->seq;
        lanes[d->lane].found[id] = 1;
        lanes[d->lane].n = MAX(lanes[d->lane].n, id + 1);
}

static void wait_process(Outbox *o, int timeout_msec) {
        struct pollfd p = { .fd = outbox_fd(o), .events = POLLIN };

        ck_assert_int_ge(poll(&p, 1, timeout_msec), 0);
        assert_ok(outbox_process(o));
}

/* What was confirmed last may be queued again: no more of them than the options allow, and what one turn of the loop
 * can confirm before it is recorded. */
static void check_ended(uint64_t n_back) {
        ck_assert_msg(n_back <= 2 * POSITION_MESSAGES + 200, "%" PRIu64 " confirmed messages came back", n_back);
}

static void check_lanes(uint64_t stream_next) {
        uint64_t n_back = 0;

        for (uint32_t k = 0; k < _OUTBOX_LANE_MAX; k++) {
                Lane *l = &lanes[k];

                for (uint64_t id = 0; id < l->n; id++) {
                        ck_assert_msg(l->told[id] != 1 || l->found[id], "lane %u: message %" PRIu64 " was durable and is lost",
                                      k, id);
                        n_back += l->told[id] == 2 && l->found[id];
                        if (l->found[id])
                                l->told[id] = 1;
                }
        }
        check_ended(n_back);
        for (uint64_t p = 0; p < lanes[OUTBOX_LANE_NORMAL].n; p++)
                ck_assert_msg(lanes[OUTBOX_LANE_NORMAL].told[p] == 0 || p < stream_next,
                              "the stream goes on at %" PRIu64 ", %" PRIu64 " is stored", stream_next, p);
        lanes[OUTBOX_LANE_NORMAL].n = stream_next;
}

static void verify(const char *dir) {
        OutboxEvents events = { NULL, ignore_deliverable, ignore_notice, NULL };
        OutboxOptions options = options_make(NULL);
        uint64_t last_seq[_OUTBOX_LANE_MAX] = {}, n = 0, next;
        Outbox *o = NULL;
        OutboxStats s;

        for (uint32_t k = 0; k < _OUTBOX_LANE_MAX; k++)
                memset(lanes[k].found, 0, sizeof(lanes[k].found));
        assert_ok(outbox_open(dir, &options, &events, &o));
        assert_ok(outbox_set_identity(o, "hub", "device", false));
        for (;;) {
                OutboxDelivery *d;

                outbox_get_stats(o, &s);
                if (n == s.queued)
                        break;
                if (outbox_next(o, &d) < 0) {
                        wait_process(o, 10000);
                        continue;
                }
                take_one(d, last_seq);
                outbox_delivery_free(d);
                n++;
        }
        ck_assert_uint_eq(s.n_lost_records, 0);
        ck_assert_uint_eq(s.accepted, s.confirmed + s.expired + s.dropped + s.rejected + s.queued);
        assert_ok(outbox_stream_next(o, stream_id, 7, &next));
        outbox_free(o);
        check_lanes(next);
}

static pid_t child_start(const char *dir, Random *random, int *ret_fd, bool dies_at_call) {
        int fds[2];
        pid_t pid;

        ck_assert_int_eq(pipe(fds), 0);
        fflush(stdout);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                Child c = { .random = *random, .pipe_fd = fds[1] };

                close(fds[0]);
                calls_left = 1 + (int) random_below(random, random_one_in(random, 4) ? 3000 : 200);
                for (uint32_t k = 0; k < _OUTBOX_LANE_MAX; k++)
                        c.next[k] = lanes[k].n;
                child_run(dir, &c, dies_at_call);
                _exit(0);
        }
        close(fds[1]);
        (void) random_u64(random);
        *ret_fd = fds[0];
        return pid;
}

static void storm(const char *dir, const char *loop_dir, unsigned n_rounds) {
        const char *given = getenv("OUTBOX_STORM_SEED");
        Random random = { .state = given ? strtoull(given, NULL, 10) : 1 };
        uint64_t n_told = 0;

        lanes = calloc(_OUTBOX_LANE_MAX, sizeof(Lane));
        ck_assert(lanes != NULL);
        for (unsigned i = 0; i < n_rounds; i++) {
                bool dies_at_call = !loop_dir && random_one_in(&random, 2);
                int fd, status;
                pid_t pid = child_start(dir, &random, &fd, dies_at_call);

                listen_for(fd, dies_at_call ? UINT64_MAX : random_below(&random, random_one_in(&random, 4) ? 5000 : 300));
                if (loop_dir)
                        loop_disk_cut(loop_dir);
                (void) kill(pid, SIGKILL); /* or it has done so itself */
                listen_for(fd, UINT64_MAX);
                close(fd);
                ck_assert_int_eq(waitpid(pid, &status, 0), pid);
                ck_assert_msg(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : loop_dir != NULL,
                              "round %u: the child ended with status %x", i, (unsigned) status);
                if (loop_dir) {
                        _cleanup_free_ char *above = strndup(loop_dir, (size_t) (strrchr(loop_dir, '/') - loop_dir));

                        loop_disk_restart(above, loop_dir);
                }
                verify(dir);
        }
        for (uint32_t k = 0; k < _OUTBOX_LANE_MAX; k++)
                for (uint64_t id = 0; id < lanes[k].n; id++)
                        n_told += lanes[k].told[id] != 0;
        printf("# %u rounds, %" PRIu64 " messages\n", n_rounds, n_told);
        fflush(stdout);
        ck_assert_uint_gt(n_told, n_rounds);
        free(lanes);
}

TEST_FULL(killed_process_loses_nothing_it_called_durable, 600, 1) {
        _cleanup_free_ char *dir = test_tempdir(), *box = NULL;

        ck_assert_int_ge(asprintf(&box, "%s/box", dir), 0);
        storm(box, NULL, N_KILLS);
}

TEST_FULL(power_cut_on_ext4_loses_nothing_called_durable, 600, 1) {
        _cleanup_free_ char *dir = test_tempdir(), *disk = loop_disk_mount(dir, 96), *box = NULL;

        ck_assert_int_ge(asprintf(&box, "%s/box", disk), 0);
        storm(box, disk, N_CUTS);
}
