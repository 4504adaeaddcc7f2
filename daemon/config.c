#include "daemon/config.h"

#include <assert.h>
#include <ctype.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <libconfig.h>

#include "lib/fd-util.h"
#include "lib/parse-util.h"

#define CONFIG_BYTES_MAX (1024U * 1024U)

/* Every value, whatever its kind in the file, is turned into text and goes through one parser, so that "30", 30 and the
 * default in the table below are checked by the same code. */

typedef struct Setting Setting;

/* Writes to the field of the setting. 0, -EINVAL, -ERANGE or -ENOMEM. */
typedef int (*ParseValue)(const Setting *s, const char *text, void *field);

struct Setting {
        ConfigSetting row;
        ParseValue parse;
        size_t offset;    /* of the field in Config */
        uint64_t min, max; /* numbers, sizes and spans */
        uint64_t automatic; /* what "auto" stands for */
};

static int parse_text(const Setting *s, const char *text, void *field) {
        char **p = field, *copy = NULL;

        if (*text) {
                copy = strdup(text);
                if (!copy)
                        return -ENOMEM;
        }
        erase_and_free(*p); /* connection_string is one of them */
        *p = copy;
        return 0;
}

/* A connection string pasted where its file's name belongs would end up in messages about that file. */
static int parse_path(const Setting *s, const char *text, void *field) {
        if (strstr(text, "SharedAccess") || strlen(text) >= 4096)
                return -EINVAL;
        return parse_text(s, text, field);
}

/* RFC 7512 lets a PIN stand in the URI, where messages about the key would show it. */
static int parse_key(const Setting *s, const char *text, void *field) {
        return strstr(text, "pin-value") || strstr(text, "PRIVATE KEY") ? -EINVAL : parse_path(s, text, field);
}

/* The name of a shared library, which OpenSSL looks for in its own folder. */
static int parse_module(const Setting *s, const char *text, void *field) {
        const char *name = startswith(text, "engine:");

        name = name ? name : text;
        for (const char *p = name; *p; p++)
                if (!isalnum((unsigned char) *p) && !strchr("-_", *p))
                        return -EINVAL;
        return *text && !*name ? -EINVAL : parse_text(s, text, field);
}

static int parse_path_needed(const Setting *s, const char *text, void *field) {
        return *text ? parse_path(s, text, field) : -EINVAL;
}

static int parse_socket_path(const Setting *s, const char *text, void *field) {
        if (strlen(text) >= sizeof(((struct sockaddr_un *) NULL)->sun_path))
                return -EINVAL;
        return parse_path_needed(s, text, field);
}

static int parse_unsigned(const Setting *s, const char *text, void *field) {
        uint64_t v;
        int r = parse_u64_range(text, s->min, s->max, &v);

        if (r < 0)
                return r;
        *(unsigned *) field = (unsigned) v;
        return 0;
}

static int parse_mode(const Setting *s, const char *text, void *field) {
        unsigned v = 0;

        if (text[0] != '0' || strlen(text) != 4)
                return -EINVAL;
        for (const char *p = text; *p; p++) {
                if (*p < '0' || *p > '7')
                        return -EINVAL;
                v = v << 3 | (unsigned) (*p - '0');
        }
        *(unsigned *) field = v;
        return 0;
}

static int parse_size_setting(const Setting *s, const char *text, void *field) {
        uint64_t v;
        int r = parse_size(text, &v);

        if (r < 0)
                return r;
        if (v < s->min || v > s->max)
                return -ERANGE;
        *(uint64_t *) field = v;
        return 0;
}

static int parse_size_or_auto(const Setting *s, const char *text, void *field) {
        if (streq(text, "auto")) {
                *(uint64_t *) field = s->automatic;
                return 0;
        }
        return parse_size_setting(s, text, field);
}

static int parse_span(const Setting *s, const char *text, void *field) {
        usec_t v;
        int r = parse_timespan(text, &v);

        if (r < 0)
                return r;
        if (v < s->min || v > s->max)
                return -ERANGE;
        *(usec_t *) field = v;
        return 0;
}

static int parse_bool(const Setting *s, const char *text, void *field) {
        return parse_boolean(text, field);
}

static int parse_log_target(const Setting *s, const char *text, void *field) {
        LogTarget v = log_target_from_string(text);

        if (v < 0)
                return -EINVAL;
        *(LogTarget *) field = v;
        return 0;
}

static int parse_log_level(const Setting *s, const char *text, void *field) {
        int v = log_level_from_string(text);

        if (v < 0)
                return -EINVAL;
        *(int *) field = v;
        return 0;
}

static int parse_full_policy(const Setting *s, const char *text, void *field) {
        if (streq(text, "reject"))
                *(OutboxFullPolicy *) field = OUTBOX_FULL_REJECT;
        else if (streq(text, "drop-oldest"))
                *(OutboxFullPolicy *) field = OUTBOX_FULL_DROP_OLDEST;
        else
                return -EINVAL;
        return 0;
}

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#define ROW(group_, name_, default_, allowed_, help_)                                              \
        .row = { .group = group_, .name = name_, .default_value = default_, .allowed = allowed_, .help = help_ }
#define FIELD(f) .offset = offsetof(Config, f)

/* Order and sentences are those of etc/iothubd.conf; a test compares. */
static const Setting settings[] = {
        { ROW(NULL, "connection_string", "\"\"", "the text HostName=...;DeviceId=...;SharedAccessKey=... or x509=true",
              "Connection string of the device; better kept in a file of its own, see the next setting."),
          parse_text, FIELD(connection_string) },
        { ROW(NULL, "connection_string_file", "\"\"", "the path of a file, not the connection string itself",
              "File that holds the connection string alone, readable by the group iothubd only; read again when it "
              "changes."),
          parse_path, FIELD(connection_string_file) },
        { ROW(NULL, "secondary_connection_string_file", "\"\"", "the path of a file, not the connection string itself",
              "File that holds a connection string of the same device with its secondary key, tried when the hub refuses "
              "the other key."),
          parse_path, FIELD(secondary_connection_string_file) },
        { ROW(NULL, "certificate_file", "\"\"", "the path of a PEM file",
              "PEM file of the certificate that a device with x509=true signs in with, those that signed it after it; "
              "read again when it changes."),
          parse_path, FIELD(certificate_file) },
        { ROW(NULL, "private_key", "\"\"", "the path of a PEM file, or a URI without a PIN",
              "PEM file of the private key of the certificate, or where OpenSSL finds it, such as pkcs11:...; empty is "
              "certificate_file."),
          parse_key, FIELD(private_key) },
        { ROW(NULL, "private_key_passphrase_file", "\"\"", "the path of a file, not the passphrase itself",
              "File that holds the passphrase or PIN of the private key alone."),
          parse_path, FIELD(private_key_passphrase_file) },
        { ROW(NULL, "key_provider", "\"\"", "the name of a provider, or engine: and the name of an engine",
              "OpenSSL provider that keeps the private key, such as tpm2 or pkcs11, or an engine, such as "
              "engine:pkcs11."),
          parse_module, FIELD(key_provider) },
        { ROW(NULL, "ca_file", "\"\"", "the path of a PEM file",
              "PEM file of the authorities to trust instead of the system's, for a hub behind a private one."),
          parse_path, FIELD(ca_file) },
        { ROW(NULL, "mqtt_port", "8883", "1 to 65535", "Port of the hub for MQTT over TLS."), parse_unsigned,
          FIELD(mqtt_port), 1, 65535 },
        { ROW(NULL, "state_directory", "\"/var/lib/iothubd/iothubd\"", "the path of a directory",
              "Directory of the outbox; made when it is missing, used by one daemon at a time. Each unit of systemd "
              "brings its own default."),
          parse_path_needed, FIELD(state_directory) },
        { ROW(NULL, "socket", "\"/run/iothubd/iothubd.sock\"", "a path of at most 107 bytes",
              "Socket that local programs send to; not used when systemd hands one over."),
          parse_socket_path, FIELD(socket) },
        { ROW(NULL, "socket_group", "\"\"", "the name of a group",
              "Group that the socket is given to, such as iothub; empty leaves it to the daemon's own."),
          parse_text, FIELD(socket_group) },
        { ROW(NULL, "socket_mode", "\"0660\"", "four octal digits such as \"0660\"",
              "Who may send: access mode of the socket."),
          parse_mode, FIELD(socket_mode) },
        { ROW(NULL, "log_target", "\"auto\"", "\"auto\", \"journal\" or \"stderr\"",
              "Where log lines go; auto is the journal under systemd, else standard error."),
          parse_log_target, FIELD(log_target) },
        { ROW(NULL, "log_level", "\"info\"", "\"err\", \"warning\", \"notice\", \"info\" or \"debug\"",
              "Least important lines that are logged."),
          parse_log_level, FIELD(log_level) },
        { ROW(NULL, "stop_timeout", "\"10s\"", "a span from \"0\" to \"1h\"",
              "How long a stop goes on sending what is queued; what is left stays on disk and is sent after the next "
              "start."),
          parse_span, FIELD(stop_timeout_usec), 0, USEC_PER_HOUR },

        { ROW("outbox", "max_size", "\"auto\"", "\"auto\" or a size from \"1M\" to \"16T\"",
              "Most disk space the outbox takes; auto is the smaller of 1G and a tenth of the file system."),
          parse_size_or_auto, FIELD(outbox.max_size), MIB, 16 * TIB, 0 },
        { ROW("outbox", "keep_free", "\"auto\"", "\"auto\" or a size from \"0\" to \"16T\"",
              "Space the outbox leaves free for others; auto is the smaller of 1G and 15 % of the file system."),
          parse_size_or_auto, FIELD(outbox.keep_free), 0, 16 * TIB, UINT64_MAX },
        { ROW("outbox", "segment_size", "\"auto\"", "\"auto\" or a size from \"512K\" to \"1G\"",
              "Size of one file of the outbox; auto grows with max_size."),
          parse_size_or_auto, FIELD(outbox.segment_size), 512 * KIB, GIB, 0 },
        { ROW("outbox", "full", "\"reject\"", "\"reject\" or \"drop-oldest\"",
              "What happens to new messages when the outbox is full: they are refused, or the oldest stored ones are "
              "dropped and counted, never urgent ones."),
          parse_full_policy, FIELD(outbox.full) },
        { ROW("outbox", "time_to_live", "\"infinity\"", "\"infinity\" or a span from \"1s\" on",
              "Age at which a message that does not name its own limit expires unsent."),
          parse_span, FIELD(outbox.time_to_live_usec), USEC_PER_SEC, USEC_INFINITY },
        { ROW("outbox", "dead_letter_size", "\"16M\"", "a size from \"0\" to \"1T\"",
              "Space, within max_size, for messages that the hub will never take, kept for a look."),
          parse_size_setting, FIELD(outbox.dead_letter_size), 0, TIB },
        { ROW("outbox", "receipts", "16384", "0 to 1048576",
              "How many ended messages stay known to iothubctl status, at about 48 bytes of disk each."),
          parse_unsigned, FIELD(outbox.receipts), 0, 1048576 },
        { ROW("outbox", "position_interval", "\"1s\"", "a span from \"10ms\" to \"1h\"",
              "Longest time until a confirmation is on disk; what a crash forgets is sent again under the same id."),
          parse_span, FIELD(outbox.position_interval_usec), 10 * USEC_PER_MSEC, USEC_PER_HOUR },
        { ROW("outbox", "position_messages", "1000", "1 to 1000000",
              "Most confirmations that are not yet on disk, so at most this many are sent again after a crash."),
          parse_unsigned, FIELD(outbox.position_messages), 1, 1000000 },
        { ROW("outbox", "adopt", "false", "true or false",
              "Send messages that were stored for another hub or device to the present one."),
          parse_bool, FIELD(outbox.adopt) },

        { ROW("uplink", "window", "200", "1 to 1000",
              "Most messages on their way to the hub without its confirmation."),
          parse_unsigned, FIELD(uplink.window), 1, 1000 },
        { ROW("uplink", "window_bytes", "\"1M\"", "a size from \"1K\" to \"64M\"",
              "Most bytes on their way; one message may always go."),
          parse_size_setting, FIELD(uplink.window_bytes), KIB, 64 * MIB },
        { ROW("uplink", "keep_alive", "\"60s\"", "a span from \"10s\" to \"1177s\"",
              "Silence after which the connection is probed; the hub allows no more than 1177 seconds."),
          parse_span, FIELD(uplink.keep_alive_usec), 10 * USEC_PER_SEC, 1177 * USEC_PER_SEC },
        { ROW("uplink", "connect_timeout", "\"30s\"", "a span from \"1s\" to \"10min\"",
              "Longest a try to connect may take, from the look-up of the name to the hub's answer."),
          parse_span, FIELD(uplink.connect_timeout_usec), USEC_PER_SEC, 10 * USEC_PER_MINUTE },
        { ROW("uplink", "ack_timeout", "\"2min\"", "a span from \"1s\" to \"1h\"",
              "Longest wait for a confirmation before the connection counts as dead."),
          parse_span, FIELD(uplink.ack_timeout_usec), USEC_PER_SEC, USEC_PER_HOUR },
        { ROW("uplink", "retry_min", "\"1s\"", "a span from \"10ms\" to \"1h\"",
              "First wait after a failed try; each further one is twice as long, with some chance in it."),
          parse_span, FIELD(uplink.retry_min_usec), 10 * USEC_PER_MSEC, USEC_PER_HOUR },
        { ROW("uplink", "retry_max", "\"1min\"", "a span from \"10ms\" to \"1d\"",
              "Longest wait while the hub cannot be reached."),
          parse_span, FIELD(uplink.retry_max_usec), 10 * USEC_PER_MSEC, USEC_PER_DAY },
        { ROW("uplink", "retry_cut_max", "\"5min\"", "a span from \"10ms\" to \"1d\"",
              "Longest wait while the hub accepts connections and cuts them, as it does when it has too many."),
          parse_span, FIELD(uplink.retry_cut_max_usec), 10 * USEC_PER_MSEC, USEC_PER_DAY },
        { ROW("uplink", "retry_refused_max", "\"10min\"", "a span from \"10ms\" to \"1d\"",
              "Longest wait while the hub refuses the credentials."),
          parse_span, FIELD(uplink.retry_refused_max_usec), 10 * USEC_PER_MSEC, USEC_PER_DAY },
        { ROW("uplink", "clock_wait", "\"2min\"", "a span from \"0\" to \"1h\"",
              "How long the start waits for the clock to be set where it cannot be right, as on a board without a battery; \"0\" does not wait."),
          parse_span, FIELD(uplink.clock_wait_usec), 0, USEC_PER_HOUR },
        { ROW("uplink", "token_lifetime", "\"1h\"", "a span from \"5s\" to \"365d\"",
              "How long the token of a connection is valid; it is renewed earlier, which costs one new connection."),
          parse_span, FIELD(uplink.token_lifetime_usec), 5 * USEC_PER_SEC, 365 * USEC_PER_DAY },
        { ROW("uplink", "product_info", "\"\"", "a text",
              "How the client names itself to the hub; empty is iothubd and its version."),
          parse_text, FIELD(uplink.product_info) },
        { ROW("uplink", "model_id", "\"\"", "a text such as \"dtmi:com:example:Thermostat;1\"",
              "Model of the device that is announced to the hub; empty announces none."),
          parse_text, FIELD(uplink.model_id) },

        { ROW("ipc", "connections_max", "512", "1 to 65536", "Most local connections at a time."), parse_unsigned,
          FIELD(ipc.connections_max), 1, 65536 },
        { ROW("ipc", "connections_per_user_max", "128", "1 to 65536", "Most local connections of one user."),
          parse_unsigned, FIELD(ipc.connections_per_user_max), 1, 65536 },
        { ROW("ipc", "buffer_bytes_max", "\"16M\"", "a size from \"2M\" to \"1G\"",
              "Most memory that the data of all local connections takes together."),
          parse_size_setting, FIELD(ipc.buffer_bytes_max), 2 * MIB, GIB },
        { ROW("ipc", "user_bytes_max", "\"8M\"", "a size from \"2M\" to \"1G\"",
              "Most memory that the data of one user's connections takes."),
          parse_size_setting, FIELD(ipc.user_bytes_max), 2 * MIB, GIB },
        { ROW("ipc", "user_messages_per_sec", "10000", "0 to 1000000",
              "Most messages per second that are taken from one user for long, each 4 KiB counting as one; 0 sets no "
              "limit."),
          parse_unsigned, FIELD(ipc.user_messages_per_sec), 0, 1000000 },
        { ROW("ipc", "user_messages_burst", "1000000", "1 to 1000000000",
              "Most messages that one user may send at once, before that rate holds."),
          parse_unsigned, FIELD(ipc.user_messages_burst), 1, 1000000000 },
};

const ConfigSetting *config_setting(size_t i) {
        return i < ELEMENTSOF(settings) ? &settings[i].row : NULL;
}

void config_dump_defaults(FILE *f) {
        for (size_t i = 0; i < ELEMENTSOF(settings); i++) {
                const ConfigSetting *row = &settings[i].row;

                fprintf(f, "%s%s%s = %s\n", strempty(row->group), row->group ? "." : "", row->name, row->default_value);
        }
}

static void *field_of(const Setting *s, Config *c) {
        return (char *) c + s->offset;
}

/* Parses a default, which is kept as it stands in the file: in quotes where it is a string. */
static int set_default(const Setting *s, Config *c) {
        const char *value = s->row.default_value;
        _cleanup_free_ char *bare = NULL;
        int r;

        if (value[0] != '"')
                bare = strdup(value);
        else
                bare = strndup(value + 1, strlen(value) - 2);
        if (!bare)
                return -ENOMEM;
        r = s->parse(s, bare, field_of(s, c));
        assert(r >= 0 || r == -ENOMEM); /* the table contradicts itself */
        return r;
}

/* The unit of each instance has a folder of its own, made and named by the service manager. A list of several is not
 * from our units. */
static int use_folder_of_unit(Config *c) {
        const char *path = getenv("STATE_DIRECTORY");
        char *copy;

        if (!path || path[0] != '/' || strchr(path, ':'))
                return 0;
        copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        free(c->state_directory);
        c->state_directory = copy;
        return 0;
}

int config_default(Config *ret) {
        _cleanup_(config_done) Config c = {};
        int r;

        for (size_t i = 0; i < ELEMENTSOF(settings); i++) {
                r = set_default(&settings[i], &c);
                if (r < 0)
                        return r;
        }
        r = use_folder_of_unit(&c);
        if (r < 0)
                return r;
        *ret = c;
        c = (Config) {};
        return 0;
}

void config_done(Config *c) {
        for (size_t i = 0; i < ELEMENTSOF(settings); i++) {
                ParseValue parse = settings[i].parse;

                if (parse == parse_text || parse == parse_path || parse == parse_path_needed ||
                    parse == parse_socket_path || parse == parse_key || parse == parse_module)
                        erase_and_free(*(char **) field_of(&settings[i], c));
        }
        *c = (Config) {};
}

/* One file while it is read. */
typedef struct Reader {
        const char *path;
        Config config;
        unsigned lines[ELEMENTSOF(settings)]; /* where each was set; 0: it has its default */
} Reader;

static const char *full_name(const Setting *s, char *buf, size_t size) {
        (void) snprintf(buf, size, "%s%s%s", strempty(s->row.group), s->row.group ? "." : "", s->row.name);
        return buf;
}

#define FULL_NAME_MAX 64U

/* The value itself is not quoted: a secret may stand in the wrong line. */
static int bad_value(const Reader *reader, const Setting *s, unsigned line) {
        char name[FULL_NAME_MAX];

        log_event(LOG_ERR, MSG_CONFIG_INVALID, NULL, "%s:%u: %s: allowed is %s", reader->path, line,
                  full_name(s, name, sizeof(name)), s->row.allowed);
        return -EINVAL;
}

/* The text of a scalar. -EINVAL where it is none, or a fraction, which no setting takes. */
static int scalar_to_text(const config_setting_t *v, char **ret) {
        const char *s = NULL;
        char *text;

        switch (config_setting_type(v)) {
        case CONFIG_TYPE_STRING:
                s = config_setting_get_string(v);
                break;
        case CONFIG_TYPE_BOOL:
                s = config_setting_get_bool(v) ? "true" : "false";
                break;
        case CONFIG_TYPE_INT:
        case CONFIG_TYPE_INT64:
                if (asprintf(ret, "%lld", config_setting_get_int64(v)) < 0)
                        return -ENOMEM;
                return 0;
        default:
                return -EINVAL;
        }
        text = strdup(strempty(s));
        if (!text)
                return -ENOMEM;
        *ret = text;
        return 0;
}

static int read_setting(Reader *reader, size_t i, const config_setting_t *v) {
        const Setting *s = &settings[i];
        unsigned line = config_setting_source_line(v);
        _cleanup_(erase_and_freep) char *text = NULL;
        int r = scalar_to_text(v, &text);

        if (r >= 0)
                r = s->parse(s, text, field_of(s, &reader->config));
        if (r == -EINVAL || r == -ERANGE)
                return bad_value(reader, s, line);
        if (r < 0)
                return r;
        reader->lines[i] = line;
        return 0;
}

/* Unknown names only warn, so that a file for a newer version still starts this one. */
static void warn_unknown(const Reader *reader, const char *group, const config_setting_t *v) {
        const char *name = config_setting_name(v);
        unsigned line = config_setting_source_line(v);
        char known[FULL_NAME_MAX];

        for (size_t i = 0; i < ELEMENTSOF(settings); i++)
                if (streq(settings[i].row.name, name)) {
                        log_event(LOG_WARNING, MSG_CONFIG_INVALID, NULL,
                                  "%s:%u: Unknown setting %s%s%s is ignored; there is %s",
                                  reader->path, line, strempty(group), group ? "." : "", name,
                                  full_name(&settings[i], known, sizeof(known)));
                        return;
                }
        log_event(LOG_WARNING, MSG_CONFIG_INVALID, NULL, "%s:%u: Unknown setting %s%s%s is ignored",
                  reader->path, line, strempty(group), group ? "." : "", name);
}

static bool is_group(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(settings); i++)
                if (settings[i].row.group && streq(settings[i].row.group, name))
                        return true;
        return false;
}

/* The row of a name, or ELEMENTSOF(settings). */
static size_t find_setting(const char *group, const char *name) {
        size_t i;

        for (i = 0; i < ELEMENTSOF(settings); i++)
                if (streq(settings[i].row.name, name) && streq(strempty(settings[i].row.group), strempty(group)))
                        break;
        return i;
}

static int read_group(Reader *reader, const char *group, const config_setting_t *elements);

static int read_element(Reader *reader, const char *group, const config_setting_t *v) {
        const char *name = config_setting_name(v);
        size_t i;

        if (!group && is_group(name)) {
                if (config_setting_type(v) != CONFIG_TYPE_GROUP) {
                        log_event(LOG_ERR, MSG_CONFIG_INVALID, NULL,
                                  "%s:%u: %s: allowed is a group, %s: { ... };", reader->path,
                                  config_setting_source_line(v), name, name);
                        return -EINVAL;
                }
                return read_group(reader, name, v);
        }
        i = find_setting(group, name);
        if (i < ELEMENTSOF(settings))
                return read_setting(reader, i, v);
        warn_unknown(reader, group, v);
        return 0;
}

/* Goes on after a bad value, so that one start shows all of them. */
static int read_group(Reader *reader, const char *group, const config_setting_t *elements) {
        int n = config_setting_length(elements), first_error = 0;

        for (int i = 0; i < n; i++) {
                int r = read_element(reader, group, config_setting_get_elem(elements, (unsigned) i));

                if (r < 0 && r != -EINVAL)
                        return r;
                if (r < 0)
                        first_error = r;
        }
        return first_error;
}

/* Two settings that contradict each other; told at the line of the one that is too large or too small. */
static int check_relation(const Reader *reader, const char *group, const char *smaller, uint64_t smaller_value,
                          const char *larger, uint64_t larger_value) {
        size_t a = find_setting(group, smaller), b = find_setting(group, larger);
        unsigned line = MAX(reader->lines[a], reader->lines[b]);

        assert(a < ELEMENTSOF(settings) && b < ELEMENTSOF(settings));
        if (smaller_value <= larger_value)
                return 0;
        log_event(LOG_ERR, MSG_CONFIG_INVALID, NULL,
                  "%s:%u: %s.%s: allowed is at most the value of %s.%s", reader->path, line, group,
                  smaller, group, larger);
        return -EINVAL;
}

static int check_relations(const Reader *reader) {
        const Config *c = &reader->config;
        int r;

        r = check_relation(reader, "uplink", "retry_min", c->uplink.retry_min_usec, "retry_max",
                           c->uplink.retry_max_usec);
        if (r >= 0)
                r = check_relation(reader, "ipc", "connections_per_user_max", c->ipc.connections_per_user_max,
                                   "connections_max", c->ipc.connections_max);
        if (r >= 0)
                r = check_relation(reader, "ipc", "user_bytes_max", c->ipc.user_bytes_max, "buffer_bytes_max",
                                   c->ipc.buffer_bytes_max);
        if (r >= 0 && c->outbox.max_size > 0 && reader->lines[find_setting("outbox", "dead_letter_size")] > 0)
                r = check_relation(reader, "outbox", "dead_letter_size", c->outbox.dead_letter_size, "max_size",
                                   c->outbox.max_size);
        return r;
}

/* libconfig keeps its strings until config_destroy(), which does not erase them. */
static void destroy_config(config_t *cfg) {
        config_setting_t *v = config_lookup(cfg, "connection_string");
        const char *secret = v ? config_setting_get_string(v) : NULL;

        if (secret)
                explicit_bzero((char *) secret, strlen(secret));
        config_destroy(cfg);
}

static int read_text(Reader *reader, const char *text) {
        _cleanup_(destroy_config) config_t cfg;
        int r;

        config_init(&cfg);
        if (config_read_string(&cfg, text) != CONFIG_TRUE) {
                log_event(LOG_ERR, MSG_CONFIG_INVALID, NULL,
                          "%s:%d: %s: allowed are lines like NAME = VALUE; and GROUP: { ... };",
                          reader->path, config_error_line(&cfg), config_error_text(&cfg));
                return -EINVAL;
        }
        r = read_group(reader, NULL, config_root_setting(&cfg));
        if (r < 0)
                return r;
        return check_relations(reader);
}

static void warn_if_exposed(const Reader *reader) {
        struct stat st;

        if (reader->config.connection_string && stat(reader->path, &st) >= 0 && (st.st_mode & S_IROTH))
                log_event(LOG_WARNING, MSG_KEY_EXPOSED, NULL,
                          "%s holds a device key and everyone may read it: chmod o-r %s",
                          reader->path, reader->path);
}

int config_load(const char *path, Config *ret) {
        _cleanup_(erase_and_freep) char *text = NULL;
        Reader reader = { .path = path };
        size_t size;
        int r;

        /* Read here and not by libconfig, whose scanner ends the process when a read fails. */
        r = read_file(path, CONFIG_BYTES_MAX, &text, &size);
        if (r < 0)
                return r;
        if (strlen(text) != size) {
                log_event(LOG_ERR, MSG_CONFIG_INVALID, NULL, "%s: not a text file", path);
                return -EINVAL;
        }
        r = config_default(&reader.config);
        if (r < 0)
                return r;
        r = read_text(&reader, text);
        if (r < 0) {
                config_done(&reader.config);
                return r;
        }
        warn_if_exposed(&reader);
        *ret = reader.config;
        return 0;
}
