/* Proton's own server knows no passwords, so this is a plugin of it. Mechanisms are those that hubs list; a
 * failed sign-in is told by the outcome, its reason in the emulator's log. */
#include <assert.h>

#include <proton/sasl.h>
#include <proton/sasl_plugin.h>
#include <proton/transport.h>

#include "emulator/hub-amqp-private.h"

static const char *list_mechanisms(pn_transport_t *t) {
        (void) t;
        return "EXTERNAL MSSBCBS ANONYMOUS PLAIN";
}

static bool init_server(pn_transport_t *t) {
        pnx_sasl_set_desired_state(t, SASL_POSTED_MECHANISMS);
        return true;
}

static bool init_client(pn_transport_t *t) {
        (void) t;
        return false; /* this is a server */
}

/* authzid NUL authcid NUL password. 0 and both, to be freed; -EINVAL or -ENOMEM. */
static int split_plain(const pn_bytes_t *response, char **ret_user, char **ret_password) {
        const char *end = response->start + response->size, *user, *password;

        user = response->size > 0 ? memchr(response->start, 0, response->size) : NULL;
        if (!user)
                return -EINVAL;
        user++;
        password = user < end ? memchr(user, 0, (size_t) (end - user)) : NULL;
        if (!password)
                return -EINVAL;
        password++;
        if (memchr(password, 0, (size_t) (end - password)))
                return -EINVAL;
        *ret_user = strdup(user);
        *ret_password = strndup(password, (size_t) (end - password));
        return *ret_user && *ret_password ? 0 : -ENOMEM;
}

static int sign_in(AmqpConn *c, const pn_bytes_t *response) {
        _cleanup_free_ char *user = NULL;
        _cleanup_(erase_and_freep) char *password = NULL;
        const char *reason = "the response of PLAIN is malformed";
        int r;

        r = split_plain(response, &user, &password);
        if (r >= 0)
                r = amqp_grants_add_plain(&c->grants, c->door->hub, user, password,
                                          now_usec(CLOCK_REALTIME), &reason);
        if (r == -EACCES || r == -EINVAL)
                (void) fprintf(stderr, "iothub-emulator: AMQP: refused %.128s: %s\n",
                               user ? user : "a client", reason);
        return r;
}

static void process_init(pn_transport_t *t, const char *mechanism, const pn_bytes_t *response) {
        AmqpConn *c = pnx_sasl_get_context(t);
        bool good = true;

        if (!mechanism)
                good = false; /* a field that must not be absent is */
        else if (streq(mechanism, "PLAIN"))
                good = sign_in(c, response) >= 0;
        else if (!streq(mechanism, "ANONYMOUS") && !streq(mechanism, "MSSBCBS") &&
                 !streq(mechanism, "EXTERNAL"))
                good = false;
        if (good)
                pnx_sasl_set_succeeded(t, "client", "client");
        else
                pnx_sasl_set_failed(t);
        pnx_sasl_set_desired_state(t, SASL_POSTED_OUTCOME);
}

static void process_response(pn_transport_t *t, const pn_bytes_t *response) {
        (void) response; /* nobody was asked */
        pnx_sasl_set_failed(t);
        pnx_sasl_set_desired_state(t, SASL_POSTED_OUTCOME);
}

static void nothing(pn_transport_t *t) {
        (void) t;
}

static bool encrypts(pn_transport_t *t) {
        (void) t;
        return false; /* TLS is in front */
}

int amqp_sasl_set_up(AmqpConn *c) {
        /* What only a client calls stays NULL. */
        static const pnx_sasl_implementation server = {
                .free = nothing,
                .list_mechanisms = list_mechanisms,
                .init_server = init_server,
                .init_client = init_client,
                .prepare_write = nothing,
                .process_init = process_init,
                .process_response = process_response,
                .can_encrypt = encrypts,
        };

        if (!pn_sasl(c->driver.transport))
                return -ENOMEM;
        pnx_sasl_set_implementation(c->driver.transport, &server, c);
        /* Some SDKs send no SASL at all and put a token at $cbs. */
        pn_transport_require_auth(c->driver.transport, false);
        return 0;
}
