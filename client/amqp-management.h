/* amqp-management.h: what an Event Hubs endpoint tells of itself over its node "$management". */
#pragma once

#include "client/amqp-request.h"

#define AMQP_PARTITIONS_MAX 1024U
#define AMQP_PARTITION_ID_MAX 32U
#define AMQP_OFFSET_MAX 64U

typedef struct AmqpPartition {
        char id[AMQP_PARTITION_ID_MAX];
        char last_offset[AMQP_OFFSET_MAX]; /* of its newest event; "-1": it is empty */
        int64_t last_sequence;             /* likewise */
} AmqpPartition;

/* Asks for the partitions of the entity and where each of them ends now. *ret is the caller's.
 * 0; or as amqp_loop_turn(), with the connection's error set. */
int amqp_management_partitions(AmqpLoop *loop, AmqpConnection *c, const char *entity,
                               AmqpPartition **ret, size_t *ret_n);
