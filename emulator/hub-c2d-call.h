/* hub-c2d-call.h: sending a message to a device from the emulator's own command line, without a
 * service client: the method SendMessage of emulator.varlink, on the hub's side. */
#pragma once

#include "emulator/hub.h"

/* parameters: the JSON object. *ret_answer, the caller's: {"sequence":N}, or with an error
 * {"parameter":NAME}
 * (-EINVAL) or {"reason":TEXT}. 0, the errors of hub_c2d_send(), or -EBADMSG (a parameter is
 * missing or of another type); -ENOMEM leaves no answer. */
int hub_c2d_call(Hub *h, const char *parameters, size_t n, usec_t now_usec, char **ret_answer);
