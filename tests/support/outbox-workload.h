/* outbox-workload.h: a random life of an outbox beside its model: appends in every lane and stream, settles in any
 * order, time, trouble, crashes and restarts. The seed decides everything. */
#pragma once

#include <stdint.h>

#include "tests/support/outbox-model.h"

typedef struct WorkloadTotals {
        uint64_t n_crashes, n_clean_restarts, n_starts_crashed, n_appended, n_durable, n_settled[_OUTBOX_END_MAX];
        uint64_t n_failed_calls, n_came_back, n_full;
} WorkloadTotals;

/* Until n_crashes have happened. Adds to *totals. Ends the process when the outbox breaks its word. */
void outbox_workload_run(uint64_t seed, unsigned n_crashes, const char *repeat, WorkloadTotals *totals);
