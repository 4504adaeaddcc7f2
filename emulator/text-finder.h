/* text-finder.h: finds a short text in bytes that come in pieces, each looked at once. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_FINDER_MAX 256U

typedef struct TextFinder {
        uint8_t text[TEXT_FINDER_MAX];
        uint16_t back[TEXT_FINDER_MAX]; /* where to go on after a mismatch (Knuth, Morris, Pratt) */
        size_t n;
} TextFinder;

/* 0, or -EINVAL for a text of 0 or more than TEXT_FINDER_MAX bytes. */
int text_finder_init(TextFinder *f, const void *text, size_t n);

/* Looks at n more bytes. *state: 0 before the first piece. Returns whether the text ends in these
 * bytes. */
bool text_finder_feed(const TextFinder *f, size_t *state, const uint8_t *data, size_t n);
