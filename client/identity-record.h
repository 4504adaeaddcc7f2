/* identity-record.h: one device or module as a line of an import file: JSON as the hub's bulk calls and
 * job files have it, or CSV. Pure. */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/buffer.h"
#include "lib/macro.h"

/* The columns that a CSV file's first line may name, in the order in which an export writes them. */
extern const char *const record_columns[];

typedef struct CsvColumns {
        int columns[16]; /* of each field of a line: index into record_columns, or that of its end: importError */
        size_t n;
} CsvColumns;

/* The first line. Beside record_columns there may be "importError", which is not read; as the last one it may be
 * missing in a line. 0, or -EINVAL: *reterr_text (static) why. */
int csv_columns_parse(const char *line, size_t n, CsvColumns *ret, const char **reterr_text);

/* One line as an item for a bulk call, without importMode. 0, -EINVAL (*reterr_text: static) or -ENOMEM. */
int csv_record_parse(const CsvColumns *c, const char *line, size_t n, struct json_object **ret,
                     const char **reterr_text);

/* So begins what stands in the column importError: a line with a field too many stays one, also behind a first line
 * that got this column. */
#define CSV_ERROR_PREFIX "error: "

/* Adds importError, also to the text of the first line, where it is not among them. 0 or -ENOMEM. */
int csv_columns_add_error(CsvColumns *c, Buffer *header);

/* An item as a line with these columns; c may be NULL: all record_columns. 0 or -ENOMEM. */
int csv_record_format(const CsvColumns *c, struct json_object *item, Buffer *out);

/* A line of JSON: an object with "id" or "deviceId", and the rest as the hub has it. Fields that only the
 * hub may write are taken out. Errors as above. */
int json_record_parse(const char *line, size_t n, struct json_object **ret, const char **reterr_text);

/* What the registry holds of an identity, and of its twin where twin is not NULL, as an item. 0 or -ENOMEM. */
int record_from_identity(struct json_object *identity, struct json_object *twin,
                         struct json_object **ret);
