#include "client/hub-session.h"

#include "client/login.h"
#include "client/output.h"

void hub_session_done(HubSession *h) {
        h->client = registry_client_free(h->client);
        connection_string_done(&h->login);
}

int hub_session_open(const Globals *g, bool quiet, HubSession *ret) {
        const RegistryClientSettings settings = {
                .ca_file = g->ca_file,
                .https_port = g->https_port,
                .verbose = g->verbose,
                .quiet = quiet,
        };
        int r;

        r = login_load(g, &ret->login);
        if (r != EX_OK)
                return r;
        r = registry_client_new(&ret->login, &settings, &ret->client);
        if (r == -EINVAL) {
                say_error("The login's HostName is not a host name");
                return EX_CONFIG;
        }
        return r < 0 ? say_out_of_memory() : EX_OK;
}

int hub_session_host(const HubSession *h, char **ret) {
        unsigned port;

        return host_port_split(h->login.host_name, 0, ret, &port);
}
