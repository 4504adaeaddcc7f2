#include "daemon/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define STATE_BYTES_MAX 1024U

void notify_manager(const char *state) {
        const char *path = getenv("NOTIFY_SOCKET");
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = -EBADF;
        size_t n;

        if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
                return;
        n = strlen(path);
        memcpy(address.sun_path, path, n);
        if (path[0] == '@')
                address.sun_path[0] = 0; /* the abstract namespace: without a NUL behind the name */
        else
                n++;
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return;
        (void) sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *) &address,
                      (socklen_t) (offsetof(struct sockaddr_un, sun_path) +
                                   n)); /* see the header */
}

void notify_managerf(const char *format, ...) {
        char state[STATE_BYTES_MAX];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(state, sizeof(state), format, ap);
        va_end(ap);
        notify_manager(state);
}
