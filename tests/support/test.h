/* test.h: TEST(name) registers a Check test; the program's main() is in test.c and speaks TAP, so that one sum counts
 * every suite. Each test runs in a process of its own (CK_FORK=no for a debugger). */
#pragma once

#include <check.h>

#include "lib/macro.h"

void test_register(const TTest *test, int timeout_sec, int loops);

#define TEST_FULL(name, timeout_sec, loops)                                                        \
        static void name##_fn(int _i);                                                             \
        static const TTest name##_ttest = { #name, name##_fn, __FILE__, __LINE__ };                \
        __attribute__((constructor)) static void name##_register(void) {                           \
                test_register(&name##_ttest, timeout_sec, loops);                                  \
        }                                                                                          \
        static void name##_fn(_unused_ int _i)

/* The name is the promise: TEST(torn_tail_keeps_every_earlier_record) { ... }. 120 s guard against a hang. */
#define TEST(name) TEST_FULL(name, 120, 1)

/* Runs with _i = 0 .. n-1, each counted. */
#define TEST_LOOP(name, n) TEST_FULL(name, 120, n)

/* Ends the test as skipped, with the reason in the log. */
void test_skip(const char *reason) __attribute__((noreturn));

#define assert_ok(expr)                                                                            \
        ({                                                                                         \
                int _r = (expr);                                                                   \
                ck_assert_msg(_r >= 0, "%s: %s", #expr, strerror(-_r));                            \
                _r;                                                                                \
        })
#define assert_error(expr, error)                                                                  \
        ({                                                                                         \
                int _r = (expr), _e = (error);                                                     \
                ck_assert_msg(_r == _e, "%s: got %d (%s), want %d (%s)", #expr, _r,                \
                              _r < 0 ? strerror(-_r) : "no error", _e, strerror(-_e));             \
        })

/* The seed of a randomised test: $IOTHUBD_TEST_SEED, else a new one each run. Printed, so that a failing run can be
 * repeated. */
uint64_t test_seed(void);

/* A fresh folder, removed with all in it when the test ends well. The path is the caller's to free. */
char *test_tempdir(void);

/* tests/vectors/NAME as parsed JSON (json-c object, borrowed for the whole run). */
struct json_object *test_vectors(const char *file, const char *section);
