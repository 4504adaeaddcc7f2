#include "client/amqp-endpoint.h"

#include <ctype.h>

#include <proton/codec.h>
#include <proton/condition.h>

#include "lib/amqp-value.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"
#include "client/output.h"

#define PORT_DEFAULT 5671U
#define TOKEN_LIFETIME_SEC 3600U
#define REDIRECT_BYTES_MAX 4096U
#define PROBE_ADDRESS "messages/events/$management"

void amqp_endpoint_done(AmqpEndpoint *e) {
        free(e->host);
        free(e->name);
        free(e->entity);
        *e = (AmqpEndpoint){};
}

int amqp_endpoint_parse(const char *hostname, const char *network_host, unsigned port,
                        const char *address, AmqpEndpoint *ret) {
        _cleanup_(amqp_endpoint_done) AmqpEndpoint e = {};
        const char *path = address ? strstr(address, "://") : NULL;
        unsigned ignored;
        size_t n;
        int r;

        if (!path || !hostname)
                return -EINVAL;
        path = strchr(path + 3, '/');
        n = path ? strcspn(path + 1, "/") : 0;
        if (n == 0)
                return -EINVAL;
        e.entity = strndup(path + 1, n);
        if (!e.entity)
                return -ENOMEM;
        r = host_port_split(hostname, PORT_DEFAULT, &e.name, &e.port);
        if (r >= 0)
                r = host_port_split(network_host && *network_host ? network_host : e.name,
                                    PORT_DEFAULT, &e.host, &ignored);
        if (r < 0)
                return r;
        if (port > 0)
                e.port = port;
        *ret = e;
        e = (AmqpEndpoint){};
        return 0;
}

int amqp_connect(AmqpLoop *loop, const AmqpConnectionSettings *settings, AmqpConnection **ret) {
        int r;

        r = amqp_connection_new(settings, ret);
        while (r >= 0 && !amqp_connection_is_open(*ret))
                r = amqp_loop_turn(loop, *ret,
                                   USEC_INFINITY); /* the connection has deadlines of its own */
        return r;
}

/* "policy@sas.root.hub": the hub's name is its host's up to the first dot. */
static int make_user(const ConnectionString *login, const char *host, char **ret) {
        return format_string(ret, "%s@sas.root.%.*s", login->shared_access_key_name,
                             (int) strcspn(host, "."), host);
}

int amqp_connect_hub(AmqpLoop *loop, const Globals *g, const ConnectionString *login,
                     AmqpConnection **ret) {
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_free_ char *host = NULL, *user = NULL;
        unsigned port_of_https;
        int r;

        /* A port in HostName is that of HTTPS. */
        r = host_port_split(login->host_name, 443, &host, &port_of_https);
        if (r < 0)
                return r;
        for (char *p = host; *p; p++)
                *p = (char) tolower((unsigned char) *p); /* the hub signs lower case */
        r = make_user(login, host, &user);
        if (r >= 0)
                r = sas_token_make(login->shared_access_key, host,
                                   now_usec(CLOCK_REALTIME) / USEC_PER_SEC + TOKEN_LIFETIME_SEC,
                                   login->shared_access_key_name, &token);
        if (r < 0)
                return r;
        return amqp_connect(loop,
                            &(AmqpConnectionSettings){
                                            .host = host,
                                            .port = g->amqp_port,
                                            .ca_file = g->ca_file,
                                            .user = user,
                                            .password = token,
                                            .verbose = g->verbose,
                            },
                            ret);
}

/* A text of the map, in memory of its own; NULL where there is none. */
static int get_text(const AmqpValue *map, const char *name, char **ret) {
        AmqpBytes b;
        AmqpValue v;

        if (amqp_map_get(map, name, &v) <= 0 || !amqp_value_text(&v, &b))
                return 0;
        *ret = strndup((const char *) b.data, b.size);
        return *ret ? 0 : -ENOMEM;
}

static int read_redirect(pn_condition_t *condition, AmqpEndpoint *ret) {
        _cleanup_free_ char *hostname = NULL, *network_host = NULL, *address = NULL;
        char bytes[REDIRECT_BYTES_MAX];
        int64_t port = 0;
        AmqpReader reader;
        AmqpValue map, v;
        ssize_t n;

        n = pn_data_encode(pn_condition_info(condition), bytes, sizeof(bytes));
        if (n <= 0)
                return -EINVAL;
        amqp_reader_init(&reader, bytes, (size_t) n);
        if (amqp_read(&reader, &map) <= 0)
                return -EINVAL;
        if (get_text(&map, "hostname", &hostname) < 0 ||
            get_text(&map, "network-host", &network_host) < 0 ||
            get_text(&map, "address", &address) < 0)
                return -ENOMEM;
        if (amqp_map_get(&map, "port", &v) > 0 &&
            (!amqp_value_integer(&v, &port) || port < 0 || port > 65535))
                return -EINVAL;
        return amqp_endpoint_parse(hostname, network_host, (unsigned) port, address, ret);
}

int amqp_endpoint_find(AmqpLoop *loop, AmqpConnection *c, AmqpEndpoint *ret) {
        AmqpLink probe = { .stage = AMQP_STAGE_REDIRECT, .may_close = true };
        AmqpError *error = amqp_connection_error(c);
        pn_condition_t *condition;
        int r;

        r = amqp_connection_attach(c, /* receiver= */ true, "iothubctl-probe", PROBE_ADDRESS, NULL,
                                   &probe);
        if (r < 0)
                return r;
        r = amqp_loop_until(loop, c, &probe.closed, AMQP_STAGE_REDIRECT);
        if (r < 0) {
                amqp_link_close(&probe);
                return r;
        }
        condition = pn_link_remote_condition(probe.link);
        if (!pn_condition_is_redirect(condition))
                amqp_error_set_condition(error, AMQP_STAGE_REDIRECT,
                                         pn_condition_get_name(condition),
                                         pn_condition_get_description(condition));
        else {
                r = read_redirect(condition, ret);
                if (r == -EINVAL)
                        amqp_error_set(error, AMQP_STAGE_REDIRECT, EX_PROTOCOL,
                                       "report it with the output of --verbose",
                                       "the hub's answer is not understood");
        }
        amqp_link_close(&probe);
        if (r == -ENOMEM)
                return r;
        return error->set ? -EIO : 0;
}
