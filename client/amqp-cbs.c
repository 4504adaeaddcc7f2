#include "client/amqp-cbs.h"

#include <proton/codec.h>

#include "lib/sas-token.h"
#include "lib/string-util.h"
#include "client/output.h"

#define LIFETIME_USEC USEC_PER_HOUR
#define RENEW_USEC (45 * USEC_PER_MINUTE)

static int make_token(const EventsLogin *l, const char *audience, char **ret) {
        if (l->token)
                return copy_string(ret, l->token);
        return sas_token_make_with(l->key, SAS_KEY_TEXT, audience,
                                   (now_usec(CLOCK_REALTIME) + LIFETIME_USEC) / USEC_PER_SEC,
                                   l->key_name, ret);
}

static int make_message(const EventsLogin *l, pn_message_t *m) {
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_free_ char *audience = NULL;
        pn_data_t *map = pn_message_properties(m);
        int r;

        r = format_string(&audience, "sb://%s/%s", l->host, l->entity);
        if (r >= 0)
                r = make_token(l, audience, &token);
        if (r < 0)
                return r;
        if (pn_data_put_map(map) < 0 || !pn_data_enter(map) ||
            amqp_put_property(map, "operation", "put-token") < 0 ||
            amqp_put_property(map, "type", "servicebus.windows.net:sastoken") < 0 ||
            amqp_put_property(map, "name", audience) < 0 || !pn_data_exit(map))
                return -ENOMEM;
        return amqp_put_string(pn_message_body(m), token);
}

static int put_token(AmqpCbs *cbs, AmqpLoop *loop) {
        pn_message_t *m = pn_message();
        int r;

        r = m ? make_message(cbs->login, m) : -ENOMEM;
        if (r >= 0)
                r = loop ? amqp_requester_call(&cbs->requester, loop, m) :
                           amqp_requester_send(&cbs->requester, m);
        pn_message_free(m);
        if (r < 0)
                return r;
        cbs->renew_at_usec = cbs->login->token ? USEC_INFINITY :
                                                 usec_add(now_usec(CLOCK_MONOTONIC), RENEW_USEC);
        return 0;
}

int amqp_cbs_begin(AmqpCbs *cbs, AmqpLoop *loop, AmqpConnection *c, const EventsLogin *login) {
        int r;

        cbs->login = login;
        cbs->renewing = false;
        r = amqp_requester_open(&cbs->requester, c, "$cbs", AMQP_STAGE_TOKEN);
        return r < 0 ? r : put_token(cbs, loop);
}

void amqp_cbs_done(AmqpCbs *cbs) {
        amqp_requester_done(&cbs->requester);
        *cbs = (AmqpCbs){};
}

int amqp_cbs_keep(AmqpCbs *cbs, usec_t *ret_next_usec) {
        int r;

        if (cbs->renewing && cbs->requester.answered) {
                cbs->renewing = false;
                if (!amqp_requester_check(&cbs->requester))
                        return -EIO;
        }
        if (now_usec(CLOCK_MONOTONIC) >= cbs->renew_at_usec) {
                r = put_token(cbs, NULL);
                if (r < 0)
                        return r;
                cbs->renewing = true;
        }
        *ret_next_usec = cbs->renew_at_usec;
        return 0;
}
