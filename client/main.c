#include <locale.h>
#include <signal.h>

#include "lib/fd-util.h"
#include "client/daemon-client.h"
#include "client/output.h"
#include "client/verb.h"

static const Verb *const verbs[] = {
        &verb_send,
        &verb_status,
        &verb_flush,
        &verb_simulate,
        &verb_device_create,
        &verb_device_show,
        &verb_device_list,
        &verb_device_update,
        &verb_device_enable,
        &verb_device_disable,
        &verb_device_delete,
        &verb_device_renew_key,
        &verb_device_connection_string,
        &verb_device_import,
        &verb_device_export,
        &verb_module_create,
        &verb_module_show,
        &verb_module_list,
        &verb_module_update,
        &verb_module_delete,
        &verb_module_renew_key,
        &verb_module_connection_string,
        &verb_twin_show,
        &verb_twin_update,
        &verb_twin_replace,
        &verb_invoke,
        &verb_c2d_send,
        &verb_c2d_purge,
        &verb_feedback,
        &verb_monitor,
        &verb_query,
        &verb_stats,
        &verb_sas,
        &verb_explain,
};

static void help(void) {
        printf("Usage: iothubctl [OPTIONS] VERB ...\n\n"
               "Sends readings through the local iothubd and manages the devices of an IoT hub.\n");
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++) {
                const Verb *v = verbs[i];
                _cleanup_free_ char *usage = NULL;

                if (i == 0 || v->hub != verbs[i - 1]->hub)
                        printf("\n%s:\n", v->hub ? "Verbs that talk to the hub" :
                                                   "Verbs that talk to iothubd");
                if (asprintf(&usage, "%s%s%s%s%s", strempty(v->group), v->group ? " " : "", v->name,
                             v->arguments ? " " : "", strempty(v->arguments)) < 0) {
                        usage = NULL;
                        continue;
                }
                printf("  %-38s  %s\n", usage, v->summary);
        }
        printf("\nOptions of every verb:\n");
        options_print(stdout, global_options);
        printf("\niothubctl VERB --help tells more about a verb; the manual is iothubctl(1).\n");
}

static const Verb *find_verb(const char *group, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(verbs[i]->name, name) &&
                    streq(strempty(verbs[i]->group), strempty(group)))
                        return verbs[i];
        return NULL;
}

static bool is_group(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (verbs[i]->group && streq(verbs[i]->group, name))
                        return true;
        return false;
}

/* Global options, then the next word. 1: *argv[0] is that word; 0: there is none. */
static int next_word(Globals *g, int *argc, char ***argv) {
        int n;

        n = options_parse(&(OptionTable){ global_options, g }, 1, *argc, *argv, /* permute= */ 0);
        if (n < 0)
                return n;
        *argc -= n;
        *argv += n;
        return *argc > 0;
}

static int usage_error(const char *group, const char *name) {
        if (!name)
                say_error("%s%sWhat to do is missing; iothubctl --help lists the verbs",
                          strempty(group), group ? ": " : "");
        else
                say_error("Unknown verb \"%s%s%s\"; iothubctl --help lists the verbs",
                          strempty(group), group ? " " : "", name);
        return EX_USAGE;
}

static int dispatch(Globals *g, int argc, char **argv) {
        const char *group = NULL, *name = NULL;
        const Verb *verb;
        int r;

        for (;;) {
                r = next_word(g, &argc, &argv);
                if (r < 0)
                        return verb_parse_exit_code(r);
                if (g->help && r == 0) {
                        help();
                        return EX_OK;
                }
                if (g->version) {
                        printf("iothubctl %s\n", PROJECT_VERSION);
                        return EX_OK;
                }
                name = r > 0 ? argv[0] : NULL;
                if (name && !group && streq(name, "help")) { /* "help send" as "send --help" */
                        g->help = true;
                        continue;
                }
                if (group || !name || !is_group(name))
                        break;
                group = name;
        }

        verb = name ? find_verb(group, name) : NULL;
        if (!verb)
                return usage_error(group, name);
        return verb->run(verb, g, argc, argv);
}

int main(int argc, char **argv) {
        Globals g = {
                .socket_path = DAEMON_SOCKET_DEFAULT,
                .https_port = 443,
                .amqp_port = 5671,
        };

        /* Else the socket would get the number of the output that is closed. */
        if (standard_fds_fill() < 0)
                return EX_OSERR;
        (void) setlocale(LC_CTYPE, ""); /* "C" serves as well */
        /* A reader that goes away must not stop a send in the middle. */
        (void) signal(SIGPIPE, SIG_IGN);
        return finish_output(dispatch(&g, argc, argv));
}
