#include "client/https-proxy.h"

#include <stdlib.h>

#include <curl/curl.h>

#include "lib/parse-util.h"
#include "lib/string-util.h"

#define PORT_DEFAULT 1080U /* of a proxy, by curl(1) */
#define PORT_DEFAULT_TLS 443U

static void urlp(CURLU **u) {
        curl_url_cleanup(*u);
}

static void textp(char **s) {
        curl_free(*s);
}

static unsigned port_of(CURLU *u) {
        __attribute__((cleanup(textp))) char *port = NULL, *scheme = NULL;
        uint64_t n;

        if (curl_url_get(u, CURLUPART_PORT, &port, 0) == CURLUE_OK &&
            parse_u64_range(port, 1, UINT16_MAX, &n) >= 0)
                return (unsigned) n;
        return curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                                               streq(scheme, "https") ?
                               PORT_DEFAULT_TLS :
                               PORT_DEFAULT;
}

static int take_apart(const char *url, HttpsProxy *p) {
        __attribute__((cleanup(urlp))) CURLU *u = curl_url();
        __attribute__((cleanup(textp))) char *host = NULL;

        if (!u)
                return -ENOMEM;
        if (curl_url_set(u, CURLUPART_URL, url, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME) !=
                            CURLUE_OK ||
            curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK)
                return 0;
        p->port = port_of(u);
        return copy_string(&p->host, host);
}

int https_proxy_load(HttpsProxy *ret) {
        static const char *const variables[] = { "https_proxy", "HTTPS_PROXY", "all_proxy",
                                                 "ALL_PROXY" };

        *ret = (HttpsProxy){};
        for (size_t i = 0; i < ELEMENTSOF(variables); i++) {
                const char *url = getenv(variables[i]);

                if (!url || !*url)
                        continue;
                ret->variable = variables[i];
                return take_apart(url, ret);
        }
        return 0;
}

void https_proxy_done(HttpsProxy *p) {
        free(p->host);
        *p = (HttpsProxy){};
}

bool https_proxy_is_named(const HttpsProxy *p, const char *text) {
        char place[320];

        if (!p->host)
                return false;
        if (strstr(text, "proxy") ||
            strstr(text, "Proxy ")) /* "... from proxy after CONNECT", "Proxy CONNECT ..." */
                return true;
        (void) snprintf(place, sizeof(place), "%s port %u ", p->host,
                        p->port); /* names are shorter */
        return strstr(text, place);
}
