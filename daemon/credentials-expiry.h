/* credentials-expiry.h: tells the journal that the device's certificate ends within 30 days, has
 * ended, or is not valid yet: at once for a certificate that is new, then once a day. */
#pragma once

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "daemon/credentials.h"

typedef struct CredentialsExpiry CredentialsExpiry;

/* credentials: borrowed, must outlive it. Looks at once. 0 or -errno. */
int credentials_expiry_new(sd_event *event, Credentials *credentials, CredentialsExpiry **ret);
CredentialsExpiry *credentials_expiry_free(CredentialsExpiry *e);
DEFINE_CLEANUP(CredentialsExpiry *, credentials_expiry_free);

/* The credentials were read anew; a certificate that is another one is looked at. */
void credentials_expiry_look(CredentialsExpiry *e);
