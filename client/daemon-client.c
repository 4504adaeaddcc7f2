#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/varlink-wire.h"
#include "client/daemon-client.h"
#include "client/output.h"

#define READ_BYTES (64U * 1024U)
#define READS_PER_TURN 16U /* so that a flood of replies does not keep us from everything else */
#define RETRY_INTERVAL_MSEC 100

struct DaemonConnection {
        int fd;
        bool lost;
        Buffer output;
        VarlinkReader reader;
};

void daemon_reply_done(DaemonReply *r) {
        json_object_put(r->message);
        *r = (DaemonReply){};
}

int daemon_connection_open(const char *path, DaemonConnection **ret) {
        _cleanup_(daemon_connection_freep) DaemonConnection *c = NULL;
        struct sockaddr_un sa = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(sa.sun_path))
                return -ENAMETOOLONG;
        strcpy(sa.sun_path, path);

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (DaemonConnection){ .fd = -EBADF };

        c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return -errno;
        if (connect(c->fd, (struct sockaddr *) &sa, sizeof(sa)) < 0)
                return -errno;

        *ret = TAKE_PTR(c);
        return 0;
}

DaemonConnection *daemon_connection_free(DaemonConnection *c) {
        if (!c)
                return NULL;
        closep(&c->fd);
        buffer_done(&c->output);
        varlink_reader_done(&c->reader);
        free(c);
        return NULL;
}

int daemon_connection_fd(const DaemonConnection *c) {
        return c->fd;
}

short daemon_connection_poll_events(const DaemonConnection *c) {
        return (short) (POLLIN | (c->output.size > 0 ? POLLOUT : 0));
}

Buffer *daemon_connection_output(DaemonConnection *c) {
        return &c->output;
}

int daemon_connection_call(DaemonConnection *c, const char *method, struct json_object *parameters,
                           bool more) {
        return varlink_append_call(&c->output, method, parameters, more, /* oneway= */ false);
}

static void write_some(DaemonConnection *c) {
        while (c->output.size > 0 && !c->lost) {
                ssize_t n;

                n = send(c->fd, c->output.data, c->output.size, MSG_NOSIGNAL);
                if (n >= 0) {
                        buffer_consume(&c->output, (size_t) n);
                        continue;
                }
                if (errno == EINTR)
                        continue;
                if (errno == EAGAIN)
                        return;

                /* Not lost yet: the peer may have answered before it closed, and that counts. */
                buffer_consume(&c->output, c->output.size);
        }
}

static int read_some(DaemonConnection *c) {
        uint8_t data[READ_BYTES];
        int r;

        for (unsigned i = 0; i < READS_PER_TURN && !c->lost; i++) {
                ssize_t n;

                n = recv(c->fd, data, sizeof(data), 0);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return 0;
                if (n <= 0) {
                        c->lost = true;
                        return 0;
                }
                r = varlink_reader_feed(&c->reader, data, (size_t) n);
                if (r == -EMSGSIZE) {
                        c->lost = true; /* no reply of the daemon is that long */
                        return 0;
                }
                if (r < 0)
                        return r;
                if ((size_t) n < sizeof(data))
                        return 0;
        }
        return 0;
}

int daemon_connection_process(DaemonConnection *c) {
        write_some(c);
        return read_some(c);
}

int daemon_connection_next(DaemonConnection *c, DaemonReply *ret) {
        _cleanup_json_ struct json_object *message = NULL;
        struct json_object *parameters = NULL, *empty;
        DaemonReply reply = {};
        const char *reason;
        int r;

        r = varlink_reader_next(&c->reader, &message, NULL, &reason);
        if (r == 0)
                return c->lost ? -ECONNRESET : 0;
        if (r == -ENOMEM)
                return r;
        if (r < 0)
                return -EPROTO;

        if (json_get_string(message, "error", &reply.error, NULL) < 0 ||
            json_get_bool(message, "continues", &reply.continues) < 0)
                return -EPROTO;
        r = json_get_object(message, "parameters", &parameters);
        if (r < 0)
                return -EPROTO;
        if (r == 0) {
                empty = json_object_new_object();
                r = json_add(message, "parameters", empty);
                if (r < 0)
                        return r;
                parameters = empty;
        }
        reply.parameters = parameters;
        reply.message = TAKE_PTR(message);
        *ret = reply;
        return 1;
}

int daemon_call(DaemonConnection *c, const char *method, struct json_object *parameters,
                usec_t deadline_usec, DaemonReply *ret) {
        int r;

        r = daemon_connection_call(c, method, parameters, /* more= */ false);
        if (r < 0)
                return r;
        for (;;) {
                struct pollfd p = { .fd = c->fd };
                usec_t now;

                r = daemon_connection_process(c);
                if (r < 0)
                        return r;
                r = daemon_connection_next(c, ret);
                if (r != 0)
                        return r < 0 ? r : 0;

                now = now_usec(CLOCK_MONOTONIC);
                if (now >= deadline_usec)
                        return -ETIMEDOUT;
                p.events = daemon_connection_poll_events(c);
                if (poll(&p, 1, poll_timeout_msec(now, deadline_usec)) < 0)
                        return -errno;
        }
}

int poll_timeout_msec(usec_t now, usec_t deadline) {
        if (deadline == USEC_INFINITY)
                return -1;
        return (int) MIN((usec_sub(deadline, now) + USEC_PER_MSEC - 1) / USEC_PER_MSEC,
                         (usec_t) 60000);
}

int daemon_connect(const char *path, usec_t retry_usec, DaemonConnection **ret) {
        usec_t deadline = usec_add(now_usec(CLOCK_MONOTONIC), retry_usec);
        bool told = false;
        int r;

        for (;;) {
                r = daemon_connection_open(path, ret);
                if (r != -ECONNREFUSED && r != -EAGAIN)
                        break;
                if (now_usec(CLOCK_MONOTONIC) >= deadline)
                        break;
                if (!told)
                        say_error("iothubd does not answer at %s yet, trying again", path);
                told = true;
                if (poll(NULL, 0, RETRY_INTERVAL_MSEC) < 0)
                        return -errno;
        }
        if (r < 0)
                say_daemon_error(path, r);
        return r;
}

void say_daemon_error(const char *path, int error) {
        const bool usual = streq(path, DAEMON_SOCKET_DEFAULT);

        switch (-error) {
        case ENOENT:
        case ECONNREFUSED:
                if (usual)
                        say_error("iothubd is not running: systemctl start iothubd");
                else
                        say_error("iothubd is not running: %s at %s; start the service that it belongs to",
                                  error == -ENOENT ? "there is no socket" : "nobody listens", path);
                break;
        case EACCES:
        case EPERM:
                say_error("You may not use %s: become a member of its group (adduser USER iothub), or root",
                          path);
                break;
        case EAGAIN:
                say_error("iothubd does not take connections at %s: journalctl -u iothubd", path);
                break;
        case ENAMETOOLONG:
                say_error("The path of a socket has at most 107 characters: %s", path);
                break;
        case ECONNRESET: say_error("iothubd closed the connection: journalctl -u iothubd"); break;
        case ETIMEDOUT: say_error("iothubd did not answer in time"); break;
        case EPROTO:
                say_error("What answers at %s is not iothubd, or another version: %s", path,
                          "its reply is not understood");
                break;
        case ENOMEM: (void) say_out_of_memory(); break;
        case EINTR: break; /* the user knows */
        default: say_error("Cannot talk to iothubd at %s: %s", path, strerror(-error));
        }
}

int daemon_error_exit_code(int error) {
        switch (-error) {
        case 0: return EX_OK;
        case EACCES:
        case EPERM: return EX_NOPERM;
        case EPROTO: return EX_PROTOCOL;
        case ENOMEM: return EX_OSERR;
        case ETIMEDOUT: return EXIT_TRY_AGAIN;
        case ENAMETOOLONG: return EX_USAGE;
        default: return EXIT_NO_DAEMON;
        }
}

const char *daemon_error_name(const DaemonReply *r) {
        const char *name;

        if (!r->error)
                return "";
        name = startswith(r->error, "io.iothubd.");
        return name ? name : r->error;
}

int outbox_full_text(const DaemonReply *r, char **ret) {
        char used[FORMAT_BYTES_MAX], max[FORMAT_BYTES_MAX], free_[FORMAT_BYTES_MAX],
                        keep[FORMAT_BYTES_MAX];
        uint64_t bytes[4];
        const char *reason = "no reason given";

        if (json_get_u64(r->parameters, "usedBytes", &bytes[0]) <= 0 ||
            json_get_u64(r->parameters, "maxBytes", &bytes[1]) <= 0 ||
            json_get_u64(r->parameters, "freeBytes", &bytes[2]) <= 0 ||
            json_get_u64(r->parameters, "keepFreeBytes", &bytes[3]) <= 0) {
                (void) json_get_string(r->parameters, "reason", &reason, NULL);
                *ret = strdup(reason);
                return *ret ? 0 : -ENOMEM;
        }
        /* Which of the two limits it was shows in the numbers. */
        if (asprintf(ret,
                     "%s of at most %s used, %s free on its disk, where %s stay free; "
                     "iothubctl status tells what messages wait for",
                     format_bytes(used, sizeof(used), bytes[0]),
                     format_bytes(max, sizeof(max), bytes[1]),
                     format_bytes(free_, sizeof(free_), bytes[2]),
                     format_bytes(keep, sizeof(keep), bytes[3])) < 0)
                return -ENOMEM;
        return 0;
}

int say_error_reply(const char *what, const DaemonReply *r) {
        static const struct {
                const char *name, *text; /* text: where the error has no reason of its own */
                int exit_code;
        } table[] = {
                { "InvalidMessage", "the message breaks a rule of the hub", EX_DATAERR },
                { "MessageTooLarge", "the message is too large", EX_DATAERR },
                { "DiskError", "the disk failed", EX_IOERR },
                { "NoSuchMessage", "no such message, or it ended too long ago", EXIT_NOT_FOUND },
                { "LimitExceeded", "too much at once", EXIT_TRY_AGAIN },
                { "ShuttingDown", "iothubd is being stopped", EXIT_TRY_AGAIN },
                { "StreamMismatch", "the stream belongs to somebody else", EX_PROTOCOL },
                { "StreamGap", "the stream has a gap", EX_PROTOCOL },
        };
        const char *name = daemon_error_name(r), *reason = NULL;
        _cleanup_free_ char *full = NULL;

        if (streq(name, "OutboxFull")) {
                if (outbox_full_text(r, &full) < 0)
                        return say_out_of_memory();
                say_error("%s: the outbox is full: %s", what, full);
                return EXIT_TRY_AGAIN;
        }

        /* Not every error has a reason. */
        (void) json_get_string(r->parameters, "reason", &reason, NULL);
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(table[i].name, name)) {
                        say_error("%s: %s", what, reason ? reason : table[i].text);
                        return table[i].exit_code;
                }
        say_error("%s: iothubd answers %s%s%s; is it another version than this iothubctl (%s)?",
                  what, name, reason ? ": " : "", strempty(reason), PROJECT_VERSION);
        return EX_PROTOCOL;
}
