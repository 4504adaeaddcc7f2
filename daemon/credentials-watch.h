/* credentials-watch.h: hears of changes in the folders of the credential files by inotify, so that
 * a new key or certificate is taken without a signal. Nothing is polled; where a folder cannot be
 * watched, the next refusal or SIGHUP finds the change. */
#pragma once

#include <systemd/sd-event.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct CredentialsWatch CredentialsWatch;

/* Something moved near the files. Returns whether it concerned them; if not, the next look comes
 * later: other programs may write in the same folder all day. */
typedef bool (*CredentialsChanged)(void *userdata);

/* How long the first sign of a change waits for the writer to finish. Looks that find nothing make
 * it longer, in a folder where others write all the time; a quiet minute makes it short again. */
#define CREDENTIALS_WATCH_USEC_MIN (200 * USEC_PER_MSEC)
#define CREDENTIALS_WATCH_USEC_MAX (30 * USEC_PER_SEC)

/* paths: the files, n of them; their folders are remembered. One that is missing, or taken away and
 * replaced, is taken up as soon as it is there; only links on the way to it that are pointed elsewhere
 * are not seen. 0, or -errno. */
int credentials_watch_new(sd_event *event, const char *const *paths, size_t n_paths,
                          CredentialsChanged changed, void *userdata, CredentialsWatch **ret);
CredentialsWatch *credentials_watch_free(CredentialsWatch *w);
DEFINE_CLEANUP(CredentialsWatch *, credentials_watch_free);
