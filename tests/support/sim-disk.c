/* sim-disk.c: each file is kept twice, as the program sees it (now) and as the disk has it, in pages that both share
 * until one is written. A sync makes the disk's side point at the program's pages; a crash chooses for each page that
 * differs. Directories are kept twice as well, with the list of operations that lie between. One lock around all. */
#include "tests/support/sim-disk.h"

#include <fcntl.h>
#include <pthread.h>

#include "tests/support/random.h"

#define PAGE_BYTES 4096U
#define SECTOR_BYTES 512U
#define FD_FIRST 1000000 /* so that a descriptor of the real kernel is never taken for one of ours */

typedef struct Page {
        unsigned n_refs;
        uint8_t data[PAGE_BYTES];
} Page;

enum {
        PAGE_DIRTY = 1,
        PAGE_ALLOCATED = 2,
        PAGE_BROKEN = 4, /* reads of the range of the inode fail here */
};

typedef struct Entry {
        char *name;
        size_t inode;
} Entry;

typedef struct EntryList {
        Entry *items;
        size_t n;
} EntryList;

typedef struct Op {
        enum { OP_LINK, OP_UNLINK, OP_RENAME } kind;
        char *name, *to;
        size_t inode;
} Op;

typedef struct Inode {
        bool is_dir, locked;
        unsigned n_open;
        /* a file */
        Page **now, **disk; /* NULL: zeros */
        uint8_t *flags;
        size_t n_pages, n_allocated;
        uint64_t size, disk_size;
        uint64_t size_min; /* the smallest since the last sync: what lies behind may have been cut off on the disk */
        /* a directory */
        EntryList names, disk_names;
        Op *ops;
        size_t n_ops, n_limbo; /* limbo: a failed sync took them from the list of what to write */
} Inode;

typedef struct OpenFile {
        bool used, is_lock;
        size_t inode;
        int flags;
} OpenFile;

struct SimDisk {
        OutboxIo io;
        pthread_mutex_t lock;
        Random random;
        Inode **inodes; /* 0 is the root */
        size_t n_inodes;
        OpenFile *files;
        size_t n_files;
        uint64_t capacity;
        bool read_only, crashed;
        uint64_t crash_at; /* in terms of n_calls_total */
        unsigned fail_kinds;
        uint64_t fail_skip, fail_count, n_failed;
        int fail_error;
        SimDiskStats stats;
        char *name; /* lent by sim_disk_file_name() */
};

static void *must(void *p) {
        if (!p)
                abort();
        return p;
}

static void wrong_use(const char *what) {
        fprintf(stderr, "sim-disk: %s\n", what);
        abort();
}

/* Pages */

static Page *page_ref(Page *p) {
        if (p)
                p->n_refs++;
        return p;
}

static Page *page_unref(Page *p) {
        if (p && --p->n_refs == 0)
                free(p);
        return NULL;
}

static void page_set(Page **slot, Page *p) {
        Page *old = *slot;

        *slot = page_ref(p);
        page_unref(old);
}

/* A page of the slot's own, to be written to. */
static uint8_t *page_own(Page **slot) {
        Page *p;

        if (*slot && (*slot)->n_refs == 1)
                return (*slot)->data;
        p = must(calloc(1, sizeof(Page)));
        p->n_refs = 1;
        if (*slot)
                memcpy(p->data, (*slot)->data, PAGE_BYTES);
        page_unref(*slot);
        *slot = p;
        return p->data;
}

static void page_zero_from(Page **slot, size_t from) {
        if (from == 0)
                *slot = page_unref(*slot);
        else if (*slot)
                memset(page_own(slot) + from, 0, PAGE_BYTES - from);
}

static size_t pages_of(uint64_t bytes) {
        return (size_t) ((bytes + PAGE_BYTES - 1) / PAGE_BYTES);
}

static void inode_grow(Inode *i, size_t n_pages) {
        if (n_pages <= i->n_pages)
                return;
        i->now = must(reallocarray(i->now, n_pages, sizeof(Page *)));
        i->disk = must(reallocarray(i->disk, n_pages, sizeof(Page *)));
        i->flags = must(realloc(i->flags, n_pages));
        for (size_t p = i->n_pages; p < n_pages; p++) {
                i->now[p] = i->disk[p] = NULL;
                i->flags[p] = 0;
        }
        i->n_pages = n_pages;
}

/* Directories */

static Entry *entry_find(const EntryList *l, const char *name) {
        for (size_t i = 0; i < l->n; i++)
                if (streq(l->items[i].name, name))
                        return &l->items[i];
        return NULL;
}

static void entry_remove(EntryList *l, const char *name) {
        Entry *e = entry_find(l, name);

        if (!e)
                return;
        free(e->name);
        *e = l->items[--l->n];
}

static void entry_add(EntryList *l, const char *name, size_t inode) {
        entry_remove(l, name);
        l->items = must(reallocarray(l->items, l->n + 1, sizeof(Entry)));
        l->items[l->n++] = (Entry) { .name = must(strdup(name)), .inode = inode };
}

static void entries_done(EntryList *l) {
        while (l->n > 0)
                free(l->items[--l->n].name);
        free(l->items);
        *l = (EntryList) {};
}

static void entries_copy(EntryList *to, const EntryList *from) {
        entries_done(to);
        for (size_t i = 0; i < from->n; i++)
                entry_add(to, from->items[i].name, from->items[i].inode);
}

static void op_apply(EntryList *l, const Op *op) {
        switch (op->kind) {
        case OP_LINK: entry_add(l, op->name, op->inode); break;
        case OP_UNLINK: entry_remove(l, op->name); break;
        case OP_RENAME:
                entry_remove(l, op->name);
                entry_add(l, op->to, op->inode);
                break;
        }
}

static void ops_drop(Inode *dir) {
        for (size_t i = 0; i < dir->n_ops; i++) {
                free(dir->ops[i].name);
                free(dir->ops[i].to);
        }
        dir->n_ops = dir->n_limbo = 0;
}

static void dir_do(Inode *dir, int kind, const char *name, const char *to, size_t inode) {
        Op op = { .kind = kind, .name = must(strdup(name)), .to = to ? must(strdup(to)) : NULL, .inode = inode };

        op_apply(&dir->names, &op);
        dir->ops = must(reallocarray(dir->ops, dir->n_ops + 1, sizeof(Op)));
        dir->ops[dir->n_ops++] = op;
        /* A new change writes the whole directory block, with what a failed sync had left out. */
        dir->n_limbo = 0;
}

static void dir_sync(Inode *dir) {
        if (dir->n_limbo > 0 && dir->n_limbo == dir->n_ops)
                return;
        for (size_t i = 0; i < dir->n_ops; i++)
                op_apply(&dir->disk_names, &dir->ops[i]);
        ops_drop(dir);
}

static Inode *inode_free(Inode *i) {
        if (!i)
                return NULL;
        for (size_t p = 0; p < i->n_pages; p++) {
                page_unref(i->now[p]);
                page_unref(i->disk[p]);
        }
        free(i->now);
        free(i->disk);
        free(i->flags);
        entries_done(&i->names);
        entries_done(&i->disk_names);
        ops_drop(i);
        free(i->ops);
        free(i);
        return NULL;
}

static size_t inode_new(SimDisk *d, bool is_dir) {
        d->inodes = must(reallocarray(d->inodes, d->n_inodes + 1, sizeof(Inode *)));
        d->inodes[d->n_inodes] = must(calloc(1, sizeof(Inode)));
        d->inodes[d->n_inodes]->is_dir = is_dir;
        return d->n_inodes++;
}

/* Finds "a/b/c" below dir, where an entry's name may hold slashes itself. */
static Inode *resolve(const SimDisk *d, const Inode *dir, const char *path, size_t *ret_inode) {
        if (streq(path, "."))
                return (Inode *) dir;
        for (size_t i = 0; i < dir->names.n; i++) {
                const Entry *e = &dir->names.items[i];
                const char *rest = startswith(path, e->name);
                Inode *child = d->inodes[e->inode], *found;

                if (!rest)
                        continue;
                if (*rest == '\0') {
                        if (ret_inode)
                                *ret_inode = e->inode;
                        return child;
                }
                if (*rest != '/' || !child->is_dir)
                        continue;
                found = resolve(d, child, rest + 1, ret_inode);
                if (found)
                        return found;
        }
        return NULL;
}

/* The directory that holds the last part of path; *ret_name is that part. */
static Inode *resolve_parent(const SimDisk *d, Inode *dir, const char *path, const char **ret_name) {
        const char *slash = strrchr(path, '/');
        char *head;

        *ret_name = slash ? slash + 1 : path;
        if (!slash)
                return dir;
        head = must(strndup(path, (size_t) (slash - path)));
        dir = resolve(d, dir, head, NULL);
        free(head);
        return dir && dir->is_dir ? dir : NULL;
}

static void count_linked(const SimDisk *d, const Inode *dir, bool *linked) {
        for (size_t i = 0; i < dir->names.n; i++) {
                size_t n = dir->names.items[i].inode;

                linked[n] = true;
                if (d->inodes[n]->is_dir)
                        count_linked(d, d->inodes[n], linked);
        }
}

static bool is_linked(const SimDisk *d, const Inode *inode) {
        bool *linked = must(calloc(d->n_inodes, sizeof(bool))), found = false;

        count_linked(d, d->inodes[0], linked);
        for (size_t i = 0; i < d->n_inodes; i++)
                found = found || (d->inodes[i] == inode && linked[i]);
        free(linked);
        return found;
}

static uint64_t used_pages(const SimDisk *d) {
        bool *linked = must(calloc(d->n_inodes, sizeof(bool)));
        uint64_t n = 0;

        count_linked(d, d->inodes[0], linked);
        for (size_t i = 0; i < d->n_inodes; i++)
                if (d->inodes[i] && (linked[i] || d->inodes[i]->n_open > 0))
                        n += d->inodes[i]->n_allocated;
        free(linked);
        return n;
}

/* Every call begins here, with the lock taken: 0, or the error that it has to return. */
static int call_begin(SimDisk *d, SimCall kind) {
        pthread_mutex_lock(&d->lock);
        if (!d->crashed && d->stats.n_calls_total >= d->crash_at)
                d->crashed = true;
        if (d->crashed)
                return -SIM_DISK_CRASHED;
        d->stats.n_calls[kind]++;
        d->stats.n_calls_total++;
        if (d->fail_count == 0 || !(d->fail_kinds & 1U << kind))
                return 0;
        if (d->fail_skip > 0) {
                d->fail_skip--;
                return 0;
        }
        if (d->fail_count != UINT64_MAX)
                d->fail_count--;
        d->n_failed++;
        return -d->fail_error;
}

static int64_t call_end(SimDisk *d, int64_t r) {
        pthread_mutex_unlock(&d->lock);
        return r;
}

static OpenFile *file_of(SimDisk *d, int fd) {
        if (fd < FD_FIRST || (size_t) (fd - FD_FIRST) >= d->n_files || !d->files[fd - FD_FIRST].used)
                wrong_use("a call with a descriptor that is not open");
        return &d->files[fd - FD_FIRST];
}

static Inode *inode_of(SimDisk *d, int fd) {
        return d->inodes[file_of(d, fd)->inode];
}

static Inode *dir_of(SimDisk *d, int fd) {
        Inode *i = inode_of(d, fd);

        if (!i->is_dir)
                wrong_use("a file where a directory is wanted");
        return i;
}

static int fd_new(SimDisk *d, size_t inode, int flags, bool is_lock) {
        d->files = must(reallocarray(d->files, d->n_files + 1, sizeof(OpenFile)));
        d->files[d->n_files] = (OpenFile) { .used = true, .is_lock = is_lock, .inode = inode, .flags = flags };
        d->inodes[inode]->n_open++;
        return FD_FIRST + (int) d->n_files++;
}

static void inode_truncate(Inode *i, uint64_t size) {
        size_t first = pages_of(size);

        if (size < i->size) {
                for (size_t p = first; p < i->n_pages; p++) {
                        i->now[p] = page_unref(i->now[p]);
                        if (i->flags[p] & PAGE_ALLOCATED)
                                i->n_allocated--;
                        i->flags[p] = i->disk[p] ? PAGE_DIRTY : 0;
                }
                if (size % PAGE_BYTES > 0) {
                        page_zero_from(&i->now[first - 1], size % PAGE_BYTES);
                        i->flags[first - 1] |= PAGE_DIRTY;
                }
                i->size_min = MIN(i->size_min, size);
        }
        inode_grow(i, first);
        i->size = size;
}

/* The table */

static int sim_open_dir(const OutboxIo *io, const char *path) {
        SimDisk *d = io->userdata;
        size_t inode = 0;
        Inode *i;
        int r;

        r = call_begin(d, SIM_OPEN_DIR);
        if (r < 0)
                return (int) call_end(d, r);
        i = resolve(d, d->inodes[0], path, &inode);
        if (!i) {
                if (d->read_only)
                        return (int) call_end(d, -EROFS);
                /* The caller owns what lies above, so this one name is taken to be safe at once. */
                inode = inode_new(d, /* is_dir= */ true);
                entry_add(&d->inodes[0]->names, path, inode);
                entry_add(&d->inodes[0]->disk_names, path, inode);
                i = d->inodes[inode];
        }
        if (!i->is_dir)
                return (int) call_end(d, -ENOTDIR);
        if (i->locked)
                return (int) call_end(d, -EBUSY);
        i->locked = true;
        return (int) call_end(d, fd_new(d, inode, O_RDONLY, /* is_lock= */ true));
}

static int open_locked(SimDisk *d, int dir_fd, const char *path, int flags) {
        const char *name;
        Inode *dir = dir_of(d, dir_fd), *i;
        size_t inode = file_of(d, dir_fd)->inode;

        i = resolve(d, dir, path, &inode);
        if (i) {
                bool writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC;

                if (flags & O_CREAT && flags & O_EXCL)
                        return -EEXIST;
                if (i->is_dir && writes)
                        return -EISDIR;
                if (!i->is_dir && flags & O_DIRECTORY)
                        return -ENOTDIR;
                if (writes && d->read_only)
                        return -EROFS;
                if (flags & O_TRUNC)
                        inode_truncate(i, 0);
                return fd_new(d, inode, flags, /* is_lock= */ false);
        }
        if (!(flags & O_CREAT))
                return -ENOENT;
        dir = resolve_parent(d, dir, path, &name);
        if (!dir)
                return -ENOENT;
        if (d->read_only)
                return -EROFS;
        inode = inode_new(d, /* is_dir= */ false);
        dir_do(dir, OP_LINK, name, NULL, inode);
        return fd_new(d, inode, flags, /* is_lock= */ false);
}

static int sim_openat(const OutboxIo *io, int dir_fd, const char *name, int flags, mode_t mode) {
        SimDisk *d = io->userdata;
        int r;

        r = call_begin(d, SIM_OPENAT);
        return (int) call_end(d, r < 0 ? r : open_locked(d, dir_fd, name, flags));
}

static int sim_close(const OutboxIo *io, int fd) {
        SimDisk *d = io->userdata;
        OpenFile *f;
        Inode *i;

        /* Closing costs no write that anybody waits for, so it neither fails nor is a moment to crash at. */
        pthread_mutex_lock(&d->lock);
        f = file_of(d, fd);
        i = d->inodes[f->inode];
        i->n_open--;
        if (f->is_lock)
                i->locked = false;
        f->used = false;
        d->stats.n_calls[SIM_CLOSE]++;
        return (int) call_end(d, 0);
}

static ssize_t read_locked(SimDisk *d, const OpenFile *f, void *data, size_t n, uint64_t offset) {
        const Inode *i = d->inodes[f->inode];
        uint8_t *out = data;
        size_t done = 0;

        if (i->is_dir)
                return -EISDIR;
        if (offset >= i->size)
                return 0;
        n = (size_t) MIN((uint64_t) n, i->size - offset);
        while (done < n) {
                size_t page = (size_t) ((offset + done) / PAGE_BYTES), at = (size_t) ((offset + done) % PAGE_BYTES);
                size_t chunk = MIN(n - done, PAGE_BYTES - at);

                if (i->flags[page] & PAGE_BROKEN)
                        return done > 0 ? (ssize_t) done : -EIO;
                if (i->now[page])
                        memcpy(out + done, i->now[page]->data + at, chunk);
                else
                        memset(out + done, 0, chunk);
                done += chunk;
        }
        return (ssize_t) n;
}

/* O_DIRECT wants buffer, size and offset in whole sectors (open(2), NOTES). */
static bool is_aligned(const OpenFile *f, const void *data, size_t n, uint64_t offset) {
        return !(f->flags & O_DIRECT) ||
               ((uintptr_t) data % SECTOR_BYTES == 0 && n % SECTOR_BYTES == 0 && offset % SECTOR_BYTES == 0);
}

static ssize_t sim_pread(const OutboxIo *io, int fd, void *data, size_t n, uint64_t offset) {
        SimDisk *d = io->userdata;
        const OpenFile *f;
        ssize_t r;

        r = call_begin(d, SIM_PREAD);
        if (r < 0)
                return call_end(d, r);
        f = file_of(d, fd);
        if ((f->flags & O_ACCMODE) == O_WRONLY)
                wrong_use("pread from a descriptor open for writing only");
        r = is_aligned(f, data, n, offset) ? read_locked(d, f, data, n, offset) : -EINVAL;
        return call_end(d, r);
}

static bool is_zero(const uint8_t *p, size_t n) {
        return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static ssize_t write_locked(SimDisk *d, Inode *i, const void *data, size_t n, uint64_t offset) {
        const uint8_t *in = data;
        uint64_t room = UINT64_MAX;
        size_t done = 0;

        if (d->capacity != UINT64_MAX) {
                uint64_t used = used_pages(d), all = d->capacity / PAGE_BYTES;

                room = used < all ? all - used : 0;
        }
        while (done < n) {
                size_t page = (size_t) ((offset + done) / PAGE_BYTES), at = (size_t) ((offset + done) % PAGE_BYTES);
                size_t chunk = MIN(n - done, PAGE_BYTES - at);

                inode_grow(i, page + 1);
                if (!(i->flags[page] & PAGE_ALLOCATED)) {
                        if (room == 0)
                                break;
                        room--;
                        i->n_allocated++;
                }
                if (i->now[page] || !is_zero(in + done, chunk))
                        memcpy(page_own(&i->now[page]) + at, in + done, chunk);
                i->flags[page] = PAGE_DIRTY | PAGE_ALLOCATED;
                done += chunk;
        }
        if (n > 0 && done == 0)
                return -ENOSPC;
        i->size = MAX(i->size, offset + done);
        d->stats.bytes_written += done;
        return (ssize_t) done;
}

static void page_write_back(SimDisk *d, Inode *i, size_t page) {
        page_set(&i->disk[page], i->now[page]);
        i->flags[page] &= (uint8_t) ~PAGE_DIRTY;
        d->stats.bytes_synced += PAGE_BYTES;
}

static ssize_t sim_pwrite(const OutboxIo *io, int fd, const void *data, size_t n, uint64_t offset) {
        SimDisk *d = io->userdata;
        const OpenFile *f;
        Inode *i;
        ssize_t r;

        r = call_begin(d, SIM_PWRITE);
        if (r < 0)
                return call_end(d, r);
        f = file_of(d, fd);
        i = d->inodes[f->inode];
        if (i->is_dir || (f->flags & O_ACCMODE) == O_RDONLY)
                wrong_use("pwrite to a descriptor not open for writing");
        if (d->read_only)
                return call_end(d, -EROFS);
        if (!is_aligned(f, data, n, offset))
                return call_end(d, -EINVAL);
        r = write_locked(d, i, data, n, offset);
        /* The kernel may write any dirty page back at any time, so a state between two writes can be what stays. */
        if (r > 0 && random_one_in(&d->random, 16)) {
                size_t page = (size_t) (offset / PAGE_BYTES + random_below(&d->random, pages_of((uint64_t) r)));

                if (page < i->n_pages && i->flags[page] & PAGE_DIRTY)
                        page_write_back(d, i, page);
        }
        return call_end(d, r);
}

static int sim_ftruncate(const OutboxIo *io, int fd, uint64_t size) {
        SimDisk *d = io->userdata;
        int r;

        r = call_begin(d, SIM_FTRUNCATE);
        if (r >= 0 && d->read_only)
                r = -EROFS;
        if (r >= 0)
                inode_truncate(inode_of(d, fd), size);
        return (int) call_end(d, r);
}

static void inode_sync(SimDisk *d, Inode *i) {
        size_t end = pages_of(i->size);

        for (size_t p = 0; p < i->n_pages; p++)
                if (p >= end)
                        i->disk[p] = page_unref(i->disk[p]);
                else if (i->flags[p] & PAGE_DIRTY)
                        page_write_back(d, i, p);
        i->disk_size = i->size_min = i->size;
}

/* Some sectors old, some new, one of them cut at a byte. */
static void page_tear(SimDisk *d, Page **disk, const Page *now) {
        static const uint8_t zeros[PAGE_BYTES];
        const uint8_t *from = now ? now->data : zeros;
        uint8_t *to = page_own(disk);
        bool prefix = random_one_in(&d->random, 2);
        size_t cut = random_below(&d->random, PAGE_BYTES);
        uint64_t kept = random_u64(&d->random);

        for (size_t s = 0; s < PAGE_BYTES / SECTOR_BYTES; s++) {
                size_t at = s * SECTOR_BYTES;

                if (cut / SECTOR_BYTES == s)
                        memcpy(to + at, from + at, cut % SECTOR_BYTES);
                else if (prefix ? at < cut : (kept >> s) & 1)
                        memcpy(to + at, from + at, SECTOR_BYTES);
        }
}

/* What a crash, or a failed write-back, makes of the dirty pages: all lost, all kept, or each its own. */
static void pages_scatter(SimDisk *d, Inode *i) {
        unsigned style = (unsigned) random_below(&d->random, 4);

        for (size_t p = 0; p < i->n_pages; p++) {
                unsigned fate = style < 2 ? style : (unsigned) random_below(&d->random, 3);

                if (!(i->flags[p] & PAGE_DIRTY))
                        continue;
                if (fate == 1)
                        page_set(&i->disk[p], i->now[p]);
                else if (fate == 2)
                        page_tear(d, &i->disk[p], i->now[p]);
        }
}

static void disk_cut(Inode *i, uint64_t size) {
        for (size_t p = pages_of(size); p < i->n_pages; p++)
                i->disk[p] = page_unref(i->disk[p]);
        if (size % PAGE_BYTES > 0 && pages_of(size) <= i->n_pages)
                page_zero_from(&i->disk[size / PAGE_BYTES], size % PAGE_BYTES);
}

static void size_scatter(SimDisk *d, Inode *i) {
        if (i->size_min < i->disk_size) {
                if (random_one_in(&d->random, 2))
                        return; /* the truncation is lost, and with it each later change of the size */
                i->disk_size = i->size_min;
        }
        switch (random_below(&d->random, 3)) {
        case 0: i->disk_size = i->size; break;
        case 1:
                if (i->size > i->disk_size)
                        i->disk_size += random_below(&d->random, i->size - i->disk_size);
                break;
        default: break;
        }
}

static void inode_crash(SimDisk *d, Inode *i) {
        /* A truncation that is kept took what lay behind before any later page got there. */
        bool truncated = i->size_min < i->disk_size;
        uint64_t size_before = i->disk_size;

        size_scatter(d, i);
        if (truncated && i->disk_size != size_before)
                disk_cut(i, i->size_min);
        pages_scatter(d, i);
        disk_cut(i, i->disk_size);
        i->size = i->size_min = i->disk_size;
        i->n_allocated = 0;
        inode_grow(i, pages_of(i->size));
        for (size_t p = 0; p < i->n_pages; p++) {
                page_set(&i->now[p], i->disk[p]);
                /* A page of zeros counts as allocated: the segments are written, never left as holes. */
                i->flags[p] = (uint8_t) ((i->flags[p] & PAGE_BROKEN) | (p < pages_of(i->size) ? PAGE_ALLOCATED : 0));
                i->n_allocated += p < pages_of(i->size);
        }
}

/* The kernel reports the error once and forgets: the pages are clean now, whatever became of them, and what is read
 * is what the disk has (the promise of the table; daemon/outbox-io.c drops the pages). */
static void inode_sync_failed(SimDisk *d, Inode *i) {
        if (i->is_dir) {
                i->n_limbo = i->n_ops;
                return;
        }
        pages_scatter(d, i);
        for (size_t p = 0; p < i->n_pages; p++) {
                if (i->flags[p] & PAGE_DIRTY && p < pages_of(i->size))
                        page_set(&i->now[p], i->disk[p]);
                i->flags[p] &= (uint8_t) ~PAGE_DIRTY;
        }
}

static int sync_common(SimDisk *d, SimCall kind, int fd) {
        int r = call_begin(d, kind);
        Inode *i;

        if (r == -SIM_DISK_CRASHED)
                return (int) call_end(d, r);
        i = inode_of(d, fd);
        if (r < 0)
                inode_sync_failed(d, i);
        else if (d->read_only)
                r = -EROFS;
        else if (i->is_dir && kind == SIM_FSYNC)
                dir_sync(i);
        else if (!i->is_dir)
                inode_sync(d, i);
        d->stats.n_syncs++;
        return (int) call_end(d, r);
}

static int sim_fdatasync(const OutboxIo *io, int fd) {
        return sync_common(io->userdata, SIM_FDATASYNC, fd);
}

static int sim_fsync(const OutboxIo *io, int fd) {
        return sync_common(io->userdata, SIM_FSYNC, fd);
}

static int sim_renameat(const OutboxIo *io, int dir_fd, const char *from, const char *to) {
        SimDisk *d = io->userdata;
        const char *from_name, *to_name;
        Inode *dir, *to_dir;
        Entry *e;
        int r;

        r = call_begin(d, SIM_RENAMEAT);
        if (r < 0)
                return (int) call_end(d, r);
        dir = resolve_parent(d, dir_of(d, dir_fd), from, &from_name);
        to_dir = resolve_parent(d, dir_of(d, dir_fd), to, &to_name);
        e = dir ? entry_find(&dir->names, from_name) : NULL;
        if (!e || !to_dir)
                return (int) call_end(d, -ENOENT);
        if (dir != to_dir)
                wrong_use("rename from one directory to another, whose order on a disk this one does not model");
        if (d->read_only)
                return (int) call_end(d, -EROFS);
        if (!streq(from_name, to_name))
                dir_do(dir, OP_RENAME, from_name, to_name, e->inode);
        return (int) call_end(d, 0);
}

static int sim_unlinkat(const OutboxIo *io, int dir_fd, const char *path) {
        SimDisk *d = io->userdata;
        const char *name;
        Inode *dir;
        int r;

        r = call_begin(d, SIM_UNLINKAT);
        if (r < 0)
                return (int) call_end(d, r);
        dir = resolve_parent(d, dir_of(d, dir_fd), path, &name);
        if (!dir || !entry_find(&dir->names, name))
                return (int) call_end(d, -ENOENT);
        if (d->read_only)
                return (int) call_end(d, -EROFS);
        dir_do(dir, OP_UNLINK, name, NULL, 0);
        return (int) call_end(d, 0);
}

static int sim_mkdirat(const OutboxIo *io, int dir_fd, const char *path, mode_t mode) {
        SimDisk *d = io->userdata;
        const char *name;
        Inode *dir;
        int r;

        r = call_begin(d, SIM_MKDIRAT);
        if (r < 0)
                return (int) call_end(d, r);
        dir = resolve_parent(d, dir_of(d, dir_fd), path, &name);
        if (!dir)
                return (int) call_end(d, -ENOENT);
        if (entry_find(&dir->names, name))
                return (int) call_end(d, -EEXIST);
        if (d->read_only)
                return (int) call_end(d, -EROFS);
        dir_do(dir, OP_LINK, name, NULL, inode_new(d, /* is_dir= */ true));
        return (int) call_end(d, 0);
}

static int sim_fsize(const OutboxIo *io, int fd, uint64_t *ret) {
        SimDisk *d = io->userdata;
        int r;

        r = call_begin(d, SIM_FSIZE);
        if (r >= 0 && !is_linked(d, inode_of(d, fd)))
                r = -ENOENT;
        if (r >= 0)
                *ret = inode_of(d, fd)->size;
        return (int) call_end(d, r);
}

static int sim_list(const OutboxIo *io, int dir_fd, int (*f)(const char *name, void *userdata), void *userdata) {
        SimDisk *d = io->userdata;
        EntryList names = {};
        int r;

        r = call_begin(d, SIM_LIST);
        if (r >= 0)
                entries_copy(&names, &dir_of(d, dir_fd)->names);
        call_end(d, 0);
        /* In no order that a program may rely on, and without the lock: f may call the disk. */
        for (size_t i = names.n; i > 0 && r >= 0; i--)
                r = f(names.items[i - 1].name, userdata);
        entries_done(&names);
        return r < 0 ? r : 0;
}

static int sim_statfs(const OutboxIo *io, int dir_fd, uint64_t *ret_size, uint64_t *ret_free) {
        SimDisk *d = io->userdata;
        int r;

        r = call_begin(d, SIM_STATFS);
        if (r >= 0) {
                uint64_t size = d->capacity == UINT64_MAX ? UINT64_C(1) << 40 : d->capacity;
                uint64_t used = used_pages(d) * PAGE_BYTES;

                *ret_size = size;
                *ret_free = used < size ? size - used : 0;
        }
        return (int) call_end(d, r);
}

/* For the test */

SimDisk *sim_disk_new(uint64_t seed, uint64_t capacity) {
        SimDisk *d = must(calloc(1, sizeof(SimDisk)));

        d->io = (OutboxIo) {
                .userdata = d,
                .open_dir = sim_open_dir,
                .openat = sim_openat,
                .close = sim_close,
                .pread = sim_pread,
                .pwrite = sim_pwrite,
                .ftruncate = sim_ftruncate,
                .fdatasync = sim_fdatasync,
                .fsync = sim_fsync,
                .renameat = sim_renameat,
                .unlinkat = sim_unlinkat,
                .mkdirat = sim_mkdirat,
                .fsize = sim_fsize,
                .list = sim_list,
                .statfs = sim_statfs,
        };
        pthread_mutex_init(&d->lock, NULL);
        d->random.state = seed;
        d->capacity = capacity;
        d->crash_at = UINT64_MAX;
        inode_new(d, /* is_dir= */ true);
        return d;
}

SimDisk *sim_disk_free(SimDisk *d) {
        if (!d)
                return NULL;
        for (size_t i = 0; i < d->n_inodes; i++)
                inode_free(d->inodes[i]);
        free(d->inodes);
        free(d->files);
        free(d->name);
        pthread_mutex_destroy(&d->lock);
        free(d);
        return NULL;
}

static Inode *inode_copy(const Inode *i) {
        Inode *c = must(calloc(1, sizeof(Inode)));

        c->is_dir = i->is_dir;
        inode_grow(c, i->n_pages);
        for (size_t p = 0; p < i->n_pages; p++) {
                c->now[p] = page_ref(i->now[p]);
                c->disk[p] = page_ref(i->disk[p]);
                c->flags[p] = i->flags[p];
        }
        c->n_allocated = i->n_allocated;
        c->size = i->size;
        c->disk_size = i->disk_size;
        c->size_min = i->size_min;
        entries_copy(&c->names, &i->names);
        entries_copy(&c->disk_names, &i->disk_names);
        for (size_t o = 0; o < i->n_ops; o++) {
                const Op *op = &i->ops[o];

                c->ops = must(reallocarray(c->ops, o + 1, sizeof(Op)));
                c->ops[o] = (Op) { op->kind, must(strdup(op->name)), op->to ? must(strdup(op->to)) : NULL, op->inode };
        }
        c->n_ops = i->n_ops;
        c->n_limbo = i->n_limbo;
        return c;
}

SimDisk *sim_disk_clone(const SimDisk *d, uint64_t seed) {
        SimDisk *c = sim_disk_new(seed, d->capacity);

        inode_free(c->inodes[0]);
        c->inodes = must(reallocarray(c->inodes, d->n_inodes, sizeof(Inode *)));
        for (size_t i = 0; i < d->n_inodes; i++)
                c->inodes[i] = d->inodes[i] ? inode_copy(d->inodes[i]) : NULL;
        c->n_inodes = d->n_inodes;
        c->read_only = d->read_only;
        return c;
}

const OutboxIo *sim_disk_io(SimDisk *d) {
        return &d->io;
}

void sim_disk_crash_at(SimDisk *d, uint64_t n) {
        d->crash_at = n > UINT64_MAX - d->stats.n_calls_total ? UINT64_MAX : d->stats.n_calls_total + n;
}

void sim_disk_crash_now(SimDisk *d) {
        d->crashed = true;
}

bool sim_disk_is_crashed(const SimDisk *d) {
        return d->crashed;
}

void sim_disk_reboot(SimDisk *d) {
        bool *linked;

        for (size_t n = 0; n < d->n_inodes; n++) {
                Inode *i = d->inodes[n];
                size_t kept;

                if (!i)
                        continue;
                if (!i->is_dir) {
                        inode_crash(d, i);
                        continue;
                }
                kept = (size_t) random_below(&d->random, i->n_ops + 1);
                for (size_t o = 0; o < kept; o++)
                        op_apply(&i->disk_names, &i->ops[o]);
                ops_drop(i);
                entries_copy(&i->names, &i->disk_names);
        }

        linked = must(calloc(d->n_inodes, sizeof(bool)));
        linked[0] = true;
        count_linked(d, d->inodes[0], linked);
        for (size_t n = 0; n < d->n_inodes; n++)
                if (!linked[n])
                        d->inodes[n] = inode_free(d->inodes[n]);
        free(linked);
        sim_disk_kill(d);
}

void sim_disk_kill(SimDisk *d) {
        for (size_t n = 0; n < d->n_inodes; n++)
                if (d->inodes[n]) {
                        d->inodes[n]->locked = false;
                        d->inodes[n]->n_open = 0;
                }
        d->n_files = 0;
        d->crashed = d->read_only = false;
        d->crash_at = UINT64_MAX;
        d->fail_count = 0;
}

void sim_disk_fail_at(SimDisk *d, unsigned kinds, uint64_t n, uint64_t count, int error) {
        d->fail_kinds = kinds;
        d->fail_skip = n;
        d->fail_count = count;
        d->fail_error = error;
        d->n_failed = 0;
}

uint64_t sim_disk_n_failed(const SimDisk *d) {
        return d->n_failed;
}

void sim_disk_set_capacity(SimDisk *d, uint64_t capacity) {
        d->capacity = capacity;
}

void sim_disk_set_read_only(SimDisk *d, bool read_only) {
        d->read_only = read_only;
}

uint64_t sim_disk_used(const SimDisk *d) {
        return used_pages(d) * PAGE_BYTES;
}

static Inode *file_named(const SimDisk *d, const char *name) {
        Inode *i = resolve(d, d->inodes[0], name, NULL);

        if (!i || i->is_dir)
                wrong_use("no file of that name");
        return i;
}

void sim_disk_break_range(SimDisk *d, const char *name, uint64_t offset, uint64_t size) {
        Inode *i = file_named(d, name);

        for (size_t p = (size_t) (offset / PAGE_BYTES); p < pages_of(offset + size) && p < i->n_pages; p++)
                i->flags[p] |= PAGE_BROKEN;
}

void sim_disk_get_stats(const SimDisk *d, SimDiskStats *ret) {
        *ret = d->stats;
}

unsigned sim_disk_n_open(const SimDisk *d) {
        unsigned n = 0;

        for (size_t i = 0; i < d->n_files; i++)
                n += d->files[i].used;
        return n;
}

/* Counts down to the i-th file in the order of the tree; the name when it is reached. */
static char *nth_name(const SimDisk *d, const Inode *dir, const char *prefix, size_t *left) {
        for (size_t e = 0; e < dir->names.n; e++) {
                const Inode *i = d->inodes[dir->names.items[e].inode];
                char *path, *found = NULL;

                if (asprintf(&path, "%s%s%s", prefix, *prefix ? "/" : "", dir->names.items[e].name) < 0)
                        abort();
                if (i->is_dir)
                        found = nth_name(d, i, path, left);
                else if ((*left)-- == 0)
                        return path;
                free(path);
                if (found)
                        return found;
        }
        return NULL;
}

size_t sim_disk_n_files(const SimDisk *d) {
        size_t left = SIZE_MAX;

        free(nth_name(d, d->inodes[0], "", &left));
        return SIZE_MAX - left;
}

const char *sim_disk_file_name(const SimDisk *d, size_t i) {
        SimDisk *lender = (SimDisk *) d;

        free(lender->name);
        lender->name = must(nth_name(d, d->inodes[0], "", &i));
        return lender->name;
}

uint64_t sim_disk_file_size(const SimDisk *d, const char *name) {
        return file_named(d, name)->size;
}

void sim_disk_file_read(const SimDisk *d, const char *name, uint64_t offset, void *data, size_t n) {
        const Inode *i = file_named(d, name);
        uint8_t *out = data;

        memset(out, 0, n);
        for (size_t done = 0, chunk; done < n; done += chunk) {
                size_t page = (size_t) ((offset + done) / PAGE_BYTES), at = (size_t) ((offset + done) % PAGE_BYTES);

                chunk = MIN(n - done, PAGE_BYTES - at);
                if (page < i->n_pages && i->now[page])
                        memcpy(out + done, i->now[page]->data + at, chunk);
        }
}

void sim_disk_file_write(SimDisk *d, const char *name, uint64_t offset, const void *data, size_t n) {
        Inode *i = file_named(d, name);

        inode_grow(i, pages_of(offset + n));
        for (size_t done = 0, chunk; done < n; done += chunk) {
                size_t page = (size_t) ((offset + done) / PAGE_BYTES), at = (size_t) ((offset + done) % PAGE_BYTES);

                chunk = MIN(n - done, PAGE_BYTES - at);
                memcpy(page_own(&i->now[page]) + at, (const uint8_t *) data + done, chunk);
                page_set(&i->disk[page], i->now[page]);
                if (!(i->flags[page] & PAGE_ALLOCATED))
                        i->n_allocated++;
                i->flags[page] |= PAGE_ALLOCATED;
        }
        i->size = i->disk_size = i->size_min = MAX(i->size, offset + n);
}

void sim_disk_file_add(SimDisk *d, const char *name, const void *data, size_t n) {
        const char *last;
        size_t inode = inode_new(d, /* is_dir= */ false);
        Inode *dir = resolve_parent(d, d->inodes[0], name, &last);

        entry_add(&dir->names, last, inode);
        entry_add(&dir->disk_names, last, inode);
        sim_disk_file_write(d, name, 0, data, n);
}

void sim_disk_file_truncate(SimDisk *d, const char *name, uint64_t size) {
        Inode *i = file_named(d, name);

        inode_truncate(i, size);
        for (size_t p = 0; p < i->n_pages; p++) {
                page_set(&i->disk[p], i->now[p]);
                i->flags[p] &= (uint8_t) ~PAGE_DIRTY;
        }
        i->disk_size = i->size_min = size;
}

void sim_disk_file_unlink(SimDisk *d, const char *name) {
        const char *last;
        Inode *dir;

        file_named(d, name);
        dir = resolve_parent(d, d->inodes[0], name, &last);
        entry_remove(&dir->names, last);
        entry_remove(&dir->disk_names, last);
}
