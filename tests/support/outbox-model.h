/* outbox-model.h: what the outbox has promised so far, kept beside a real one on a simulated disk.
 *
 * Every call to the outbox goes through here. The model remembers each message with its bytes and what was said about
 * it, and ends the process with a sentence, the seed and the command line when the outbox breaks its word:
 *   P1  reported durable and not ended: it is found after any crash
 *   P2  accepted = confirmed + expired + dropped + rejected + queued, at every rest and over restarts; an end is told
 *       once; an end recorded stays; a confirmation told comes back only within the bound of the options
 *   P3  in order within a lane, once in one connection; a stream's position is stored once, its next position never
 *       lies behind what was reported durable, nor ahead of what is stored
 *   P4  each byte found was really appended; a failing disk gives errors and heals
 *   P5  the disk's use stays below max_size
 */
#pragma once

#include "daemon/outbox.h"
#include "tests/support/random.h"
#include "tests/support/sim-disk.h"

typedef struct ModelMessage {
        uint64_t serial; /* our own number; the body starts with it, or the id tells it */
        OutboxLane lane;
        char *message_id; /* NULL: made by the outbox */
        char *bag;
        uint8_t *body;
        size_t body_size;
        usec_t time_to_live_usec;
        struct ModelStream *stream;
        uint64_t position;

        enum {
                MODEL_PENDING, /* appended, nothing reported yet */
                MODEL_DURABLE, /* reported durable, or found on the disk */
                MODEL_UNKNOWN, /* a crash came first: it may be there or not */
                MODEL_FAILED,  /* an error was reported */
                MODEL_GONE,    /* not there at a start: it must never appear */
        } state;
        uint64_t seq; /* 0: not known */
        OutboxEnd end;
        bool in_flight, aside, out_of_order, overtaken, handed_out;
        bool confirming, rejecting; /* outbox_settle() called, on_settled not yet */
        bool could_expire;          /* its time was over at some moment */
        bool end_recorded;          /* a confirmation that may not come back any more */
        bool end_unsure;            /* told as confirmed, may have expired after a crash */
        usec_t told_boottime_usec;
        uint64_t told_run, told_ordinal, durable_run;
        uint64_t found_at_start;    /* number of the start that handed it out */
        unsigned n_cuts;
        /* bounds of the moment of acceptance */
        unsigned boot;
        usec_t appended_boottime_usec, durable_boottime_usec, appended_realtime_usec, durable_realtime_usec;
        uint64_t failed_after; /* MODEL_FAILED: how many batches were durable by then */
} ModelMessage;

typedef struct ModelStream {
        OutboxStream id;
        uint32_t uid;
        OutboxLane lane;
        ModelMessage **messages; /* by position */
        size_t n_messages;
        uint64_t n_durable; /* reported */
        uint64_t n_pending; /* where a sender goes on that does not wait for reports */
} ModelStream;

typedef struct OutboxModel {
        SimDisk *disk;
        OutboxOptions options;
        OutboxClock clock;
        Random random;
        const char *repeat; /* the command line that repeats this run */

        Outbox *outbox; /* NULL: closed */
        ModelMessage **messages; /* by serial */
        size_t n_messages;
        struct SeqSlot {
                uint64_t seq;
                ModelMessage *message;
        } *by_seq; /* open addressing, a power of two */
        size_t n_by_seq, n_by_seq_used;
        ModelStream **streams;
        size_t n_streams;

        usec_t boottime_usec, realtime_usec;
        unsigned boot;
        bool trouble;       /* the disk fails, is full or read-only, or was so since the last recovery */
        usec_t calm_since_usec; /* when the last trouble was over, on CLOCK_BOOTTIME */
        bool deliverable;   /* on_deliverable came */
        bool lookup_running;
        bool verifying;     /* right after a start */
        bool was_open;      /* the files are there */
        bool bounds_checked_by_caller; /* max_size is not checked here */
        uint64_t n_starts, n_runs, n_durable_batches, max_durable_seq;
        uint64_t n_settled[_OUTBOX_END_MAX]; /* told since the start */
        uint64_t n_confirmed;                /* told, ever */
        uint64_t n_durable;                  /* messages reported durable since the start */
        uint64_t n_unseen;                   /* accepted and ended, of those that a crash left open: nobody knows which */
        OutboxStats books;                   /* at the start */
        char damage_notice[256]; /* the last */
        uint64_t n_settled_total[_OUTBOX_END_MAX], n_came_back, n_notices, n_damage_notices; /* for the summary of a run */
} OutboxModel;

/* disk: borrowed. options: io, clock and threaded are set here. */
OutboxModel *outbox_model_new(SimDisk *disk, const OutboxOptions *options, uint64_t seed, const char *repeat);
/* Forgets an open outbox: close or crash it first. */
OutboxModel *outbox_model_free(OutboxModel *m);
DEFINE_CLEANUP(OutboxModel *, outbox_model_free);

/* Says what is wrong and how to repeat it, and ends the process with 1. */
void outbox_model_fail(const OutboxModel *m, const char *format, ...) _printf_(2, 3) __attribute__((noreturn));

/* Opens and names the identity. 0, -SIM_DISK_CRASHED when the disk crashed on the way, or in trouble another error,
 * though never for a disk that is full or read-only once the files are made. outbox_model_verify_start() has to
 * follow. */
int outbox_model_open(OutboxModel *m);

/* Takes everything out, compares it with what was promised, and puts it back. clean: the last session ended by
 * outbox_model_close(). Does nothing when the disk crashes on the way. */
void outbox_model_verify_start(OutboxModel *m, bool clean);

void outbox_model_close(OutboxModel *m);

/* The end of the process, now or where the disk has crashed already.
 *   KILLED     the machine goes on, with all that was written and not synced
 *   CUT        what was not synced is at the disk's mercy, and the clocks go on (a reset file system)
 *   REBOOTED   the same, and a new boot */
typedef enum ModelCrash {
        MODEL_KILLED,
        MODEL_CUT,
        MODEL_REBOOTED,
} ModelCrash;

void outbox_model_crash(OutboxModel *m, ModelCrash how);

/* outbox_process() until nothing is due; then the books are checked. */
void outbox_model_run(OutboxModel *m);
void outbox_model_check_books(OutboxModel *m);

void outbox_model_advance(OutboxModel *m, usec_t usec);
void outbox_model_step_realtime(OutboxModel *m, int64_t usec);

/* A message with content of its own, not yet appended. body_size SIZE_MAX: from the seed. */
ModelMessage *outbox_model_message_new(OutboxModel *m, OutboxLane lane, size_t body_size, usec_t time_to_live_usec);
ModelStream *outbox_model_stream_new(OutboxModel *m, OutboxLane lane);

/* Appends n messages without a stream. Result of outbox_append(), checked. */
int outbox_model_append(OutboxModel *m, ModelMessage *const *messages, size_t n);

/* Appends n messages of the stream from this position on, making those that were never sent. A gap or a foreign uid
 * must be refused. */
int outbox_model_append_stream(OutboxModel *m, ModelStream *s, uint64_t position, size_t n);
void outbox_model_append_foreign(OutboxModel *m, ModelStream *s);
uint64_t outbox_model_stream_next(OutboxModel *m, ModelStream *s);

/* Takes the next message. 0 or -EAGAIN; *ret is borrowed, and may be NULL for no interest. */
int outbox_model_next(OutboxModel *m, ModelMessage **ret);
/* Takes all there are, and checks that nothing was kept back. Returns the number taken. */
size_t outbox_model_next_all(OutboxModel *m);

void outbox_model_settle(OutboxModel *m, ModelMessage *x, OutboxEnd end);
void outbox_model_requeue(OutboxModel *m);
void outbox_model_note_cut(OutboxModel *m, ModelMessage *x);
void outbox_model_set_aside(OutboxModel *m, ModelMessage *x, bool aside);
void outbox_model_lookup(OutboxModel *m, ModelMessage *x, bool by_id);
void outbox_model_checkpoint(OutboxModel *m);

/* The trouble is over (the caller has disarmed the disk): within a few turns appends have to succeed again, unless
 * the outbox says that it is full. Clears m->trouble. */
void outbox_model_recover(OutboxModel *m);

/* The i-th message in flight, NULL when there are fewer. */
ModelMessage *outbox_model_in_flight(OutboxModel *m, size_t i);
size_t outbox_model_n_in_flight(const OutboxModel *m);
size_t outbox_model_n_queued(const OutboxModel *m);
