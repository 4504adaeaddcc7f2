#include "client/amqp-error.h"

#include <stdarg.h>

#include "client/output.h"

const char *amqp_stage_to_string(AmqpStage stage) {
        static const char *const names[_AMQP_STAGE_MAX] = {
                [AMQP_STAGE_NAME] = "name resolution",
                [AMQP_STAGE_CONNECT] = "connecting",
                [AMQP_STAGE_TLS] = "TLS",
                [AMQP_STAGE_SASL] = "SASL",
                [AMQP_STAGE_OPEN] = "connection",
                [AMQP_STAGE_TOKEN] = "token ($cbs)",
                [AMQP_STAGE_REDIRECT] = "finding the events endpoint",
                [AMQP_STAGE_MANAGEMENT] = "asking for the partitions",
                [AMQP_STAGE_ATTACH] = "link",
        };

        return stage >= 0 && stage < _AMQP_STAGE_MAX ? names[stage] : "unknown";
}

void amqp_error_set(AmqpError *e, AmqpStage stage, int exit_code, const char *remedy,
                    const char *format, ...) {
        va_list ap;

        if (e->set)
                return;
        e->set = true;
        e->stage = stage;
        e->exit_code = exit_code;
        e->remedy = remedy;
        /* What can pass: the network's moods and what says so by its exit code. */
        e->passing = exit_code == EXIT_NO_DAEMON || exit_code == EXIT_TRY_AGAIN;
        va_start(ap, format);
        (void) vsnprintf(e->text, sizeof(e->text), format, ap); /* a longer text is cut */
        va_end(ap);
}

void amqp_error_set_condition(AmqpError *e, AmqpStage stage, const char *condition,
                              const char *text) {
        const HubErrorRule *rule = hub_error_of_condition(condition ? condition : "");

        if (e->set)
                return;
        amqp_error_set(e, stage, rule->exit_code, NULL, "%s", strempty(text));
        e->rule = rule;
        (void) snprintf(e->condition, sizeof(e->condition), "%s",
                        strempty(condition)); /* cut likewise */
}

static void say_with_rule(const AmqpError *e, const char *what) {
        char code[16] = "";

        if (e->rule->code != 0)
                (void) snprintf(code, sizeof(code), ", %u", e->rule->code); /* six digits */
        say_error("%s: %s:%u: %s: %s%s%s%s%s%s%s", what, e->host, e->port,
                  amqp_stage_to_string(e->stage), e->rule->meaning, *e->condition ? " (" : "",
                  e->condition, *e->condition ? code : "", *e->condition ? ")" : "",
                  *e->text ? ": " : "", e->text);
        if (e->rule->remedy)
                say_error("What to do: %s%s%s", e->rule->remedy, e->module_of ? " " : "",
                          strempty(e->module_of));
}

int amqp_error_say(const AmqpError *e, const char *what) {
        if (e->rule)
                say_with_rule(e, what);
        else
                say_error("%s: %s:%u: %s: %s%s%s", what, e->host, e->port,
                          amqp_stage_to_string(e->stage), e->text, e->remedy ? "; " : "",
                          strempty(e->remedy));
        return e->exit_code;
}
