/* cmd-identity.h: what the verbs of devices and of modules share: the group of the verb says which
 * it is about. */
#pragma once

#include "client/verb.h"

int cmd_identity_create(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_identity_show(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_identity_update(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_identity_delete(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_identity_renew_key(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_identity_connection_string(const Verb *verb, Globals *g, int argc, char **argv);

/* Their options; those of create and update differ by what devices have and modules lack. */
extern const Option device_create_options[], module_create_options[];
extern const Option device_update_options[], module_update_options[];
extern const Option identity_show_options[], identity_delete_options[], identity_renew_key_options[],
                identity_connection_string_options[];

/* "device enable|disable ID...": update with one fixed status. */
int cmd_device_enable(const Verb *verb, Globals *g, int argc, char **argv);
int cmd_device_disable(const Verb *verb, Globals *g, int argc, char **argv);
extern const Option device_status_options[];
