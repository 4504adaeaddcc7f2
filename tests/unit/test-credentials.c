/* Where the identity comes from, what is said when it is missing or wrong, and that no text holds a secret (P7). */
#include "tests/support/test.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "daemon/credentials.h"
#include "daemon/log.h"
#include "lib/fd-util.h"
#include "lib/sas-token.h"

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define OTHER_KEY "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
#define DEVICE "HostName=h.example;DeviceId=dev01;SharedAccessKey=" KEY
#define OTHER_DEVICE "HostName=h.example;DeviceId=dev01;SharedAccessKey=" OTHER_KEY
#define NOW UINT64_C(1893452400000000) /* an hour before 2030-01-01T00:00:00Z */

static char *dir, *log_path;

static char *path_in(const char *name) {
        char *p;

        ck_assert_int_ge(asprintf(&p, "%s/%s", dir, name), 0);
        return p;
}

/* Log lines go to a file from here on. */
static void setup(void) {
        int fd;

        unsetenv("CREDENTIALS_DIRECTORY");
        dir = test_tempdir();
        log_path = path_in("log");
        fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
        close(fd);
        log_setup(LOG_TARGET_STDERR, LOG_DEBUG);
}

/* Not inlined: gcc 12 at -O3 takes the text for the variable that held its address. */
static __attribute__((noinline)) char *log_text(void) {
        char *s = NULL;

        assert_ok(read_file(log_path, 1 << 20, &s, NULL));
        return s;
}

/* No eight characters of a key in a row. */
static void assert_no_secret(const char *text) {
        static const char *const keys[] = { KEY, OTHER_KEY };

        for (size_t k = 0; k < ELEMENTSOF(keys); k++)
                for (size_t i = 0; i + 8 <= strlen(keys[k]); i++) {
                        char piece[9] = {};

                        memcpy(piece, keys[k] + i, 8);
                        ck_assert_msg(!strstr(text, piece), "%s", text);
                }
}

static Credentials *open_credentials(const char *string, const char *file) {
        CredentialsOptions options = { .connection_string = string, .connection_string_file = file,
                                       .token_lifetime_usec = USEC_PER_HOUR };
        Credentials *c;

        assert_ok(credentials_new(&options, &c));
        return c;
}

static void write_file(const char *path, const char *content) {
        assert_ok(replace_file(path, content, strlen(content), 0600));
}

TEST(a_connection_string_gives_the_whole_identity) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(sas_token_done) SasToken t = {};
        uint64_t expiry;

        setup();
        c = open_credentials("HostName=h.example:8884;DeviceId=dev01;SharedAccessKey=" KEY, NULL);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_str_eq(credentials_host(c), "h.example");
        ck_assert_str_eq(credentials_connect_host(c), "h.example");
        ck_assert_uint_eq(credentials_connect_port(c, 8883), 8884);
        ck_assert_str_eq(credentials_device_id(c), "dev01");
        ck_assert_ptr_null(credentials_module_id(c));
        ck_assert_str_eq(credentials_client_id(c), "dev01");
        ck_assert_str_eq(credentials_topic_prefix(c), "devices/dev01/messages/events/");
        ck_assert(startswith(credentials_user_name(c),
                             "h.example/dev01/?api-version=2021-04-12&DeviceClientType=iothubd%2F"));

        assert_ok(credentials_make_token(c, 0, NOW + 999999, &token, &expiry));
        ck_assert_int_eq((int64_t) expiry, 1893456000);
        assert_ok(sas_token_parse(token, &t));
        ck_assert_str_eq(t.sr, "h.example%2Fdevices%2Fdev01");
        ck_assert(t.se_sec == expiry);
        ck_assert_ptr_null(t.skn);
        ck_assert_int_eq(sas_token_verify(&t, KEY), 1);
}

TEST(a_module_behind_a_gateway) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_(erase_and_freep) char *token = NULL;
        CredentialsOptions options = {
                .connection_string =
                        "HostName=h.example;DeviceId=d;ModuleId=m;GatewayHostName=edge.local;SharedAccessKey=" KEY,
                .product_info = "my/1",
                .model_id = "dtmi:x;1",
                .token_lifetime_usec = USEC_PER_HOUR,
        };
        uint64_t expiry;

        setup();
        assert_ok(credentials_new(&options, &c));
        ck_assert_str_eq(credentials_host(c), "h.example");
        ck_assert_str_eq(credentials_connect_host(c), "edge.local");
        ck_assert_uint_eq(credentials_connect_port(c, 8883), 8883);
        ck_assert_str_eq(credentials_module_id(c), "m");
        ck_assert_str_eq(credentials_client_id(c), "d/m");
        ck_assert_str_eq(credentials_user_name(c),
                         "h.example/d/m/?api-version=2021-04-12&DeviceClientType=my%2F1&model-id=dtmi%3Ax%3B1");
        ck_assert_str_eq(credentials_topic_prefix(c), "devices/d/modules/m/messages/events/");
        assert_ok(credentials_make_token(c, 0, NOW, &token, &expiry));
        ck_assert_ptr_nonnull(strstr(token, "sr=h.example%2Fdevices%2Fd%2Fmodules%2Fm&"));
}

TEST(a_ready_made_token_is_given_as_it_is) {
        static const char ready[] = "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=abc%3D&se=1234";
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_(erase_and_freep) char *string = NULL, *token = NULL;
        uint64_t expiry;

        setup();
        ck_assert_int_ge(asprintf(&string, "HostName=h;DeviceId=d;SharedAccessSignature=%s", ready), 0);
        c = open_credentials(string, NULL);
        ck_assert_ptr_null(credentials_problem(c));
        assert_ok(credentials_make_token(c, 0, NOW, &token, &expiry));
        ck_assert_str_eq(token, ready);
        ck_assert_uint_eq(expiry, 1234);
}

TEST(the_file_may_end_in_any_newline) {
        static const char *const endings[] = { "", "\n", "\r\n", " \n\n", ";\r\n" };

        setup();
        for (size_t i = 0; i < ELEMENTSOF(endings); i++) {
                _cleanup_free_ char *path = path_in("string"), *content = NULL;
                _cleanup_(credentials_freep) Credentials *c = NULL;

                ck_assert_int_ge(asprintf(&content, DEVICE "%s", endings[i]), 0);
                write_file(path, content);
                c = open_credentials(NULL, path);
                ck_assert_msg(!credentials_problem(c), "%s", credentials_problem(c));
                ck_assert_str_eq(credentials_device_id(c), "dev01");
        }
}

TEST(a_systemd_credential_is_the_last_source) {
        _cleanup_free_ char *credential = NULL, *other = NULL;
        _cleanup_(credentials_freep) Credentials *a = NULL, *b = NULL, *c = NULL, *d = NULL;

        setup();
        credential = path_in("connection-string");
        other = path_in("other");
        setenv("CREDENTIALS_DIRECTORY", dir, 1);

        a = open_credentials(NULL, NULL);
        ck_assert_ptr_nonnull(strstr(credentials_problem(a), "No connection string is configured"));

        write_file(credential, "HostName=h;DeviceId=from-systemd;SharedAccessKey=" KEY "\n");
        write_file(other, "HostName=h;DeviceId=from-file;SharedAccessKey=" KEY "\n");
        b = open_credentials(NULL, NULL);
        ck_assert_str_eq(credentials_device_id(b), "from-systemd");
        c = open_credentials(NULL, other);
        ck_assert_str_eq(credentials_device_id(c), "from-file");
        d = open_credentials(DEVICE, other);
        ck_assert_str_eq(credentials_device_id(d), "dev01");
}

/* What each fault says: the place, the key of the string at fault or the remedy. */
TEST(a_problem_names_the_place_and_the_remedy) {
        static const struct {
                const char *content; /* NULL: no file */
                const char *says[3];
        } table[] = {
                { NULL, { "/string is missing", "iothubctl device connection-string" } },
                { "", { "/string is not usable", "empty" } },
                { "\n", { "/string is not usable", "empty" } },
                { KEY "\n", { "/string is not usable", "Part 1" } },
                { "HostName=h.example;DeviceId=dev01;SharedAccessKey=" KEY "x",
                  { "/string", "SharedAccessKey: not valid base64" } },
                { "HostName=h.example;SharedAccessKeyName=iothubowner;SharedAccessKey=" KEY,
                  { "/string", "SharedAccessKeyName: this is a connection string of a shared access policy",
                    "iothubctl device" } },
                { "HostName=h.example;DeviceId=d;x509=true", { "says x509=true and no certificate", "certificate_file and private_key" } },
                { "HostName=h.example;DeviceId=a+b;SharedAccessKey=" KEY, { "/string", "+ or #" } },
                { DEVICE "\n" DEVICE "\n", { "/string", "line break" } },
        };

        setup();
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_free_ char *path = path_in("string"), *logged = NULL;
                _cleanup_(credentials_freep) Credentials *c = NULL;

                (void) unlink(path);
                if (table[i].content)
                        write_file(path, table[i].content);
                c = open_credentials(NULL, path);
                ck_assert_ptr_nonnull(credentials_problem(c));
                for (size_t k = 0; k < 3 && table[i].says[k]; k++)
                        ck_assert_msg(strstr(credentials_problem(c), table[i].says[k]), "%zu: %s", i,
                                      credentials_problem(c));
                assert_no_secret(credentials_problem(c));
                logged = log_text();
                assert_no_secret(logged);
        }
}

TEST(what_is_no_text_or_too_long_is_no_connection_string) {
        _cleanup_free_ char *path = NULL;
        _cleanup_(credentials_freep) Credentials *a = NULL, *b = NULL, *c = NULL;
        char big[8193];

        setup();
        path = path_in("string");
        assert_ok(replace_file(path, "HostName=h\0;", 12, 0600));
        a = open_credentials(NULL, path);
        ck_assert_ptr_nonnull(strstr(credentials_problem(a), "is not a text file"));
        memset(big, ' ', sizeof(big));
        memcpy(big, DEVICE, strlen(DEVICE));
        assert_ok(replace_file(path, big, sizeof(big) - 1, 0600));
        b = open_credentials(NULL, path);
        ck_assert_ptr_null(credentials_problem(b));
        assert_ok(replace_file(path, big, sizeof(big), 0600));
        c = open_credentials(NULL, path);
        ck_assert_ptr_nonnull(strstr(credentials_problem(c), "longer than the connection string"));
}

TEST(a_reload_takes_what_is_new_and_keeps_what_was_good) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_free_ char *path = NULL, *logged = NULL;
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(sas_token_done) SasToken t = {};
        const char *first;
        uint64_t expiry;

        setup();
        path = path_in("string");
        c = open_credentials(NULL, path);
        ck_assert_ptr_nonnull(credentials_problem(c));
        assert_error(credentials_reload(c), -ENOENT);

        write_file(path, DEVICE "\n");
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_int_eq(credentials_reload(c), 0);
        write_file(path, DEVICE ";\r\n"); /* the same, written differently */
        ck_assert_int_eq(credentials_reload(c), 0);

        write_file(path, "HostName=h.example;DeviceId=dev01;SharedAccessKey=" OTHER_KEY "\n");
        ck_assert_int_eq(credentials_reload(c), 1);
        assert_ok(credentials_make_token(c, 0, NOW, &token, &expiry));
        assert_ok(sas_token_parse(token, &t));
        ck_assert_int_eq(sas_token_verify(&t, OTHER_KEY), 1);

        write_file(path, "HostName=h.example;DeviceId=dev01;SharedAccessKey=" OTHER_KEY "half");
        assert_error(credentials_reload(c), -EINVAL);
        assert_error(credentials_reload(c), -EINVAL);
        ck_assert_int_eq(unlink(path), 0);
        assert_error(credentials_reload(c), -ENOENT);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_str_eq(credentials_device_id(c), "dev01");

        /* Each fault is told once, not at each reload. */
        logged = log_text();
        first = strstr(logged, "SharedAccessKey: not valid base64");
        ck_assert_ptr_nonnull(first);
        ck_assert_ptr_null(strstr(first + 1, "SharedAccessKey: not valid base64"));
        ck_assert_ptr_nonnull(strstr(logged, "is missing"));
        ck_assert_ptr_nonnull(strstr(logged, "The credentials read before stay in use"));
        assert_no_secret(logged);
}

TEST(a_file_that_everyone_may_read_is_told) {
        _cleanup_(credentials_freep) Credentials *a = NULL, *b = NULL;
        _cleanup_free_ char *path = NULL, *before = NULL, *after = NULL;

        setup();
        path = path_in("string");
        assert_ok(replace_file(path, DEVICE, strlen(DEVICE), 0640));
        a = open_credentials(NULL, path);
        before = log_text();
        ck_assert_str_eq(before, "");
        assert_ok(replace_file(path, DEVICE, strlen(DEVICE), 0644));
        b = open_credentials(NULL, path);
        after = log_text();
        ck_assert_ptr_nonnull(strstr(after, "everyone may read it"));
}

TEST(a_file_that_may_not_be_read_is_told) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_free_ char *path = NULL;

        setup();
        path = path_in("string");
        write_file(path, DEVICE);
        ck_assert_int_eq(chmod(path, 0), 0);
        /* Root may read anything: be nobody meanwhile, who gets as far as the file. */
        ck_assert_int_eq(chmod(dir, 0755), 0);
        if (getuid() == 0)
                ck_assert_int_eq(seteuid(65534), 0);
        c = open_credentials(NULL, path);
        if (getuid() == 0)
                ck_assert_int_eq(seteuid(0), 0);
        ck_assert_ptr_nonnull(strstr(credentials_problem(c), "may not be read by the user of iothubd"));
}

static void use_files(const char *primary, const char *secondary, Credentials **ret) {
        CredentialsOptions options = { .connection_string_file = primary,
                                       .secondary_connection_string_file = secondary,
                                       .token_lifetime_usec = USEC_PER_HOUR };

        assert_ok(credentials_new(&options, ret));
}

static void assert_signed_with(Credentials *c, unsigned key, const char *expected) {
        _cleanup_(erase_and_freep) char *token = NULL;
        _cleanup_(sas_token_done) SasToken t = {};
        uint64_t expiry;

        assert_ok(credentials_make_token(c, key, NOW, &token, &expiry));
        assert_ok(sas_token_parse(token, &t));
        ck_assert_int_eq(sas_token_verify(&t, expected), 1);
}

TEST(a_secondary_connection_string_brings_a_second_key) {
        _cleanup_(credentials_freep) Credentials *c = NULL, *d = NULL;
        _cleanup_free_ char *primary = NULL, *secondary = NULL, *credential = NULL;

        setup();
        primary = path_in("primary");
        secondary = path_in("secondary");
        write_file(primary, DEVICE);
        write_file(secondary, OTHER_DEVICE "\n");
        use_files(primary, secondary, &c);
        ck_assert_uint_eq(credentials_n_keys(c), 2);
        ck_assert_str_eq(credentials_key_name(c, 0), "primary");
        ck_assert_str_eq(credentials_key_name(c, 1), "secondary");
        assert_signed_with(c, 0, KEY);
        assert_signed_with(c, 1, OTHER_KEY);
        ck_assert_int_eq(credentials_reload(c), 0);

        setenv("CREDENTIALS_DIRECTORY", dir, 1);
        credential = path_in("secondary-connection-string");
        write_file(credential, OTHER_DEVICE);
        use_files(primary, NULL, &d);
        ck_assert_uint_eq(credentials_n_keys(d), 2);
        assert_signed_with(d, 1, OTHER_KEY);
        ck_assert_int_eq(unlink(credential), 0);
        ck_assert_int_eq(credentials_reload(d), 1);
        ck_assert_uint_eq(credentials_n_keys(d), 1);
}

TEST(either_connection_string_serves_alone) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_free_ char *primary = NULL, *secondary = NULL, *logged = NULL;

        setup();
        primary = path_in("primary");
        secondary = path_in("secondary");
        use_files(primary, secondary, &c);
        ck_assert_uint_eq(credentials_n_keys(c), 0);
        ck_assert_ptr_nonnull(strstr(credentials_problem(c), "/primary is missing"));

        write_file(secondary, OTHER_DEVICE);
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert_ptr_null(credentials_problem(c));
        ck_assert_uint_eq(credentials_n_keys(c), 1);
        ck_assert_str_eq(credentials_key_name(c, 0), "secondary");
        ck_assert_str_eq(credentials_device_id(c), "dev01");
        assert_signed_with(c, 0, OTHER_KEY);

        write_file(primary, DEVICE);
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert_uint_eq(credentials_n_keys(c), 2);
        assert_signed_with(c, 0, KEY);

        write_file(secondary, "HostName=h.example;DeviceId=dev01;SharedAccessKey=" KEY "half");
        ck_assert_int_eq(credentials_reload(c), 0);
        ck_assert_uint_eq(credentials_n_keys(c), 2);
        assert_signed_with(c, 1, OTHER_KEY);
        logged = log_text();
        ck_assert_ptr_nonnull(strstr(logged, "/secondary is not usable: SharedAccessKey: not valid base64"));
        assert_no_secret(logged);
}

TEST(a_secondary_connection_string_of_another_device_is_told_and_not_used) {
        _cleanup_(credentials_freep) Credentials *c = NULL;
        _cleanup_free_ char *primary = NULL, *secondary = NULL, *logged = NULL;
        const char *first;

        setup();
        primary = path_in("primary");
        secondary = path_in("secondary");
        write_file(primary, DEVICE);
        write_file(secondary, "HostName=h.example;DeviceId=dev02;SharedAccessKey=" OTHER_KEY);
        use_files(primary, secondary, &c);
        ck_assert_uint_eq(credentials_n_keys(c), 1);
        assert_signed_with(c, 0, KEY);
        ck_assert_int_eq(credentials_reload(c), 0);
        logged = log_text();
        first = strstr(logged, "is for another hub or device than the first (dev01)");
        ck_assert_ptr_nonnull(first);
        ck_assert_ptr_null(strstr(first + 1, "is for another hub or device"));
        assert_no_secret(logged);

        write_file(secondary, OTHER_DEVICE);
        ck_assert_int_eq(credentials_reload(c), 1);
        ck_assert_uint_eq(credentials_n_keys(c), 2);
}
