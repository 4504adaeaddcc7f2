/* ctl-verb.h: the command line of "iothub-emulator ctl" as a call of the interface
 * io.iothubd.emulator. Pure. */
#pragma once

#include <stdbool.h>

#include "lib/json-util.h"
#include "lib/time-util.h"

typedef struct CtlRequest {
        const char *state;  /* borrowed; NULL: the default */
        const char *verb;   /* static; NULL: --help was given */
        const char *method; /* static, full name */
        struct json_object *parameters;
        const char *file; /* borrowed; NULL: none: its text goes into the parameter file_field (static) */
        const char *file_field;
        bool json;
        usec_t timeout_usec; /* USEC_INFINITY: none */
} CtlRequest;

void ctl_request_done(CtlRequest *r);

/* argv[0] is skipped; argv is reordered and borrowed by *ret. 0, -EINVAL (*reterr_text tells what
 * and what is allowed, the caller's) or -ENOMEM. */
int ctl_parse(int argc, char **argv, CtlRequest *ret, char **reterr_text);

/* For --help. */
const char *ctl_help(void);
