#include "client/transfer-signal.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t came;

static void on_signal(int signal_number) {
        came = signal_number;
}

void transfer_signal_watch(void) {
        static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
        /* No SA_RESTART: what waits is to look. With SA_RESETHAND the second one ends the process. */
        struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int) SA_RESETHAND };

        (void) sigemptyset(&action.sa_mask);
        for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
                (void) sigaction(signals[i], &action, NULL); /* cannot fail for these */
}

int transfer_signal(void) {
        return came;
}

void transfer_signal_end(void) {
        if (came == 0)
                return;
        (void) signal(came, SIG_DFL);
        (void) raise(came);
}
