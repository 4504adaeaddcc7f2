/* hub-front-private.h: what hub-front.c (doors, loop, timers) and hub-conn.c (one connection)
 * share. */
#pragma once

#include <openssl/ssl.h>

#include "emulator/hub-counter.h"
#include "emulator/hub-front.h"
#include "emulator/hub-trouble.h"
#include "emulator/mqtt-filter.h"
#include "lib/buffer.h"
#include "lib/time-util.h"

typedef struct Watch {
        enum { WATCH_LISTENER, WATCH_CLIENT, WATCH_BACKEND, WATCH_OTHER } kind;
        void *owner;
} Watch;

typedef struct Listener {
        Watch watch;
        FrontDoor door;
        int fd;
        SSL_CTX *tls;
        char *backend;
        struct Listener *next;
} Listener;

typedef struct Other {
        Watch watch;
        int fd; /* -EBADF: no longer watched, gone after the turn */
        void (*on_readable)(void *userdata);
        void *userdata;
        struct Other *next;
} Other;

typedef struct Pipe {
        uint8_t *data;
        size_t from, passed, to; /* from..passed may go on, passed..to is still to be looked at */
        bool ended;              /* the source will give no more */
        bool closed;             /* the destination takes no more */
} Pipe;

typedef enum ConnState {
        CONN_HANDSHAKE,
        CONN_HELLO, /* gathering the CONNECT */
        CONN_OPEN,
        CONN_DEAD,
} ConnState;

typedef struct Conn {
        Front *front;
        Listener *listener;
        ConnState state;
        Watch client_watch, backend_watch;
        int client_fd, backend_fd;
        SSL *ssl;
        Buffer hello;
        usec_t hello_until_usec; /* monotonic */
        char *client_id;         /* NULL: no CONNECT yet, or an id that is none */
        bool said_hello;         /* its CONNECT came */
        MqttFilter filter;
        Pipe up, down;
        bool client_readable, client_writable, backend_readable, backend_writable;
        bool ready; /* on the list of those that can go on */
        struct Conn *previous, *next, *next_ready;
} Conn;

struct Front {
        int epoll_fd;
        char *secret;
        Authorities *authorities;
        int report_fd; /* -EBADF: none */
        bool stop;
        bool accepting;
        Listener *listeners;
        Other *others;
        bool unwatched; /* some of the others are to be freed */
        Conn *conns, *dead, *ready;

        Troubles troubles;
        uint64_t troubles_seen; /* the serial that all connections know */
        HubCounters *counters;
        SSL_CTX *odd_tls[_TROUBLE_CERTIFICATE_MAX];
        usec_t next_due_usec; /* the next held PUBACK of any connection */
        void (*after_turn)(void *userdata);
        void *after_turn_userdata;
};

/* 0 or -errno. */
int front_add_to_epoll(Front *f, int fd, uint32_t events, Watch *w);

/* Takes over an accepted socket (consumed, also on failure). 0, -ENOMEM or -errno. */
int conn_new(Listener *l, Front *f, int fd);

/* Moves what can move. The connection may be dead afterwards. */
void conn_turn(Conn *c);

/* Ends it now; the memory goes with conn_free() after the turn, because events for it may be
 * pending. reset: by a RST, without a farewell. */
void conn_kill(Conn *c, bool reset);
void conn_free(Conn *c);

/* The trouble has changed: looks at itself again and moves. */
void conn_review(Conn *c, usec_t now_usec);

bool conn_is_silent(const Conn *c);
