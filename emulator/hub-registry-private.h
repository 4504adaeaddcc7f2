/* hub-registry-private.h: one call of the registry without its HTTP, between hub-registry.c, which
 * opens the door, and hub-registry-*.c, which do the work. */
#pragma once

#include <json-c/json.h>

#include "emulator/hub-link.h"
#include "emulator/hub.h"
#include "lib/buffer.h"

/* If-Match. */
typedef struct RegistryCondition {
        bool given; /* an empty one counts as none: a client sends it on create */
        bool any;
        uint64_t etag;      /* of an identity; 0, which none has, where the text is no such etag */
        uint64_t twin_etag; /* of a twin, likewise */
} RegistryCondition;

typedef struct RegistryLater RegistryLater;

/* Strings are borrowed; NULL where the request has none. */
typedef struct RegistryCall {
        Hub *hub;
        HubLink *link;
        RegistryLater *later; /* for an answer that has to be waited for */
        const char *device, *module; /* of the path, decoded and checked */
        const Buffer *body;
        const char *top;
        const char *max_items, *continuation; /* headers of queries */
        RegistryCondition if_match;
} RegistryCall;

typedef struct RegistryAnswer {
        unsigned status;
        struct json_object *body; /* owned; NULL: none */
        const char *error;        /* iothub-errorcode, static; NULL: success */
        char *etag;               /* owned; NULL: no header */
        const char *item_type;    /* static */
        char *continuation;       /* owned */
        uint64_t retry_after_sec; /* 0: no header */
        char request_id[37];      /* a UUID */
} RegistryAnswer;

/* An answer that comes later, from any thread: the handler calls registry_later_begin() before anybody
 * else knows of it, and returns -EINPROGRESS; then registry_later_end() is called once, with the answer
 * that has been put in place, or an error. */
struct RegistryLater {
        RegistryAnswer answer;
        int error;
        void (*begin)(RegistryLater *later);
        void (*end)(RegistryLater *later);
};

static inline void registry_later_begin(RegistryLater *later) {
        later->begin(later);
}

static inline void registry_later_end(RegistryLater *later, int error) {
        later->error = error;
        later->end(later);
}

void registry_answer_init(RegistryAnswer *a);
void registry_answer_done(RegistryAnswer *a);

/* Below, and of every handler: 0 when *a holds the answer, also a refusal; -ENOMEM otherwise. */

/* {"Message":"ErrorCode:NAME;text","ExceptionMessage":"Tracking ID:.."}; name is static. */
int registry_error(RegistryAnswer *a, unsigned status, const char *name, const char *format, ...)
                _printf_(4, 5);

/* {"errorCode":code,"trackingId":..,"message":text,..}, the form of methods and modules; nested: as a
 * string inside the other form. */
int registry_error_code(RegistryAnswer *a, bool nested, const char *name, unsigned code,
                        const char *format, ...) _printf_(5, 6);

/* An error by its number, in the form that its number has at the hub. */
int registry_error_number(RegistryAnswer *a, unsigned code, uint64_t retry_after_sec);

/* What an errno of hub.h means to a client. existing: the stored etag of -ESTALE. */
int registry_failure(RegistryAnswer *a, int error, const RegistryCall *c, uint64_t existing);

/* The body as JSON of that type. 1; 0 (it is none, told); -ENOMEM. */
int registry_parse_body(const RegistryCall *c, enum json_type type, RegistryAnswer *a,
                        struct json_object **ret);

/* 0 or -ENOMEM. */
int registry_condition_read(const char *text, RegistryCondition *ret);

/* NULL: any will do. */
const uint64_t *registry_condition_etag(const RegistryCondition *c);

int registry_list_devices(const RegistryCall *c, RegistryAnswer *a);
int registry_list_modules(const RegistryCall *c, RegistryAnswer *a);
int registry_get_identity(const RegistryCall *c, RegistryAnswer *a);
int registry_put_identity(const RegistryCall *c, RegistryAnswer *a);
int registry_delete_identity(const RegistryCall *c, RegistryAnswer *a);
int registry_count_devices(const RegistryCall *c, RegistryAnswer *a);
int registry_count_connected(const RegistryCall *c, RegistryAnswer *a);
int registry_no_job(const RegistryCall *c, RegistryAnswer *a);

/* Calls a method of a device. */
int registry_invoke(const RegistryCall *c, RegistryAnswer *a);
int registry_bulk(const RegistryCall *c, RegistryAnswer *a);
int registry_query(const RegistryCall *c, RegistryAnswer *a);
int registry_get_twin(const RegistryCall *c, RegistryAnswer *a);
int registry_patch_twin(const RegistryCall *c, RegistryAnswer *a);
int registry_put_twin(const RegistryCall *c, RegistryAnswer *a);

/* As registry_failure(), of a change of a twin; reason: of -EINVAL. */
int registry_twin_failure(RegistryAnswer *a, int error, const RegistryCall *c, const char *reason);
int registry_purge(const RegistryCall *c, RegistryAnswer *a);
