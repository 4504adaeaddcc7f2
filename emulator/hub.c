#include "emulator/hub.h"

#include <assert.h>
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <openssl/rand.h>

#include "emulator/hub-event.h"
#include "emulator/line-log.h"
#include "lib/fd-util.h"

/* The registry is a log of changes, one JSON line each, synced before a change is told. The whole
 * state is in memory; at the start the log is read, and written anew when most of its lines are
 * outdated. */

#define HUB_DEVICES_MAX 1000000U          /* identities per hub: the service's own limit */
#define TICKS_AT_1970 621355968000000000U /* 100 ns since year 1 */
#define COMPACT_LINES_MIN 1000U           /* a short log is never worth writing anew */
#define CUTS_MAX 4096U
#define LINE_BYTES_KEPT (1024U * 1024U) /* a line buffer that grew past this is given back */

static const struct {
        const char *name;
        unsigned rights;
} policy_table[] = {
        { HUB_POLICY_OWNER, HUB_RIGHT_REGISTRY_READ | HUB_RIGHT_REGISTRY_WRITE |
                                            HUB_RIGHT_SERVICE_CONNECT | HUB_RIGHT_DEVICE_CONNECT },
        { "service", HUB_RIGHT_SERVICE_CONNECT },
        { "device", HUB_RIGHT_DEVICE_CONNECT },
        { "registryRead", HUB_RIGHT_REGISTRY_READ },
        { "registryReadWrite", HUB_RIGHT_REGISTRY_READ | HUB_RIGHT_REGISTRY_WRITE },
};

typedef struct Policy {
        char *primary, *secondary;
} Policy;

struct Hub {
        char *host;
        int dir_fd;
        int lock_fd;

        pthread_mutex_t mutex; /* all below, up to the events */
        Policy policies[ELEMENTSOF(policy_table)];
        struct lh_table *devices; /* id to HubDevice, in order of creation */
        uint64_t last_etag, last_generation;
        LineLog registry;
        uint64_t n_lines;
        char **cuts;
        size_t n_cuts;
        atomic_bool has_cuts; /* lets the broker's thread look without the mutex */

        LineLog events; /* the broker's thread */
        uint64_t next_sequence;
        Buffer line;
};

static void device_entry_free(struct lh_entry *e) {
        HubDevice *d = (HubDevice *) lh_entry_v(e);

        hub_device_done(d); /* the key is its id */
        free(d);
}

Hub *hub_free(Hub *h) {
        if (!h)
                return NULL;
        if (h->devices)
                lh_table_free(h->devices);
        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++) {
                erase_and_free(h->policies[i].primary);
                erase_and_free(h->policies[i].secondary);
        }
        for (size_t i = 0; i < h->n_cuts; i++)
                free(h->cuts[i]);
        free(h->cuts);
        line_log_done(&h->registry);
        line_log_done(&h->events);
        buffer_done(&h->line);
        pthread_mutex_destroy(&h->mutex);
        h->lock_fd = safe_close(h->lock_fd);
        h->dir_fd = safe_close(h->dir_fd);
        free(h->host);
        free(h);
        return NULL;
}

const char *hub_host(const Hub *h) {
        return h->host;
}

bool hub_is_host(const Hub *h, const char *name, size_t n) {
        size_t host_size = strlen(h->host);

        if (n < host_size || strncasecmp(name, h->host, host_size) != 0)
                return false;
        if (n == host_size)
                return true;
        if (name[host_size] != ':' || n == host_size + 1)
                return false;
        for (size_t i = host_size + 1; i < n; i++)
                if (!isdigit((unsigned char) name[i]))
                        return false;
        return true;
}

static HubDevice *find_device(Hub *h, const char *id) {
        void *v;

        return lh_table_lookup_ex(h->devices, id, &v) ? v : NULL;
}

static int insert_device(Hub *h, const HubDevice *d) {
        HubDevice *copy;

        copy = malloc(sizeof(*copy));
        if (!copy || hub_device_copy(d, copy) < 0) {
                free(copy);
                return -ENOMEM;
        }
        if (lh_table_insert(h->devices, copy->id, copy) < 0) {
                hub_device_done(copy);
                free(copy);
                return -ENOMEM;
        }
        return 0;
}

static void remove_device(Hub *h, const char *id) {
        (void) lh_table_delete(h->devices, id); /* looked up before */
}

/* Lines of the registry. */

static int append_json_line(Buffer *out, struct json_object *o) {
        const char *text;
        size_t n;
        int r;

        text = json_object_to_json_string_length(
                        o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
        if (!text)
                return -ENOMEM;
        r = buffer_append(out, text, n);
        return r < 0 ? r : buffer_append(out, "\n", 1);
}

static int append_device_line(Buffer *out, const HubDevice *d) {
        _cleanup_json_ struct json_object *line = json_object_new_object();
        struct json_object *device;
        int r;

        r = hub_device_to_json(d, /* with_z= */ true, &device);
        if (r < 0)
                return r;
        if (json_add(line, "device", device) < 0 ||
            json_add_u64(line, "statusUpdatedUSec", d->status_updated_usec) < 0)
                return -ENOMEM;
        return append_json_line(out, line);
}

static int append_policy_line(Buffer *out, const char *name, const Policy *p) {
        _cleanup_json_ struct json_object *line = json_object_new_object();
        struct json_object *policy = json_object_new_object();

        if (json_add(line, "policy", policy) < 0 || json_add_string(policy, "name", name) < 0 ||
            json_add_string(policy, "primaryKey", p->primary) < 0 ||
            json_add_string(policy, "secondaryKey", p->secondary) < 0)
                return -ENOMEM;
        return append_json_line(out, line);
}

static int append_deletion_line(Buffer *out, const char *id) {
        _cleanup_json_ struct json_object *line = json_object_new_object();

        if (!line || json_add_string(line, "deleted", id) < 0)
                return -ENOMEM;
        return append_json_line(out, line);
}

static void erase_buffer(Buffer *b) {
        if (b->data)
                explicit_bzero(b->data, b->size); /* it held keys */
        buffer_done(b);
}

static int store_line(Hub *h, const Buffer *line) {
        int r;

        r = line_log_append(&h->registry, line->data, line->size);
        if (r < 0)
                return r;
        h->n_lines++;
        return line_log_sync(&h->registry);
}

static int store_device(Hub *h, const HubDevice *d) {
        _cleanup_(erase_buffer) Buffer line = { 0 };
        int r;

        r = append_device_line(&line, d);
        return r < 0 ? r : store_line(h, &line);
}

static int read_device_line(Hub *h, struct json_object *line, struct json_object *o) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        const char *reason, *etag, *generation;
        size_t n;
        int r;

        r = hub_device_from_json(o, &d, &reason);
        if (r < 0)
                return r;
        if (json_get_string(o, "etag", &etag, &n) <= 0 || hub_etag_parse(etag, &d.etag) < 0 ||
            json_get_string(o, "generationId", &generation, &n) <= 0 ||
            json_get_u64(line, "statusUpdatedUSec", &d.status_updated_usec) < 0)
                return -EINVAL;
        errno = 0;
        d.generation = strtoull(generation, NULL, 10);
        if (errno != 0)
                return -EINVAL;

        h->last_etag = MAX(h->last_etag, d.etag);
        h->last_generation = MAX(h->last_generation, d.generation);
        if (find_device(h, d.id))
                remove_device(h, d.id);
        return insert_device(h, &d);
}

static int read_policy_line(Hub *h, struct json_object *o) {
        const char *name, *primary, *secondary;
        size_t n;

        if (json_get_string(o, "name", &name, &n) <= 0 ||
            json_get_string(o, "primaryKey", &primary, &n) <= 0 ||
            json_get_string(o, "secondaryKey", &secondary, &n) <= 0)
                return -EINVAL;

        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++) {
                Policy *p = h->policies + i;

                if (!streq(name, policy_table[i].name))
                        continue;
                p->primary = erase_and_free(p->primary);
                p->secondary = erase_and_free(p->secondary);
                p->primary = strdup(primary);
                p->secondary = strdup(secondary);
                return p->primary && p->secondary ? 0 : -ENOMEM;
        }
        return -EINVAL;
}

static int read_line(Hub *h, const char *text) {
        _cleanup_json_ struct json_object *line = json_tokener_parse(text);
        struct json_object *o;
        const char *id;
        size_t n;

        if (!line || !json_object_is_type(line, json_type_object))
                return -EINVAL;
        if (json_get_object(line, "device", &o) > 0)
                return read_device_line(h, line, o);
        if (json_get_object(line, "policy", &o) > 0)
                return read_policy_line(h, o);
        if (json_get_string(line, "deleted", &id, &n) > 0) {
                if (find_device(h, id))
                        remove_device(h, id);
                return 0;
        }
        return -EINVAL;
}

static int read_registry(Hub *h, uint64_t *reterr_line) {
        _cleanup_fclose_ FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        size_t allocated = 0;
        ssize_t n;
        int fd, r = 0;

        fd = openat(h->dir_fd, "registry.jsonl", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        f = fdopen(fd, "r");
        if (!f) {
                r = -errno;
                safe_close(fd);
                return r;
        }

        while (r >= 0 && (n = getline(&line, &allocated, f)) > 0) {
                h->n_lines++;
                r = read_line(h, line);
        }
        if (line)
                explicit_bzero(line, allocated);
        if (r == -EINVAL) {
                *reterr_line = h->n_lines;
                return -EBADMSG;
        }
        return r < 0 ? r : ferror(f) ? -EIO : 0;
}

/* The whole state as lines, in place of the log. */
static int write_registry_anew(Hub *h) {
        _cleanup_(erase_buffer) Buffer text = { 0 };
        struct lh_entry *e;
        uint64_t n_lines = 0;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++, n_lines++) {
                r = append_policy_line(&text, policy_table[i].name, h->policies + i);
                if (r < 0)
                        return r;
        }
        lh_foreach (h->devices, e) {
                r = append_device_line(&text, lh_entry_v(e));
                if (r < 0)
                        return r;
                n_lines++;
        }

        r = replace_file_at(h->dir_fd, "registry.jsonl", text.data, text.size, 0600);
        if (r < 0)
                return r;
        line_log_done(&h->registry);
        h->n_lines = n_lines;
        return line_log_open(h->dir_fd, "registry.jsonl", 0600, &h->registry, NULL);
}

static int make_policies(Hub *h) {
        bool changed = false;
        int r;

        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++) {
                Policy *p = h->policies + i;

                if (p->primary)
                        continue;
                r = hub_key_make(&p->primary);
                if (r >= 0)
                        r = hub_key_make(&p->secondary);
                if (r < 0)
                        return r;
                changed = true;
        }

        if (!changed && h->n_lines < COMPACT_LINES_MIN + 2 * (uint64_t) lh_table_length(h->devices))
                return 0;
        return write_registry_anew(h);
}

static int open_events(Hub *h) {
        _cleanup_json_ struct json_object *last = NULL;
        _cleanup_free_ char *line = NULL;
        size_t n;
        int r;

        r = line_log_open(h->dir_fd, "events.jsonl", 0640, &h->events, NULL);
        if (r < 0)
                return r;
        r = line_log_last(&h->events, &line, &n);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;

        last = json_tokener_parse(line);
        if (!last || json_get_u64(last, "sequenceNumber", &h->next_sequence) <= 0)
                return -EBADMSG;
        h->next_sequence++;
        return 0;
}

/* One process at a time. It waits, because after the death of the main process its broker may still
 * have a moment to live, and a restart should not fail for that. */
static int lock_state(Hub *h) {
        h->lock_fd = openat(h->dir_fd, "hub.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (h->lock_fd < 0)
                return -errno;
        while (flock(h->lock_fd, LOCK_EX) < 0)
                if (errno != EINTR)
                        return -errno;
        return 0;
}

int hub_open(int dir_fd, const char *host, Hub **ret, uint64_t *reterr_line) {
        _cleanup_(hub_freep) Hub *h = NULL;
        uint32_t random;
        int r;

        assert(host);
        assert(ret);

        h = malloc(sizeof(*h));
        if (!h)
                return -ENOMEM;
        *h = (Hub) { .dir_fd = -EBADF,
                     .lock_fd = -EBADF,
                     .registry = LINE_LOG_INIT,
                     .events = LINE_LOG_INIT };
        (void) pthread_mutex_init(&h->mutex, NULL); /* cannot fail without attributes on Linux */

        h->host = strdup(host);
        h->devices = lh_kchar_table_new(64, device_entry_free);
        if (!h->host || !h->devices)
                return -ENOMEM;
        h->dir_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (h->dir_fd < 0)
                return -errno;
        r = lock_state(h);
        if (r < 0)
                return r;

        r = line_log_open(h->dir_fd, "registry.jsonl", 0600, &h->registry, NULL);
        if (r >= 0)
                r = read_registry(h, reterr_line);
        if (r < 0)
                return r;
        if (h->last_etag == 0) {
                if (RAND_bytes((unsigned char *) &random, sizeof(random)) != 1)
                        return -EIO;
                h->last_etag = 100000000U + random % 900000000U; /* nine digits, as the hub's are */
        }
        r = make_policies(h);
        if (r < 0)
                return r;
        r = open_events(h);
        if (r < 0)
                return r;

        *ret = TAKE_PTR(h);
        return 0;
}

int hub_policy_get(Hub *h, const char *name, char **ret_primary, char **ret_secondary,
                   unsigned *ret_rights) {
        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++) {
                _cleanup_(erase_and_freep) char *primary = NULL, *secondary = NULL;

                if (!streq(name, policy_table[i].name))
                        continue;
                /* Policies never change once the hub is open. */
                primary = strdup(h->policies[i].primary);
                secondary = strdup(h->policies[i].secondary);
                if (!primary || !secondary)
                        return -ENOMEM;
                *ret_primary = TAKE_PTR(primary);
                *ret_secondary = TAKE_PTR(secondary);
                *ret_rights = policy_table[i].rights;
                return 0;
        }
        return -ENOENT;
}

static void lock(Hub *h) {
        (void) pthread_mutex_lock(&h->mutex); /* a plain mutex, never locked twice */
}

static void unlock(Hub *h) {
        (void) pthread_mutex_unlock(&h->mutex);
}

static int create_locked(Hub *h, const HubDevice *d, HubDevice *ret) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        uint64_t ticks = now_usec(CLOCK_REALTIME) * 10 + TICKS_AT_1970;
        int r;

        if (find_device(h, d->id))
                return -EEXIST;
        if ((unsigned) lh_table_length(h->devices) >= HUB_DEVICES_MAX)
                return -EOVERFLOW;

        r = hub_device_copy(d, &made);
        if (r < 0)
                return r;
        r = hub_device_make_keys(&made);
        if (r < 0)
                return r;
        /* Also in the same instant, or with a clock that went back, a generation is new. */
        made.generation = MAX(ticks, h->last_generation + 1);
        made.etag = h->last_etag + 1;
        made.status_updated_usec = 0;

        r = insert_device(h, &made);
        if (r < 0)
                return r;
        r = hub_device_copy(&made, ret);
        if (r >= 0)
                r = store_device(h, &made);
        if (r < 0) {
                hub_device_done(ret);
                remove_device(h, made.id);
                return r;
        }
        h->last_generation = made.generation;
        h->last_etag = made.etag;
        return 0;
}

int hub_device_create(Hub *h, const HubDevice *d, HubDevice *ret) {
        HubDevice made = { 0 };
        int r;

        lock(h);
        r = create_locked(h, d, &made);
        unlock(h);
        if (r >= 0)
                *ret = made;
        return r;
}

/* Under the mutex. A list that is full means that the broker's thread is stuck; the token's end or
 * the next connect will do it then. */
static void note_cut(Hub *h, const char *id) {
        char **cuts, *copy;

        if (h->n_cuts >= CUTS_MAX)
                return;
        cuts = reallocarray(h->cuts, h->n_cuts + 1, sizeof(*cuts));
        if (!cuts)
                return;
        h->cuts = cuts;
        copy = strdup(id);
        if (!copy)
                return;
        h->cuts[h->n_cuts++] = copy;
        atomic_store(&h->has_cuts, true);
}

char *hub_take_cut(Hub *h) {
        char *id = NULL;

        if (!atomic_load(&h->has_cuts))
                return NULL;
        lock(h);
        if (h->n_cuts > 0)
                id = h->cuts[--h->n_cuts];
        atomic_store(&h->has_cuts, h->n_cuts > 0);
        unlock(h);
        return id;
}

static int check_etag(const HubDevice *d, const uint64_t *if_etag, uint64_t *reterr_etag) {
        if (!d)
                return -ENOENT;
        if (if_etag && *if_etag != d->etag) {
                *reterr_etag = d->etag;
                return -ESTALE;
        }
        return 0;
}

static int update_locked(Hub *h, const HubDevice *d, const uint64_t *if_etag, HubDevice *ret,
                         uint64_t *reterr_etag) {
        _cleanup_(hub_device_done) HubDevice made = { 0 }, copy = { 0 };
        HubDevice *old = find_device(h, d->id);
        int r;

        r = check_etag(old, if_etag, reterr_etag);
        if (r < 0)
                return r;
        r = hub_device_copy(d, &made);
        if (r < 0)
                return r;
        r = hub_device_make_keys(&made);
        if (r < 0)
                return r;
        made.generation = old->generation;
        made.etag = h->last_etag + 1;
        made.status_updated_usec = made.enabled != old->enabled ? now_usec(CLOCK_REALTIME)
                                                                : old->status_updated_usec;
        made.connected = old->connected;
        made.connection_updated_usec = old->connection_updated_usec;
        made.last_activity_usec = old->last_activity_usec;

        r = hub_device_copy(&made, &copy);
        if (r < 0)
                return r;
        r = store_device(h, &made);
        if (r < 0)
                return r;

        /* The table's key is the id string of its value, so the entry stays and only the rest moves
         * in. */
        free(made.id);
        made.id = TAKE_PTR(old->id);
        {
                HubDevice swap = *old;

                *old = made;
                made = swap;
        }
        h->last_etag = old->etag;
        if (!old->enabled)
                note_cut(h, old->id);
        *ret = copy;
        copy = (HubDevice) { 0 };
        return 0;
}

int hub_device_update(Hub *h, const HubDevice *d, const uint64_t *if_etag, HubDevice *ret,
                      uint64_t *reterr_etag) {
        int r;

        lock(h);
        r = update_locked(h, d, if_etag, ret, reterr_etag);
        unlock(h);
        return r;
}

static int delete_locked(Hub *h, const char *id, const uint64_t *if_etag, uint64_t *reterr_etag) {
        _cleanup_(erase_buffer) Buffer line = { 0 };
        int r;

        r = check_etag(find_device(h, id), if_etag, reterr_etag);
        if (r < 0)
                return r;
        r = append_deletion_line(&line, id);
        if (r < 0)
                return r;
        r = store_line(h, &line);
        if (r < 0)
                return r;
        remove_device(h, id);
        note_cut(h, id);
        return 0;
}

int hub_device_delete(Hub *h, const char *id, const uint64_t *if_etag, uint64_t *reterr_etag) {
        int r;

        lock(h);
        r = delete_locked(h, id, if_etag, reterr_etag);
        unlock(h);
        return r;
}

int hub_device_get(Hub *h, const char *id, HubDevice *ret) {
        HubDevice *d;
        int r;

        lock(h);
        d = find_device(h, id);
        r = d ? hub_device_copy(d, ret) : -ENOENT;
        unlock(h);
        return r;
}

int hub_device_list(Hub *h, size_t max, HubDevice **ret, size_t *ret_n) {
        struct lh_entry *e;
        HubDevice *list;
        size_t n = 0;
        int r = 0;

        lock(h);
        list = calloc(MIN(max, (size_t) lh_table_length(h->devices)) + 1, sizeof(*list));
        if (!list)
                r = -ENOMEM;
        else
                lh_foreach (h->devices, e) {
                        if (n >= max)
                                break;
                        r = hub_device_copy(lh_entry_v(e), list + n);
                        if (r < 0)
                                break;
                        n++;
                }
        unlock(h);

        if (r < 0) {
                for (size_t i = 0; i < n; i++)
                        hub_device_done(list + i);
                free(list);
                return r;
        }
        *ret = list;
        *ret_n = n;
        return 0;
}

void hub_device_count(Hub *h, uint64_t *ret_enabled, uint64_t *ret_disabled,
                      uint64_t *ret_connected) {
        struct lh_entry *e;

        *ret_enabled = *ret_disabled = *ret_connected = 0;
        lock(h);
        lh_foreach (h->devices, e) {
                const HubDevice *d = lh_entry_v(e);

                *(d->enabled ? ret_enabled : ret_disabled) += 1;
                *ret_connected += d->connected;
        }
        unlock(h);
}

void hub_device_note(Hub *h, const char *id, bool connected, usec_t activity_usec) {
        HubDevice *d;

        lock(h);
        d = find_device(h, id);
        if (d) {
                if (d->connected != connected)
                        d->connection_updated_usec = now_usec(CLOCK_REALTIME);
                d->connected = connected;
                d->last_activity_usec = MAX(d->last_activity_usec, activity_usec);
        }
        unlock(h);
}

int hub_event_append(Hub *h, const HubEvent *e) {
        int r;

        h->line.size = 0;
        r = hub_event_format(e, h->next_sequence, &h->line);
        if (r >= 0)
                r = line_log_append(&h->events, h->line.data, h->line.size);
        if (r >= 0)
                h->next_sequence++;
        if (h->line.allocated > LINE_BYTES_KEPT)
                buffer_done(&h->line);
        return r;
}
