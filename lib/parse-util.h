/* parse-util.h: checked numbers, sizes and spans of time. The whole text must be the value: leading or
 * trailing characters other than the unit are an error. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/time-util.h"

/* Decimal, 0 to UINT64_MAX, digits only. 0, -EINVAL (not a number) or -ERANGE. */
int parse_u64(const char *s, uint64_t *ret);

/* Decimal within min..max. 0, -EINVAL or -ERANGE. */
int parse_u64_range(const char *s, uint64_t min, uint64_t max, uint64_t *ret);

/* "64M", "1G", "512", "4096B", "16K": powers of 1024, units B K M G T, optional "iB" after the letter.
 * 0, -EINVAL or -ERANGE. */
int parse_size(const char *s, uint64_t *ret);

/* "5min", "1h 30min", "250ms", "30" (seconds when no unit): units us ms s sec m min h d w, fractions
 * allowed ("1.5s"); "infinity" gives USEC_INFINITY. As systemd.time(7). 0, -EINVAL or -ERANGE. */
int parse_timespan(const char *s, usec_t *ret);

/* yes/no, true/false, on/off, 1/0. 0 or -EINVAL. */
int parse_boolean(const char *s, bool *ret);

/* 32 lower- or upper-case hex digits, dashes allowed as in a UUID, to 16 bytes. 0 or -EINVAL. */
int parse_id128(const char *s, uint8_t ret[static 16]);

/* 16 bytes to 32 lower-case hex digits and a NUL. Returns buf. */
char *format_id128(const uint8_t id[static 16], char buf[static 33]);

/* The same as a UUID, with its dashes. Returns buf. */
char *format_uuid(const uint8_t id[static 16], char buf[static 37]);
