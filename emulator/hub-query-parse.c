/* By recursive descent over one text; nodes are indices into one array, so that freeing is one loop
 * and a hostile text can cost no more than its bounds. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <strings.h>

#include "emulator/hub-query-private.h"
#include "lib/buffer.h"
#include "lib/parse-util.h"

typedef enum TokenKind {
        TOKEN_END,
        TOKEN_NAME,    /* text */
        TOKEN_BRACKET, /* [[text]] */
        TOKEN_STRING,  /* text, unescaped */
        TOKEN_NUMBER,
        TOKEN_SIGN, /* text: "=", "<=", "(" .. */
} TokenKind;

typedef struct Parser {
        HubQuery *query;
        const char *text;
        size_t at; /* behind the token */
        TokenKind kind;
        size_t begin; /* of the token */
        Buffer token; /* NUL-terminated */
        double number;
        unsigned depth;
        const char *error;
        size_t error_at;
        int result; /* 0, -EINVAL or -ENOMEM */
} Parser;

static int fail(Parser *p, const char *why) {
        if (p->result == 0) {
                p->result = -EINVAL;
                p->error = why;
                p->error_at = p->begin;
        }
        return -1;
}

static int no_memory(Parser *p) {
        p->result = -ENOMEM;
        return -1;
}

static void set_token(Parser *p, TokenKind kind, const char *s, size_t n) {
        p->kind = kind;
        p->token.size = 0;
        if (buffer_append(&p->token, s, n) < 0 || buffer_append(&p->token, "", 1) < 0)
                (void) no_memory(p);
}

static bool is_name_character(char c) {
        return isalnum((unsigned char) c) || c == '_' || c == '$' || c == '-' || (c & 0x80);
}

/* A string ends with its quote; a backslash takes the next character as it is. */
static void read_string(Parser *p) {
        const char quote = p->text[p->at];
        size_t i = p->at + 1;

        p->kind = TOKEN_STRING;
        p->token.size = 0;
        for (; p->text[i] && p->text[i] != quote; i++) {
                if (p->text[i] == '\\' && p->text[i + 1])
                        i++;
                if (buffer_append(&p->token, p->text + i, 1) < 0)
                        (void) no_memory(p);
        }
        if (!p->text[i])
                (void) fail(p, "a string has no end");
        else
                i++;
        if (buffer_append(&p->token, "", 1) < 0)
                (void) no_memory(p);
        p->at = i;
}

static void read_number(Parser *p) {
        char *end = NULL;

        p->number = strtod(p->text + p->at, &end);
        p->kind = TOKEN_NUMBER;
        p->at = (size_t) (end - p->text);
        if (!isfinite(p->number) || is_name_character(p->text[p->at]))
                (void) fail(p, "a number is none");
}

static void read_bracketed(Parser *p) {
        const char *begin = p->text + p->at + 2, *end = strstr(begin, "]]");

        if (!end || end == begin) {
                (void) fail(p, "a name in [[ ]] has no end, or is empty");
                p->at = strlen(p->text);
                set_token(p, TOKEN_END, "", 0);
                return;
        }
        set_token(p, TOKEN_BRACKET, begin, (size_t) (end - begin));
        p->at = (size_t) (end - p->text) + 2;
}

static void advance(Parser *p) {
        static const char *const signs[] = { "!=", "<>", "<=", ">=" };
        const char *s;
        size_t n;

        p->at += strspn(p->text + p->at, " \t\r\n");
        p->begin = p->at;
        s = p->text + p->at;
        if (!*s)
                return set_token(p, TOKEN_END, "", 0);
        if (*s == '\'' || *s == '"')
                return read_string(p);
        if (isdigit((unsigned char) *s))
                return read_number(p);
        if (s[0] == '[' && s[1] == '[')
                return read_bracketed(p);
        if (isalpha((unsigned char) *s) || *s == '_' || *s == '$' || (*s & 0x80)) {
                for (n = 0; is_name_character(s[n]); n++)
                        ;
                set_token(p, TOKEN_NAME, s, n);
                p->at += n;
                return;
        }
        n = 1;
        for (size_t i = 0; i < ELEMENTSOF(signs); i++)
                if (startswith(s, signs[i]))
                        n = 2;
        set_token(p, TOKEN_SIGN, s, n);
        p->at += n;
}

static const char *token(const Parser *p) {
        return p->token.data ? (const char *) p->token.data : "";
}

static bool at_sign(const Parser *p, const char *s) {
        return p->kind == TOKEN_SIGN && streq(token(p), s);
}

static bool at_word(const Parser *p, const char *word) {
        return p->kind == TOKEN_NAME && strcasecmp(token(p), word) == 0;
}

static bool take_sign(Parser *p, const char *s) {
        if (!at_sign(p, s))
                return false;
        advance(p);
        return true;
}

static bool take_word(Parser *p, const char *word) {
        if (!at_word(p, word))
                return false;
        advance(p);
        return true;
}

static int new_node(Parser *p, QueryOp op, int a, int b) {
        HubQuery *q = p->query;
        QueryNode *nodes;

        if (p->result != 0)
                return -1;
        if (q->n_nodes >= QUERY_NODES_MAX)
                return fail(p, "the query is too long");
        if ((q->n_nodes & (q->n_nodes - 1)) == 0) { /* grows to the next power of two */
                nodes = reallocarray(q->nodes, q->n_nodes ? 2 * q->n_nodes : 1, sizeof(*nodes));
                if (!nodes)
                        return no_memory(p);
                q->nodes = nodes;
        }
        q->nodes[q->n_nodes] = (QueryNode) { .op = op, .a = a, .b = b, .next = -1 };
        return (int) q->n_nodes++;
}

static int text_node(Parser *p, QueryOp op, const char *text, size_t n) {
        int node = new_node(p, op, -1, -1);
        char *copy;

        if (node < 0)
                return -1;
        copy = malloc(n + 1);
        if (!copy)
                return no_memory(p);
        memcpy(copy, text, n);
        copy[n] = '\0';
        p->query->nodes[node].text = copy;
        return node;
}

static bool is_collection(const Parser *p, const char *name) {
        return (p->query->alias && streq(name, p->query->alias)) || strcasecmp(name, "devices") == 0;
}

/* "tags.a.[[b c]]", which the token begins. The collection or its alias in front is left away. */
static int parse_path(Parser *p) {
        _cleanup_(buffer_done) Buffer names = { 0 };
        size_t n_names = 0;
        int node;

        for (;;) {
                const char *name = token(p);

                if (p->kind != TOKEN_NAME && p->kind != TOKEN_BRACKET)
                        return fail(p, "the name of a property is missing");
                if (n_names > 0 || p->kind == TOKEN_BRACKET || !is_collection(p, name) ||
                    p->text[p->at] != '.') {
                        if (n_names++ > 0 && buffer_append(&names, "", 1) < 0)
                                return no_memory(p);
                        if (buffer_append_string(&names, name) < 0)
                                return no_memory(p);
                }
                advance(p);
                if (p->kind == TOKEN_BRACKET)
                        continue; /* the dot before it may be missing */
                if (!take_sign(p, "."))
                        break;
        }
        if (buffer_append(&names, "", 1) < 0)
                return no_memory(p);
        node = text_node(p, QUERY_PATH, (const char *) names.data, names.size - 1);
        if (node >= 0)
                p->query->nodes[node].n_names = n_names;
        return node;
}

static int parse_expression(Parser *p);

/* "a, b, c" up to the closing sign; the index of the first, -1 for none. */
static int parse_list(Parser *p, const char *close, size_t *ret_n) {
        int first = -1, last = -1;

        *ret_n = 0;
        if (take_sign(p, close))
                return -1;
        do {
                int node = parse_expression(p);

                if (node < 0)
                        return -1;
                if (last >= 0)
                        p->query->nodes[last].next = node;
                else
                        first = node;
                last = node;
                (*ret_n)++;
        } while (take_sign(p, ","));
        if (!take_sign(p, close))
                return fail(p, "a bracket is not closed");
        return first;
}

static const struct {
        const char *name;
        QueryOp op;
        size_t n_arguments;
} functions[] = {
        { "IS_DEFINED", QUERY_IS_DEFINED, 1 },     { "IS_NULL", QUERY_IS_NULL, 1 },
        { "IS_BOOL", QUERY_IS_BOOL, 1 },           { "IS_NUMBER", QUERY_IS_NUMBER, 1 },
        { "IS_STRING", QUERY_IS_STRING, 1 },       { "IS_OBJECT", QUERY_IS_OBJECT, 1 },
        { "IS_ARRAY", QUERY_IS_ARRAY, 1 },         { "IS_PRIMITIVE", QUERY_IS_PRIMITIVE, 1 },
        { "STARTSWITH", QUERY_STARTS_WITH, 2 },    { "STARTS_WITH", QUERY_STARTS_WITH, 2 },
        { "ENDSWITH", QUERY_ENDS_WITH, 2 },        { "ENDS_WITH", QUERY_ENDS_WITH, 2 },
        { "CONTAINS", QUERY_CONTAINS, 2 },
};

/* The token is a name and a bracket follows. */
static int parse_call(Parser *p) {
        for (size_t i = 0; i < ELEMENTSOF(functions); i++) {
                size_t n;
                int first;

                if (!at_word(p, functions[i].name))
                        continue;
                advance(p);
                advance(p); /* the bracket */
                first = parse_list(p, ")", &n);
                if (p->result != 0)
                        return -1;
                if (n != functions[i].n_arguments)
                        return fail(p, "a function has too few or too many arguments");
                return new_node(p, functions[i].op, first, -1);
        }
        return fail(p, "the function is unknown");
}

static bool bracket_follows(const Parser *p) {
        const char *s = p->text + p->at;

        s += strspn(s, " \t\r\n");
        return *s == '(';
}

static int parse_primary(Parser *p) {
        int node;

        if (take_sign(p, "(")) {
                node = parse_expression(p);
                if (node >= 0 && !take_sign(p, ")"))
                        return fail(p, "a bracket is not closed");
                return node;
        }
        if (p->kind == TOKEN_STRING) {
                node = text_node(p, QUERY_STRING, token(p), p->token.size - 1);
                advance(p);
                return node;
        }
        if (p->kind == TOKEN_NUMBER) {
                node = new_node(p, QUERY_NUMBER, -1, -1);
                if (node >= 0)
                        p->query->nodes[node].number = p->number;
                advance(p);
                return node;
        }
        if (take_word(p, "true"))
                return new_node(p, QUERY_TRUE, -1, -1);
        if (take_word(p, "false"))
                return new_node(p, QUERY_FALSE, -1, -1);
        if (take_word(p, "null"))
                return new_node(p, QUERY_NULL, -1, -1);
        if (p->kind == TOKEN_NAME && bracket_follows(p))
                return parse_call(p);
        return parse_path(p);
}

static int parse_unary(Parser *p) {
        int node;

        if (!take_sign(p, "-"))
                return parse_primary(p);
        if (++p->depth > QUERY_DEPTH_MAX)
                return fail(p, "the query is nested too deeply");
        node = parse_unary(p);
        p->depth--;
        return node < 0 ? -1 : new_node(p, QUERY_NEGATE, node, -1);
}

typedef struct BinaryOperator {
        const char *sign;
        QueryOp op;
} BinaryOperator;

/* a op b op c, from the left. */
static int parse_chain(Parser *p, const BinaryOperator *operators, size_t n,
                       int (*operand)(Parser *p)) {
        int left = operand(p);

        while (left >= 0) {
                size_t i;
                int right;

                for (i = 0; i < n && !at_sign(p, operators[i].sign); i++)
                        ;
                if (i == n)
                        break;
                advance(p);
                right = operand(p);
                left = right < 0 ? -1 : new_node(p, operators[i].op, left, right);
        }
        return left;
}

static int parse_product(Parser *p) {
        static const BinaryOperator operators[] = {
                { "*", QUERY_MULTIPLY }, { "/", QUERY_DIVIDE }, { "%", QUERY_MODULO }
        };

        return parse_chain(p, operators, ELEMENTSOF(operators), parse_unary);
}

static int parse_sum(Parser *p) {
        static const BinaryOperator operators[] = { { "+", QUERY_ADD }, { "-", QUERY_SUBTRACT } };

        return parse_chain(p, operators, ELEMENTSOF(operators), parse_product);
}

static int parse_membership(Parser *p, int left, QueryOp op) {
        size_t n;
        int first;

        if (!take_sign(p, "["))
                return fail(p, "a list in square brackets is missing behind IN");
        first = parse_list(p, "]", &n);
        if (p->result != 0)
                return -1;
        return new_node(p, op, left, first);
}

static int parse_comparison(Parser *p) {
        static const BinaryOperator operators[] = {
                { "=", QUERY_EQUAL },          { "!=", QUERY_NOT_EQUAL }, { "<>", QUERY_NOT_EQUAL },
                { "<=", QUERY_LESS_EQUAL },    { "<", QUERY_LESS },
                { ">=", QUERY_GREATER_EQUAL }, { ">", QUERY_GREATER },
        };
        int left = parse_sum(p);

        if (left < 0)
                return -1;
        if (take_word(p, "IN"))
                return parse_membership(p, left, QUERY_IN);
        if (take_word(p, "NIN"))
                return parse_membership(p, left, QUERY_NOT_IN);
        for (size_t i = 0; i < ELEMENTSOF(operators); i++)
                if (take_sign(p, operators[i].sign)) {
                        int right = parse_sum(p);

                        return right < 0 ? -1 : new_node(p, operators[i].op, left, right);
                }
        return left;
}

static int parse_not(Parser *p) {
        int node;

        if (!take_word(p, "NOT"))
                return parse_comparison(p);
        if (++p->depth > QUERY_DEPTH_MAX)
                return fail(p, "the query is nested too deeply");
        node = parse_not(p);
        p->depth--;
        return node < 0 ? -1 : new_node(p, QUERY_NOT, node, -1);
}

static int parse_and(Parser *p) {
        int left = parse_not(p);

        while (left >= 0 && take_word(p, "AND")) {
                int right = parse_not(p);

                left = right < 0 ? -1 : new_node(p, QUERY_AND, left, right);
        }
        return left;
}

static int parse_expression(Parser *p) {
        int left;

        if (++p->depth > QUERY_DEPTH_MAX)
                return fail(p, "the query is nested too deeply");
        left = parse_and(p);
        while (left >= 0 && take_word(p, "OR")) {
                int right = parse_and(p);

                left = right < 0 ? -1 : new_node(p, QUERY_OR, left, right);
        }
        p->depth--;
        return left;
}

/* SELECT, FROM, GROUP BY, ORDER BY. */

static bool is_clause(const Parser *p) {
        static const char *const words[] = { "FROM", "WHERE", "GROUP", "ORDER", "AS" };

        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (at_word(p, words[i]))
                        return true;
        return false;
}

static QueryItem *new_item(Parser *p, QueryItems *items) {
        if (items->n >= QUERY_ITEMS_MAX) {
                (void) fail(p, "there are too many items");
                return NULL;
        }
        items->items[items->n] = (QueryItem) { .path = -1 };
        return items->items + items->n++;
}

static int name_item(Parser *p, QueryItem *item, size_t number) {
        char made[24];

        if (take_word(p, "AS")) {
                if (p->kind != TOKEN_NAME && p->kind != TOKEN_BRACKET)
                        return fail(p, "a name is missing behind AS");
                item->name = strdup(token(p));
                advance(p);
        } else if (item->aggregate == QUERY_PLAIN) {
                const QueryNode *n = p->query->nodes + item->path;
                const char *name = n->text;

                for (size_t i = 1; i < n->n_names; i++)
                        name += strlen(name) + 1;
                item->name = strdup(name);
        } else {
                (void) snprintf(made, sizeof(made), "$%zu", number); /* fits */
                item->name = strdup(made);
        }
        return item->name ? 0 : no_memory(p);
}

static int parse_select_item(Parser *p) {
        static const struct {
                const char *name;
                QueryAggregate aggregate;
        } aggregates[] = { { "COUNT", QUERY_COUNT },
                           { "SUM", QUERY_SUM },
                           { "AVG", QUERY_AVG },
                           { "MIN", QUERY_MIN },
                           { "MAX", QUERY_MAX } };
        QueryItem *item = new_item(p, &p->query->select);

        if (!item)
                return -1;
        for (size_t i = 0; i < ELEMENTSOF(aggregates) && bracket_follows(p); i++)
                if (at_word(p, aggregates[i].name))
                        item->aggregate = aggregates[i].aggregate;
        if (item->aggregate != QUERY_PLAIN) {
                p->query->aggregates = true;
                advance(p);
                advance(p); /* the bracket */
                if (item->aggregate == QUERY_COUNT)
                        (void) take_sign(p, "*"); /* COUNT(*) is as COUNT() */
                if (!at_sign(p, ")"))
                        item->path = parse_path(p);
                else if (item->aggregate != QUERY_COUNT)
                        return fail(p, "an aggregate needs a property");
                if (p->result == 0 && !take_sign(p, ")"))
                        return fail(p, "a bracket is not closed");
        } else
                item->path = parse_path(p);
        return p->result != 0 ? -1 : name_item(p, item, p->query->select.n);
}

static void parse_select(Parser *p) {
        if (!take_word(p, "SELECT")) {
                (void) fail(p, "a query begins with SELECT");
                return;
        }
        if (at_word(p, "TOP")) {
                advance(p);
                if (p->kind != TOKEN_NUMBER || p->number < 1 || p->number > 1e9 ||
                    p->number != floor(p->number)) {
                        (void) fail(p, "a number is missing behind TOP");
                        return;
                }
                p->query->top = (uint64_t) p->number;
                advance(p);
        }
        if (take_sign(p, "*")) {
                p->query->all = true;
                return;
        }
        while (p->result == 0 && parse_select_item(p) >= 0 && take_sign(p, ","))
                ;
}

static void parse_from(Parser *p) {
        if (!take_word(p, "FROM")) {
                (void) fail(p, "FROM is missing");
                return;
        }
        if (!take_word(p, "devices")) {
                (void) fail(p, "devices or devices.modules is needed behind FROM");
                return;
        }
        if (take_sign(p, ".")) {
                if (!take_word(p, "modules")) {
                        (void) fail(p, "devices or devices.modules is needed behind FROM");
                        return;
                }
                p->query->modules = true;
        }
        (void) take_word(p, "AS");
        if (p->kind == TOKEN_NAME && !is_clause(p)) {
                p->query->alias = strdup(token(p));
                if (!p->query->alias)
                        (void) no_memory(p);
                advance(p);
        }
}

static void parse_items(Parser *p, QueryItems *items, bool ordered) {
        if (!take_word(p, "BY")) {
                (void) fail(p, "BY is missing");
                return;
        }
        do {
                QueryItem *item = new_item(p, items);

                if (!item)
                        return;
                item->path = parse_path(p);
                if (ordered && take_word(p, "DESC"))
                        item->descending = true;
                else if (ordered)
                        (void) take_word(p, "ASC");
        } while (p->result == 0 && take_sign(p, ","));
}

static bool same_path(const HubQuery *q, int a, int b) {
        const QueryNode *x = q->nodes + a, *y = q->nodes + b;
        const char *s = x->text, *t = y->text;

        if (x->n_names != y->n_names)
                return false;
        for (size_t i = 0; i < x->n_names; i++, s += strlen(s) + 1, t += strlen(t) + 1)
                if (!streq(s, t))
                        return false;
        return true;
}

/* A plain item beside aggregates, or grouped, must be what is grouped by. */
static void check_groups(Parser *p) {
        const HubQuery *q = p->query;

        if (!q->aggregates && q->group.n == 0)
                return;
        if (q->all) {
                (void) fail(p, "SELECT * does not go with GROUP BY");
                return;
        }
        for (size_t i = 0; i < q->select.n; i++) {
                bool found = q->select.items[i].aggregate != QUERY_PLAIN;

                for (size_t k = 0; k < q->group.n && !found; k++)
                        found = same_path(q, q->select.items[i].path, q->group.items[k].path);
                if (!found) {
                        (void) fail(p, "a selected property is neither aggregated nor grouped by");
                        return;
                }
        }
        if (q->order.n > 0)
                (void) fail(p, "ORDER BY does not go with aggregates");
}

/* The alias is known only behind FROM, but stands in SELECT: so FROM is looked for first. */
static void find_alias(Parser *p) {
        Parser ahead = { .query = p->query, .text = p->text };

        advance(&ahead);
        while (ahead.result == 0 && ahead.kind != TOKEN_END && !at_word(&ahead, "FROM"))
                advance(&ahead);
        if (ahead.result == 0 && ahead.kind != TOKEN_END)
                parse_from(&ahead);
        if (ahead.result == -ENOMEM)
                (void) no_memory(p);
        p->query->modules = false;
        buffer_done(&ahead.token);
}

static void parse_query(Parser *p) {
        HubQuery *q = p->query;

        find_alias(p);
        advance(p);
        parse_select(p);
        if (p->result == 0) {
                free(q->alias);
                q->alias = NULL;
                parse_from(p);
        }
        if (p->result == 0 && take_word(p, "WHERE"))
                q->where = parse_expression(p);
        if (p->result == 0 && take_word(p, "GROUP"))
                parse_items(p, &q->group, /* ordered= */ false);
        if (p->result == 0 && take_word(p, "ORDER"))
                parse_items(p, &q->order, /* ordered= */ true);
        if (p->result == 0 && p->kind != TOKEN_END)
                (void) fail(p, "this is not expected here");
        if (p->result == 0)
                check_groups(p);
}

static void free_items(QueryItems *items) {
        for (size_t i = 0; i < items->n; i++)
                free(items->items[i].name);
}

HubQuery *hub_query_free(HubQuery *q) {
        if (!q)
                return NULL;
        for (size_t i = 0; i < q->n_nodes; i++)
                free(q->nodes[i].text);
        free(q->nodes);
        free_items(&q->select);
        free_items(&q->group);
        free_items(&q->order);
        free(q->alias);
        free(q);
        return NULL;
}

int hub_query_parse(const char *text, HubQuery **ret, const char **reterr_text, size_t *reterr_at) {
        _cleanup_(hub_query_freep) HubQuery *q = NULL;
        Parser p = { .text = text };

        *reterr_at = 0;
        *reterr_text = "the query is too long";
        if (strlen(text) > HUB_QUERY_BYTES_MAX)
                return -EINVAL;
        q = calloc(1, sizeof(*q));
        if (!q)
                return -ENOMEM;
        q->where = -1;
        q->top = UINT64_MAX;
        p.query = q;
        parse_query(&p);
        buffer_done(&p.token);
        if (p.result < 0) {
                *reterr_text = p.error ? p.error : "";
                *reterr_at = p.error_at;
                return p.result;
        }
        *ret = TAKE_PTR(q);
        return 0;
}
