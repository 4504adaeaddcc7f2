/* hub-trouble.h: trouble on request: which is on, for which device, until when, and what it does to
 * a packet. Pure: no socket, no clock; times are CLOCK_MONOTONIC and come in as arguments. How each
 * trouble looks at a real hub: docs/emulator.md, "Trouble on request". */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "emulator/text-finder.h"
#include "lib/macro.h"
#include "lib/time-util.h"

#define TROUBLES_MAX 64U
#define TROUBLE_COUNT_MAX 1000000000U
#define TROUBLE_CODE_CUT 0 /* of a refusal: no CONNACK, only a cut */
#define TROUBLE_CODE_MAX 5U
#define TROUBLE_HUB_CODE_MIN 400000U /* of HTTPS_ANSWER */
#define TROUBLE_HUB_CODE_MAX 599999U
#define TROUBLE_RETRY_AFTER_SEC_MAX 86400U

typedef enum TroubleKind {
        TROUBLE_QUOTA,        /* cuts at every PUBLISH */
        TROUBLE_THROTTLE,     /* PUBACKs leave at a rate; what would wait too long is cut */
        TROUBLE_REFUSE,       /* the next CONNECTs are refused */
        TROUBLE_PUBACK_DELAY, /* PUBACKs leave late */
        TROUBLE_PUBACK_DROP,  /* the next PUBACKs never leave */
        TROUBLE_MARKED,       /* cuts at a PUBLISH that holds a text */
        TROUBLE_TIER,         /* cuts at every SUBSCRIBE */
        TROUBLE_SILENT,       /* reads and answers nothing */
        TROUBLE_CERTIFICATE,  /* new connections meet another server certificate */
        /* What becomes of the next PUBACKs of devices to messages of their queues, instead of what should: */
        TROUBLE_C2D_DROP,      /* they never come */
        TROUBLE_C2D_DUPLICATE, /* the message comes once more */
        TROUBLE_C2D_REJECT,    /* the message ends as one that was rejected */
        TROUBLE_C2D_EXCEED,    /* ... as one that was delivered too often */
        /* Of the HTTPS door: */
        TROUBLE_HTTPS_ANSWER, /* requests are answered with an error */
        TROUBLE_HTTPS_DELAY,  /* answers leave late */
        TROUBLE_HTTPS_CUT,    /* the next requests are carried out, and their answers end in the middle */
        /* Of the AMQP door, each with a condition: */
        TROUBLE_AMQP_REFUSE, /* the next links are refused */
        TROUBLE_AMQP_DETACH, /* the next messages are not passed on, and their links detached */
        TROUBLE_AMQP_CLOSE,  /* likewise, and the connection is closed */
        _TROUBLE_KIND_MAX,
        _TROUBLE_KIND_INVALID = -EINVAL,
} TroubleKind;

typedef enum TroubleCertificate {
        TROUBLE_CERTIFICATE_GOOD,
        TROUBLE_CERTIFICATE_EXPIRED,
        TROUBLE_CERTIFICATE_NOT_YET_VALID,
        TROUBLE_CERTIFICATE_UNKNOWN_ISSUER,
        TROUBLE_CERTIFICATE_WRONG_NAME,
        _TROUBLE_CERTIFICATE_MAX,
        _TROUBLE_CERTIFICATE_INVALID = -EINVAL,
} TroubleCertificate;

/* Which requests. */
typedef enum TroubleCalls {
        TROUBLE_CALLS_ALL,
        TROUBLE_CALLS_BULK,   /* of many identities */
        TROUBLE_CALLS_QUERY,
        TROUBLE_CALLS_SINGLE, /* all others */
        _TROUBLE_CALLS_MAX,
        _TROUBLE_CALLS_INVALID = -EINVAL,
} TroubleCalls;

/* NULL for a value that is none. */
const char *trouble_kind_to_string(TroubleKind k);
TroubleKind trouble_kind_from_string(const char *s);
const char *trouble_certificate_to_string(TroubleCertificate c);
TroubleCertificate trouble_certificate_from_string(const char *s);
const char *trouble_calls_to_string(TroubleCalls c);
TroubleCalls trouble_calls_from_string(const char *s);

/* Of a door whose server is in the broker's process, not of the front's: hub-troubles.h. */
bool trouble_kind_is_of_hub(TroubleKind k);

/* One trouble. Fields that its kind does not name are 0 or NULL. */
typedef struct Trouble {
        TroubleKind kind;
        char *device;         /* a client id ("ID" also means its modules); NULL: all. Not of a
                               * certificate, which comes before a device has a name */
        usec_t ends_usec;     /* USEC_INFINITY: stays until it is ended */
        uint64_t count;       /* REFUSE, PUBACK_DROP, C2D_..., HTTPS_CUT, AMQP_...: how many are left, 1 and more;
                               * HTTPS_ANSWER, HTTPS_DELAY: likewise, and 0 is without an end */
        unsigned code;        /* REFUSE: CONNACK 1 to TROUBLE_CODE_MAX, or TROUBLE_CODE_CUT. HTTPS_ANSWER:
                               * six digits, the first three the HTTP status */
        usec_t delay_usec;    /* PUBACK_DELAY, HTTPS_DELAY: how late. THROTTLE: the longest wait */
        usec_t interval_usec; /* THROTTLE: between two messages, 1 and more */
        usec_t connect_usec;  /* THROTTLE: between two CONNECTs; 0: no limit */
        uint64_t burst;       /* THROTTLE: how many pass at once after a quiet time */
        char *mark;           /* MARKED: 1 to TEXT_FINDER_MAX bytes. AMQP_...: the condition, likewise and
                               * printable ASCII; NULL: that of TROUBLE_AMQP_... by default */
        TroubleCertificate certificate;
        TroubleCalls calls;       /* HTTPS_... */
        uint64_t retry_after_sec; /* HTTPS_ANSWER: the header; 0: none */
        bool done;                /* HTTPS_ANSWER: the request is carried out all the same */
} Trouble;

void trouble_done(Trouble *t);

/* Whether device means that client: "ID" is the device and its modules, "ID/MODULE" that module. */
bool trouble_names_client(const char *device, const char *client_id);

/* What is on. Zero-initialised is nothing. */
typedef struct TroubleEntry TroubleEntry;
typedef struct Troubles {
        TroubleEntry *entries;
        size_t n;
        char condition[TEXT_FINDER_MAX + 1]; /* the last of AMQP_... that happened */
        uint64_t serial; /* rises with every change: who has remembered a decision looks again */
} Troubles;

void troubles_done(Troubles *t);

/* Adds, or replaces that of the same kind, device and calls. t: copied. 0, -EINVAL (a field is out of its
 * range; *reterr_field names it), -E2BIG (TROUBLES_MAX) or -ENOMEM. */
int troubles_set(Troubles *t, const Trouble *trouble, const char **reterr_field);

/* Ends those of a kind and, where device is given, of exactly that device. Returns how many. */
size_t troubles_end(Troubles *t, TroubleKind kind, const char *device);

/* Ends what has lasted its time. Returns when the next one will, or USEC_INFINITY. */
usec_t troubles_expire(Troubles *t, usec_t now_usec);

/* The i-th of t->n, borrowed until the next change. */
const Trouble *troubles_get(const Troubles *t, size_t i);

typedef enum TroubleVerdict {
        TROUBLE_PASS,
        TROUBLE_HOLD,   /* let it go later */
        TROUBLE_DROP,   /* never let it go */
        TROUBLE_ANSWER, /* refuse with a code */
        TROUBLE_CUT,    /* end the connection; what came before still counts */
} TroubleVerdict;

/* Decisions. client_id: of the connection, NULL before its CONNECT. What counts or meters is used
 * up by the call. *ret_cause, with any verdict but PASS: static text for the log. */
TroubleVerdict troubles_on_connect(Troubles *t, const char *client_id, usec_t now_usec,
                                   unsigned *ret_code, const char **ret_cause);
TroubleVerdict troubles_on_publish(Troubles *t, const char *client_id, const char **ret_cause);
TroubleVerdict troubles_on_subscribe(Troubles *t, const char *client_id, const char **ret_cause);
TroubleVerdict troubles_on_puback(Troubles *t, const char *client_id, usec_t now_usec,
                                  usec_t *ret_due_usec, const char **ret_cause);

/* What happens to a request of the HTTPS door. */
typedef struct TroubleRequest {
        unsigned code; /* 0: what it should be */
        uint64_t retry_after_sec;
        bool done;
        usec_t delay_usec;
        bool cut;
} TroubleRequest;

/* device: a client id that the request names, or NULL. calls: not ALL. */
void troubles_on_request(Troubles *t, const char *device, TroubleCalls calls, TroubleRequest *ret);

/* Whether that trouble happens now, which uses up one. *ret_condition: borrowed until the next change. */
bool troubles_on_amqp(Troubles *t, TroubleKind kind, const char **ret_condition);

/* Whether any of AMQP_... is on. */
bool troubles_have_amqp(const Troubles *t);

/* What comes of a PUBACK to a message of the device's queue. */
typedef enum TroubleC2d {
        TROUBLE_C2D_COMPLETED,
        TROUBLE_C2D_LOST,
        TROUBLE_C2D_REPEATED,
        TROUBLE_C2D_REJECTED,
        TROUBLE_C2D_EXCEEDED,
} TroubleC2d;

/* repeated: it was REPEATED before, which happens to a message once. */
TroubleC2d troubles_on_c2d(Troubles *t, const char *client_id, bool repeated);

/* Whether PUBACKs of that client are being held back: when no more, those that wait may leave. */
bool troubles_hold_pubacks(const Troubles *t, const char *client_id);

bool troubles_are_silent(const Troubles *t, const char *client_id);
TroubleCertificate troubles_certificate(const Troubles *t);

/* The text that a PUBLISH of that client must not hold, borrowed until the next change, or NULL. */
const TextFinder *troubles_mark(const Troubles *t, const char *client_id);
