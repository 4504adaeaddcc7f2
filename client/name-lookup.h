/* name-lookup.h: the addresses of a host, looked up in a thread: getaddrinfo(3) may take long, and
 * a signal must end the program meanwhile. */
#pragma once

#include <netdb.h>

#include "lib/macro.h"

typedef struct NameLookup NameLookup;

/* 0, -ENOMEM or another error of the system. */
int name_lookup_start(const char *host, unsigned port, NameLookup **ret);

/* Gives up a lookup that is under way; its thread ends by itself. */
NameLookup *name_lookup_free(NameLookup *l);
DEFINE_CLEANUP(NameLookup *, name_lookup_free);

/* Readable when the answer is there. */
int name_lookup_fd(const NameLookup *l);

/* The answer, once, when the descriptor is readable: 0 and the caller's list (freeaddrinfo()), or a
 * code for gai_strerror(3). */
int name_lookup_result(NameLookup *l, struct addrinfo **ret);
