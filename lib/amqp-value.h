/* amqp-value.h: AMQP 1.0 values and messages, read in place: nothing is copied, nothing allocated.
 * Pure. Encodings: OASIS AMQP 1.0 part 1, section 1.6; messages: part 3, section 3.2. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct AmqpBytes {
        const uint8_t *data;
        size_t size;
} AmqpBytes;

bool amqp_bytes_equal(AmqpBytes b, const char *s);

typedef enum AmqpType {
        AMQP_NULL,
        AMQP_BOOLEAN,   /* integer 0 or 1 */
        AMQP_UNSIGNED,  /* ubyte to ulong: uinteger */
        AMQP_SIGNED,    /* byte to long: integer */
        AMQP_TIMESTAMP, /* integer: milliseconds since 1970 UTC */
        AMQP_DOUBLE,    /* float and double: real */
        AMQP_CHAR,      /* uinteger: a code point */
        AMQP_UUID,      /* bytes: 16 */
        AMQP_BINARY,    /* bytes */
        AMQP_STRING,    /* bytes, not yet known to be UTF-8 */
        AMQP_SYMBOL,    /* bytes */
        AMQP_DECIMAL,   /* bytes: 4, 8 or 16, not taken apart */
        AMQP_LIST,      /* items */
        AMQP_MAP,       /* items: names and values in turn */
        AMQP_ARRAY,     /* items */
        _AMQP_TYPE_MAX,
        _AMQP_TYPE_INVALID = -22,
} AmqpType;

/* What is left to read: of a message, or of the items of a list, a map or an array. */
typedef struct AmqpReader {
        AmqpBytes left;
        size_t n_left;     /* items; SIZE_MAX: as long as there are bytes */
        uint8_t item_code; /* of an array, whose items share one; else 0 */
} AmqpReader;

typedef struct AmqpValue {
        AmqpType type;
        bool described;      /* a descriptor stood before it */
        uint64_t descriptor; /* 0: it is a symbol */
        union {
                int64_t integer;
                uint64_t uinteger;
                double real;
                AmqpBytes bytes;
                AmqpReader items;
        };
} AmqpValue;

void amqp_reader_init(AmqpReader *r, const void *data, size_t n);

/* The next value, borrowed from the data. 1, 0 at the end, -EBADMSG (malformed, or nested too deep
 * in descriptors). Items of compound values are checked when they are read. */
int amqp_read(AmqpReader *r, AmqpValue *ret);

/* The value of a name (string or symbol) in a map. 1, 0 (not there, or no map), -EBADMSG. */
int amqp_map_get(const AmqpValue *map, const char *name, AmqpValue *ret);

/* Strings, symbols and binaries as bytes. */
bool amqp_value_text(const AmqpValue *v, AmqpBytes *ret);

/* Any integer or timestamp that fits. */
bool amqp_value_integer(const AmqpValue *v, int64_t *ret);

/* The sections of a bare message and its annotations. Values that are absent have the type
 * AMQP_NULL. */
typedef struct AmqpMessage {
        AmqpValue delivery_annotations, annotations, application_properties; /* maps */

        /* properties */
        AmqpValue message_id, user_id, to, subject, reply_to, correlation_id, content_type,
                        content_encoding, absolute_expiry_time, creation_time;

        AmqpValue body;    /* of the first data or value section; AMQP_NULL: none */
        bool body_is_data; /* a data section, whose bytes are the payload */
        bool more_data;    /* further data sections, or a sequence, are there and not shown */
} AmqpMessage;

/* 0 or -EBADMSG. The result points into data. */
int amqp_message_read(const void *data, size_t n, AmqpMessage *ret);
