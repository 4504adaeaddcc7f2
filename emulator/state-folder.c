#include "emulator/state-folder.h"

#include <sys/stat.h>

#include "lib/macro.h"
#include "lib/string-util.h"

int state_folder_path(const char *given, char **ret) {
        const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");

        if (given)
                return format_string(ret, "%s", given);
        if (geteuid() == 0)
                return format_string(ret, "/var/lib/iothub-emulator");
        if (base && *base == '/')
                return format_string(ret, "%s/iothub-emulator", base);
        return format_string(ret, "%s/.local/state/iothub-emulator", strempty(home));
}

int state_folder_make(const char *path) {
        _cleanup_free_ char *p = strdup(path);

        if (!p)
                return -ENOMEM;
        for (char *s = p + 1; *s; s++)
                if (*s == '/') {
                        *s = '\0';
                        if (mkdir(p, 0755) < 0 && errno != EEXIST)
                                return -errno;
                        *s = '/';
                }
        return mkdir(p, 0755) < 0 && errno != EEXIST ? -errno : 0;
}
