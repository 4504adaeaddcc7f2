/* trouble-json.h: a trouble as the interface io.iothubd.emulator carries it. */
#pragma once

#include "emulator/hub-trouble.h"
#include "lib/json-util.h"

/* now_usec: CLOCK_MONOTONIC, because the wire tells how long, not until when. 0 or -ENOMEM. */
int trouble_to_json(const Trouble *t, usec_t now_usec, struct json_object **ret);

/* Ranges are troubles_set()'s to check. 0, -EINVAL (*reterr_field names the field) or -ENOMEM. */
int trouble_from_json(struct json_object *o, usec_t now_usec, Trouble *ret,
                      const char **reterr_field);

/* Appends all to an array. 0 or -ENOMEM. */
int troubles_append_json(const Troubles *t, usec_t now_usec, struct json_object *list);

/* parameters: those of EndTroubles. *ret_n: how many have ended. 0 or -EINVAL (likewise). */
int troubles_end_from_json(Troubles *t, struct json_object *parameters, size_t *ret_n,
                           const char **reterr_field);
