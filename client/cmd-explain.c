/* What the hub's errors mean, for codes that were met elsewhere: in logs of the hub, in other
 * tools. */
#include "lib/hub-code.h"
#include "lib/json-util.h"
#include "lib/parse-util.h"
#include "client/hub-error.h"
#include "client/output.h"
#include "client/verb.h"

/* condition: by which it was asked for, or NULL. It may have no code of the hub's. */
static int print_rule(const Globals *g, const HubErrorRule *rule, const char *condition) {
        _cleanup_json_ struct json_object *o = NULL;
        const char *name = rule->code != 0 ? hub_code_to_name(rule->code) : NULL;

        if (!g->json) {
                if (condition)
                        printf("%s%s", condition, rule->code != 0 ? ", " : ": ");
                if (rule->code != 0)
                        printf("%u %s: ", rule->code, strempty(name));
                printf("%s\n", rule->meaning);
                if (rule->remedy)
                        printf("  What to do: %s\n", rule->remedy);
                printf("  Exit code:  %d\n", rule->exit_code);
                return EX_OK;
        }
        o = json_object_new_object();
        if (!o || json_add_string(o, "condition", condition) < 0 ||
            (rule->code != 0 && json_add_u64(o, "code", rule->code) < 0) ||
            json_add_string(o, "name", name) < 0 ||
            json_add_string(o, "meaning", rule->meaning) < 0 ||
            json_add_string(o, "remedy", rule->remedy) < 0 ||
            json_add_u64(o, "exitCode", (uint64_t) rule->exit_code) < 0)
                return say_out_of_memory();
        print_json(o);
        return EX_OK;
}

static int explain(const Globals *g, const char *text) {
        const HubErrorRule *rule;
        uint64_t code = 0;

        if (parse_u64_range(text, 100000, 999999, &code) >= 0)
                rule = hub_error_find((unsigned) code, NULL);
        else
                rule = hub_error_find(0, text);
        if (rule)
                return print_rule(g, rule, NULL);
        rule = hub_error_find_condition(text);
        if (rule)
                return print_rule(g, rule, text);
        say_error("\"%s\" is no error of a hub: six digits such as 403002, a name such as "
                  "DeviceNotFound, or a condition such as amqp:not-found",
                  text);
        return EXIT_NOT_FOUND;
}

static int cmd_explain(const Verb *verb, Globals *g, int argc, char **argv) {
        int r, k;

        r = verb_parse(verb, g, NULL, &argc, &argv);
        if (r <= 0)
                return verb_parse_exit_code(r);
        r = EX_OK;
        if (argc == 0)
                for (const HubErrorRule *rule = hub_error_rules; rule->code != 0 && r == EX_OK;
                     rule++)
                        r = print_rule(g, rule, NULL);
        for (int i = 0; i < argc; i++) {
                k = explain(g, argv[i]);
                if (r == EX_OK)
                        r = k;
        }
        return r;
}

const Verb verb_explain = {
        .hub = true,
        .name = "explain",
        .arguments = "[CODE]...",
        .arguments_min = 0,
        .arguments_max = -1,
        .summary = "Tell what errors of the hub mean, and what to do about them",
        .description = "CODE is a number, a name or a condition of AMQP; without one, all numbers that are "
                       "known. Needs no login.",
        .run = cmd_explain,
};
