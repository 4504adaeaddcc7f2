/* sas-token.h: "SharedAccessSignature sr=..&sig=..&se=..[&skn=..]", made and checked.
 * Rules: docs/hub-limits.md, "SAS tokens"; vectors: tests/vectors/device.json sas_token. */
#pragma once

#include <stdint.h>

#include "lib/macro.h"

typedef struct SasToken {
        char *sr;  /* as sent: still encoded */
        char *sig; /* decoded: base64 text */
        uint64_t se_sec; /* seconds since 1970 UTC */
        char *skn; /* decoded, or NULL */
} SasToken;

/* Signs. key_base64 is the shared access key; resource is not yet encoded ("host/devices/id", see
 * sas_resource_device()); policy may be NULL. *ret: erase_and_free() it.
 * 0, -EINVAL (key is not strict base64) or -ENOMEM. */
int sas_token_make(const char *key_base64, const char *resource, uint64_t expiry_sec, const char *policy, char **ret);

/* What of a shared access key signs: the hub takes the bytes that its base64 stands for, an Event Hubs endpoint the text
 * itself, with the same policies and keys. */
typedef enum SasKeyForm {
        SAS_KEY_BASE64,
        SAS_KEY_TEXT,
} SasKeyForm;

/* As sas_token_make(), which is the form SAS_KEY_BASE64. */
int sas_token_make_with(const char *key, SasKeyForm form, const char *resource, uint64_t expiry_sec, const char *policy,
                        char **ret);

/* The resource a device or module signs for, not yet encoded: sas_token_make() encodes it, ids and all, exactly
 * once (vectors: "device id with punctuation"). module_id may be NULL. 0 or -ENOMEM. */
int sas_resource_device(const char *host, const char *device_id, const char *module_id, char **ret);

/* Takes a token apart; fields in any order; nothing verified. 0, -EINVAL or -ENOMEM. */
int sas_token_parse(const char *s, SasToken *ret);
void sas_token_done(SasToken *t);

/* Whether sig is the signature of sr (as sent) and se under the key, compared in constant time.
 * 1 yes, 0 no, -EINVAL (bad key), -ENOMEM. Does not look at the clock. */
int sas_token_verify(const SasToken *t, const char *key_base64);

/* As sas_token_verify(), which is the form SAS_KEY_BASE64. */
int sas_token_verify_with(const SasToken *t, const char *key, SasKeyForm form);
