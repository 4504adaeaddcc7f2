/* Goal: what appears on this machine's links is heard once, and what only lives on is not (promise P6). Method:
 * messages as the kernel makes them, by hand. */
#include "tests/support/test.h"

#include <linux/rtnetlink.h>

#include "daemon/uplink-netlink.h"

typedef union Message {
        struct nlmsghdr header;
        char bytes[256];
} Message;

static void add_attribute(Message *m, unsigned short type, const void *data, size_t size) {
        struct rtattr *a = (struct rtattr *) (m->bytes + NLMSG_ALIGN(m->header.nlmsg_len));

        a->rta_type = type;
        a->rta_len = (unsigned short) RTA_LENGTH(size);
        memcpy(RTA_DATA(a), data, size);
        m->header.nlmsg_len = NLMSG_ALIGN(m->header.nlmsg_len) + a->rta_len;
}

static Message address_message(uint32_t made, uint32_t renewed) {
        Message m = { .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                                  .nlmsg_type = RTM_NEWADDR } };
        const struct ifa_cacheinfo times = { .cstamp = made, .tstamp = renewed };
        const uint8_t address[16] = { 0xfe, 0x80 };

        add_attribute(&m, IFA_ADDRESS, address, sizeof(address));
        add_attribute(&m, IFA_CACHEINFO, &times, sizeof(times));
        return m;
}

TEST(an_address_is_news_when_it_is_new_and_not_when_its_router_renews_it) {
        Message m = address_message(123456, 123456);

        ck_assert(uplink_netlink_is_news(&m.header));
        m = address_message(123456, 123458);
        ck_assert(uplink_netlink_is_news(&m.header));
        m = address_message(123456, 123456 + 3000); /* half a minute later */
        ck_assert(!uplink_netlink_is_news(&m.header));
        m = address_message(UINT32_MAX, 1); /* the clock of these times begins anew */
        ck_assert(uplink_netlink_is_news(&m.header));
}

TEST(an_address_without_times_is_news_and_half_a_message_is_not) {
        Message m = { .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)),
                                  .nlmsg_type = RTM_NEWADDR } };

        ck_assert(uplink_netlink_is_news(&m.header));
        m.header.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg) - 1);
        ck_assert(!uplink_netlink_is_news(&m.header));
}

TEST(a_route_is_news_when_it_leads_to_other_machines) {
        Message m = { .header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
                                  .nlmsg_type = RTM_NEWROUTE } };
        struct rtmsg *route = NLMSG_DATA(&m.header);

        *route = (struct rtmsg) { .rtm_type = RTN_UNICAST, .rtm_table = RT_TABLE_MAIN };
        ck_assert(uplink_netlink_is_news(&m.header));
        route->rtm_table = RT_TABLE_LOCAL;
        ck_assert(!uplink_netlink_is_news(&m.header));
        *route = (struct rtmsg) { .rtm_type = RTN_BROADCAST, .rtm_table = RT_TABLE_MAIN };
        ck_assert(!uplink_netlink_is_news(&m.header));
        m.header.nlmsg_type = RTM_DELROUTE;
        ck_assert(!uplink_netlink_is_news(&m.header));
}
