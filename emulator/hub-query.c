/* A value may be undefined: a property that is not there. Whatever is compared with it, or with a value
 * of another kind, is undefined too, and a twin matches only where the whole is true. */
#include <errno.h>
#include <math.h>

#include "emulator/hub-query-private.h"
#include "lib/json-util.h"

typedef enum ValueKind {
        VALUE_UNDEFINED,
        VALUE_NULL,
        VALUE_BOOL,
        VALUE_NUMBER,
        VALUE_STRING,
        VALUE_OTHER, /* object or array */
} ValueKind;

typedef struct Value {
        ValueKind kind;
        bool boolean;
        double number;
        const char *string; /* borrowed */
        struct json_object *object; /* borrowed: what it came from, or NULL */
} Value;

static Value of_bool(bool b) {
        return (Value) { .kind = VALUE_BOOL, .boolean = b };
}

static Value of_number(double n) {
        return isfinite(n) ? (Value) { .kind = VALUE_NUMBER, .number = n } : (Value) { 0 };
}

static Value of_json(struct json_object *o) {
        Value v = { .kind = VALUE_NULL, .object = o };

        switch (json_object_get_type(o)) {
        case json_type_null: break;
        case json_type_boolean:
                v.kind = VALUE_BOOL;
                v.boolean = json_object_get_boolean(o);
                break;
        case json_type_int:
        case json_type_double:
                v.kind = VALUE_NUMBER;
                v.number = json_object_get_double(o);
                break;
        case json_type_string:
                v.kind = VALUE_STRING;
                v.string = json_object_get_string(o);
                break;
        default: v.kind = VALUE_OTHER;
        }
        return v;
}

static Value look_up(const QueryNode *n, struct json_object *twin) {
        const char *name = n->text;

        for (size_t i = 0; i < n->n_names; i++, name += strlen(name) + 1)
                if (!json_object_is_type(twin, json_type_object) ||
                    !json_object_object_get_ex(twin, name, &twin))
                        return (Value) { 0 };
        return of_json(twin);
}

/* -1, 0, 1, or -2 where there is no order. */
static int compare_values(const Value *a, const Value *b) {
        int order;

        if (a->kind != b->kind || a->kind == VALUE_UNDEFINED)
                return -2;
        switch (a->kind) {
        case VALUE_NULL: return 0;
        case VALUE_BOOL: return (int) a->boolean - (int) b->boolean;
        case VALUE_NUMBER: return (a->number > b->number) - (a->number < b->number);
        case VALUE_STRING:
                order = strcmp(a->string, b->string);
                return (order > 0) - (order < 0);
        default: return json_object_equal(a->object, b->object) ? 0 : -2;
        }
}

static Value evaluate(const HubQuery *q, int node, struct json_object *twin);

static Value evaluate_comparison(const HubQuery *q, const QueryNode *n, struct json_object *twin) {
        Value a = evaluate(q, n->a, twin), b = evaluate(q, n->b, twin);
        int order = compare_values(&a, &b);

        if (order == -2) {
                /* Objects that differ are known to; all else cannot be compared. */
                if (a.kind == VALUE_OTHER && b.kind == VALUE_OTHER &&
                    (n->op == QUERY_EQUAL || n->op == QUERY_NOT_EQUAL))
                        return of_bool(n->op == QUERY_NOT_EQUAL);
                return (Value) { 0 };
        }
        switch (n->op) {
        case QUERY_EQUAL: return of_bool(order == 0);
        case QUERY_NOT_EQUAL: return of_bool(order != 0);
        case QUERY_LESS: return of_bool(order < 0);
        case QUERY_LESS_EQUAL: return of_bool(order <= 0);
        case QUERY_GREATER: return of_bool(order > 0);
        default: return of_bool(order >= 0);
        }
}

static Value evaluate_arithmetic(const HubQuery *q, const QueryNode *n, struct json_object *twin) {
        Value a = evaluate(q, n->a, twin), b = { .kind = VALUE_NUMBER };

        if (n->b >= 0)
                b = evaluate(q, n->b, twin);
        if (a.kind != VALUE_NUMBER || b.kind != VALUE_NUMBER)
                return (Value) { 0 };
        switch (n->op) {
        case QUERY_ADD: return of_number(a.number + b.number);
        case QUERY_SUBTRACT: return of_number(a.number - b.number);
        case QUERY_MULTIPLY: return of_number(a.number * b.number);
        case QUERY_DIVIDE: return of_number(a.number / b.number);
        case QUERY_MODULO: return of_number(fmod(a.number, b.number));
        default: return of_number(-a.number);
        }
}

/* What is decided by one side is decided, whatever the other is. */
static Value evaluate_logic(const HubQuery *q, const QueryNode *n, struct json_object *twin) {
        const bool decisive = n->op == QUERY_OR;
        Value a = evaluate(q, n->a, twin), b;

        if (a.kind == VALUE_BOOL && a.boolean == decisive)
                return a;
        b = evaluate(q, n->b, twin);
        if (b.kind == VALUE_BOOL && b.boolean == decisive)
                return b;
        return a.kind == VALUE_BOOL && b.kind == VALUE_BOOL ? of_bool(!decisive) : (Value) { 0 };
}

static Value evaluate_membership(const HubQuery *q, const QueryNode *n, struct json_object *twin) {
        Value a = evaluate(q, n->a, twin);
        bool found = false;

        if (a.kind == VALUE_UNDEFINED)
                return a;
        for (int i = n->b; i >= 0 && !found; i = q->nodes[i].next) {
                Value v = evaluate(q, i, twin);

                found = compare_values(&a, &v) == 0;
        }
        return of_bool(found == (n->op == QUERY_IN));
}

static Value evaluate_text_function(const QueryNode *n, const Value *a, const Value *b) {
        size_t n_a, n_b;

        if (a->kind != VALUE_STRING || b->kind != VALUE_STRING)
                return (Value) { 0 };
        n_a = strlen(a->string);
        n_b = strlen(b->string);
        switch (n->op) {
        case QUERY_STARTS_WITH: return of_bool(startswith(a->string, b->string));
        case QUERY_ENDS_WITH:
                return of_bool(n_a >= n_b && streq(a->string + n_a - n_b, b->string));
        default: return of_bool(strstr(a->string, b->string));
        }
}

static Value evaluate_function(const HubQuery *q, const QueryNode *n, struct json_object *twin) {
        Value a = evaluate(q, n->a, twin), b;

        switch (n->op) {
        case QUERY_IS_DEFINED: return of_bool(a.kind != VALUE_UNDEFINED);
        case QUERY_IS_NULL: return of_bool(a.kind == VALUE_NULL);
        case QUERY_IS_BOOL: return of_bool(a.kind == VALUE_BOOL);
        case QUERY_IS_NUMBER: return of_bool(a.kind == VALUE_NUMBER);
        case QUERY_IS_STRING: return of_bool(a.kind == VALUE_STRING);
        case QUERY_IS_OBJECT: return of_bool(json_object_is_type(a.object, json_type_object));
        case QUERY_IS_ARRAY: return of_bool(json_object_is_type(a.object, json_type_array));
        case QUERY_IS_PRIMITIVE: return of_bool(a.kind != VALUE_UNDEFINED && a.kind != VALUE_OTHER);
        default:
                b = evaluate(q, q->nodes[n->a].next, twin);
                return evaluate_text_function(n, &a, &b);
        }
}

static Value evaluate(const HubQuery *q, int node, struct json_object *twin) {
        const QueryNode *n = q->nodes + node;
        Value a;

        switch (n->op) {
        case QUERY_PATH: return look_up(n, twin);
        case QUERY_STRING: return (Value) { .kind = VALUE_STRING, .string = n->text };
        case QUERY_NUMBER: return of_number(n->number);
        case QUERY_TRUE:
        case QUERY_FALSE: return of_bool(n->op == QUERY_TRUE);
        case QUERY_NULL: return (Value) { .kind = VALUE_NULL };
        case QUERY_NOT:
                a = evaluate(q, n->a, twin);
                return a.kind == VALUE_BOOL ? of_bool(!a.boolean) : (Value) { 0 };
        case QUERY_AND:
        case QUERY_OR: return evaluate_logic(q, n, twin);
        case QUERY_EQUAL:
        case QUERY_NOT_EQUAL:
        case QUERY_LESS:
        case QUERY_LESS_EQUAL:
        case QUERY_GREATER:
        case QUERY_GREATER_EQUAL: return evaluate_comparison(q, n, twin);
        case QUERY_ADD:
        case QUERY_SUBTRACT:
        case QUERY_MULTIPLY:
        case QUERY_DIVIDE:
        case QUERY_MODULO:
        case QUERY_NEGATE: return evaluate_arithmetic(q, n, twin);
        case QUERY_IN:
        case QUERY_NOT_IN: return evaluate_membership(q, n, twin);
        default: return evaluate_function(q, n, twin);
        }
}

bool hub_query_of_modules(const HubQuery *q) {
        return q->modules;
}

bool hub_query_selects_all(const HubQuery *q) {
        return q->all;
}

uint64_t hub_query_top(const HubQuery *q) {
        return q->top;
}

bool hub_query_streams(const HubQuery *q) {
        return !q->aggregates && q->group.n == 0 && q->order.n == 0;
}

int hub_query_match(const HubQuery *q, struct json_object *twin) {
        Value v;

        if (q->where < 0)
                return 1;
        v = evaluate(q, q->where, twin);
        return v.kind == VALUE_BOOL && v.boolean;
}

int hub_query_project(const HubQuery *q, struct json_object *twin, struct json_object **ret) {
        _cleanup_json_ struct json_object *row = NULL;

        if (q->all) {
                *ret = json_object_get(twin);
                return 0;
        }
        row = json_object_new_object();
        if (!row)
                return -ENOMEM;
        for (size_t i = 0; i < q->select.n; i++) {
                Value v = evaluate(q, q->select.items[i].path, twin);

                if (v.kind != VALUE_UNDEFINED &&
                    json_object_object_add(row, q->select.items[i].name,
                                           json_object_get(v.object)) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(row);
        return 0;
}

/* Rows that are collected. */

typedef struct Tally {
        uint64_t n;
        double sum;
        struct json_object *least, *most; /* owned */
} Tally;

typedef struct Row {
        struct json_object *row;  /* what is told; of a group, its grouped properties */
        struct json_object *keys; /* array: what is sorted or grouped by; null for undefined */
        Tally *tallies;           /* of a group, one for each selected item */
        const HubQuery *query;
        size_t number; /* rows that compare equal stay in their order */
} Row;

struct HubQueryRows {
        const HubQuery *query;
        Row *rows;
        size_t n, n_allocated;
        struct lh_table *groups; /* text of the keys to the index of the row + 1 */
};

static void group_entry_free(struct lh_entry *e) {
        free(lh_entry_k(e));
}

int hub_query_rows_new(const HubQuery *q, HubQueryRows **ret) {
        HubQueryRows *r = calloc(1, sizeof(*r));

        if (!r)
                return -ENOMEM;
        r->query = q;
        r->groups = lh_kchar_table_new(64, group_entry_free);
        if (!r->groups) {
                free(r);
                return -ENOMEM;
        }
        *ret = r;
        return 0;
}

HubQueryRows *hub_query_rows_free(HubQueryRows *r) {
        if (!r)
                return NULL;
        for (size_t i = 0; i < r->n; i++) {
                for (size_t k = 0; r->rows[i].tallies && k < r->query->select.n; k++) {
                        json_object_put(r->rows[i].tallies[k].least);
                        json_object_put(r->rows[i].tallies[k].most);
                }
                free(r->rows[i].tallies);
                json_object_put(r->rows[i].row);
                json_object_put(r->rows[i].keys);
        }
        free(r->rows);
        lh_table_free(r->groups);
        free(r);
        return NULL;
}

static int make_keys(const HubQuery *q, const QueryItems *items, struct json_object *twin,
                     struct json_object **ret) {
        _cleanup_json_ struct json_object *keys = json_object_new_array();

        if (!keys)
                return -ENOMEM;
        for (size_t i = 0; i < items->n; i++) {
                Value v = evaluate(q, items->items[i].path, twin);

                if (json_object_array_add(keys, json_object_get(v.object)) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(keys);
        return 0;
}

static Row *new_row(HubQueryRows *r) {
        if (r->n == r->n_allocated) {
                size_t n = r->n_allocated ? 2 * r->n_allocated : 64;
                Row *rows = reallocarray(r->rows, n, sizeof(*rows));

                if (!rows)
                        return NULL;
                r->rows = rows;
                r->n_allocated = n;
        }
        r->rows[r->n] = (Row) { .query = r->query, .number = r->n };
        return r->rows + r->n++;
}

static int add_group(HubQueryRows *r, struct json_object *keys, const char *text,
                     struct json_object *twin, Row **ret) {
        _cleanup_json_ struct json_object *row = json_object_new_object();
        _cleanup_free_ char *key = strdup(text);
        const QueryItems *select = &r->query->select;
        Row *group;

        if (!row || !key)
                return -ENOMEM;
        for (size_t i = 0; i < select->n; i++) {
                Value v;

                if (select->items[i].aggregate != QUERY_PLAIN)
                        continue;
                v = evaluate(r->query, select->items[i].path, twin);
                if (v.kind != VALUE_UNDEFINED &&
                    json_object_object_add(row, select->items[i].name, json_object_get(v.object)) <
                                    0)
                        return -ENOMEM;
        }
        group = new_row(r);
        if (!group)
                return -ENOMEM;
        group->tallies = calloc(select->n, sizeof(*group->tallies));
        if (!group->tallies || lh_table_insert(r->groups, key, (void *) (uintptr_t) r->n) < 0)
                return -ENOMEM;
        (void) TAKE_PTR(key);
        group->row = TAKE_PTR(row);
        group->keys = json_object_get(keys);
        *ret = group;
        return 0;
}

static void keep(struct json_object **kept, struct json_object *o, int sign) {
        Value a = of_json(*kept), b = of_json(o);

        if (!*kept || compare_values(&b, &a) == sign) {
                json_object_put(*kept);
                *kept = json_object_get(o);
        }
}

static void tally(Tally *t, const Value *v, bool any) {
        if (any || v->kind != VALUE_UNDEFINED)
                t->n++;
        if (v->kind == VALUE_NUMBER)
                t->sum += v->number;
        if (v->kind == VALUE_NUMBER || v->kind == VALUE_STRING) {
                keep(&t->least, v->object, -1);
                keep(&t->most, v->object, 1);
        }
}

static int add_to_group(HubQueryRows *r, struct json_object *twin) {
        _cleanup_json_ struct json_object *keys = NULL;
        const QueryItems *select = &r->query->select;
        const char *text;
        Row *group;
        void *index;
        int k;

        k = make_keys(r->query, &r->query->group, twin, &keys);
        if (k < 0)
                return k;
        text = json_object_to_json_string_ext(keys, JSON_C_TO_STRING_PLAIN);
        if (!text)
                return -ENOMEM;
        if (lh_table_lookup_ex(r->groups, text, &index))
                group = r->rows + (uintptr_t) index - 1;
        else {
                k = add_group(r, keys, text, twin, &group);
                if (k < 0)
                        return k;
        }
        for (size_t i = 0; i < select->n; i++) {
                const QueryItem *item = select->items + i;
                Value v = { 0 };

                if (item->aggregate == QUERY_PLAIN)
                        continue;
                if (item->path >= 0)
                        v = evaluate(r->query, item->path, twin);
                tally(group->tallies + i, &v, item->path < 0);
        }
        return 0;
}

int hub_query_rows_add(HubQueryRows *r, struct json_object *twin) {
        Row *row;
        int k;

        if (r->query->aggregates || r->query->group.n > 0)
                return add_to_group(r, twin);
        row = new_row(r);
        if (!row)
                return -ENOMEM;
        k = hub_query_project(r->query, twin, &row->row);
        return k < 0 ? k : make_keys(r->query, &r->query->order, twin, &row->keys);
}

static struct json_object *number_json(double n) {
        return n == floor(n) && fabs(n) < 1e15 ? json_object_new_int64((int64_t) n)
                                               : json_object_new_double(n);
}

static int finish_group(const HubQuery *q, Row *row) {
        for (size_t i = 0; i < q->select.n; i++) {
                const QueryItem *item = q->select.items + i;
                const Tally *t = row->tallies + i;
                struct json_object *o;

                switch (item->aggregate) {
                case QUERY_COUNT: o = json_object_new_int64((int64_t) t->n); break;
                case QUERY_SUM: o = number_json(t->sum); break;
                case QUERY_AVG: o = t->n ? number_json(t->sum / (double) t->n) : NULL; break;
                case QUERY_MIN: o = json_object_get(t->least); break;
                case QUERY_MAX: o = json_object_get(t->most); break;
                default: continue;
                }
                if (json_object_object_add(row->row, item->name, o) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* Kinds apart, in the order of ValueKind; undefined counts as null. */
static int by_keys(const void *a, const void *b) {
        const Row *x = a, *y = b;
        const QueryItems *order = &x->query->order;

        for (size_t i = 0; i < order->n; i++) {
                Value v = of_json(json_object_array_get_idx(x->keys, i));
                Value w = of_json(json_object_array_get_idx(y->keys, i));
                int k = v.kind != w.kind ? (v.kind > w.kind) - (v.kind < w.kind)
                                         : compare_values(&v, &w);

                if (k != 0 && k != -2)
                        return order->items[i].descending ? -k : k;
        }
        return (x->number > y->number) - (x->number < y->number);
}

int hub_query_rows_finish(HubQueryRows *r, struct json_object **ret) {
        _cleanup_json_ struct json_object *array = json_object_new_array();
        const HubQuery *q = r->query;
        int k;

        if (!array)
                return -ENOMEM;
        /* Nothing to count is told with a 0. */
        if (q->aggregates && q->group.n == 0 && r->n == 0) {
                _cleanup_json_ struct json_object *none = json_object_new_array();
                Row *row;

                k = none ? add_group(r, none, "[]", NULL, &row) : -ENOMEM;
                if (k < 0)
                        return k;
        }
        if (q->order.n > 0)
                qsort(r->rows, r->n, sizeof(*r->rows), by_keys);
        for (size_t i = 0; i < r->n && i < q->top; i++) {
                if (r->rows[i].tallies && finish_group(q, r->rows + i) < 0)
                        return -ENOMEM;
                if (json_object_array_add(array, json_object_get(r->rows[i].row)) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(array);
        return 0;
}
