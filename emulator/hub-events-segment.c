#include "emulator/hub-events-private.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>

#include "lib/fd-util.h"
#include "lib/json-util.h"
#include "lib/string-util.h"

#define SCAN_BYTES (1024U * 1024U) /* at a time; a line that is longer makes it more */
#define RUN_MIN 256U
#define BEGIN_BYTES_MAX 4096U

EventSegment *event_segment_unref(EventSegment *s) {
        if (!s || --s->n_refs > 0)
                return NULL;
        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++)
                free(s->runs[p].positions);
        line_log_done(&s->log);
        free(s);
        return NULL;
}

int event_segment_reserve(EventSegment *s, unsigned partition) {
        EventRun *run = s->runs + partition;
        uint32_t *more;
        size_t n;

        if (run->n < run->n_allocated)
                return 0;
        n = MAX(run->n_allocated * 2, RUN_MIN);
        more = reallocarray(run->positions, n, sizeof(*more));
        if (!more)
                return -ENOMEM;
        run->positions = more;
        run->n_allocated = n;
        return 0;
}

void event_segment_add(EventSegment *s, const HubEventPlace *place, size_t line_bytes,
                       EventTotals *totals) {
        EventRun *run = s->runs + place->partition;
        EventTotals *t = totals + place->partition;

        assert(run->n < run->n_allocated);
        if (run->n == 0)
                run->first_sequence = place->sequence;
        run->positions[run->n++] = (uint32_t) (place->offset - s->base);
        if (s->size == 0)
                s->first_usec = place->enqueued_usec;
        s->size += (int64_t) line_bytes;
        s->last_usec = MAX(s->last_usec, place->enqueued_usec);
        *t = (EventTotals){ .next_sequence = place->sequence + 1,
                            .last_offset = place->offset,
                            .last_usec = MAX(t->last_usec, place->enqueued_usec) };
        run->last_usec = t->last_usec;
}

/* What is wrong with a line that is to follow; NULL: nothing. */
static const char *judge_place(const EventSegment *s, const HubEventPlace *place,
                               const EventTotals *totals) {
        const EventRun *run;

        if (place->partition >= HUB_EVENTS_PARTITIONS)
                return "there is no such partition";
        run = s->runs + place->partition;
        if (place->offset != s->base + s->size)
                return "its offset is not its place in the stream";
        if (s->size > UINT32_MAX)
                return "the file is too long";
        /* Whole files may be missing in between. */
        if (run->n > 0 ? place->sequence != run->first_sequence + (int64_t) run->n :
                         place->sequence < totals[place->partition].next_sequence)
                return "its sequence number does not follow the one before";
        return NULL;
}

typedef struct Scan {
        EventSegment *segment;
        EventTotals *totals;
        HubEventScan event;
        uint64_t n_lines;
        const char *wrong; /* with the line behind n_lines */
} Scan;

static int scan_line(Scan *s, char *line, size_t n) {
        const HubEventPlace *place = &s->event.event.place;
        int r;

        if (hub_event_scan_place(&s->event, line, n) < 0)
                s->wrong = "it is not a line that was written here";
        else {
                if (s->segment->base < 0)
                        s->segment->base = place->offset;
                s->wrong = judge_place(s->segment, place, s->totals);
        }
        if (s->wrong)
                return -EBADMSG;
        r = event_segment_reserve(s->segment, place->partition);
        if (r < 0)
                return r;
        event_segment_add(s->segment, place, n + 1, s->totals);
        s->n_lines++;
        return 0;
}

/* Takes the whole lines out of the buffer. */
static int scan_lines(Scan *s, Buffer *b) {
        size_t from = 0;
        int r = 0;

        while (r >= 0 && from < b->size) {
                char *line = (char *) b->data + from, *end = memchr(line, '\n', b->size - from);

                if (!end)
                        break;
                r = scan_line(s, line, (size_t) (end - line));
                from += (size_t) (end - line) + 1;
        }
        memmove(b->data, b->data + from, b->size - from);
        b->size -= from;
        return r;
}

static int scan_file(Scan *s) {
        _cleanup_(buffer_done) Buffer b = { 0 };
        off_t at = 0;
        ssize_t n;
        int r;

        do {
                r = buffer_reserve(&b, SCAN_BYTES);
                if (r < 0)
                        return r;
                n = pread_full(s->segment->log.fd, b.data + b.size, SCAN_BYTES, at);
                if (n < 0)
                        return (int) n;
                at += n;
                b.size += (size_t) n;
                r = scan_lines(s, &b);
        } while (r >= 0 && n == SCAN_BYTES);
        return r;
}

int event_segment_open(int dir_fd, const char *name, int64_t base, EventTotals *totals,
                       EventSegment **ret, char **reterr_what) {
        _cleanup_(event_segment_unrefp) EventSegment *s = NULL;
        Scan scan;
        int r;

        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (EventSegment){ .n_refs = 1, .log = LINE_LOG_INIT, .base = base };
        r = line_log_open(dir_fd, name, 0640, &s->log, NULL);
        if (r < 0)
                return r;
        scan = (Scan){ .segment = s, .totals = totals };
        r = scan_file(&scan);
        hub_event_scan_done(&scan.event);
        if (r == -EBADMSG)
                (void) format_string(reterr_what, "%s, line %" PRIu64 ": %s", name,
                                     scan.n_lines + 1, scan.wrong); /* without memory: unnamed */
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

char *event_segment_name(int64_t base, char buf[static EVENT_SEGMENT_NAME_MAX]) {
        (void) snprintf(buf, EVENT_SEGMENT_NAME_MAX, "events-%016" PRId64 ".jsonl", base);
        return buf;
}

/* -1: not such a name. */
static int64_t base_of_name(const char *name) {
        const char *digits = startswith(name, "events-");
        char again[EVENT_SEGMENT_NAME_MAX];
        int64_t base = 0;

        for (; digits && *digits >= '0' && *digits <= '9'; digits++) {
                if (base > INT64_MAX / 10 - 1)
                        return -1;
                base = base * 10 + (*digits - '0');
        }
        return digits && streq(event_segment_name(base, again), name) ? base : -1;
}

static int compare_bases(const void *a, const void *b) {
        int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;

        return (x > y) - (x < y);
}

int event_segment_list(int dir_fd, int64_t **ret, size_t *ret_n) {
        _cleanup_free_ int64_t *bases = NULL;
        const struct dirent *entry;
        size_t n = 0;
        DIR *dir;
        int fd, r = 0;

        fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        dir = fdopendir(fd);
        if (!dir) {
                (void) safe_close(fd);
                return -ENOMEM;
        }
        while (r >= 0 && (errno = 0, entry = readdir(dir))) {
                int64_t base = base_of_name(entry->d_name), *more;

                if (base < 0)
                        continue;
                more = reallocarray(bases, n + 1, sizeof(*more));
                if (more) {
                        bases = more;
                        bases[n++] = base;
                } else
                        r = -ENOMEM;
        }
        if (r >= 0)
                r = -errno;
        (void) closedir(dir); /* only read */
        if (r < 0)
                return r;
        if (n > 0)
                qsort(bases, n, sizeof(*bases), compare_bases);
        *ret = TAKE_PTR(bases);
        *ret_n = n;
        return 0;
}

static int read_time(struct json_object *o, const char *name, usec_t *ret) {
        const char *text;
        size_t n;

        return json_get_string(o, name, &text, &n) > 0 ? parse_timestamp(text, n, ret) : -EBADMSG;
}

static int read_number(struct json_object *o, const char *name, int64_t *ret) {
        uint64_t v;

        if (json_get_u64(o, name, &v) <= 0 || v > INT64_MAX)
                return -EBADMSG;
        *ret = (int64_t) v;
        return 0;
}

static int read_totals(struct json_object *o, EventTotals *ret) {
        *ret = (EventTotals){ .last_offset = -1 };
        if (read_number(o, "nextSequenceNumber", &ret->next_sequence) < 0)
                return -EBADMSG;
        if (ret->next_sequence == 0)
                return 0;
        if (read_number(o, "lastOffset", &ret->last_offset) < 0 ||
            read_time(o, "lastEnqueuedTime", &ret->last_usec) < 0)
                return -EBADMSG;
        return 0;
}

int event_begin_read(int dir_fd, EventBegin *ret) {
        _cleanup_json_ struct json_object *o = NULL;
        _cleanup_free_ char *text = NULL;
        struct json_object *totals;
        EventBegin b;
        int r;

        r = read_file_at(dir_fd, HUB_EVENTS_BEGIN_FILE, BEGIN_BYTES_MAX, &text, NULL);
        if (r == -ENOENT) {
                *ret = (EventBegin){ .created_usec = now_usec(CLOCK_REALTIME) };
                for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++)
                        ret->totals[p].last_offset = -1;
                return event_begin_write(dir_fd, ret);
        }
        if (r == -EFBIG)
                return -EBADMSG;
        if (r < 0)
                return r;
        o = json_tokener_parse(text);
        if (!o || read_time(o, "createdTime", &b.created_usec) < 0 ||
            read_number(o, "offset", &b.offset) < 0 ||
            json_get_array(o, "partitions", &totals) <= 0 ||
            json_object_array_length(totals) != HUB_EVENTS_PARTITIONS)
                return -EBADMSG;
        for (unsigned p = 0; p < HUB_EVENTS_PARTITIONS; p++)
                if (read_totals(json_object_array_get_idx(totals, p), b.totals + p) < 0)
                        return -EBADMSG;
        *ret = b;
        return 0;
}

int event_begin_write(int dir_fd, const EventBegin *begin) {
        _cleanup_(buffer_done) Buffer b = { 0 };
        char time[FORMAT_TIMESTAMP_MAX];
        int r;

        r = buffer_appendf(&b, "{\"createdTime\":\"%s\",\"offset\":%" PRId64 ",\"partitions\":[",
                           format_timestamp(time, sizeof(time), begin->created_usec),
                           begin->offset);
        for (unsigned p = 0; r >= 0 && p < HUB_EVENTS_PARTITIONS; p++) {
                const EventTotals *t = begin->totals + p;

                r = buffer_appendf(&b, "%s{\"nextSequenceNumber\":%" PRId64, p > 0 ? "," : "",
                                   t->next_sequence);
                if (r >= 0 && t->next_sequence > 0)
                        r = buffer_appendf(&b,
                                           ",\"lastOffset\":%" PRId64
                                           ",\"lastEnqueuedTime\":\"%s\"",
                                           t->last_offset,
                                           format_timestamp(time, sizeof(time), t->last_usec));
                if (r >= 0)
                        r = buffer_append_string(&b, "}");
        }
        if (r >= 0)
                r = buffer_append_string(&b, "]}\n");
        return r < 0 ? r : replace_file_at(dir_fd, HUB_EVENTS_BEGIN_FILE, b.data, b.size, 0640);
}
