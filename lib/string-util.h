/* string-util.h: text in memory of its own. */
#pragma once

#include <stdarg.h>

#include "lib/macro.h"

/* As asprintf(3), with an error code. *ret is the caller's to free, and untouched on failure, so that a _cleanup_free_
 * variable stays fit to be freed. 0 or -ENOMEM. */
int format_string(char **ret, const char *format, ...) _printf_(2, 3);
int vformat_string(char **ret, const char *format, va_list ap) __attribute__((format(printf, 2, 0)));

/* A copy of s, or NULL of NULL; *ret as above. */
int copy_string(char **ret, const char *s);
