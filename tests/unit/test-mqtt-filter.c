/* Goal: the filter of the front passes every byte of every packet in order, unless a trouble says
 * otherwise, however the bytes are cut. Method: a stream of packets of all sorts, fed in pieces of
 * every size; what comes out is compared with what went in, less what the trouble takes. */

#include "tests/support/test.h"

#include "emulator/mqtt-filter.h"
#include "lib/buffer.h"

typedef struct Fixture {
        Troubles troubles;
        HubCounters *counters;
        MqttFilter filter;
} Fixture;

static void fixture_init(Fixture *f) {
        *f = (Fixture){ .counters = hub_counters_new() };
        ck_assert_ptr_nonnull(f->counters);
        f->filter = (MqttFilter){ .troubles = &f->troubles,
                                  .counters = f->counters,
                                  .client_id = "d1" };
}

static void fixture_done(Fixture *f) {
        mqtt_filter_done(&f->filter);
        troubles_done(&f->troubles);
        hub_counters_free(f->counters);
}

static void set(Fixture *f, Trouble x) {
        const char *field;

        if (x.ends_usec == 0)
                x.ends_usec = USEC_INFINITY;
        assert_ok(troubles_set(&f->troubles, &x, &field));
}

static uint64_t count(const Fixture *f, HubCounter c) {
        ck_assert_uint_eq(hub_counters_get(f->counters, NULL).of[c],
                          hub_counters_get(f->counters, "d1").of[c]);
        return hub_counters_get(f->counters, "d1").of[c];
}

static void add_packet(Buffer *b, uint8_t head, const char *body, size_t n, size_t padding) {
        size_t left = n + padding;

        assert_ok(buffer_append(b, &head, 1));
        do {
                uint8_t digit = left & 127;

                left >>= 7;
                digit |= left ? 128 : 0;
                assert_ok(buffer_append(b, &digit, 1));
        } while (left);
        assert_ok(buffer_append(b, body, n));
        for (size_t i = 0; i < padding; i++)
                assert_ok(buffer_append(b, "@", 1)); /* a head of a PUBACK, were it one */
}

#define ADD(b, head, literal, padding) add_packet(b, head, literal, sizeof(literal) - 1, padding)

static void build_up(Buffer *b) {
        ADD(b, 0x82, "\0\1\0\1#\1", 0);
        ADD(b, 0x32, "\0\1t\0\1", 0);
        ADD(b, 0xc0, "", 0);
        ADD(b, 0x32, "\0\1t\0\2", 200);
        ADD(b, 0x30, "\0\1t", 20000);
        ADD(b, 0x32, "\0\1t\0\3poison=1", 0);
        ADD(b, 0xe0, "", 0);
}

static void build_down(Buffer *b) {
        ADD(b, 0x20, "\0\0", 0);
        ADD(b, 0x90, "\0\1\1", 0);
        ADD(b, 0x40, "\0\1", 0);
        ADD(b, 0xd0, "", 0);
        ADD(b, 0x30, "\0\1t", 300);
        ADD(b, 0x40, "\0\2", 0);
        ADD(b, 0x40, "\0\3", 0);
        ADD(b, 0x30, "\0\1t", 0);
}

/* As the front does it: what was not passed is offered again with more. Returns the last result. */
static int feed_up(Fixture *f, const Buffer *in, size_t piece, Buffer *out) {
        size_t from = 0, to = 0;

        while (to < in->size) {
                const char *cause;
                size_t pass;
                int r;

                to = MIN(to + piece, in->size);
                r = mqtt_filter_up(&f->filter, in->data + from, to - from, &pass, &cause);
                ck_assert_uint_le(pass, to - from);
                assert_ok(buffer_append(out, in->data + from, pass));
                from += pass;
                if (r < 0)
                        return r;
                ck_assert_uint_le(to - from, 4);
        }
        return 0;
}

static int feed_down(Fixture *f, const Buffer *in, size_t piece, usec_t now, Buffer *out) {
        uint8_t window[32768];
        size_t have = 0;

        for (size_t at = 0; at < in->size;) {
                size_t n = MIN(piece, in->size - at), pass;
                const char *cause;
                int r;

                memcpy(window + have, in->data + at, n);
                at += n;
                have += n;
                r = mqtt_filter_down(&f->filter, window, &have, now, &pass, &cause);
                ck_assert_uint_le(pass, have);
                assert_ok(buffer_append(out, window, pass));
                if (r < 0)
                        return r;
                have -= pass;
                memmove(window, window + pass, have);
                ck_assert_uint_le(have, 4);
                if (have == 0) {
                        n = mqtt_filter_release(&f->filter, now, window, sizeof(window));
                        assert_ok(buffer_append(out, window, n));
                }
        }
        ck_assert_uint_eq(have, 0);
        return 0;
}

static void assert_same(const Buffer *a, const Buffer *b) {
        ck_assert_uint_eq(a->size, b->size);
        ck_assert_mem_eq(a->data, b->data, a->size);
}

static const size_t pieces[] = { 1, 2, 3, 4, 5, 7, 64, 199, 4096, 32768 };

TEST(without_trouble_all_passes_and_is_counted) {
        for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
                _cleanup_(buffer_done) Buffer up = { 0 }, down = { 0 }, out = { 0 }, back = { 0 };
                _cleanup_(fixture_done) Fixture f;

                fixture_init(&f);
                build_up(&up);
                build_down(&down);
                assert_ok(feed_up(&f, &up, pieces[i], &out));
                assert_same(&up, &out);
                assert_ok(feed_down(&f, &down, MIN(pieces[i], (size_t) 16384), 0, &back));
                assert_same(&down, &back);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_PUBLISHES), 4);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_PUBACKS), 3);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_ACCEPTED), 1);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_REFUSED), 0);
        }
}

TEST(a_cut_lets_whole_packets_before_it_pass_and_never_the_end_of_the_one) {
        static const struct {
                Trouble trouble;
                size_t before, below; /* bytes that pass: at least, and less than */
        } cases[] = {
                { { .kind = TROUBLE_TIER }, 0, 1 },
                { { .kind = TROUBLE_QUOTA }, 8, 9 },
                { { .kind = TROUBLE_MARKED, .mark = (char *) "poison=1" }, 20232, 20247 },
        };

        for (size_t c = 0; c < ELEMENTSOF(cases); c++)
                for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
                        _cleanup_(buffer_done) Buffer up = { 0 }, out = { 0 };
                        _cleanup_(fixture_done) Fixture f;

                        fixture_init(&f);
                        set(&f, cases[c].trouble);
                        build_up(&up);
                        assert_error(feed_up(&f, &up, pieces[i], &out), -ECONNABORTED);
                        ck_assert_uint_ge(out.size, cases[c].before);
                        ck_assert_uint_lt(out.size, cases[c].below);
                        if (out.size > 0)
                                ck_assert_mem_eq(up.data, out.data, out.size);
                }
}

TEST(a_mark_is_not_found_in_heads_nor_across_packets) {
        _cleanup_(buffer_done) Buffer up = { 0 }, out = { 0 };
        _cleanup_(fixture_done) Fixture f;

        fixture_init(&f);
        set(&f, (Trouble){ .kind = TROUBLE_MARKED, .mark = (char *) "22" });
        ADD(&up, 0x32, "\0\1t\0\1", 0x32 - 5); /* 0x32 is a "2", and so is the length */
        ADD(&up, 0x32, "\0\1t\0\1x2", 0);
        ADD(&up, 0x32, "\0\0012\0\1", 0);
        assert_ok(feed_up(&f, &up, 3, &out));
        ADD(&up, 0x32, "\0\1t\0\1x22", 0);
        assert_error(feed_up(&f, &up, 3, &out), -ECONNABORTED);
}

TEST(held_pubacks_leave_in_order_at_their_time) {
        for (size_t i = 0; i < ELEMENTSOF(pieces); i++) {
                _cleanup_(buffer_done) Buffer down = { 0 }, out = { 0 };
                _cleanup_(fixture_done) Fixture f;
                static const uint8_t all[] = { 0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0, 3 };
                uint8_t packets[64];

                fixture_init(&f);
                set(&f, (Trouble){ .kind = TROUBLE_PUBACK_DELAY, .delay_usec = 100 });
                build_down(&down);
                assert_ok(feed_down(&f, &down, MIN(pieces[i], (size_t) 16384), 1000, &out));
                ck_assert_uint_eq(out.size, down.size - sizeof(all));
                ck_assert_uint_eq(mqtt_filter_next_usec(&f.filter), 1100);
                ck_assert_uint_eq(mqtt_filter_release(&f.filter, 1099, packets, sizeof(packets)),
                                  0);
                /* As many as there is room for, whole ones. */
                ck_assert_uint_eq(mqtt_filter_release(&f.filter, 1100, packets, 7), 4);
                ck_assert_mem_eq(packets, all, 4);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_PUBACKS), 1);
                ck_assert_uint_eq(mqtt_filter_release(&f.filter, 1100, packets, sizeof(packets)),
                                  8);
                ck_assert_mem_eq(packets, all + 4, 8);
                ck_assert_uint_eq(mqtt_filter_next_usec(&f.filter), USEC_INFINITY);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_HELD), 3);
                ck_assert_uint_eq(count(&f, HUB_COUNTER_PUBACKS), 3);
        }
}

TEST(nothing_is_put_into_a_packet_that_is_half_out) {
        _cleanup_(buffer_done) Buffer puback = { 0 }, publish = { 0 }, out = { 0 };
        _cleanup_(fixture_done) Fixture f;
        uint8_t packets[64];
        const char *cause;
        size_t n, pass;

        fixture_init(&f);
        set(&f, (Trouble){ .kind = TROUBLE_PUBACK_DELAY, .delay_usec = 100 });
        ADD(&puback, 0x40, "\0\1", 0);
        ADD(&publish, 0x30, "\0\1t", 10);
        assert_ok(feed_down(&f, &puback, 4, 0, &out));
        n = 5;
        assert_ok(mqtt_filter_down(&f.filter, publish.data, &n, 0, &pass, &cause));
        ck_assert_uint_eq(pass, 5);
        ck_assert_uint_eq(mqtt_filter_release(&f.filter, 200, packets, sizeof(packets)), 0);
        n = publish.size - 5;
        assert_ok(mqtt_filter_down(&f.filter, publish.data + 5, &n, 0, &pass, &cause));
        ck_assert_uint_eq(mqtt_filter_release(&f.filter, 200, packets, sizeof(packets)), 4);
}

TEST(none_overtakes_one_that_is_held_and_all_are_due_when_the_trouble_ends) {
        _cleanup_(buffer_done) Buffer one = { 0 }, two = { 0 }, out = { 0 };
        _cleanup_(fixture_done) Fixture f;
        uint8_t packets[64];

        fixture_init(&f);
        ADD(&one, 0x40, "\0\1", 0);
        ADD(&two, 0x40, "\0\2", 0);
        set(&f, (Trouble){ .kind = TROUBLE_PUBACK_DELAY, .delay_usec = 1000 });
        assert_ok(feed_down(&f, &one, 4, 0, &out));
        mqtt_filter_review(&f.filter);
        ck_assert_uint_eq(mqtt_filter_next_usec(&f.filter), 1000);
        set(&f, (Trouble){ .kind = TROUBLE_PUBACK_DELAY, .delay_usec = 1 });
        assert_ok(feed_down(&f, &two, 4, 10, &out));
        ck_assert_uint_eq(mqtt_filter_release(&f.filter, 999, packets, sizeof(packets)), 0);
        (void) troubles_end(&f.troubles, TROUBLE_PUBACK_DELAY, NULL);
        mqtt_filter_review(&f.filter);
        ck_assert_uint_eq(mqtt_filter_release(&f.filter, 20, packets, sizeof(packets)), 8);
        ck_assert_mem_eq(packets, "\x40\2\0\1\x40\2\0\2", 8);
        ck_assert_uint_eq(out.size, 0);
}

TEST(what_is_no_mqtt_passes_untouched) {
        static const uint8_t junk[] = { 0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3 };
        _cleanup_(fixture_done) Fixture f;
        uint8_t copy[sizeof(junk)];
        size_t n = sizeof(junk), pass;
        const char *cause;

        fixture_init(&f);
        set(&f, (Trouble){ .kind = TROUBLE_QUOTA });
        assert_ok(mqtt_filter_up(&f.filter, junk, n, &pass, &cause));
        ck_assert_uint_eq(pass, n);
        memcpy(copy, junk, n);
        assert_ok(mqtt_filter_down(&f.filter, copy, &n, 0, &pass, &cause));
        ck_assert_uint_eq(pass, sizeof(junk));
        ck_assert_mem_eq(copy, junk, sizeof(junk));
}

TEST(devices_beyond_the_limit_count_in_the_totals_only) {
        _cleanup_(hub_counters_freep) HubCounters *c = hub_counters_new();
        char id[16];

        for (unsigned i = 0; i < HUB_COUNTER_DEVICES_MAX + 2; i++) {
                (void) snprintf(id, sizeof(id), "d%u", i);
                hub_counters_add(c, id, HUB_COUNTER_CONNECTS, 1);
        }
        ck_assert_uint_eq(hub_counters_get(c, NULL).of[HUB_COUNTER_CONNECTS],
                          HUB_COUNTER_DEVICES_MAX + 2);
        ck_assert_uint_eq(hub_counters_get(c, "d0").of[HUB_COUNTER_CONNECTS], 1);
        ck_assert_uint_eq(hub_counters_get(c, id).of[HUB_COUNTER_CONNECTS], 0);
}
