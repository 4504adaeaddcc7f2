/* Every sequence of up to three bytes, and four-byte ones around each border, against a decoder that is written the
 * plain way: read a code point, then ask whether it may be spelled so. */
#include "tests/support/test.h"

#include "lib/utf8.h"
#include "tests/support/random.h"

static bool plain_is_valid(const uint8_t *p, size_t n) {
        while (n > 0) {
                unsigned length = p[0] < 0x80         ? 1
                                  : (p[0] >> 5) == 6  ? 2
                                  : (p[0] >> 4) == 14 ? 3
                                  : (p[0] >> 3) == 30 ? 4
                                                      : 0;
                static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
                uint32_t code;

                if (length == 0 || length > n)
                        return false;
                code = length == 1 ? p[0] : p[0] & (0x7fU >> length);
                for (unsigned i = 1; i < length; i++) {
                        if ((p[i] & 0xc0) != 0x80)
                                return false;
                        code = code << 6 | (p[i] & 0x3f);
                }
                if (code < smallest[length] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
                        return false;
                p += length;
                n -= length;
        }
        return true;
}

static void check(const uint8_t *p, size_t n) {
        /* No ck_assert: it is called millions of times. */
        if (utf8_is_valid(p, n) != plain_is_valid(p, n)) {
                for (size_t i = 0; i < n; i++)
                        printf("# %02x\n", p[i]);
                ck_abort_msg("wrong verdict on the bytes above");
        }
}

TEST(all_sequences_of_up_to_three_bytes) {
        for (uint32_t i = 0; i < 1U << 24; i++) {
                uint8_t p[3] = { (uint8_t) (i >> 16), (uint8_t) (i >> 8), (uint8_t) i };

                check(p, 3);
                if ((i & 0xff) == 0)
                        check(p, 2);
                if ((i & 0xffff) == 0)
                        check(p, 1);
        }
        ck_assert(utf8_is_valid("", 0));
}

TEST(four_byte_sequences_around_every_border) {
        static const uint8_t bytes[] = { 0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xe0, 0xff };

        for (unsigned a = 0xe0; a <= 0xff; a++)
                for (unsigned b = 0; b <= 0xff; b++)
                        for (size_t c = 0; c < sizeof(bytes); c++)
                                for (size_t d = 0; d < sizeof(bytes); d++) {
                                        uint8_t p[4] = { (uint8_t) a, (uint8_t) b, bytes[c], bytes[d] };

                                        check(p, 4);
                                }
}

/* The fast path reads eight bytes at a time: a fault at every place of texts of every length around that. */
TEST(a_fault_is_found_at_every_place) {
        Random random = { .state = test_seed() };
        uint8_t text[40];

        for (size_t n = 0; n <= sizeof(text); n++) {
                for (size_t i = 0; i < n; i++) {
                        memset(text, 'a', sizeof(text));
                        ck_assert(utf8_is_valid(text, n));
                        text[i] = 0xff;
                        ck_assert(!utf8_is_valid(text, n));
                }
                for (unsigned k = 0; k < 20000; k++) {
                        for (size_t i = 0; i < n; i++)
                                text[i] =
                                        random_one_in(&random, 6) ? (uint8_t) (0x80 + random_below(&random, 128)) : 'a';
                        check(text, n);
                }
        }
}
