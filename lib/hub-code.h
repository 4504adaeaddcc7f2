/* hub-code.h: the numbers and names of a hub's errors. Pure. */
#pragma once

/* Six digits, of which the first three are the HTTP status; NULL: no such code. */
const char *hub_code_to_name(unsigned code);

/* In any case, also in another spelling; 0: no such name. */
unsigned hub_code_from_name(const char *name);
