#include <sys/stat.h>
#include <sysexits.h>

#include "lib/fd-util.h"
#include "client/login.h"
#include "client/output.h"

#define LOGIN_BYTES_MAX 4096U

static int default_path(char **ret) {
        const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
        int r;

        if (config && config[0] == '/')
                r = asprintf(ret, "%s/iothubd/connection-string", config);
        else
                r = asprintf(ret, "%s/.config/iothubd/connection-string", strempty(home));
        return r < 0 ? -ENOMEM : 0;
}

/* It is a key to the whole hub. Only a warning: the harm is done, refusing would not undo it. */
static void check_mode(const char *path) {
        struct stat st;

        if (stat(path, &st) >= 0 && S_ISREG(st.st_mode) && (st.st_mode & (S_IRWXG | S_IRWXO)))
                say_error("Others may read %s, which holds a key: chmod 600 %s", path, path);
}

/* What a text may be. */
typedef struct Wanted {
        ConnectionString *hub;
        EventsLogin *events; /* NULL: not here */
} Wanted;

static int parse(const char *text, const char *where, const Wanted *to) {
        _cleanup_free_ char *reason = NULL;
        int r;

        if (to->events && events_login_is_one(text))
                r = events_login_parse(text, to->events, &reason);
        else
                r = connection_string_parse(text, CONNECTION_STRING_SERVICE, to->hub, &reason);
        if (r == -ENOMEM)
                return say_out_of_memory();
        if (r < 0) {
                say_error("%s: %s", where, reason ? reason : "no service connection string");
                return EX_CONFIG;
        }
        return EX_OK;
}

static int from_file(const char *path, const Wanted *to) {
        _cleanup_(erase_and_freep) char *text = NULL;
        int r;

        r = read_file(path, LOGIN_BYTES_MAX, &text, NULL);
        if (r < 0) {
                say_error("Cannot read %s: %s", path, strerror(-r));
                return r == -EACCES ? EX_NOPERM : EX_CONFIG;
        }
        check_mode(path);
        return parse(text, path, to);
}

static int load(const Globals *g, const Wanted *to) {
        _cleanup_free_ char *path = NULL;
        char *text;
        int r;

        if (g->login_file)
                return from_file(g->login_file, to);

        text = getenv("IOTHUB_CONNECTION_STRING");
        if (text && *text) {
                r = parse(text, "$IOTHUB_CONNECTION_STRING", to);
                explicit_bzero(text, strlen(text)); /* /proc/PID/environ shows this memory */
                return r;
        }

        if (default_path(&path) < 0)
                return say_out_of_memory();
        if (access(path, F_OK) < 0) {
                say_error("Who are you to the hub? Put its service connection string (portal: Shared access "
                          "policies) into %s (mode 0600), $IOTHUB_CONNECTION_STRING, or name a --login-file",
                          path);
                return EX_CONFIG;
        }
        return from_file(path, to);
}

int login_load(const Globals *g, ConnectionString *ret) {
        return load(g, &(Wanted){ .hub = ret });
}

int login_load_events(const Globals *g, ConnectionString *ret_hub, EventsLogin *ret_events) {
        return load(g, &(Wanted){ .hub = ret_hub, .events = ret_events });
}
