#include "emulator/hub-events-private.h"

#include <assert.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/fd-util.h"
#include "lib/string-util.h"

/* One stream of lines for all partitions, in the order of arrival, cut into segments: events.jsonl,
 * which grows, and closed ones that are named by the offset of their first line. An event's offset
 * is its byte in that stream, so a segment and a position in it make the offset, and a position of
 * four bytes per event is all that the index keeps; sequence numbers have no holes within a
 * segment. The index is made anew at the start: reading a gigabyte of lines once is quicker than
 * what a second file would cost in care. */

#define SEGMENTS_PER_LIMIT 8U /* so much of retain_bytes is deleted at once */
#define SEGMENT_BYTES_MIN (INT64_C(64) * 1024)
#define SEGMENT_BYTES_MAX (UINT64_C(1024) * 1024 * 1024) /* positions have 32 bits */
#define LINE_BYTES_KEPT (1024U * 1024U) /* a line buffer that grew past this is given back */

HubEvents *hub_events_free(HubEvents *e) {
        if (!e)
                return NULL;
        for (size_t i = 0; i < e->n_segments; i++)
                event_segment_unref(e->segments[i]);
        free(e->segments);
        buffer_done(&e->line);
        pthread_mutex_destroy(&e->mutex);
        e->dir_fd = safe_close(e->dir_fd);
        free(e);
        return NULL;
}

usec_t hub_events_created_usec(const HubEvents *e) {
        return e->begin.created_usec;
}

/* FNV-1a with 32 bits, folded. */
unsigned hub_events_partition(const char *device_id) {
        uint32_t hash = UINT32_C(2166136261);

        for (; *device_id; device_id++)
                hash = (hash ^ (unsigned char) *device_id) * UINT32_C(16777619);
        return (hash ^ hash >> 16) % HUB_EVENTS_PARTITIONS;
}

static EventSegment *active_segment(const HubEvents *e) {
        return e->segments[e->n_segments - 1];
}

/* Takes the reference, on success only. */
static int add_segment(HubEvents *e, EventSegment *s) {
        EventSegment **more;

        more = reallocarray(e->segments, e->n_segments + 1, sizeof(*more));
        if (!more)
                return -ENOMEM;
        e->segments = more;
        e->segments[e->n_segments++] = s;
        e->total_bytes += s->size;
        return 0;
}

static int open_segment(HubEvents *e, const char *name, int64_t base, char **reterr_what) {
        _cleanup_(event_segment_unrefp) EventSegment *s = NULL;
        int r;

        r = event_segment_open(e->dir_fd, name, base, e->totals, &s, reterr_what);
        if (r < 0)
                return r;
        r = add_segment(e, s);
        if (r < 0)
                return r;
        (void) TAKE_PTR(s);
        return 0;
}

/* Behind the last closed segment. */
static int64_t end_of_stream(const HubEvents *e) {
        const EventSegment *last = e->n_segments > 0 ? active_segment(e) : NULL;

        return last ? last->base + last->size : e->begin.offset;
}

static int open_segments(HubEvents *e, char **reterr_what) {
        _cleanup_free_ int64_t *bases = NULL;
        char name[EVENT_SEGMENT_NAME_MAX];
        int64_t end;
        size_t n;
        int r;

        r = event_segment_list(e->dir_fd, &bases, &n);
        for (size_t i = 0; r >= 0 && i < n; i++)
                if (bases[i] < e->begin.offset)
                        /* A crash came between the two steps of its deletion. */
                        r = unlinkat(e->dir_fd, event_segment_name(bases[i], name), 0) < 0 ?
                                            -errno :
                                            0;
                else
                        r = open_segment(e, event_segment_name(bases[i], name), bases[i],
                                         reterr_what);
        if (r < 0)
                return r;
        end = end_of_stream(e);
        r = open_segment(e, HUB_EVENTS_FILE, -1, reterr_what);
        if (r < 0)
                return r;
        if (active_segment(e)->base < 0)
                active_segment(e)->base = end;
        if (active_segment(e)->base < end) {
                (void) format_string(reterr_what, "%s, line 1: its offset is in an older file",
                                     HUB_EVENTS_FILE); /* without memory: unnamed */
                return -EBADMSG;
        }
        return 0;
}

int hub_events_open(int dir_fd, const HubEventsLimits *limits, HubEvents **ret,
                    char **reterr_what) {
        _cleanup_(hub_events_freep) HubEvents *e = NULL;
        int64_t segment_bytes;
        int r;

        assert(ret);
        assert(reterr_what);

        *reterr_what = NULL;
        e = malloc(sizeof(*e));
        if (!e)
                return -ENOMEM;
        segment_bytes = (int64_t) MIN(limits->retain_bytes / SEGMENTS_PER_LIMIT, SEGMENT_BYTES_MAX);
        *e = (HubEvents){ .dir_fd = -EBADF,
                          .limits = *limits,
                          .wake_fd = -EBADF,
                          .segment_bytes = MAX(segment_bytes, SEGMENT_BYTES_MIN) };
        (void) pthread_mutex_init(&e->mutex, NULL); /* cannot fail on Linux */
        e->dir_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (e->dir_fd < 0)
                return -errno;

        r = event_begin_read(e->dir_fd, &e->begin);
        if (r == -EBADMSG)
                (void) format_string(reterr_what, "%s", HUB_EVENTS_BEGIN_FILE); /* as above */
        if (r < 0)
                return r;
        memcpy(e->totals, e->begin.totals, sizeof(e->totals));
        r = open_segments(e, reterr_what);
        if (r < 0)
                return r;
        hub_events_tick(e, now_usec(CLOCK_REALTIME));
        *ret = TAKE_PTR(e);
        return 0;
}

/* events.jsonl gets its lasting name, and a new one begins. On an error all is as before. */
static int close_active(HubEvents *e) {
        _cleanup_(event_segment_unrefp) EventSegment *next = NULL;
        EventSegment *s = active_segment(e);
        char name[EVENT_SEGMENT_NAME_MAX];
        char *what = NULL;
        int r;

        event_segment_name(s->base, name);
        if (renameat(e->dir_fd, HUB_EVENTS_FILE, e->dir_fd, name) < 0)
                return -errno;
        r = event_segment_open(e->dir_fd, HUB_EVENTS_FILE, s->base + s->size, e->totals, &next,
                               &what);
        free(what); /* an empty file has no line that could be wrong */
        if (r >= 0) {
                hub_events_lock(e);
                r = add_segment(e, next);
                hub_events_unlock(e);
        }
        if (r < 0) {
                (void) renameat(e->dir_fd, name, e->dir_fd, HUB_EVENTS_FILE); /* or at the start */
                return r;
        }
        (void) TAKE_PTR(next);
        return 0;
}

/* What the stream has had up to the end of its oldest segment. */
static void move_begin(HubEvents *e, const EventSegment *oldest) {
        e->begin.offset = oldest->base + oldest->size;
        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++) {
                const EventRun *run = oldest->runs + p;

                if (run->n > 0)
                        e->begin.totals[p] = (EventTotals){
                                .next_sequence = run->first_sequence + (int64_t) run->n,
                                .last_offset = oldest->base + run->positions[run->n - 1],
                                .last_usec = run->last_usec,
                        };
        }
}

static void delete_oldest(HubEvents *e) {
        EventSegment *oldest = e->segments[0];
        char name[EVENT_SEGMENT_NAME_MAX];
        int r;

        move_begin(e, oldest);
        r = event_begin_write(e->dir_fd, &e->begin);
        (void) unlinkat(e->dir_fd, event_segment_name(oldest->base, name), 0); /* or at the start */
        if (r < 0)
                /* On a full disk there is room only now. Without that file a partition that has no
                 * event left would count anew after a restart; the next deletion tries again. */
                (void) event_begin_write(e->dir_fd, &e->begin);

        e->total_bytes -= oldest->size;
        hub_events_lock(e);
        oldest->deleted = true;
        e->n_segments--;
        memmove(e->segments, e->segments + 1, e->n_segments * sizeof(*e->segments));
        event_segment_unref(oldest);
        hub_events_unlock(e);
}

static bool is_older(usec_t event_usec, usec_t age_usec, usec_t now_usec) {
        return usec_add(event_usec, age_usec) < now_usec;
}

/* What has just been closed stays, or one large event could be gone before it is read. */
static bool is_too_much(const HubEvents *e) {
        return (uint64_t) e->total_bytes > e->limits.retain_bytes && e->n_segments > 2;
}

void hub_events_tick(HubEvents *e, usec_t now_usec) {
        const EventSegment *active = active_segment(e);
        usec_t retain = e->limits.retain_usec;

        /* Closed at half the time, so that nothing stays for twice the time; closed earlier, the
         * file that people look into would be empty all the time. */
        if (active->size > 0 && retain != USEC_INFINITY &&
            is_older(active->first_usec, retain / 2, now_usec))
                (void) close_active(e); /* the next turn tries again */
        while (e->n_segments > 1 &&
               (is_too_much(e) || is_older(e->segments[0]->last_usec, retain, now_usec)))
                delete_oldest(e);
}

/* With the store locked, so that the descriptor is still there. */
static void wake(HubEvents *e, unsigned partition) {
        if (!(e->waiting & 1U << partition))
                return;
        e->waiting &= ~(1U << partition);
        if (e->wake_fd >= 0)
                (void) write(e->wake_fd, &(uint64_t){ 1 }, sizeof(uint64_t)); /* full is awake */
}

static int append_line(HubEvents *e, const HubEventPlace *place) {
        EventSegment *s = active_segment(e);
        int r;

        if (s->size > UINT32_MAX - (int64_t) e->line.size)
                return -EFBIG; /* it could not be closed for long, as on a full disk */
        hub_events_lock(e);
        r = event_segment_reserve(s, place->partition);
        hub_events_unlock(e);
        if (r >= 0)
                r = line_log_append(&s->log, e->line.data, e->line.size);
        if (r < 0)
                return r;
        e->total_bytes += (int64_t) e->line.size;
        hub_events_lock(e);
        event_segment_add(s, place, e->line.size, e->totals);
        wake(e, place->partition);
        hub_events_unlock(e);
        return 0;
}

int hub_events_append(HubEvents *e, const HubEvent *event) {
        unsigned p = hub_events_partition(event->device_id);
        const EventSegment *s = active_segment(e);
        HubEventPlace place = { .partition = p,
                                .sequence = e->totals[p].next_sequence,
                                .offset = s->base + s->size,
                                .enqueued_usec =
                                                MAX(event->enqueued_usec, e->totals[p].last_usec) };
        int r;

        place.enqueued_usec -= place.enqueued_usec % USEC_PER_MSEC; /* as the line has it */
        e->line.size = 0;
        r = hub_event_format(event, &place, &e->line);
        if (r >= 0)
                r = append_line(e, &place);
        if (e->line.allocated > LINE_BYTES_KEPT)
                buffer_done(&e->line);
        if (r < 0)
                return r;
        if (s->size >= e->segment_bytes && close_active(e) >= 0) /* else at the next event */
                hub_events_tick(e, event->enqueued_usec);
        return 0;
}

void hub_events_info(HubEvents *e, unsigned partition, HubEventsInfo *ret) {
        const EventTotals *t = e->totals + partition;
        HubEventsInfo info;

        assert(partition < HUB_EVENTS_PARTITIONS);
        hub_events_lock(e);
        info = (HubEventsInfo){ .begin_sequence = t->next_sequence,
                                .last_sequence = t->next_sequence - 1,
                                .last_offset = t->last_offset,
                                .last_enqueued_usec = t->last_usec,
                                .empty = true };
        for (size_t i = 0; i < e->n_segments && info.empty; i++) {
                const EventRun *run = e->segments[i]->runs + partition;

                if (run->n > 0) {
                        info.begin_sequence = run->first_sequence;
                        info.empty = false;
                }
        }
        hub_events_unlock(e);
        *ret = info;
}

void hub_events_set_wake_fd(HubEvents *e, int event_fd) {
        hub_events_lock(e);
        e->wake_fd = event_fd;
        hub_events_unlock(e);
}
