#include "daemon/uplink-netlink.h"

#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "lib/fd-util.h"

#define SAME_TIME_MAX 100U

int uplink_netlink_open(void) {
        struct sockaddr_nl address = {
                .nl_family = AF_NETLINK,
                .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
                             RTMGRP_IPV6_ROUTE,
        };
        _cleanup_close_ int fd = -EBADF;

        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
        if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* Where the kernel gives no times, it is taken for new. The times are hundredths of a second; those of
 * one that is made and given its life at once may differ by one or two. */
static bool is_new_address(const struct nlmsghdr *h) {
        const struct ifa_cacheinfo *times;
        size_t left;

        if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifaddrmsg)))
                return false;
        left = IFA_PAYLOAD(h);
        for (const struct rtattr *a = IFA_RTA((const struct ifaddrmsg *) NLMSG_DATA(h));
             RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                if (a->rta_type != IFA_CACHEINFO || RTA_PAYLOAD(a) < sizeof(*times))
                        continue;
                times = RTA_DATA(a);
                return times->tstamp - times->cstamp <= SAME_TIME_MAX;
        }
        return true;
}

/* Routes of the local table come and go with every address; only those that lead to other machines
 * count. */
bool uplink_netlink_is_news(const struct nlmsghdr *h) {
        const struct rtmsg *route;

        if (h->nlmsg_type == RTM_NEWADDR)
                return is_new_address(h);
        if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < NLMSG_LENGTH(sizeof(*route)))
                return false;
        route = NLMSG_DATA(h);
        return route->rtm_type == RTN_UNICAST && route->rtm_table != RT_TABLE_LOCAL;
}

/* A flood of routes must not hold the loop; what is left comes with its next turn. */
#define DATAGRAMS_PER_TURN 64U

bool uplink_netlink_appeared(int fd) {
        union {
                struct nlmsghdr header;
                char bytes[16384];
        } buffer;
        bool news = false;
        ssize_t n;

        for (unsigned i = 0; i < DATAGRAMS_PER_TURN; i++) {
                struct sockaddr_nl from = {};
                socklen_t n_from = sizeof(from);

                n = recvfrom(fd, &buffer, sizeof(buffer), 0, (struct sockaddr *) &from, &n_from);
                if (n < 0 && errno == ENOBUFS) {
                        news = true; /* more than fits: among it may be what we wait for */
                        continue;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return news;
                if (from.nl_pid != 0) /* not the kernel: any process may write to us */
                        continue;
                for (const struct nlmsghdr *h = &buffer.header; NLMSG_OK(h, n);
                     h = NLMSG_NEXT(h, n))
                        news = news || uplink_netlink_is_news(h);
        }
        return news;
}
