#include "emulator/mqtt-connect.h"

#include <assert.h>

#define PACKET_CONNECT 0x10U
#define FLAG_USER_NAME 0x80U
#define FLAG_WILL 0x04U

typedef struct Reader {
        const uint8_t *data;
        size_t n, at;
} Reader;

static int take(Reader *r, size_t n, const uint8_t **ret) {
        if (r->n - r->at < n)
                return -EBADMSG;
        if (ret)
                *ret = r->data + r->at;
        r->at += n;
        return 0;
}

/* Two bytes of length, then the text. */
static int take_text(Reader *r, const uint8_t **ret, size_t *ret_size) {
        const uint8_t *length, *text;
        size_t size;

        if (take(r, 2, &length) < 0)
                return -EBADMSG;
        size = (size_t) length[0] << 8 | length[1];
        if (take(r, size, &text) < 0)
                return -EBADMSG;
        if (ret) {
                *ret = text;
                *ret_size = size;
        }
        return 0;
}

/* Variable byte integer. 1, 0 (not whole) or -EBADMSG. */
static int take_varint(Reader *r, size_t *ret) {
        size_t v = 0;

        for (unsigned shift = 0; shift < 28; shift += 7) {
                const uint8_t *byte;

                if (take(r, 1, &byte) < 0)
                        return 0;
                v |= (size_t) (*byte & 0x7f) << shift;
                if ((*byte & 0x80) == 0) {
                        *ret = v;
                        return 1;
                }
        }
        return -EBADMSG;
}

static int skip_properties(Reader *r) {
        size_t size;

        return take_varint(r, &size) == 1 ? take(r, size, NULL) : -EBADMSG;
}

int mqtt_packet_size(const uint8_t *data, size_t n, size_t *ret_size) {
        Reader r = { data, n, 0 };
        size_t body;
        int k;

        if (take(&r, 1, NULL) < 0)
                return 0;
        k = take_varint(&r, &body);
        if (k > 0)
                *ret_size = r.at + body;
        return k;
}

typedef struct Layout {
        size_t flags_at; /* within the body */
        size_t user_at;  /* where the user name's length begins, or would */
        const uint8_t *client_id, *user;
        size_t client_id_size, user_size, user_end; /* user_end == user_at where there is none */
} Layout;

static int find_user_name(Reader *r, Layout *l) {
        const uint8_t *level, *flags;

        if (take_text(r, NULL, NULL) < 0 || take(r, 1, &level) < 0)
                return -EBADMSG;
        l->flags_at = r->at;
        if (take(r, 1, &flags) < 0 || take(r, /* keep-alive */ 2, NULL) < 0)
                return -EBADMSG;
        if (*level == 5 && skip_properties(r) < 0)
                return -EBADMSG;
        if (take_text(r, &l->client_id, &l->client_id_size) < 0)
                return -EBADMSG;
        if (*flags & FLAG_WILL) {
                if (*level == 5 && skip_properties(r) < 0)
                        return -EBADMSG;
                if (take_text(r, NULL, NULL) < 0 || take_text(r, NULL, NULL) < 0)
                        return -EBADMSG;
        }
        l->user_at = l->user_end = r->at;
        if (*flags & FLAG_USER_NAME) {
                if (take_text(r, &l->user, &l->user_size) < 0)
                        return -EBADMSG;
                l->user_end = r->at;
        }
        return 0;
}

static int append_length(Buffer *out, size_t n) {
        uint8_t bytes[4];
        size_t k = 0;

        do {
                bytes[k] = n & 0x7f;
                n >>= 7;
                if (n > 0)
                        bytes[k] |= 0x80;
                k++;
        } while (n > 0);
        return buffer_append(out, bytes, k);
}

int mqtt_connect_prefix_user(const uint8_t *data, size_t n, const char *prefix, Buffer *out,
                             MqttConnect *ret) {
        Reader packet = { data, n, 0 }, body;
        Layout l = { 0 };
        size_t prefix_size = strlen(prefix), size, user_size, out_body;
        const uint8_t *b;
        uint8_t flags, user_length[2];
        int r;

        if (n == 0)
                return 0;
        if (data[0] != PACKET_CONNECT)
                return -EBADMSG;
        packet.at = 1;
        r = take_varint(&packet, &size);
        if (r <= 0)
                return r;
        if (size > MQTT_CONNECT_BYTES_MAX)
                return -EMSGSIZE;
        if (take(&packet, size, &b) < 0)
                return 0;

        body = (Reader) { b, size, 0 };
        r = find_user_name(&body, &l);
        if (r < 0)
                return r;
        user_size = prefix_size + l.user_size;
        if (user_size > UINT16_MAX)
                return -EMSGSIZE;
        user_length[0] = (uint8_t) (user_size >> 8);
        user_length[1] = (uint8_t) user_size;
        flags = b[l.flags_at] | FLAG_USER_NAME;
        out_body = size - (l.user_end - l.user_at) + 2 + user_size;

        r = buffer_append(out, &(uint8_t) { PACKET_CONNECT }, 1);
        if (r >= 0)
                r = append_length(out, out_body);
        if (r >= 0)
                r = buffer_append(out, b, l.flags_at);
        if (r >= 0)
                r = buffer_append(out, &flags, 1);
        if (r >= 0)
                r = buffer_append(out, b + l.flags_at + 1, l.user_at - l.flags_at - 1);
        if (r >= 0)
                r = buffer_append(out, user_length, sizeof(user_length));
        if (r >= 0)
                r = buffer_append(out, prefix, prefix_size);
        if (r >= 0)
                r = buffer_append(out, l.user, l.user_size);
        if (r >= 0)
                r = buffer_append(out, b + l.user_end, size - l.user_end);
        if (r < 0)
                return r;
        *ret = (MqttConnect) { packet.at, l.client_id, l.client_id_size };
        return 1;
}
