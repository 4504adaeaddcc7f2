#include "client/daemon-client.h"
#include "client/output.h"
#include "client/verb.h"

const Option global_options[] = {
        { "socket", 0, "PATH", "Socket of iothubd (default: " DAEMON_SOCKET_DEFAULT ")",
          option_path, offsetof(Globals, socket_path) },
        { "login-file", 0, "PATH",
          "File with the hub's service connection string (default:\n"
          "$IOTHUB_CONNECTION_STRING, else ~/.config/iothubd/connection-string)",
          option_path, offsetof(Globals, login_file) },
        { "ca-file", 0, "PATH", "Certificates to trust for the hub (default: the system's)",
          option_path, offsetof(Globals, ca_file) },
        { "https-port", 0, "PORT", "HTTPS port of the hub (default: 443)", option_port,
          offsetof(Globals, https_port) },
        { "amqp-port", 0, "PORT", "AMQP port of the hub (default: 5671)", option_port,
          offsetof(Globals, amqp_port) },
        { "json", 0, NULL, "Print JSON, for programs", option_flag, offsetof(Globals, json) },
        { "verbose", 'v', NULL, "Show what goes to the hub and comes back, without secrets",
          option_flag, offsetof(Globals, verbose) },
        { "help", 'h', NULL, "Show this help", option_flag, offsetof(Globals, help) },
        { "version", 0, NULL, "Show the version", option_flag, offsetof(Globals, version) },
        {},
};

static void verb_help(const Verb *v) {
        printf("Usage: iothubctl %s%s%s [OPTIONS]%s%s\n\n%s.\n", strempty(v->group),
               v->group ? " " : "", v->name, v->arguments ? " " : "", strempty(v->arguments),
               v->summary);
        if (v->description)
                printf("\n%s\n", v->description);
        if (v->options && v->options->name) {
                printf("\nOptions:\n");
                options_print(stdout, v->options);
        }
        printf("\nOptions of every verb:\n");
        options_print(stdout, global_options);
}

int verb_parse(const Verb *v, Globals *g, void *settings, int *argc, char ***argv) {
        const OptionTable tables[] = { { v->options, settings }, { global_options, g } };
        int first, n;

        first = options_parse(tables, ELEMENTSOF(tables), *argc, *argv, /* permute= */ 1);
        if (first < 0)
                return first;
        if (g->help) {
                verb_help(v);
                return 0;
        }
        if (g->version) {
                printf("iothubctl %s\n", PROJECT_VERSION);
                return 0;
        }

        n = *argc - first;
        if (n < v->arguments_min || (v->arguments_max >= 0 && n > v->arguments_max)) {
                say_error("%s; usage: iothubctl %s%s%s [OPTIONS]%s%s",
                          n < v->arguments_min ? "An argument is missing" : "Too many arguments",
                          strempty(v->group), v->group ? " " : "", v->name, v->arguments ? " " : "",
                          strempty(v->arguments));
                return -EINVAL;
        }
        *argc = n;
        *argv += first;
        return 1;
}

int verb_parse_exit_code(int r) {
        if (r >= 0)
                return EX_OK;
        return r == -EINVAL ? EX_USAGE : EX_OSERR;
}
