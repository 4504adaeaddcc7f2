/* The modules of devices. */
#include "client/cmd-identity.h"

#define MODULE_VERB                                                                                \
        .group = "module", .hub = true, .arguments = "DEVICE MODULE", .arguments_min = 2,          \
        .arguments_max = 2

const Verb verb_module_create = {
        MODULE_VERB,
        .name = "create",
        .summary = "Create a module and print its keys and connection string",
        .options = module_create_options,
        .run = cmd_identity_create,
};

const Verb verb_module_show = {
        MODULE_VERB,
        .name = "show",
        .summary = "Show a module",
        .options = identity_show_options,
        .run = cmd_identity_show,
};

const Verb verb_module_update = {
        MODULE_VERB,
        .name = "update",
        .summary = "Change what the options name, and nothing else",
        .options = module_update_options,
        .run = cmd_identity_update,
};

const Verb verb_module_delete = {
        MODULE_VERB,
        .name = "delete",
        .summary = "Delete a module, with its twin",
        .options = identity_delete_options,
        .run = cmd_identity_delete,
};

const Verb verb_module_renew_key = {
        MODULE_VERB,
        .name = "renew-key",
        .summary = "Make keys of a module anew and print them",
        .options = identity_renew_key_options,
        .run = cmd_identity_renew_key,
};

const Verb verb_module_connection_string = {
        MODULE_VERB,
        .name = "connection-string",
        .summary = "Print the connection string of a module",
        .options = identity_connection_string_options,
        .run = cmd_identity_connection_string,
};
