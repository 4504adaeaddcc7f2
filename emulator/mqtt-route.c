#include "emulator/mqtt-route.h"

#include <assert.h>
#include <inttypes.h>

#include "emulator/mqtt-connect.h"
#include "lib/string-util.h"

#define PREFIX "c2d/"
#define PREFIX_SIZE (sizeof(PREFIX) - 1)

enum {
        FLAG_QOS_1 = 1 << 0,
        FLAG_AGAIN = 1 << 1,
        FLAG_REPEATED = 1 << 2,
};

int mqtt_route_format(const MqttRoute *r, const char *topic, char **ret) {
        unsigned flags = (r->qos > 0 ? FLAG_QOS_1 : 0) | (r->again ? FLAG_AGAIN : 0) |
                         (r->repeated ? FLAG_REPEATED : 0);

        return format_string(ret, PREFIX "%" PRIu64 "/%u/%s", r->sequence, flags, topic);
}

/* Bytes before the topic's own: the fixed header, whose length has come, and the topic's length. */
static size_t head_size(const uint8_t *packet) {
        size_t n = 2;

        while (packet[n - 1] & 0x80)
                n++;
        return n + 2;
}

static size_t get_16(const uint8_t *p) {
        return (size_t) p[0] << 8 | p[1];
}

/* Bytes of the prefix of a topic, its numbers read; 0: it has none. */
static size_t read_prefix(const uint8_t *topic, size_t n, MqttRoute *ret) {
        size_t i = PREFIX_SIZE;
        uint64_t sequence = 0;

        for (; i < n && topic[i] >= '0' && topic[i] <= '9'; i++)
                sequence = sequence * 10 + (uint64_t) (topic[i] - '0');
        if (i == PREFIX_SIZE || i + 3 > n || topic[i] != '/' || topic[i + 1] < '0' || topic[i + 1] > '7' ||
            topic[i + 2] != '/')
                return 0;
        *ret = (MqttRoute){ .sequence = sequence,
                            .qos = topic[i + 1] & FLAG_QOS_1 ? 1 : 0,
                            .again = topic[i + 1] & FLAG_AGAIN,
                            .repeated = topic[i + 1] & FLAG_REPEATED };
        return i + 3;
}

int mqtt_route_find(const uint8_t *packet, size_t n, MqttRoute *ret, size_t *ret_head) {
        size_t head, topic_size, size;
        int r;

        r = mqtt_packet_size(packet, n, &size);
        if (r <= 0)
                return r < 0 ? 0 : -EAGAIN;
        head = head_size(packet);
        if (size < head)
                return 0;
        if (n < head)
                return -EAGAIN;
        topic_size = get_16(packet + head - 2);
        if (topic_size < PREFIX_SIZE || head + topic_size > size ||
            memcmp(packet + head, PREFIX, MIN(n - head, PREFIX_SIZE)) != 0)
                return 0;
        if (n < head + topic_size)
                return -EAGAIN;
        if (read_prefix(packet + head, topic_size, ret) == 0)
                return 0;
        *ret_head = head + topic_size;
        return 1;
}

/* The remaining length, MQTT 3.1.1 section 2.2.3. */
static size_t put_length(uint8_t *out, size_t length) {
        size_t n = 0;

        do {
                uint8_t low = length & 0x7f;

                length >>= 7;
                out[n++] = low | (length > 0 ? 0x80 : 0);
        } while (length > 0);
        return n;
}

size_t mqtt_route_apply(const MqttRoute *r, const uint8_t *packet, size_t head, uint16_t packet_id,
                        uint8_t *out) {
        size_t before = head_size(packet), prefix, topic_size, size = 0, n, id_size;
        uint8_t fixed[5] = { (uint8_t) (0x30 | r->qos << 1 | (r->qos > 0 && r->again ? 8 : 0)) };
        MqttRoute same;

        (void) mqtt_packet_size(packet, head, &size); /* it was found to be one */
        prefix = read_prefix(packet + before, head - before, &same);
        topic_size = head - before - prefix;
        id_size = r->qos > 0 ? 2 : 0;
        n = 1 + put_length(fixed + 1, 2 + topic_size + id_size + (size - head));
        assert(n + 2 + topic_size + id_size <= head);

        memmove(out + n + 2, packet + before + prefix, topic_size);
        memcpy(out, fixed, n);
        out[n] = (uint8_t) (topic_size >> 8);
        out[n + 1] = (uint8_t) topic_size;
        n += 2 + topic_size;
        if (id_size > 0) {
                out[n] = (uint8_t) (packet_id >> 8);
                out[n + 1] = (uint8_t) packet_id;
        }
        return n + id_size;
}
