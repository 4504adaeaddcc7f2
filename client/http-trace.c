#include "client/http-trace.h"

#include <ctype.h>
#include <strings.h>

#define BODY_BYTES_MAX 16384U
#define STRUCK "***"

/* Length of the secret that begins at s, after a word that announces one; 0: none. */
static size_t secret_after_word(const char *s, const char *start, size_t n_left, size_t *ret_word) {
        static const char *const words[] = { "sig=", "SharedAccessKey=" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                size_t n = strlen(words[i]), secret = 0;

                if (n_left < n || strncasecmp(s, words[i], n) != 0)
                        continue;
                if (s > start && isalnum((unsigned char) s[-1])) /* "design=" */
                        continue;
                while (n + secret < n_left && !strchr("&;\"\\ \r\n,", s[n + secret]))
                        secret++;
                *ret_word = n;
                return secret;
        }
        return 0;
}

/* s stands behind a member's name that ends in Key: spaces, a colon, spaces, a string. */
static size_t secret_after_name(const char *s, size_t n_left, size_t *ret_skip) {
        size_t i = 0, begin;

        while (i < n_left && isspace((unsigned char) s[i]))
                i++;
        if (i >= n_left || s[i++] != ':')
                return 0;
        while (i < n_left && isspace((unsigned char) s[i]))
                i++;
        if (i >= n_left || s[i++] != '"')
                return 0;
        begin = i;
        while (i < n_left && s[i] != '"')
                i += s[i] == '\\' ? 2 : 1;
        *ret_skip = begin;
        return MIN(i, n_left) - begin;
}

/* Behind "://" or a quote, as curl writes a proxy's address: what stands before the "@", the user and the
 * password. */
static size_t secret_of_address(const char *s, size_t n_left, size_t *ret_skip) {
        const size_t begin = *s == '\'' ? 1 : 3;
        size_t end = 0;

        if (begin == 3 && (n_left < 3 || memcmp(s, "://", 3) != 0))
                return 0;
        for (size_t i = begin; i < n_left && !strchr("/?#\r\n", s[i]); i++)
                if (s[i] == '@')
                        end = i;
        *ret_skip = begin;
        return end > begin ? end - begin : 0;
}

/* A line is curl's own word or a header: there a password may hold what ends an address in JSON. */
static int strike_out(Buffer *out, const char *text, size_t n, bool line) {
        size_t from = 0, i = 0;
        int r = 0;

        while (i < n && r >= 0) {
                size_t skip = 0, secret = 0;

                if (line && (text[i] == ':' || text[i] == '\''))
                        secret = secret_of_address(text + i, n - i, &skip);
                else if (text[i] == 's' || text[i] == 'S')
                        secret = secret_after_word(text + i, text, n - i, &skip);
                else if (n - i >= 4 && strncasecmp(text + i, "key\"", 4) == 0) {
                        secret = secret_after_name(text + i + 4, n - i - 4, &skip);
                        skip += 4;
                }
                if (secret == 0) {
                        i++;
                        continue;
                }
                r = buffer_append(out, text + from, i + skip - from);
                if (r >= 0)
                        r = buffer_append_string(out, STRUCK);
                i += skip + secret;
                from = i;
        }
        return r < 0 ? r : buffer_append(out, text + from, n - from);
}

int http_trace_header(Buffer *out, const char *prefix, const char *line, size_t n) {
        static const char proxy[] = "Proxy-Authorization:";
        int r;

        r = buffer_append_string(out, prefix);
        if (r >= 0 && n >= strlen(proxy) && strncasecmp(line, proxy, strlen(proxy)) == 0)
                r = buffer_appendf(out, "%s %s", proxy, STRUCK);
        else if (r >= 0)
                r = strike_out(out, line, n, /* line= */ true);
        return r < 0 ? r : buffer_append_string(out, "\n");
}

int http_trace_body(Buffer *out, const char *prefix, const char *body, size_t n) {
        _cleanup_(buffer_done) Buffer text = {};
        const size_t shown = MIN(n, (size_t) BODY_BYTES_MAX);
        size_t from = 0;
        int r;

        r = strike_out(&text, body, shown, /* line= */ false);
        if (r >= 0 && shown < n)
                r = buffer_appendf(&text, "... (%zu bytes more)", n - shown);
        while (r >= 0 && from < text.size) {
                const char *line = (const char *) text.data + from;
                const char *end = memchr(line, '\n', text.size - from);
                size_t size = end ? (size_t) (end - line) : text.size - from;

                r = buffer_append_string(out, prefix);
                if (r >= 0)
                        r = buffer_append(out, line, size);
                if (r >= 0)
                        r = buffer_append_string(out, "\n");
                from += size + 1;
        }
        return r;
}
