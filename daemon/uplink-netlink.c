#include "daemon/uplink-netlink.h"

#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "lib/fd-util.h"

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

/* Routes of the local table come and go with every address; only those that lead to other machines
 * count. */
static bool is_news(const struct nlmsghdr *h) {
        const struct rtmsg *route;

        if (h->nlmsg_type == RTM_NEWADDR)
                return true;
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
                        news = news || is_news(h);
        }
        return news;
}
