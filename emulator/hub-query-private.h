/* hub-query-private.h: a parsed query: hub-query-parse.c makes it, hub-query.c asks it. */
#pragma once

#include "emulator/hub-query.h"

#define QUERY_NODES_MAX 2048U
#define QUERY_DEPTH_MAX 64U
#define QUERY_ITEMS_MAX 64U

typedef enum QueryOp {
        /* Values. */
        QUERY_PATH,   /* text: names joined with NUL, n_names of them */
        QUERY_STRING, /* text */
        QUERY_NUMBER,
        QUERY_TRUE,
        QUERY_FALSE,
        QUERY_NULL,
        /* Of one or two operands. */
        QUERY_NOT,
        QUERY_AND,
        QUERY_OR,
        QUERY_EQUAL,
        QUERY_NOT_EQUAL,
        QUERY_LESS,
        QUERY_LESS_EQUAL,
        QUERY_GREATER,
        QUERY_GREATER_EQUAL,
        QUERY_ADD,
        QUERY_SUBTRACT,
        QUERY_MULTIPLY,
        QUERY_DIVIDE,
        QUERY_MODULO,
        QUERY_NEGATE,
        QUERY_IN,     /* a in the list that begins at b */
        QUERY_NOT_IN,
        /* Functions; the arguments are the list that begins at a. */
        QUERY_IS_DEFINED,
        QUERY_IS_NULL,
        QUERY_IS_BOOL,
        QUERY_IS_NUMBER,
        QUERY_IS_STRING,
        QUERY_IS_OBJECT,
        QUERY_IS_ARRAY,
        QUERY_IS_PRIMITIVE,
        QUERY_STARTS_WITH,
        QUERY_ENDS_WITH,
        QUERY_CONTAINS,
} QueryOp;

typedef struct QueryNode {
        QueryOp op;
        char *text;
        size_t n_names;
        double number;
        int a, b, next; /* indices; -1: none. next: in a list */
} QueryNode;

typedef enum QueryAggregate {
        QUERY_PLAIN,
        QUERY_COUNT,
        QUERY_SUM,
        QUERY_AVG,
        QUERY_MIN,
        QUERY_MAX,
} QueryAggregate;

typedef struct QueryItem {
        QueryAggregate aggregate;
        int path;   /* node, -1: COUNT() */
        char *name; /* of the member in the row */
        bool descending; /* ORDER BY */
} QueryItem;

typedef struct QueryItems {
        QueryItem items[QUERY_ITEMS_MAX];
        size_t n;
} QueryItems;

struct HubQuery {
        QueryNode *nodes;
        size_t n_nodes;
        bool modules, all;
        uint64_t top;
        QueryItems select, group, order;
        bool aggregates; /* in select */
        int where;       /* node, -1: none */
        char *alias;     /* of the collection, or NULL */
};
