#include "lib/macro.h"
#include "client/positions.h"

#define TRIM_WORDS 512U /* words that are full leave in blocks, so that the rest is moved rarely   \
                         */

typedef struct SequenceRange {
        uint64_t position, seq, n;
} SequenceRange;

void position_set_done(PositionSet *s) {
        buffer_done(&s->words);
}

static size_t n_words(const PositionSet *s) {
        return s->words.size / sizeof(uint64_t);
}

static uint64_t *words(const PositionSet *s) {
        return (uint64_t *) (void *) s->words.data;
}

bool position_set_has(const PositionSet *s, uint64_t position) {
        if (position < s->base)
                return true;
        if ((position - s->base) / 64 >= n_words(s))
                return false;
        return words(s)[(position - s->base) / 64] >> (position % 64) & 1;
}

static void trim(PositionSet *s) {
        size_t n = 0;

        while (n < n_words(s) && words(s)[n] == UINT64_MAX)
                n++;
        if (n < TRIM_WORDS)
                return;
        buffer_consume(&s->words, n * sizeof(uint64_t));
        s->base += n * 64;
}

int position_set_add(PositionSet *s, uint64_t position) {
        size_t i, zeros;
        int r;

        if (position_set_has(s, position))
                return 0;
        if (position - s->base > POSITIONS_AHEAD_MAX)
                return -ERANGE;
        i = (size_t) ((position - s->base) / 64);
        if (i >= n_words(s)) {
                zeros = (i + 1 - n_words(s)) * sizeof(uint64_t);
                r = buffer_reserve(&s->words, zeros);
                if (r < 0)
                        return r;
                memset(s->words.data + s->words.size, 0, zeros);
                s->words.size += zeros;
        }
        words(s)[i] |= UINT64_C(1) << (position % 64);
        if (i == 0 || words(s)[0] == UINT64_MAX)
                trim(s);
        return 1;
}

uint64_t position_set_next_missing(const PositionSet *s, uint64_t position) {
        position = MAX(position, s->base);
        while (position_set_has(s, position)) {
                if (position % 64 == 0 && words(s)[(position - s->base) / 64] == UINT64_MAX)
                        position += 64;
                else
                        position++;
        }
        return position;
}

void sequence_map_done(SequenceMap *m) {
        free(m->ranges);
}

int sequence_map_add(SequenceMap *m, uint64_t position, uint64_t seq, uint64_t n) {
        SequenceRange *last = m->n_ranges > 0 ? &m->ranges[m->n_ranges - 1] : NULL;

        if (last && last->position + last->n == position && last->seq + last->n == seq) {
                last->n += n;
                return 0;
        }
        if (m->n_ranges == m->n_allocated) {
                size_t more = m->n_allocated ? 2 * m->n_allocated : 16;
                SequenceRange *ranges = reallocarray(m->ranges, more, sizeof(SequenceRange));

                if (!ranges)
                        return -ENOMEM;
                m->ranges = ranges;
                m->n_allocated = more;
        }
        m->ranges[m->n_ranges++] = (SequenceRange){ position, seq, n };
        return 0;
}

int sequence_map_get(const SequenceMap *m, uint64_t position, uint64_t *ret) {
        size_t low = 0, high = m->n_ranges;

        while (low < high) {
                size_t middle = low + (high - low) / 2;
                const SequenceRange *range = &m->ranges[middle];

                if (position < range->position)
                        high = middle;
                else if (position - range->position >= range->n)
                        low = middle + 1;
                else {
                        *ret = range->seq + (position - range->position);
                        return 1;
                }
        }
        return 0;
}

void sequence_map_trim(SequenceMap *m, uint64_t position) {
        size_t n = 0;

        while (n < m->n_ranges && m->ranges[n].position + m->ranges[n].n <= position)
                n++;
        if (n < 16 && n < m->n_ranges) /* moved rarely */
                return;
        if (n == 0)
                return;
        memmove(m->ranges, m->ranges + n, (m->n_ranges - n) * sizeof(SequenceRange));
        m->n_ranges -= n;
}
