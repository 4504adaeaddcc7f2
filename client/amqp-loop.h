/* amqp-loop.h: what the verbs that speak AMQP turn their loop with: signals that end them at once,
 * and an output that does not hold them up. */
#pragma once

#include "client/amqp-connection.h"
#include "client/output-buffer.h"

/* Zero-initialised; ended by amqp_loop_done(). */
typedef struct AmqpLoop {
        int signal_fd;
        int signal; /* the one that came, or 0 */
        OutputBuffer output;
} AmqpLoop;

/* From now on SIGINT, SIGTERM and SIGHUP come to the loop. 0 or an error of the system. */
int amqp_loop_init(AmqpLoop *l);
void amqp_loop_done(AmqpLoop *l);

/* One turn of the connection (NULL: there is none, only time passes). 0; -EIO: the connection is
 * over; -EINTR: a signal came; -EPIPE or another error of the system: standard output failed. */
int amqp_loop_turn(AmqpLoop *l, AmqpConnection *c, usec_t deadline_usec);

/* Turns until *done; a connection that is not there by then is over. As above. */
int amqp_loop_until(AmqpLoop *l, AmqpConnection *c, const bool *done, AmqpStage stage);

/* Lets time pass. 0 when it is over, or as above. */
int amqp_loop_sleep(AmqpLoop *l, usec_t span_usec);

/* Waits until all output is with its reader. 0 or as above. */
int amqp_loop_drain(AmqpLoop *l);

/* After a signal: gives the reader of the output a moment. Returns how many bytes it did not take;
 * they are lost. */
size_t amqp_loop_drain_last(AmqpLoop *l);

/* The exit code for a result of the above, told where it is not yet. connection may be NULL. */
int amqp_loop_exit_code(const AmqpLoop *l, int r, AmqpConnection *c, const char *what);

/* When all is told and freed: the signal that came (0: none) ends the process, as it would have. */
void amqp_loop_end_by_signal(int signal_number);
