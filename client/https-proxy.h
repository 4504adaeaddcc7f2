/* https-proxy.h: the proxy that libcurl takes for HTTPS from the environment, to tell whether it is
 * what a call failed at. Source: libcurl-env(3). */
#pragma once

#include <stdbool.h>

#include "lib/macro.h"

typedef struct HttpsProxy {
        const char *variable; /* static; NULL: no proxy is named */
        char *host;           /* without user and password */
        unsigned port;
} HttpsProxy;

/* The first that is set of https_proxy, HTTPS_PROXY, all_proxy, ALL_PROXY. One that is no URL has
 * host NULL. 0 or -ENOMEM. https_proxy_done() in either case. */
int https_proxy_load(HttpsProxy *ret);
void https_proxy_done(HttpsProxy *p);

/* Whether an error text of libcurl speaks of this proxy. */
bool https_proxy_is_named(const HttpsProxy *p, const char *text);
