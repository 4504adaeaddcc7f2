#include "lib/string-util.h"

int vformat_string(char **ret, const char *format, va_list ap) {
        char *s;

        if (vasprintf(&s, format, ap) < 0)
                return -ENOMEM;
        *ret = s;
        return 0;
}

int format_string(char **ret, const char *format, ...) {
        va_list ap;
        int r;

        va_start(ap, format);
        r = vformat_string(ret, format, ap);
        va_end(ap);
        return r;
}

int copy_string(char **ret, const char *s) {
        char *copy = NULL;

        if (s) {
                copy = strdup(s);
                if (!copy)
                        return -ENOMEM;
        }
        *ret = copy;
        return 0;
}
