/* A turn is: what the socket has for Proton, Proton's events to those they concern, what links have to send,
 * and what Proton has for the socket. A client that does not read stops its own links: no more is written
 * ahead than AMQP_SESSION_BYTES_MAX. */
#include <assert.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <openssl/rand.h>
#include <proton/condition.h>
#include <proton/connection.h>
#include <proton/event.h>
#include <proton/terminus.h>
#include <proton/transport.h>

#include "emulator/hub-amqp-private.h"
#include "lib/fd-util.h"
#include "lib/parse-util.h"
#include "lib/string-util.h"

#define MAX_FRAME_BYTES 65536U        /* as hubs open */
#define CHANNEL_MAX 255U              /* sessions of a connection; hubs say 8191 */
#define IDLE_TIMEOUT_MSEC 480000U     /* Proton tells half of it: 240 s, as hubs do */
#define OPEN_TIMEOUT_USEC (30 * USEC_PER_SEC) /* from accept to the client's open */
#define READS_PER_TURN 16U
#define SENDS_PER_TURN 512U
#define INCOMING_BYTES_MAX (1024U * 1024U)

static usec_t monotonic(void) {
        return now_usec(CLOCK_MONOTONIC);
}

/* ---- links ---- */

static AmqpLink *link_of(pn_link_t *link) {
        return pn_link_get_context(link);
}

static void link_free(AmqpLink *l) {
        AmqpConn *c = l->conn;

        if (l->type && l->type->done)
                l->type->done(l);
        hub_events_reader_free(l->reader);
        for (size_t i = 0; i < l->n_answers; i++)
                buffer_done(l->answers + (l->first_answer + i) % AMQP_ANSWERS_MAX);
        free(l->answers);
        free(l->target);
        pn_link_set_context(l->link, NULL);
        if (l->previous)
                l->previous->next = l->next;
        else
                c->links = l->next;
        if (l->next)
                l->next->previous = l->previous;
        c->n_links--;
        free(l);
}

void amqp_link_accept(AmqpLink *l, const AmqpLinkType *type) {
        l->type = type;
        pn_terminus_copy(pn_link_source(l->link), pn_link_remote_source(l->link));
        pn_terminus_copy(pn_link_target(l->link), pn_link_remote_target(l->link));
        /* What was asked for counts; nothing here settles before it is sure. */
        pn_link_set_snd_settle_mode(l->link, pn_link_remote_snd_settle_mode(l->link));
        pn_link_set_rcv_settle_mode(l->link, PN_RCV_FIRST);
        pn_link_set_max_message_size(l->link, AMQP_MESSAGE_BYTES_MAX);
        pn_link_open(l->link);
        if (pn_link_is_receiver(l->link))
                pn_link_flow(l->link, 100); /* as the hub grants at $cbs; given anew with each message */
}

void amqp_link_detach(AmqpLink *l, const char *condition, const char *description) {
        pn_condition_t *d = pn_link_condition(l->link);

        pn_condition_set_name(d, condition);
        if (description)
                pn_condition_set_description(d, description);
        pn_link_close(l->link);
        l->conn->n_detached++;
        link_free(l);
}

void amqp_link_refuse(AmqpLink *l, const char *condition, const char *description) {
        pn_terminus_set_type(pn_link_source(l->link), PN_UNSPECIFIED);
        pn_terminus_set_type(pn_link_target(l->link), PN_UNSPECIFIED);
        pn_link_set_max_message_size(l->link, AMQP_MESSAGE_BYTES_MAX);
        pn_link_open(l->link);
        amqp_link_detach(l, condition, description);
}

int amqp_link_send(AmqpLink *l, const void *data, size_t n, const void *more, size_t n_more) {
        uint64_t tag = l->n_sent++;
        pn_delivery_t *d = pn_delivery(l->link, pn_dtag((const char *) &tag, sizeof(tag)));

        if (!d)
                return -ENOMEM;
        if (pn_link_send(l->link, data, n) < 0 ||
            (n_more > 0 && pn_link_send(l->link, more, n_more) < 0))
                return -ENOMEM;
        pn_link_advance(l->link);
        if (pn_link_snd_settle_mode(l->link) == PN_SND_SETTLED)
                pn_delivery_settle(d);
        return 0;
}

/* ---- trouble on request ---- */

bool amqp_link_meets_trouble(AmqpLink *l) {
        char condition[TEXT_FINDER_MAX + 1];
        AmqpConn *c = l->conn;

        if (l->address.node == AMQP_NODE_CBS || l->address.node == AMQP_NODE_MANAGEMENT)
                return false;
        if (hub_troubles_on_amqp(c->door->troubles, TROUBLE_AMQP_DETACH, condition)) {
                amqp_link_detach(l, condition, "on request");
                return true;
        }
        if (hub_troubles_on_amqp(c->door->troubles, TROUBLE_AMQP_CLOSE, condition)) {
                (void) snprintf(c->close_with, sizeof(c->close_with), "%s", condition); /* fits */
                return true;
        }
        return false;
}

/* ---- what clients ask for ---- */

static const char *remote_address(pn_link_t *link) {
        pn_terminus_t *t = pn_link_is_sender(link) ? pn_link_remote_source(link)
                                                   : pn_link_remote_target(link);

        return strempty(pn_terminus_get_address(t));
}

static int format_resource(const AmqpLink *l, char **ret) {
        const char *entity = l->conn->door->entity;

        switch (l->address.node) {
        case AMQP_NODE_PARTITION:
                return format_string(ret, "/%s/ConsumerGroups/%s/Partitions/%u", entity,
                                     l->address.group, l->address.partition);
        case AMQP_NODE_MANAGEMENT: return format_string(ret, "/%s/$management", entity);
        default: return format_string(ret, "%s", l->address.resource);
        }
}

/* 1: may attach; 0: refused; or -errno. */
static int check_access(AmqpLink *l) {
        _cleanup_free_ char *resource = NULL;
        const char *reason;
        int r;

        if (l->address.node == AMQP_NODE_CBS)
                return 1;
        r = format_resource(l, &resource);
        if (r >= 0)
                r = amqp_grants_check(&l->conn->grants, l->conn->door->hub, resource,
                                      HUB_RIGHT_SERVICE_CONNECT, now_usec(CLOCK_REALTIME), &reason);
        if (r == -EACCES || r == -EPERM) {
                amqp_link_refuse(l, "amqp:unauthorized-access", reason);
                return 0;
        }
        return r < 0 ? r : 1;
}

static int put_pair(pn_data_t *d, const char *name, const char *value) {
        pn_data_put_symbol(d, pn_bytes(strlen(name), name));
        return pn_data_put_string(d, pn_bytes(strlen(value), value));
}

/* To the same place: this door is the hub and its event hub. Clients take the entity out of the address, some
 * by looking for the port there. */
static int redirect(AmqpLink *l) {
        const HubAmqp *door = l->conn->door;
        const char *host = hub_host(door->hub);
        _cleanup_free_ char *name = NULL, *address = NULL;
        pn_data_t *info;
        int r;

        /* Clients that take the name alone connect to 5671. */
        r = door->port == 5671 ? format_string(&name, "%s", host)
                               : format_string(&name, "%s:%u", host, door->port);
        if (r >= 0)
                r = format_string(&address, "amqps://%s:%u/%s/%s", host, door->port, door->entity,
                                  l->address.management ? "$management" : "");
        if (r < 0)
                return r;
        info = pn_condition_info(pn_link_condition(l->link));
        pn_data_put_map(info);
        pn_data_enter(info);
        (void) put_pair(info, "hostname", name);
        (void) put_pair(info, "network-host", host);
        pn_data_put_symbol(info, pn_bytes(4, "port"));
        pn_data_put_int(info, (int32_t) door->port);
        r = put_pair(info, "address", address);
        pn_data_exit(info);
        if (r < 0)
                return -ENOMEM;
        amqp_link_refuse(l, "amqp:link:redirect", NULL);
        return 0;
}

static int attach(AmqpLink *l) {
        const char *address = remote_address(l->link);
        bool sends = pn_link_is_sender(l->link); /* we do */
        char condition[TEXT_FINDER_MAX + 1];
        int r;

        if (l->conn->n_links > AMQP_LINKS_MAX) {
                amqp_link_refuse(l, "amqp:resource-limit-exceeded", "too many links");
                return 0;
        }
        if (amqp_address_parse(address, l->conn->door->entity, &l->address) < 0) {
                amqp_link_refuse(l, "amqp:not-found", "there is nothing at this address");
                return 0;
        }
        r = check_access(l);
        if (r <= 0)
                return r;
        if (l->address.node != AMQP_NODE_CBS &&
            hub_troubles_on_amqp(l->conn->door->troubles, TROUBLE_AMQP_REFUSE, condition)) {
                amqp_link_refuse(l, condition, "on request");
                return 0;
        }
        switch (l->address.node) {
        case AMQP_NODE_CBS:
        case AMQP_NODE_MANAGEMENT: return amqp_request_attach(l);
        case AMQP_NODE_REDIRECT:
                if (sends)
                        return redirect(l);
                /* Some ask with a pair of links. */
                return l->address.management ? redirect(l)
                                             : (amqp_link_refuse(l, "amqp:not-allowed",
                                                                 "events are sent over MQTT"), 0);
        case AMQP_NODE_PARTITION:
                if (sends)
                        return amqp_events_attach(l);
                amqp_link_refuse(l, "amqp:not-allowed", "a partition is read, not written");
                return 0;
        default: return amqp_c2d_attach(l);
        }
}

static int on_link_open(AmqpConn *c, pn_link_t *link) {
        AmqpLink *l;

        if (c->n_detached > AMQP_LINKS_MAX)
                return -EPROTO; /* none of which was answered; each takes memory until it is */

        l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        l->conn = c;
        l->link = link;
        l->next = c->links;
        if (c->links)
                c->links->previous = l;
        c->links = l;
        c->n_links++;
        pn_link_set_context(link, l);
        return attach(l);
}

static int on_incoming(AmqpLink *l, pn_delivery_t *d) {
        AmqpConn *c = l->conn;
        size_t n = pn_delivery_pending(d);
        ssize_t got;
        int r;

        /* One message at a time is read: parts wait inside Proton, and count against its window. */
        if (n > AMQP_MESSAGE_BYTES_MAX) {
                amqp_link_detach(l, "amqp:link:message-size-exceeded",
                                 "a message may have 262144 bytes");
                return 0;
        }
        if (pn_delivery_partial(d) || !pn_delivery_readable(d))
                return 0;
        c->in.size = 0;
        r = buffer_reserve(&c->in, MAX(n, (size_t) 1));
        if (r < 0)
                return r;
        got = n > 0 ? pn_link_recv(l->link, (char *) c->in.data, n) : 0;
        pn_link_advance(l->link);
        if (pn_delivery_aborted(d)) {
                pn_delivery_settle(d);
                pn_link_flow(l->link, 1);
                return 0;
        }
        if (amqp_link_meets_trouble(l))
                return 0;
        if (got < 0)
                got = 0;
        pn_link_flow(l->link, 1);
        return l->type->on_message(l, d, c->in.data, (size_t) got);
}

static int on_delivery(pn_delivery_t *d) {
        AmqpLink *l = link_of(pn_delivery_link(d));

        if (!l || !l->type)
                return 0;
        if (pn_link_is_receiver(l->link))
                return on_incoming(l, d);
        if (pn_delivery_updated(d) && (pn_delivery_remote_state(d) || pn_delivery_settled(d))) {
                if (l->type->on_settled)
                        l->type->on_settled(l, d);
                pn_delivery_settle(d);
        }
        return 0;
}

static void on_link_closed(AmqpConn *c, pn_link_t *link) {
        AmqpLink *l = link_of(link);

        if (l)
                link_free(l);
        else if (c->n_detached > 0)
                c->n_detached--;
        pn_link_close(link);
        pn_link_free(link);
}

/* Session NULL: of all. Those that were detached and never answered go with their session, too. */
static void drop_links(AmqpConn *c, pn_session_t *session) {
        for (pn_link_t *link = session ? pn_link_head(c->driver.connection, 0) : NULL; link;
             link = pn_link_next(link, 0))
                if (pn_link_session(link) == session && !link_of(link) && c->n_detached > 0)
                        c->n_detached--;
        for (AmqpLink *l = c->links, *next; l; l = next) {
                next = l->next;
                if (!session || pn_link_session(l->link) == session)
                        link_free(l);
        }
}

static void on_connection_open(AmqpConn *c) {
        pn_connection_t *p = c->driver.connection;
        uint8_t random[16];
        char id[33], name[64];

        /* The name that hubs show; it only helps a reader of traces. */
        (void) RAND_bytes(random, sizeof(random));
        (void) format_id128(random, id);
        (void) snprintf(name, sizeof(name), "DeviceGateway_%s", id);
        c->open = true;
        pn_connection_set_container(p, name);
        pn_connection_set_hostname(p, hub_host(c->door->hub));
        pn_connection_open(p);
}

static int on_event(AmqpConn *c, pn_event_t *e) {
        switch (pn_event_type(e)) {
        case PN_CONNECTION_REMOTE_OPEN: on_connection_open(c); return 0;
        case PN_CONNECTION_REMOTE_CLOSE:
                drop_links(c, NULL);
                pn_connection_close(c->driver.connection);
                return 0;
        case PN_SESSION_REMOTE_OPEN:
                pn_session_set_incoming_capacity(pn_event_session(e), INCOMING_BYTES_MAX);
                pn_session_open(pn_event_session(e));
                return 0;
        case PN_SESSION_REMOTE_CLOSE:
                drop_links(c, pn_event_session(e));
                pn_session_close(pn_event_session(e));
                pn_session_free(pn_event_session(e));
                return 0;
        case PN_LINK_REMOTE_OPEN: return on_link_open(c, pn_event_link(e));
        case PN_LINK_REMOTE_CLOSE:
        case PN_LINK_REMOTE_DETACH: on_link_closed(c, pn_event_link(e)); return 0;
        case PN_DELIVERY: return on_delivery(pn_event_delivery(e));
        default: return 0; /* credit is looked at in each turn */
        }
}

/* ---- tokens that end ---- */

static void check_grants(AmqpConn *c, usec_t now_realtime) {
        bool ended = false;

        for (size_t i = 0; i < c->grants.n; i++)
                ended = ended || c->grants.items[i].expires_usec <= now_realtime;
        if (!ended)
                return;
        for (AmqpLink *l = c->links, *next; l; l = next) {
                _cleanup_free_ char *resource = NULL;
                const char *reason;
                int r;

                next = l->next;
                if (!l->type || l->address.node == AMQP_NODE_CBS || format_resource(l, &resource) < 0)
                        continue;
                r = amqp_grants_check(&c->grants, c->door->hub, resource, HUB_RIGHT_SERVICE_CONNECT,
                                      now_realtime, &reason);
                if (r == -EACCES || r == -EPERM)
                        amqp_link_detach(l, "amqp:unauthorized-access", reason);
        }
        amqp_grants_expire(&c->grants, now_realtime);
}

/* ---- bytes ---- */

static void read_some(AmqpConn *c) {
        for (unsigned i = 0; i < READS_PER_TURN; i++) {
                pn_rwbytes_t b = pn_connection_driver_read_buffer(&c->driver);
                ssize_t n;

                if (b.size == 0)
                        return;
                n = recv(c->fd, b.start, b.size, 0);
                if (n > 0) {
                        pn_connection_driver_read_done(&c->driver, (size_t) n);
                        continue;
                }
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                pn_connection_driver_read_close(&c->driver);
                return;
        }
        c->again = true;
}

/* Whether the socket takes more. */
static bool write_some(AmqpConn *c) {
        pn_bytes_t b = pn_connection_driver_write_buffer(&c->driver);

        while (b.size > 0) {
                ssize_t n = send(c->fd, b.start, b.size, MSG_NOSIGNAL);

                if (n < 0) {
                        if (errno == EAGAIN || errno == EINTR)
                                return false;
                        pn_connection_driver_close(&c->driver);
                        return true;
                }
                b = pn_connection_driver_write_done(&c->driver, (size_t) n);
        }
        return true;
}

static int send_some(AmqpConn *c) {
        for (AmqpLink *l = c->links, *next; l; l = next) {
                int r = 1;

                next = l->next; /* sending may end the link */
                if (!l->type || !l->type->send)
                        continue;
                for (unsigned i = 0; i < SENDS_PER_TURN && r > 0; i++) {
                        if (pn_link_credit(l->link) <= 0 ||
                            pn_link_unsettled(l->link) >= (int) AMQP_UNSETTLED_MAX ||
                            pn_session_outgoing_bytes(pn_link_session(l->link)) >=
                                            AMQP_SESSION_BYTES_MAX)
                                break;
                        r = l->type->send(l);
                }
                if (r < 0)
                        return r;
                c->again = c->again || r > 0;
        }
        return 0;
}

static void watch(AmqpConn *c, bool writable) {
        pn_rwbytes_t room = pn_connection_driver_read_buffer(&c->driver);
        struct epoll_event e = { .events = (room.size > 0 ? EPOLLIN : 0U) |
                                           (writable ? 0U : EPOLLOUT),
                                 .data.ptr = c };

        if (e.events != c->watched && epoll_ctl(c->door->epoll_fd, EPOLL_CTL_MOD, c->fd, &e) == 0)
                c->watched = e.events;
}

void amqp_conn_turn(AmqpConn *c) {
        pn_event_t *e;
        bool writable;
        int r = 0;

        c->again = false;
        read_some(c);
        (void) pn_transport_tick(c->driver.transport, (int64_t) (monotonic() / USEC_PER_MSEC));
        while (r >= 0 && (e = pn_connection_driver_next_event(&c->driver)))
                r = on_event(c, e);
        check_grants(c, now_usec(CLOCK_REALTIME));
        if (r >= 0)
                r = send_some(c);
        if (r < 0)
                amqp_conn_close(c, "amqp:internal-error", strerror(-r));
        else if (*c->close_with)
                amqp_conn_close(c, c->close_with, "on request");
        writable = write_some(c);
        if (pn_connection_driver_has_event(&c->driver))
                c->again = true;
        c->again = c->again && writable;
        if (!c->open && monotonic() > c->open_until_usec) {
                c->dead = true; /* Proton keeps time only once AMQP is spoken */
                return;
        }
        /* Who says nothing more has heard all that there was. */
        if (pn_connection_driver_finished(&c->driver) ||
            (pn_connection_driver_read_closed(&c->driver) && writable)) {
                c->dead = true;
                return;
        }
        watch(c, writable);
}

void amqp_conn_close(AmqpConn *c, const char *condition, const char *text) {
        pn_condition_t *d = pn_connection_condition(c->driver.connection);

        drop_links(c, NULL);
        pn_condition_set_name(d, condition);
        pn_condition_set_description(d, text);
        pn_connection_close(c->driver.connection);
        (void) write_some(c); /* a courtesy */
        pn_connection_driver_close(&c->driver);
}

int amqp_conn_new(HubAmqp *door, int fd) {
        struct epoll_event e = { .events = EPOLLIN };
        AmqpConn *c;

        c = calloc(1, sizeof(*c));
        if (!c) {
                (void) close(fd);
                return -ENOMEM;
        }
        c->door = door;
        c->fd = fd;
        c->open_until_usec = monotonic() + OPEN_TIMEOUT_USEC;
        c->watched = e.events;
        c->next = door->conns;
        if (door->conns)
                door->conns->previous = c;
        door->conns = c;
        door->n_conns++;
        e.data.ptr = c;
        if (pn_connection_driver_init(&c->driver, NULL, NULL) != 0) {
                amqp_conn_free(c);
                return -ENOMEM;
        }
        pn_transport_set_server(c->driver.transport);
        pn_transport_set_max_frame(c->driver.transport, MAX_FRAME_BYTES);
        pn_transport_set_channel_max(c->driver.transport, CHANNEL_MAX);
        pn_transport_set_idle_timeout(c->driver.transport, IDLE_TIMEOUT_MSEC);
        if (amqp_sasl_set_up(c) < 0 || pn_connection_driver_bind(&c->driver) != 0 ||
            epoll_ctl(door->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
                amqp_conn_free(c);
                return -ENOMEM;
        }
        return 0;
}

void amqp_conn_free(AmqpConn *c) {
        HubAmqp *door = c->door;

        drop_links(c, NULL);
        pn_connection_driver_destroy(&c->driver); /* also one that never was */
        amqp_grants_done(&c->grants);
        buffer_done(&c->in);
        safe_close(c->fd);
        if (c->previous)
                c->previous->next = c->next;
        else
                door->conns = c->next;
        if (c->next)
                c->next->previous = c->previous;
        door->n_conns--;
        free(c);
}
