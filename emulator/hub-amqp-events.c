/* Readers of partitions. Nothing is kept for a reader here but where it is: it keeps its own offsets. */
#include <assert.h>
#include <inttypes.h>

#include <proton/codec.h>
#include <proton/terminus.h>

#include "emulator/hub-amqp-private.h"
#include "lib/string-util.h"

#define READERS_MAX 5U /* without an epoch, of a partition and group: the service's own limit */
#define SELECTOR "apache.org:selector-filter:string"
#define SELECTOR_CODE UINT64_C(0x468C00000004)

static int send_event(AmqpLink *l) {
        HubAmqp *door = l->conn->door;
        const HubStoredEvent *e;
        int r;

        r = hub_events_reader_next(l->reader, &e);
        if (r == -EBADMSG)
                return 1; /* a line that somebody has changed: told by the store, left out */
        if (r == 0 && pn_link_get_drain(l->link))
                (void) pn_link_drained(l->link);
        if (r <= 0 || amqp_link_meets_trouble(l))
                return MIN(r, 0);
        r = amqp_event_encode(e, &door->out);
        if (r >= 0)
                r = amqp_link_send(l, door->out.data, door->out.size, e->body, e->body_size);
        return r < 0 ? r : 1;
}

/* Whatever a reader makes of an event, it stays where it is. */
static const AmqpLinkType reader_type = { .send = send_event };

/* ---- from where on ---- */

/* The expression of the one filter that is known, described by its name or its number. Others are passed
 * over. 1, 0 (none) or -EINVAL. */
static int find_selector(pn_data_t *filter, AmqpBytes *ret) {
        size_t n;
        int r = 0;

        pn_data_rewind(filter);
        if (!pn_data_next(filter) || pn_data_type(filter) != PN_MAP)
                return 0;
        n = pn_data_get_map(filter) / 2;
        pn_data_enter(filter);
        for (size_t i = 0; i < n && r == 0 && pn_data_next(filter); i++) {
                pn_bytes_t name = { 0 }, text;
                bool known;

                if (pn_data_type(filter) == PN_SYMBOL)
                        name = pn_data_get_symbol(filter);
                else if (pn_data_type(filter) == PN_STRING)
                        name = pn_data_get_string(filter);
                known = name.size == strlen(SELECTOR) && memcmp(name.start, SELECTOR, name.size) == 0;
                if (!pn_data_next(filter))
                        return -EINVAL;
                if (!pn_data_is_described(filter)) {
                        r = known ? -EINVAL : 0;
                        continue;
                }
                pn_data_enter(filter);
                if (pn_data_next(filter) && pn_data_type(filter) == PN_ULONG &&
                    pn_data_get_ulong(filter) == SELECTOR_CODE)
                        known = true;
                if (known) {
                        if (!pn_data_next(filter) || pn_data_type(filter) != PN_STRING)
                                return -EINVAL;
                        text = pn_data_get_string(filter);
                        *ret = (AmqpBytes) { (const uint8_t *) text.start, text.size };
                        r = 1;
                }
                pn_data_exit(filter);
        }
        return r;
}

static int find_position(pn_link_t *link, HubEventsPosition *ret) {
        AmqpBytes expression;
        int r;

        *ret = (HubEventsPosition) { .from = HUB_EVENTS_FROM_EARLIEST };
        r = find_selector(pn_terminus_filter(pn_link_remote_source(link)), &expression);
        return r <= 0 ? r : amqp_filter_parse(expression, ret);
}

/* ---- who else reads ---- */

static int64_t integer(pn_data_t *d) {
        switch (pn_data_type(d)) {
        case PN_LONG: return pn_data_get_long(d);
        case PN_INT: return pn_data_get_int(d);
        case PN_ULONG: return (int64_t) MIN(pn_data_get_ulong(d), (uint64_t) INT64_MAX);
        case PN_UINT: return pn_data_get_uint(d);
        default: return -1;
        }
}

static void find_epoch(AmqpLink *l) {
        static const char name[] = "com.microsoft:epoch";
        pn_data_t *d = pn_link_remote_properties(l->link);
        size_t n;

        if (!d)
                return;
        pn_data_rewind(d);
        if (!pn_data_next(d) || pn_data_type(d) != PN_MAP)
                return;
        n = pn_data_get_map(d) / 2;
        pn_data_enter(d);
        for (size_t i = 0; i < n && pn_data_next(d); i++) {
                pn_bytes_t key = pn_data_type(d) == PN_SYMBOL ? pn_data_get_symbol(d)
                                                              : pn_bytes(0, NULL);
                bool found = key.size == strlen(name) && memcmp(key.start, name, key.size) == 0;

                if (!pn_data_next(d))
                        return;
                if (found) {
                        l->epoch = integer(d);
                        l->has_epoch = l->epoch >= 0;
                }
        }
}

static bool reads_the_same(const AmqpLink *l, const AmqpLink *other) {
        return other != l && other->type == &reader_type &&
               other->address.partition == l->address.partition &&
               streq(other->address.group, l->address.group);
}

/* A reader with an epoch is alone: it takes the place of those with a lower one or none. 1: it may
 * read; 0: refused. */
static int make_room(AmqpLink *l) {
        unsigned n = 0;

        for (AmqpConn *c = l->conn->door->conns; c; c = c->next)
                for (AmqpLink *other = c->links; other; other = other->next) {
                        if (!reads_the_same(l, other))
                                continue;
                        if (other->has_epoch && (!l->has_epoch || l->epoch < other->epoch)) {
                                amqp_link_refuse(l, "amqp:link:stolen",
                                                 "a reader with a higher epoch reads this partition");
                                return 0;
                        }
                        n++;
                }
        if (!l->has_epoch && n >= READERS_MAX) {
                amqp_link_refuse(l, "amqp:resource-limit-exceeded",
                                 "five readers without an epoch read this partition in this group");
                return 0;
        }
        if (!l->has_epoch)
                return 1;
        for (AmqpConn *c = l->conn->door->conns; c; c = c->next)
                for (AmqpLink *other = c->links, *next; other; other = next) {
                        next = other->next;
                        if (!reads_the_same(l, other))
                                continue;
                        amqp_link_detach(other, "amqp:link:stolen", "a reader with a higher epoch has come");
                        c->again = true;
                }
        return 1;
}

int amqp_events_attach(AmqpLink *l) {
        _cleanup_free_ char *reason = NULL;
        HubEventsPosition position;
        int r;

        if (find_position(l->link, &position) < 0) {
                amqp_link_refuse(l, "com.microsoft:argument-error",
                                 "the filter is none that is known: amqp.annotation.x-opt-offset, "
                                 "-sequence-number or -enqueued-time > 'VALUE'");
                return 0;
        }
        find_epoch(l);
        /* Before others lose their place to it. */
        r = hub_events_reader_open(hub_events(l->conn->door->hub), l->address.partition, &position,
                                   &l->reader, &reason);
        if (r == -ERANGE) {
                amqp_link_refuse(l, "com.microsoft:argument-error", reason);
                return 0;
        }
        if (r < 0)
                return r;
        if (make_room(l) == 0)
                return 0;
        amqp_link_accept(l, &reader_type);
        return 0;
}
