#include "client/event.h"

#include <errno.h>

#include "lib/macro.h"

static void take_annotation(AmqpBytes name, const AmqpValue *v, Event *e, bool *has_hub_time) {
        const struct {
                const char *name;
                AmqpBytes *text;
        } texts[] = {
                { "iothub-connection-device-id", &e->device },
                { "iothub-connection-module-id", &e->module },
                { "x-opt-offset", &e->offset },
                { "dt-subject", &e->component },
                { "dt-dataschema", &e->interface },
                { "iothub-interface-name", &e->interface },
        };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (amqp_bytes_equal(name, texts[i].name)) {
                        (void) amqp_value_text(v, texts[i].text); /* else it is as if absent */
                        return;
                }
        if (amqp_bytes_equal(name, "x-opt-sequence-number"))
                (void) amqp_value_integer(v, &e->sequence);
        else if (amqp_bytes_equal(name, "iothub-enqueuedtime"))
                *has_hub_time = amqp_value_integer(v, &e->enqueued_msec);
        else if (amqp_bytes_equal(name, "x-opt-enqueued-time") && !*has_hub_time)
                (void) amqp_value_integer(v, &e->enqueued_msec);
}

int event_read(const void *data, size_t n, const char *partition, Event *ret) {
        Event e = { .partition = partition, .sequence = -1, .enqueued_msec = -1 };
        bool has_hub_time = false;
        AmqpValue name, value;
        AmqpReader r;
        int k;

        k = amqp_message_read(data, n, &e.message);
        if (k < 0)
                return k;
        r = e.message.annotations.items;
        if (e.message.annotations.type != AMQP_MAP)
                r = (AmqpReader){};
        while ((k = amqp_read(&r, &name)) > 0) {
                if (amqp_read(&r, &value) <= 0)
                        return -EBADMSG;
                if (name.type == AMQP_SYMBOL || name.type == AMQP_STRING)
                        take_annotation(name.bytes, &value, &e, &has_hub_time);
        }
        if (k < 0)
                return k;
        *ret = e;
        return 0;
}

AmqpBytes event_body(const Event *e) {
        AmqpBytes b = {};

        (void) amqp_value_text(&e->message.body, &b); /* else there is none to show */
        return b;
}
