/* identity.h: a device or a module in the registry: calls about one, and how it is shown. */
#pragma once

#include "client/hub-session.h"

/* Borrowed; module NULL: the device itself. */
typedef struct IdentityName {
        const char *device, *module;
} IdentityName;

/* EX_OK, or EX_USAGE after telling which id is none. */
int identity_name_check(const IdentityName *name);

/* "/devices/ID" or "/twins/ID/modules/MID": root is "devices" or "twins". 0 or -ENOMEM. */
int identity_path(const char *root, const IdentityName *name, char **ret);

/* "Cannot create device d1", "Cannot create module d1/m1". 0 or -ENOMEM. */
int identity_what(const char *verb, const IdentityName *name, char **ret);

typedef struct IdentityCall {
        const char *method;
        const char *verb; /* "create": for the sentence about a failure */
        const char *if_match;
        struct json_object *body;
        bool expect_conflict; /* a 412 is not told */
} IdentityCall;

/* EX_OK and the hub's object (NULL where the answer has none), or the exit code, told.
 * ret_status (may be NULL): of the answer. */
int identity_call(const HubSession *h, const IdentityName *name, const IdentityCall *call,
                  struct json_object **ret, long *ret_status);

/* As above, for what must answer with an object. */
int identity_get(const HubSession *h, const IdentityName *name, const char *verb,
                 struct json_object **ret);

/* Erases the keys before the object goes: json-c keeps copies. */
void identity_erasep(struct json_object **o);
#define _cleanup_identity_ _cleanup_(identity_erasep)

/* A member that is a string, or NULL. */
const char *identity_text(struct json_object *o, const char *field);
const char *identity_key(struct json_object *o, bool secondary); /* or NULL */
const char *identity_auth_type(struct json_object *o);           /* or NULL */

/* "Year 1" is the hub's way to say never. */
const char *identity_time(struct json_object *o, const char *field);

/* Takes the keys out, erased. */
void identity_remove_keys(struct json_object *o);

/* The identity's own connection string, for the login's hub; erase it. 0; -EINVAL (no key of that kind,
 * or an id that cannot stand in one); -ENOMEM. */
int identity_connection_string(const HubSession *h, struct json_object *o, bool secondary, char **ret);

/* Shows it, for people or as the hub's object. keys: with keys and connection string.
 * EX_OK or the exit code, told. */
int identity_show(const HubSession *h, const Globals *g, struct json_object *o, bool keys);

/* How an update or a deletion guards against the changes of others. */
typedef struct IdentityGuard {
        const char *etag; /* NULL: that of what was read first */
        bool force;       /* whatever it is now */
} IdentityGuard;

#define IDENTITY_GUARD_OPTIONS(settings, member)                                                   \
        { "etag", 0, "ETAG", "Only if this is its etag (default: the one that is read first)",     \
          option_path, offsetof(settings, member.etag) },                                          \
        { "force", 0, NULL, "Whatever others have changed meanwhile", option_flag,                 \
          offsetof(settings, member.force) }

/* The If-Match header: quoted, or "*". before: what was read. 0, -EINVAL (no etag known) or -ENOMEM. */
int identity_guard_header(const IdentityGuard *guard, struct json_object *before, char **ret);

/* Tells that a change met another one: by whom is not known, but what. what: as identity_what(); before: what the change was
 * meant for, or NULL. On stderr. */
void identity_tell_conflict(const HubSession *h, const IdentityName *name,
                            const IdentityGuard *guard, const char *what,
                            struct json_object *before);

/* Tells what differs between before and now, one line each on stderr, never a key. Same order. */
void identity_tell_changes(struct json_object *before, struct json_object *now);

/* Reads, lets apply change a copy, writes it back under the guard; a conflict says what changed.
 * *ret is the hub's new object. EX_OK or the exit code, told; apply returns one too. */
int identity_change(const HubSession *h, const IdentityName *name, const IdentityGuard *guard,
                    const char *verb, int (*apply)(struct json_object *o, void *userdata),
                    void *userdata, struct json_object **ret);
