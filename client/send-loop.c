#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "client/daemon-client.h"
#include "client/output.h"
#include "client/send-loop.h"

#define PROGRESS_INTERVAL_USEC (250 * USEC_PER_MSEC)

enum {
        POLL_SOURCE,
        POLL_SIGNAL,
        POLL_SENDER,
        POLL_CONFIRMATIONS,
        POLL_MAX = POLL_CONFIRMATIONS + CONFIRMATIONS_FDS,
};

typedef struct Loop {
        const SendLoopOptions *options;
        const SendSource *source;
        Sender *sender;
        Confirmations *confirmations; /* NULL: not waited for */
        int signal_fd;
        int signal, n_signals;
        bool closing;      /* the source has ended */
        bool source_ready; /* its descriptor is readable */
        int error;         /* of the source */
        usec_t progress_at;
        bool progress_shown;
} Loop;

static void on_stream(uint64_t base, void *userdata) {
        Loop *l = userdata;

        if (l->confirmations)
                confirmations_follow(l->confirmations, sender_stream(l->sender), base);
}

static void on_accepted(uint64_t position, uint64_t seq, uint64_t n, void *userdata) {
        Loop *l = userdata;

        if (l->confirmations)
                confirmations_accepted(l->confirmations, position, seq, n);
}

static void on_refused(uint64_t position, void *userdata) {
        Loop *l = userdata;

        if (l->confirmations)
                confirmations_refused(l->confirmations, position);
}

static int open_parts(Loop *l) {
        const SendLoopOptions *o = l->options;
        const ConfirmationsOptions confirmations = {
                .socket_path = o->sender->socket_path,
                .message_id = o->fields->message_id,
                .timeout_usec = o->sender->timeout_usec,
                .on_end = o->on_end,
                .userdata = o->userdata,
        };
        sigset_t signals;
        int r;

        r = sender_new(o->sender, &(SenderEvents){ on_stream, on_accepted, on_refused, l },
                       &l->sender);
        if (r < 0)
                return r;
        if (o->wait) {
                r = confirmations_new(&confirmations, &l->confirmations);
                if (r < 0)
                        return r;
                confirmations_follow(l->confirmations, sender_stream(l->sender), 0);
        }

        sigemptyset(&signals);
        sigaddset(&signals, SIGINT);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
                return -errno;
        l->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        return l->signal_fd < 0 ? -errno : 0;
}

static void close_parts(Loop *l) {
        sender_free(l->sender);
        confirmations_free(l->confirmations);
        closep(&l->signal_fd);
}

static bool failed(const Loop *l) {
        return l->error < 0 || sender_exit_code(l->sender) != EX_OK ||
               (l->confirmations && confirmations_exit_code(l->confirmations) != EX_OK);
}

static bool finished(const Loop *l) {
        if (failed(l) || l->n_signals > 1)
                return true;
        if (!l->closing || !sender_is_settled(l->sender))
                return false;
        if (!l->confirmations || l->n_signals > 0)
                return true;
        return confirmations_totals(l->confirmations)->ended >= sender_n_accepted(l->sender);
}

static bool takes_input(const Loop *l) {
        return !l->closing && sender_takes_input(l->sender) &&
               (!l->confirmations || confirmations_ready(l->confirmations));
}

static void produce(Loop *l, usec_t now) {
        bool due = l->source->due && l->source->due(l->source->userdata) <= now;
        int r;

        if (!takes_input(l) || (!l->source_ready && !due))
                return;
        l->source_ready = false;
        r = l->source->produce(l->sender, l->source->userdata);
        if (r < 0)
                l->error = r;
        if (r <= 0)
                l->closing = true;
}

/* Everything that goes on is told in one line that is written over. */
static void show_progress(Loop *l, usec_t now) {
        if (!l->options->progress || now < usec_add(l->progress_at, PROGRESS_INTERVAL_USEC))
                return;
        l->progress_at = now;
        l->progress_shown = true;
        fprintf(stderr, "\r%" PRIu64 " accepted", sender_n_accepted(l->sender));
        if (l->confirmations)
                fprintf(stderr, ", %" PRIu64 " ended",
                        confirmations_totals(l->confirmations)->ended);
        fprintf(stderr, "\033[K");
}

static usec_t next_deadline(const Loop *l, usec_t now) {
        usec_t t = sender_deadline(l->sender);

        if (l->confirmations)
                t = MIN(t, confirmations_deadline(l->confirmations));
        if (takes_input(l) && l->source->due)
                t = MIN(t, l->source->due(l->source->userdata));
        if (l->options->progress && (l->progress_shown || !sender_is_settled(l->sender)))
                t = MIN(t, usec_add(now, PROGRESS_INTERVAL_USEC));
        return t;
}

static int wait_for_events(Loop *l, usec_t now) {
        struct pollfd p[POLL_MAX] = {
                [POLL_SOURCE] = { .fd = takes_input(l) ? l->source->fd : -1, .events = POLLIN },
                [POLL_SIGNAL] = { .fd = l->signal_fd, .events = POLLIN },
                [POLL_SENDER] = { .fd = sender_fd(l->sender),
                                  .events = sender_poll_events(l->sender) },
                [POLL_CONFIRMATIONS] = { .fd = -1 },
                [POLL_CONFIRMATIONS + 1] = { .fd = -1 },
        };
        struct signalfd_siginfo si;

        if (l->confirmations)
                confirmations_poll(l->confirmations, p + POLL_CONFIRMATIONS);
        if (poll(p, POLL_MAX, poll_timeout_msec(now, next_deadline(l, now))) < 0)
                return errno == EINTR ? 0 : -errno;

        l->source_ready = p[POLL_SOURCE].revents != 0;
        while (p[POLL_SIGNAL].revents && read(l->signal_fd, &si, sizeof(si)) == sizeof(si)) {
                l->n_signals++;
                /* Where all was read already and only "accepted" is due, it changes nothing for the
                 * reader of the exit code. */
                if (!l->closing || l->confirmations || l->n_signals > 1)
                        l->signal = (int) si.ssi_signo;
                l->closing = true;
        }
        return 0;
}

static int run(Loop *l) {
        int r;

        for (;;) {
                usec_t now = now_usec(CLOCK_MONOTONIC);

                produce(l, now);
                sender_process(l->sender);
                /* Where both lost the daemon, the sender has told it. */
                if (l->confirmations && sender_exit_code(l->sender) == EX_OK)
                        confirmations_process(l->confirmations, sender_n_accepted(l->sender),
                                              sender_is_settled(l->sender), l->closing);
                if (finished(l))
                        return l->error;
                show_progress(l, now);
                (void) fflush(stdout); /* finish_output() tells an error, at the end */
                r = wait_for_events(l, now_usec(CLOCK_MONOTONIC));
                if (r < 0)
                        return r;
        }
}

int send_loop_run(const SendLoopOptions *options, const SendSource *source, SendResult *ret) {
        Loop l = {
                .options = options,
                .source = source,
                .signal_fd = -EBADF,
                .progress_at = now_usec(CLOCK_MONOTONIC),
        };
        int r;

        r = open_parts(&l);
        if (r >= 0)
                r = run(&l);
        if (l.progress_shown)
                fprintf(stderr, "\r\033[K");
        if (r >= 0) {
                *ret = (SendResult){
                        .n_accepted = sender_n_accepted(l.sender),
                        .n_refused = sender_n_refused(l.sender),
                        .signal = l.signal,
                        .exit_code = sender_exit_code(l.sender),
                };
                if (sender_n_pending(l.sender) > 0 && l.n_signals > 1)
                        say_error("Stopped while %" PRIu64
                                  " were under way: they may be stored or not",
                                  sender_n_pending(l.sender));
                if (l.confirmations) {
                        ret->totals = *confirmations_totals(l.confirmations);
                        if (ret->exit_code == EX_OK)
                                ret->exit_code = confirmations_exit_code(l.confirmations);
                }
        } else if (r != l.error)
                say_error("Cannot send: %s", strerror(-r));
        close_parts(&l);
        return r;
}

int send_loop_exit(const SendResult *result) {
        if (result->exit_code != EX_OK)
                return result->exit_code;
        if (result->signal > 0) {
                sigset_t signals;

                (void) finish_output(
                                EX_OK); /* the signal is told, whatever becomes of the output */
                sigemptyset(&signals);
                sigaddset(&signals, result->signal);
                (void) signal(result->signal, SIG_DFL);
                (void) sigprocmask(SIG_UNBLOCK, &signals, NULL);
                (void) raise(result->signal); /* does not return */
        }
        if (result->n_refused > 0 || result->totals.rejected > 0)
                return EX_DATAERR;
        if (result->totals.expired + result->totals.dropped + result->totals.unknown > 0)
                return EXIT_TRY_AGAIN;
        return EX_OK;
}
