/* fuzz.h: what a fuzz target defines. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Feeds one input; aborts where a promise is broken. Returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* As assert(), also in builds without assertions. */
#define fuzz_require(expr)                                                                         \
        do {                                                                                       \
                if (!(expr)) {                                                                     \
                        fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #expr);         \
                        abort();                                                                   \
                }                                                                                  \
        } while (0)
