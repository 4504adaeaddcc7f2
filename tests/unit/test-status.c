/* Goal: the status says what it is given, whole and valid, whatever is missing or long.
 * Method: each kind of state as a line; the JSON's fields against the values they come from. */
#include "daemon/status.h"

#include "lib/json-util.h"
#include "tests/support/test.h"

static const UplinkStatus connected = {
        .state = UPLINK_STATE_CONNECTED,
        .connected = true,
        .hub = "hub.example.net",
        .device = "windmill",
        .state_since_realtime_usec = 1700000000000000,
        .next_try_in_usec = USEC_INFINITY,
};

static const char *line(const OutboxStats *outbox, const UplinkStatus *uplink) {
        static char buf[256];

        status_to_line(outbox, uplink, buf, sizeof(buf));
        return buf;
}

TEST(the_line_tells_the_state_and_what_waits) {
        const OutboxStats calm = { .queued = 12 }, full = { .queued = 3, .is_full = true },
                          broken = { .disk_error = -EROFS },
                          slow = { .queued = 1,
                                   .busy_since_boottime_usec =
                                                   now_usec(CLOCK_BOOTTIME) - 2 * USEC_PER_SEC };
        const UplinkStatus holding = { .state = UPLINK_STATE_HOLDING,
                                       .hold = "no connection string" },
                           backoff = { .state = UPLINK_STATE_BACKOFF,
                                       .last_error = "name not found",
                                       .next_try_in_usec = 5 * USEC_PER_SEC };

        ck_assert_str_eq(line(&calm, &connected),
                         "Connected to hub.example.net as windmill, 12 queued");
        ck_assert_str_eq(line(&full, &holding),
                         "Not sending: no connection string, 3 queued, outbox full");
        ck_assert_str_eq(line(&slow, &connected),
                         "Connected to hub.example.net as windmill, 1 queued, disk busy");
        ck_assert_str_eq(line(&broken, &backoff),
                         "Not connected (name not found), next try in 5s, 0 queued, disk error");
}

TEST(the_line_never_exceeds_its_room) {
        char reason[2000], buf[64];
        const UplinkStatus holding = { .state = UPLINK_STATE_HOLDING, .hold = reason };

        memset(reason, 'x', sizeof(reason) - 1);
        reason[sizeof(reason) - 1] = 0;
        for (size_t size = 1; size <= sizeof(buf); size++) {
                memset(buf, 0x55, sizeof(buf));
                status_to_line(&(OutboxStats){}, &holding, buf, size);
                ck_assert_uint_lt(strlen(buf), size);
                if (size < sizeof(buf))
                        ck_assert_int_eq(buf[size], 0x55);
        }
}

static uint64_t number(struct json_object *o, const char *field) {
        uint64_t v = UINT64_MAX;

        ck_assert_msg(json_get_u64(o, field, &v) == 1, "no %s", field);
        return v;
}

TEST(the_json_has_the_totals_and_leaves_out_what_there_is_not) {
        const OutboxStats outbox = {
                .accepted = 100,
                .confirmed = 50,
                .expired = 20,
                .dropped = 10,
                .rejected = 5,
                .queued = 15,
                .in_flight = 7,
                .sent_again = 3,
                .busy_since_boottime_usec = now_usec(CLOCK_BOOTTIME) - 3 * USEC_PER_SEC,
                .lanes = { { .n_queued = 1, .oldest_age_usec = 9 },
                           { .oldest_age_usec = USEC_INFINITY },
                           { .queued_bytes = 8, .oldest_age_usec = USEC_INFINITY } },
        };
        _cleanup_json_ struct json_object *o = NULL;
        struct json_object *lanes, *lane, *v;
        const char *s = NULL;

        assert_ok(status_to_json(&outbox, &connected, 1, &o));
        ck_assert_uint_eq(number(o, "accepted"),
                          number(o, "confirmed") + number(o, "expired") + number(o, "dropped") +
                                          number(o, "rejected") + number(o, "queued"));
        ck_assert_uint_eq(number(o, "inFlight"), 7);
        ck_assert_uint_eq(number(o, "duplicatesSentAgain"), 3);
        ck_assert_int_eq(json_get_string(o, "sendStatus", &s, NULL), 1);
        ck_assert_str_eq(s, "BUSY");
        ck_assert_int_eq(json_get_string(o, "connectionState", &s, NULL), 1);
        ck_assert_str_eq(s, "connected");
        ck_assert_int_eq(json_get_object(o, "lanes", &lanes), 1);
        ck_assert_int_eq(json_get_object(lanes, "urgent", &lane), 1);
        ck_assert_uint_eq(number(lane, "oldestAgeUSec"), 9);
        ck_assert_int_eq(json_get_object(lanes, "bulk", &lane), 1);
        ck_assert_uint_eq(number(lane, "queuedBytes"), 8);
        ck_assert(!json_object_object_get_ex(lane, "oldestAgeUSec", &v));
        ck_assert_int_eq(json_get_object(o, "outbox", &lane), 1);
        ck_assert_uint_ge(number(lane, "diskBusyUSec"), 3 * USEC_PER_SEC);
        ck_assert(!json_object_object_get_ex(o, "module", &v));
        ck_assert(!json_object_object_get_ex(o, "hold", &v));
}
