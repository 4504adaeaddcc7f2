/* varlink-wire.h: bytes in, whole Varlink messages out, and back. Knows no socket and no method.
 * A message is one JSON object and a NUL byte (https://varlink.org). */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/buffer.h"
#include "lib/json-util.h"

#define VARLINK_FRAME_BYTES_MAX (1024U * 1024U) /* with its NUL */
/* What json-c takes for one text is bounded in units of about 80 bytes (measured with json-c
 * 0.16): a value takes one, its key another, and an object ten more for its hash table. So a frame
 * holds at most 65,534 numbers in one array or about 5,000 messages of the shape {"body":"..."}. */
#define VARLINK_ELEMENTS_MAX 65536U
#define VARLINK_OBJECT_ELEMENTS 10U
#define VARLINK_KEYS_MAX 1024U /* in one object */
#define VARLINK_DEPTH_MAX 16U

typedef struct VarlinkReader {
        Buffer buffer;
        size_t offset;   /* bytes of the buffer that were read as messages */
        size_t searched; /* bytes of the buffer known to hold no NUL behind offset: a frame that
                          * trickles in is searched once */
        size_t tail;     /* bytes behind the last NUL that was fed */
} VarlinkReader;

void varlink_reader_done(VarlinkReader *r);

/* Copies bytes in. 0, -EMSGSIZE (a frame would pass VARLINK_FRAME_BYTES_MAX: the whole messages
 * before it can still be read, nothing more can be fed) or -ENOMEM. */
int varlink_reader_feed(VarlinkReader *r, const void *data, size_t n);

/* Bytes held for unfinished and unread frames. */
static inline size_t varlink_reader_pending(const VarlinkReader *r) {
        return r->buffer.size - r->offset;
}

/* Memory held, which is at least what is pending. */
static inline size_t varlink_reader_allocated(const VarlinkReader *r) {
        return r->buffer.allocated;
}

/* Whether a message waits to be read, without reading it. */
bool varlink_reader_has_frame(VarlinkReader *r);

/* The text of the message that would be read next, without its NUL; false when there is none.
 * Borrowed until the reader is used again. */
bool varlink_reader_peek(VarlinkReader *r, const char **ret, size_t *ret_size);

/* A long list in the parameters of a call, apart from its message. json-c takes some forty times the text of small
 * objects; a group at a time, that no longer depends on how long the list is. */
#define VARLINK_GROUP_ELEMENTS 2048U
#define VARLINK_GROUPS_MAX (VARLINK_ELEMENTS_MAX / VARLINK_GROUP_ELEMENTS + 1U)

typedef struct VarlinkList {
        char *text; /* of the items and what is between them; NULL: there is no such list */
        size_t n_items, n_groups;
        uint32_t ends[VARLINK_GROUPS_MAX]; /* in the text */
} VarlinkList;

void varlink_list_done(VarlinkList *l);

/* The items of group i as an array, the caller's. 0 or -ENOMEM. */
int varlink_list_group(const VarlinkList *l, size_t i, struct json_object **ret);

/* Next whole message: 1 (*ret is the caller's), 0 (none whole yet), -EBADMSG (no JSON object,
 * invalid UTF-8, a lone surrogate escape, a duplicate key, too deep; *reterr_reason is static
 * text), -E2BIG (more than VARLINK_ELEMENTS_MAX or VARLINK_KEYS_MAX) or -ENOMEM. After -EBADMSG or
 * -E2BIG the frame is consumed. ret_size, where given: bytes of the frame. */
int varlink_reader_next(VarlinkReader *r, struct json_object **ret, size_t *ret_size,
                        const char **reterr_reason);

/* The same, but where the field of the parameters is a list of more than one group, the message has an empty one in its
 * place and *ret_list has the items: varlink_list_done(). Else *ret_list is empty. */
int varlink_reader_next_split(VarlinkReader *r, const char *field, struct json_object **ret,
                              VarlinkList *ret_list, size_t *ret_size,
                              const char **reterr_reason);

/* The text check that varlink_reader_next() runs before json-c sees a frame: exactly one JSON
 * object (RFC 8259) and the limits above. data[n] must be readable and NUL. 0, -EBADMSG or -E2BIG.
 */
int varlink_frame_check(const char *data, size_t n, const char **reterr_reason);

typedef struct VarlinkCall {
        const char *method;             /* borrowed from the message */
        struct json_object *parameters; /* borrowed; an empty object where absent */
        const VarlinkList *list;        /* borrowed; NULL unless a long one was split off; not set here */
        bool more, oneway, upgrade;
} VarlinkCall;

/* 0 or -EBADMSG (also: "more" and "oneway" together). */
int varlink_call_parse(struct json_object *message, VarlinkCall *ret);

/* Append a frame with its NUL. parameters: borrowed, NULL for none. 0 or -ENOMEM. */
int varlink_append_call(Buffer *out, const char *method, struct json_object *parameters, bool more,
                        bool oneway);
int varlink_append_reply(Buffer *out, struct json_object *parameters, bool continues);
int varlink_append_error(Buffer *out, const char *error, struct json_object *parameters);
