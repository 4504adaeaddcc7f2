#include "client/identity-record.h"

#include <errno.h>

#include "lib/hub-topic.h"
#include "lib/json-util.h"
#include "client/twin-patch.h"

#define FIELD_BYTES_MAX 4096U

const char *const record_columns[] = { "id",
                                       "moduleId",
                                       "status",
                                       "statusReason",
                                       "authentication",
                                       "primaryKey",
                                       "secondaryKey",
                                       "primaryThumbprint",
                                       "secondaryThumbprint",
                                       "iotEdge",
                                       NULL };

enum {
        COLUMN_ID,
        COLUMN_MODULE_ID,
        COLUMN_STATUS,
        COLUMN_STATUS_REASON,
        COLUMN_AUTHENTICATION,
        COLUMN_PRIMARY_KEY,
        COLUMN_SECONDARY_KEY,
        COLUMN_PRIMARY_THUMBPRINT,
        COLUMN_SECONDARY_THUMBPRINT,
        COLUMN_IOT_EDGE,
        _COLUMN_MAX,
        COLUMN_IMPORT_ERROR = _COLUMN_MAX, /* written behind what failed, and not read */
};

/* RFC 4180 without line breaks inside fields: quotes are doubled. 1: a field, 0: no more, -EINVAL. */
static int next_field(const char **p, const char *end, bool *more, char *buf, size_t *ret_size) {
        size_t n = 0;
        bool quoted;

        if (!*more)
                return 0;
        quoted = *p < end && **p == '"';
        if (quoted)
                (*p)++;
        for (;;) {
                if (*p >= end) {
                        if (quoted)
                                return -EINVAL;
                        break;
                }
                if (quoted && **p == '"') {
                        if (*p + 1 < end && (*p)[1] == '"')
                                (*p)++;
                        else {
                                (*p)++;
                                quoted = false;
                                if (*p < end && **p != ',')
                                        return -EINVAL;
                                continue;
                        }
                } else if (!quoted && **p == ',')
                        break;
                if (n >= FIELD_BYTES_MAX)
                        return -EINVAL;
                buf[n++] = *(*p)++;
        }
        *more = *p < end;
        if (*more)
                (*p)++; /* the comma */
        buf[n] = '\0';
        *ret_size = n;
        return 1;
}

static size_t without_carriage_return(const char *line, size_t n) {
        return n > 0 && line[n - 1] == '\r' ? n - 1 : n;
}

int csv_columns_parse(const char *line, size_t n, CsvColumns *ret, const char **reterr_text) {
        const char *p = line, *end = line + without_carriage_return(line, n);
        char buf[FIELD_BYTES_MAX + 1];
        CsvColumns c = {};
        bool more = true, named[_COLUMN_MAX + 1] = {};
        size_t size;
        int r;

        if (end - p >= 3 && memcmp(p, "\xef\xbb\xbf", 3) == 0)
                p += 3; /* spreadsheets begin with a mark */
        while ((r = next_field(&p, end, &more, buf, &size)) > 0) {
                int column;

                for (column = 0; record_columns[column] && !streq(buf, record_columns[column]);)
                        column++;
                *reterr_text = "the first line must name the columns, "
                               "such as id,primaryKey,secondaryKey, or be a JSON object";
                if (!record_columns[column] && !streq(buf, "importError"))
                        return -EINVAL;
                *reterr_text = "the first line names a column twice";
                if (named[column])
                        return -EINVAL;
                named[column] = true;
                c.columns[c.n++] = column;
        }
        *reterr_text = "the first line has no column \"id\", or a quote without its end";
        if (r < 0 || !named[COLUMN_ID])
                return -EINVAL;
        *ret = c;
        return 0;
}

int csv_columns_add_error(CsvColumns *c, Buffer *header) {
        for (size_t i = 0; i < c->n; i++)
                if (c->columns[i] == COLUMN_IMPORT_ERROR)
                        return 0;
        c->columns[c->n++] = COLUMN_IMPORT_ERROR; /* none is named twice: there is room */
        return buffer_append_string(header, ",importError");
}

static int check_ids(struct json_object *item, const char **reterr_text) {
        const char *id = NULL, *module = NULL;
        size_t n;

        *reterr_text = "\"id\" is missing, or no id: 1 to 128 of A-Z a-z 0-9 and some signs";
        if (json_get_string(item, "id", &id, &n) <= 0 || strlen(id) != n ||
            hub_device_id_check(id, false) < 0)
                return -EINVAL;
        *reterr_text = "the moduleId is none";
        if (json_get_string(item, "moduleId", &module, &n) < 0)
                return -EINVAL;
        return module && (strlen(module) != n || hub_device_id_check(module, false) < 0) ? -EINVAL : 0;
}

/* "authentication":{part:{field:value}} */
static int set_authentication(struct json_object *item, const char *part, const char *field,
                              const char *value) {
        struct json_object *authentication, *inner;

        if (json_get_object(item, "authentication", &authentication) <= 0) {
                authentication = json_object_new_object();
                if (json_add(item, "authentication", authentication) < 0)
                        return -ENOMEM;
        }
        if (json_get_object(authentication, part, &inner) <= 0) {
                inner = json_object_new_object();
                if (json_add(authentication, part, inner) < 0)
                        return -ENOMEM;
        }
        return json_add_string(inner, field, value);
}

static int set_type(struct json_object *item, const char *type) {
        struct json_object *authentication;

        if (json_get_object(item, "authentication", &authentication) <= 0) {
                authentication = json_object_new_object();
                if (json_add(item, "authentication", authentication) < 0)
                        return -ENOMEM;
        }
        return json_add_string(authentication, "type", type);
}

static int set_column(struct json_object *item, int column, const char *value) {
        struct json_object *capabilities;

        if (!*value || column == COLUMN_IMPORT_ERROR)
                return 0;
        switch (column) {
        case COLUMN_AUTHENTICATION: return set_type(item, value);
        case COLUMN_PRIMARY_KEY:
        case COLUMN_SECONDARY_KEY:
                return set_authentication(item, "symmetricKey", record_columns[column], value);
        case COLUMN_PRIMARY_THUMBPRINT:
        case COLUMN_SECONDARY_THUMBPRINT:
                return set_authentication(item, "x509Thumbprint", record_columns[column], value);
        case COLUMN_IOT_EDGE:
                capabilities = json_object_new_object();
                if (json_add(item, "capabilities", capabilities) < 0)
                        return -ENOMEM;
                return json_add_bool(capabilities, "iotEdge", streq(value, "true"));
        default: return json_add_string(item, record_columns[column], value);
        }
}

int csv_record_parse(const CsvColumns *c, const char *line, size_t n, struct json_object **ret,
                     const char **reterr_text) {
        _cleanup_json_ struct json_object *item = json_object_new_object();
        const char *p = line, *end = line + without_carriage_return(line, n);
        char buf[FIELD_BYTES_MAX + 1];
        bool more = true;
        size_t size, i = 0;
        int r;

        if (!item)
                return -ENOMEM;
        while ((r = next_field(&p, end, &more, buf, &size)) > 0) {
                *reterr_text = "there are more fields than columns, or a NUL byte";
                if (i >= c->n || strlen(buf) != size)
                        return -EINVAL;
                if (c->columns[i] == COLUMN_IMPORT_ERROR && *buf && !startswith(buf, CSV_ERROR_PREFIX))
                        return -EINVAL;
                if (set_column(item, c->columns[i++], buf) < 0)
                        return -ENOMEM;
        }
        explicit_bzero(buf, sizeof(buf));
        *reterr_text = "a quote without its end, or a field that is too long";
        if (r < 0)
                return r;
        *reterr_text = "there are fewer fields than columns";
        if (i + (c->columns[c->n - 1] == COLUMN_IMPORT_ERROR) < c->n)
                return -EINVAL;
        r = check_ids(item, reterr_text);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(item);
        return 0;
}

int json_record_parse(const char *line, size_t n, struct json_object **ret, const char **reterr_text) {
        static const char *const hubs_own[] = {
                "generationId",   "connectionState", "connectionStateUpdatedTime",
                "statusUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "importMode", "importError",
        };
        _cleanup_json_ struct json_object *item = NULL;
        struct json_object *id, *etag;
        size_t at;
        int r;

        *reterr_text = "it is no JSON object";
        r = twin_patch_parse(line, n, &item, &at);
        if (r < 0)
                return r;
        if (!json_object_object_get_ex(item, "id", NULL) &&
            json_object_object_get_ex(item, "deviceId", &id)) {
                if (json_add(item, "id", json_object_get(id)) < 0)
                        return -ENOMEM;
                json_object_object_del(item, "deviceId");
        }
        if (json_object_object_get_ex(item, "etag", &etag)) {
                if (json_add(item, "eTag", json_object_get(etag)) < 0)
                        return -ENOMEM;
                json_object_object_del(item, "etag");
        }
        for (size_t i = 0; i < ELEMENTSOF(hubs_own); i++)
                json_object_object_del(item, hubs_own[i]);
        r = check_ids(item, reterr_text);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(item);
        return 0;
}

static int append_field(Buffer *out, const char *value, bool first) {
        int r;

        r = first ? 0 : buffer_append_string(out, ",");
        if (r < 0 || !value)
                return r;
        if (!strpbrk(value, ",\"\r\n"))
                return buffer_append_string(out, value);
        r = buffer_append_string(out, "\"");
        for (; *value && r >= 0; value++)
                r = buffer_append(out, *value == '"' ? "\"\"" : *value == '\n' ? " " : value,
                                  *value == '"' ? 2 : 1);
        return r < 0 ? r : buffer_append_string(out, "\"");
}

static const char *text_of(struct json_object *o, const char *field) {
        const char *s = NULL;

        (void) json_get_string(o, field, &s, NULL); /* absent is absent */
        return s;
}

static const char *column_text(struct json_object *item, int column) {
        struct json_object *authentication, *inner, *capabilities;
        bool edge = false;

        switch (column) {
        case COLUMN_AUTHENTICATION:
        case COLUMN_PRIMARY_KEY:
        case COLUMN_SECONDARY_KEY:
        case COLUMN_PRIMARY_THUMBPRINT:
        case COLUMN_SECONDARY_THUMBPRINT:
                if (json_get_object(item, "authentication", &authentication) <= 0)
                        return NULL;
                if (column == COLUMN_AUTHENTICATION)
                        return text_of(authentication, "type");
                if (json_get_object(authentication,
                                    column < COLUMN_PRIMARY_THUMBPRINT ? "symmetricKey" :
                                                                         "x509Thumbprint",
                                    &inner) <= 0)
                        return NULL;
                return text_of(inner, record_columns[column]);
        case COLUMN_IOT_EDGE:
                if (json_get_object(item, "capabilities", &capabilities) <= 0)
                        return NULL;
                (void) json_get_bool(capabilities, "iotEdge", &edge); /* absent is "false" */
                return edge ? "true" : "false";
        case COLUMN_IMPORT_ERROR: return text_of(item, "importError");
        default: return text_of(item, record_columns[column]);
        }
}

int csv_record_format(const CsvColumns *c, struct json_object *item, Buffer *out) {
        const size_t n = c ? c->n : _COLUMN_MAX;
        int r = 0;

        for (size_t i = 0; r >= 0 && i < n; i++)
                r = append_field(out, column_text(item, c ? c->columns[i] : (int) i), i == 0);
        return r < 0 ? r : buffer_append_string(out, "\n");
}

static int copy_member(struct json_object *from, const char *field, struct json_object *to,
                       const char *name) {
        struct json_object *v;

        if (!json_object_object_get_ex(from, field, &v) || !v)
                return 0;
        return json_add(to, name, json_object_get(v));
}

/* Desired properties without what the hub keeps about them. */
static int copy_desired(struct json_object *twin, struct json_object *to) {
        struct json_object *properties, *desired, *target, *copy;

        if (json_get_object(twin, "properties", &properties) <= 0 ||
            json_get_object(properties, "desired", &desired) <= 0)
                return 0;
        target = json_object_new_object();
        if (json_add(to, "properties", target) < 0)
                return -ENOMEM;
        copy = json_object_new_object();
        if (json_add(target, "desired", copy) < 0)
                return -ENOMEM;
        json_object_object_foreach(desired, name, value) {
                if (name[0] != '$' && json_object_object_add(copy, name, json_object_get(value)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int record_from_identity(struct json_object *identity, struct json_object *twin,
                         struct json_object **ret) {
        static const struct {
                const char *from, *to;
        } members[] = {
                { "deviceId", "id" },
                { "moduleId", "moduleId" },
                { "etag", "eTag" },
                { "status", "status" },
                { "statusReason", "statusReason" },
                { "managedBy", "managedBy" },
                { "authentication", "authentication" },
                { "capabilities", "capabilities" },
                { "deviceScope", "deviceScope" },
                { "parentScopes", "parentScopes" },
        };
        _cleanup_json_ struct json_object *item = json_object_new_object();
        int r = item ? 0 : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(members); i++)
                r = copy_member(identity, members[i].from, item, members[i].to);
        if (r >= 0 && twin)
                r = copy_member(twin, "tags", item, "tags");
        if (r >= 0 && twin)
                r = copy_desired(twin, item);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(item);
        return 0;
}
