/* registry-client.h: HTTPS calls to a hub's service API, one after the other or several at once;
 * libcurl stays inside. Requests, answers and their quirks: docs/hub-limits.md, "Registry". */
#pragma once

#include <stdbool.h>

#include <json-c/json.h>

#include "lib/connection-string.h"
#include "lib/macro.h"
#include "lib/time-util.h"
#include "client/hub-error.h"

typedef struct RegistryClient RegistryClient;

typedef struct RegistryClientSettings {
        const char *ca_file; /* borrowed; NULL: the system's authorities */
        unsigned https_port;
        bool verbose; /* requests and answers on stderr, without secrets */
        bool quiet;   /* no line when a call is made again */
} RegistryClientSettings;

/* login: borrowed, must outlive the client. 0, -EINVAL (the host name is not usable) or -ENOMEM. */
int registry_client_new(const ConnectionString *login, const RegistryClientSettings *settings,
                        RegistryClient **ret);
RegistryClient *registry_client_free(RegistryClient *c);
DEFINE_CLEANUP(RegistryClient *, registry_client_free);

/* What a failure leaves open decides whether a call is made again. */
typedef enum RegistryRepeat {
        REGISTRY_REPEAT_SAFE, /* done twice is as done once */
        REGISTRY_REPEAT_NEVER_AFTER_SENDING, /* a method must not run twice; throttled calls did not run */
} RegistryRepeat;

typedef struct RegistryRequest {
        const char *method;       /* "GET", "PUT", "PATCH", "POST", "DELETE" */
        const char *path;         /* "/devices/ID", with the id percent-encoded */
        const char *query;        /* "top=100", or NULL */
        const char *if_match;     /* as sent, quotes included; or NULL */
        const char *continuation; /* of the page before, or NULL */
        unsigned page_size;       /* 0: the hub's choice */
        struct json_object *body; /* borrowed; or NULL */
        RegistryRepeat repeat;
        usec_t timeout_usec; /* 0: a minute */
        const char *module_of; /* the device whose module the call is about, to which it may be missing; or NULL */
        const char *what;    /* "Cannot create device d1": begins the sentence about a failure */

        /* An answer that is not told as a failure: the call gives its exit code in silence, and *ret has
         * the answer. 0: none. */
        long expected_status[3];
} RegistryRequest;

typedef struct RegistryAnswer {
        long status;              /* 0: there was none */
        struct json_object *body; /* NULL where it was empty or no JSON */
        char *continuation;       /* NULL: the last page */
        char *item_type;          /* of a query, or NULL */
} RegistryAnswer;

void registry_answer_done(RegistryAnswer *a);

/* Sends, and sends again while the hub is throttling or failing, a few times, where that is safe.
 * ret (may be NULL) gets the answer. EX_OK, or the exit code after telling why: that of hub-error.h's
 * table, EXIT_NO_DAEMON (not reached). */
int registry_client_call(RegistryClient *c, const RegistryRequest *request, RegistryAnswer *ret);

/* Begins a call of several at once; its strings and body are copied. on_done gets the exit code and the
 * answer, borrowed, from within registry_client_wait(). EX_OK or the exit code, told. */
int registry_client_start(RegistryClient *c, const RegistryRequest *request,
                          void (*on_done)(int exit_code, const RegistryAnswer *a, void *userdata),
                          void *userdata);

/* Works on what was started until one call has ended, a signal came, fd has something to read (-1: there
 * is none to look at), or the time is over. The count of calls that are under way. */
unsigned registry_client_wait(RegistryClient *c, int fd, usec_t timeout_usec);

/* Until when the hub wants no call (CLOCK_MONOTONIC), 0 where it did not say. */
usec_t registry_client_paused_until(const RegistryClient *c);
