#include "tests/support/test.h"

#include <ftw.h>
#include <limits.h>
#include <sys/random.h>

#include <json-c/json.h>

#define TESTS_MAX 512
#define EXIT_SKIPPED 77

static struct {
        const TTest *test;
        int timeout_sec, loops;
} tests[TESTS_MAX];
static size_t n_tests;

void test_register(const TTest *test, int timeout_sec, int loops) {
        if (n_tests >= TESTS_MAX)
                abort();
        tests[n_tests].test = test;
        tests[n_tests].timeout_sec = timeout_sec;
        tests[n_tests].loops = loops;
        n_tests++;
}

void test_skip(const char *reason) {
        printf("# skipped: %s\n", reason);
        fflush(stdout);
        _exit(EXIT_SKIPPED);
}

uint64_t test_seed(void) {
        const char *text = getenv("IOTHUBD_TEST_SEED");
        uint64_t seed = 0;

        if (text)
                seed = strtoull(text, NULL, 0);
        else if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
                abort();
        printf("# IOTHUBD_TEST_SEED=0x%016llx\n", (unsigned long long) seed);
        fflush(stdout);
        return seed;
}

static char *tempdir_path; /* one per test process */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void) remove(path); /* what stays is seen in the temporary folder */
        return 0;
}

static void remove_tempdir(void) {
        if (tempdir_path)
                (void) nftw(tempdir_path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

char *test_tempdir(void) {
        const char *base = getenv("TMPDIR");
        char *path;

        ck_assert_int_ge(asprintf(&path, "%s/iothubd-test.XXXXXX", base ? base : "/tmp"), 0);
        ck_assert_msg(mkdtemp(path) != NULL, "mkdtemp: %m");
        if (!tempdir_path) {
                tempdir_path = strdup(path);
                atexit(remove_tempdir);
        }
        return path;
}

struct json_object *test_vectors(const char *file, const char *section) {
        const char *dir = getenv("IOTHUBD_TEST_VECTORS");
        static struct json_object *files[16]; /* kept, so that the leak sanitizer finds an owner */
        struct json_object *o, *v;
        char path[PATH_MAX];
        size_t i = 0;

        (void) snprintf(path, sizeof(path), "%s/%s", dir ? dir : "tests/vectors", file);
        o = json_object_from_file(path);
        ck_assert_msg(o != NULL, "%s: %s", path, json_util_get_last_err());
        while (files[i])
                ck_assert_uint_lt(++i, ELEMENTSOF(files));
        files[i] = o;
        ck_assert_msg(json_object_object_get_ex(o, section, &v), "no section %s in %s", section, path);
        return v;
}

/* --seed N and --years N do what the variables do. Returns the part of a name that is asked for, or NULL. */
static const char *read_options(int argc, char **argv) {
        const char *only = NULL;

        for (int i = 1; i < argc; i++) {
                bool seed = streq(argv[i], "--seed"), years = streq(argv[i], "--years");

                if ((seed || years) && i + 1 < argc)
                        (void) setenv(seed ? "IOTHUBD_TEST_SEED" : "IOTHUBD_TEST_YEARS", argv[++i], true); /* valid names */
                else
                        only = argv[i];
        }
        return only;
}

int main(int argc, char **argv) {
        const char *only = read_options(argc, argv);
        Suite *suite = suite_create("tests");
        SRunner *runner = srunner_create(suite);
        TestResult **results;
        int n, failed = 0;

        setvbuf(stdout, NULL, _IOLBF, 0);
        for (size_t i = 0; i < n_tests; i++) {
                TCase *tcase;

                if (only && !strstr(tests[i].test->name, only))
                        continue;
                tcase = tcase_create(tests[i].test->name);
                tcase_set_timeout(tcase, tests[i].timeout_sec);
                tcase_add_loop_test(tcase, tests[i].test, 0, tests[i].loops);
                suite_add_tcase(suite, tcase);
        }

        srunner_run_all(runner, CK_SILENT);
        n = srunner_ntests_run(runner);
        results = srunner_results(runner);
        printf("1..%d\n", n);
        for (int i = 0; i < n; i++) {
                const char *name = tr_tcname(results[i]), *message = tr_msg(results[i]);

                if (tr_rtype(results[i]) == CK_PASS)
                        printf("ok %d - %s\n", i + 1, name);
                else if (message && strstr(message, "Early exit with return value 77"))
                        printf("ok %d - %s # SKIP see the line above that says why\n", i + 1, name);
                else {
                        printf("not ok %d - %s\n# %s:%d: %s\n", i + 1, name, tr_lfile(results[i]),
                               tr_lno(results[i]), strempty(message));
                        failed++;
                }
        }
        free(results);
        srunner_free(runner);
        return failed > 0;
}
