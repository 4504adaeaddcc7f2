#include "client/amqp-loop.h"

#include <signal.h>
#include <sys/signalfd.h>

#include "client/output.h"

#define ANSWER_TIMEOUT_USEC (30 * USEC_PER_SEC)
/* "At once" to a person, and long to the reader of a pipe. */
#define LAST_OUTPUT_USEC (250 * USEC_PER_MSEC)

static void our_signals(sigset_t *set) {
        (void) sigemptyset(set); /* none of these can fail */
        (void) sigaddset(set, SIGINT);
        (void) sigaddset(set, SIGTERM);
        (void) sigaddset(set, SIGHUP);
}

int amqp_loop_init(AmqpLoop *l) {
        sigset_t set;

        our_signals(&set);
        *l = (AmqpLoop){ .signal_fd = -EBADF };
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (l->signal_fd < 0)
                return -errno;
        output_buffer_open(&l->output);
        return 0;
}

void amqp_loop_done(AmqpLoop *l) {
        output_buffer_close(&l->output);
        if (l->signal_fd > 0)
                closep(&l->signal_fd);
        l->signal_fd = -EBADF;
}

static int look_at_signals(AmqpLoop *l) {
        struct signalfd_siginfo info;

        if (read(l->signal_fd, &info, sizeof(info)) == (ssize_t) sizeof(info))
                l->signal = (int) info.ssi_signo;
        return l->signal != 0 ? -EINTR : 0;
}

static int wait_without_connection(struct pollfd *fds, size_t n, usec_t deadline_usec) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        int msec = -1;

        if (deadline_usec != USEC_INFINITY)
                msec = (int) (MIN(usec_sub(deadline_usec, now), USEC_PER_HOUR) / USEC_PER_MSEC + 1);
        if (poll(fds, (nfds_t) n, msec) < 0 && errno != EINTR)
                return -errno;
        return 0;
}

int amqp_loop_turn(AmqpLoop *l, AmqpConnection *c, usec_t deadline_usec) {
        /* Without a wish to write, a pipe still tells that its reader went away. */
        struct pollfd fds[2] = {
                { .fd = l->signal_fd, .events = POLLIN },
                { .fd = l->output.fd,
                  .events = output_buffer_pending(&l->output) > 0 ? POLLOUT : 0 },
        };
        int r, s;

        if (l->signal != 0) /* it came in a turn whose result was another */
                return -EINTR;
        r = c ? amqp_connection_turn(c, fds, ELEMENTSOF(fds), deadline_usec) :
                wait_without_connection(fds, ELEMENTSOF(fds), deadline_usec);
        if (fds[0].revents != 0) {
                s = look_at_signals(l);
                if (s < 0)
                        return s;
        }
        if (fds[1].revents & (POLLERR | POLLNVAL))
                return -EPIPE;
        s = output_buffer_flush(&l->output);
        return s < 0 ? s : r;
}

int amqp_loop_until(AmqpLoop *l, AmqpConnection *c, const bool *done, AmqpStage stage) {
        const usec_t deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), ANSWER_TIMEOUT_USEC);
        int r = 0;

        while (!*done && r >= 0) {
                r = amqp_loop_turn(l, c, deadline_usec);
                if (r >= 0 && !*done && now_usec(CLOCK_MONOTONIC) >= deadline_usec) {
                        amqp_error_set(amqp_connection_error(c), stage, EXIT_NO_DAEMON, NULL,
                                       "no answer in time");
                        r = -EIO;
                }
        }
        return *done ? 0 : r;
}

int amqp_loop_sleep(AmqpLoop *l, usec_t span_usec) {
        const usec_t deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), span_usec);
        int r = 0;

        while (r >= 0 && now_usec(CLOCK_MONOTONIC) < deadline_usec)
                r = amqp_loop_turn(l, NULL, deadline_usec);
        return r;
}

int amqp_loop_drain(AmqpLoop *l) {
        int r;

        r = output_buffer_flush(&l->output);
        while (r >= 0 && output_buffer_pending(&l->output) > 0)
                r = amqp_loop_turn(l, NULL, USEC_INFINITY);
        return r;
}

size_t amqp_loop_drain_last(AmqpLoop *l) {
        const usec_t deadline_usec = usec_add(now_usec(CLOCK_MONOTONIC), LAST_OUTPUT_USEC);
        int r;

        r = output_buffer_flush(&l->output);
        while (r >= 0 && output_buffer_pending(&l->output) > 0 &&
               now_usec(CLOCK_MONOTONIC) < deadline_usec) {
                struct pollfd fd = { .fd = l->output.fd, .events = POLLOUT };

                r = wait_without_connection(&fd, 1, deadline_usec);
                if (r >= 0)
                        r = output_buffer_flush(&l->output);
        }
        return output_buffer_pending(&l->output);
}

int amqp_loop_exit_code(const AmqpLoop *l, int r, AmqpConnection *c, const char *what) {
        (void) l; /* a signal is no exit code: amqp_loop_end_by_signal() */
        switch (r) {
        case -EINTR: return EX_OK;
        case -EPIPE: return EX_IOERR; /* quietly: the reader has seen enough */
        case -ENOMEM: return say_out_of_memory();
        case -EIO:
                if (c && amqp_connection_error(c)->set)
                        return amqp_error_say(amqp_connection_error(c), what);
                break;
        default: break;
        }
        if (r >= 0)
                return EX_OK;
        say_error("Cannot write the output: %s", strerror(-r));
        return EX_IOERR;
}

void amqp_loop_end_by_signal(int signal_number) {
        sigset_t set;

        if (signal_number == 0)
                return;
        our_signals(&set);
        (void) signal(signal_number, SIG_DFL);
        (void) raise(signal_number);
        (void) sigprocmask(SIG_UNBLOCK, &set, NULL); /* it ends the process here */
}
