/* Goal: limits, back-pressure and the end of clients, server and outbox in every order: what a
 * running daemon shows only by chance. Method: server, outbox and clients in one thread. The outbox
 * is real, on a temporary folder, but works only when the test calls disk(), so that calls stay
 * under way as long as wanted; turn() runs the loop until nothing is left to do. */
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "lib/varlink-wire.h"
#include "daemon/ipc-server-private.h"
#include "tests/support/test.h"

typedef struct Fixture {
        sd_event *event;
        Outbox *outbox;
        IpcServer *server;
        char *folder;
} Fixture;

typedef struct Client {
        int fd;
        Buffer out; /* not yet taken by the server */
        VarlinkReader reader;
} Client;

static Fixture f;

static void on_settled(const OutboxSettled *s, void *userdata) {
        if (f.server)
                ipc_server_settled(f.server, s);
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
}

static void start(const IpcServerOptions *options) {
        const OutboxOptions outbox_options = {
                .max_size = 256U << 20,
                .keep_free = 0,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = 1U << 20,
                .n_receipts = 1000,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 1000,
        };
        const OutboxEvents events = {
                .on_settled = on_settled,
                .on_deliverable = on_deliverable,
                .on_notice = on_notice,
        };

        f.folder = test_tempdir();
        assert_ok(sd_event_new(&f.event));
        assert_ok(outbox_open(f.folder, &outbox_options, &events, &f.outbox));
        assert_ok(ipc_server_new(f.event, options, f.outbox, NULL, &f.server));
}

static const IpcServerOptions usual = {
        .connections_max = 64,
        .connections_per_user_max = 64,
        .buffer_bytes_max = 16U << 20,
        .user_bytes_max = 16U << 20,
};

static void stop(void) {
        f.server = ipc_server_free(f.server);
        f.outbox = outbox_free(f.outbox);
        f.event = sd_event_unref(f.event);
        free(f.folder);
}

/* Runs the loop until a turn finds nothing to do. */
static void turn(void) {
        while (assert_ok(sd_event_run(f.event, 0)) > 0)
                ;
}

/* Lets the disk do its work, and the loop what follows from it. */
static void disk(void) {
        for (int i = 0; i < 3;
             i++) { /* what waited for room is appended by the turn and needs the disk again */
                assert_ok(outbox_process(f.outbox));
                turn();
        }
}

static Client client_new(void) {
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
                         0);
        assert_ok(ipc_server_add_connection(f.server, fds[0]));
        return (Client){ .fd = fds[1] };
}

/* As another user, whom only root can play. */
static Client client_new_as(uid_t uid) {
        Client c;

        if (geteuid() != 0)
                test_skip("needs root to connect as another user");
        ck_assert_int_eq(seteuid(uid), 0);
        c = client_new();
        ck_assert_int_eq(seteuid(0), 0);
        return c;
}

static void client_done(Client *c) {
        if (c->fd >= 0)
                close(c->fd);
        c->fd = -EBADF;
        buffer_done(&c->out);
        varlink_reader_done(&c->reader);
}

/* Gives the server what it takes, turn by turn. */
static void client_push(Client *c) {
        size_t before;

        do {
                before = c->out.size;
                while (c->out.size > 0) {
                        ssize_t n = send(c->fd, c->out.data, c->out.size, MSG_NOSIGNAL);

                        if (n < 0)
                                break;
                        buffer_consume(&c->out, (size_t) n);
                }
                turn();
        } while (c->out.size < before);
}

static void client_text(Client *c, const char *text) {
        assert_ok(buffer_append(&c->out, text, strlen(text) + 1));
}

#define SEND_ONE "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":[{\"body\":\"x\"}]}}"

/* Next reply: 1, 0 none, -1 the connection is closed. */
static int client_read(Client *c, struct json_object **ret) {
        char data[65536];
        ssize_t n;
        int r;

        for (;;) {
                r = assert_ok(varlink_reader_next(&c->reader, ret, NULL, NULL));
                if (r > 0)
                        return 1;
                n = recv(c->fd, data, sizeof(data), 0);
                if (n == 0 || (n < 0 && errno != EAGAIN))
                        return -1;
                if (n < 0)
                        return 0;
                assert_ok(varlink_reader_feed(&c->reader, data, (size_t) n));
                turn();
        }
}

static size_t client_count_replies(Client *c) {
        size_t n = 0;

        for (;;) {
                _cleanup_json_ struct json_object *o = NULL;
                struct json_object *error;

                if (client_read(c, &o) <= 0)
                        return n;
                ck_assert_msg(!json_object_object_get_ex(o, "error", &error), "%s",
                              json_object_get_string(o));
                n++;
        }
}

static uint64_t n_accepted(void) {
        OutboxStats stats;

        outbox_get_stats(f.outbox, &stats);
        return stats.accepted;
}

TEST(replies_wait_for_the_disk) {
        _cleanup_(client_done) Client c;

        start(&usual);
        c = client_new();
        client_text(&c, SEND_ONE);
        client_push(&c);
        ck_assert_uint_eq(client_count_replies(&c), 0);
        disk();
        ck_assert_uint_eq(client_count_replies(&c), 1);
        stop();
}

TEST(calls_under_way_are_bounded_and_none_is_lost) {
        const size_t n = 3 * IPC_CALLS_MAX + 7;
        _cleanup_(client_done) Client c;
        size_t n_replies = 0, n_rounds = 0;

        start(&usual);
        c = client_new();
        for (size_t i = 0; i < n; i++)
                client_text(&c, SEND_ONE);
        while (n_replies < n) {
                size_t before = n_replies;

                client_push(&c);
                ck_assert_uint_le(n_accepted(), (n_rounds + 1) * 3 * IPC_CALLS_MAX);
                if (n_rounds == 0)
                        ck_assert_uint_eq(client_count_replies(&c), 0);
                disk();
                n_replies += client_count_replies(&c);
                n_rounds++;
                ck_assert_uint_gt(n_replies, before);
        }
        ck_assert_uint_eq(n_accepted(), n);
        stop();
}

TEST(a_client_that_does_not_read_is_not_read) {
        _cleanup_(client_done) Client c;
        size_t n = 200000, n_replies = 0;

        start(&usual);
        c = client_new();
        for (size_t i = 0; i < n; i++)
                client_text(&c, "{\"method\":\"org.varlink.service.GetInfo\"}");
        client_push(&c);
        ck_assert_uint_gt(c.out.size, 0); /* the server stopped with most of it unread */
        while (n_replies < n) {
                size_t got = client_count_replies(&c);

                ck_assert_msg(got > 0, "stalled after %zu replies", n_replies);
                n_replies += got;
                client_push(&c);
        }
        stop();
}

TEST(clients_server_and_outbox_may_go_in_any_order) {
        for (int order = 0; order < 4; order++) {
                Client c[3];

                start(&usual);
                for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                        c[i] = client_new();
                        for (int k = 0; k < 5; k++)
                                client_text(&c[i], SEND_ONE);
                        client_text(&c[i], "{\"method\":\"io.iothubd.GetMessage\",\"parameters\":{"
                                           "\"sequenceNumber\":1}}");
                        client_push(&c[i]);
                }
                if (order == 0) { /* the clients first, then the disk reports to nobody */
                        for (size_t i = 0; i < ELEMENTSOF(c); i++)
                                client_done(&c[i]);
                        turn();
                        disk();
                        ck_assert_uint_eq(n_accepted(), 5 * ELEMENTSOF(c));
                } else if (order == 1) {
                        f.server = ipc_server_free(f.server);
                        assert_ok(outbox_process(f.outbox));
                } else if (order == 2) { /* its callbacks come with an error */
                        f.outbox = outbox_free(f.outbox);
                } else
                        client_done(&c[1]);
                stop();
                for (size_t i = 0; i < ELEMENTSOF(c); i++)
                        if (c[i].fd >= 0)
                                client_done(&c[i]);
        }
}

TEST(a_client_that_leaves_while_its_message_is_looked_up_harms_nobody) {
        Client leaves, stays;
        _cleanup_json_ struct json_object *o = NULL;

        start(&usual);
        leaves = client_new();
        stays = client_new();
        client_text(&leaves, SEND_ONE);
        client_push(&leaves);
        disk();
        client_text(&leaves,
                    "{\"method\":\"io.iothubd.GetMessage\",\"parameters\":{\"sequenceNumber\":1}}");
        client_push(&leaves);
        client_text(&stays,
                    "{\"method\":\"io.iothubd.GetMessage\",\"parameters\":{\"sequenceNumber\":1}}");
        client_push(&stays);
        client_done(&leaves);
        turn();
        for (int i = 0; i < 10 && client_read(&stays, &o) == 0; i++)
                disk();
        ck_assert_ptr_nonnull(o);
        ck_assert_ptr_nonnull(strstr(json_object_to_json_string(o), "queued"));
        client_done(&stays);
        stop();
}

/* As from the outbox, for a stream. */
static void settle(uint64_t seq, const uint8_t stream[static 16]) {
        OutboxSettled s = { .seq = seq,
                            .end = OUTBOX_END_CONFIRMED,
                            .has_stream = true,
                            .position = seq - 1,
                            .message_id = "an-id" };

        memcpy(s.stream, stream, 16);
        ipc_server_settled(f.server, &s);
}

TEST(a_slow_subscriber_misses_the_oldest_ends_and_is_told_how_many) {
        static const uint8_t stream[16] = { 1, 2, 3 };
        const uint64_t n = 100000;
        _cleanup_(client_done) Client c;
        uint64_t n_ends = 0, n_missed = 0, newest = 0;

        start(&usual);
        c = client_new();
        client_text(&c,
                    "{\"method\":\"io.iothubd.Subscribe\",\"more\":true,\"parameters\":{\"stream\":"
                    "\"01020300000000000000000000000000\"}}");
        client_push(&c);
        for (uint64_t i = 1; i <= n; i++)
                settle(i, stream);
        turn();
        for (;;) {
                _cleanup_json_ struct json_object *o = NULL;
                struct json_object *parameters, *ends, *missed;

                if (client_read(&c, &o) <= 0)
                        break;
                parameters = json_object_object_get(o, "parameters");
                if (!json_object_object_get_ex(parameters, "ends", &ends))
                        continue;
                ck_assert(json_object_object_get_ex(parameters, "missed", &missed));
                n_missed += json_object_get_uint64(missed);
                for (size_t i = 0; i < json_object_array_length(ends); i++) {
                        struct json_object *end = json_object_array_get_idx(ends, i);
                        uint64_t seq = json_object_get_uint64(
                                        json_object_object_get(end, "sequenceNumber"));

                        ck_assert_uint_gt(seq, newest);
                        newest = seq;
                        n_ends++;
                }
        }
        ck_assert_uint_eq(n_ends + n_missed, n);
        ck_assert_uint_gt(n_missed, 0);
        ck_assert_uint_eq(newest, n);
        stop();
}

static bool is_open(Client *c) {
        struct pollfd p = { .fd = c->fd, .events = POLLIN };

        ck_assert_int_ge(poll(&p, 1, 0), 0);
        return !(p.revents & (POLLHUP | POLLIN));
}

static void push_half_a_frame(Client *c, size_t size) {
        _cleanup_free_ char *text = malloc(size);

        ck_assert_ptr_nonnull(text);
        memset(text, ' ', size);
        text[0] = '{';
        assert_ok(buffer_append(&c->out, text, size));
        client_push(c);
}

TEST(at_the_byte_budget_the_oldest_half_frame_goes) {
        IpcServerOptions options = usual;
        const size_t half = 900 * 1000;
        _cleanup_(client_done) Client good;
        Client hostile[8];
        size_t n_open = 0;

        options.user_bytes_max = 4U << 20;
        start(&options);
        for (size_t i = 0; i < ELEMENTSOF(hostile); i++) {
                hostile[i] = client_new();
                push_half_a_frame(&hostile[i], half);
        }
        for (size_t i = 0; i < ELEMENTSOF(hostile); i++)
                n_open += is_open(&hostile[i]);
        ck_assert_uint_le(n_open * half, options.user_bytes_max);
        ck_assert_uint_ge(n_open, 1);
        ck_assert(!is_open(&hostile[0]));
        ck_assert(is_open(&hostile[ELEMENTSOF(hostile) - 1]));

        good = client_new();
        client_text(&good, SEND_ONE);
        client_push(&good);
        disk();
        ck_assert_uint_eq(client_count_replies(&good), 1);
        for (size_t i = 0; i < ELEMENTSOF(hostile); i++)
                client_done(&hostile[i]);
        stop();
}

TEST(connections_are_bounded_and_only_dispensable_ones_go) {
        IpcServerOptions options = usual;
        Client c[5];
        int fds[2];

        options.connections_per_user_max = ELEMENTSOF(c);
        start(&options);
        for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                c[i] = client_new();
                client_text(&c[i], "{\"method\":\"io.iothubd.Subscribe\",\"more\":true}");
                client_push(&c[i]);
        }
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
                         0);
        assert_error(ipc_server_add_connection(f.server, fds[0]), -EUSERS); /* all are in use */
        close(fds[1]);

        client_done(&c[2]);
        turn();
        c[2] = client_new();
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
                         0);
        assert_ok(ipc_server_add_connection(f.server, fds[0])); /* that one said nothing yet */
        ck_assert(!is_open(&c[2]));
        close(fds[1]);
        for (size_t i = 0; i < ELEMENTSOF(c); i++)
                client_done(&c[i]);
        stop();
}

TEST(a_shutting_down_server_takes_no_messages_but_tells_its_state) {
        _cleanup_(client_done) Client c;
        _cleanup_json_ struct json_object *refused = NULL, *status = NULL;

        start(&usual);
        c = client_new();
        ipc_server_shut_down(f.server);
        client_text(&c, SEND_ONE);
        client_text(&c, "{\"method\":\"io.iothubd.GetStatus\"}");
        client_push(&c);
        ck_assert_int_eq(client_read(&c, &refused), 1);
        ck_assert_str_eq(json_object_get_string(json_object_object_get(refused, "error")),
                         "io.iothubd.ShuttingDown");
        ck_assert_int_eq(client_read(&c, &status), 1);
        ck_assert_ptr_null(json_object_object_get(status, "error"));
        stop();
}

/* Big calls of many clients: more than the outbox takes at a time must wait, and all must get
 * through. */
TEST(what_the_outbox_cannot_take_at_once_waits_and_gets_through) {
        _cleanup_(buffer_done) Buffer call = {};
        Client c[12];
        size_t n_replies = 0;

        assert_ok(buffer_append_string(
                        &call, "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":["));
        for (int i = 0; i < 4; i++)
                assert_ok(buffer_appendf(&call, "%s{\"body\":\"%0*d\"}", i > 0 ? "," : "", 200000,
                                         i));
        assert_ok(buffer_append_string(&call, "]}}"));
        assert_ok(buffer_append(&call, "", 1));

        start(&usual);
        for (size_t i = 0; i < ELEMENTSOF(c); i++) {
                c[i] = client_new();
                assert_ok(buffer_append(&c[i].out, call.data, call.size));
                assert_ok(buffer_append(&c[i].out, call.data, call.size));
        }
        for (int round = 0; round < 100 && n_replies < 2 * ELEMENTSOF(c); round++) {
                for (size_t i = 0; i < ELEMENTSOF(c); i++)
                        client_push(&c[i]);
                disk();
                for (size_t i = 0; i < ELEMENTSOF(c); i++)
                        n_replies += client_count_replies(&c[i]);
        }
        ck_assert_uint_eq(n_replies, 2 * ELEMENTSOF(c));
        ck_assert_uint_eq(n_accepted(), 8 * ELEMENTSOF(c));
        for (size_t i = 0; i < ELEMENTSOF(c); i++)
                client_done(&c[i]);
        stop();
}

/* It reads all the time, but never all. */
TEST(a_subscriber_who_is_always_a_little_behind_costs_no_memory) {
        static const uint8_t stream[16] = { 1, 2, 3 };
        _cleanup_(client_done) Client c;
        char data[16384];
        uint64_t seq = 0;

        start(&usual);
        c = client_new();
        client_text(&c,
                    "{\"method\":\"io.iothubd.Subscribe\",\"more\":true,\"parameters\":{\"stream\":"
                    "\"01020300000000000000000000000000\"}}");
        client_push(&c);
        for (size_t n_read = 0; n_read < (16U << 20);) {
                ssize_t n;

                for (int i = 0; i < 200; i++)
                        settle(++seq, stream);
                turn();
                ck_assert_uint_lt(f.server->bytes, 1U << 20);
                n = recv(c.fd, data, sizeof(data), 0);
                ck_assert_int_gt(n, 0);
                n_read += (size_t) n;
        }
        stop();
}

/* What is wrong is answered at once, but must wait for the turn of its reply: that costs, too. */
TEST(errors_that_wait_behind_an_unanswered_call_are_bounded) {
        _cleanup_(client_done) Client c;
        _cleanup_(buffer_done) Buffer wrong = {};

        start(&usual);
        c = client_new();
        client_text(&c, SEND_ONE);
        client_push(&c);
        disk();
        ck_assert_uint_eq(client_count_replies(&c), 1);
        client_text(&c, "{\"method\":\"io.iothubd.Flush\"}"); /* no hub confirms it */

        assert_ok(buffer_appendf(&wrong,
                                 "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":[{"
                                 "\"%0*d\":1}]}}",
                                 900000, 0));
        assert_ok(buffer_append(&wrong, "", 1));
        for (int i = 0; i < 40; i++) {
                assert_ok(buffer_append(&c.out, wrong.data, wrong.size));
                client_push(&c);
        }
        ck_assert_uint_lt(f.server->bytes, 4U << 20);
        ck_assert_uint_ge(f.server->bytes, f.server->connections->frames_bytes);
        ck_assert_uint_lt(f.server->connections->n_calls, 8);
        stop();
}

TEST(a_client_that_reads_no_ends_is_closed_where_they_pass_its_budget) {
        IpcServerOptions options = usual;
        _cleanup_(client_done) Client c, good;
        _cleanup_(buffer_done) Buffer call = {};
        OutboxSettled s = { .end = OUTBOX_END_CONFIRMED,
                            .message_id = "an-id",
                            .reason = "a reason that takes room" };
        const unsigned n = 4000;

        options.user_bytes_max = options.buffer_bytes_max = 300U * 1024U;
        start(&options);
        c = client_new();
        good = client_new();
        assert_ok(buffer_append_string(&call, "{\"method\":\"io.iothubd.Send\",\"more\":true,"
                                              "\"parameters\":{\"messages\":["));
        for (unsigned i = 0; i < n; i++)
                assert_ok(buffer_appendf(&call, "%s{}", i > 0 ? "," : ""));
        client_text(&c, "");
        buffer_done(&c.out);
        assert_ok(buffer_append(&c.out, call.data, call.size));
        client_text(&c, "]}}");
        client_push(&c);
        disk();
        for (s.seq = 1; s.seq < n; s.seq++) {
                ipc_server_settled(f.server, &s);
                if (s.seq % 100 == 0)
                        turn();
        }
        turn();
        ck_assert_uint_eq(f.server->n_connections, 1);
        client_text(&good, "{\"method\":\"io.iothubd.GetStatus\"}");
        client_push(&good);
        ck_assert_uint_eq(client_count_replies(&good), 1);
        stop();
}

static void append_big_call(Buffer *out) {
        assert_ok(buffer_append_string(
                        out, "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":["));
        for (int i = 0; i < 5; i++)
                assert_ok(buffer_appendf(out, "%s{\"body\":\"%0*d\"}", i > 0 ? "," : "", 205000,
                                         i));
        assert_ok(buffer_append_string(out, "]}}"));
        assert_ok(buffer_append(out, "", 1));
}

/* Each big call fills what the outbox takes at a time, and there is always another one. */
TEST(a_user_who_always_sends_leaves_others_their_turn) {
        Client hostile[6], good;
        size_t n_replies = 0;

        start(&usual);
        for (size_t i = 0; i < ELEMENTSOF(hostile); i++)
                hostile[i] = client_new();
        good = client_new_as(65534);
        for (int round = 0; round < 8; round++) {
                for (size_t i = 0; i < ELEMENTSOF(hostile); i++) {
                        if (hostile[i].out.size < (1U << 20))
                                append_big_call(&hostile[i].out);
                        client_push(&hostile[i]);
                        (void) client_count_replies(&hostile[i]);
                }
                if (round == 2) {
                        client_text(&good, SEND_ONE);
                        client_push(&good);
                }
                assert_ok(outbox_process(f.outbox));
                for (size_t i = 0; i < ELEMENTSOF(hostile);
                     i++) /* they are quicker than those who wait */
                        client_push(&hostile[i]);
                turn();
                n_replies += client_count_replies(&good);
                if (n_replies > 0) {
                        ck_assert_int_le(round, 5);
                        break;
                }
        }
        ck_assert_uint_eq(n_replies, 1);
        for (size_t i = 0; i < ELEMENTSOF(hostile); i++)
                client_done(&hostile[i]);
        client_done(&good);
        stop();
}

/* What a rate of one message a second lets through in a test: its burst and no more. */
static IpcServerOptions slow_options(void) {
        IpcServerOptions options = usual;

        options.user_messages_per_sec = 1;
        options.user_messages_burst = 1000;
        return options;
}

static IpcUser *user_of(uid_t uid) {
        for (IpcUser *u = f.server->users; u; u = u->next)
                if (u->uid == uid)
                        return u;
        return NULL;
}

/* Sends one message after another until no more are taken; they cost so much that the rate brings none back meanwhile.
 * Returns how many were accepted. */
static uint64_t send_until_held(Client *c) {
        static char body[200000];
        uint64_t before = n_accepted();

        memset(body, 'x', sizeof(body) - 1);
        for (int i = 0; i < 60; i++) {
                assert_ok(buffer_appendf(&c->out, "{\"method\":\"io.iothubd.Send\",\"parameters\":{\"messages\":["
                                                  "{\"body\":\"%s\"}]}}", body));
                assert_ok(buffer_append(&c->out, "", 1));
                client_push(c);
                disk();
                (void) client_count_replies(c);
        }
        return n_accepted() - before;
}

/* 1,000 tokens are 20 messages of 200 KB, which take 49 each, and one for the debt. */
TEST(a_user_above_its_rate_is_not_read_and_harms_nobody_else) {
        _cleanup_(client_done) Client c, asks, good;
        IpcServerOptions options = slow_options();

        start(&options);
        c = client_new();
        asks = client_new();
        good = client_new_as(65534);
        ck_assert_uint_eq(send_until_held(&c), 21);
        ck_assert_uint_gt(c.out.size, 0); /* it is the sender who waits, not our memory */
        ck_assert_uint_lt(f.server->bytes, 1U << 20);

        client_text(&asks, "{\"method\":\"io.iothubd.GetStatus\"}");
        client_push(&asks);
        ck_assert_uint_eq(client_count_replies(&asks), 1);
        client_text(&good, SEND_ONE);
        client_push(&good);
        disk();
        ck_assert_uint_eq(client_count_replies(&good), 1);
        stop();
}

TEST(a_new_connection_brings_no_new_tokens) {
        IpcServerOptions options = slow_options();
        uint64_t n = 0;

        start(&options);
        for (int i = 0; i < 5; i++) {
                Client c = client_new();

                n += send_until_held(&c);
                client_done(&c);
                turn();
                ck_assert_ptr_null(f.server->connections);
        }
        ck_assert_uint_eq(n, 21);
        stop();
}

/* The loop has nothing else to do: the time that brings the tokens wakes it. */
TEST(who_waits_for_the_rate_goes_on_when_tokens_come_back) {
        _cleanup_(client_done) Client c;
        IpcServerOptions options = slow_options();
        IpcUser *u;

        start(&options);
        c = client_new();
        ck_assert_uint_eq(send_until_held(&c), 21);
        u = user_of(getuid());
        ck_assert_ptr_nonnull(u);
        u->messages.balance = 0; /* 25 s later */
        ipc_server_schedule(f.server, NULL);
        while (n_accepted() < 22) {
                assert_ok(sd_event_run(f.event, UINT64_MAX));
                assert_ok(outbox_process(f.outbox));
        }
        ck_assert_uint_eq(n_accepted(), 22);
        stop();
}

TEST(a_stop_does_not_wait_for_the_rate) {
        _cleanup_(client_done) Client c;
        _cleanup_json_ struct json_object *o = NULL;
        IpcServerOptions options = slow_options();

        start(&options);
        c = client_new();
        ck_assert_uint_eq(send_until_held(&c), 21);
        ipc_server_shut_down(f.server);
        client_push(&c);
        ck_assert_int_eq(client_read(&c, &o), 1);
        ck_assert_msg(strstr(json_object_to_json_string(o), "ShuttingDown"), "%s", json_object_to_json_string(o));
        ck_assert_uint_eq(n_accepted(), 21);
        stop();
}

TEST(state_is_told_while_the_outbox_takes_no_more) {
        _cleanup_(client_done) Client c, asks;

        start(&usual);
        c = client_new();
        asks = client_new();
        for (int i = 0; i < 4; i++)
                append_big_call(&c.out);
        client_push(&c);
        ck_assert(f.server->outbox_busy);
        client_text(&asks, "{\"method\":\"io.iothubd.GetStatus\"}");
        client_push(&asks);
        ck_assert_uint_eq(client_count_replies(&asks), 1);
        ck_assert(f.server->outbox_busy);
        stop();
}

TEST(a_large_single_call_may_wait_for_its_end) {
        _cleanup_(client_done) Client c;
        _cleanup_json_ struct json_object *o = NULL;

        start(&usual);
        c = client_new();
        assert_ok(buffer_appendf(&c.out,
                                 "{\"method\":\"io.iothubd.Send\",\"more\":true,\"parameters\":{"
                                 "\"messages\":["
                                 "{\"body\":\"%0*d\"}]}}",
                                 250000, 0));
        assert_ok(buffer_append(&c.out, "", 1));
        client_push(&c);
        disk();
        ck_assert_int_eq(client_read(&c, &o), 1);
        ck_assert_msg(json_object_object_get(o, "continues"), "%s", json_object_to_json_string(o));
        stop();
}

TEST(what_became_durable_in_the_last_turn_is_told) {
        _cleanup_(client_done) Client c;

        start(&usual);
        c = client_new();
        client_text(&c, SEND_ONE);
        client_push(&c);
        for (int i = 0; i < 3; i++)
                assert_ok(outbox_process(f.outbox));
        f.server = ipc_server_free(f.server);
        {
                _cleanup_json_ struct json_object *o = NULL;
                char data[1024];
                ssize_t n = recv(c.fd, data, sizeof(data), 0);

                ck_assert_int_gt(n, 0);
                assert_ok(varlink_reader_feed(&c.reader, data, (size_t) n));
                ck_assert_int_eq(varlink_reader_next(&c.reader, &o, NULL, NULL), 1);
        }
        stop();
}

TEST(only_a_socket_is_replaced_by_the_socket) {
        IpcServerOptions options = usual;
        _cleanup_free_ char *folder = test_tempdir(), *path = NULL;
        struct stat st;
        int fd;

        ck_assert_int_ge(asprintf(&path, "%s/file", folder), 0);
        options.socket = path;
        options.socket_mode = 0600;
        fd = open(path, O_CREAT | O_WRONLY, 0600);
        ck_assert_int_ge(fd, 0);
        close(fd);
        start(&options);
        assert_error(ipc_server_listen(f.server), -EEXIST);
        ck_assert_int_eq(unlink(path), 0);
        assert_ok(ipc_server_listen(f.server));
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode, S_IFSOCK | 0600);
        stop();
        ck_assert_int_eq(access(path, F_OK), -1);
}
