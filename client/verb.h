/* verb.h: what main.c dispatches to. One row per verb; its --help is made from the row, so that it
 * cannot say something else than the parser does. */
#pragma once

#include <stdbool.h>

#include "client/options.h"

/* Options that every verb takes, before or after the verb's name. Strings are borrowed from argv.
 */
typedef struct Globals {
        const char *socket_path;
        const char *login_file; /* NULL: see login.h */
        const char *ca_file;    /* NULL: the system's roots */
        unsigned https_port, amqp_port;
        bool json;
        bool verbose;
        bool help;
        bool version;
} Globals;

typedef struct Verb Verb;

struct Verb {
        const char *group;       /* "device", or NULL */
        bool hub;                /* talks to the hub, else to iothubd */
        const char *name;        /* "create" */
        const char *arguments;   /* "ID", for the usage line; NULL: takes none */
        int arguments_min;       /* fewer or more are a usage error */
        int arguments_max;       /* -1: any number */
        const char *summary;     /* one line without a full stop */
        const char *description; /* further lines for --help, or NULL */
        const Option *options;   /* ends with an empty row */

        /* Options are parsed by the verb with verb_parse(). Returns the exit code. */
        int (*run)(const Verb *verb, Globals *globals, int argc, char **argv);
};

extern const Verb verb_send, verb_status, verb_flush, verb_simulate;
extern const Verb verb_device_create, verb_device_show, verb_device_list, verb_device_update,
                verb_device_enable, verb_device_disable, verb_device_delete, verb_device_renew_key,
                verb_device_connection_string;
extern const Verb verb_module_create, verb_module_show, verb_module_list, verb_module_update,
                verb_module_delete, verb_module_renew_key, verb_module_connection_string;
extern const Verb verb_twin_show, verb_twin_update, verb_twin_replace, verb_invoke;
extern const Verb verb_c2d_send, verb_c2d_purge, verb_feedback;
extern const Verb verb_monitor;
extern const Verb verb_explain;
extern const Verb verb_query, verb_stats, verb_sas, verb_device_import, verb_device_export;

extern const Option global_options[];

/* Parses the options behind the verb, global ones among them. argv[0] is the verb's name; on
 * success *argv and *argc are the arguments alone. settings: where the verb's options go. 1: go on;
 * 0: help was shown; -EINVAL: the mistake was told on stderr. */
int verb_parse(const Verb *verb, Globals *globals, void *settings, int *argc, char ***argv);

/* verb_parse()'s result, when it is not 1, as an exit code. */
int verb_parse_exit_code(int r);
