#include "emulator/hub-report.h"

#include <sys/socket.h>
#include <sys/uio.h>

int hub_report_pair(int ret[2]) {
        return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0 ? -errno : 0;
}

static int write_report(int fd, const HubReport *report, const char *text, size_t n, int flags) {
        struct iovec parts[] = { { (void *) (uintptr_t) report, sizeof(*report) },
                                 { (void *) (uintptr_t) text, n } };
        const struct msghdr m = { .msg_iov = parts, .msg_iovlen = ELEMENTSOF(parts) };
        ssize_t k;

        if (n > HUB_REPORT_TEXT_MAX)
                return -EMSGSIZE;
        do
                k = sendmsg(fd, &m, flags | MSG_NOSIGNAL);
        while (k < 0 && errno == EINTR);
        return k < 0 ? -errno : 0;
}

int hub_report_write(int fd, const HubReport *report, const char *text, size_t n) {
        return write_report(fd, report, text, n, 0);
}

int hub_report_try_write(int fd, const HubReport *report, const char *text, size_t n) {
        return write_report(fd, report, text, n, MSG_DONTWAIT);
}

int hub_report_read(int fd, HubReport *ret, Buffer *text) {
        struct iovec parts[2] = { { ret, sizeof(*ret) } };
        struct msghdr m = { .msg_iov = parts, .msg_iovlen = ELEMENTSOF(parts) };
        ssize_t k;

        if (!text->data && buffer_reserve(text, HUB_REPORT_TEXT_MAX + 1) < 0)
                return -ENOMEM;
        parts[1] = (struct iovec){ text->data, HUB_REPORT_TEXT_MAX };
        do
                k = recvmsg(fd, &m, MSG_DONTWAIT);
        while (k < 0 && errno == EINTR);
        if (k < 0)
                return errno == EAGAIN ? 0 : -errno;
        if (k < (ssize_t) sizeof(*ret))
                return -ECONNRESET;
        text->size = (size_t) k - sizeof(*ret);
        text->data[text->size] = '\0';
        return 1;
}
