#include "lib/base64.h"

#include "lib/macro.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int base64_encode(const void *data, size_t n, char **ret, size_t *ret_size) {
        const uint8_t *p = data;
        size_t whole = n / 3 * 3, i;
        char *s, *out;

        if (n > SIZE_MAX / 4 * 3 - 3)
                return -ENOMEM;
        out = s = malloc((n + 2) / 3 * 4 + 1);
        if (!s)
                return -ENOMEM;
        for (i = 0; i < whole; i += 3, out += 4) {
                uint32_t v = (uint32_t) p[i] << 16 | (uint32_t) p[i + 1] << 8 | p[i + 2];

                out[0] = alphabet[v >> 18];
                out[1] = alphabet[v >> 12 & 63];
                out[2] = alphabet[v >> 6 & 63];
                out[3] = alphabet[v & 63];
        }
        if (i < n) {
                uint32_t v = (uint32_t) p[i] << 16 | (i + 1 < n ? (uint32_t) p[i + 1] << 8 : 0);

                out[0] = alphabet[v >> 18];
                out[1] = alphabet[v >> 12 & 63];
                out[2] = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
                out[3] = '=';
                out += 4;
        }
        *out = 0;
        *ret = s;
        if (ret_size)
                *ret_size = (size_t) (out - s);
        return 0;
}

/* Value of a character plus one, so that 0, what the initialiser leaves out, is "not in the alphabet". */
#define V(c, v) [c] = (v) + 1
static const uint8_t values_plus_1[256] = {
        V('A', 0),  V('B', 1),  V('C', 2),  V('D', 3),  V('E', 4),  V('F', 5),  V('G', 6),  V('H', 7),
        V('I', 8),  V('J', 9),  V('K', 10), V('L', 11), V('M', 12), V('N', 13), V('O', 14), V('P', 15),
        V('Q', 16), V('R', 17), V('S', 18), V('T', 19), V('U', 20), V('V', 21), V('W', 22), V('X', 23),
        V('Y', 24), V('Z', 25), V('a', 26), V('b', 27), V('c', 28), V('d', 29), V('e', 30), V('f', 31),
        V('g', 32), V('h', 33), V('i', 34), V('j', 35), V('k', 36), V('l', 37), V('m', 38), V('n', 39),
        V('o', 40), V('p', 41), V('q', 42), V('r', 43), V('s', 44), V('t', 45), V('u', 46), V('v', 47),
        V('w', 48), V('x', 49), V('y', 50), V('z', 51), V('0', 52), V('1', 53), V('2', 54), V('3', 55),
        V('4', 56), V('5', 57), V('6', 58), V('7', 59), V('8', 60), V('9', 61), V('+', 62), V('/', 63),
};
#undef V

/* Four characters to 24 bits. The high byte of the result is not 0 where one is outside the alphabet. */
static inline uint32_t decode_quad(const uint8_t *p) {
        uint32_t a = values_plus_1[p[0]] - 1U, b = values_plus_1[p[1]] - 1U, c = values_plus_1[p[2]] - 1U,
                 d = values_plus_1[p[3]] - 1U;

        return (a << 18 | b << 12 | c << 6 | d) | ((a | b | c | d) & UINT32_C(0xff000000));
}

int base64_decode_to(const char *s, size_t n, void *data, size_t *ret_size) {
        const uint8_t *p = (const uint8_t *) s;
        size_t padding = 0, whole;
        uint8_t *out = data;
        uint32_t bad = 0;

        if (n % 4 != 0)
                return -EINVAL;
        if (n > 0)
                padding = p[n - 1] != '=' ? 0 : p[n - 2] != '=' ? 1 : 2;
        whole = padding > 0 ? n - 4 : n;

        /* What is written stays behind what has been read, for those who decode in place. */
        for (size_t i = 0; i < whole; i += 4, out += 3) {
                uint32_t v = decode_quad(p + i);

                bad |= v;
                out[0] = (uint8_t) (v >> 16);
                out[1] = (uint8_t) (v >> 8);
                out[2] = (uint8_t) v;
        }
        if (padding > 0) {
                uint8_t last[4] = { p[n - 4], p[n - 3], padding == 2 ? 'A' : p[n - 2], 'A' };
                uint32_t v = decode_quad(last);

                bad |= v;
                *out++ = (uint8_t) (v >> 16);
                if (padding == 1)
                        *out++ = (uint8_t) (v >> 8);
                if (v & (padding == 1 ? 0xffU : 0xffffU)) /* stray bits: the same bytes would have two spellings */
                        bad = UINT32_MAX;
        }
        if (bad & UINT32_C(0xff000000))
                return -EINVAL;
        *ret_size = n / 4 * 3 - padding;
        return 0;
}

int base64_decode(const char *s, size_t n, void **ret, size_t *ret_size) {
        size_t room = n / 4 * 3;
        uint8_t *data;
        int r;

        data = malloc(room + 1);
        if (!data)
                return -ENOMEM;
        r = base64_decode_to(s, n, data, ret_size);
        if (r < 0) {
                explicit_bzero(data, room); /* a mistyped key is nearly a key */
                free(data);
                return r;
        }
        data[*ret_size] = 0;
        *ret = data;
        return 0;
}
