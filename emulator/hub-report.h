/* hub-report.h: what the front and the broker's plugin say to each other about messages to devices,
 * over a pair of sockets that only the two hold: no client can speak there. Datagrams, in order;
 * what the front has said of a connection is there before the next CONNECT of that device reaches
 * the broker. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/buffer.h"
#include "lib/macro.h"

#define HUB_REPORT_FD 4 /* the plugin's end, in the broker's process */

typedef enum HubReportKind {
        HUB_REPORT_SETTLED, /* number: a sequence number; value: HubC2dEnd */
        HUB_REPORT_REPEAT,  /* number: likewise: deliver it once more */
        HUB_REPORT_CALL,    /* number: chosen by the front; value: HubCall; text: its parameters */
        HUB_REPORT_ANSWER, /* to a call, by the plugin; value: 0 or -errno; text: what is said at HubCall
                            */
        _HUB_REPORT_KIND_MAX,
} HubReportKind;

typedef enum HubCall {
        HUB_CALL_SEND_MESSAGE, /* hub-c2d-call.h */
        HUB_CALL_SET_TROUBLE,  /* this and what follows: hub-troubles.h */
        HUB_CALL_END_TROUBLES,
        HUB_CALL_LIST_TROUBLES,
        _HUB_CALL_MAX,
} HubCall;

typedef struct HubReport {
        uint32_t kind;
        int32_t value;
        uint64_t number;
} HubReport;

#define HUB_REPORT_TEXT_MAX (192U * 1024U) /* the kernel takes no more by default */

/* Both ends, close-on-exec; ret[0] is the front's. 0 or -errno. */
int hub_report_pair(int ret[2]);

/* Waits for room, so it is not for the plugin: the front may be waiting for it. text: n bytes, or
 * NULL. 0, -EMSGSIZE or -errno. */
int hub_report_write(int fd, const HubReport *report, const char *text, size_t n);

/* As above; without room it is -EAGAIN. */
int hub_report_try_write(int fd, const HubReport *report, const char *text, size_t n);

/* text: takes the text in place of what it held, with a NUL behind it. 1, 0 (none waits), -ENOMEM
 * or -errno: the other end is gone. */
int hub_report_read(int fd, HubReport *ret, Buffer *text);
