/* Goal: P1 to P4 hold over 1,000 power cuts at random moments (--long: 50,000), also in the middle of a start.
 * Method: seeded lives of an outbox on a simulated disk beside a model, CRASHES_PER_SEED cuts each, every seed in a
 * process of its own, so that a crash of the program is a failure with a seed as well.
 *
 *   test-outbox-crash [--long] [--crashes N] [--first-seed N]     seeds from N on (or $OUTBOX_CRASH_FIRST_SEED), after
 *                                                                 those that found something once
 *   test-outbox-crash --seed N                                    one seed, in this process: for a debugger */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "lib/parse-util.h"
#include "tests/support/outbox-workload.h"

#define CRASHES_PER_SEED 10U
#define CRASHES_NORMAL 1000U
#define CRASHES_LONG 50000U
#define SEED_SECONDS_MAX 120U /* a guard against a hang, not a measurement */
#define FAILURES_MAX 5U

/* Lives in which a promise was broken once. Each is a matter of several unlikely events, which the normal run seldom meets.
 * They mean what they did as long as the workload draws the same numbers. */
static const uint64_t broken_once[] = {
        9004179, /* a spare of a killed process was not synced before its use */
        9004283, /* the segment of a batch's first try was back and stood before the second's */
        5003900, /* one failed read gave a rejected message up, whose copy had failed before as the disk was read-only */
        9008986, /* the model did not know that a confirmation which a crash forgot may expire */
        9009245, /* nor that an end which was decided stands when the clock steps back */
};

static const char *program;

static void run_seed(uint64_t seed, WorkloadTotals *totals) {
        char repeat[4096];

        (void) snprintf(repeat, sizeof(repeat), "%s --seed %" PRIu64, program, seed);
        outbox_workload_run(seed, CRASHES_PER_SEED, repeat, totals);
}

/* Whether the seed did well. */
static bool run_seed_forked(uint64_t seed, WorkloadTotals *totals) {
        int status;
        pid_t pid;

        fflush(stdout);
        pid = fork();
        if (pid < 0) {
                perror("fork");
                return false;
        }
        if (pid == 0) {
                alarm(SEED_SECONDS_MAX);
                run_seed(seed, totals);
                fflush(stdout);
                exit(0); /* not _exit: the leak check of a sanitizer build runs at exit */
        }
        if (waitpid(pid, &status, 0) < 0) {
                perror("waitpid");
                return false;
        }
        if (WIFSIGNALED(status))
                printf("# seed %" PRIu64 " ended by signal %d (%s); repeat with: %s --seed %" PRIu64 "\n", seed,
                       WTERMSIG(status), strsignal(WTERMSIG(status)), program, seed);
        return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int run_all(uint64_t first_seed, uint64_t n_crashes) {
        WorkloadTotals *totals = mmap(NULL, sizeof(*totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t n_failed = 0;

        if (totals == MAP_FAILED) {
                perror("mmap");
                return 1;
        }
        for (size_t i = 0; i < ELEMENTSOF(broken_once); i++)
                n_failed += !run_seed_forked(broken_once[i], totals);
        for (uint64_t seed = first_seed; totals->n_crashes < n_crashes && n_failed < FAILURES_MAX; seed++)
                n_failed += !run_seed_forked(seed, totals);
        printf("# %" PRIu64 " crashes, %" PRIu64 " of them armed during a start, %" PRIu64 " orderly restarts\n",
               totals->n_crashes, totals->n_starts_crashed, totals->n_clean_restarts);
        printf("# %" PRIu64 " messages, %" PRIu64 " durable, %" PRIu64 " confirmed, %" PRIu64 " expired, %" PRIu64
               " dropped, %" PRIu64 " rejected, %" PRIu64 " confirmations came back\n",
               totals->n_appended, totals->n_durable, totals->n_settled[OUTBOX_END_CONFIRMED],
               totals->n_settled[OUTBOX_END_EXPIRED], totals->n_settled[OUTBOX_END_DROPPED],
               totals->n_settled[OUTBOX_END_REJECTED], totals->n_came_back);
        printf("# %" PRIu64 " disk calls failed, %" PRIu64 " appends found no room\n", totals->n_failed_calls,
               totals->n_full);
        printf("1..1\n%s 1 - every_promise_survives_%" PRIu64 "_crashes\n", n_failed > 0 ? "not ok" : "ok", n_crashes);
        (void) munmap(totals, sizeof(*totals));
        return n_failed > 0;
}

int main(int argc, char **argv) {
        static const struct option options[] = {
                { "seed", required_argument, NULL, 's' }, { "first-seed", required_argument, NULL, 'f' },
                { "crashes", required_argument, NULL, 'n' }, { "long", no_argument, NULL, 'l' }, {},
        };
        const char *first = getenv("OUTBOX_CRASH_FIRST_SEED"), *crashes = getenv("OUTBOX_CRASHES");
        uint64_t seed, first_seed = 1, n_crashes = CRASHES_NORMAL;
        WorkloadTotals totals = {};
        int c, r = 0;

        program = argv[0];
        if (first)
                r = parse_u64(first, &first_seed);
        if (r >= 0 && crashes)
                r = parse_u64(crashes, &n_crashes);
        while (r >= 0 && (c = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (c) {
                case 's':
                        r = parse_u64(optarg, &seed);
                        if (r < 0)
                                break;
                        run_seed(seed, &totals);
                        printf("1..1\nok 1 - seed_%" PRIu64 "\n", seed);
                        return 0;
                case 'f': r = parse_u64(optarg, &first_seed); break;
                case 'n': r = parse_u64(optarg, &n_crashes); break;
                case 'l': n_crashes = CRASHES_LONG; break;
                default: return 2;
                }
        if (r < 0) {
                fprintf(stderr, "%s: not a number\n", program);
                return 2;
        }
        return run_all(first_seed, n_crashes);
}
