#include "lib/utf8.h"

#include <stdint.h>
#include <string.h>

/* Length of the sequence that begins at p, 0 where there is none. n > 0; *p is no ASCII character. */
static size_t sequence_length(const uint8_t *p, size_t n) {
        uint8_t low = 0x80, high = 0xbf; /* what the second byte may be */
        size_t length;

        if (p[0] < 0xc2) /* a lone continuation, or an overlong form of two bytes */
                return 0;
        if (p[0] < 0xe0)
                length = 2;
        else if (p[0] < 0xf0) {
                length = 3;
                if (p[0] == 0xe0)
                        low = 0xa0; /* overlong */
                else if (p[0] == 0xed)
                        high = 0x9f; /* surrogates */
        } else if (p[0] < 0xf5) {
                length = 4;
                if (p[0] == 0xf0)
                        low = 0x90; /* overlong */
                else if (p[0] == 0xf4)
                        high = 0x8f; /* above U+10FFFF */
        } else
                return 0;

        if (n < length || p[1] < low || p[1] > high)
                return 0;
        for (size_t i = 2; i < length; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
        return length;
}

bool utf8_is_valid(const void *data, size_t n) {
        const uint8_t *p = data, *end = p + n;

        while (p < end) {
                size_t length;

                /* Telemetry is ASCII nearly always: eight bytes at a time. */
                while (end - p >= 8) {
                        uint64_t word;

                        memcpy(&word, p, sizeof(word));
                        if (word & UINT64_C(0x8080808080808080))
                                break;
                        p += 8;
                }
                while (p < end && *p < 0x80)
                        p++;
                if (p == end)
                        break;
                length = sequence_length(p, (size_t) (end - p));
                if (length == 0)
                        return false;
                p += length;
        }
        return true;
}
