#include "emulator/hub-amqp-address.h"

#include <assert.h>
#include <ctype.h>
#include <strings.h>

#include "lib/parse-util.h"

static bool segment_is(const char *s, size_t n, const char *name) {
        return strlen(name) == n && strncasecmp(s, name, n) == 0;
}

/* Takes the next segment off the path. */
static size_t next_segment(const char **path, const char **ret) {
        size_t n;

        *path += strspn(*path, "/");
        *ret = *path;
        n = strcspn(*path, "/");
        *path += n;
        return n;
}

static const char *skip_host(const char *address) {
        const char *scheme = strstr(address, "://");

        if (!scheme)
                return address;
        scheme += strlen("://");
        return scheme + strcspn(scheme, "/");
}

static int parse_group(const char *s, size_t n, AmqpAddress *ret) {
        if (n == 0 || n > AMQP_CONSUMER_GROUP_MAX)
                return -ENOENT;
        for (size_t i = 0; i < n; i++) {
                if (!isalnum((unsigned char) s[i]) && !strchr("$-_.", s[i]))
                        return -ENOENT;
                ret->group[i] = (char) tolower((unsigned char) s[i]);
        }
        ret->group[n] = '\0';
        return 0;
}

/* Behind the entity: ConsumerGroups/GROUP/Partitions/N. */
static int parse_partition(const char *path, AmqpAddress *ret) {
        const char *s;
        char number[8];
        uint64_t partition;
        size_t n;

        n = next_segment(&path, &s);
        if (!segment_is(s, n, "ConsumerGroups"))
                return -ENOENT;
        n = next_segment(&path, &s);
        if (parse_group(s, n, ret) < 0)
                return -ENOENT;
        n = next_segment(&path, &s);
        if (!segment_is(s, n, "Partitions"))
                return -ENOENT;
        n = next_segment(&path, &s);
        if (n == 0 || n >= sizeof(number) || path[strspn(path, "/")] != '\0')
                return -ENOENT;
        memcpy(number, s, n);
        number[n] = '\0';
        if (parse_u64_range(number, 0, HUB_EVENTS_PARTITIONS - 1, &partition) < 0)
                return -ENOENT;
        ret->node = AMQP_NODE_PARTITION;
        ret->partition = (unsigned) partition;
        return 0;
}

static int parse_messages(const char *path, AmqpAddress *ret) {
        const char *s;
        size_t n;

        n = next_segment(&path, &s);
        if (segment_is(s, n, "events")) {
                ret->node = AMQP_NODE_REDIRECT;
                ret->resource = "/messages/events";
                n = next_segment(&path, &s);
                ret->management = segment_is(s, n, "$management");
                return 0;
        }
        if (segment_is(s, n, "devicebound")) {
                ret->node = AMQP_NODE_DEVICEBOUND;
                ret->resource = "/messages/devicebound";
                return 0;
        }
        if (!segment_is(s, n, "servicebound"))
                return -ENOENT;
        n = next_segment(&path, &s);
        if (segment_is(s, n, "feedback")) {
                ret->node = AMQP_NODE_FEEDBACK;
                ret->resource = "/messages/servicebound/feedback";
                return 0;
        }
        if (segment_is(s, n, "filenotifications")) {
                ret->node = AMQP_NODE_NOTIFICATIONS;
                ret->resource = "/messages/servicebound/filenotifications";
                return 0;
        }
        return -ENOENT;
}

int amqp_address_parse(const char *address, const char *entity, AmqpAddress *ret) {
        const char *path, *s;
        size_t n;

        assert(address);
        assert(entity);

        *ret = (AmqpAddress) { .resource = "" };
        path = skip_host(address);
        n = next_segment(&path, &s);
        if (segment_is(s, n, "$cbs")) {
                ret->node = AMQP_NODE_CBS;
                return 0;
        }
        if (segment_is(s, n, "$management")) {
                ret->node = AMQP_NODE_MANAGEMENT;
                return 0;
        }
        if (segment_is(s, n, "messages"))
                return parse_messages(path, ret);
        if (!segment_is(s, n, entity))
                return -ENOENT;
        if (segment_is(path + strspn(path, "/"), strcspn(path + strspn(path, "/"), "/"),
                       "$management")) {
                ret->node = AMQP_NODE_MANAGEMENT;
                return 0;
        }
        return parse_partition(path, ret);
}

/* Filters. */

static const struct {
        const char *annotation;
        HubEventsFrom from;
} annotations[] = {
        { "x-opt-offset", HUB_EVENTS_FROM_OFFSET },
        { "x-opt-sequence-number", HUB_EVENTS_FROM_SEQUENCE },
        { "x-opt-enqueued-time", HUB_EVENTS_FROM_TIME },
        { "x-opt-enqueuedtimeutc", HUB_EVENTS_FROM_TIME }, /* of clients of 2015 */
};

static const char *skip_spaces(const char *s) {
        return s + strspn(s, " \t");
}

/* Times have milliseconds there and microseconds here: what lies within the millisecond named is not
 * after it. */
static int set_time(int64_t msec, HubEventsPosition *p) {
        if (msec > INT64_MAX / 1000 - 1)
                return -EINVAL;
        p->value = msec < 0 ? -1 : (msec + !p->inclusive) * 1000;
        p->inclusive = true;
        return 0;
}

static int set_value(const char *s, HubEventsPosition *p) {
        bool negative = *s == '-';
        uint64_t n;

        if (p->from == HUB_EVENTS_FROM_OFFSET && streq(s, "@latest")) {
                p->from = HUB_EVENTS_FROM_LATEST;
                return 0;
        }
        if (parse_u64_range(s + negative, 0, INT64_MAX, &n) < 0)
                return -EINVAL;
        if (p->from == HUB_EVENTS_FROM_TIME)
                return set_time(negative ? -(int64_t) n : (int64_t) n, p);
        p->value = negative ? -(int64_t) n : (int64_t) n;
        return 0;
}

int amqp_filter_parse(AmqpBytes expression, HubEventsPosition *ret) {
        static const char prefix[] = "amqp.annotation.";
        char text[160], *end;
        const char *s;
        size_t n;

        if (expression.size >= sizeof(text))
                return -EINVAL;
        memcpy(text, expression.data, expression.size);
        text[expression.size] = '\0';

        s = skip_spaces(text);
        if (strncasecmp(s, prefix, strlen(prefix)) != 0)
                return -EINVAL;
        s += strlen(prefix);
        n = strcspn(s, " \t>");
        *ret = (HubEventsPosition) { .from = _HUB_EVENTS_FROM_MAX };
        for (size_t i = 0; i < ELEMENTSOF(annotations); i++)
                if (segment_is(s, n, annotations[i].annotation))
                        ret->from = annotations[i].from;
        s = skip_spaces(s + n);
        if (ret->from == _HUB_EVENTS_FROM_MAX || *s++ != '>')
                return -EINVAL;
        ret->inclusive = *s == '=';
        s = skip_spaces(s + ret->inclusive);

        end = text + expression.size;
        while (end > s && (end[-1] == ' ' || end[-1] == '\t'))
                *--end = '\0';
        if (*s == '\'') {
                if (end - s < 2 || end[-1] != '\'')
                        return -EINVAL;
                *--end = '\0';
                s++;
        }
        return set_value(s, ret);
}
