/* Goal: no bytes of a local client crash the daemon, make it forget a promise of order, or leave
 * anything behind. Method: each input is what one client sends to a server with a real outbox on a
 * temporary folder; the disk works after it. Each frame that it gets back must be a reply, an error
 * or one of several; then it hangs up. */
#include <ftw.h>
#include <sys/socket.h>

#include "lib/json-util.h"
#include "lib/varlink-wire.h"
#include "daemon/ipc-server.h"
#include "daemon/log.h"
#include "tests/fuzz/fuzz.h"

static sd_event *event;
static Outbox *outbox;
static IpcServer *server;
static char folder[] = "/tmp/iothubd-fuzz.XXXXXX";

static void on_settled(const OutboxSettled *s, void *userdata) {
        if (server)
                ipc_server_settled(server, s);
}

static void on_deliverable(void *userdata) {
}

static void on_notice(int priority, const char *message_id, const char *text, void *userdata) {
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        return remove(path);
}

static void finish(void) {
        server = ipc_server_free(server);
        outbox = outbox_free(outbox);
        event = sd_event_unref(event);
        (void) nftw(folder, remove_entry, 16,
                    FTW_DEPTH | FTW_PHYS); /* what stays is seen in the temporary folder */
}

static void start(void) {
        const OutboxOptions outbox_options = {
                .max_size = 16U << 20,
                .full = OUTBOX_FULL_DROP_OLDEST,
                .time_to_live_usec = USEC_INFINITY,
                .dead_letter_size = 1U << 20,
                .n_receipts = 100,
                .position_interval_usec = USEC_PER_SEC,
                .position_messages = 1000,
        };
        const OutboxEvents events = {
                .on_settled = on_settled,
                .on_deliverable = on_deliverable,
                .on_notice = on_notice,
        };
        const IpcServerOptions options = {
                .connections_max = 8,
                .connections_per_user_max = 8,
                .buffer_bytes_max = 4U << 20,
                .user_bytes_max = 4U << 20,
        };

        log_setup(LOG_TARGET_STDERR, LOG_ERR);
        fuzz_require(mkdtemp(folder) != NULL);
        fuzz_require(sd_event_new(&event) >= 0);
        fuzz_require(outbox_open(folder, &outbox_options, &events, &outbox) >= 0);
        fuzz_require(ipc_server_new(event, &options, outbox, NULL, &server) >= 0);
        atexit(finish);
}

static void turn(void) {
        int r;

        while ((r = sd_event_run(event, 0)) > 0)
                ;
        fuzz_require(r == 0);
}

static void check_reply(struct json_object *o) {
        struct json_object *v;

        fuzz_require(json_object_object_get_ex(o, "parameters", &v) ||
                     json_object_object_get_ex(o, "error", &v));
        json_object_object_foreach(o, name, value) {
                fuzz_require(streq(name, "parameters") || streq(name, "error") ||
                             streq(name, "continues"));
                fuzz_require(value != NULL);
        }
}

/* Reads what the server has sent so far. */
static void check_replies(int fd) {
        _cleanup_(varlink_reader_done) VarlinkReader r = {};
        char data[65536];
        ssize_t n;

        while ((n = recv(fd, data, sizeof(data), MSG_DONTWAIT)) > 0) {
                fuzz_require(varlink_reader_feed(&r, data, (size_t) n) == 0);
                for (;;) {
                        _cleanup_json_ struct json_object *o = NULL;
                        int k = varlink_reader_next(&r, &o, NULL, NULL);

                        if (k == 0)
                                break;
                        fuzz_require(k == 1);
                        check_reply(o);
                }
                turn();
        }
        fuzz_require(varlink_reader_pending(&r) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        int fds[2];

        if (!server)
                start();
        fuzz_require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
        fuzz_require(ipc_server_add_connection(server, fds[0]) == 0);
        (void) send(fds[1], data, n,
                    MSG_NOSIGNAL); /* more than the socket takes at once is more than is needed */
        turn();
        fuzz_require(outbox_process(outbox) >= 0);
        turn();
        check_replies(fds[1]);
        close(fds[1]);
        turn();
        return 0;
}
