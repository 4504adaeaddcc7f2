/* output.h: what people and programs read: sentences on stderr, tables and JSON on stdout, exit
 * codes. */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <sysexits.h>

#include "lib/json-util.h"
#include "lib/macro.h"
#include "lib/time-util.h"

/* Exit codes, beside those that sysexits.h names well (man/iothubctl.1, "EXIT STATUS"). */
#define EXIT_OFFLINE EX_NOHOST        /* the device is not connected */
#define EXIT_NOT_FOUND EX_NOINPUT     /* no such message or device */
#define EXIT_EXISTS EX_CANTCREAT      /* the device exists already */
#define EXIT_NO_DAEMON EX_UNAVAILABLE /* daemon or hub cannot be reached */
#define EXIT_TRY_AGAIN EX_TEMPFAIL    /* outbox full, timeout, throttled: may succeed later */

/* One line on stderr, "iothubctl: ...". Control characters that came from elsewhere are shown as
 * "?", so that no daemon or hub can drive the terminal. */
void say_error(const char *format, ...) _printf_(1, 2);

/* The sentence for running out of memory; returns its exit code. */
int say_out_of_memory(void);

/* Lines for --verbose, on stderr as they are but for control characters. */
void say_trace(const char *text, size_t n);

/* s with control characters replaced by "?". Fits into tables and lines. *ret is the caller's. 0 or
 * -ENOMEM. */
int printable(const char *s, char **ret);

/* Flushes stdout: EX_OK, or EX_IOERR after telling why (quietly if the reader went away). Pass the
 * exit code that the verb would end with; a failure replaces EX_OK only. */
int finish_output(int exit_code);

/* Columns as wide as their widest cell, two spaces between. */
typedef struct Table Table;

/* headers: NULL-terminated, borrowed. 0 or -ENOMEM. */
int table_new(const char *const *headers, Table **ret);
Table *table_free(Table *t);
DEFINE_CLEANUP(Table *, table_free);

/* The next cell, row by row; NULL shows as "-". Copied. 0 or -ENOMEM. */
int table_add(Table *t, const char *cell);
int table_addf(Table *t, const char *format, ...) _printf_(2, 3);
void table_print(const Table *t, FILE *f);

/* Prints the rows so far and forgets them, for tables without an end: the headers come with the first,
 * and columns only get wider. */
void table_flush(Table *t, FILE *f);

/* "Name:    value", with the value in one column. value NULL shows as "-". */
void print_field(const char *name, const char *value);
void print_fieldf(const char *name, const char *format, ...) _printf_(2, 3);

/* The object in one line. */
void print_json(struct json_object *o);

/* Over many lines, for people; control characters are escaped by JSON itself. */
void print_json_pretty(struct json_object *o);

#define FORMAT_BYTES_MAX 32U

/* "0B", "512B", "1.5K", "3.0M", "1.0G". Returns buf. */
char *format_bytes(char *buf, size_t size, uint64_t bytes);
