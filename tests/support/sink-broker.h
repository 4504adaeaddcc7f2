/* sink-broker.h: the least that an MQTT client takes for a hub: TLS, CONNACK, a PUBACK for each
 * PUBLISH, many in one write. It costs so little that in a benchmark the client is the limit, and
 * it can misbehave where a test needs that. Runs as a child process. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct SinkBrokerOptions {
        const char *cert_file, *key_file;
        const char *address; /* NULL: 127.0.0.1 */
        bool cut_tls;        /* closes each connection at once */
        uint8_t connack;     /* return code of every CONNACK */
        const char *cut_at;  /* cuts the connection at a PUBLISH whose topic holds this text */
        bool cut_always;     /* cuts at the first PUBLISH */
        bool no_connack;     /* takes CONNECT and stays silent */
        bool no_puback;
        bool old_session; /* finds one that is subscribed to messages to the device, and cuts at a PUBLISH before
                             that subscription has ended */
        uint64_t stop_after; /* cuts once this many PUBLISHes of a connection are acknowledged; 0:
                                never */
} SinkBrokerOptions;

/* *ret_port tells where. The child ends with its parent. Returns its pid or -errno. */
pid_t sink_broker_start(const SinkBrokerOptions *options, unsigned *ret_port);
void sink_broker_stop(pid_t pid);
