#include "emulator/mqtt-filter.h"

#include <assert.h>

#include "emulator/mqtt-connect.h"
#include "emulator/mqtt-route.h"

#define TYPE(head) ((head) &0xf0U)
#define CONNACK 0x20U
#define PUBLISH 0x30U
#define PUBACK 0x40U
#define SUBSCRIBE 0x80U
#define PUBACK_BYTES 4U
#define PACKET_IDS 65535U
#define HELD_MAX PACKET_IDS
#define DELIVERIES_STEP 64U

void mqtt_filter_done(MqttFilter *f) {
        free(f->held);
        free(f->deliveries);
        *f = (MqttFilter){ 0 };
}

static bool holds_mark(MqttFilter *f, const uint8_t *data, size_t n) {
        const TextFinder *mark;
        size_t skip = MIN(f->mark_skip, n);

        if (!f->up_is_publish)
                return false;
        f->mark_skip -= skip;
        mark = troubles_mark(f->troubles, f->client_id);
        if (!mark)
                return false;
        if (f->mark_serial != f->troubles->serial) {
                f->mark_serial = f->troubles->serial; /* it may be another mark now */
                f->mark_state = 0;
        }
        return text_finder_feed(mark, &f->mark_state, data + skip, n - skip);
}

/* packet: its whole head is there. */
static TroubleVerdict judge_up(MqttFilter *f, const uint8_t *packet, const char **reterr_cause) {
        f->up_is_publish = TYPE(packet[0]) == PUBLISH;
        if (f->up_is_publish) {
                size_t head = 2;

                while (packet[head - 1] & 0x80)
                        head++;
                f->mark_skip = head + 2;
                f->mark_state = 0;
                hub_counters_add(f->counters, f->client_id, HUB_COUNTER_PUBLISHES, 1);
                return troubles_on_publish(f->troubles, f->client_id, reterr_cause);
        }
        if (TYPE(packet[0]) == SUBSCRIBE)
                return troubles_on_subscribe(f->troubles, f->client_id, reterr_cause);
        return TROUBLE_PASS;
}

static MqttDelivery *find_delivery(MqttFilter *f, uint16_t packet_id) {
        for (size_t i = 0; i < f->n_deliveries; i++)
                if (f->deliveries[i].packet_id == packet_id)
                        return f->deliveries + i;
        return NULL;
}

/* What is acknowledged twice, or was never sent, is no news. */
static void take_puback(MqttFilter *f, const uint8_t *packet) {
        MqttDelivery *d = find_delivery(f, (uint16_t) (packet[2] << 8 | packet[3]));
        MqttDelivery was;
        TroubleC2d what;

        if (!d)
                return;
        was = *d;
        *d = f->deliveries[--f->n_deliveries];
        what = troubles_on_c2d(f->troubles, f->client_id, was.repeated);
        if (what == TROUBLE_C2D_LOST)
                return;
        if (what != TROUBLE_C2D_REPEATED)
                hub_counters_add(f->counters, f->client_id, HUB_COUNTER_C2D_COMPLETED, 1);
        f->on_acknowledged(was.sequence, what, f->userdata);
}

int mqtt_filter_up(MqttFilter *f, const uint8_t *data, size_t n, size_t *ret_pass,
                   const char **reterr_cause) {
        size_t at = 0;

        while (at < n && !f->up_is_foreign) {
                size_t take, size;
                int r;

                if (f->up_left == 0) {
                        r = mqtt_packet_size(data + at, n - at, &size);
                        if (r == 0)
                                break;
                        if (r < 0) {
                                f->up_is_foreign = true;
                                break;
                        }
                        if (TYPE(data[at]) == PUBACK && size == PUBACK_BYTES) {
                                if (n - at < PUBACK_BYTES)
                                        break;
                                take_puback(f, data + at);
                        }
                        if (judge_up(f, data + at, reterr_cause) == TROUBLE_CUT) {
                                *ret_pass = at;
                                return -ECONNABORTED;
                        }
                        f->up_left = size;
                }
                take = MIN(f->up_left, n - at);
                /* What comes before the end of a packet may go on: the broker acts on whole ones.
                 */
                if (holds_mark(f, data + at, take)) {
                        *ret_pass = at;
                        *reterr_cause = "a marked message";
                        return -ECONNABORTED;
                }
                f->up_left -= take;
                at += take;
        }
        *ret_pass = f->up_is_foreign ? n : at;
        return 0;
}

static int hold(MqttFilter *f, const uint8_t *id, usec_t due_usec) {
        if (f->n_held == f->held_allocated) {
                size_t n = MAX(f->held_allocated * 2, (size_t) 64);
                HeldPuback *grown = realloc(f->held, n * sizeof(*grown));

                if (!grown)
                        return -ENOMEM;
                f->held = grown;
                f->held_allocated = n;
        }
        /* The hub acknowledges in order, so none overtakes those that wait. */
        if (f->n_held > 0)
                due_usec = MAX(due_usec, f->held[f->n_held - 1].due_usec);
        f->held[f->n_held++] = (HeldPuback){ { id[0], id[1] }, due_usec };
        return 0;
}

/* 1 to let it go, 0 when it was taken out, or an error. */
static int judge_puback(MqttFilter *f, const uint8_t *packet, usec_t now_usec,
                        const char **reterr_cause) {
        usec_t due = now_usec;
        int r;

        switch (troubles_on_puback(f->troubles, f->client_id, now_usec, &due, reterr_cause)) {
        case TROUBLE_CUT: return -ECONNABORTED;
        case TROUBLE_DROP:
                hub_counters_add(f->counters, f->client_id, HUB_COUNTER_DROPPED, 1);
                return 0;
        case TROUBLE_HOLD: break;
        default:
                if (f->n_held == 0) {
                        hub_counters_add(f->counters, f->client_id, HUB_COUNTER_PUBACKS, 1);
                        return 1;
                }
        }
        if (f->n_held >= HELD_MAX) {
                *reterr_cause = "more PUBACKs held back than there are packet ids";
                return -ECONNABORTED;
        }
        r = hold(f, packet + 2, due);
        if (r >= 0)
                hub_counters_add(f->counters, f->client_id, HUB_COUNTER_HELD, 1);
        return r < 0 ? r : 0;
}

static void count_connack(MqttFilter *f, const uint8_t *packet) {
        hub_counters_add(f->counters, f->client_id,
                         packet[3] == 0 ? HUB_COUNTER_ACCEPTED : HUB_COUNTER_REFUSED, 1);
}

/* Follows from the sequence number, so that a message keeps its packet id over the connections of a
 * session, as MQTT 3.1.1 section 4.4 wants, and a late PUBACK names no other message. */
static uint16_t choose_packet_id(MqttFilter *f, uint64_t sequence) {
        uint16_t id = (uint16_t) ((sequence - 1) % PACKET_IDS + 1);

        while (find_delivery(f, id))
                id = id == PACKET_IDS ? 1 : (uint16_t) (id + 1);
        return id;
}

static int add_delivery(MqttFilter *f, const MqttRoute *route, uint16_t *ret_packet_id) {
        if (f->n_deliveries == f->deliveries_allocated) {
                size_t n = f->deliveries_allocated + DELIVERIES_STEP;
                MqttDelivery *grown = n < PACKET_IDS ? reallocarray(f->deliveries, n, sizeof(*grown))
                                                     : NULL;

                if (!grown)
                        return -ENOMEM;
                f->deliveries = grown;
                f->deliveries_allocated = n;
        }
        *ret_packet_id = choose_packet_id(f, route->sequence);
        f->deliveries[f->n_deliveries++] =
                        (MqttDelivery){ route->sequence, *ret_packet_id, route->repeated };
        return 0;
}

/* A message of the device's queue, its head at packet, becomes what the client gets, at out. 0 or -ENOMEM. */
static int deliver(MqttFilter *f, const MqttRoute *route, const uint8_t *packet, size_t head,
                   uint8_t *out, size_t *ret_size) {
        uint16_t packet_id = 0;
        int r;

        if (route->qos > 0) {
                r = add_delivery(f, route, &packet_id);
                if (r < 0)
                        return r;
        }
        *ret_size = mqtt_route_apply(route, packet, head, packet_id, out);
        hub_counters_add(f->counters, f->client_id, HUB_COUNTER_C2D_SENT, 1);
        if (route->qos == 0)
                hub_counters_add(f->counters, f->client_id, HUB_COUNTER_C2D_COMPLETED, 1);
        return 0;
}

/* What the packet at data needs before it is judged, in bytes; the size of the whole in *ret_size.
 * 0 when its size has not come yet. */
static size_t needed_down(const uint8_t *data, size_t n, size_t *ret_size, bool *ret_foreign) {
        int r = mqtt_packet_size(data, n, ret_size);

        *ret_foreign = r < 0;
        if (r <= 0)
                return 0;
        if ((TYPE(data[0]) == PUBACK || TYPE(data[0]) == CONNACK) && *ret_size == PUBACK_BYTES)
                return PUBACK_BYTES;
        return 1;
}

int mqtt_filter_down(MqttFilter *f, uint8_t *data, size_t *n, usec_t now_usec, size_t *ret_pass,
                     const char **reterr_cause) {
        size_t in = 0, out = 0;
        int r = 0;

        while (in < *n && !f->down_is_foreign) {
                size_t take, size = 0;
                bool let = true;

                if (f->down_left == 0) {
                        size_t needed = needed_down(data + in, *n - in, &size, &f->down_is_foreign);
                        size_t head, new_head;
                        MqttRoute route;
                        int routed;

                        if (needed == 0 || *n - in < needed)
                                break;
                        routed = TYPE(data[in]) == PUBLISH
                                         ? mqtt_route_find(data + in, *n - in, &route, &head)
                                         : 0;
                        if (routed == -EAGAIN)
                                break;
                        if (routed > 0) {
                                r = deliver(f, &route, data + in, head, data + out, &new_head);
                                if (r < 0)
                                        break;
                                in += head;
                                out += new_head;
                                f->down_left = size - head;
                                continue;
                        }
                        if (needed == PUBACK_BYTES && TYPE(data[in]) == CONNACK)
                                count_connack(f, data + in);
                        else if (needed == PUBACK_BYTES) {
                                r = judge_puback(f, data + in, now_usec, reterr_cause);
                                if (r < 0)
                                        break;
                                let = r > 0;
                        }
                        f->down_left = size;
                }
                take = MIN(f->down_left, *n - in);
                if (let && out != in)
                        memmove(data + out, data + in, take);
                out += let ? take : 0;
                in += take;
                f->down_left -= take;
        }
        *ret_pass = out;
        if (r < 0) {
                *n = out; /* what the connection would have said next, it never says */
                return r;
        }
        memmove(data + out, data + in, *n - in);
        *n = out + (*n - in);
        if (f->down_is_foreign)
                *ret_pass = *n;
        return 0;
}

size_t mqtt_filter_release(MqttFilter *f, usec_t now_usec, uint8_t *out, size_t max) {
        size_t n = 0;

        if (f->down_left > 0)
                return 0;
        while (n < f->n_held && f->held[n].due_usec <= now_usec && (n + 1) * PUBACK_BYTES <= max) {
                const uint8_t packet[PUBACK_BYTES] = { PUBACK, 2, f->held[n].id[0],
                                                       f->held[n].id[1] };

                memcpy(out + n * PUBACK_BYTES, packet, sizeof(packet));
                n++;
        }
        if (n == 0)
                return 0;
        f->n_held -= n;
        memmove(f->held, f->held + n, f->n_held * sizeof(*f->held));
        hub_counters_add(f->counters, f->client_id, HUB_COUNTER_PUBACKS, n);
        return n * PUBACK_BYTES;
}

usec_t mqtt_filter_next_usec(const MqttFilter *f) {
        return f->n_held > 0 ? f->held[0].due_usec : USEC_INFINITY;
}

void mqtt_filter_review(MqttFilter *f) {
        if (f->n_held == 0 || troubles_hold_pubacks(f->troubles, f->client_id))
                return;
        for (size_t i = 0; i < f->n_held; i++)
                f->held[i].due_usec = 0;
}
