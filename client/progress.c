#include "client/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "client/output.h"

#define TERMINAL_EVERY_USEC (USEC_PER_SEC / 5)
#define LOG_EVERY_USEC (30 * USEC_PER_SEC)

void progress_begin(Progress *p, const char *what, uint64_t total) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        const bool terminal = isatty(STDERR_FILENO);

        *p = (Progress){
                .what = what,
                .total = total,
                .begin_usec = now,
                .next_usec = now + (terminal ? TERMINAL_EVERY_USEC : LOG_EVERY_USEC),
                .terminal = terminal,
        };
}

char *progress_format(char *buf, size_t size, const Progress *p, uint64_t done, uint64_t failed,
                      bool paused, usec_t now) {
        const double seconds = (double) (now - p->begin_usec) / (double) USEC_PER_SEC;
        const double rate = seconds > 0 ? (double) (done + failed) / seconds : 0;
        char left[FORMAT_TIMESPAN_MAX + 8] = "", faults[32] = "", span[FORMAT_TIMESPAN_MAX];

        if (failed > 0)
                snprintf(faults, sizeof(faults), ", %" PRIu64 " failed", failed);
        if (p->total > done + failed && rate > 0) {
                const usec_t span_usec = (usec_t) ((double) (p->total - done - failed) / rate) + 1;

                snprintf(left, sizeof(left), ", %s left",
                         format_timespan(span, sizeof(span), span_usec * USEC_PER_SEC));
        }
        if (p->total > 0)
                snprintf(buf, size, "%" PRIu64 " of %" PRIu64 " %s%s, %.0f/s%s%s", done, p->total,
                         p->what, faults, rate, left, paused ? ", throttled" : "");
        else
                snprintf(buf, size, "%" PRIu64 " %s%s, %.0f/s%s", done, p->what, faults, rate,
                         paused ? ", throttled" : "");
        return buf;
}

void progress_show(Progress *p, uint64_t done, uint64_t failed, bool paused) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        char line[256];

        if (now < p->next_usec)
                return;
        p->next_usec = now + (p->terminal ? TERMINAL_EVERY_USEC : LOG_EVERY_USEC);
        progress_format(line, sizeof(line), p, done, failed, paused, now);
        if (p->terminal)
                fprintf(stderr, "\r\033[K%s", line);
        else
                say_error("%s", line);
        p->shown = true;
}

void progress_end(Progress *p) {
        if (p->shown && p->terminal)
                fputs("\r\033[K", stderr);
        p->shown = false;
}
