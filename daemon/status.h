/* status.h: counters and states as GetStatus, STATUS= of sd_notify and the log at exit show them.
 */
#pragma once

#include <json-c/json.h>

#include "daemon/outbox.h"
#include "daemon/uplink.h"

/* The parameters of GetStatus's reply. 0 or -ENOMEM; *ret is the caller's. */
int status_to_json(const OutboxStats *outbox, const UplinkStatus *uplink,
                   usec_t started_realtime_usec, struct json_object **ret);

/* One line: "Connected to HUB as DEVICE, 12 queued". Never longer than size. */
void status_to_line(const OutboxStats *outbox, const UplinkStatus *uplink, char *buf, size_t size);
