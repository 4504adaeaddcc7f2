/* Goal: whatever bytes come to the AMQP door, the connection ends in peace and the door serves the next.
 * Method: the input as what one client says before it hangs up, to a door with an event and its own thread; behind
 * a "+" a client that has signed in already, else everything is behind the sign-in. The end of the connection is
 * waited for. */
#include <fcntl.h>
#include <ftw.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "emulator/hub-amqp.h"
#include "emulator/hub-events.h"
#include "lib/fd-util.h"

#include "tests/fuzz/fuzz.h"

#define SOCKET "amqp.sock"

static char folder[] = "/tmp/fuzz-hub-amqp.XXXXXX";
static int folder_fd = -EBADF;
static Hub *hub;
static HubTroubles *troubles;
static HubAmqp *door;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void) remove(path);
        return 0;
}

static void close_door(void) {
        door = hub_amqp_free(door);
        troubles = hub_troubles_free(troubles);
        hub = hub_free(hub);
        folder_fd = safe_close(folder_fd);
        (void) nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void open_door(void) {
        HubAmqpSettings settings = { .port = 5671 };
        HubEvent e = { .device_id = "d", .enqueued_usec = 1, .bag = "a=b", .bag_size = 3, .body = "x", .body_size = 1 };
        char *what = NULL;
        int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        fuzz_require(here >= 0 && mkdtemp(folder));
        folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        fuzz_require(folder_fd >= 0);
        fuzz_require(hub_open(folder_fd, "hub.example", &hub) == 0);
        fuzz_require(hub_open_events(hub, &HUB_EVENTS_LIMITS_DEFAULT, &what) == 0);
        fuzz_require(hub_events_append(hub_events(hub), &e) == 0);
        fuzz_require(hub_troubles_new(&troubles) == 0);
        settings.troubles = troubles;
        /* The socket's name is short, the folder's may not be. */
        fuzz_require(fchdir(folder_fd) == 0);
        settings.path = SOCKET;
        fuzz_require(hub_amqp_new(hub, &settings, &door) == 0);
        fuzz_require(fchdir(here) == 0);
        (void) close(here);
        (void) atexit(close_door);
}

static int connect_door(void) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        (void) snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" SOCKET, folder_fd);
        fuzz_require(fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0);
        return fd;
}

static void send_all(int fd, const void *data, size_t n) {
        for (size_t done = 0; done < n;) {
                ssize_t k = send(fd, (const uint8_t *) data + done, n - done, MSG_NOSIGNAL);

                if (k <= 0)
                        return; /* it has heard enough */
                done += (size_t) k;
        }
}

/* SASL PLAIN, as a frame: part 5 of OASIS AMQP 1.0. */
static void sign_in(int fd) {
        _cleanup_free_ char *primary = NULL, *secondary = NULL;
        uint8_t frame[256] = { 'A', 'M', 'Q', 'P', 3, 1, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0x53, 0x41, 0xc0, 0, 2,
                               0xa3, 5, 'P', 'L', 'A', 'I', 'N', 0xa0 };
        size_t n = 31, n_response;
        unsigned rights;

        fuzz_require(hub_policy_get(hub, HUB_POLICY_OWNER, &primary, &secondary, &rights) == 0);
        n_response = 2 + strlen(HUB_POLICY_OWNER) + strlen(primary);
        fuzz_require(n + n_response < sizeof(frame) && n_response < 200);
        memcpy(frame + n + 1, HUB_POLICY_OWNER, strlen(HUB_POLICY_OWNER));
        memcpy(frame + n + 2 + strlen(HUB_POLICY_OWNER), primary, strlen(primary));
        frame[30] = (uint8_t) n_response;
        n += n_response;
        frame[20] = (uint8_t) (n - 21);
        frame[11] = (uint8_t) (n - 8);
        send_all(fd, frame, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        char answer[4096];
        int fd;

        if (!door)
                open_door();
        fd = connect_door();
        if (n > 0 && *data == '+') {
                sign_in(fd);
                data++;
                n--;
        }
        send_all(fd, data, n);
        (void) shutdown(fd, SHUT_WR); /* it may have hung up already */
        while (recv(fd, answer, sizeof(answer), 0) > 0)
                ;
        (void) close(fd);
        return 0;
}
