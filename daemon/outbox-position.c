#include "daemon/outbox-position.h"

#include <assert.h>

#include "daemon/outbox.h"

#define POSITION_FULL 1U      /* in the flags of the record */
#define LANES_OFFSET 104U
#define LANE_SIZE 32U
#define RANGES_OFFSET (LANES_OFFSET + OUTBOX_N_MESSAGE_LANES * LANE_SIZE)
#define RANGE_SIZE 16U
#define IDENTITY_SIZE 8U      /* number of streams 4, sizes of hub and device 2 each */
#define STREAM_SIZE 40U

void outbox_settled_set_done(OutboxSettledSet *s) {
        free(s->ranges);
        *s = (OutboxSettledSet) { 0 };
}

int outbox_settled_set_copy(OutboxSettledSet *dst, const OutboxSettledSet *src) {
        if (src->n > dst->allocated) {
                OutboxRange *r = reallocarray(dst->ranges, src->n, sizeof(*r));

                if (!r)
                        return -ENOMEM;
                dst->ranges = r;
                dst->allocated = src->n;
        }
        if (src->n > 0)
                memcpy(dst->ranges, src->ranges, src->n * sizeof(*src->ranges));
        dst->n = src->n;
        dst->watermark = src->watermark;
        return 0;
}

/* Index of the first range whose last number is >= x. */
static size_t range_at(const OutboxSettledSet *s, uint64_t x) {
        size_t low = 0, high = s->n;

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (s->ranges[middle].last < x)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

static void remove_ranges(OutboxSettledSet *s, size_t at, size_t n) {
        if (n == 0)
                return;
        memmove(s->ranges + at, s->ranges + at + n, (s->n - at - n) * sizeof(*s->ranges));
        s->n -= n;
}

/* The watermark swallows the ranges that it reached. */
static void raise_watermark(OutboxSettledSet *s, uint64_t to) {
        size_t n = 0;

        s->watermark = MAX(s->watermark, to);
        while (n < s->n && s->ranges[n].first <= s->watermark + 1) {
                s->watermark = MAX(s->watermark, s->ranges[n].last);
                n++;
        }
        remove_ranges(s, 0, n);
}

int outbox_settled_set_reserve(OutboxSettledSet *s, size_t n) {
        OutboxRange *r;
        size_t want;

        if (n <= s->allocated - s->n)
                return 0;
        want = MAX(s->n + n, 2 * s->allocated);
        want = MAX(want, (size_t) 16);
        r = reallocarray(s->ranges, want, sizeof(*r));
        if (!r)
                return -ENOMEM;
        s->ranges = r;
        s->allocated = want;
        return 0;
}

int outbox_settled_set_add(OutboxSettledSet *s, uint64_t first, uint64_t last) {
        size_t from, to;
        int r;

        first = MAX(first, s->watermark + 1);
        if (first > last)
                return 0;
        if (first == s->watermark + 1) {
                raise_watermark(s, last);
                return 0;
        }

        from = range_at(s, first - 1); /* the first that overlaps or touches */
        for (to = from; to < s->n && s->ranges[to].first <= last + 1; to++)
                ;
        if (from < to) {
                s->ranges[from].first = MIN(s->ranges[from].first, first);
                s->ranges[from].last = MAX(s->ranges[to - 1].last, last);
                remove_ranges(s, from + 1, to - from - 1);
                return 0;
        }
        r = outbox_settled_set_reserve(s, 1);
        if (r < 0)
                return r;
        memmove(s->ranges + from + 1, s->ranges + from, (s->n - from) * sizeof(*s->ranges));
        s->ranges[from] = (OutboxRange) { first, last };
        s->n++;
        return 0;
}

bool outbox_settled_set_contains(const OutboxSettledSet *s, uint64_t x) {
        return outbox_settled_set_contains_all(s, x, x);
}

bool outbox_settled_set_contains_all(const OutboxSettledSet *s, uint64_t first, uint64_t last) {
        size_t i;

        first = MAX(first, s->watermark + 1);
        if (first > last)
                return true;
        i = range_at(s, first);
        return i < s->n && s->ranges[i].first <= first && s->ranges[i].last >= last;
}

uint64_t outbox_settled_set_next(const OutboxSettledSet *s, uint64_t x) {
        size_t i;

        x = MAX(x, s->watermark + 1);
        i = range_at(s, x);
        return i < s->n && s->ranges[i].first <= x ? s->ranges[i].last + 1 : x;
}

static uint64_t range_overlap(const OutboxRange *r, uint64_t first, uint64_t last) {
        first = MAX(first, r->first);
        last = MIN(last, r->last);
        return last - first + 1;
}

uint64_t outbox_settled_set_missing(const OutboxSettledSet *s, uint64_t first, uint64_t last) {
        uint64_t n;

        first = MAX(first, s->watermark + 1);
        if (first > last)
                return 0;
        n = last - first + 1;
        for (size_t i = range_at(s, first); i < s->n && s->ranges[i].first <= last; i++)
                n -= range_overlap(&s->ranges[i], first, last);
        return n;
}

void outbox_position_done(OutboxPosition *p) {
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++)
                outbox_settled_set_done(&p->lanes[i].settled);
        free(p->hub);
        free(p->device);
        *p = (OutboxPosition) { 0 };
}

size_t outbox_position_size(const OutboxPosition *p, const OutboxStreamTable *streams) {
        size_t size = RANGES_OFFSET;

        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++)
                size += p->lanes[i].settled.n * RANGE_SIZE;
        if (p->full)
                size += IDENTITY_SIZE + outbox_align(strlen(strempty(p->hub)) + strlen(strempty(p->device))) +
                        outbox_stream_count(streams) * STREAM_SIZE;
        return size;
}

static uint8_t *encode_full(const OutboxPosition *p, const OutboxStreamTable *streams, uint8_t *d) {
        size_t hub_size = strlen(strempty(p->hub)), device_size = strlen(strempty(p->device));
        size_t n = outbox_stream_count(streams), text_size = outbox_align(hub_size + device_size);

        assert(hub_size <= UINT16_MAX && device_size <= UINT16_MAX);
        put_le32(d, (uint32_t) n);
        put_le16(d + 4, (uint16_t) hub_size);
        put_le16(d + 6, (uint16_t) device_size);
        d += IDENTITY_SIZE;
        memset(d, 0, text_size);
        memcpy(d, strempty(p->hub), hub_size);
        memcpy(d + hub_size, strempty(p->device), device_size);
        d += text_size;
        for (size_t i = 0; i < n; i++, d += STREAM_SIZE) {
                const OutboxStreamEntry *e = outbox_stream_get(streams, i);

                memcpy(d, e->id, 16);
                put_le64(d + 16, e->next);
                put_le64(d + 24, e->used);
                put_le32(d + 32, e->uid);
                put_le32(d + 36, e->lane);
        }
        return d;
}

void outbox_position_encode(const OutboxPosition *p, const OutboxStreamTable *streams, unsigned lane, uint8_t *data) {
        size_t size = outbox_position_size(p, streams);
        uint8_t *d = data + RANGES_OFFSET;

        put_le64(data + 32, p->outbox_id);
        put_le64(data + 40, p->next_seq);
        put_le64(data + 48, p->totals.accepted);
        put_le64(data + 56, p->totals.confirmed);
        put_le64(data + 64, p->totals.expired);
        put_le64(data + 72, p->totals.dropped);
        put_le64(data + 80, p->totals.rejected);
        put_le64(data + 88, p->totals.lost);
        put_le64(data + 96, p->newest_realtime_usec);
        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                const OutboxPositionLane *l = &p->lanes[i];
                uint8_t *h = data + LANES_OFFSET + i * LANE_SIZE;

                put_le64(h, l->settled.watermark);
                put_le64(h + 8, l->tail);
                put_le64(h + 16, l->queued_bytes);
                put_le32(h + 24, (uint32_t) l->settled.n);
                put_le32(h + 28, 0);
                for (size_t k = 0; k < l->settled.n; k++, d += RANGE_SIZE) {
                        put_le64(d, l->settled.ranges[k].first);
                        put_le64(d + 8, l->settled.ranges[k].last);
                }
        }
        if (p->full)
                d = encode_full(p, streams, d);
        assert(d == data + size);
        outbox_record_start(data, size, OUTBOX_RECORD_POSITION, lane, p->full ? POSITION_FULL : 0);
}

bool outbox_position_is(const OutboxRecord *r, bool *ret_full) {
        if (r->kind != OUTBOX_RECORD_POSITION || r->size < RANGES_OFFSET)
                return false;
        *ret_full = r->flags & POSITION_FULL;
        return true;
}

static int decode_lanes(const OutboxRecord *r, OutboxPosition *p, size_t *ret_offset) {
        size_t at = RANGES_OFFSET;

        for (unsigned i = 0; i < OUTBOX_N_MESSAGE_LANES; i++) {
                OutboxPositionLane *l = &p->lanes[i];
                const uint8_t *h = r->data + LANES_OFFSET + i * LANE_SIZE;
                uint32_t n = get_le32(h + 24);

                l->settled.watermark = get_le64(h);
                l->tail = get_le64(h + 8);
                l->queued_bytes = get_le64(h + 16);
                if (n > (r->size - at) / RANGE_SIZE || l->settled.watermark == UINT64_MAX || l->tail == UINT64_MAX)
                        return -EBADMSG;
                for (uint32_t k = 0; k < n; k++, at += RANGE_SIZE) {
                        uint64_t first = get_le64(r->data + at), last = get_le64(r->data + at + 8);
                        int q;

                        if (first > last || last == UINT64_MAX || first == 0)
                                return -EBADMSG;
                        q = outbox_settled_set_add(&l->settled, first, last);
                        if (q < 0)
                                return q;
                }
        }
        *ret_offset = at;
        return 0;
}

static int compare_used(const void *a, const void *b) {
        uint64_t x = get_le64(*(const uint8_t *const *) a + 24), y = get_le64(*(const uint8_t *const *) b + 24);

        return x < y ? -1 : x > y;
}

static int decode_streams(const uint8_t *d, size_t n, OutboxStreamTable *streams) {
        _cleanup_free_ const uint8_t **order = NULL;

        order = reallocarray(NULL, MAX(n, (size_t) 1), sizeof(*order));
        if (!order)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                order[i] = d + i * STREAM_SIZE;
        qsort(order, n, sizeof(*order), compare_used);
        for (size_t i = 0; i < n; i++) {
                OutboxStreamEntry *e = outbox_stream_find(streams, order[i]);

                if (!e)
                        e = outbox_stream_add(streams, order[i], get_le32(order[i] + 32), get_le32(order[i] + 36));
                if (!e)
                        return -ENOMEM;
                e->next = e->pending_next = MAX(e->next, get_le64(order[i] + 16));
        }
        return 0;
}

static int decode_full(const OutboxRecord *r, size_t at, OutboxStreamTable *streams, OutboxPosition *p) {
        size_t n, hub_size, device_size, text_size;

        if (r->size - at < IDENTITY_SIZE)
                return -EBADMSG;
        n = get_le32(r->data + at);
        hub_size = get_le16(r->data + at + 4);
        device_size = get_le16(r->data + at + 6);
        at += IDENTITY_SIZE;
        text_size = outbox_align(hub_size + device_size);
        if (n > OUTBOX_STREAMS_MAX || r->size - at != text_size + n * STREAM_SIZE)
                return -EBADMSG;
        if (hub_size > 0) {
                p->hub = strndup((const char *) r->data + at, hub_size);
                p->device = strndup((const char *) r->data + at + hub_size, device_size);
                if (!p->hub || !p->device)
                        return -ENOMEM;
        }
        p->full = true;
        return streams ? decode_streams(r->data + at + text_size, n, streams) : 0;
}

int outbox_position_decode(const OutboxRecord *r, OutboxStreamTable *streams, OutboxPosition *ret) {
        _cleanup_(outbox_position_done) OutboxPosition p = { 0 };
        size_t at;
        bool full;
        int q;

        if (!outbox_position_is(r, &full))
                return -EBADMSG;
        p.outbox_id = get_le64(r->data + 32);
        p.next_seq = get_le64(r->data + 40);
        p.totals.accepted = get_le64(r->data + 48);
        p.totals.confirmed = get_le64(r->data + 56);
        p.totals.expired = get_le64(r->data + 64);
        p.totals.dropped = get_le64(r->data + 72);
        p.totals.rejected = get_le64(r->data + 80);
        p.totals.lost = get_le64(r->data + 88);
        p.newest_realtime_usec = get_le64(r->data + 96);
        q = decode_lanes(r, &p, &at);
        if (q >= 0 && full)
                q = decode_full(r, at, streams, &p);
        else if (q >= 0 && at != r->size)
                q = -EBADMSG;
        if (q < 0)
                return q;
        *ret = p;
        p = (OutboxPosition) { 0 };
        return 0;
}
