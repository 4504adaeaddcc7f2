/* The devices of a hub: its identity registry. */
#include "client/cmd-identity.h"

#define DEVICE_VERB .group = "device", .hub = true, .arguments_min = 1

const Verb verb_device_create = {
        DEVICE_VERB,
        .name = "create",
        .arguments = "ID",
        .arguments_max = 1,
        .summary = "Create a device and print its keys and connection string",
        .description = "The hub makes the keys that are not given. Exit code 73 when the device exists.",
        .options = device_create_options,
        .run = cmd_identity_create,
};

const Verb verb_device_show = {
        DEVICE_VERB,
        .name = "show",
        .arguments = "ID",
        .arguments_max = 1,
        .summary = "Show a device",
        .options = identity_show_options,
        .run = cmd_identity_show,
};

const Verb verb_device_update = {
        DEVICE_VERB,
        .name = "update",
        .arguments = "ID",
        .arguments_max = 1,
        .summary = "Change what the options name, and nothing else",
        .description = "Exit code 75 when others changed the device meanwhile; what they changed is shown.",
        .options = device_update_options,
        .run = cmd_identity_update,
};

const Verb verb_device_enable = {
        DEVICE_VERB,
        .name = "enable",
        .arguments = "ID...",
        .arguments_max = -1,
        .summary = "Let devices connect",
        .options = device_status_options,
        .run = cmd_device_enable,
};

const Verb verb_device_disable = {
        DEVICE_VERB,
        .name = "disable",
        .arguments = "ID...",
        .arguments_max = -1,
        .summary = "Cut devices off, and let them connect no more",
        .options = device_status_options,
        .run = cmd_device_disable,
};

const Verb verb_device_delete = {
        DEVICE_VERB,
        .name = "delete",
        .arguments = "ID...",
        .arguments_max = -1,
        .summary = "Delete devices, with their twins and modules",
        .options = identity_delete_options,
        .run = cmd_identity_delete,
};

const Verb verb_device_renew_key = {
        DEVICE_VERB,
        .name = "renew-key",
        .arguments = "ID",
        .arguments_max = 1,
        .summary = "Make keys of a device anew and print them",
        .options = identity_renew_key_options,
        .run = cmd_identity_renew_key,
};

const Verb verb_device_connection_string = {
        DEVICE_VERB,
        .name = "connection-string",
        .arguments = "ID",
        .arguments_max = 1,
        .summary = "Print the connection string of a device, alone, as iothubd reads it",
        .options = identity_connection_string_options,
        .run = cmd_identity_connection_string,
};
