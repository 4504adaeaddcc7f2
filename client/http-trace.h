/* http-trace.h: a request or an answer as lines for --verbose, without what is secret: signatures of
 * tokens and keys of devices are struck out. Pure. */
#pragma once

#include "lib/buffer.h"

/* Appends prefix, the line and a newline; the value of "sig=" in it is struck out. 0 or -ENOMEM. */
int http_trace_header(Buffer *out, const char *prefix, const char *line, size_t n);

/* Appends a body, each line behind prefix; the values of JSON members whose names end in "Key", and of
 * "sig=" and "SharedAccessKey=" in any text, are struck out. Long bodies are cut short. 0 or -ENOMEM. */
int http_trace_body(Buffer *out, const char *prefix, const char *body, size_t n);
