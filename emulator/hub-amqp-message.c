/* An event in the form of an Event Hubs endpoint. Sections: OASIS AMQP 1.0 part 3, section 3.2; annotations and
 * their types: docs/emulator.md, "The AMQP door". */
#include <assert.h>
#include <inttypes.h>

#include <proton/codec.h>

#include "emulator/hub-amqp-private.h"

#define SECTION_MESSAGE_ANNOTATIONS 0x72U
#define SECTION_PROPERTIES 0x73U
#define SECTION_APPLICATION_PROPERTIES 0x74U

/* Events are written byte by byte, without a tree of values as Proton makes it: at a million of them
 * that took a third of the door's time. Encodings: part 1, section 1.6. The first failure stays. */
typedef struct Writer {
        Buffer *out;
        int result;
} Writer;

static void put(Writer *w, const void *data, size_t n) {
        if (w->result >= 0)
                w->result = buffer_append(w->out, data, n);
}

static void store_u32(uint8_t *p, size_t v) {
        for (unsigned i = 0; i < 4; i++)
                p[i] = (uint8_t) (v >> (24 - 8 * i));
}

/* Of one of the kinds that have a size of one byte or, 0x10 higher, of four. */
static void put_variable(Writer *w, uint8_t code, const void *data, size_t n) {
        uint8_t head[5] = { code, (uint8_t) n };

        if (n > UINT8_MAX) {
                head[0] = (uint8_t) (code + 0x10);
                store_u32(head + 1, n);
        }
        put(w, head, n > UINT8_MAX ? 5 : 2);
        put(w, data, n);
}

static void put_binary(Writer *w, HubEventText t) {
        put_variable(w, 0xa0, t.data, t.size);
}

static void put_string(Writer *w, HubEventText t) {
        put_variable(w, 0xa1, t.data, t.size);
}

static void put_symbol(Writer *w, HubEventText t) {
        put_variable(w, 0xa3, t.data, t.size);
}

static void put_null(Writer *w) {
        put(w, (uint8_t[]) { 0x40 }, 1);
}

/* long or timestamp */
static void put_u64(Writer *w, uint8_t code, uint64_t v) {
        uint8_t b[9] = { code };

        store_u32(b + 1, (size_t) (v >> 32));
        store_u32(b + 5, (size_t) (v & UINT32_MAX));
        put(w, b, sizeof(b));
}

/* A section that is a list (0xd0) or a map (0xd1). Returns where its size is to be written. */
static size_t begin_section(Writer *w, uint8_t section, uint8_t code) {
        put(w, (uint8_t[12]) { 0x00, 0x53, section, code }, 12);
        return w->out->size - 8;
}

/* n: names and values count one by one. */
static void end_section(Writer *w, size_t at, size_t n) {
        if (w->result < 0)
                return;
        store_u32(w->out->data + at, w->out->size - at - 4);
        store_u32(w->out->data + at + 4, n);
}

static HubEventText literal(const char *s) {
        return (HubEventText) { s, strlen(s) };
}

static uint64_t msec(usec_t t) {
        return t / USEC_PER_MSEC;
}

static void add_text(Writer *w, size_t *n, const char *name, HubEventText value) {
        if (!value.data)
                return;
        put_symbol(w, literal(name));
        put_string(w, value);
        *n += 2;
}

static void add_u64(Writer *w, size_t *n, const char *name, uint8_t code, uint64_t value) {
        put_symbol(w, literal(name));
        put_u64(w, code, value);
        *n += 2;
}

static void add_auth_method(Writer *w, size_t *n, HubAuthMethod auth) {
        char json[128];

        (void) snprintf(json, sizeof(json),
                        "{\"scope\":\"%s\",\"type\":\"%s\",\"issuer\":\"%s\","
                        "\"acceptingIpFilterRule\":null}",
                        hub_auth_scope_to_string(auth.scope), hub_auth_type_to_string(auth.type),
                        auth.type == HUB_AUTH_TYPE_SAS ? "iothub" : "external");
        add_text(w, n, "iothub-connection-auth-method", literal(json));
}

#define LONG 0x81
#define TIMESTAMP 0x83

static void put_annotations(const HubStoredEvent *e, Writer *w) {
        size_t at = begin_section(w, SECTION_MESSAGE_ANNOTATIONS, 0xd1), n = 0;
        char offset[24];

        (void) snprintf(offset, sizeof(offset), "%" PRId64, e->place.offset);
        add_text(w, &n, "iothub-connection-device-id", e->device_id);
        add_text(w, &n, "iothub-connection-module-id", e->module_id);
        add_auth_method(w, &n, e->auth);
        add_text(w, &n, "iothub-connection-auth-generation-id", e->generation_id);
        add_u64(w, &n, "iothub-enqueuedtime", TIMESTAMP, msec(e->place.enqueued_usec));
        add_text(w, &n, "iothub-message-source", literal("Telemetry"));
        add_text(w, &n, "dt-dataschema", e->model_id);
        add_text(w, &n, "dt-subject", e->system[HUB_SYSTEM_SUBJECT]);
        add_text(w, &n, "iothub-interface-name", e->system[HUB_SYSTEM_INTERFACE_ID]);
        add_text(w, &n, "iothub-creation-time-utc", e->system[HUB_SYSTEM_CREATION_TIME]);
        add_text(w, &n, "iothub-message-schema", e->system[HUB_SYSTEM_MESSAGE_SCHEMA]);
        add_text(w, &n, "iothub-output-name", e->system[HUB_SYSTEM_OUTPUT_NAME]);
        add_u64(w, &n, "x-opt-sequence-number", LONG, (uint64_t) e->place.sequence);
        add_text(w, &n, "x-opt-offset", literal(offset));
        add_u64(w, &n, "x-opt-enqueued-time", TIMESTAMP, msec(e->place.enqueued_usec));
        end_section(w, at, n);
}

/* message-id, user-id, to, subject, reply-to, correlation-id, content-type, content-encoding: the order of the
 * fields is their meaning. */
static void put_properties(const HubStoredEvent *e, Writer *w) {
        static const struct {
                HubSystemProperty property; /* _HUB_SYSTEM_MAX: none is sent */
                void (*put)(Writer *w, HubEventText t);
        } fields[] = {
                { HUB_SYSTEM_MESSAGE_ID, put_string },
                { HUB_SYSTEM_USER_ID, put_binary },
                { HUB_SYSTEM_TO, put_string },
                { _HUB_SYSTEM_MAX, NULL },
                { _HUB_SYSTEM_MAX, NULL },
                { HUB_SYSTEM_CORRELATION_ID, put_string },
                { HUB_SYSTEM_CONTENT_TYPE, put_symbol },
                { HUB_SYSTEM_CONTENT_ENCODING, put_symbol },
        };
        size_t at = begin_section(w, SECTION_PROPERTIES, 0xd0);

        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                if (fields[i].property < _HUB_SYSTEM_MAX && e->system[fields[i].property].data)
                        fields[i].put(w, e->system[fields[i].property]);
                else
                        put_null(w);
        end_section(w, at, ELEMENTSOF(fields));
}

static void put_application(const HubStoredEvent *e, Writer *w) {
        size_t at;

        if (e->n_properties == 0)
                return;
        at = begin_section(w, SECTION_APPLICATION_PROPERTIES, 0xd1);
        for (size_t i = 0; i < e->n_properties; i++) {
                put_string(w, e->properties[i].name);
                put_string(w, e->properties[i].value);
        }
        end_section(w, at, 2 * e->n_properties);
}

int amqp_encode_data_head(size_t n, Buffer *out) {
        uint8_t head[8] = { 0x00, 0x53, 0x75, 0xa0, (uint8_t) n };

        if (n <= UINT8_MAX)
                return buffer_append(out, head, 5);
        head[3] = 0xb0;
        store_u32(head + 4, n);
        return buffer_append(out, head, 8);
}

int amqp_event_encode(const HubStoredEvent *e, Buffer *head) {
        Writer w = { .out = head };

        assert(e);

        head->size = 0;
        put_annotations(e, &w);
        put_properties(e, &w);
        put_application(e, &w);
        return w.result < 0 ? w.result : amqp_encode_data_head(e->body_size, head);
}
