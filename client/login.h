/* login.h: the credentials of the person who runs iothubctl: a service connection string of the
 * hub. */
#pragma once

#include "lib/connection-string.h"
#include "client/verb.h"

/* From --login-file, else $IOTHUB_CONNECTION_STRING (which is erased from the environment), else
 * ~/.config/iothubd/connection-string. connection_string_done() erases *ret.
 * EX_OK, or the exit code after telling what is missing. */
int login_load(const Globals *g, ConnectionString *ret);
