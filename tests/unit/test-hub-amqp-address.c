/* Goal: addresses and filters mean what they do at a hub, in every form that SDKs write them, and nothing else
 * means anything. Method: tables. */

#include "tests/support/test.h"

#include "emulator/hub-amqp-address.h"

TEST(addresses_are_known_in_every_form) {
        static const struct {
                const char *address;
                AmqpNode node;
                bool management;
                const char *group;
                unsigned partition;
        } cases[] = {
                { "$cbs", AMQP_NODE_CBS },
                { "/$CBS", AMQP_NODE_CBS },
                { "messages/events/", AMQP_NODE_REDIRECT },
                { "/messages/events", AMQP_NODE_REDIRECT },
                { "messages/events/$management", AMQP_NODE_REDIRECT, true },
                { "amqps://hub.example/messages/events/$management", AMQP_NODE_REDIRECT, true },
                { "messages/events/ConsumerGroups/$Default/Partitions/0", AMQP_NODE_REDIRECT },
                { "$management", AMQP_NODE_MANAGEMENT },
                { "hub/$management", AMQP_NODE_MANAGEMENT },
                { "hub/ConsumerGroups/$Default/Partitions/0", AMQP_NODE_PARTITION, false, "$default", 0 },
                { "/HUB/consumergroups/$default/partitions/3", AMQP_NODE_PARTITION, false, "$default", 3 },
                { "amqps://hub.example:5671/hub/ConsumerGroups/a.b-1/Partitions/2/",
                  AMQP_NODE_PARTITION, false, "a.b-1", 2 },
                { "/messages/devicebound", AMQP_NODE_DEVICEBOUND },
                { "amqps://hub.example/messages/deviceBound", AMQP_NODE_DEVICEBOUND },
                { "/messages/serviceBound/feedback", AMQP_NODE_FEEDBACK },
                { "messages/servicebound/FEEDBACK", AMQP_NODE_FEEDBACK },
                { "/messages/serviceBound/filenotifications", AMQP_NODE_NOTIFICATIONS },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                AmqpAddress a;

                ck_assert_msg(amqp_address_parse(cases[i].address, "hub", &a) == 0, "%s", cases[i].address);
                ck_assert_msg(a.node == cases[i].node && a.management == cases[i].management, "%s",
                              cases[i].address);
                if (cases[i].group) {
                        ck_assert_str_eq(a.group, cases[i].group);
                        ck_assert_uint_eq(a.partition, cases[i].partition);
                }
        }
}

TEST(other_addresses_lead_nowhere) {
        static const char *const cases[] = {
                "", "/", "amqps://", "amqps://hub.example", "messages", "messages/other", "messages/serviceBound",
                "messages/serviceBound/x", "other/ConsumerGroups/$Default/Partitions/0",
                "hub/ConsumerGroups/$Default/Partitions/4", "hub/ConsumerGroups/$Default/Partitions/-1",
                "hub/ConsumerGroups/$Default/Partitions/00000000000", "hub/ConsumerGroups/$Default/Partitions/",
                "hub/ConsumerGroups/$Default/Partitions/0/x", "hub/ConsumerGroups//Partitions/0",
                "hub/ConsumerGroups/a b/Partitions/0", "hub/Groups/$Default/Partitions/0", "hub",
                "hub/ConsumerGroups/123456789012345678901234567890123456789012345678901/Partitions/0",
                "$cb", "$cbss",
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                AmqpAddress a;

                ck_assert_msg(amqp_address_parse(cases[i], "hub", &a) == -ENOENT, "%s", cases[i]);
        }
}

static int parse(const char *text, HubEventsPosition *ret) {
        return amqp_filter_parse((AmqpBytes) { (const uint8_t *) text, strlen(text) }, ret);
}

TEST(filters_are_read_with_and_without_quotes) {
        static const struct {
                const char *text;
                HubEventsFrom from;
                int64_t value;
                bool inclusive;
        } cases[] = {
                { "amqp.annotation.x-opt-offset > '550576'", HUB_EVENTS_FROM_OFFSET, 550576, false },
                { "amqp.annotation.x-opt-offset > '-1'", HUB_EVENTS_FROM_OFFSET, -1, false },
                { "amqp.annotation.x-opt-offset > '@latest'", HUB_EVENTS_FROM_LATEST, 0, false },
                { "amqp.annotation.x-opt-offset >= '0'", HUB_EVENTS_FROM_OFFSET, 0, true },
                { "amqp.annotation.x-opt-sequence-number > '1379'", HUB_EVENTS_FROM_SEQUENCE, 1379, false },
                { " amqp.annotation.x-opt-sequence-number>=1379 ", HUB_EVENTS_FROM_SEQUENCE, 1379, true },
                /* Within the millisecond is not after it. */
                { "amqp.annotation.x-opt-enqueued-time > '1547803620141'", HUB_EVENTS_FROM_TIME,
                  INT64_C(1547803620142000), true },
                { "amqp.annotation.x-opt-enqueued-time >= '1547803620141'", HUB_EVENTS_FROM_TIME,
                  INT64_C(1547803620141000), true },
                { "amqp.annotation.x-opt-enqueuedtimeutc > 1547803620141", HUB_EVENTS_FROM_TIME,
                  INT64_C(1547803620142000), true },
                { "AMQP.Annotation.X-Opt-Offset > '9223372036854775807'", HUB_EVENTS_FROM_OFFSET, INT64_MAX, false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                HubEventsPosition p;

                ck_assert_msg(parse(cases[i].text, &p) == 0, "%s", cases[i].text);
                ck_assert_msg(p.from == cases[i].from && p.inclusive == cases[i].inclusive &&
                                              (p.from == HUB_EVENTS_FROM_LATEST || p.value == cases[i].value),
                              "%s: %d %" PRId64 " %d", cases[i].text, p.from, p.value, p.inclusive);
        }
}

TEST(other_filters_are_refused) {
        static const char *const cases[] = {
                "", "x-opt-offset > '1'", "amqp.annotation.x-opt-offset < '1'", "amqp.annotation.x-opt-offset = '1'",
                "amqp.annotation.x-opt-offset", "amqp.annotation.x-opt-offset >", "amqp.annotation.x-opt-offset > '",
                "amqp.annotation.x-opt-offset > '1", "amqp.annotation.x-opt-offset > 1'",
                "amqp.annotation.x-opt-offset > 'x'", "amqp.annotation.x-opt-sequence-number > '@latest'",
                "amqp.annotation.x-opt-other > '1'", "amqp.annotation.x-opt-offset > '9223372036854775808'",
                "amqp.annotation.x-opt-enqueued-time > '9223372036854775807'",
        };
        HubEventsPosition p;
        char text[400];

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                ck_assert_msg(parse(cases[i], &p) == -EINVAL, "%s", cases[i]);
        memset(text, ' ', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        assert_error(parse(text, &p), -EINVAL);
}
