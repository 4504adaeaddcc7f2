/* An event in the form of an Event Hubs endpoint. Sections: OASIS AMQP 1.0 part 3, section 3.2; annotations and
 * their types: docs/emulator.md, "The AMQP door". */
#include <assert.h>
#include <inttypes.h>

#include <proton/codec.h>

#include "emulator/hub-amqp-private.h"

#define SECTION_MESSAGE_ANNOTATIONS 0x72U
#define SECTION_PROPERTIES 0x73U
#define SECTION_APPLICATION_PROPERTIES 0x74U

int amqp_encode(pn_data_t *scratch, Buffer *out) {
        ssize_t n = pn_data_encoded_size(scratch);
        int r;

        if (n < 0 || pn_data_errno(scratch) != 0)
                return -ENOMEM;
        r = buffer_reserve(out, (size_t) n);
        if (r < 0)
                return r;
        n = pn_data_encode(scratch, (char *) out->data + out->size, (size_t) n);
        pn_data_clear(scratch);
        if (n < 0)
                return -ENOMEM;
        out->size += (size_t) n;
        return 0;
}

static pn_bytes_t literal(const char *s) {
        return pn_bytes(strlen(s), s);
}

static pn_bytes_t text(HubEventText t) {
        return pn_bytes(t.size, t.data);
}

static void begin_section(pn_data_t *d, uint64_t code) {
        pn_data_put_described(d);
        pn_data_enter(d);
        pn_data_put_ulong(d, code);
}

static void begin_map(pn_data_t *d, uint64_t code) {
        begin_section(d, code);
        pn_data_put_map(d);
        pn_data_enter(d);
}

static int end_section(pn_data_t *d, Buffer *out) {
        pn_data_exit(d);
        pn_data_exit(d);
        return amqp_encode(d, out);
}

static pn_timestamp_t msec(usec_t t) {
        return (pn_timestamp_t) (t / USEC_PER_MSEC);
}

static void put_string(pn_data_t *d, const char *name, HubEventText value) {
        if (!value.data)
                return;
        pn_data_put_symbol(d, literal(name));
        pn_data_put_string(d, text(value));
}

static void put_number(pn_data_t *d, const char *name, int64_t value) {
        pn_data_put_symbol(d, literal(name));
        pn_data_put_long(d, value);
}

static void put_decimal(pn_data_t *d, const char *name, int64_t value) {
        char number[24];
        int n = snprintf(number, sizeof(number), "%" PRId64, value);

        pn_data_put_symbol(d, literal(name));
        pn_data_put_string(d, pn_bytes((size_t) n, number));
}

static void put_time(pn_data_t *d, const char *name, usec_t t) {
        pn_data_put_symbol(d, literal(name));
        pn_data_put_timestamp(d, msec(t));
}

static void put_auth_method(pn_data_t *d, HubAuthMethod auth) {
        char json[128];
        int n = snprintf(json, sizeof(json),
                         "{\"scope\":\"%s\",\"type\":\"%s\",\"issuer\":\"%s\","
                         "\"acceptingIpFilterRule\":null}",
                         hub_auth_scope_to_string(auth.scope), hub_auth_type_to_string(auth.type),
                         auth.type == HUB_AUTH_TYPE_SAS ? "iothub" : "external");

        pn_data_put_symbol(d, literal("iothub-connection-auth-method"));
        pn_data_put_string(d, pn_bytes((size_t) n, json));
}

static int encode_annotations(const HubStoredEvent *e, pn_data_t *d, Buffer *out) {
        begin_map(d, SECTION_MESSAGE_ANNOTATIONS);
        put_string(d, "iothub-connection-device-id", e->device_id);
        put_string(d, "iothub-connection-module-id", e->module_id);
        put_auth_method(d, e->auth);
        put_string(d, "iothub-connection-auth-generation-id", e->generation_id);
        put_time(d, "iothub-enqueuedtime", e->place.enqueued_usec);
        put_string(d, "iothub-message-source", (HubEventText) { "Telemetry", strlen("Telemetry") });
        put_string(d, "dt-dataschema", e->model_id);
        put_string(d, "dt-subject", e->system[HUB_SYSTEM_SUBJECT]);
        put_string(d, "iothub-interface-name", e->system[HUB_SYSTEM_INTERFACE_ID]);
        put_string(d, "iothub-creation-time-utc", e->system[HUB_SYSTEM_CREATION_TIME]);
        put_string(d, "iothub-message-schema", e->system[HUB_SYSTEM_MESSAGE_SCHEMA]);
        put_string(d, "iothub-output-name", e->system[HUB_SYSTEM_OUTPUT_NAME]);
        put_number(d, "x-opt-sequence-number", e->place.sequence);
        put_decimal(d, "x-opt-offset", e->place.offset);
        put_time(d, "x-opt-enqueued-time", e->place.enqueued_usec);
        return end_section(d, out);
}

static void put_string_or_null(pn_data_t *d, HubEventText t) {
        if (t.data)
                pn_data_put_string(d, text(t));
        else
                pn_data_put_null(d);
}

static void put_symbol_or_null(pn_data_t *d, HubEventText t) {
        if (t.data)
                pn_data_put_symbol(d, text(t));
        else
                pn_data_put_null(d);
}

/* message-id, user-id, to, subject, reply-to, correlation-id, content-type, content-encoding: the order of the
 * fields is their meaning. */
static int encode_properties(const HubStoredEvent *e, pn_data_t *d, Buffer *out) {
        begin_section(d, SECTION_PROPERTIES);
        pn_data_put_list(d);
        pn_data_enter(d);
        put_string_or_null(d, e->system[HUB_SYSTEM_MESSAGE_ID]);
        if (e->system[HUB_SYSTEM_USER_ID].data)
                pn_data_put_binary(d, text(e->system[HUB_SYSTEM_USER_ID]));
        else
                pn_data_put_null(d);
        put_string_or_null(d, e->system[HUB_SYSTEM_TO]);
        pn_data_put_null(d);
        pn_data_put_null(d);
        put_string_or_null(d, e->system[HUB_SYSTEM_CORRELATION_ID]);
        put_symbol_or_null(d, e->system[HUB_SYSTEM_CONTENT_TYPE]);
        put_symbol_or_null(d, e->system[HUB_SYSTEM_CONTENT_ENCODING]);
        return end_section(d, out);
}

static int encode_application(const HubStoredEvent *e, pn_data_t *d, Buffer *out) {
        if (e->n_properties == 0)
                return 0;
        begin_map(d, SECTION_APPLICATION_PROPERTIES);
        for (size_t i = 0; i < e->n_properties; i++) {
                pn_data_put_string(d, text(e->properties[i].name));
                pn_data_put_string(d, text(e->properties[i].value));
        }
        return end_section(d, out);
}

int amqp_encode_data_head(size_t n, Buffer *out) {
        uint8_t head[8] = { 0x00, 0x53, 0x75, 0xa0, (uint8_t) n };

        if (n <= UINT8_MAX)
                return buffer_append(out, head, 5);
        head[3] = 0xb0;
        for (unsigned i = 0; i < 4; i++)
                head[4 + i] = (uint8_t) (n >> (24 - 8 * i));
        return buffer_append(out, head, 8);
}

int amqp_event_encode(const HubStoredEvent *e, pn_data_t *scratch, Buffer *head) {
        int r;

        assert(e);

        head->size = 0;
        pn_data_clear(scratch);
        r = encode_annotations(e, scratch, head);
        if (r >= 0)
                r = encode_properties(e, scratch, head);
        if (r >= 0)
                r = encode_application(e, scratch, head);
        if (r >= 0)
                r = amqp_encode_data_head(e->body_size, head);
        return r;
}
