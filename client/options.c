/* getopt_long() wants its own arrays and a string of letters: they are built from our tables for
 * each call. The value that it returns for an option is its index over all tables. */
#include <getopt.h>

#include "lib/parse-util.h"
#include "lib/property-bag.h"
#include "client/options.h"
#include "client/output.h"

#define OPTIONS_MAX 64U
#define OPTION_VALUE_FIRST 256 /* above every letter */

int option_flag(_unused_ const char *value, void *field) {
        *(bool *) field = true;
        return 0;
}

int option_string(const char *value, void *field) {
        *(const char **) field = value;
        return 0;
}

int option_path(const char *value, void *field) {
        return *value ? option_string(value, field) : -EINVAL;
}

int option_u64(const char *value, void *field) {
        return parse_u64(value, field);
}

int option_count(const char *value, void *field) {
        return parse_u64_range(value, 1, UINT64_MAX, field);
}

int option_property(const char *value, void *field) {
        _cleanup_free_ char *name = NULL;
        const char *equals;

        equals = strchr(value, '=');
        if (!equals || equals == value)
                return -EINVAL;
        name = strndup(value, (size_t) (equals - value));
        if (!name)
                return -ENOMEM;
        return property_bag_add(field, name, equals + 1);
}

int option_timespan(const char *value, void *field) {
        return parse_timespan(value, field);
}

/* "infinity" would read as "never" where the daemon has a limit of its own, and has no place on the
 * wire. */
int option_ttl(const char *value, void *field) {
        usec_t span;
        int r;

        r = parse_timespan(value, &span);
        if (r < 0)
                return r;
        if (span == 0 || span >= INT64_MAX)
                return -ERANGE;
        *(usec_t *) field = span;
        return 0;
}

int option_port(const char *value, void *field) {
        uint64_t port;
        int r;

        r = parse_u64_range(value, 1, 65535, &port);
        if (r < 0)
                return r;
        *(unsigned *) field = (unsigned) port;
        return 0;
}

typedef struct Flat {
        const Option *options[OPTIONS_MAX];
        void *destinations[OPTIONS_MAX];
        struct option longs[OPTIONS_MAX + 1];
        char letters[2 * OPTIONS_MAX + 3];
        int n;
} Flat;

static int flatten(const OptionTable *tables, size_t n_tables, int permute, Flat *f) {
        char *letter = f->letters;

        memset(f, 0, sizeof(*f));
        if (!permute)
                *letter++ = '+';
        *letter++ = ':'; /* a missing value is told apart from an unknown option */
        for (size_t t = 0; t < n_tables; t++)
                for (const Option *o = tables[t].options; o && o->name; o++) {
                        if (f->n >= (int) OPTIONS_MAX)
                                return -E2BIG;
                        f->longs[f->n] = (struct option){
                                .name = o->name,
                                .has_arg = o->argument ? required_argument : no_argument,
                                .val = OPTION_VALUE_FIRST + f->n,
                        };
                        if (o->letter) {
                                *letter++ = o->letter;
                                if (o->argument)
                                        *letter++ = ':';
                        }
                        f->destinations[f->n] = tables[t].destination;
                        f->options[f->n++] = o;
                }
        return 0;
}

static int find(const Flat *f, int c) {
        if (c >= OPTION_VALUE_FIRST)
                return c - OPTION_VALUE_FIRST;
        for (int i = 0; i < f->n; i++)
                if (c > 0 && f->options[i]->letter == c)
                        return i;
        return -1;
}

/* After '?' and ':' optopt holds the letter, the value of a long option, or 0 for an unknown long
 * one, which then is the word before optind. */
static void complain(const Flat *f, int c, char **argv) {
        int i = find(f, optopt);

        if (c == ':' && i >= 0)
                say_error("Option --%s needs a value: %s", f->options[i]->name,
                          f->options[i]->argument);
        else if (i >= 0)
                say_error("Option --%s takes no value", f->options[i]->name);
        else if (optopt > 0 && optopt < OPTION_VALUE_FIRST)
                say_error("Unknown option -%c; --help lists the options", optopt);
        else
                say_error("Unknown or ambiguous option %s; --help lists the options",
                          argv[optind - 1]);
}

static int apply(const Option *o, void *destination, const char *value) {
        int r;

        r = o->parse(value, (char *) destination + o->offset);
        if (r == -ENOMEM)
                say_error("Out of memory");
        else if (r == -ERANGE)
                say_error("--%s: \"%s\" is out of range", o->name, value);
        else if (r < 0 && streq(o->argument, "SPAN"))
                say_error("--%s: \"%s\" is no span of time, such as 30s, 10min or 1h", o->name,
                          value);
        else if (r < 0)
                say_error("--%s: \"%s\" is not of the form %s", o->name, value, o->argument);
        return r == -ENOMEM ? r : r < 0 ? -EINVAL : 0;
}

int options_parse(const OptionTable *tables, size_t n_tables, int argc, char **argv, int permute) {
        Flat f;
        int r;

        r = flatten(tables, n_tables, permute, &f);
        if (r < 0)
                return r;

        optind = 0; /* glibc: start over, also with another order */
        opterr = 0;
        for (;;) {
                int c, i;

                c = getopt_long(argc, argv, f.letters, f.longs, NULL);
                if (c < 0)
                        return optind;
                i = c == '?' || c == ':' ? -1 : find(&f, c);
                if (i < 0) {
                        complain(&f, c, argv);
                        return -EINVAL;
                }
                r = apply(f.options[i], f.destinations[i], optarg);
                if (r < 0)
                        return r;
        }
}

void options_print(FILE *f, const Option *options) {
        const int column = 32;

        for (const Option *o = options; o && o->name; o++) {
                int n = 0;

                if (o->letter)
                        n += fprintf(f, "  -%c, ", o->letter);
                else
                        n += fprintf(f, "      ");
                n += fprintf(f, "--%s", o->name);
                if (o->argument)
                        n += fprintf(f, " %s", o->argument);
                for (const char *line = o->help; *line;) {
                        size_t length = strcspn(line, "\n");

                        if (n > column - 2)
                                n = fprintf(f, "\n") - 1;
                        fprintf(f, "%*s%.*s\n", column - n, "", (int) length, line);
                        n = 0;
                        line += length + (line[length] == '\n');
                }
        }
}
