/* varlink-wire.h: bytes in, whole Varlink messages out, and back. Knows no socket and no method.
 * A message is one JSON object and a NUL byte (https://varlink.org). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/buffer.h"
#include "lib/json-util.h"

#define VARLINK_FRAME_BYTES_MAX (1024U * 1024U) /* with its NUL */
#define VARLINK_ELEMENTS_MAX 65536U /* values in one frame: json-c takes about 40 bytes and more for each */
#define VARLINK_DEPTH_MAX 16U

typedef struct VarlinkReader {
        Buffer buffer;
        size_t scanned; /* bytes known to hold no NUL: a frame that trickles in is searched once */
} VarlinkReader;

void varlink_reader_done(VarlinkReader *r);

/* Copies bytes in. 0, -EMSGSIZE (an unfinished frame would pass VARLINK_FRAME_BYTES_MAX) or -ENOMEM. */
int varlink_reader_feed(VarlinkReader *r, const void *data, size_t n);

/* Bytes held for an unfinished or unread frame. */
static inline size_t varlink_reader_pending(const VarlinkReader *r) {
        return r->buffer.size;
}

/* Next whole message: 1 (*ret is the caller's), 0 (none whole yet), -EBADMSG (no JSON object, invalid UTF-8,
 * a lone surrogate escape, a duplicate key, too deep; *reterr_reason is static text), -E2BIG (more than
 * VARLINK_ELEMENTS_MAX values) or -ENOMEM. After -EBADMSG or -E2BIG the frame is consumed. */
int varlink_reader_next(VarlinkReader *r, struct json_object **ret, const char **reterr_reason);

/* The text check that varlink_reader_next() runs before json-c sees a frame. 0, -EBADMSG or -E2BIG. */
int varlink_frame_check(const char *data, size_t n, const char **reterr_reason);

typedef struct VarlinkCall {
        const char *method;             /* borrowed from the message */
        struct json_object *parameters; /* borrowed; an empty object where absent */
        bool more, oneway, upgrade;
} VarlinkCall;

/* 0 or -EBADMSG. */
int varlink_call_parse(struct json_object *message, VarlinkCall *ret);

/* Append a frame with its NUL. parameters: borrowed, NULL for none. 0 or -ENOMEM. */
int varlink_append_call(Buffer *out, const char *method, struct json_object *parameters, bool more, bool oneway);
int varlink_append_reply(Buffer *out, struct json_object *parameters, bool continues);
int varlink_append_error(Buffer *out, const char *error, struct json_object *parameters);
