/* The table of settings beside etc/iothubd.conf and the manual, and what a bad line says. */
#include "tests/support/test.h"

#include <fcntl.h>

#include "daemon/config.h"
#include "lib/fd-util.h"

/* libconfig itself keeps a piece of text after a syntax error in a string. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
        return "leak:strbuf_append";
}

static char *dir, *log_path;

static void setup(void) {
        int fd;

        dir = test_tempdir();
        ck_assert_int_ge(asprintf(&log_path, "%s/log", dir), 0);
        fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        close(fd);
        log_setup(LOG_TARGET_STDERR, LOG_DEBUG);
}

/* What was logged since the last call. */
static char *take_log(void) {
        char *s;

        assert_ok(read_file(log_path, 1 << 20, &s, NULL));
        ck_assert_int_eq(truncate(log_path, 0), 0);
        return s;
}

static int load(const char *text, Config *ret) {
        _cleanup_free_ char *path = NULL;

        ck_assert_int_ge(asprintf(&path, "%s/x.conf", dir), 0);
        assert_ok(replace_file(path, text, strlen(text), 0600));
        return config_load(path, ret);
}

static char *read_source(const char *name) {
        const char *source = getenv("IOTHUBD_SOURCE");
        _cleanup_free_ char *path = NULL;
        char *s;

        ck_assert_int_ge(asprintf(&path, "%s/%s", source ? source : ".", name), 0);
        assert_ok(read_file(path, 1 << 20, &s, NULL));
        return s;
}

/* The sentence above line: its comment lines, joined. Walks back from the line's begin. */
static char *comment_above(const char *text, const char *line) {
        char *joined = strdup("");

        while (line > text) {
                const char *begin = line - 1, *p;
                char *longer;

                while (begin > text && begin[-1] != '\n')
                        begin--;
                p = begin + strspn(begin, " ");
                if (!startswith(p, "# "))
                        break;
                p += 2;
                ck_assert_int_ge(asprintf(&longer, "%.*s%s%s", (int) (line - 1 - p), p, *joined ? " " : "", joined), 0);
                free(joined);
                joined = longer;
                line = begin;
        }
        return joined;
}

TEST(the_example_file_shows_every_setting_at_its_default_in_the_order_of_the_table) {
        _cleanup_free_ char *text = read_source("etc/iothubd.conf");
        const char *at = text, *group = NULL;
        const ConfigSetting *s;
        size_t n = 0, n_lines = 0;

        for (; (s = config_setting(n)); n++) {
                _cleanup_free_ char *line = NULL, *begin_of_group = NULL, *comment = NULL;
                const char *found;

                if (s->group && (!group || !streq(group, s->group))) {
                        ck_assert_int_ge(asprintf(&begin_of_group, "\n%s: {\n", s->group), 0);
                        at = strstr(at, begin_of_group);
                        ck_assert_msg(at != NULL, "%s", begin_of_group);
                        group = s->group;
                }
                ck_assert_int_ge(asprintf(&line, "\n%s#%s = %s;\n", s->group ? "    " : "", s->name, s->default_value),
                                 0);
                found = strstr(at, line);
                ck_assert_msg(found != NULL, "not in etc/iothubd.conf, or not in its place: %s", line);
                comment = comment_above(text, found + 1);
                ck_assert_str_eq(comment, s->help);
                at = found;
        }
        /* Nothing beside the table. */
        for (const char *p = text; (p = strstr(p, " = ")); p++)
                n_lines++;
        ck_assert_uint_eq(n_lines, n);
}

static void assert_configs_equal(const Config *a, const Config *b) {
        ck_assert_pstr_eq(a->connection_string, b->connection_string);
        ck_assert_pstr_eq(a->state_directory, b->state_directory);
        ck_assert_pstr_eq(a->socket, b->socket);
        ck_assert_uint_eq(a->mqtt_port, b->mqtt_port);
        ck_assert_uint_eq(a->socket_mode, b->socket_mode);
        ck_assert_int_eq(a->log_level, b->log_level);
        ck_assert(memcmp(&a->outbox, &b->outbox, sizeof(a->outbox)) == 0);
        ck_assert(memcmp(&a->ipc, &b->ipc, sizeof(a->ipc)) == 0);
        ck_assert_uint_eq(a->uplink.window, b->uplink.window);
        ck_assert(a->uplink.token_lifetime_usec == b->uplink.token_lifetime_usec);
}

TEST(the_example_file_loads_silently_also_with_every_line_in_force) {
        _cleanup_free_ char *text = read_source("etc/iothubd.conf"), *logged = NULL;
        _cleanup_(config_done) Config defaults = {}, loaded = {}, in_force = {};

        setup();
        assert_ok(config_default(&defaults));
        assert_ok(load(text, &loaded));
        assert_configs_equal(&defaults, &loaded);

        for (char *p = text; (p = strstr(p, " = ")); p++) {
                char *begin = p;

                while (begin[-1] != '#')
                        begin--;
                begin[-1] = ' ';
        }
        assert_ok(load(text, &in_force));
        assert_configs_equal(&defaults, &in_force);
        logged = take_log();
        ck_assert_str_eq(logged, "");
}

TEST(the_manual_has_a_paragraph_for_every_setting_with_its_default) {
        _cleanup_free_ char *text = read_source("man/iothubd.conf.5");
        const ConfigSetting *s;
        size_t n_items = 0;

        for (size_t i = 0; (s = config_setting(i)); i++) {
                _cleanup_free_ char *item = NULL;

                /* .It Va NAME = DEFAULT, with mdoc's spelling of a quote. */
                if (s->default_value[0] == '"')
                        ck_assert_int_ge(asprintf(&item, ".It Va %s No = \\(dq%.*s\\(dq\n", s->name,
                                                  (int) strlen(s->default_value) - 2, s->default_value + 1), 0);
                else
                        ck_assert_int_ge(asprintf(&item, ".It Va %s No = %s\n", s->name, s->default_value), 0);
                ck_assert_msg(strstr(text, item) != NULL, "not in the manual: %s", item);
                n_items++;
        }
        for (const char *p = text; (p = strstr(p, ".It Va ")); p++)
                n_items--;
        ck_assert_uint_eq(n_items, 0);
}

TEST(the_dump_has_a_line_for_each_setting) {
        _cleanup_free_ char *text = NULL;
        size_t size, n = 0;
        FILE *f = open_memstream(&text, &size);

        config_dump_defaults(f);
        fclose(f);
        for (const char *p = text; (p = strchr(p, '\n')); p++)
                n++;
        ck_assert_ptr_nonnull(config_setting(n - 1));
        ck_assert_ptr_null(config_setting(n));
        ck_assert_ptr_nonnull(strstr(text, "\noutbox.max_size = \"auto\"\n"));
        ck_assert(startswith(text, "connection_string = \"\"\n"));
}

TEST(settings_reach_their_fields) {
        _cleanup_(config_done) Config c = {};

        setup();
        assert_ok(load(
                "connection_string_file = \"/etc/iothubd/device\";\n"
                "ca_file = \"/ca.pem\"\nmqtt_port = 8884;\nstate_directory = \"/s\"; socket = \"/run/x.sock\";\n"
                "socket_group = \"iothub\"; socket_mode = \"0666\"; log_target = \"stderr\"; log_level = \"debug\";\n"
                "stop_timeout = 30;\n" /* a bare number is seconds */
                "outbox: { max_size = \"64M\"; keep_free = \"0\"; segment_size = \"1M\"; full = \"drop-oldest\";\n"
                "time_to_live = \"2d\"; dead_letter_size = 1024; receipts = 7; position_interval = \"1.5s\";\n"
                "position_messages = 9; adopt = true; };\n"
                "uplink = { window = 1000; window_bytes = \"2M\"; keep_alive = \"1177s\"; connect_timeout = \"1s\";\n"
                "ack_timeout = \"5s\"; retry_min = \"50ms\"; retry_max = \"100ms\"; retry_cut_max = \"200ms\";\n"
                "retry_refused_max = \"300ms\"; token_lifetime = \"20s\"; product_info = \"p\"; model_id = \"dtmi:m\"; "
                "};\n"
                "ipc: { connections_max = 10; connections_per_user_max = 9; buffer_bytes_max = \"3M\"; user_bytes_max "
                "= \"2M\"; user_messages_per_sec = 50; user_messages_burst = 60; };\n",
                &c));
        ck_assert_ptr_null(c.connection_string);
        ck_assert_str_eq(c.connection_string_file, "/etc/iothubd/device");
        ck_assert_str_eq(c.ca_file, "/ca.pem");
        ck_assert_uint_eq(c.mqtt_port, 8884);
        ck_assert_str_eq(c.state_directory, "/s");
        ck_assert_str_eq(c.socket, "/run/x.sock");
        ck_assert_str_eq(c.socket_group, "iothub");
        ck_assert_uint_eq(c.socket_mode, 0666);
        ck_assert_int_eq(c.log_target, LOG_TARGET_STDERR);
        ck_assert_int_eq(c.log_level, LOG_DEBUG);
        ck_assert(c.stop_timeout_usec == 30 * USEC_PER_SEC);
        ck_assert(c.outbox.max_size == 64 << 20 && c.outbox.keep_free == 0 && c.outbox.segment_size == 1 << 20);
        ck_assert_int_eq(c.outbox.full, OUTBOX_FULL_DROP_OLDEST);
        ck_assert(c.outbox.time_to_live_usec == 2 * USEC_PER_DAY && c.outbox.dead_letter_size == 1024);
        ck_assert(c.outbox.receipts == 7 && c.outbox.position_messages == 9 && c.outbox.adopt);
        ck_assert(c.outbox.position_interval_usec == 1500 * USEC_PER_MSEC);
        ck_assert(c.uplink.window == 1000 && c.uplink.window_bytes == 2 << 20);
        ck_assert(c.uplink.keep_alive_usec == 1177 * USEC_PER_SEC && c.uplink.connect_timeout_usec == USEC_PER_SEC);
        ck_assert(c.uplink.ack_timeout_usec == 5 * USEC_PER_SEC && c.uplink.retry_min_usec == 50 * USEC_PER_MSEC);
        ck_assert(c.uplink.retry_max_usec == 100 * USEC_PER_MSEC && c.uplink.retry_cut_max_usec == 200 * USEC_PER_MSEC);
        ck_assert(c.uplink.retry_refused_max_usec == 300 * USEC_PER_MSEC);
        ck_assert(c.uplink.token_lifetime_usec == 20 * USEC_PER_SEC);
        ck_assert_str_eq(c.uplink.product_info, "p");
        ck_assert_str_eq(c.uplink.model_id, "dtmi:m");
        ck_assert(c.ipc.connections_max == 10 && c.ipc.connections_per_user_max == 9);
        ck_assert(c.ipc.buffer_bytes_max == 3 << 20 && c.ipc.user_bytes_max == 2 << 20);
        ck_assert(c.ipc.user_messages_per_sec == 50 && c.ipc.user_messages_burst == 60);
}

TEST(a_unit_brings_its_own_state_directory_and_the_file_goes_before_it) {
        _cleanup_(config_done) Config unit = {}, file = {}, several = {};

        setup();
        ck_assert_int_eq(setenv("STATE_DIRECTORY", "/var/lib/iothubd/pump", 1), 0);
        assert_ok(load("mqtt_port = 1;\n", &unit));
        ck_assert_str_eq(unit.state_directory, "/var/lib/iothubd/pump");
        assert_ok(load("state_directory = \"/elsewhere\";\n", &file));
        ck_assert_str_eq(file.state_directory, "/elsewhere");
        ck_assert_int_eq(setenv("STATE_DIRECTORY", "/a:/b", 1), 0);
        assert_ok(load("", &several));
        ck_assert_str_eq(several.state_directory, "/var/lib/iothubd/iothubd");
        ck_assert_int_eq(unsetenv("STATE_DIRECTORY"), 0);
}

TEST(the_automatic_values_are_the_outboxs_own) {
        _cleanup_(config_done) Config c = {};

        assert_ok(config_default(&c));
        ck_assert(c.outbox.max_size == 0 && c.outbox.keep_free == UINT64_MAX && c.outbox.segment_size == 0);
        ck_assert(c.outbox.time_to_live_usec == USEC_INFINITY);
        ck_assert_ptr_null(c.ca_file);
        ck_assert_ptr_null(c.socket_group);
}

/* Each value is just outside of what is allowed; the one inside is in the next test or the defaults. */
static const struct {
        const char *group, *line;
} bad_lines[] = {
        { NULL, "connection_string = 5.0" },
        { NULL, "connection_string_file = [ 1 ]" },
        { NULL, "connection_string_file = \"HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0\"" },
        { NULL, "ca_file = true.0" }, /* a syntax error, which names the line alone */
        { NULL, "mqtt_port = 0" },
        { NULL, "mqtt_port = 65536" },
        { NULL, "mqtt_port = -1" },
        { NULL, "mqtt_port = \"mqtts\"" },
        { NULL, "mqtt_port = 8883.0" },
        { NULL, "mqtt_port = true" },
        { NULL, "state_directory = \"\"" },
        { NULL, "socket = \"\"" },
        { NULL, "socket = "
                "\"/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/"
                "123456789/1234567\"" },
        { NULL, "socket_mode = \"660\"" },
        { NULL, "socket_mode = \"0668\"" },
        { NULL, "socket_mode = \"1777\"" },
        { NULL, "log_target = \"syslog\"" },
        { NULL, "log_level = \"loud\"" },
        { NULL, "stop_timeout = \"3601s\"" },
        { NULL, "stop_timeout = \"ten\"" },
        { NULL, "outbox = 5" },
        { "outbox", "max_size = \"1048575\"" },
        { "outbox", "max_size = \"17T\"" },
        { "outbox", "max_size = \"64MB\"" },
        { "outbox", "max_size = \"10%\"" },
        { "outbox", "keep_free = -1" },
        { "outbox", "segment_size = \"511K\"" },
        { "outbox", "full = \"drop\"" },
        { "outbox", "time_to_live = \"999ms\"" },
        { "outbox", "dead_letter_size = \"auto\"" },
        { "outbox", "receipts = 1048577" },
        { "outbox", "position_interval = \"9ms\"" },
        { "outbox", "position_interval = \"infinity\"" },
        { "outbox", "position_messages = 0" },
        { "outbox", "adopt = \"maybe\"" },
        { "uplink", "window = 0" },
        { "uplink", "window = 1001" },
        { "uplink", "window_bytes = 1023" },
        { "uplink", "keep_alive = \"9.9s\"" },
        { "uplink", "keep_alive = \"1178s\"" },
        { "uplink", "connect_timeout = \"999ms\"" },
        { "uplink", "ack_timeout = \"infinity\"" },
        { "uplink", "retry_min = \"0\"" },
        { "uplink", "retry_min = \"2min\"" }, /* above retry_max */
        { "uplink", "retry_max = \"2d\"" },
        { "uplink", "retry_cut_max = \"-1s\"" },
        { "uplink", "retry_refused_max = \"forever\"" },
        { "uplink", "token_lifetime = \"4s\"" },
        { "ipc", "connections_max = 0" },
        { "ipc", "connections_per_user_max = 513" }, /* above connections_max */
        { "ipc", "buffer_bytes_max = \"1M\"" },
        { "ipc", "user_bytes_max = \"17M\"" }, /* above buffer_bytes_max */
        { "ipc", "user_messages_per_sec = 1000001" },
        { "ipc", "user_messages_burst = 0" },
};

TEST(a_bad_value_names_file_line_setting_and_what_is_allowed) {
        setup();
        for (size_t i = 0; i < ELEMENTSOF(bad_lines); i++) {
                _cleanup_free_ char *text = NULL, *logged = NULL, *place = NULL;
                const char *group = bad_lines[i].group;
                bool syntax = startswith(bad_lines[i].line, "ca_file");
                Config c = {};

                ck_assert_int_ge(asprintf(&text, "\n\n%s%s%s;%s\n", strempty(group), group ? " : { " : "",
                                          bad_lines[i].line, group ? " };" : ""), 0);
                ck_assert_msg(load(text, &c) == -EINVAL, "%s", bad_lines[i].line);
                ck_assert_ptr_null(c.socket);
                logged = take_log();
                ck_assert_int_ge(asprintf(&place, "%s/x.conf:3: %s%s%.*s", dir, strempty(group), group ? "." : "",
                                          syntax ? 0 : (int) strcspn(bad_lines[i].line, " "), bad_lines[i].line), 0);
                ck_assert_msg(startswith(logged, place), "%s: %s", place, logged);
                ck_assert_msg(strstr(logged, ": allowed ") != NULL, "%s", logged);
                ck_assert_ptr_null(strstr(logged, "c2VjcmV0"));
        }
}

TEST(the_ends_of_the_ranges_are_allowed) {
        static const char *const good[] = {
                "mqtt_port = 1;",
                "mqtt_port = 65535;",
                "mqtt_port = \"443\";",
                "stop_timeout = \"0\";",
                "stop_timeout = \"1h\";",
                "socket = "
                "\"/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/"
                "123456789/123456\";",
                "outbox: { max_size = \"1M\"; dead_letter_size = \"1M\"; };",
                "outbox: { max_size = \"16T\"; };",
                "outbox: { max_size = 1073741824L; };",
                "outbox: { receipts = 0; position_messages = 1; };",
                "outbox: { receipts = 1048576; time_to_live = \"1s\"; };",
                "uplink: { window = 1; keep_alive = \"10s\"; };",
                "uplink: { retry_min = \"1min\"; };",
                "ipc: { connections_per_user_max = 512; user_bytes_max = \"16M\"; };",
                "",
        };

        setup();
        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                _cleanup_(config_done) Config c = {};
                _cleanup_free_ char *logged = NULL;
                int r = load(good[i], &c);

                logged = take_log();
                ck_assert_msg(r == 0 && streq(logged, ""), "%s: %s", good[i], logged);
        }
}

TEST(an_unknown_setting_warns_with_its_line_and_the_rest_counts) {
        _cleanup_(config_done) Config c = {};
        _cleanup_free_ char *logged = NULL;

        setup();
        assert_ok(load("colour = \"red\";\nmqtt_port = 99;\nmax_size = \"1G\";\noutbox: {\nwindow = 7;\nreceipts = 5; "
                       "};\nnest: { a = 1; };\n",
                       &c));
        ck_assert_uint_eq(c.mqtt_port, 99);
        ck_assert_uint_eq(c.outbox.receipts, 5);
        ck_assert(c.outbox.max_size == 0);
        logged = take_log();
        ck_assert_ptr_nonnull(strstr(logged, "x.conf:1: Unknown setting colour is ignored\n"));
        ck_assert_ptr_nonnull(
                strstr(logged, "x.conf:3: Unknown setting max_size is ignored; there is outbox.max_size\n"));
        ck_assert_ptr_nonnull(
                strstr(logged, "x.conf:5: Unknown setting outbox.window is ignored; there is uplink.window\n"));
        ck_assert_ptr_nonnull(strstr(logged, "x.conf:7: Unknown setting nest is ignored\n"));
}

TEST(all_bad_values_are_shown_at_once) {
        _cleanup_free_ char *logged = NULL;
        Config c = {};

        setup();
        assert_error(load("mqtt_port = 0;\noutbox: { full = 1; };\nlog_level = 3;\n", &c), -EINVAL);
        logged = take_log();
        ck_assert_ptr_nonnull(strstr(logged, ":1: mqtt_port"));
        ck_assert_ptr_nonnull(strstr(logged, ":2: outbox.full"));
        ck_assert_ptr_nonnull(strstr(logged, ":3: log_level"));
}

TEST(a_missing_or_unreadable_file_is_the_callers_to_tell) {
        Config c = {};

        setup();
        assert_error(config_load("/nonexistent/iothubd.conf", &c), -ENOENT);
        assert_error(config_load(dir, &c), -EISDIR);
}

TEST(a_syntax_error_names_its_line_and_a_secret_stays_out) {
        static const char *const texts[] = { "\nmqtt_port = ;\n", "\n\"HostName=h;SharedAccessKey=c2VjcmV0\"\n",
                                             "\nHostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0=;\n" };

        setup();
        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_free_ char *logged = NULL;
                Config c = {};

                assert_error(load(texts[i], &c), -EINVAL);
                logged = take_log();
                ck_assert_msg(strstr(logged, "x.conf:2: ") != NULL, "%s", logged);
                ck_assert_ptr_null(strstr(logged, "c2VjcmV0"));
        }
}

TEST(a_world_readable_file_with_a_key_is_told) {
        static const char text[] = "connection_string = \"HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0\";\n";
        _cleanup_free_ char *path = NULL, *logged = NULL;
        _cleanup_(config_done) Config c = {};

        setup();
        ck_assert_int_ge(asprintf(&path, "%s/open.conf", dir), 0);
        assert_ok(replace_file(path, text, strlen(text), 0644));
        assert_ok(config_load(path, &c));
        logged = take_log();
        ck_assert_ptr_nonnull(strstr(logged, "everyone may read it"));
        ck_assert_ptr_null(strstr(logged, "c2VjcmV0"));
}
