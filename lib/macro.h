/* macro.h: cleanup attributes, ownership transfer and small helpers that every part uses. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <errno.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))
#define _warn_unused_ __attribute__((warn_unused_result))

#define TAKE_PTR(p)                                                                                \
        ({                                                                                         \
                __typeof__(p) *_take_from = &(p);                                                  \
                __typeof__(p) _taken = *_take_from;                                                \
                *_take_from = NULL;                                                                \
                _taken;                                                                            \
        })

#define TAKE_FD(fd)                                                                                \
        ({                                                                                         \
                int *_take_from = &(fd);                                                           \
                int _taken = *_take_from;                                                          \
                *_take_from = -EBADF;                                                              \
                _taken;                                                                            \
        })

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) __extension__({ __typeof__(a) _a = (a); __typeof__(b) _b = (b); _a < _b ? _a : _b; })
#define MAX(a, b) __extension__({ __typeof__(a) _a = (a); __typeof__(b) _b = (b); _a > _b ? _a : _b; })

#define container_of(ptr, type, member)                                                            \
        __extension__({ (type *) ((char *) (ptr) - offsetof(type, member)); })

/* Defines x_freep() for _cleanup_(): call with a destructor that accepts NULL. */
#define DEFINE_CLEANUP(type, func)                                                                 \
        static inline void func##p(type *p) {                                                      \
                if (*p)                                                                            \
                        (void) func(*p);                                                           \
        }                                                                                          \
        struct _semicolon_##func##_

static inline void freep(void *p) {
        free(*(void **) p);
}

static inline void closep(int *fd) {
        int saved = errno;

        if (*fd >= 0)
                (void) close(*fd); /* a cleanup path has nobody to tell */
        errno = saved;
}

static inline void fclosep(FILE **f) {
        if (*f)
                (void) fclose(*f); /* a cleanup path has nobody to tell; writers check fflush first */
}

/* Secrets are overwritten before their memory goes back to the allocator (promise P7). */
static inline void *erase_and_free(char *s) {
        if (s) {
                explicit_bzero(s, strlen(s));
                free(s);
        }
        return NULL;
}

static inline void erase_and_freep(char **s) {
        erase_and_free(*s);
}

static inline bool streq(const char *a, const char *b) {
        return strcmp(a, b) == 0;
}

static inline const char *strempty(const char *s) {
        return s ? s : "";
}

static inline const char *startswith(const char *s, const char *prefix) {
        size_t n = strlen(prefix);

        return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}
