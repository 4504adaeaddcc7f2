/* name-fault.c: an LD_PRELOAD library for tests, which takes the name service away and gives it
 * back. The file that $IOTHUBD_NAME_FAULT names is read at each look-up: "fail" fails it at once,
 * as with a name server that answers SERVFAIL; "hang" lets it hang for as long as the file says so,
 * as with one that does not answer; anything else is the address that the name has. This is for
 * names under .test, which no name server knows (RFC 6761 section 6.2); all others are looked up as
 * ever. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef int (*GetAddrInfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static void read_fault(char *buf, size_t size) {
        const char *path = getenv("IOTHUBD_NAME_FAULT");
        int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        ssize_t n = fd < 0 ? 0 : read(fd, buf, size - 1);

        buf[n > 0 ? n : 0] = '\0'; /* without a file no address: the look-up fails */
        if (fd >= 0)
                close(fd);
}

static int is_ours(const char *node) {
        size_t n = node ? strlen(node) : 0;

        return n > 5 && strcmp(node + n - 5, ".test") == 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **res) {
        GetAddrInfo real = (GetAddrInfo) dlsym(RTLD_NEXT, "getaddrinfo");
        char fault[64];

        if (!is_ours(node))
                return real(node, service, hints, res);
        for (;;) {
                read_fault(fault, sizeof(fault));
                if (strcmp(fault, "fail") == 0)
                        return EAI_AGAIN;
                if (strcmp(fault, "hang") != 0)
                        return real(fault, service, hints, res);
                nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
        }
}
