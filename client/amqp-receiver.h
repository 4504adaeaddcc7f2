/* amqp-receiver.h: readers of all partitions of an events endpoint, which know how far each has
 * read, over connections that come and go: nothing twice, nothing left out. */
#pragma once

#include "client/amqp-management.h"
#include "client/event-start.h"
#include "client/event.h"

typedef struct EventReceivers EventReceivers;

typedef struct EventReceiversSettings {
        const char *consumer_group; /* borrowed */
        EventStart start;

        /* Each event, borrowed. 0, or an error that ends the reading. */
        int (*on_event)(const Event *e, void *userdata);

        /* Asked before each: false holds the events back, at the hub in the end, until
         * event_receivers_resume(). */
        bool (*wants_more)(void *userdata);
        void *userdata;
} EventReceiversSettings;

int event_receivers_new(const EventReceiversSettings *settings,
                        EventReceivers **ret); /* 0 or -ENOMEM */
EventReceivers *event_receivers_free(EventReceivers *r);
DEFINE_CLEANUP(EventReceivers *, event_receivers_free);

/* Attaches to each partition, from where its reader is, or from the start; waits until all are
 * there. 0; or as amqp_loop_turn(), with the connection's error set. */
int event_receivers_attach(EventReceivers *r, AmqpLoop *loop, AmqpConnection *c, const char *entity,
                           const AmqpPartition *partitions, size_t n);

/* The connection is about to be freed. */
void event_receivers_detach(EventReceivers *r);

/* Goes on with what was held back. 0, or what on_event() ended the reading with. */
int event_receivers_resume(EventReceivers *r);

size_t event_receivers_count(const EventReceivers *r);

/* Of on all connections: events that came twice and were left out, and numbers that never came
 * because the hub had let them go meanwhile. */
uint64_t event_receivers_missing(const EventReceivers *r);
