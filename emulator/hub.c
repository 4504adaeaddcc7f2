#include "emulator/hub.h"

#include <assert.h>
#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <openssl/rand.h>

#include "emulator/hub-c2d-private.h"
#include "lib/fd-util.h"
#include "lib/string-util.h"

/* Identities and twins are in a database (hub-store); what connections tell, which no restart keeps, is
 * in memory beside it. Every change is one transaction, or a part of one that its caller opened. */

#define HUB_DEVICES_MAX 1000000U      /* identities per hub: the service's own limit */
#define HUB_MODULES_MAX 50U           /* per device, likewise */
#define CUTS_MAX 4096U
#define NOTICES_MAX 4096U

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

/* What the connections of a client id tell. */
typedef struct Presence {
        bool connected;
        usec_t connection_updated_usec, last_activity_usec;
} Presence;

struct Hub {
        char *host;
        int dir_fd;
        int lock_fd;
        Policy policies[ELEMENTSOF(policy_table)]; /* never change once the hub is open */

        pthread_mutex_t mutex; /* all below, up to the events; recursive, for hub_begin() */
        HubStore *store;
        unsigned depth;             /* of hub_begin() */
        bool failed;                /* the open transaction cannot be committed */
        struct lh_table *presences; /* client id to Presence, of those that connected */
        uint64_t n_connected;       /* devices, without modules */
        uint64_t n_devices;         /* counting them anew for each creation would take longer and longer */
        uint64_t last_etag, last_generation;
        char **cuts;
        size_t n_cuts;
        atomic_bool has_cuts; /* lets the broker's thread look without the mutex */
        HubNotice *notices;   /* a ring of NOTICES_MAX, made with the first */
        size_t first_notice, n_notices;
        atomic_bool has_notices;
        HubC2d *c2d;

        HubEvents *events; /* locks by itself */
};

static void presence_entry_free(struct lh_entry *e) {
        free(lh_entry_k(e));
        free((void *) (uintptr_t) lh_entry_v(e));
}

Hub *hub_free(Hub *h) {
        if (!h)
                return NULL;
        if (h->presences)
                lh_table_free(h->presences);
        for (size_t i = 0; i < ELEMENTSOF(policy_table); i++) {
                erase_and_free(h->policies[i].primary);
                erase_and_free(h->policies[i].secondary);
        }
        for (size_t i = 0; i < h->n_cuts; i++)
                free(h->cuts[i]);
        free(h->cuts);
        for (; h->n_notices > 0; h->n_notices--)
                hub_notice_done(h->notices + h->first_notice++ % NOTICES_MAX);
        free(h->notices);
        hub_c2d_free(h->c2d);
        hub_store_free(h->store);
        hub_events_free(h->events);
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

static int make_policy(Hub *h, const char *name, Policy *p) {
        int r;

        r = hub_key_make(&p->primary);
        if (r >= 0)
                r = hub_key_make(&p->secondary);
        return r < 0 ? r : hub_store_policy_put(h->store, name, p->primary, p->secondary);
}

static int load_policies(Hub *h) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(policy_table); i++) {
                Policy *p = h->policies + i;

                r = hub_store_policy_get(h->store, policy_table[i].name, &p->primary, &p->secondary);
                if (r == -ENOENT)
                        r = make_policy(h, policy_table[i].name, p);
        }
        return r;
}

static int load_numbers(Hub *h) {
        uint32_t random;
        int r;

        r = hub_store_number_get(h->store, "lastEtag", &h->last_etag);
        if (r >= 0)
                r = hub_store_number_get(h->store, "lastGeneration", &h->last_generation);
        if (r < 0 || h->last_etag != 0)
                return r;
        if (RAND_bytes((unsigned char *) &random, sizeof(random)) != 1)
                return -EIO;
        h->last_etag = 100000000U + random % 900000000U; /* nine digits, as the hub's are */
        return hub_store_number_set(h->store, "lastEtag", h->last_etag);
}

static int count_devices(Hub *h) {
        uint64_t enabled, disabled;
        int r;

        r = hub_store_count(h->store, &enabled, &disabled);
        if (r >= 0)
                h->n_devices = enabled + disabled;
        return r;
}

static int open_store(Hub *h) {
        int r;

        r = hub_store_open(h->dir_fd, &h->store);
        if (r >= 0)
                r = hub_store_begin(h->store);
        if (r < 0)
                return r;
        r = load_policies(h);
        if (r >= 0)
                r = load_numbers(h);
        if (r < 0) {
                hub_store_rollback(h->store);
                return r;
        }
        return hub_store_commit(h->store);
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

static void mutex_init(pthread_mutex_t *m) {
        pthread_mutexattr_t a;

        /* None of these can fail with these arguments on Linux. */
        (void) pthread_mutexattr_init(&a);
        (void) pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
        (void) pthread_mutex_init(m, &a);
        (void) pthread_mutexattr_destroy(&a);
}

int hub_open(int dir_fd, const char *host, Hub **ret) {
        _cleanup_(hub_freep) Hub *h = NULL;
        int r;

        assert(host);
        assert(ret);

        h = malloc(sizeof(*h));
        if (!h)
                return -ENOMEM;
        *h = (Hub) { .dir_fd = -EBADF, .lock_fd = -EBADF };
        mutex_init(&h->mutex);

        h->host = strdup(host);
        h->presences = lh_kchar_table_new(64, presence_entry_free);
        if (!h->host || !h->presences)
                return -ENOMEM;
        h->dir_fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (h->dir_fd < 0)
                return -errno;
        r = lock_state(h);
        if (r >= 0)
                r = open_store(h);
        if (r >= 0)
                r = count_devices(h);
        if (r >= 0)
                r = hub_c2d_new(h->store, &h->c2d);
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

void hub_lock(Hub *h) {
        (void) pthread_mutex_lock(&h->mutex); /* a recursive one, never locked too often */
}

void hub_unlock(Hub *h) {
        (void) pthread_mutex_unlock(&h->mutex);
}

HubStore *hub_store(Hub *h) {
        return h->store;
}

HubC2d *hub_c2d(Hub *h) {
        return h->c2d;
}

/* Transactions nest: the outermost commits. */
int hub_begin(Hub *h) {
        int r = 0;

        hub_lock(h);
        if (h->depth == 0) {
                h->failed = false;
                r = hub_store_begin(h->store);
        }
        if (r < 0)
                hub_unlock(h);
        else
                h->depth++;
        return r;
}

int hub_end(Hub *h, int result) {
        if (result < 0 && result != -ENOENT && result != -EEXIST && result != -ESTALE &&
            result != -EOVERFLOW && result != -EINVAL)
                h->failed = true; /* the others are found before anything is written */
        if (--h->depth == 0) {
                if (h->failed)
                        hub_store_rollback(h->store);
                else {
                        int r = hub_store_commit(h->store);

                        h->failed = r < 0;
                        result = r < 0 ? r : result;
                }
                if (h->failed)
                        (void) count_devices(h); /* a disk that fails is told with what comes next */
        }
        hub_unlock(h);
        return result;
}

static Presence *find_presence(Hub *h, const char *client_id) {
        void *v;

        return lh_table_lookup_ex(h->presences, client_id, &v) ? v : NULL;
}

static int add_presence(Hub *h, HubDevice *d) {
        _cleanup_free_ char *client_id = NULL;
        const Presence *p;
        int r;

        r = hub_device_client_id(d->id, d->module_id, &client_id);
        if (r < 0)
                return r;
        p = find_presence(h, client_id);
        if (p) {
                d->connected = p->connected;
                d->connection_updated_usec = p->connection_updated_usec;
                d->last_activity_usec = p->last_activity_usec;
        }
        return 0;
}

static int get_locked(Hub *h, const char *id, const char *module_id, HubDevice *ret) {
        HubDevice d = { 0 };
        int r;

        r = hub_store_get(h->store, id, module_id, &d);
        if (r >= 0)
                r = add_presence(h, &d);
        if (r < 0) {
                hub_device_done(&d);
                return r;
        }
        *ret = d;
        return 0;
}

int hub_device_get(Hub *h, const char *id, const char *module_id, HubDevice *ret) {
        int r;

        hub_lock(h);
        r = get_locked(h, id, module_id, ret);
        hub_unlock(h);
        return r;
}

static int put_identity(Hub *h, const HubDevice *d) {
        int r;

        r = hub_store_put(h->store, d);
        if (r >= 0)
                r = hub_store_number_set(h->store, "lastEtag", d->etag);
        if (r >= 0 && d->generation > h->last_generation)
                r = hub_store_number_set(h->store, "lastGeneration", d->generation);
        if (r < 0)
                return r;
        h->last_etag = d->etag;
        h->last_generation = MAX(h->last_generation, d->generation);
        return 0;
}

static int count_one(const HubDevice *d, void *userdata) {
        return 0;
}

/* 0, -ENOENT (a module's device), -EEXIST or -EOVERFLOW. */
static int check_room(Hub *h, const HubDevice *d) {
        _cleanup_(hub_device_done) HubDevice found = { 0 }, device = { 0 };
        int r;

        r = hub_store_get(h->store, d->id, d->module_id, &found);
        if (r != -ENOENT)
                return r < 0 ? r : -EEXIST;
        if (!d->module_id)
                return h->n_devices >= HUB_DEVICES_MAX ? -EOVERFLOW : 0;
        r = hub_store_get(h->store, d->id, NULL, &device);
        if (r < 0)
                return r;
        r = hub_store_walk(h->store, HUB_STORE_MODULES, d->id, NULL, NULL, HUB_MODULES_MAX, count_one,
                           NULL);
        return r > 0 ? -EOVERFLOW : r;
}

/* What the hub gives to a new identity. */
static int complete_identity(Hub *h, HubDevice *d) {
        uint64_t ticks = now_usec(CLOCK_REALTIME) * 10 + HUB_TICKS_AT_1970;
        int r;

        r = hub_device_make_keys(d);
        if (r < 0)
                return r;
        /* Also in the same instant, or with a clock that went back, a generation is new. */
        d->generation = MAX(ticks, h->last_generation + 1);
        d->etag = h->last_etag + 1;
        d->status_updated_usec = 0;
        if (!d->iot_edge || d->scope)
                return 0;
        return format_string(&d->scope, HUB_EDGE_SCOPE_PREFIX "%s-%" PRIu64, d->id, d->generation);
}

/* An edge device brings two modules with it, which sign in by no key of their own. */
static int create_system_modules(Hub *h, const HubDevice *device) {
        static const char *const names[] = { "$edgeAgent", "$edgeHub" };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(names); i++) {
                HubDevice m = { .id = device->id,
                                .module_id = (char *) names[i],
                                .enabled = true,
                                .auth = HUB_DEVICE_AUTH_NONE,
                                .managed_by = (char *) "iotEdge",
                                .generation = h->last_generation + 1,
                                .etag = h->last_etag + 1 };

                r = put_identity(h, &m);
        }
        return r;
}

static int create_locked(Hub *h, const HubDevice *d, HubDevice *ret) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        int r;

        r = check_room(h, d);
        if (r >= 0)
                r = hub_device_copy(d, &made);
        if (r >= 0)
                r = complete_identity(h, &made);
        if (r >= 0 && !made.module_id && made.scope && !made.parent_scope && !made.iot_edge) {
                made.parent_scope = strdup(made.scope); /* a leaf names its parent once */
                r = made.parent_scope ? 0 : -ENOMEM;
        }
        if (r >= 0)
                r = put_identity(h, &made);
        if (r >= 0 && made.iot_edge)
                r = create_system_modules(h, &made);
        if (r < 0)
                return r;
        h->n_devices += !made.module_id;
        *ret = made;
        made = (HubDevice) { 0 };
        return 0;
}

int hub_device_create(Hub *h, const HubDevice *d, HubDevice *ret) {
        HubDevice made = { 0 };
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, create_locked(h, d, &made));
        if (r < 0)
                hub_device_done(&made);
        else
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
        hub_lock(h);
        if (h->n_cuts > 0)
                id = h->cuts[--h->n_cuts];
        atomic_store(&h->has_cuts, h->n_cuts > 0);
        hub_unlock(h);
        return id;
}

static int check_etag(const HubDevice *d, const uint64_t *if_etag, uint64_t *reterr_etag) {
        if (if_etag && *if_etag != d->etag) {
                *reterr_etag = d->etag;
                return -ESTALE;
        }
        return 0;
}

static void forget_presence(Hub *h, const char *client_id) {
        const Presence *p = find_presence(h, client_id);

        if (!p)
                return;
        if (p->connected && !strchr(client_id, '/'))
                h->n_connected--;
        (void) lh_table_delete(h->presences, client_id); /* it is there */
}

typedef struct Cut {
        Hub *hub;
        bool forget; /* the identity is deleted: a new one of that id has not been seen yet */
} Cut;

static int cut_identity(const HubDevice *d, void *userdata) {
        const Cut *c = userdata;
        _cleanup_free_ char *client_id = NULL;
        int r;

        r = hub_device_client_id(d->id, d->module_id, &client_id);
        if (r < 0)
                return r;
        note_cut(c->hub, client_id);
        if (c->forget) {
                forget_presence(c->hub, client_id);
                hub_c2d_forget(c->hub->c2d, client_id);
        }
        return 0;
}

/* The connections of an identity, with a device also those of its modules. */
static int cut_off(Hub *h, const HubDevice *d, bool forget) {
        Cut c = { h, forget };
        int r;

        r = cut_identity(d, &c);
        if (r < 0 || d->module_id)
                return r;
        return hub_store_walk(h->store, HUB_STORE_MODULES, d->id, NULL, NULL, SIZE_MAX, cut_identity,
                              &c);
}

/* An edge device keeps its own scope; a leaf's is its parent's. */
static int carry_scope(const HubDevice *old, HubDevice *made) {
        if (made->module_id)
                return 0;
        if (old->iot_edge && made->iot_edge) {
                if (made->scope && !streq(made->scope, strempty(old->scope)))
                        return -EINVAL;
                if (!made->scope && old->scope && !(made->scope = strdup(old->scope)))
                        return -ENOMEM;
                return 0;
        }
        if (made->iot_edge)
                return made->scope ? 0
                                   : format_string(&made->scope,
                                                   HUB_EDGE_SCOPE_PREFIX "%s-%" PRIu64, made->id,
                                                   old->generation);
        free(made->parent_scope);
        made->parent_scope = made->scope ? strdup(made->scope) : NULL;
        return made->scope && !made->parent_scope ? -ENOMEM : 0;
}

static int update_locked(Hub *h, const HubDevice *d, const uint64_t *if_etag, HubDevice *ret,
                         uint64_t *reterr_etag) {
        _cleanup_(hub_device_done) HubDevice made = { 0 }, old = { 0 };
        int r;

        r = get_locked(h, d->id, d->module_id, &old);
        if (r >= 0)
                r = check_etag(&old, if_etag, reterr_etag);
        if (r >= 0)
                r = hub_device_copy(d, &made);
        if (r >= 0)
                r = carry_scope(&old, &made);
        if (r >= 0)
                r = hub_device_make_keys(&made);
        if (r < 0)
                return r;
        made.generation = old.generation;
        made.etag = h->last_etag + 1;
        made.status_updated_usec = made.enabled != old.enabled ? now_usec(CLOCK_REALTIME)
                                                               : old.status_updated_usec;
        made.n_c2d = old.n_c2d;
        made.connected = old.connected;
        made.connection_updated_usec = old.connection_updated_usec;
        made.last_activity_usec = old.last_activity_usec;
        if (!made.twin)
                made.twin = TAKE_PTR(old.twin);

        r = put_identity(h, &made);
        if (r >= 0 && !made.enabled)
                r = cut_off(h, &made, /* forget= */ false);
        if (r < 0)
                return r;
        *ret = made;
        made = (HubDevice) { 0 };
        return 0;
}

int hub_device_update(Hub *h, const HubDevice *d, const uint64_t *if_etag, HubDevice *ret,
                      uint64_t *reterr_etag) {
        HubDevice made = { 0 };
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, update_locked(h, d, if_etag, &made, reterr_etag));
        if (r < 0)
                hub_device_done(&made);
        else
                *ret = made;
        return r;
}

static int delete_locked(Hub *h, const char *id, const char *module_id, const uint64_t *if_etag,
                         uint64_t *reterr_etag) {
        _cleanup_(hub_device_done) HubDevice old = { 0 };
        int r;

        r = hub_store_get(h->store, id, module_id, &old);
        if (r >= 0)
                r = check_etag(&old, if_etag, reterr_etag);
        if (r >= 0)
                r = cut_off(h, &old, /* forget= */ true);
        if (r >= 0)
                r = hub_store_delete(h->store, id, module_id);
        if (r >= 0)
                h->n_devices -= !module_id;
        return r;
}

int hub_device_delete(Hub *h, const char *id, const char *module_id, const uint64_t *if_etag,
                      uint64_t *reterr_etag) {
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        return hub_end(h, delete_locked(h, id, module_id, if_etag, reterr_etag));
}

int hub_device_store_twin(Hub *h, const HubDevice *d) {
        return hub_store_put(h->store, d);
}

void hub_notice_done(HubNotice *n) {
        free(n->client_id);
        free(n->text);
        *n = (HubNotice) { 0 };
}

static int add_notice_locked(Hub *h, const HubNotice *n) {
        HubNotice copy = { .version = n->version };

        if (!h->notices)
                h->notices = calloc(NOTICES_MAX, sizeof(*h->notices));
        copy.client_id = strdup(n->client_id);
        copy.text = strdup(n->text);
        if (!h->notices || !copy.client_id || !copy.text) {
                hub_notice_done(&copy);
                return -ENOMEM;
        }
        if (h->n_notices == NOTICES_MAX) {
                hub_notice_done(h->notices + h->first_notice);
                h->first_notice = (h->first_notice + 1) % NOTICES_MAX;
                h->n_notices--;
        }
        h->notices[(h->first_notice + h->n_notices++) % NOTICES_MAX] = copy;
        atomic_store(&h->has_notices, true);
        return 0;
}

int hub_notice_add(Hub *h, const HubNotice *n) {
        int r;

        hub_lock(h);
        r = add_notice_locked(h, n);
        hub_unlock(h);
        return r;
}

int hub_notice_take(Hub *h, HubNotice *ret) {
        int r = 0;

        if (!atomic_load(&h->has_notices))
                return 0;
        hub_lock(h);
        if (h->n_notices > 0) {
                *ret = h->notices[h->first_notice];
                h->first_notice = (h->first_notice + 1) % NOTICES_MAX;
                h->n_notices--;
                r = 1;
        }
        atomic_store(&h->has_notices, h->n_notices > 0);
        hub_unlock(h);
        return r;
}

typedef struct Walk {
        Hub *hub;
        int (*on_identity)(const HubDevice *d, void *userdata);
        void *userdata;
} Walk;

static int walk_step(const HubDevice *d, void *userdata) {
        Walk *w = userdata;
        HubDevice shown = *d; /* borrows the texts */
        int r;

        r = add_presence(w->hub, &shown);
        return r < 0 ? r : w->on_identity(&shown, w->userdata);
}

int hub_walk(Hub *h, const HubRange *range, size_t max,
             int (*on_identity)(const HubDevice *d, void *userdata), void *userdata) {
        Walk w = { h, on_identity, userdata };
        int r;

        hub_lock(h);
        r = hub_store_walk(h->store, range->modules ? HUB_STORE_MODULES : HUB_STORE_DEVICES,
                           range->only_device, range->device_id, range->module_id, max, walk_step,
                           &w);
        hub_unlock(h);
        return r;
}

int hub_device_count(Hub *h, uint64_t *ret_enabled, uint64_t *ret_disabled,
                     uint64_t *ret_connected) {
        int r;

        hub_lock(h);
        r = hub_store_count(h->store, ret_enabled, ret_disabled);
        *ret_connected = h->n_connected;
        hub_unlock(h);
        return r;
}

static Presence *make_presence(Hub *h, const char *client_id) {
        _cleanup_free_ Presence *p = calloc(1, sizeof(*p));
        _cleanup_free_ char *key = strdup(client_id);

        if (!p || !key || lh_table_insert(h->presences, key, p) < 0)
                return NULL;
        (void) TAKE_PTR(key);
        return TAKE_PTR(p);
}

void hub_device_note(Hub *h, const char *client_id, bool connected, usec_t activity_usec) {
        Presence *p;

        hub_lock(h);
        p = find_presence(h, client_id);
        if (!p && connected)
                p = make_presence(h, client_id); /* without memory it is shown as offline */
        if (p) {
                if (p->connected != connected) {
                        p->connection_updated_usec = now_usec(CLOCK_REALTIME);
                        if (!strchr(client_id, '/'))
                                h->n_connected += connected ? 1 : (uint64_t) -1;
                }
                p->connected = connected;
                p->last_activity_usec = MAX(p->last_activity_usec, activity_usec);
        }
        hub_unlock(h);
}

int hub_open_events(Hub *h, const HubEventsLimits *limits, char **reterr_what) {
        return hub_events_open(h->dir_fd, limits, &h->events, reterr_what);
}

HubEvents *hub_events(Hub *h) {
        return h->events;
}
