#include "client/amqp-receiver.h"

#include <proton/codec.h>
#include <proton/delivery.h>

#include "lib/string-util.h"
#include "client/output.h"

/* How many events of a partition are on their way at most: as many as take these bytes, all
 * together, by the mean of what came. */
#define BYTES_AHEAD (8U * 1024U * 1024U)
#define CREDIT_MIN 16U
#define CREDIT_MAX 2000U
#define CREDIT_FIRST 100U /* the size is not known yet */
#define MEAN_SHIFT 4U     /* a new size counts a sixteenth */
#define EVENT_BYTES_MAX                                                                            \
        (2U * 1024U * 1024U) /* a hub's have 256 KB at most, with annotations beside */
#define FILTER "apache.org:selector-filter:string"

typedef struct Reader {
        AmqpLink link;
        EventReceivers *all;
        char id[AMQP_PARTITION_ID_MAX];
        char offset[AMQP_OFFSET_MAX]; /* of the last event, or where to begin; "": by time */
        int64_t sequence;             /* of the last event; -1: none yet */
        bool resumed;                 /* no event came since it was attached again */
        Buffer event;
        size_t mean_bytes; /* of its events; 0: none came */
} Reader;

struct EventReceivers {
        EventReceiversSettings settings;
        Reader **readers;
        size_t n_readers;
        int error;
        uint64_t n_missing;
};

int event_receivers_new(const EventReceiversSettings *settings, EventReceivers **ret) {
        EventReceivers *r = malloc(sizeof(*r));

        if (!r)
                return -ENOMEM;
        *r = (EventReceivers){ .settings = *settings };
        *ret = r;
        return 0;
}

EventReceivers *event_receivers_free(EventReceivers *r) {
        if (!r)
                return NULL;
        for (size_t i = 0; i < r->n_readers; i++) {
                buffer_done(&r->readers[i]->event);
                free(r->readers[i]);
        }
        free(r->readers);
        free(r);
        return NULL;
}

size_t event_receivers_count(const EventReceivers *r) {
        return r->n_readers;
}

uint64_t event_receivers_missing(const EventReceivers *r) {
        return r->n_missing;
}

/* What the event says of itself moves the reader on. 0: it came before. */
static int move_on(Reader *reader, const Event *e) {
        if (e->sequence >= 0 && reader->sequence >= 0) {
                if (e->sequence <= reader->sequence)
                        return 0;
                /* While it is attached, numbers that are left out are the hub's own matter. */
                if (reader->resumed && e->sequence > reader->sequence + 1)
                        reader->all->n_missing += (uint64_t) (e->sequence - reader->sequence - 1);
        }
        reader->resumed = false;
        if (e->sequence >= 0)
                reader->sequence = e->sequence;
        if (e->offset.size > 0 && e->offset.size < sizeof(reader->offset)) {
                memcpy(reader->offset, e->offset.data, e->offset.size);
                reader->offset[e->offset.size] = '\0';
        }
        return 1;
}

static int take_event(Reader *reader) {
        const EventReceiversSettings *s = &reader->all->settings;
        Event e;

        if (event_read(reader->event.data, reader->event.size, reader->id, &e) < 0) {
                say_error("An event of partition %s is malformed, and left out", reader->id);
                return 0;
        }
        return move_on(reader, &e) ? s->on_event(&e, s->userdata) : 0;
}

static int credit_for(const Reader *reader) {
        size_t n = CREDIT_FIRST;

        if (reader->mean_bytes > 0)
                n = BYTES_AHEAD / reader->all->n_readers / reader->mean_bytes;
        n = MAX(n, (size_t) CREDIT_MIN);
        return (int) MIN(n, (size_t) CREDIT_MAX);
}

static void count_size(Reader *reader, size_t n) {
        const size_t mean = reader->mean_bytes;

        reader->mean_bytes = mean == 0 ? n : mean - (mean >> MEAN_SHIFT) + (n >> MEAN_SHIFT);
        reader->mean_bytes = MAX(reader->mean_bytes, (size_t) 1);
}

static void give_credit(Reader *reader) {
        const int want = credit_for(reader), have = pn_link_credit(reader->link.link);

        if (have <= want / 2)
                pn_link_flow(reader->link.link, want - have);
}

static int drain(Reader *reader) {
        EventReceivers *all = reader->all;
        pn_link_t *link = reader->link.link;
        pn_delivery_t *d;
        int r;

        while (link && all->error >= 0 && (d = pn_link_current(link)) && pn_delivery_readable(d)) {
                if (!all->settings.wants_more(all->settings.userdata))
                        return 0;
                r = amqp_take_delivery(link, d, &reader->event, EVENT_BYTES_MAX);
                if (r == 0)
                        return 0;
                if (r > 0)
                        r = take_event(reader);
                else if (r == -EMSGSIZE) {
                        say_error("An event of partition %s is too long, and left out", reader->id);
                        r = 0;
                }
                count_size(reader, reader->event.size);
                if (reader->event.allocated > EVENT_BYTES_MAX / 2)
                        buffer_consume(&reader->event, reader->event.size);
                reader->event.size = 0;
                if (r < 0)
                        return all->error = r;
                pn_delivery_update(d, PN_ACCEPTED);
                pn_delivery_settle(d);
                give_credit(reader);
        }
        return all->error;
}

static void on_delivery(AmqpLink *l, pn_delivery_t *d) {
        (void) d;                  /* the link knows which one is current */
        (void) drain(l->userdata); /* an error stays with the receivers until the next resume */
}

int event_receivers_resume(EventReceivers *r) {
        for (size_t i = 0; i < r->n_readers && r->error >= 0; i++)
                (void) drain(r->readers[i]); /* as above */
        return r->error;
}

/* The one of that id, made where it is new. */
static int reader_of(EventReceivers *r, const AmqpPartition *p, Reader **ret) {
        Reader **longer, *reader;

        for (size_t i = 0; i < r->n_readers; i++)
                if (streq(r->readers[i]->id, p->id)) {
                        *ret = r->readers[i];
                        return 0;
                }
        longer = reallocarray(r->readers, r->n_readers + 1, sizeof(Reader *));
        if (!longer)
                return -ENOMEM;
        r->readers = longer;
        reader = malloc(sizeof(*reader));
        if (!reader)
                return -ENOMEM;
        *reader = (Reader){ .all = r, .sequence = -1 };
        strcpy(reader->id, p->id); /* as large */
        if (r->settings.start.kind == EVENT_START_EARLIEST)
                strcpy(reader->offset, "-1");
        else if (r->settings.start.kind == EVENT_START_NOW) {
                /* Where the partition ends now, and not the hub's word for "from now on": a
                 * connection that is lost before the first event must not lose what comes
                 * meanwhile. */
                strcpy(reader->offset, p->last_offset); /* as large */
                reader->sequence = p->last_sequence;
        }
        r->readers[r->n_readers++] = reader;
        *ret = reader;
        return 0;
}

static int set_filter(const Reader *reader) {
        pn_data_t *d = pn_terminus_filter(pn_link_source(reader->link.link));
        _cleanup_free_ char *text = NULL;
        int r;

        if (*reader->offset)
                r = format_string(&text, "amqp.annotation.x-opt-offset > '%s'", reader->offset);
        else /* the hub compares whole milliseconds with "greater" */
                r = format_string(
                                &text, "amqp.annotation.x-opt-enqueued-time > '%" PRId64 "'",
                                (int64_t) (reader->all->settings.start.time_usec / USEC_PER_MSEC) -
                                                1);
        if (r < 0)
                return r;
        if (pn_data_put_map(d) < 0 || !pn_data_enter(d) ||
            pn_data_put_symbol(d, pn_bytes(strlen(FILTER), FILTER)) < 0 ||
            pn_data_put_described(d) < 0 || !pn_data_enter(d) ||
            pn_data_put_symbol(d, pn_bytes(strlen(FILTER), FILTER)) < 0 ||
            amqp_put_string(d, text) < 0 || !pn_data_exit(d) || !pn_data_exit(d))
                return -ENOMEM;
        return 0;
}

static int attach(Reader *reader, AmqpConnection *c, const char *entity) {
        _cleanup_free_ char *address = NULL, *name = NULL;
        int r;

        reader->resumed = reader->sequence >= 0;
        reader->event.size = 0;
        reader->link = (AmqpLink){
                .stage = AMQP_STAGE_ATTACH,
                .on_delivery = on_delivery,
                .userdata = reader,
        };
        r = format_string(&address, "%s/ConsumerGroups/%s/Partitions/%s", entity,
                          reader->all->settings.consumer_group, reader->id);
        if (r >= 0)
                r = format_string(&name, "iothubctl-partition-%s", reader->id);
        if (r >= 0)
                r = amqp_connection_attach(c, /* receiver= */ true, name, address, NULL,
                                           &reader->link);
        if (r >= 0)
                r = set_filter(reader);
        if (r < 0)
                return r;
        give_credit(reader);
        return 0;
}

int event_receivers_attach(EventReceivers *r, AmqpLoop *loop, AmqpConnection *c, const char *entity,
                           const AmqpPartition *partitions, size_t n) {
        int k = 0;

        for (size_t i = 0; i < n && k >= 0; i++) {
                Reader *reader;

                k = reader_of(r, partitions + i, &reader);
                if (k >= 0)
                        k = attach(reader, c, entity);
        }
        for (size_t i = 0; i < r->n_readers && k >= 0; i++)
                if (r->readers[i]->link.link)
                        k = amqp_loop_until(loop, c, &r->readers[i]->link.attached,
                                            AMQP_STAGE_ATTACH);
        return k;
}

void event_receivers_detach(EventReceivers *r) {
        for (size_t i = 0; i < r->n_readers; i++)
                amqp_link_close(&r->readers[i]->link);
}
