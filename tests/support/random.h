/* random.h: a small generator for seeded tests (splitmix64, Steele, Lea and Flood 2014): the same seed gives the same
 * run on every machine, which rand() does not promise. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct Random {
        uint64_t state;
} Random;

static inline uint64_t random_u64(Random *r) {
        uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        return z ^ (z >> 31);
}

/* 0 to n - 1; 0 for n = 0. */
static inline uint64_t random_below(Random *r, uint64_t n) {
        return n > 0 ? random_u64(r) % n : 0;
}

/* True once in n. */
static inline bool random_one_in(Random *r, uint64_t n) {
        return random_below(r, n) == 0;
}
