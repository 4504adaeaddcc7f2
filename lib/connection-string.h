/* connection-string.h: "Key=Value;..." of a device, a module or a service policy, checked.
 * Grammar and known keys: docs/hub-limits.md, "Connection strings". */
#pragma once

#include <stdbool.h>

#include "lib/macro.h"

typedef enum ConnectionStringKind {
        CONNECTION_STRING_DEVICE, /* HostName, DeviceId and one of SharedAccessKey, x509 */
        CONNECTION_STRING_SERVICE, /* HostName, SharedAccessKeyName, SharedAccessKey */
        _CONNECTION_STRING_KIND_MAX,
        _CONNECTION_STRING_KIND_INVALID = -EINVAL,
} ConnectionStringKind;

typedef struct ConnectionString {
        ConnectionStringKind kind;
        char *host_name;              /* lower case is not forced; a ":port" suffix is kept */
        char *gateway_host_name;      /* or NULL */
        char *device_id;              /* device kind only */
        char *module_id;              /* or NULL */
        char *shared_access_key;      /* base64 as given; NULL with x509 or a ready-made token */
        char *shared_access_key_name; /* service kind only */
        char *shared_access_signature;/* a ready-made token, or NULL */
        bool x509;
} ConnectionString;

/* Parses and checks. White space around the whole text (a trailing newline of a file) is allowed. Keys are
 * accepted in exact case only. A repeated or unknown key, a missing one, an empty value, a key that is not
 * strict base64 of 16 to 64 bytes, or a string of the other kind is -EINVAL, and *reterr (the caller's to
 * free) says which key and what to do; it never quotes a secret value.
 * 0, -EINVAL or -ENOMEM. */
int connection_string_parse(const char *s, ConnectionStringKind kind, ConnectionString *ret, char **reterr);

/* The canonical text; erase_and_free() it. 0, -EINVAL (a value holds a semicolon, which the hub allows in ids: there is
 * no connection string for it) or -ENOMEM. */
int connection_string_format(const ConnectionString *c, char **ret);

/* Frees and erases; zero-initialised is fine. */
void connection_string_done(ConnectionString *c);

/* Splits "host", "host:port" or "[v6]:port". *ret_port is default_port where none is given.
 * *ret_host is the caller's. 0, -EINVAL or -ENOMEM. */
int host_port_split(const char *s, unsigned default_port, char **ret_host, unsigned *ret_port);
