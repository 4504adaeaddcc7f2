/* config.h: the settings of iothubd.conf(5), parsed and checked. One table in config.c lists them all. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"
#include "daemon/log.h"
#include "daemon/outbox.h"

#define CONFIG_FILE_DEFAULT "/etc/iothubd/iothubd.conf"

typedef struct Config {
        /* identity */
        char *connection_string;      /* secret; NULL when absent */
        char *connection_string_file; /* NULL when absent; "credential:NAME" is not needed: see credentials.h */
        char *secondary_connection_string_file; /* NULL when absent */
        char *certificate_file;            /* NULL when absent */
        char *private_key;                 /* a path or URI; NULL: in certificate_file */
        char *private_key_passphrase_file; /* NULL when absent */
        char *key_provider;                /* NULL when absent */
        char *ca_file;                /* NULL: the system's roots */
        unsigned mqtt_port;

        /* places */
        char *state_directory;
        char *socket;
        char *socket_group;           /* NULL: the daemon's own */
        unsigned socket_mode;         /* octal in the file: "0660" */

        LogTarget log_target;
        int log_level;
        usec_t stop_timeout_usec;

        struct {
                uint64_t max_size;     /* 0: automatic */
                uint64_t keep_free;    /* UINT64_MAX: automatic */
                uint64_t segment_size; /* 0: automatic */
                OutboxFullPolicy full;
                usec_t time_to_live_usec;
                uint64_t dead_letter_size;
                unsigned receipts;
                usec_t position_interval_usec;
                unsigned position_messages;
                bool adopt;
        } outbox;

        struct {
                unsigned window;        /* messages in flight, 1..1000 */
                uint64_t window_bytes;
                usec_t keep_alive_usec; /* 10 s .. 1177 s */
                usec_t connect_timeout_usec;
                usec_t ack_timeout_usec;
                usec_t retry_min_usec, retry_max_usec;
                usec_t retry_cut_max_usec;     /* cap after cuts by the hub */
                usec_t clock_wait_usec;        /* for a plausible clock at start */
                usec_t retry_refused_max_usec; /* cap after refused credentials */
                usec_t token_lifetime_usec;
                char *product_info;     /* DeviceClientType; NULL: iothubd/VERSION */
                char *model_id;
        } uplink;

        struct {
                unsigned connections_max;
                unsigned connections_per_user_max;
                uint64_t buffer_bytes_max; /* all connections together */
                uint64_t user_bytes_max;   /* one user's */
                unsigned user_messages_per_sec, user_messages_burst; /* 0 per second: no limit */
        } ipc;
} Config;

/* Reads a file. Unknown names warn with file and line (through log.h); a syntax error or a bad value is -EINVAL after
 * an error line that names file, line, setting and what is allowed. -ENOENT when the file is missing (the edge
 * decides), or -errno. */
int config_load(const char *path, Config *ret);

/* All defaults, no file; of a service, the state directory that systemd made for it ($STATE_DIRECTORY). */
int config_default(Config *ret);
void config_done(Config *c);

/* A row of the table, for the tests that compare it with etc/iothubd.conf and the manual. */
typedef struct ConfigSetting {
        const char *group;         /* NULL: at the top of the file */
        const char *name;
        const char *default_value; /* as it is written in the file, with its quotes; "" (in quotes) is absent */
        const char *allowed;       /* what may stand there, for people */
        const char *help;          /* one sentence */
} ConfigSetting;

/* The i-th row, NULL behind the last. */
const ConfigSetting *config_setting(size_t i);

/* One line per setting, "group.name = default". */
void config_dump_defaults(FILE *f);
