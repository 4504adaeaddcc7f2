/* registry-client.h: HTTPS calls to a hub's service API; libcurl stays inside.
 * Requests, answers and their quirks: docs/hub-limits.md, "Registry". */
#pragma once

#include <json-c/json.h>

#include "lib/connection-string.h"
#include "lib/macro.h"

typedef struct RegistryClient RegistryClient;

/* login: borrowed, must outlive the client. ca_file may be NULL. 0, -EINVAL (the host name is not
 * usable) or -ENOMEM. */
int registry_client_new(const ConnectionString *login, const char *ca_file, unsigned https_port,
                        RegistryClient **ret);
RegistryClient *registry_client_free(RegistryClient *c);
DEFINE_CLEANUP(RegistryClient *, registry_client_free);

typedef struct RegistryRequest {
        const char *method;       /* "GET", "PUT", "DELETE" */
        const char *path;         /* "/devices/ID", with the id percent-encoded */
        const char *query;        /* "top=100", or NULL */
        const char *if_match;     /* as sent, quotes included; or NULL */
        struct json_object *body; /* borrowed; or NULL */
        const char *what; /* "Cannot create device d1": begins the sentence about a failure */
} RegistryRequest;

/* Sends, and sends again while the hub is throttling or failing, a few times. ret_body (may be
 * NULL) gets the answer, or NULL where it was empty. EX_OK, or the exit code after telling why:
 * EX_NOPERM (401, 403), EXIT_NOT_FOUND, EXIT_EXISTS, EX_DATAERR (other 4xx), EXIT_TRY_AGAIN (429,
 * 5xx), EXIT_NO_DAEMON (not reached). */
int registry_client_call(RegistryClient *c, const RegistryRequest *request,
                         struct json_object **ret_body);
