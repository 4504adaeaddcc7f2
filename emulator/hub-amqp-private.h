/* hub-amqp-private.h: what the files of the AMQP door share. hub-amqp.c is the thread and its loop,
 * hub-amqp-conn.c one connection: bytes, events of Proton, links; the rest is what is behind a link, by
 * its address. All in the door's thread. */
#pragma once

#include <pthread.h>

#include <proton/connection_driver.h>
#include <proton/delivery.h>
#include <proton/link.h>
#include <proton/session.h>

#include "emulator/hub-amqp-access.h"
#include "emulator/hub-amqp-address.h"
#include "emulator/hub-amqp.h"
#include "lib/amqp-value.h"
#include "lib/buffer.h"
#include "lib/time-util.h"

#define AMQP_CONNECTIONS_MAX 512U
#define AMQP_LINKS_MAX 512U                    /* of a connection */
#define AMQP_MESSAGE_BYTES_MAX (256U * 1024U)  /* max-message-size, as the hub says it */
#define AMQP_SESSION_BYTES_MAX (256U * 1024U)  /* written ahead of a reader */
#define AMQP_UNSETTLED_MAX 32768U              /* on one link: Proton keeps each until it is settled */
#define AMQP_ANSWERS_MAX 64U                   /* waiting for credit on one link */

typedef struct AmqpConn AmqpConn;
typedef struct AmqpLink AmqpLink;

/* What is behind a link. Unused entries are NULL. */
typedef struct AmqpLinkType {
        /* A whole message has come; settles it. 0, or -errno: the connection ends. */
        int (*on_message)(AmqpLink *l, pn_delivery_t *d, const void *data, size_t n);

        /* There may be something to send, and credit for it. 1 when more could be sent at once, 0, or -errno. */
        int (*send)(AmqpLink *l);

        /* The other side has said how a delivery ended. */
        void (*on_settled)(AmqpLink *l, pn_delivery_t *d);

        /* The link ends. */
        void (*done)(AmqpLink *l);
} AmqpLinkType;

struct AmqpLink {
        AmqpConn *conn;
        pn_link_t *link;
        const AmqpLinkType *type; /* NULL: refused, about to go */
        AmqpAddress address;
        HubEventsReader *reader;  /* AMQP_NODE_PARTITION */
        bool has_epoch;
        int64_t epoch;
        char *target;             /* where answers are routed to */
        Buffer *answers;          /* a ring of AMQP_ANSWERS_MAX, made with the first */
        size_t first_answer, n_answers;
        uint64_t n_sent;          /* makes the tags */
        AmqpLink *previous, *next;
};

struct AmqpConn {
        HubAmqp *door;
        int fd;
        uint32_t watched;       /* by epoll */
        pn_connection_driver_t driver;
        AmqpGrants grants;
        AmqpLink *links;
        size_t n_links;
        size_t n_detached;      /* by us, and not yet by the client */
        char close_with[TEXT_FINDER_MAX + 1]; /* the condition of a trouble, at the end of the turn */
        Buffer in;              /* of a message that comes in parts */
        bool again;             /* has more to do though nothing comes */
        bool open;
        usec_t open_until_usec; /* monotonic */
        bool dead;
        AmqpConn *previous, *next;
};

struct HubAmqp {
        Hub *hub;
        char *entity;           /* the name of the event hub */
        unsigned port;
        HubTroubles *troubles;
        pthread_t thread;
        int listen_fd, epoll_fd, stop_fd, events_fd, feedback_fd;
        AmqpConn *conns;
        size_t n_conns;
        Buffer out;             /* for encoding */
};

/* hub-amqp-conn.c */

/* Takes over an accepted socket (consumed, also on failure). 0, -ENOMEM or -errno. */
int amqp_conn_new(HubAmqp *door, int fd);
void amqp_conn_free(AmqpConn *c);

/* Moves what can move; may leave it dead. */
void amqp_conn_turn(AmqpConn *c);

/* Says goodbye and ends: the hub stops. */
void amqp_conn_close(AmqpConn *c, const char *condition, const char *text);

/* Detaches with a condition; description may be NULL. The link is gone afterwards. */
void amqp_link_detach(AmqpLink *l, const char *condition, const char *description);

/* Sends a whole message that is settled by the other side. 0 or -errno. */
int amqp_link_send(AmqpLink *l, const void *data, size_t n, const void *more, size_t n_more);

/* What a message is to meet on request, instead of its receiver; requests and their answers are spared. True:
 * the link is gone, or the connection about to be. */
bool amqp_link_meets_trouble(AmqpLink *l);

/* hub-amqp-sasl.c: has the transport sign clients in. 0 or -ENOMEM. */
int amqp_sasl_set_up(AmqpConn *c);

/* The types of links: each looks at what was asked for and attaches, or refuses. NULL-terminated texts
 * are borrowed. 0 or -errno. */
int amqp_request_attach(AmqpLink *l);  /* $cbs and $management: hub-amqp-request.c */
int amqp_events_attach(AmqpLink *l);   /* hub-amqp-events.c */
int amqp_c2d_attach(AmqpLink *l);      /* hub-amqp-c2d.c: both sides */

/* Attaches as asked, with its type. */
void amqp_link_accept(AmqpLink *l, const AmqpLinkType *type);

/* Refuses: attach with null terminus, then detach. description: may be NULL. */
void amqp_link_refuse(AmqpLink *l, const char *condition, const char *description);

/* hub-amqp-message.c: an event as its reader gets it, up to the payload, which has to follow. 0 or -ENOMEM. */
int amqp_event_encode(const HubStoredEvent *e, Buffer *head);

/* A data section's head. 0 or -ENOMEM. */
int amqp_encode_data_head(size_t n, Buffer *out);
