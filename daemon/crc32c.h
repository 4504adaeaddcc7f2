/* crc32c.h: CRC-32C (Castagnoli; RFC 3720 appendix B.4, vectors in test-crc32c.c). The CPU's own instruction
 * where it has one, a table otherwise. Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Extends crc (0 at the start) by n bytes. crc32c(crc32c(0, a), b) is the CRC of a followed by b. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);

/* The same without the CPU's instruction, so that a test compares the two. */
uint32_t crc32c_table(uint32_t crc, const void *data, size_t n);
