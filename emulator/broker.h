/* broker.h: mosquitto with our plugin, as a child process in the state folder. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "emulator/hub-events.h"
#include "lib/macro.h"

#define BROKER_SOCKET "broker.sock"
#define REGISTRY_SOCKET "registry.sock"
#define AMQP_SOCKET "amqp.sock"

typedef struct BrokerOptions {
        const char *host;
        const char *secret; /* as in hub-front.h */
        uint64_t token_grace_sec;
        uint64_t amqp_port; /* as clients see it */
        HubEventsLimits events;
        int report_fd;
} BrokerOptions;

/* Writes broker.conf into the working directory and starts the broker there. It dies with this
 * process, even by SIGKILL. report_fd: the plugin's end of hub-report.h, borrowed. *ret_ready_fd becomes readable: a newline when the broker listens, the
 * end of file when it could not start. 0, -ENOENT (no mosquitto, or our plugin is missing:
 * *reterr_what tells), -ENOMEM or -errno. */
int broker_start(const BrokerOptions *o, pid_t *ret_pid, int *ret_ready_fd,
                 const char **reterr_what);
