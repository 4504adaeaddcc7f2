/* outbox-internal.h: what the files of the outbox share, and nobody else includes. All of it belongs to the thread
 * that calls outbox.h, except what a job under way was given: an OutboxBatch while it is `running`, and the
 * descriptor write_fd of the segments it writes. */
#pragma once

#include "lib/buffer.h"
#include "daemon/outbox.h"
#include "daemon/outbox-io.h"
#include "daemon/outbox-position.h"
#include "daemon/outbox-record.h"
#include "daemon/outbox-segment.h"
#include "daemon/outbox-stream.h"
#include "daemon/outbox-worker.h"

#define OUTBOX_POSITION_SEGMENT_SIZE (256U * 1024U)
#define OUTBOX_ENTRIES_MAX 2048U       /* handed out, waiting to go again, or set aside */
#define OUTBOX_TELLS_MAX 4096U         /* confirmed, not told yet: no more is handed out */
#define OUTBOX_NOTICES_MAX 64U         /* not told yet: further ones are not told at all */
#define OUTBOX_ENDS_MAX 256U           /* decided, not recorded yet */
#define OUTBOX_MESSAGE_ID_MAX 128U     /* the hub's limit; docs/hub-limits.md */
#define OUTBOX_BATCH_BYTES_MAX (1024U * 1024U)    /* an open batch this large takes no further call */
#define OUTBOX_CALL_BYTES_MAX (8U * 1024U * 1024U) /* records of one call */
#define OUTBOX_MESSAGE_RECORD_MAX (OUTBOX_RECORD_BYTES_MAX - 2048U) /* leaves room for what a dead letter adds */
#define OUTBOX_EVIDENCE_MAX 4U         /* damaged segments kept aside */

typedef enum OutboxSegmentState {
        OUTBOX_SEGMENT_SPARE,   /* nothing in it is needed */
        OUTBOX_SEGMENT_TAKEN,   /* of the batch under way */
        OUTBOX_SEGMENT_ACTIVE,  /* the next batch of its lane goes here */
        OUTBOX_SEGMENT_CLOSED,  /* full, abandoned after a failed sync, or from before the start */
} OutboxSegmentState;

typedef struct OutboxSegment {
        OutboxSegmentState state;
        bool position;          /* a position-... file */
        bool on_disk;           /* false: made by the batch that takes it */
        bool same_boot;
        bool damaged;           /* kept as evidence when it is done */
        bool failed;            /* a write or sync of it failed */
        bool unlinked;          /* somebody removed its name: it lasts as long as a descriptor */
        bool gone;              /* and no descriptor was left */
        unsigned n_missing;     /* times in a row that it could not be opened because of that */
        unsigned lane;
        unsigned n_pins;        /* reads and drops under way */
        uint32_t number, size;
        uint32_t attempt;       /* see OutboxSegmentHeader */
        int write_fd, read_fd;
        uint64_t salt, first_batch, last_batch, first_seq;
        uint64_t first_lane_seq, last_lane_seq; /* last < first: no message */
        uint64_t end;           /* what lies before it is durable */
} OutboxSegment;

typedef enum OutboxEntryState {
        OUTBOX_ENTRY_READY,     /* was handed out or set aside before, goes again */
        OUTBOX_ENTRY_IN_FLIGHT,
        OUTBOX_ENTRY_ASIDE,
        OUTBOX_ENTRY_REJECTING, /* its dead letter is being written, or waits for a disk that takes it */
} OutboxEntryState;

/* A message that was read and has not ended. */
typedef struct OutboxEntry {
        uint64_t seq, lane_seq;
        OutboxSegment *segment;
        uint64_t offset;
        uint32_t size;
        OutboxEntryState state;
        bool sent_before, has_stream, realtime_plausible, same_boot;
        unsigned n_cuts;
        usec_t accepted_realtime_usec, accepted_boottime_usec, time_to_live_usec;
        uint64_t position;
        uint8_t stream[16];
        char message_id[OUTBOX_MESSAGE_ID_MAX + 1]; /* empty: made from seq */
} OutboxEntry;

/* A block of a segment in memory; one per lane. */
typedef struct OutboxReader {
        OutboxSegment *segment;
        uint64_t salt, start;
        uint8_t *data;
        size_t n, allocated;
        struct OutboxReadJob *job; /* under way */
        int error;              /* of the last read */
        unsigned n_failures;
        usec_t retry_at;        /* CLOCK_BOOTTIME */
} OutboxReader;

typedef struct OutboxLaneState {
        OutboxSegment **segments; /* in the order of their messages; the active one is last */
        size_t n_segments, n_segments_allocated;
        OutboxSegment *active;

        uint64_t next_lane_seq;
        uint64_t tail;          /* of the newest durable message */
        OutboxSettledSet settled;  /* decided, in memory */
        OutboxSettledSet recorded; /* as the newest durable position has it */
        uint64_t n_queued, queued_bytes; /* as told: what is decided but not recorded counts */
        uint64_t n_deciding, deciding_bytes;

        OutboxEntry *entries;   /* a ring, sorted by lane_seq */
        size_t entries_head, n_entries, entries_allocated;
        size_t n_ready, n_aside;

        OutboxSegment *read_segment; /* where the next message not read yet is; NULL: at the first segment */
        uint64_t read_offset;
        uint64_t read_next;     /* its lane_seq */
        bool peeked;            /* peek holds it */
        OutboxEntry peek;
        OutboxReader reader;

        uint64_t room;          /* admission: bytes left in the segment that the open batch will reach */
} OutboxLaneState;

typedef struct OutboxCall {
        OutboxDurableCallback callback;
        void *userdata;
        uint64_t first, last, n_duplicates;
        bool has_stream;
        uint8_t stream[16];
        uint64_t stream_next;
} OutboxCall;

typedef struct OutboxWrite {
        OutboxSegment *segment;
        uint64_t offset;
        bool fresh;             /* a new use: head goes first */
        uint8_t *head;          /* segment header and full position */
        size_t head_size;
        uint8_t *data;          /* records, not finished */
        size_t size;
        uint64_t last_lane_seq; /* 0: no message */
        bool unlinked;          /* found by the job: see OutboxSegment */
} OutboxWrite;

typedef struct OutboxBatch {
        OutboxJob job;
        const OutboxIo *io;
        int dir_fd;
        uint64_t number;
        unsigned attempt;

        Buffer data[OUTBOX_N_MESSAGE_LANES + 1]; /* per lane; the last for positions */
        uint64_t n_messages[OUTBOX_N_MESSAGE_LANES], bytes[OUTBOX_N_MESSAGE_LANES];
        uint64_t last_lane_seq[OUTBOX_N_MESSAGE_LANES];
        uint64_t first_seq, last_seq;
        usec_t newest_realtime_usec;
        OutboxCall *calls;
        size_t n_calls, calls_allocated;
        bool sync_dir;          /* the names first */
        bool seal;              /* holds a call of several messages: see docs/outbox-format.md, "Torn or damaged" */

        bool has_position, position_full;
        OutboxSettledSet recorded[OUTBOX_N_MESSAGE_LANES]; /* what the position says */
        size_t n_ends;          /* how many of the waiting ones it covers */
        uint64_t n_unrecorded;

        OutboxWrite *writes;
        size_t n_writes, writes_allocated;
        int result;
        uint64_t bytes_written, n_syncs;
} OutboxBatch;

/* An end that was decided and waits for its record. */
typedef struct OutboxPendingEnd {
        OutboxEntry entry;
        OutboxLane lane;
        OutboxEnd end;
        char *reason;
} OutboxPendingEnd;

/* A segment that gives way (drop-oldest): recorded first, then told message by message, then released. */
typedef struct OutboxDrop {
        OutboxSegment *segment;
        OutboxLane lane;
        OutboxSettledSet before; /* what had ended already */
        uint64_t n, bytes;
        uint64_t batch;         /* that records it; 0: none yet */
        bool recorded, telling;
        uint64_t offset;
        unsigned n_failures;    /* of reads, to tell it */
        usec_t retry_at;        /* CLOCK_BOOTTIME */
} OutboxDrop;

typedef struct OutboxNotice {
        struct OutboxNotice *next;
        int priority;
        const char *message_id;
        char text[];
} OutboxNotice;

typedef struct OutboxReceipts OutboxReceipts;
typedef struct OutboxDeadLetters OutboxDeadLetters;
typedef struct OutboxLookup OutboxLookup;

struct Outbox {
        OutboxOptions options;
        OutboxEvents events;
        OutboxClock clock;
        const OutboxIo *io;
        int dir_fd, event_fd;
        OutboxWorker *commit, *background;

        uint64_t max_size, keep_free;
        uint32_t segment_size;
        unsigned n_segments_max, n_segments;   /* message segments that have or get a file */
        uint64_t fs_size, fs_free;
        usec_t fs_checked_at;
        uint64_t segment_bytes;                /* of these; some may have another size, from before it was changed */
        struct {
                uint32_t number, size;
        } evidence[OUTBOX_EVIDENCE_MAX];       /* damaged segments kept aside */
        unsigned n_evidence;
        struct OutboxFileJob *unremoved;       /* files whose removal failed, to be tried again */
        uint64_t unremoved_bytes;              /* of those, and of those that are being tried again */

        uint64_t outbox_id, next_seq, next_batch, durable_seq;
        uint32_t next_number;
        usec_t newest_realtime_usec;
        OutboxTotals totals;
        uint64_t n_dead_letters, dead_letter_bytes, n_sent_again, n_in_flight;
        uint64_t deciding[_OUTBOX_END_MAX];    /* decided, not recorded: still told as queued */

        OutboxLaneState lanes[OUTBOX_N_MESSAGE_LANES];
        OutboxSegment **spares;
        size_t n_spares, spares_allocated;
        OutboxSegment *positions[4];           /* position segments: two, more after failures */
        size_t n_positions;
        OutboxSegment *active_position;        /* NULL: the next position goes to another segment */
        /* These hold the newest durable position and the newest full one, where those are in a position segment. */
        OutboxSegment *newest_position, *newest_full;
        uint64_t position_offset;
        OutboxStreamTable *streams;

        OutboxBatch *open, *running, *idle_batch;
        OutboxCall *ready_calls;               /* durable already: told by the next outbox_process() */
        size_t n_ready_calls, ready_calls_allocated;
        OutboxCall *checkpoint_calls;
        size_t n_checkpoint_calls, checkpoint_calls_allocated;
        unsigned n_new_planned;                /* segments that the open batch will take */
        unsigned n_plan_new;                   /* files that the batch being planned will make */

        OutboxPendingEnd *ends;
        size_t n_ends, ends_allocated;
        OutboxPendingEnd *tells;               /* confirmed, told by the next outbox_process() */
        size_t n_tells, tells_allocated;
        OutboxNotice *notices, **notices_end;  /* likewise */
        unsigned n_notices;
        OutboxDrop *drops;
        size_t n_drops, drops_allocated;
        struct {
                uint64_t n;
                OutboxLane lane;
                bool named;
                uint32_t number;
        } lost;                                /* to damage, not told yet: of one segment */

        bool dir_unsynced;                     /* the start could not sync the names that it found */
        bool need_checkpoint;                  /* before anything else: see docs/outbox-format.md, "Start" */
        bool want_full;                        /* the next position carries identity and streams */
        bool unsealed;                         /* messages came after the newest position */
        usec_t dirty_since;                    /* USEC_INFINITY: nothing to record */
        uint64_t n_unrecorded;                 /* confirmed and not recorded */
        uint64_t full_recorded_batch;          /* of the newest durable full position */

        int disk_error;
        usec_t probe_at, probe_delay;
        bool creating;                         /* a spare is being made */
        usec_t create_blocked_until;           /* the file system had no room for a segment, ... */
        uint64_t create_blocked_free;          /* ... with so much of it free */
        bool is_full, full_noticed, error_noticed;

        char *hub, *device;                    /* what the outbox was filled for */
        char *wanted_hub, *wanted_device;      /* what outbox_set_identity() asked for */
        bool held;
        bool starved;                          /* outbox_next() returned -EAGAIN */
        bool identity_known;                   /* outbox_set_identity() was called */
        bool in_process, wake_again, closing;

        OutboxReceipts *receipts;
        unsigned n_receipts_jobs;
        OutboxDeadLetters *dead_letters;
        struct OutboxReject *rejects;          /* whose dead letter could not be written yet */
        uint64_t n_rejecting;                  /* entries in that state */
        OutboxLookup *lookup;

        uint64_t n_syncs, n_batches, bytes_written;
};

/* outbox.c */
usec_t outbox_now_boottime(Outbox *o);
usec_t outbox_now_realtime(Outbox *o);
bool outbox_realtime_plausible(Outbox *o, usec_t realtime_usec);
void outbox_notice(Outbox *o, int priority, const char *message_id, const char *format, ...) _printf_(4, 5);
void outbox_wake(Outbox *o);   /* outbox_process() has something to do */
void outbox_dirty(Outbox *o);  /* something is to be recorded within the interval */
void outbox_check_fs(Outbox *o, bool now);
void outbox_write_receipts(Outbox *o); /* what gathered, in the background */
uint64_t outbox_used_bytes(Outbox *o);
bool outbox_gate_open(const Outbox *o);
void outbox_identity_check(Outbox *o); /* nothing waits any more: a held identity may change */
int outbox_calls_add(OutboxCall **calls, size_t *n, size_t *allocated, const OutboxCall *c);

/* outbox-lane.c: segments of a lane, entries, and the way through the lane */
OutboxSegment *outbox_segment_new(Outbox *o, bool position, uint32_t number, uint32_t size);
void outbox_segment_set_size(Outbox *o, OutboxSegment *s, uint32_t size);
OutboxSegment *outbox_segment_free(Outbox *o, OutboxSegment *s); /* memory and descriptors */
void outbox_segment_close_fds(Outbox *o, OutboxSegment *s);
int outbox_lane_reserve_segments(OutboxLaneState *l, size_t n);
void outbox_lane_add_segment(OutboxLaneState *l, OutboxSegment *s); /* last; reserved */
OutboxSegment *outbox_lane_next_segment(const OutboxLaneState *l, const OutboxSegment *s);
void outbox_lane_remove_segment(OutboxLaneState *l, OutboxSegment *s);
void outbox_lane_done(Outbox *o, OutboxLaneState *l);
/* The lane's next message goes to another segment. What was synced is safe. */
void outbox_lane_close_active(Outbox *o, OutboxLaneState *l);
/* Its file was removed behind our back: what was not handed out of it is lost. */
void outbox_lane_segment_gone(Outbox *o, OutboxLane lane, OutboxSegment *s);
OutboxEntry *outbox_lane_entry(OutboxLaneState *l, size_t i);
OutboxEntry *outbox_lane_find(OutboxLaneState *l, uint64_t seq, size_t *ret_i);
int outbox_lane_push_peek(OutboxLaneState *l); /* the peeked message becomes the last entry */
void outbox_lane_remove_entry(OutboxLaneState *l, size_t i);
OutboxEntry *outbox_find_entry(Outbox *o, uint64_t seq, OutboxLane *ret_lane, size_t *ret_i);
/* 1: l->peek is the next message not read yet; 0: none; -EAGAIN: being read; or -errno */
int outbox_lane_peek(Outbox *o, OutboxLane lane);
void outbox_entry_from_record(const OutboxMessageRecord *m, OutboxSegment *s, uint64_t offset, uint32_t size, OutboxEntry *ret);
usec_t outbox_entry_expiry(Outbox *o, const OutboxEntry *e); /* CLOCK_BOOTTIME; USEC_INFINITY: never */

/* outbox-reader.c */
/* The bytes of a segment from offset on, at least want of them unless it ends at limit before.
 * 0; -EAGAIN: being read, outbox_process() goes on, or (r->error) to be tried again later; -ENOENT: the file is gone,
 * see outbox_lane_segment_gone(); or -errno. */
int outbox_reader_get(Outbox *o, OutboxReader *r, OutboxSegment *s, uint64_t offset, uint64_t limit, size_t want,
                      const uint8_t **ret, size_t *ret_n);
void outbox_reader_forget(OutboxReader *r); /* gives the block back */
void outbox_reader_done(OutboxReader *r);

/* outbox-commit.c */
int outbox_batch_open(Outbox *o); /* makes sure that there is an open batch */
OutboxBatch *outbox_batch_free(OutboxBatch *b);
void outbox_commit_submit(Outbox *o);
void outbox_commit_complete(Outbox *o, OutboxBatch *b);
void outbox_commit_cancel_open(Outbox *o, int error);
void outbox_release_segments(Outbox *o);
int outbox_commit_position_now(Outbox *o); /* waits; for the end */
usec_t outbox_commit_deadline(Outbox *o);
void outbox_batch_run(OutboxJob *j);

/* outbox-admit.c */
bool outbox_admit(Outbox *o, OutboxLane lane, size_t size); /* whether a record finds room; counts it */
void outbox_admission_reset(Outbox *o);
bool outbox_has_too_many_gaps(const Outbox *o);
bool outbox_has_room(Outbox *o); /* for a further segment, without anything giving way */
unsigned outbox_segments_creatable(Outbox *o);
bool outbox_spare_may_be_made(Outbox *o); /* in the background */
/* Of which every message has ended: they are free as soon as a position says so. */
unsigned outbox_segments_releasable(Outbox *o);
bool outbox_segment_is_done(const OutboxSegment *s, const OutboxSettledSet *set);
void outbox_block_create(Outbox *o);
void outbox_position_borrow(Outbox *o, bool full, OutboxPosition *ret); /* as things are now; nothing in it to be freed */

/* outbox-plan.c: on failure the batch has no writes and all segments are as before */
int outbox_plan_messages(Outbox *o, OutboxBatch *b); /* -ENOSPC: no room after all */
int outbox_plan_position(Outbox *o, OutboxBatch *b, bool full);
bool outbox_position_due(Outbox *o, usec_t now);
void outbox_spare_add(Outbox *o, OutboxSegment *s);

/* outbox-evidence.c */
void outbox_evidence_name(uint32_t number, char ret[static OUTBOX_SEGMENT_NAME_MAX]);
int outbox_evidence_name_parse(const char *name, uint32_t *ret_number);
void outbox_evidence_add(Outbox *o, uint32_t number, uint32_t size);
uint64_t outbox_evidence_bytes(const Outbox *o);
void outbox_remove_again(Outbox *o); /* what could not be removed */
void outbox_unremoved_free(Outbox *o);
bool outbox_evidence_sacrifice(Outbox *o); /* the newest; false: there is none */
void outbox_discard_segment(Outbox *o, OutboxSegment *s, bool as_evidence); /* frees it, and removes or renames its file */

/* outbox-end.c */
void outbox_end_message(Outbox *o, OutboxLane lane, const OutboxEntry *e, OutboxEnd end, const char *reason);
void outbox_ends_recorded(Outbox *o, uint64_t batch, size_t n_ends);
void outbox_tell_confirmed(Outbox *o);
bool outbox_ends_reserve(Outbox *o); /* room for one more end that waits for its record; false: no memory */
bool outbox_expire(Outbox *o); /* heads; true: there is more to do */
usec_t outbox_expire_deadline(Outbox *o);
bool outbox_drop_oldest(Outbox *o); /* one segment; false: none may go */
bool outbox_drops_tell(Outbox *o);
usec_t outbox_drops_deadline(Outbox *o);
void outbox_tell(Outbox *o, OutboxLane lane, const OutboxEntry *e, OutboxEnd end, const char *reason);
void outbox_lost(Outbox *o, OutboxLane lane, OutboxSegment *s, uint64_t first, uint64_t last);
void outbox_lost_tell(Outbox *o); /* one line for all that a segment lost at once */

/* outbox-reject.c: copies the message to the dead letters, then ends it; an entry in state REJECTING */
void outbox_reject(Outbox *o, OutboxLane lane, OutboxEntry *e, const char *reason);
void outbox_rejects_retry(Outbox *o, bool now); /* those that failed; now: the disk took something */
usec_t outbox_rejects_deadline(Outbox *o);
void outbox_rejects_free(Outbox *o);

/* outbox-recovery.c */
int outbox_recover(Outbox *o);

/* Every job of the background worker starts with this. */
typedef struct OutboxBackgroundJob {
        OutboxJob job;
        void (*done)(Outbox *o, struct OutboxBackgroundJob *j); /* on the caller's thread; frees it */
} OutboxBackgroundJob;
