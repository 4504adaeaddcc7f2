#include <stdarg.h>

#include "client/output.h"

#include "lib/string-util.h"

static char *make_printable(char *s) {
        for (unsigned char *p = (unsigned char *) s; *p; p++)
                if (*p < 0x20 || *p == 0x7f)
                        *p = '?';
                else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* U+009B begins a command too */
                        *p++ = '?', *p = '?';
        return s;
}

void say_error(const char *format, ...) {
        _cleanup_free_ char *text = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&text, format, ap);
        va_end(ap);
        if (r < 0) {
                fputs("iothubctl: Out of memory\n", stderr);
                return;
        }
        fprintf(stderr, "iothubctl: %s\n", make_printable(text));
}

void say_trace(const char *text, size_t n) {
        _cleanup_free_ char *line = NULL;

        for (size_t from = 0; from < n;) {
                const char *end = memchr(text + from, '\n', n - from);
                size_t size = end ? (size_t) (end - text) - from : n - from;

                free(line);
                line = strndup(text + from, size);
                if (!line)
                        return; /* it is only for looking */
                fprintf(stderr, "%s\n", make_printable(line));
                from += size + 1;
        }
}

int say_out_of_memory(void) {
        fputs("iothubctl: Out of memory\n", stderr);
        return EX_OSERR;
}

int printable(const char *s, char **ret) {
        char *copy;

        copy = strdup(s);
        if (!copy)
                return -ENOMEM;
        *ret = make_printable(copy);
        return 0;
}

int finish_output(int exit_code) {
        if (fflush(stdout) == 0 && !ferror(stdout))
                return exit_code;
        if (errno != EPIPE)
                say_error("Cannot write the output: %m");
        return exit_code == EX_OK ? EX_IOERR : exit_code;
}

struct Table {
        size_t n_columns;
        char **cells; /* the headers first, until they are printed */
        size_t n_cells, n_allocated;
        size_t *widths; /* of what was printed */
};

int table_new(const char *const *headers, Table **ret) {
        _cleanup_(table_freep) Table *t = NULL;
        int r;

        t = calloc(1, sizeof(*t));
        if (!t)
                return -ENOMEM;
        while (headers[t->n_columns])
                t->n_columns++;
        for (size_t i = 0; i < t->n_columns; i++) {
                r = table_add(t, headers[i]);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(t);
        return 0;
}

Table *table_free(Table *t) {
        if (!t)
                return NULL;
        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i]);
        free(t->cells);
        free(t->widths);
        free(t);
        return NULL;
}

int table_add(Table *t, const char *cell) {
        char *copy;
        int r;

        if (t->n_cells == t->n_allocated) {
                size_t n = t->n_allocated ? 2 * t->n_allocated : 64;
                char **cells = reallocarray(t->cells, n, sizeof(char *));

                if (!cells)
                        return -ENOMEM;
                t->cells = cells;
                t->n_allocated = n;
        }
        r = printable(cell ? cell : "-", &copy);
        if (r < 0)
                return r;
        t->cells[t->n_cells++] = copy;
        return 0;
}

int table_addf(Table *t, const char *format, ...) {
        _cleanup_free_ char *cell = NULL;
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(&cell, format, ap);
        va_end(ap);
        if (r < 0)
                return r;
        return table_add(t, cell);
}

/* Columns on the screen: UTF-8 continuation bytes take none. Wide characters are rare here. */
static size_t width(const char *s) {
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char) *s & 0xc0) != 0x80;
        return n;
}

static size_t column_width(const Table *t, size_t column) {
        size_t max = 0;

        for (size_t i = column; i < t->n_cells; i += t->n_columns)
                max = MAX(max, width(t->cells[i]));
        return max;
}

static void print_cells(const Table *t, const size_t *widths, FILE *f) {
        for (size_t i = 0; i < t->n_cells; i++) {
                size_t column = i % t->n_columns, missing;

                missing = widths ? widths[column] - width(t->cells[i]) : 0;
                fputs(t->cells[i], f);
                if (column + 1 == t->n_columns)
                        fputc('\n', f);
                else
                        fprintf(f, "%*s", (int) missing + 2, "");
        }
}

void table_print(const Table *t, FILE *f) {
        _cleanup_free_ size_t *widths = calloc(t->n_columns, sizeof(size_t)); /* NULL: not aligned */

        for (size_t i = 0; widths && i < t->n_columns; i++)
                widths[i] = column_width(t, i);
        print_cells(t, widths, f);
}

void table_flush(Table *t, FILE *f) {
        if (!t->widths)
                t->widths = calloc(t->n_columns, sizeof(size_t)); /* NULL: not aligned */
        for (size_t i = 0; t->widths && i < t->n_columns; i++)
                t->widths[i] = MAX(t->widths[i], column_width(t, i));
        print_cells(t, t->widths, f);
        for (size_t i = 0; i < t->n_cells; i++)
                free(t->cells[i]);
        t->n_cells = 0;
}

void print_field(const char *name, const char *value) {
        _cleanup_free_ char *safe = NULL;

        if (value && printable(value, &safe) < 0)
                value = NULL;
        printf("%s:%*s%s\n", name, MAX(1, 27 - (int) strlen(name)), "", safe ? safe : "-");
}

void print_fieldf(const char *name, const char *format, ...) {
        _cleanup_free_ char *value = NULL;
        va_list ap;

        va_start(ap, format);
        (void) vformat_string(&value, format, ap); /* without memory the field is shown as absent */
        va_end(ap);
        print_field(name, value);
}

void print_json(struct json_object *o) {
        const char *text = json_object_to_json_string_ext(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

        if (text)
                puts(text);
}

void print_json_pretty(struct json_object *o) {
        const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
                                                                     JSON_C_TO_STRING_SPACED |
                                                                     JSON_C_TO_STRING_NOSLASHESCAPE);

        if (text)
                puts(text);
}

char *format_bytes(char *buf, size_t size, uint64_t bytes) {
        static const char units[] = "BKMGTPE";
        double value = (double) bytes;
        size_t u = 0;

        while (value >= 1024 && units[u + 1]) {
                value /= 1024;
                u++;
        }
        snprintf(buf, size, u == 0 ? "%.0f%c" : "%.1f%c", value, units[u]);
        return buf;
}
