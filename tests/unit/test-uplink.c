/* Goal: the whole uplink, with its thread and libmosquitto, against a hub that behaves and one that
 * does not (promises P2, P3, P6). Method: a small TLS broker on a free port plays the hub, the
 * outbox is in memory; each test turns the event loop until what it waits for is there. */
#include "tests/support/test.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>

#include "daemon/log.h"
#include "daemon/uplink.h"
#include "daemon/uplink-mosquitto.h"
#include "emulator/certificates.h"
#include "lib/fd-util.h"
#include "tests/support/memory-outbox.h"
#include "tests/support/sink-broker.h"

#define KEY "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

typedef struct Fixture {
        char *folder, ca_file[256], cert_file[256], key_file[256];
        pid_t broker;
        sd_event *event;
        Outbox *outbox;
        Credentials *credentials;
        Uplink *uplink;
        UplinkOptions options;
        bool stopped;
} Fixture;

static void on_stopped(void *userdata) {
        Fixture *f = userdata;

        f->stopped = true;
}

static void make_certificates(Fixture *f) {
        _cleanup_close_ int dir_fd = -EBADF;

        f->folder = test_tempdir();
        dir_fd = open(f->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(dir_fd, 0);
        assert_ok(certificates_ensure(dir_fd, "localhost"));
        (void) snprintf(f->ca_file, sizeof(f->ca_file), "%s/" CERTIFICATES_CA, f->folder);
        (void) snprintf(f->cert_file, sizeof(f->cert_file), "%s/" CERTIFICATES_SERVER, f->folder);
        (void) snprintf(f->key_file, sizeof(f->key_file), "%s/" CERTIFICATES_SERVER_KEY, f->folder);
}

/* Short times, so that a hub that stays away is noticed soon. */
static void begin(Fixture *f, const SinkBrokerOptions *hub, uint64_t n_messages, size_t body_size) {
        SinkBrokerOptions o = *hub;

        *f = (Fixture) {};
        log_setup(LOG_TARGET_STDERR, LOG_ERR);
        make_certificates(f);
        o.cert_file = f->cert_file;
        o.key_file = f->key_file;
        f->options = (UplinkOptions) {
                .ca_file = f->ca_file,
                .window = 200,
                .window_bytes = 1024 * 1024,
                .keep_alive_usec = 60 * USEC_PER_SEC,
                .connect_timeout_usec = 30 * USEC_PER_SEC,
                .ack_timeout_usec = 30 * USEC_PER_SEC,
                .retry_min_usec = USEC_PER_MSEC,
                .retry_max_usec = 20 * USEC_PER_MSEC,
                .retry_cut_max_usec = 20 * USEC_PER_MSEC,
                .retry_refused_max_usec = 20 * USEC_PER_MSEC,
        };
        f->broker = sink_broker_start(&o, &f->options.mqtt_port);
        ck_assert_int_gt(f->broker, 0);
        f->outbox = memory_outbox_new(n_messages, body_size);
        assert_ok(sd_event_new(&f->event));
}

static void start(Fixture *f, const char *host) {
        UplinkEvents events = { .on_stopped = on_stopped, .userdata = f };
        char connection_string[256];
        CredentialsOptions c = { .token_lifetime_usec = USEC_PER_HOUR };

        if (host) {
                (void) snprintf(connection_string, sizeof(connection_string),
                                "HostName=%s;DeviceId=dev;SharedAccessKey=" KEY, host);
                c.connection_string = connection_string;
        }
        assert_ok(credentials_new(&c, &f->credentials));
        assert_ok(
                uplink_new(f->event, f->outbox, f->credentials, &f->options, &events, &f->uplink));
        assert_ok(uplink_start(f->uplink));
}

static void end(Fixture *f) {
        uplink_free(f->uplink);
        while (uplink_mosquitto_n_abandoned() > 0) /* or the leak checker finds them at work */
                (void) sched_yield();
        credentials_free(f->credentials);
        memory_outbox_free(f->outbox);
        sd_event_unref(f->event);
        sink_broker_stop(f->broker);
        free(f->folder);
}

static MemoryOutboxBooks books(Fixture *f) {
        MemoryOutboxBooks b;

        memory_outbox_get_books(f->outbox, &b);
        return b;
}

#define wait_for(f, condition)                                                                     \
        while (!(condition))                                                                       \
        assert_ok(sd_event_run((f)->event, UINT64_MAX))

static const char *error_class(Fixture *f) {
        UplinkStatus s;

        uplink_get_status(f->uplink, &s);
        return strempty(s.last_error_class);
}

static void assert_error_text(Fixture *f, const char *part) {
        UplinkStatus s;

        uplink_get_status(f->uplink, &s);
        ck_assert_msg(s.last_error && strstr(s.last_error, part), "no \"%s\" in \"%s\"", part,
                      strempty(s.last_error));
        ck_assert_msg(!strstr(s.last_error, "SharedAccess") && !strstr(s.last_error, KEY),
                      "a secret: %s", s.last_error);
}

static void assert_remedy(Fixture *f, const char *part) {
        UplinkStatus s;

        uplink_get_status(f->uplink, &s);
        ck_assert_ptr_nonnull(uplink_reason(s.trouble));
        ck_assert_ptr_nonnull(strstr(uplink_reason(s.trouble)->remedy, part));
        ck_assert_uint_ge(s.trouble_tries, 1);
}

static void stop(Fixture *f, usec_t timeout) {
        uplink_stop(f->uplink, timeout);
        wait_for(f, f->stopped);
}

TEST(every_message_is_confirmed_once) {
        Fixture f;
        UplinkStatus s;

        begin(&f, &(SinkBrokerOptions) {}, 5000, 200);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 5000);
        ck_assert_uint_eq(books(&f).n_handed_out, 5000);
        uplink_get_status(f.uplink, &s);
        ck_assert(s.connected);
        ck_assert_int_eq(s.state, UPLINK_STATE_CONNECTED);
        ck_assert_str_eq(s.hub, "localhost");
        ck_assert_str_eq(s.device, "dev");
        ck_assert_ptr_null(s.last_error);
        stop(&f, USEC_PER_MINUTE);
        end(&f);
}

TEST(roots_of_the_system_are_used_without_a_ca_file) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 5, 10);
        ck_assert_int_eq(setenv("SSL_CERT_FILE", f.ca_file, true), 0); /* OpenSSL obeys it */
        f.options.ca_file = NULL;
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 5);
        end(&f);
}

TEST(late_messages_go_out_on_the_idle_connection) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 1, 10);
        start(&f, "localhost");
        for (uint64_t n = 1; n < 50; n++) {
                wait_for(&f, books(&f).n_confirmed == n);
                memory_outbox_add(f.outbox, 1);
                uplink_outbox_deliverable(f.uplink);
        }
        wait_for(&f, books(&f).n_confirmed == 50);
        end(&f);
}

TEST(windows_of_every_size_deliver_all) {
        static const unsigned windows[] = { 1, 2, 3, 64, 65, 1000 };

        for (size_t i = 0; i < ELEMENTSOF(windows); i++) {
                Fixture f;

                begin(&f, &(SinkBrokerOptions) {}, 1500, 20);
                f.options.window = windows[i];
                start(&f, "localhost");
                wait_for(&f, books(&f).n_confirmed == 1500);
                end(&f);
        }
}

TEST(messages_larger_than_the_window_of_bytes_go_one_by_one) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 30, 250 * 1024);
        f.options.window_bytes = 1000;
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 30);
        end(&f);
}

TEST(bodies_of_all_sizes_pass) {
        for (size_t size = 0; size <= 262144; size = size * 2 + 1) {
                Fixture f;

                begin(&f, &(SinkBrokerOptions) {}, 20, size);
                start(&f, "127.0.0.1");
                wait_for(&f, books(&f).n_confirmed == 20);
                end(&f);
        }
}

TEST(cut_connections_lose_nothing) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) { .stop_after = 137 }, 3000, 100);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 3000);
        ck_assert_uint_gt(books(&f).n_handed_out_again, 0);
        ck_assert_uint_eq(books(&f).n_rejected, 0);
        end(&f);
}

TEST(message_that_makes_the_hub_cut_is_rejected_alone) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) { .cut_at = "cdef-50&" }, 300, 100);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed + books(&f).n_rejected == 300);
        ck_assert_uint_eq(books(&f).n_rejected, 1);
        end(&f);
}

TEST(message_that_mqtt_cannot_carry_is_rejected_and_the_connection_goes_on) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 300, 100);
        memory_outbox_spoil(f.outbox, 77);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed + books(&f).n_rejected == 300);
        ck_assert_uint_eq(books(&f).n_rejected, 1);
        ck_assert_uint_eq(books(&f).n_handed_out, 300);
        ck_assert_str_eq(error_class(&f), "");
        end(&f);
}

TEST(hub_over_quota_costs_no_message_and_is_named) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) { .cut_always = true }, 10, 100);
        start(&f, "localhost");
        wait_for(&f, streq(error_class(&f), "quota") && books(&f).n_cuts > 20);
        ck_assert_uint_eq(books(&f).n_rejected, 0);
        assert_remedy(&f, "quota");
        end(&f);
}

TEST(refusal_is_named_and_tried_again) {
        Fixture f;

        for (uint8_t code = 1; code <= 5; code++) {
                UplinkStatus s = {};

                begin(&f, &(SinkBrokerOptions) { .connack = code }, 10, 100);
                start(&f, "localhost");
                while (s.attempt < 3) {
                        assert_ok(sd_event_run(f.event, UINT64_MAX));
                        uplink_get_status(f.uplink, &s);
                }
                ck_assert_str_eq(error_class(&f), code == 3 ? "unavailable" : "refused");
                if (code >= 4)
                        assert_remedy(&f, "clock is right, that the device exists and is enabled");
                ck_assert(!s.connected);
                end(&f);
        }
}

/* Connects to what cannot work and expects a class and words of the reason; then a stop ends at
 * once. */
static void expect_failure(const SinkBrokerOptions *hub, const char *host,
                           void (*spoil)(Fixture *f), const char *class, const char *words) {
        Fixture f;

        begin(&f, hub, 10, 100);
        if (spoil)
                spoil(&f);
        start(&f, host);
        wait_for(&f, !streq(error_class(&f), ""));
        ck_assert_str_eq(error_class(&f), class);
        assert_error_text(&f, words);
        ck_assert_uint_eq(books(&f).n_confirmed, 0);
        stop(&f, USEC_PER_MINUTE);
        end(&f);
}

static void stop_broker(Fixture *f) {
        sink_broker_stop(f->broker);
        f->broker = 0;
}

static void use_other_ca(Fixture *f) {
        Fixture other = {};

        make_certificates(&other);
        memcpy(f->ca_file, other.ca_file, sizeof(f->ca_file));
        free(other.folder);
}

static void use_system_roots(Fixture *f) {
        f->options.ca_file = NULL;
}

static void use_missing_ca(Fixture *f) {
        f->options.ca_file = "/nonexistent/ca.pem";
}

static void hurry(Fixture *f) {
        f->options.connect_timeout_usec = 200 * USEC_PER_MSEC;
        f->options.ack_timeout_usec = 200 * USEC_PER_MSEC;
}

TEST(closed_port_is_a_network_failure) {
        expect_failure(&(SinkBrokerOptions) {}, "localhost", stop_broker, "network",
                       "Connection refused");
}

TEST(unknown_name_is_a_dns_failure) {
        expect_failure(&(SinkBrokerOptions) {}, "no-such-hub.invalid", NULL, "dns",
                       "no-such-hub.invalid");
}

TEST(certificate_of_an_unknown_ca_is_a_tls_failure_by_name) {
        expect_failure(&(SinkBrokerOptions) {}, "localhost", use_other_ca, "tls-issuer", "certificate");
        expect_failure(&(SinkBrokerOptions) {}, "localhost", use_system_roots, "tls-issuer", "trusted");
}

TEST(certificate_for_another_name_is_a_tls_failure_by_name) {
        expect_failure(&(SinkBrokerOptions) { .address = "127.0.0.2" }, "127.0.0.2", NULL, "tls-name",
                       "IP address mismatch");
}

TEST(unreadable_ca_file_is_named) {
        expect_failure(&(SinkBrokerOptions) {}, "localhost", use_missing_ca, "local",
                       "/nonexistent/ca.pem (No such file");
}

TEST(connection_closed_in_the_handshake_is_a_network_failure) {
        expect_failure(&(SinkBrokerOptions) { .cut_tls = true }, "localhost", NULL, "network",
                       "while TLS was set up");
}

TEST(silent_hub_is_given_up) {
        expect_failure(&(SinkBrokerOptions) { .no_connack = true }, "localhost", hurry, "timeout",
                       "did not answer");
}

TEST(missing_pubacks_end_the_connection) {
        expect_failure(&(SinkBrokerOptions) { .no_puback = true }, "localhost", hurry, "unconfirmed",
                       "confirmed nothing");
}

TEST(missing_credentials_hold_and_say_so) {
        Fixture f;
        UplinkStatus s;

        begin(&f, &(SinkBrokerOptions) {}, 10, 100);
        start(&f, NULL);
        uplink_get_status(f.uplink, &s);
        ck_assert_int_eq(s.state, UPLINK_STATE_HOLDING);
        ck_assert_ptr_nonnull(s.hold);
        stop(&f, USEC_PER_MINUTE);
        end(&f);
}

TEST(subscription_that_another_program_left_is_ended_before_anything_is_sent) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) { .old_session = true }, 300, 100);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 300 || books(&f).n_cuts > 0);
        ck_assert_uint_eq(books(&f).n_cuts, 0);
        end(&f);
}

/* Its dead letter cannot be written, so it stays queued, but there is nothing left to send. */
TEST(stop_does_not_wait_for_a_rejected_message) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 300, 100);
        memory_outbox_spoil(f.outbox, 77);
        memory_outbox_keep_rejected(f.outbox);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed == 299);
        stop(&f, USEC_INFINITY / 2);
        end(&f);
}

TEST(stop_sends_all_that_is_queued) {
        Fixture f;

        begin(&f, &(SinkBrokerOptions) {}, 5000, 100);
        start(&f, "localhost");
        wait_for(&f, books(&f).n_confirmed > 0);
        stop(&f, USEC_PER_MINUTE);
        ck_assert_uint_eq(books(&f).n_confirmed, 5000);
        end(&f);
}

TEST(free_in_any_state_leaves_nothing_behind) {
        for (unsigned n_turns = 0; n_turns < 12; n_turns++) {
                Fixture f;

                begin(&f, &(SinkBrokerOptions) {}, 500, 100);
                start(&f, "localhost");
                for (unsigned i = 0; i < n_turns && books(&f).n_confirmed < 500; i++)
                        assert_ok(sd_event_run(f.event, UINT64_MAX));
                end(&f);
        }
}
