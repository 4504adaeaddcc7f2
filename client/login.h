/* login.h: the credentials of the person who runs iothubctl: a service connection string of the
 * hub. */
#pragma once

#include "lib/connection-string.h"
#include "client/events-login.h"
#include "client/verb.h"

/* From --login-file, else $IOTHUB_CONNECTION_STRING (which is erased from the environment), else
 * ~/.config/iothubd/connection-string. connection_string_done() erases *ret.
 * EX_OK, or the exit code after telling what is missing. */
int login_load(const Globals *g, ConnectionString *ret);

/* As above, where the events alone are wanted: the text may be the connection string of an Event Hubs
 * endpoint, too. Then ret_events->host is set, else ret_hub->host_name; both are to be ended. */
int login_load_events(const Globals *g, ConnectionString *ret_hub, EventsLogin *ret_events);
