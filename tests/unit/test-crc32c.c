/* Goal: the checksum is CRC-32C on every CPU. Method: the vectors of RFC 3720 B.4, and the CPU's instruction against
 * the table over every length and alignment that the code treats apart. */
#include "daemon/crc32c.h"
#include "tests/support/test.h"

TEST(vectors_of_rfc_3720) {
        uint8_t data[32];

        memset(data, 0, sizeof(data));
        ck_assert_uint_eq(crc32c(0, data, 32), 0x8a9136aa);
        memset(data, 0xff, sizeof(data));
        ck_assert_uint_eq(crc32c(0, data, 32), 0x62a8ab43);
        for (unsigned i = 0; i < 32; i++)
                data[i] = (uint8_t) i;
        ck_assert_uint_eq(crc32c(0, data, 32), 0x46dd794e);
        for (unsigned i = 0; i < 32; i++)
                data[i] = (uint8_t) (31 - i);
        ck_assert_uint_eq(crc32c(0, data, 32), 0x113fdb5c);
        ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283);
}

TEST(instruction_and_table_agree_at_every_length_and_alignment) {
        uint8_t data[96];

        for (size_t i = 0; i < sizeof(data); i++)
                data[i] = (uint8_t) (i * 37 + 11);
        for (size_t at = 0; at < 16; at++)
                for (size_t n = 0; n + at <= sizeof(data); n++)
                        ck_assert_uint_eq(crc32c(7, data + at, n), crc32c_table(7, data + at, n));
}

TEST(a_crc_in_two_parts_is_the_crc_of_the_whole) {
        const char *s = "The quick brown fox jumps over the lazy dog, twice";

        for (size_t cut = 0; cut <= strlen(s); cut++)
                ck_assert_uint_eq(crc32c(crc32c(0, s, cut), s + cut, strlen(s) - cut), crc32c(0, s, strlen(s)));
}
