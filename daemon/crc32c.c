#include "daemon/crc32c.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1UL << 7)
#endif
#endif

#define POLYNOMIAL 0x82f63b78U /* reflected; RFC 3720 section 12.1 */

/* Slicing by eight: tables[k][b] is the CRC of byte b followed by k zero bytes, so that eight bytes take eight
 * look-ups that do not wait for each other. */
static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void tables_init(void) {
        for (uint32_t b = 0; b < 256; b++) {
                uint32_t c = b;

                for (int i = 0; i < 8; i++)
                        c = (c >> 1) ^ ((c & 1) ? POLYNOMIAL : 0);
                tables[0][b] = c;
        }
        for (int k = 1; k < 8; k++)
                for (uint32_t b = 0; b < 256; b++)
                        tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 0xff];
}

uint32_t crc32c_table(uint32_t crc, const void *data, size_t n) {
        const uint8_t *p = data;

        pthread_once(&tables_once, tables_init);

        crc = ~crc;
        for (; n >= 8; n -= 8, p += 8)
                crc = tables[7][(p[0] ^ crc) & 0xff] ^ tables[6][(p[1] ^ (crc >> 8)) & 0xff] ^
                      tables[5][(p[2] ^ (crc >> 16)) & 0xff] ^ tables[4][p[3] ^ (crc >> 24)] ^
                      tables[3][p[4]] ^ tables[2][p[5]] ^ tables[1][p[6]] ^ tables[0][p[7]];
        for (; n > 0; n--, p++)
                crc = (crc >> 8) ^ tables[0][(crc ^ *p) & 0xff];
        return ~crc;
}

#if defined(__x86_64__)
#define HAVE_HARDWARE 1

static bool hardware_available(void) {
        return __builtin_cpu_supports("sse4.2");
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_hardware(uint32_t crc, const void *data, size_t n) {
        const uint8_t *p = data;
        uint64_t c = ~crc;

        for (; n >= 8; n -= 8, p += 8) {
                uint64_t word;

                memcpy(&word, p, 8);
                c = _mm_crc32_u64(c, word);
        }
        for (; n > 0; n--, p++)
                c = _mm_crc32_u8((uint32_t) c, *p);
        return ~(uint32_t) c;
}
#elif defined(__aarch64__) && defined(__linux__)
#define HAVE_HARDWARE 1

static bool hardware_available(void) {
        return getauxval(AT_HWCAP) & HWCAP_CRC32;
}

__attribute__((target("+crc"))) static uint32_t crc32c_hardware(uint32_t crc, const void *data, size_t n) {
        const uint8_t *p = data;
        uint32_t c = ~crc;

        for (; n >= 8; n -= 8, p += 8) {
                uint64_t word;

                memcpy(&word, p, 8);
                c = __crc32cd(c, word);
        }
        for (; n > 0; n--, p++)
                c = __crc32cb(c, *p);
        return ~c;
}
#else
#define HAVE_HARDWARE 0
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t n) {
#if HAVE_HARDWARE
        static int use_hardware = -1; /* every thread would store the same value */
        int h = __atomic_load_n(&use_hardware, __ATOMIC_RELAXED);

        if (h < 0) {
                h = hardware_available();
                __atomic_store_n(&use_hardware, h, __ATOMIC_RELAXED);
        }
        if (h)
                return crc32c_hardware(crc, data, n);
#endif
        return crc32c_table(crc, data, n);
}
