/* options.h: command-line options as tables, over getopt_long(3), so that the help text and the
 * parser are one. */
#pragma once

#include <stddef.h>
#include <stdio.h>

typedef struct Option {
        const char *name;     /* "message-id"; NULL ends a table */
        char letter;          /* 'p', or 0 */
        const char *argument; /* "NAME=VALUE"; NULL: a flag, which takes none */
        const char *help;     /* may have several lines */

        /* value is borrowed from argv, NULL for a flag. 0; -EINVAL (not such a value), -ERANGE or
         * -ENOMEM. */
        int (*parse)(const char *value, void *field);
        size_t offset; /* of the field in the destination that belongs to the table */
} Option;

int option_flag(const char *value, void *field);     /* bool */
int option_string(const char *value, void *field);   /* const char * */
int option_path(const char *value, void *field);     /* const char *, not empty */
int option_u64(const char *value, void *field);      /* uint64_t */
int option_count(const char *value, void *field);    /* uint64_t, not 0 */
int option_timespan(const char *value, void *field); /* usec_t */
int option_ttl(const char *value, void *field);      /* usec_t, neither 0 nor infinity */
int option_port(const char *value, void *field);     /* unsigned, 1..65535 */
int option_property(const char *value, void *field); /* PropertyBag, to which it adds NAME=VALUE */

typedef struct OptionTable {
        const Option *options;
        void *destination;
} OptionTable;

/* Parses argv[1..]. permute: options may stand behind arguments (up to "--"); else parsing ends at
 * the first argument. Returns the index of the first argument; arguments are moved behind the
 * options. -EINVAL after the mistake was told on stderr, -ENOMEM. */
int options_parse(const OptionTable *tables, size_t n_tables, int argc, char **argv, int permute);

/* The table as lines for --help. */
void options_print(FILE *f, const Option *options);
