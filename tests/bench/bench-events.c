/* What the emulator's event store costs for a million events of 200-byte bodies: taking them, the
 * start after them, reading all partitions from the earliest event on; and beside it json-c, which
 * makes a tree of each line.
 *
 *   bench-events [FOLDER]     on the disk of FOLDER, default: the working directory */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

#include <json-c/json.h>

#include "emulator/hub-events.h"
#include "lib/fd-util.h"
#include "lib/json-util.h"

#define EVENTS 1000000U
#define DEVICES 10U
#define BODY_BYTES 200U

#define TRY(what, ok)                                                                              \
        do {                                                                                       \
                if (!(ok)) {                                                                       \
                        fprintf(stderr, "bench-events: %s failed: %s\n", what, strerror(errno));   \
                        exit(EXIT_FAILURE);                                                        \
                }                                                                                  \
        } while (0)

static HubEvents *open_store(int dir_fd) {
        HubEventsLimits limits = { .retain_usec = USEC_INFINITY,
                                   .retain_bytes = UINT64_C(1) << 40 };
        HubEvents *e;
        char *what;

        TRY("hub_events_open", hub_events_open(dir_fd, &limits, &e, &what) >= 0);
        return e;
}

static void append_all(HubEvents *e) {
        char device[32], bag[128], body[BODY_BYTES + 1];

        /* Quotes, as telemetry has them. */
        for (size_t i = 0; i < BODY_BYTES; i++)
                body[i] = "{\"windSpeed\":11.25}"[i % 19];
        for (unsigned i = 0; i < EVENTS; i++) {
                HubEvent event = { .device_id = device,
                                   .generation = 639311608842312430,
                                   .enqueued_usec = now_usec(CLOCK_REALTIME),
                                   .bag = bag,
                                   .body = body,
                                   .body_size = BODY_BYTES };

                (void) snprintf(device, sizeof(device), "device-%u", i % DEVICES);
                event.bag_size = (size_t) snprintf(bag, sizeof(bag),
                                                   "%%24.mid=message_%u&%%24.ct=application%%2Fjson"
                                                   "&%%24.ce=utf-8&temperatureAlert=true",
                                                   i);
                TRY("hub_events_append", hub_events_append(e, &event) >= 0);
        }
}

static unsigned read_all(HubEvents *e) {
        unsigned n = 0;

        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++) {
                HubEventsPosition earliest = { .from = HUB_EVENTS_FROM_EARLIEST };
                const HubStoredEvent *event;
                HubEventsReader *reader;
                char *reason;

                TRY("hub_events_reader_open",
                    hub_events_reader_open(e, p, &earliest, &reader, &reason) >= 0);
                while (hub_events_reader_next(reader, &event) > 0)
                        n += event->body_size == BODY_BYTES;
                hub_events_reader_free(reader);
        }
        return n;
}

/* One pass over all lines, as one reader of one partition would do. */
static unsigned read_all_with_json(void) {
        struct json_tokener *tokener = json_tokener_new();
        char *line = NULL;
        size_t allocated = 0;
        unsigned n = 0;
        ssize_t size;
        FILE *f = fopen(HUB_EVENTS_FILE, "re");

        TRY("fopen", f && tokener);
        while ((size = getline(&line, &allocated, f)) > 0) {
                _cleanup_json_ struct json_object *o =
                                json_tokener_parse_ex(tokener, line, (int) size);
                const char *body;
                size_t body_size;

                json_tokener_reset(tokener);
                n += o && json_get_string(o, "body", &body, &body_size) > 0 &&
                     body_size == BODY_BYTES;
        }
        (void) fclose(f); /* only read */
        free(line);
        json_tokener_free(tokener);
        return n;
}

static void tell(const char *what, usec_t since) {
        double sec = (double) (now_usec(CLOCK_MONOTONIC) - since) / USEC_PER_SEC;

        printf("%-44s %7.3f s  %9.0f events/s\n", what, sec, EVENTS / sec);
}

int main(int argc, char **argv) {
        char dir[PATH_MAX], command[PATH_MAX + 16];
        HubEvents *e;
        usec_t since;
        int dir_fd;

        (void) snprintf(dir, sizeof(dir), "%s/bench-events.XXXXXX", argc > 1 ? argv[1] : ".");
        TRY("mkdtemp", mkdtemp(dir) != NULL);
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        TRY("open", dir_fd >= 0 && fchdir(dir_fd) == 0);

        e = open_store(dir_fd);
        since = now_usec(CLOCK_MONOTONIC);
        append_all(e);
        tell("taken, one by one", since);
        hub_events_free(e);

        since = now_usec(CLOCK_MONOTONIC);
        e = open_store(dir_fd);
        tell("opened after a restart", since);

        since = now_usec(CLOCK_MONOTONIC);
        TRY("reading", read_all(e) == EVENTS);
        tell("read, four partitions one after the other", since);
        hub_events_free(e);

        since = now_usec(CLOCK_MONOTONIC);
        TRY("reading with json-c", read_all_with_json() == EVENTS);
        tell("the same lines through json-c", since);

        (void) close(dir_fd);
        TRY("chdir", chdir("..") == 0);
        (void) snprintf(command, sizeof(command), "rm -rf '%s'", strrchr(dir, '/') + 1);
        return system(command) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
