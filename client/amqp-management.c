#include "client/amqp-management.h"

#include <proton/codec.h>

#include "client/output.h"

static int make_question(pn_message_t *m, const char *entity, const char *type,
                         const char *partition) {
        pn_data_t *map = pn_message_properties(m);

        if (pn_data_put_map(map) < 0 || !pn_data_enter(map) ||
            amqp_put_property(map, "operation", "READ") < 0 ||
            amqp_put_property(map, "name", entity) < 0 ||
            amqp_put_property(map, "type", type) < 0 ||
            (partition && amqp_put_property(map, "partition", partition) < 0) || !pn_data_exit(map))
                return -ENOMEM;
        return 0;
}

static int ask(AmqpRequester *r, AmqpLoop *loop, const char *entity, const char *type,
               const char *partition) {
        pn_message_t *m = pn_message();
        int k;

        k = m ? make_question(m, entity, type, partition) : -ENOMEM;
        if (k >= 0)
                k = amqp_requester_call(r, loop, m);
        pn_message_free(m);
        return k;
}

static int set_not_understood(AmqpRequester *r) {
        amqp_error_set(amqp_connection_error(r->connection), r->stage, EX_PROTOCOL,
                       "report it with the output of --verbose", "the answer is not understood");
        return -EIO;
}

static bool copy_text(const AmqpValue *v, char *to, size_t size) {
        AmqpBytes b;

        if (!amqp_value_text(v, &b) || b.size == 0 || b.size >= size ||
            memchr(b.data, '\0', b.size) ||
            memchr(b.data, '\'', b.size)) /* it will stand in a filter */
                return false;
        memcpy(to, b.data, b.size);
        to[b.size] = '\0';
        return true;
}

static int read_ids(AmqpRequester *r, AmqpPartition **ret, size_t *ret_n) {
        _cleanup_free_ AmqpPartition *partitions = NULL;
        AmqpValue ids, id;
        size_t n = 0;
        int k;

        if (amqp_map_get(&r->message.body, "partition_ids", &ids) <= 0 ||
            (ids.type != AMQP_ARRAY && ids.type != AMQP_LIST) || ids.items.n_left == 0 ||
            ids.items.n_left > AMQP_PARTITIONS_MAX)
                return set_not_understood(r);
        partitions = calloc(ids.items.n_left, sizeof(*partitions));
        if (!partitions)
                return -ENOMEM;
        while ((k = amqp_read(&ids.items, &id)) > 0)
                if (!copy_text(&id, partitions[n++].id, AMQP_PARTITION_ID_MAX))
                        return set_not_understood(r);
        if (k < 0)
                return set_not_understood(r);
        *ret = TAKE_PTR(partitions);
        *ret_n = n;
        return 0;
}

static int read_end(AmqpRequester *r, AmqpPartition *p) {
        AmqpValue v;

        if (amqp_map_get(&r->message.body, "last_enqueued_sequence_number", &v) <= 0 ||
            !amqp_value_integer(&v, &p->last_sequence) ||
            amqp_map_get(&r->message.body, "last_enqueued_offset", &v) <= 0 ||
            !copy_text(&v, p->last_offset, sizeof(p->last_offset)))
                return set_not_understood(r);
        return 0;
}

int amqp_management_partitions(AmqpLoop *loop, AmqpConnection *c, const char *entity,
                               AmqpPartition **ret, size_t *ret_n) {
        _cleanup_free_ AmqpPartition *partitions = NULL;
        AmqpRequester r = {};
        size_t n = 0;
        int k;

        k = amqp_requester_open(&r, c, "$management", AMQP_STAGE_MANAGEMENT);
        if (k >= 0)
                k = ask(&r, loop, entity, "com.microsoft:eventhub", NULL);
        if (k >= 0)
                k = read_ids(&r, &partitions, &n);
        for (size_t i = 0; i < n && k >= 0; i++) {
                k = ask(&r, loop, entity, "com.microsoft:partition", partitions[i].id);
                if (k >= 0)
                        k = read_end(&r, partitions + i);
        }
        amqp_requester_done(&r);
        if (k < 0)
                return k;
        *ret = TAKE_PTR(partitions);
        *ret_n = n;
        return 0;
}
