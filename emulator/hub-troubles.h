/* hub-troubles.h: trouble at the doors whose servers are in the broker's process. It is asked for
 * at the front's control socket, comes here as calls of hub-report.h, and is asked by the doors'
 * threads: everything locks by itself. */
#pragma once

#include "emulator/hub-trouble.h"
#include "emulator/hub-report.h"

typedef struct HubTroubles HubTroubles;

int hub_troubles_new(HubTroubles **ret);
HubTroubles *hub_troubles_free(HubTroubles *t);
DEFINE_CLEANUP(HubTroubles *, hub_troubles_free);

/* As troubles_on_request(). */
void hub_troubles_on_request(HubTroubles *t, const char *device, TroubleCalls calls,
                             TroubleRequest *ret);

/* As troubles_on_amqp(), which has the condition's room; cheap while there is none. */
bool hub_troubles_on_amqp(HubTroubles *t, TroubleKind kind, char ret_condition[static TEXT_FINDER_MAX + 1]);

/* A call, with its parameters as JSON: HUB_CALL_SET_TROUBLE takes a Trouble and gives {},
 * HUB_CALL_END_TROUBLES takes the parameters of EndTroubles and gives {"ended"},
 * HUB_CALL_LIST_TROUBLES gives {"troubles"}. After a failure *ret_answer is {"field"}. 0, -EINVAL,
 * -E2BIG or -ENOMEM. */
int hub_troubles_call(HubTroubles *t, HubCall call, const char *parameters, size_t n,
                      char **ret_answer);
