/* time-warp.c: a library for LD_PRELOAD that lets a process live faster and sets its clocks. It shows what a day, a
 * suspend or a wrong clock does to a program that was not built for it.
 *
 *   IOTHUBD_TIME_WARP=FACTOR[:REALTIME_NSEC[:BOOTTIME_NSEC]]   how much faster time passes, and by how much the two
 *                                                              clocks differ from the machine's from the start
 *   IOTHUBD_TIME_WARP_SOCKET=PATH   listens there; one connection is one line and its answer, "ok" or what is wrong:
 *                                     step SECONDS     CLOCK_REALTIME is set, forward or (negative) back
 *                                     suspend SECONDS  CLOCK_BOOTTIME and CLOCK_REALTIME move on, CLOCK_MONOTONIC
 *                                                      does not: the machine slept
 *
 * All clocks are computed from the real CLOCK_MONOTONIC, and every timerfd is one of CLOCK_MONOTONIC underneath. When a
 * clock moves, the timers on it are set anew, and those that asked for TFD_TIMER_CANCEL_ON_SET read ECANCELED. What the
 * C library waits for on its own account (name look-ups), condition variables with a time limit (nobody here has one)
 * and the times of files stay real. System calls are made directly: it works below a sanitizer's interceptors. Only for
 * machines of 64 bits, where there is one set of time calls. */
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include "lib/macro.h"

#define NSEC_PER_SEC INT64_C(1000000000)
#define TIMERS_MAX 1024   /* descriptors; timers above stay real */
#define CONTROL_FD_MIN 512 /* out of the way of descriptors that are handed over */

typedef enum Clock {
        CLOCK_OF_DAY,
        CLOCK_SINCE_BOOT,
        CLOCK_AWAKE,
        _CLOCK_MAX,
        _CLOCK_OTHER = -1, /* CPU time and such */
} Clock;

typedef struct Timer {
        bool used, relative, cancel_on_set, canceled;
        Clock clock;
        int64_t when;     /* on its clock; 0: not set */
        int64_t interval; /* on its clock */
} Timer;

static int64_t factor = 1;
static int64_t base_real;               /* CLOCK_MONOTONIC of the machine when the process began */
static int64_t base[_CLOCK_MAX];        /* our clocks at that moment */
static _Atomic int64_t set[_CLOCK_MAX]; /* by how much they were set since */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* for all below */
static Timer timers[TIMERS_MAX];

static int64_t from_timespec(const struct timespec *t) {
        return t->tv_sec >= INT64_MAX / NSEC_PER_SEC ? INT64_MAX : t->tv_sec * NSEC_PER_SEC + t->tv_nsec;
}

static struct timespec to_timespec(int64_t nsec) {
        return (struct timespec) { .tv_sec = nsec / NSEC_PER_SEC, .tv_nsec = nsec % NSEC_PER_SEC };
}

static int64_t real_clock(clockid_t clock) {
        struct timespec t = {};

        (void) syscall(SYS_clock_gettime, clock, &t); /* cannot fail for the clocks that we ask for */
        return from_timespec(&t);
}

static Clock clock_from_id(clockid_t id) {
        switch (id) {
        case CLOCK_REALTIME:
        case CLOCK_REALTIME_COARSE:
        case CLOCK_REALTIME_ALARM:
                return CLOCK_OF_DAY;
        case CLOCK_BOOTTIME:
        case CLOCK_BOOTTIME_ALARM:
                return CLOCK_SINCE_BOOT;
        case CLOCK_MONOTONIC:
        case CLOCK_MONOTONIC_COARSE:
        case CLOCK_MONOTONIC_RAW:
                return CLOCK_AWAKE;
        default:
                return _CLOCK_OTHER;
        }
}

static int64_t warped_clock(Clock clock) {
        return base[clock] + (real_clock(CLOCK_MONOTONIC) - base_real) * factor + atomic_load(&set[clock]);
}

/* Rounded up, here and below: whoever woke up too early would wait a second time. */
static int64_t real_span(int64_t nsec) {
        return nsec <= 0 ? nsec : (nsec - 1) / factor + 1;
}

/* When our clock shows that, on the machine's CLOCK_MONOTONIC; at least 1, because 0 would unset a timer. */
static int64_t real_moment(Clock clock, int64_t nsec) {
        __int128 since = (__int128) nsec - base[clock] - atomic_load(&set[clock]);

        return (int64_t) MAX(base_real + (since + factor - 1) / factor, (__int128) 1);
}

/* Reading clocks. */

int clock_gettime(clockid_t id, struct timespec *ret) {
        Clock clock = clock_from_id(id);

        if (clock == _CLOCK_OTHER)
                return (int) syscall(SYS_clock_gettime, id, ret);
        *ret = to_timespec(warped_clock(clock));
        return 0;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone) {
        int64_t nsec = warped_clock(CLOCK_OF_DAY);

        *ret = (struct timeval) { .tv_sec = nsec / NSEC_PER_SEC, .tv_usec = nsec % NSEC_PER_SEC / 1000 };
        return 0;
}

time_t time(time_t *ret) {
        time_t t = warped_clock(CLOCK_OF_DAY) / NSEC_PER_SEC;

        if (ret)
                *ret = t;
        return t;
}

/* Waiting. */

static int wait_poll(struct pollfd *fds, nfds_t n, int64_t nsec, const sigset_t *mask) {
        struct timespec t = to_timespec(real_span(nsec));

        return (int) syscall(SYS_ppoll, fds, n, nsec < 0 ? NULL : &t, mask, NSIG / 8);
}

int poll(struct pollfd *fds, nfds_t n, int timeout_msec) {
        return wait_poll(fds, n, timeout_msec * INT64_C(1000000), NULL);
}

int ppoll(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask) {
        return wait_poll(fds, n, timeout ? from_timespec(timeout) : -1, mask);
}

static int wait_epoll(int fd, struct epoll_event *events, int n, int64_t nsec, const sigset_t *mask) {
        struct timespec t = to_timespec(real_span(nsec));

        return (int) syscall(SYS_epoll_pwait2, fd, events, n, nsec < 0 ? NULL : &t, mask, NSIG / 8);
}

int epoll_wait(int fd, struct epoll_event *events, int n, int timeout_msec) {
        return wait_epoll(fd, events, n, timeout_msec * INT64_C(1000000), NULL);
}

int epoll_pwait(int fd, struct epoll_event *events, int n, int timeout_msec, const sigset_t *mask) {
        return wait_epoll(fd, events, n, timeout_msec * INT64_C(1000000), mask);
}

int epoll_pwait2(int fd, struct epoll_event *events, int n, const struct timespec *timeout, const sigset_t *mask) {
        return wait_epoll(fd, events, n, timeout ? from_timespec(timeout) : -1, mask);
}

int pselect(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict exceptional,
            const struct timespec *restrict timeout, const sigset_t *restrict mask) {
        struct timespec t = to_timespec(timeout ? real_span(from_timespec(timeout)) : 0);
        const void *mask_and_size[] = { mask, (const void *) (uintptr_t) (NSIG / 8) };

        return (int) syscall(SYS_pselect6, n, in, out, exceptional, timeout ? &t : NULL, mask_and_size);
}

int select(int n, fd_set *restrict in, fd_set *restrict out, fd_set *restrict exceptional,
           struct timeval *restrict timeout) {
        struct timespec t = {};

        if (timeout)
                t = (struct timespec) { .tv_sec = timeout->tv_sec, .tv_nsec = timeout->tv_usec * 1000 };
        return pselect(n, in, out, exceptional, timeout ? &t : NULL, NULL);
}

int nanosleep(const struct timespec *span, struct timespec *ret_rest) {
        struct timespec t = to_timespec(real_span(from_timespec(span)));
        int r = (int) syscall(SYS_nanosleep, &t, &t);

        if (r < 0 && ret_rest)
                *ret_rest = to_timespec(from_timespec(&t) * factor);
        return r;
}

int clock_nanosleep(clockid_t id, int flags, const struct timespec *span, struct timespec *ret_rest) {
        Clock clock = clock_from_id(id);
        struct timespec t = *span;

        if (clock == _CLOCK_OTHER)
                return syscall(SYS_clock_nanosleep, id, flags, span, ret_rest) < 0 ? errno : 0;
        if (!(flags & TIMER_ABSTIME))
                return nanosleep(span, ret_rest) < 0 ? errno : 0;
        /* One that sleeps until a moment does not hear that the clock is set. */
        t = to_timespec(real_moment(clock, from_timespec(span)));
        return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) < 0 ? errno : 0;
}

int usleep(useconds_t usec) {
        struct timespec t = to_timespec(usec * INT64_C(1000));

        return nanosleep(&t, NULL);
}

unsigned sleep(unsigned sec) {
        struct timespec t = { .tv_sec = sec };

        return nanosleep(&t, &t) < 0 ? (unsigned) t.tv_sec : 0;
}

/* Timers. */

static int set_real(int fd, int64_t when, int64_t interval, struct itimerspec *ret_old) {
        struct itimerspec t = { .it_value = to_timespec(when), .it_interval = to_timespec(interval) };

        return (int) syscall(SYS_timerfd_settime, fd, when > 0 ? TFD_TIMER_ABSTIME : 0, &t, ret_old);
}

/* Under the mutex. */
static int apply_timer(int fd, const Timer *t, struct itimerspec *ret_old) {
        return set_real(fd, t->when == 0 ? 0 : real_moment(t->clock, t->when), real_span(t->interval), ret_old);
}

int timerfd_create(clockid_t id, int flags) {
        Clock clock = clock_from_id(id);
        int fd = (int) syscall(SYS_timerfd_create, clock == _CLOCK_OTHER ? id : CLOCK_MONOTONIC, flags);

        if (fd >= 0 && fd < TIMERS_MAX && clock != _CLOCK_OTHER) {
                (void) pthread_mutex_lock(&mutex);
                timers[fd] = (Timer) { .used = true, .clock = clock };
                (void) pthread_mutex_unlock(&mutex);
        }
        return fd;
}

static void warp_itimerspec(struct itimerspec *t) {
        if (!t)
                return;
        t->it_value = to_timespec(from_timespec(&t->it_value) * factor);
        t->it_interval = to_timespec(from_timespec(&t->it_interval) * factor);
}

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *ret_old) {
        Timer *t = fd >= 0 && fd < TIMERS_MAX ? timers + fd : NULL;
        int64_t value = from_timespec(&new->it_value);
        int r;

        (void) pthread_mutex_lock(&mutex);
        if (!t || !t->used)
                r = (int) syscall(SYS_timerfd_settime, fd, flags, new, ret_old);
        else {
                t->relative = !(flags & TFD_TIMER_ABSTIME);
                t->cancel_on_set = !t->relative && (flags & TFD_TIMER_CANCEL_ON_SET) && t->clock == CLOCK_OF_DAY;
                t->canceled = false;
                t->interval = from_timespec(&new->it_interval);
                t->when = value > 0 && t->relative ? warped_clock(t->clock) + value : value;
                r = apply_timer(fd, t, ret_old);
                warp_itimerspec(r >= 0 ? ret_old : NULL);
        }
        (void) pthread_mutex_unlock(&mutex);
        return r;
}

int timerfd_gettime(int fd, struct itimerspec *ret) {
        int r = (int) syscall(SYS_timerfd_gettime, fd, ret);

        warp_itimerspec(r >= 0 ? ret : NULL);
        return r;
}

/* One that was cancelled expires for real, so that whoever polls wakes up. */
ssize_t read(int fd, void *buf, size_t n) {
        ssize_t r = syscall(SYS_read, fd, buf, n);
        bool canceled;

        if (fd < 0 || fd >= TIMERS_MAX || r < 0)
                return r;
        (void) pthread_mutex_lock(&mutex);
        canceled = timers[fd].used && timers[fd].canceled;
        timers[fd].canceled = false;
        if (canceled)
                (void) apply_timer(fd, timers + fd, NULL); /* goes on, and may be cancelled again */
        (void) pthread_mutex_unlock(&mutex);
        if (!canceled)
                return r;
        errno = ECANCELED;
        return -1;
}

ssize_t __read_chk(int fd, void *buf, size_t n, size_t size); /* what read() becomes with _FORTIFY_SOURCE */
ssize_t __read_chk(int fd, void *buf, size_t n, size_t size) {
        return read(fd, buf, MIN(n, size));
}

int close(int fd) {
        if (fd >= 0 && fd < TIMERS_MAX) {
                (void) pthread_mutex_lock(&mutex);
                timers[fd].used = false;
                (void) pthread_mutex_unlock(&mutex);
        }
        return (int) syscall(SYS_close, fd);
}

/* Kernel timers behind a socket. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
        unsigned msec;

        if (level != IPPROTO_TCP || name != TCP_USER_TIMEOUT || size != sizeof(msec))
                return (int) syscall(SYS_setsockopt, fd, level, name, value, size);
        memcpy(&msec, value, sizeof(msec));
        msec = (unsigned) MAX(msec / factor, INT64_C(1));
        return (int) syscall(SYS_setsockopt, fd, level, name, &msec, size);
}

/* Setting clocks. */

static void move_clock(Clock clock, int64_t nsec) {
        (void) pthread_mutex_lock(&mutex);
        atomic_fetch_add(&set[clock], nsec);
        for (int fd = 0; fd < TIMERS_MAX; fd++) {
                Timer *t = timers + fd;

                if (!t->used || t->clock != clock || t->relative || t->when == 0)
                        continue;
                t->canceled = t->cancel_on_set;
                /* Both fail only for a descriptor that is being closed. */
                if (t->canceled)
                        (void) set_real(fd, 1, 0, NULL);
                else
                        (void) apply_timer(fd, t, NULL);
        }
        (void) pthread_mutex_unlock(&mutex);
}

static const char *obey(const char *line) {
        char word[16];
        double sec;

        if (sscanf(line, "%15s %lf", word, &sec) != 2)
                return "a word and a number of seconds are expected";
        if (strcmp(word, "suspend") == 0)
                move_clock(CLOCK_SINCE_BOOT, (int64_t) (sec * 1e9));
        else if (strcmp(word, "step") != 0)
                return "neither step nor suspend";
        move_clock(CLOCK_OF_DAY, (int64_t) (sec * 1e9));
        return "ok";
}

static void *control(void *userdata) {
        int listener = (int) (intptr_t) userdata;

        for (;;) {
                char line[128];
                ssize_t n;
                int fd;

                fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0)
                        continue;
                n = recv(fd, line, sizeof(line) - 1, 0); /* a line is one packet */
                line[MAX(n, 0)] = 0;
                n = dprintf(fd, "%s\n", obey(line));
                (void) n; /* whoever asked may be gone */
                (void) close(fd);
        }
        return NULL;
}

static int start_control(const char *path) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        sigset_t all, before;
        pthread_t thread;
        int fd, listener, r;

        if (strlen(path) >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        listener = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, CONTROL_FD_MIN);
        (void) close(fd);
        (void) unlink(path);
        if (listener < 0 || bind(listener, (const struct sockaddr *) &address, sizeof(address)) < 0 ||
            listen(listener, 8) < 0)
                return -errno;
        /* Signals are for the threads of the program. */
        (void) sigfillset(&all);
        (void) pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(&thread, NULL, control, (void *) (intptr_t) listener);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r == 0)
                (void) pthread_setname_np(thread, "time-warp");
        return -r;
}

__attribute__((constructor)) static void begin(void) {
        const char *warp = getenv("IOTHUBD_TIME_WARP"), *path = getenv("IOTHUBD_TIME_WARP_SOCKET");
        long long parts[3] = { 1, 0, 0 };
        int r;

        if (warp && (sscanf(warp, "%lld:%lld:%lld", parts, parts + 1, parts + 2) < 1 || parts[0] < 1))
                errx(1, "IOTHUBD_TIME_WARP=%s: FACTOR[:REALTIME_NSEC[:BOOTTIME_NSEC]] is expected", warp);
        base_real = base[CLOCK_AWAKE] = real_clock(CLOCK_MONOTONIC);
        base[CLOCK_OF_DAY] = real_clock(CLOCK_REALTIME) + parts[1];
        base[CLOCK_SINCE_BOOT] = real_clock(CLOCK_BOOTTIME) + parts[2];
        factor = parts[0];
        r = path ? start_control(path) : 0;
        if (r < 0)
                errx(1, "IOTHUBD_TIME_WARP_SOCKET=%s: %s", path, strerror(-r));
}
