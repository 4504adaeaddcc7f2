/* amqp-request.h: questions to a node of the hub, "$cbs" or "$management", and their answers: a
 * sender and a receiver, and ids that tie an answer to its question. */
#pragma once

#include <proton/message.h>

#include "lib/amqp-value.h"
#include "lib/buffer.h"
#include "client/amqp-loop.h"

/* Plain data; must stay where it is until the connection is freed. */
typedef struct AmqpRequester {
        AmqpConnection *connection;
        const char *node; /* borrowed */
        AmqpStage stage;
        char reply_to[64];
        AmqpLink sender, receiver;
        uint64_t id;   /* of the last question */
        bool answered; /* it was answered: */
        Buffer answer;
        AmqpMessage message; /* points into the answer */
        int64_t status;      /* as of HTTP */
} AmqpRequester;

/* Attaches the two links. 0 or -ENOMEM. */
int amqp_requester_open(AmqpRequester *r, AmqpConnection *c, const char *node, AmqpStage stage);
void amqp_requester_done(AmqpRequester *r);

/* Sends a message, whose id and reply-to are set here; borrowed. Answers go to r. 0 or -ENOMEM. */
int amqp_requester_send(AmqpRequester *r, pn_message_t *message);

/* Sends and waits. 0 after a status of 200 to 299; -EIO after another one, set as the connection's
 * error; else as amqp_loop_turn(). */
int amqp_requester_call(AmqpRequester *r, AmqpLoop *loop, pn_message_t *message);

/* Whether the answer is good; if not it is set as the connection's error. */
bool amqp_requester_check(AmqpRequester *r);

/* A string among the application properties of a message that is being made. 0 or -ENOMEM. */
int amqp_put_string(pn_data_t *d, const char *s);
int amqp_put_property(pn_data_t *map, const char *name, const char *value);

/* Encodes the message and sends it on the link, with a tag of its own. 0 or -ENOMEM. ret may be
 * NULL. */
int amqp_send_message(pn_link_t *link, pn_message_t *message, pn_delivery_t **ret);

/* Takes what came of a delivery, behind what came of it before. 1: it is whole; 0: more will come;
 * -ENOMEM; -EMSGSIZE (longer than max). */
int amqp_take_delivery(pn_link_t *link, pn_delivery_t *delivery, Buffer *to, size_t max);
