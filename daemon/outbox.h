/* outbox.h: messages that we accepted and the hub has not yet confirmed, safe on disk.
 * Format on disk: docs/outbox-format.md. Promises P1 to P5: docs/architecture.md.
 *
 * Used from one thread (the event loop) only. Disk work runs on threads of the outbox, which hand their results
 * back through a descriptor; with threaded = false it runs inside outbox_process(), for deterministic tests. All
 * callbacks come from inside outbox_process(), on the caller's thread, and may call any function here except
 * outbox_free(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/macro.h"
#include "lib/time-util.h"

typedef struct Outbox Outbox;
typedef struct OutboxIo OutboxIo; /* outbox-io.h */

typedef enum OutboxLane {
        OUTBOX_LANE_URGENT,
        OUTBOX_LANE_NORMAL,
        OUTBOX_LANE_BULK,
        _OUTBOX_LANE_MAX,
        _OUTBOX_LANE_INVALID = -EINVAL,
} OutboxLane;

const char *outbox_lane_to_string(OutboxLane lane);
OutboxLane outbox_lane_from_string(const char *s);

typedef enum OutboxEnd {
        OUTBOX_END_QUEUED, /* no end yet */
        OUTBOX_END_CONFIRMED,
        OUTBOX_END_EXPIRED,
        OUTBOX_END_DROPPED,
        OUTBOX_END_REJECTED,
        _OUTBOX_END_MAX,
        _OUTBOX_END_INVALID = -EINVAL,
} OutboxEnd;

const char *outbox_end_to_string(OutboxEnd end);

typedef enum OutboxFullPolicy {
        OUTBOX_FULL_REJECT,
        OUTBOX_FULL_DROP_OLDEST,
        _OUTBOX_FULL_POLICY_MAX,
        _OUTBOX_FULL_POLICY_INVALID = -EINVAL,
} OutboxFullPolicy;

#define OUTBOX_STREAMS_MAX 1024U          /* remembered; the one unused longest is forgotten first */
#define OUTBOX_RECORD_BYTES_MAX (384U * 1024U)
#define OUTBOX_MADE_ID_MAX 40U            /* bytes of a message id that the outbox makes: 16 hex digits, '-', decimal seq */

/* Where time comes from, so that a test brings its own. realtime_plausible: false while the wall clock is known
 * or suspected to be wrong (before the build date, or before the newest record). */
typedef struct OutboxClock {
        usec_t (*boottime)(void *userdata);
        usec_t (*realtime)(void *userdata);
        uint8_t boot_id[16];
        void *userdata;
} OutboxClock;

typedef struct OutboxOptions {
        uint64_t max_size;       /* bytes of all files; 0: the smaller of 1 GiB and a tenth of the file system */
        uint64_t keep_free;      /* UINT64_MAX: the smaller of 1 GiB and 15 % of the file system */
        uint64_t segment_size;   /* 0: scaled with max_size, 4 MiB for small ones */
        OutboxFullPolicy full;
        usec_t time_to_live_usec; /* for messages without their own; USEC_INFINITY: never */
        uint64_t dead_letter_size; /* bytes of the dead-letter box, inside max_size */
        unsigned n_receipts;     /* ends remembered for look-ups */
        usec_t position_interval_usec;   /* confirmations are recorded at least this often ... */
        unsigned position_messages;      /* ... and after this many: the bound of P2 on repeats after a crash */
        bool threaded;
        const OutboxIo *io;      /* NULL: the real disk */
        const OutboxClock *clock;/* NULL: the real clocks */
} OutboxOptions;

typedef struct OutboxMessage {
        OutboxLane lane;
        const char *message_id;  /* NULL: the outbox makes one from its identity and the seq */
        const char *bag;         /* encoded property bag without $.mid (hub-message.h); may be NULL when empty */
        size_t bag_size;
        const void *body;
        size_t body_size;
        usec_t time_to_live_usec; /* USEC_INFINITY: the default of the options; counts from acceptance */
} OutboxMessage;

typedef struct OutboxStream {
        uint8_t id[16];
        uint64_t position;       /* of the first message of the call */
} OutboxStream;

/* first and last: the seqs stored by the call; both 0 when all were duplicates. error: 0, or -ENOSPC, -EROFS,
 * -EIO, ... when the disk failed the batch and nothing of it will be sent; -ECANCELED at outbox_free(). */
typedef void (*OutboxDurableCallback)(int error, uint64_t first, uint64_t last, uint64_t n_duplicates, void *userdata);

/* The end of one message, after it was recorded where P2 demands that. */
typedef struct OutboxSettled {
        uint64_t seq;
        OutboxLane lane;
        OutboxEnd end;
        bool has_stream;
        uint8_t stream[16];
        uint64_t position;
        usec_t accepted_realtime_usec, settled_realtime_usec;
        const char *message_id;  /* borrowed; also a made one */
        const char *reason;      /* borrowed; NULL for confirmed */
} OutboxSettled;

typedef struct OutboxEvents {
        void (*on_settled)(const OutboxSettled *s, void *userdata);
        /* A message became available to outbox_next() after that returned -EAGAIN. */
        void (*on_deliverable)(void *userdata);
        /* Something that an operator should know happened: full, room again, disk error, disk works again,
         * messages lost to damage, expired or dropped. The text is a sentence; the edge logs it. priority: LOG_*.
         * message_id: an id of daemon/log.h or NULL. */
        void (*on_notice)(int priority, const char *message_id, const char *text, void *userdata);
        void *userdata;
} OutboxEvents;

/* Opens or makes the outbox in a directory, which is locked while it is open, and recovers what is there.
 * Start-up reads little: time and memory do not depend on the depth of the queue.
 * 0, -EBUSY (another process holds it), -ENOTDIR, -EPROTONOSUPPORT (made by a newer version), or -errno. A disk
 * that is full or read-only does not fail the open: appends are refused until it recovers. */
int outbox_open(const char *path, const OutboxOptions *options, const OutboxEvents *events, Outbox **ret);

/* Waits for the running sync, records positions, closes. Pending appends end with -ECANCELED unless their batch
 * was under way. Accepts NULL, returns NULL. */
Outbox *outbox_free(Outbox *o);
DEFINE_CLEANUP(Outbox *, outbox_free);

/* Becomes readable when outbox_process() has something to do. */
int outbox_fd(Outbox *o);

/* Runs callbacks that are due: finished disk work, expired messages. 0 or -errno of a programming error. */
int outbox_process(Outbox *o);

/* When outbox_process() wants to be called even without the descriptor, on CLOCK_BOOTTIME; USEC_INFINITY: never. */
usec_t outbox_next_deadline(Outbox *o);

/* Hub host and device (device id, or "ID/MID") that the messages are for. 0; -EREMCHG when messages wait for
 * another and adopt is false: outbox_next() then gives nothing until it is called again with adopt or they are
 * gone. Without any call yet nothing is given either: what for is unknown. */
int outbox_set_identity(Outbox *o, const char *hub, const char *device, bool adopt);

/* Adds messages to the open batch, all or none. NOT durable yet: on_durable is called exactly once if this
 * returns 0, and names what is safe.
 *   messages   copied
 *   stream     NULL, or the stream that the messages belong to, bound to uid and the first message's lane
 *   uid        the sender
 * 0; -EMSGSIZE (a record too large); -ENOSPC (limit reached or disk full: see outbox_get_stats); -EROFS, -EIO and
 * other disk errors (outbox_get_stats: disk_error); -ESTALE (stream position behind the next one: a gap,
 * *reterr_next tells the next); -EPERM (stream bound to another lane or uid); -ENOBUFS (bytes in flight).
 * After any error the queue is as before. */
int outbox_append(Outbox *o, const OutboxMessage *messages, size_t n_messages, const OutboxStream *stream, uint32_t uid,
                  OutboxDurableCallback on_durable, void *userdata, uint64_t *reterr_next);

/* The position all below which are durable; 0 for an unknown stream. 0, or -EPERM (of another uid). */
int outbox_stream_next(Outbox *o, const uint8_t stream[static 16], uint32_t uid, uint64_t *ret);

/* One message handed out. A single allocation: outbox_delivery_free(). */
typedef struct OutboxDelivery {
        uint64_t seq;
        OutboxLane lane;
        unsigned n_cuts;          /* connections that ended while it was first in flight; outbox_note_cut() */
        bool sent_before;         /* it was handed out before, in this process */
        const char *message_id;
        const char *bag;          /* encoded, without $.mid, NUL-terminated */
        size_t bag_size;
        const void *body;
        size_t body_size;
} OutboxDelivery;

OutboxDelivery *outbox_delivery_free(OutboxDelivery *d);
DEFINE_CLEANUP(OutboxDelivery *, outbox_delivery_free);

/* Hands out the next message not handed out yet: urgent before normal before bulk, in order within a lane, durable
 * ones only, expired ones never. *ret is the caller's. 0, or -EAGAIN (none now; on_deliverable follows),
 * -EREMCHG (held: other identity), -ENOMEM. */
int outbox_next(Outbox *o, OutboxDelivery **ret);

/* Tells the end of a message that outbox_next() handed out (CONFIRMED or REJECTED; any order). CONFIRMED is told
 * to on_settled before it is recorded, REJECTED only after its dead letter and the record are durable; until
 * that succeeds the message stays queued, set aside, and it is tried again. One that is larger than the whole
 * dead-letter box has no letter. reason: copied, NULL for CONFIRMED.
 * 0, or -ENOENT (not handed out, or already settled). */
int outbox_settle(Outbox *o, uint64_t seq, OutboxEnd end, const char *reason);

/* The connection is gone: all handed out and not settled will be handed out again, in order. */
void outbox_requeue(Outbox *o);

/* Counts a cut against the message that was first in flight. Returns the new count. */
unsigned outbox_note_cut(Outbox *o, uint64_t seq);

/* Sets a message aside (poison on suspicion): outbox_next() skips it until outbox_unset_aside(), which puts it
 * first again in its lane. The one exception of P3 to order. 0 or -ENOENT. */
int outbox_set_aside(Outbox *o, uint64_t seq);
int outbox_unset_aside(Outbox *o, uint64_t seq);

typedef struct OutboxLaneStats {
        uint64_t n_queued, queued_bytes;
        usec_t oldest_accepted_realtime_usec; /* USEC_INFINITY: empty */
        usec_t oldest_age_usec; /* on CLOCK_BOOTTIME where the record is of this boot; USEC_INFINITY: empty */
} OutboxLaneStats;

typedef struct OutboxStats {
        /* Promise P2, at every instant and over restarts: accepted = confirmed + expired + dropped + rejected +
         * queued. */
        uint64_t accepted, confirmed, expired, dropped, rejected, queued;
        uint64_t ending; /* of those queued: their end is decided and waits for the disk; not handed out again */
        uint64_t in_flight, sent_again;
        OutboxLaneStats lanes[_OUTBOX_LANE_MAX];
        uint64_t used_bytes, max_bytes, keep_free_bytes, fs_free_bytes;
        OutboxFullPolicy full;
        int disk_error;         /* 0 or -errno: why appends are refused */
        bool is_full;
        uint64_t n_lost_records, n_dead_letters;
        usec_t newest_realtime_usec;    /* when the newest message was accepted, by the clock of then; 0: none was */
        uint64_t last_seq, durable_seq; /* newest accepted; everything up to and including it survives a power cut */
        uint64_t n_syncs, n_batches, bytes_written; /* since open, for benchmarks */
        uint64_t busy_since_boottime_usec; /* a disk thread has had work this long; 0: idle. For the watchdog */
} OutboxStats;

void outbox_get_stats(Outbox *o, OutboxStats *ret);

/* Whether every message up to and including seq has ended. */
bool outbox_settled_up_to(Outbox *o, uint64_t seq);

/* Looks one message up by seq (message_id NULL) or by id, off the hot path, one look-up at a time. s is borrowed and
 * NULL when nothing is known (error -ENOENT) or the look-up failed. 0, or -EBUSY (one is running). */
typedef void (*OutboxLookupCallback)(int error, const OutboxSettled *s, void *userdata);
int outbox_lookup(Outbox *o, uint64_t seq, const char *message_id, OutboxLookupCallback callback, void *userdata);

/* Records positions now; on_done as for an append, NULL allowed. For an orderly stop. */
int outbox_checkpoint(Outbox *o, OutboxDurableCallback on_done, void *userdata);
