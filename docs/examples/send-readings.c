/* Sends each line of standard input, UTF-8 text, as one message.
 *
 *   cc -o send-readings send-readings.c -ljson-c
 *   send-readings [SOCKET [STREAM]] <readings
 *
 * STREAM is 32 hex digits. Started again with the same one and the same
 * input, the program skips what is stored already. */
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char *path = "/run/iothubd/iothubd.sock";
static char stream[33];
static int fd = -1;
static int64_t stored; /* so many messages of the stream are safe */

static void fail(const char *what) {
        fprintf(stderr, "behind message %lld: %s\n", (long long) stored, what);
        exit(65);
}

static int dial(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };

        if (strlen(path) >= sizeof(a.sun_path))
                fail("the path of the socket is too long");
        strcpy(a.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        return fd < 0 ? -1 : connect(fd, (struct sockaddr *) &a, sizeof(a));
}

/* One frame, with the NUL that ends it. */
static int write_frame(const char *text) {
        size_t left = strlen(text) + 1;

        while (left > 0) {
                ssize_t n = send(fd, text, left, MSG_NOSIGNAL);

                if (n < 0)
                        return -1;
                text += n;
                left -= (size_t) n;
        }
        return 0;
}

/* The replies to our calls are short, and one call is under way at a
 * time, so what has come ends with the NUL of this reply. */
static json_object *read_reply(void) {
        char text[65536];
        size_t size = 0;

        do {
                ssize_t n = recv(fd, text + size, sizeof(text) - size, 0);

                if (n <= 0)
                        return NULL;
                size += (size_t) n;
        } while (text[size - 1] != '\0');
        return json_tokener_parse(text);
}

/* Consumes the parameters. Returns the reply, or NULL when the
 * connection is lost. */
static json_object *call(const char *method, json_object *parameters) {
        json_object *c = json_object_new_object(), *reply = NULL;

        json_object_object_add(c, "method", json_object_new_string(method));
        json_object_object_add(c, "parameters", parameters);
        if (write_frame(json_object_to_json_string(c)) >= 0)
                reply = read_reply();
        json_object_put(c);
        return reply;
}

/* 1: the call was done; 0: not now, it may be repeated. Any other error
 * ends the program. */
static int was_done(json_object *reply) {
        const char *again[] = { "OutboxFull", "DiskError", "LimitExceeded",
                                "ShuttingDown" };
        const char *name;

        name = json_object_get_string(json_object_object_get(reply, "error"));
        if (!name)
                return 1;
        for (size_t i = 0; i < sizeof(again) / sizeof(again[0]); i++)
                if (strstr(name, again[i]))
                        return 0;
        fail(json_object_to_json_string(reply));
        return 0;
}

static int64_t number(json_object *reply, const char *name) {
        json_object *p = json_object_object_get(reply, "parameters");

        return json_object_get_int64(json_object_object_get(p, name));
}

/* Connects and asks what is stored. Returns whether that worked; if not,
 * the connection is of no use. */
static int resume(void) {
        json_object *p = json_object_new_object(), *reply;
        int done;

        json_object_object_add(p, "stream", json_object_new_string(stream));
        if (dial() < 0) {
                json_object_put(p);
                return 0;
        }
        reply = call("io.iothubd.Resume", p);
        done = reply && was_done(reply);
        if (done && number(reply, "next") < stored)
                fail("iothubd has forgotten this stream");
        if (done)
                stored = number(reply, "next");
        json_object_put(reply);
        return done;
}

/* Returns whether the message is stored. */
static int send_once(const char *line, size_t size) {
        json_object *p = json_object_new_object(), *reply;
        json_object *messages = json_object_new_array();
        json_object *message = json_object_new_object();
        int done;

        json_object_object_add(message, "body",
                               json_object_new_string_len(line, (int) size));
        json_object_array_add(messages, message);
        json_object_object_add(p, "stream", json_object_new_string(stream));
        json_object_object_add(p, "position", json_object_new_int64(stored));
        json_object_object_add(p, "messages", messages);
        reply = call("io.iothubd.Send", p);
        done = reply && was_done(reply);
        json_object_put(reply);
        return done;
}

/* Returns when the message at this position is safe. */
static void send_line(int64_t position, const char *line, size_t size) {
        while (stored <= position) {
                if (fd < 0 && resume())
                        continue;
                if (fd >= 0 && send_once(line, size)) {
                        stored++;
                        continue;
                }
                fprintf(stderr, "iothubd does not answer, or has no room; "
                                "trying again\n");
                close(fd);
                fd = -1;
                sleep(1);
        }
}

int main(int argc, char **argv) {
        unsigned char random[16];
        int64_t position = 0;
        char *line = NULL;
        size_t room = 0;
        ssize_t n;

        if (argc > 1)
                path = argv[1];
        if (getrandom(random, sizeof(random), 0) != sizeof(random))
                fail("no random numbers");
        for (int i = 0; i < 16; i++)
                sprintf(stream + 2 * i, "%02x", random[i]);
        if (argc > 2)
                snprintf(stream, sizeof(stream), "%s", argv[2]);

        while ((n = getline(&line, &room, stdin)) >= 0) {
                if (n > 0 && line[n - 1] == '\n')
                        n--;
                send_line(position++, line, (size_t) n);
        }
        free(line);
        printf("%lld readings are safe\n", (long long) position);
        return 0;
}
