/* identity-auth.h: how a device or a module signs in: the options for it, and what they make of the
 * "authentication" of an identity. */
#pragma once

#include <stdbool.h>

#include <json-c/json.h>

#include "client/options.h"

typedef struct AuthSettings {
        const char *type; /* NULL: as it follows from the rest */
        const char *keys[2], *key_files[2];
        const char *thumbprints[2], *certificates[2];
} AuthSettings;

#define IDENTITY_AUTH_OPTIONS(settings, member)                                                    \
        { "auth", 0, "sas|x509|x509-ca",                                                           \
          "Sign in with a key, a certificate whose thumbprint is known, or one of\n"               \
          "a registered authority (default: as the other options say, else sas)",                  \
          option_string, offsetof(settings, member.type) },                                        \
        { "primary-key-file", 0, "PATH", "The primary key, in base64, from a file", option_path,   \
          offsetof(settings, member.key_files[0]) },                                               \
        { "secondary-key-file", 0, "PATH", "The secondary key likewise", option_path,              \
          offsetof(settings, member.key_files[1]) },                                               \
        { "primary-key", 0, "KEY", "The primary key itself: others may see it for a moment",       \
          option_path, offsetof(settings, member.keys[0]) },                                       \
        { "secondary-key", 0, "KEY", "The secondary key itself", option_path,                      \
          offsetof(settings, member.keys[1]) },                                                    \
        { "primary-thumbprint", 0, "HEX", "SHA-1 or SHA-256 of the certificate; colons may be in it", \
          option_path, offsetof(settings, member.thumbprints[0]) },                                \
        { "secondary-thumbprint", 0, "HEX", "Of a second certificate", option_path,                \
          offsetof(settings, member.thumbprints[1]) },                                             \
        { "primary-certificate", 0, "PATH", "The certificate (PEM): its SHA-256 is taken",         \
          option_path, offsetof(settings, member.certificates[0]) },                               \
        { "secondary-certificate", 0, "PATH", "A second certificate", option_path,                 \
          offsetof(settings, member.certificates[1]) }

/* Sets o's "authentication" as the options say; without any, o stays as it is. What the options do not
 * name is kept where the type stays the same; a key that is missing is made. Keys that stood on the
 * command line are erased there. EX_OK or the exit code, told. */
int identity_auth_apply(const AuthSettings *s, struct json_object *o);

/* Whether some option is about it. */
bool identity_auth_given(const AuthSettings *s);

/* 32 random bytes in base64; erase it. 0, -ENOMEM or -errno. */
int identity_key_make(char **ret);

/* Hex digits without what separates them, as the hub wants a thumbprint. 0, -EINVAL or -ENOMEM. */
int identity_thumbprint_parse(const char *s, char **ret);
