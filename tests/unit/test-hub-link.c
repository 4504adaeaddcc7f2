/* Goal: each method call ends exactly once, with the answer of its own device or the reason why
 * there is none, whatever comes in between. Method: every way a call can end, by hand; then many
 * threads that call while one plays the broker. */

#include "tests/support/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "emulator/hub-link.h"

typedef struct Result {
        int n_done, error;
        unsigned status;
        char payload[64];
} Result;

static void on_done(int error, unsigned status, const void *payload, size_t n, void *userdata) {
        Result *r = userdata;

        r->n_done++;
        r->error = error;
        r->status = status;
        ck_assert_uint_lt(n, sizeof(r->payload));
        if (n > 0)
                memcpy(r->payload, payload, n);
        r->payload[n] = '\0';
}

static int call(HubLink *l, const char *client, usec_t connect_usec, usec_t now, Result *r) {
        const HubMethodCall c = { .client_id = client,
                                  .name = "m",
                                  .payload = "1",
                                  .n = 1,
                                  .response_usec = 100,
                                  .connect_usec = connect_usec };

        *r = (Result){ 0 };
        return hub_link_call(l, &c, now, on_done, r);
}

static HubLink *link_with(const char *client) {
        HubLink *l = hub_link_new();

        ck_assert_ptr_nonnull(l);
        assert_ok(hub_link_connected(l, client, /* clean_session= */ false));
        hub_link_subscribed(l, client, HUB_LISTEN_METHODS);
        return l;
}

/* The rid of the packet that waits; the caller's. */
static char *take_rid(HubLink *l, const char *client) {
        _cleanup_(hub_packet_freep) HubPacket *p = hub_link_take(l);
        const char *rid;

        ck_assert_ptr_nonnull(p);
        ck_assert_str_eq(p->client_id, client);
        rid = startswith(p->topic, "$iothub/methods/POST/m/?$rid=");
        ck_assert_ptr_nonnull(rid);
        return strdup(rid);
}

static void assert_ended(const Result *r, int error) {
        ck_assert_int_eq(r->n_done, 1);
        ck_assert_int_eq(r->error, error);
}

TEST(an_answer_goes_to_its_call_and_only_once) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");
        _cleanup_free_ char *a = NULL, *b = NULL;
        Result first, second;

        assert_ok(call(l, "d", 0, 0, &first));
        assert_ok(call(l, "d", 0, 0, &second));
        a = take_rid(l, "d");
        b = take_rid(l, "d");
        ck_assert_ptr_null(hub_link_take(l));
        ck_assert_str_ne(a, b);
        hub_link_answered(l, "other", b, 200, "2", 1);
        hub_link_answered(l, "d", "none", 200, "2", 1);
        ck_assert_int_eq(second.n_done, 0);
        hub_link_answered(l, "d", b, 201, "2", 1);
        hub_link_answered(l, "d", b, 202, "3", 1);
        assert_ended(&second, 0);
        ck_assert_uint_eq(second.status, 201);
        ck_assert_str_eq(second.payload, "2");
        hub_link_answered(l, "d", a, 200, NULL, 0);
        assert_ended(&first, 0);
}

TEST(a_call_ends_at_its_time_and_says_when) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");
        Result started, waits;

        ck_assert_uint_eq(hub_link_expire(l, 0), USEC_INFINITY);
        assert_ok(call(l, "d", 0, 1000, &started));
        assert_ok(call(l, "absent", 50, 1000, &waits));
        ck_assert_uint_eq(hub_link_expire(l, 1049), 1050);
        ck_assert_int_eq(started.n_done + waits.n_done, 0);
        ck_assert_uint_eq(hub_link_expire(l, 1050), 1100);
        assert_ended(&waits, -ENOTCONN);
        ck_assert_uint_eq(hub_link_expire(l, 1100), USEC_INFINITY);
        assert_ended(&started, -ETIMEDOUT);
}

TEST(a_call_to_nobody_is_refused_and_one_that_waits_starts_when_the_device_listens) {
        _cleanup_(hub_link_freep) HubLink *l = hub_link_new();
        _cleanup_free_ char *rid = NULL;
        Result r;

        assert_error(call(l, "d", 0, 0, &r), -ENOTCONN);
        assert_ok(hub_link_connected(l, "d", false));
        assert_error(call(l, "d", 0, 0, &r), -ENOTCONN);
        assert_ok(call(l, "d", USEC_PER_HOUR, now_usec(CLOCK_MONOTONIC), &r));
        hub_link_subscribed(l, "d", HUB_LISTEN_DESIRED);
        ck_assert_ptr_null(hub_link_take(l));
        hub_link_subscribed(l, "d", HUB_LISTEN_METHODS);
        rid = take_rid(l, "d");
        hub_link_answered(l, "d", rid, 200, NULL, 0);
        assert_ended(&r, 0);
}

TEST(a_call_ends_with_its_connection_and_with_the_hub) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");
        Result started, waits;

        assert_ok(call(l, "d", 0, 0, &started));
        assert_ok(call(l, "absent", 50, 0, &waits));
        hub_link_disconnected(l, "d");
        hub_link_disconnected(l, "absent");
        assert_ended(&started, -ENOTCONN);
        ck_assert_int_eq(waits.n_done, 0); /* it still waits for it to come */
        hub_link_stop(l);
        assert_ended(&waits, -ECANCELED);
        assert_error(call(l, "d", 50, 0, &started), -ECANCELED);
}

TEST(what_a_client_listens_to_outlives_its_connection_unless_the_session_is_clean) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");

        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", "x", 1), 1);
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_DESIRED, "t", "x", 1), 0);
        hub_link_disconnected(l, "d");
        ck_assert(!hub_link_is_connected(l, "d"));
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", "x", 1), 0);
        assert_ok(hub_link_connected(l, "d", false));
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", "x", 1), 1);
        hub_link_unsubscribed(l, "d", HUB_LISTEN_METHODS);
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", "x", 1), 0);
        hub_link_subscribed(l, "d", HUB_LISTEN_METHODS);
        assert_ok(hub_link_connected(l, "d", true));
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", "x", 1), 0);
}

TEST(a_call_that_waits_starts_when_a_device_that_listened_comes_back) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");
        _cleanup_free_ char *rid = NULL;
        Result r;

        hub_link_disconnected(l, "d");
        assert_ok(call(l, "d", USEC_PER_HOUR, now_usec(CLOCK_MONOTONIC), &r));
        ck_assert_ptr_null(hub_link_take(l));
        assert_ok(hub_link_connected(l, "d", /* clean_session= */ false));
        rid = take_rid(l, "d");
        hub_link_answered(l, "d", rid, 200, NULL, 0);
        assert_ended(&r, 0);

        hub_link_disconnected(l, "d");
        assert_ok(call(l, "d", USEC_PER_HOUR, now_usec(CLOCK_MONOTONIC), &r));
        assert_ok(hub_link_connected(l, "d", /* clean_session= */ true));
        ck_assert_ptr_null(hub_link_take(l));
        hub_link_stop(l);
        assert_ended(&r, -ECANCELED);
}

TEST(calls_and_packets_have_limits) {
        _cleanup_(hub_link_freep) HubLink *l = link_with("d");
        Result r[HUB_METHODS_OPEN_MAX + 1];

        for (unsigned i = 0; i < HUB_METHODS_OPEN_MAX; i++)
                assert_ok(call(l, "d", 0, 0, r + i));
        assert_error(call(l, "d", 0, 0, r + HUB_METHODS_OPEN_MAX), -EBUSY);
        for (unsigned i = HUB_METHODS_OPEN_MAX; i < HUB_LINK_PACKETS_MAX; i++)
                ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", NULL, 0), 1);
        assert_error(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", NULL, 0), -EBUSY);
        hub_packet_free(hub_link_take(l));
        ck_assert_int_eq(hub_link_send(l, "d", HUB_LISTEN_METHODS, "t", NULL, 0), 1);
        hub_link_stop(l);
        for (unsigned i = 0; i < HUB_METHODS_OPEN_MAX; i++)
                assert_ended(r + i, -ECANCELED);
}

#define THREADS 4
#define CALLS 500

typedef struct Caller {
        HubLink *link;
        char client[8];
        atomic_uint *n_ended;
        unsigned n_refused;
} Caller;

static void count_end(int error, unsigned status, const void *payload, size_t n, void *userdata) {
        atomic_fetch_add((atomic_uint *) userdata, 1);
}

static void *run_caller(void *userdata) {
        Caller *c = userdata;

        for (unsigned i = 0; i < CALLS; i++) {
                const HubMethodCall m = { .client_id = c->client,
                                          .name = "m",
                                          .response_usec = USEC_PER_HOUR };

                if (hub_link_call(c->link, &m, now_usec(CLOCK_MONOTONIC), count_end, c->n_ended) <
                    0)
                        c->n_refused++;
        }
        return NULL;
}

/* The broker's thread answers, loses devices and takes them back. */
TEST(every_call_of_many_threads_ends_once) {
        _cleanup_(hub_link_freep) HubLink *l = hub_link_new();
        atomic_uint n_ended = 0;
        pthread_t threads[THREADS];
        Caller callers[THREADS];
        unsigned n_refused = 0, turn = 0;

        for (unsigned i = 0; i < THREADS; i++) {
                callers[i] = (Caller){ .link = l, .n_ended = &n_ended };
                (void) snprintf(callers[i].client, sizeof(callers[i].client), "d%u", i);
                assert_ok(hub_link_connected(l, callers[i].client, false));
                hub_link_subscribed(l, callers[i].client, HUB_LISTEN_METHODS);
        }
        for (unsigned i = 0; i < THREADS; i++)
                ck_assert_int_eq(pthread_create(threads + i, NULL, run_caller, callers + i), 0);
        for (; turn < 20000; turn++) {
                HubPacket *p = hub_link_take(l);

                if (p)
                        hub_link_answered(l, p->client_id, strchr(p->topic, '=') + 1, 200, NULL, 0);
                hub_packet_free(p);
                if (turn % 97 == 0) {
                        hub_link_disconnected(l, callers[turn % THREADS].client);
                        assert_ok(hub_link_connected(l, callers[turn % THREADS].client, false));
                }
        }
        for (unsigned i = 0; i < THREADS; i++) {
                ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
                n_refused += callers[i].n_refused;
        }
        hub_link_stop(l);
        ck_assert_uint_eq(n_ended + n_refused, THREADS * CALLS);
}
