#include "client/events-login.h"

#include <ctype.h>
#include <strings.h>

#include "lib/connection-string.h"
#include "lib/sas-token.h"
#include "lib/string-util.h"

static const char *skip_space(const char *s) {
        while (isspace((unsigned char) *s))
                s++;
        return s;
}

bool events_login_is_one(const char *s) {
        const char *part = skip_space(s);

        while (*part) {
                if (strncasecmp(part, "Endpoint=", 9) == 0 ||
                    strncasecmp(part, "EntityPath=", 11) == 0)
                        return true;
                part += strcspn(part, ";");
                part = skip_space(*part ? part + 1 : part);
        }
        return false;
}

static int fail(char **reterr, const char *text) {
        return copy_string(reterr, text) < 0 ? -ENOMEM : -EINVAL;
}

/* "sb://host[:port][/]" to its host and port; what the portal gives ends with a slash. */
static int parse_endpoint(const char *s, size_t n, EventsLogin *l, char **reterr) {
        _cleanup_free_ char *endpoint = strndup(s, n);
        const char *from, *slashes;
        int r;

        if (!endpoint)
                return -ENOMEM;
        slashes = strstr(endpoint, "://");
        from = slashes ? slashes + 3 : endpoint;
        if (slashes && strncasecmp(endpoint, "sb://", 5) != 0 &&
            strncasecmp(endpoint, "amqps://", 8) != 0)
                return fail(reterr,
                            "Endpoint: write it like sb://NAMESPACE.servicebus.windows.net/");
        endpoint[(size_t) (from - endpoint) + strcspn(from, "/")] = '\0';
        r = from[strcspn(from, " ?#@\\\"'<>")] ? -EINVAL :
                                                 host_port_split(from, 0, &l->host, &l->port);
        if (r == -EINVAL)
                return fail(reterr, "Endpoint: not a host name, write it like "
                                    "sb://NAMESPACE.servicebus.windows.net/");
        return r;
}

static int parse_part(const char *s, size_t n, EventsLogin *l, char **reterr) {
        const struct {
                const char *name;
                char **value;
        } keys[] = {
                { "Endpoint", &l->host },
                { "EntityPath", &l->entity },
                { "SharedAccessKeyName", &l->key_name },
                { "SharedAccessKey", &l->key },
                { "SharedAccessSignature", &l->token },
        };
        const char *equals = memchr(s, '=', n);
        size_t name_size = equals ? (size_t) (equals - s) : n;
        char text[160];

        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (strlen(keys[i].name) != name_size || memcmp(keys[i].name, s, name_size) != 0)
                        continue;
                if (*keys[i].value || !equals || equals + 1 == s + n) {
                        (void) snprintf(text, sizeof(text), "%s: %s", keys[i].name,
                                        *keys[i].value ? "comes twice, keep one" :
                                                         "its value is empty");
                        return fail(reterr, text);
                }
                for (const char *p = equals + 1; p < s + n; p++)
                        if ((unsigned char) *p < 0x20 || *p == 0x7f) {
                                (void) snprintf(text, sizeof(text),
                                                "%s: contains a line break or another "
                                                "control character, write it on one line",
                                                keys[i].name);
                                return fail(reterr, text);
                        }
                if (i == 0)
                        return parse_endpoint(equals + 1, (size_t) (s + n - equals - 1), l, reterr);
                *keys[i].value = strndup(equals + 1, (size_t) (s + n - equals - 1));
                return *keys[i].value ? 0 : -ENOMEM;
        }
        return fail(reterr,
                    "A part begins with none of the known keys, Endpoint, SharedAccessKeyName, "
                    "SharedAccessKey, SharedAccessSignature and EntityPath: was it copied whole, "
                    "on one line?");
}

static int check(const EventsLogin *l, char **reterr) {
        _cleanup_(sas_token_done) SasToken t = {};
        int r;

        if (!l->host)
                return fail(reterr, "Endpoint: missing, add "
                                    "Endpoint=sb://NAMESPACE.servicebus.windows.net/");
        if (!l->entity)
                return fail(reterr, "EntityPath: missing, add EntityPath=NAME: the portal shows it "
                                    "as the Event "
                                    "Hub-compatible name");
        if (l->entity[strcspn(l->entity, "/ ?#")])
                return fail(reterr, "EntityPath: a name without slashes and blanks");
        if (l->token && (l->key || l->key_name))
                return fail(reterr,
                            "SharedAccessSignature: stands alone, without SharedAccessKeyName and "
                            "SharedAccessKey");
        if (l->token) {
                r = sas_token_parse(l->token, &t);
                return r == -EINVAL ? fail(reterr,
                                           "SharedAccessSignature: not a token of the form "
                                           "\"SharedAccessSignature sr=...&sig=...&se=...\"") :
                                      r;
        }
        if (!l->key_name)
                return fail(reterr,
                            "SharedAccessKeyName: missing, add the name of the policy, such as "
                            "SharedAccessKeyName=service");
        if (!l->key)
                return fail(reterr, "SharedAccessKey: missing, add SharedAccessKey=KEY");
        return 0;
}

void events_login_done(EventsLogin *l) {
        free(l->host);
        free(l->entity);
        free(l->key_name);
        erase_and_free(l->key);
        erase_and_free(l->token);
        *l = (EventsLogin){};
}

int events_login_parse(const char *s, EventsLogin *ret, char **reterr) {
        EventsLogin l = {};
        const char *end;
        int r = 0;

        s = skip_space(s);
        end = s + strlen(s);
        while (end > s && isspace((unsigned char) end[-1]))
                end--;
        while (s < end && r >= 0) {
                const char *semicolon = memchr(s, ';', (size_t) (end - s));
                size_t n = (size_t) ((semicolon ? semicolon : end) - s);

                if (n > 0)
                        r = parse_part(s, n, &l, reterr);
                s += n + (semicolon ? 1 : 0);
        }
        if (r >= 0)
                r = check(&l, reterr);
        if (r < 0) {
                events_login_done(&l);
                return r;
        }
        *ret = l;
        return 0;
}
