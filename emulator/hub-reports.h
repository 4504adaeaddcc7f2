/* hub-reports.h: takes what the front reports (hub-report.h) on a thread of its own, so that
 * neither the broker waits for the disk with each acknowledgement, nor the front for the broker. */
#pragma once

#include "emulator/hub-troubles.h"
#include "emulator/hub.h"

typedef struct HubReports HubReports;

/* All borrowed. fd: the plugin's end, whose reading side hub_reports_free() shuts down. 0, -ENOMEM
 * or -errno. */
int hub_reports_new(Hub *hub, HubTroubles *troubles, int fd, HubReports **ret);
HubReports *hub_reports_free(HubReports *r);
DEFINE_CLEANUP(HubReports *, hub_reports_free);

/* Returns once all that was reported before the call is in the hub. From any thread. */
void hub_reports_catch_up(HubReports *r);
