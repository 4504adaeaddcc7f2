/* A queue is rows of one table in the order of their sequence numbers. What a connection was given
 * is a single number, since deliveries go in that order: all up to it. It is in memory, because a
 * new connection starts from the oldest row again; what the device said to a message is on disk
 * before anything follows from it. All of it is under the hub's mutex, so that a queue and its
 * device are created, counted and deleted as one. */
#include <assert.h>

#include "emulator/hub-c2d-private.h"
#include "lib/string-util.h"

static void free_client(struct lh_entry *e) {
        HubC2dClient *c = (HubC2dClient *) lh_entry_v(e);

        free(c->client_id);
        free(c->device_id);
        free(c->module_id);
        free(c);
}

HubC2d *hub_c2d_free(HubC2d *c) {
        if (!c)
                return NULL;
        if (c->clients)
                lh_table_free(c->clients);
        free(c->repeats);
        free(c);
        return NULL;
}
DEFINE_CLEANUP(HubC2d *, hub_c2d_free);

void hub_c2d_wake_at(HubC2d *c, usec_t t) {
        if (t < atomic_load(&c->next_usec))
                atomic_store(&c->next_usec, t);
}

int hub_c2d_new(HubStore *s, HubC2d **ret) {
        _cleanup_(hub_c2d_freep) HubC2d *c = NULL;
        int r;

        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->last_due = &c->first_due;
        c->notify_fd = -1;
        atomic_init(&c->next_usec, USEC_INFINITY);
        c->clients = lh_kchar_table_new(64, free_client);
        if (!c->clients)
                return -ENOMEM;
        r = hub_store_begin(s);
        if (r < 0)
                return r;
        /* Their readers are gone. */
        r = hub_store_feedback_release_until(s, USEC_INFINITY);
        if (r < 0) {
                hub_store_rollback(s);
                return r;
        }
        r = hub_store_commit(s);
        if (r < 0)
                return r;
        hub_c2d_wake_at(c, 0); /* the first look finds what there is */
        *ret = TAKE_PTR(c);
        return 0;
}

/* Connections. */

static HubC2dClient *find_client(HubC2d *c, const char *client_id) {
        void *v;

        return lh_table_lookup_ex(c->clients, client_id, &v) ? v : NULL;
}

static int add_client(HubC2d *c, const char *client_id, HubC2dClient **ret) {
        const char *slash = strchr(client_id, '/');
        HubC2dClient *n;

        n = calloc(1, sizeof(*n));
        if (!n)
                return -ENOMEM;
        n->client_id = strdup(client_id);
        n->device_id = slash ? strndup(client_id, (size_t) (slash - client_id)) : strdup(client_id);
        n->module_id = slash ? strdup(slash + 1) : NULL;
        if (!n->client_id || !n->device_id || (slash && !n->module_id) ||
            lh_table_insert(c->clients, n->client_id, n) < 0) {
                free(n->client_id);
                free(n->device_id);
                free(n->module_id);
                free(n);
                return -ENOMEM;
        }
        *ret = n;
        return 0;
}

static void make_due(HubC2d *c, HubC2dClient *client) {
        if (!client || !client->connected || !client->listens || client->due)
                return;
        client->due = true;
        client->next_due = NULL;
        *c->last_due = client;
        c->last_due = &client->next_due;
        atomic_store(&c->has_due, true);
}

static void drop_first_due(HubC2d *c) {
        HubC2dClient *client = c->first_due;

        client->due = false;
        c->first_due = client->next_due;
        if (!c->first_due)
                c->last_due = &c->first_due;
        atomic_store(&c->has_due, c->first_due || c->n_repeats > 0);
}

int hub_c2d_connected(Hub *h, const char *client_id, bool clean_session) {
        HubC2dClient *client;
        HubC2d *c;
        int r = 0;

        hub_lock(h);
        c = hub_c2d(h);
        client = find_client(c, client_id);
        if (!client)
                r = add_client(c, client_id, &client);
        if (r >= 0) {
                client->connected = true;
                client->delivered = 0;
                if (clean_session) {
                        client->listens = false;
                        client->known = 0;
                }
                make_due(c, client);
        }
        hub_unlock(h);
        return r;
}

void hub_c2d_disconnected(Hub *h, const char *client_id) {
        HubC2dClient *client;

        hub_lock(h);
        client = find_client(hub_c2d(h), client_id);
        if (client)
                client->connected = false;
        hub_unlock(h);
}

void hub_c2d_forget(HubC2d *c, const char *client_id) {
        HubC2dClient *client = find_client(c, client_id);

        if (!client)
                return;
        client->listens = false;
        client->known = 0;
}

static void set_listens(Hub *h, const char *client_id, bool listens, unsigned qos) {
        HubC2dClient *client;

        hub_lock(h);
        client = find_client(hub_c2d(h), client_id);
        if (client) {
                client->listens = listens;
                client->qos = qos;
                make_due(hub_c2d(h), client);
        }
        hub_unlock(h);
}

void hub_c2d_subscribed(Hub *h, const char *client_id, unsigned qos) {
        set_listens(h, client_id, true, qos);
}

void hub_c2d_unsubscribed(Hub *h, const char *client_id) {
        set_listens(h, client_id, false, 0);
}

void hub_c2d_delivery_done(HubC2dDelivery *d) {
        free(d->client_id);
        free(d->topic);
        free(d->body);
        *d = (HubC2dDelivery){ 0 };
}

/* Within a transaction. */
static int end_row(Hub *h, const HubC2dRow *row, HubC2dEnd end, usec_t now_usec) {
        int r;

        r = hub_store_c2d_delete(hub_store(h), row->sequence);
        return r < 0 ? r : hub_feedback_add(h, row, end, now_usec);
}

static int fill_delivery(const HubC2dClient *client, HubC2dRow *row, HubC2dDelivery *d) {
        int r;

        d->sequence = row->sequence;
        d->qos = client->qos;
        d->again = row->sequence <= client->known;
        r = copy_string(&d->client_id, client->client_id);
        if (r >= 0)
                r = client->module_id ?
                                    format_string(&d->topic,
                                                  "devices/%s/modules/%s/messages/devicebound/%s",
                                                  client->device_id, client->module_id, row->bag) :
                                    format_string(&d->topic, "devices/%s/messages/devicebound/%s",
                                                  client->device_id, row->bag);
        if (r < 0)
                return r;
        d->body = TAKE_PTR(row->body);
        d->n = row->n;
        return 0;
}

/* The next for a connection, within a transaction. 1, 0 (it has all) or -errno. */
static int take_for(Hub *h, HubC2dClient *client, usec_t now_usec, HubC2dDelivery *ret) {
        for (;;) {
                _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
                int r;

                r = hub_store_c2d_behind(hub_store(h), client->device_id, client->module_id,
                                         client->delivered, &row);
                if (r < 0)
                        return r == -ENOENT ? 0 : r;
                if (row.expires_usec <= now_usec) {
                        r = end_row(h, &row, HUB_C2D_EXPIRED, now_usec);
                        if (r < 0)
                                return r;
                        continue;
                }
                r = fill_delivery(client, &row, ret);
                if (r >= 0 && client->qos == 0)
                        r = end_row(h, &row, HUB_C2D_SUCCESS, now_usec);
                if (r < 0)
                        return r;
                client->delivered = row.sequence;
                client->known = MAX(client->known, row.sequence);
                return 1;
        }
}

/* The next of those that are asked for again, within a transaction. 1, 0 (there is none) or -errno.
 */
static int take_repeat(Hub *h, HubC2dDelivery *ret) {
        HubC2d *c = hub_c2d(h);

        while (c->n_repeats > 0) {
                _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
                _cleanup_free_ char *client_id = NULL;
                const HubC2dClient *client;
                int r;

                r = hub_store_c2d_get(hub_store(h), c->repeats[0], &row);
                memmove(c->repeats, c->repeats + 1, --c->n_repeats * sizeof(*c->repeats));
                atomic_store(&c->has_due, c->first_due || c->n_repeats > 0);
                if (r == -ENOENT)
                        continue;
                if (r >= 0)
                        r = hub_device_client_id(row.device, row.module, &client_id);
                if (r < 0)
                        return r;
                client = find_client(c, client_id);
                if (!client || !client->connected || !client->listens ||
                    client->delivered < row.sequence)
                        continue;
                ret->repeated = true;
                r = fill_delivery(client, &row, ret);
                return r < 0 ? r : 1;
        }
        return 0;
}

int hub_c2d_repeat(Hub *h, uint64_t sequence) {
        HubC2d *c = hub_c2d(h);
        uint64_t *grown;

        hub_lock(h);
        grown = reallocarray(c->repeats, c->n_repeats + 1, sizeof(*grown));
        if (grown) {
                c->repeats = grown;
                c->repeats[c->n_repeats++] = sequence;
                atomic_store(&c->has_due, true);
        }
        hub_unlock(h);
        return grown ? 0 : -ENOMEM;
}

/* From the first of those that are due, which stays the first while it has more. */
static int take_locked(Hub *h, usec_t now_usec, HubC2dDelivery *ret) {
        HubC2d *c = hub_c2d(h);
        int r;

        r = take_repeat(h, ret);
        while (r == 0 && c->first_due) {
                HubC2dClient *client = c->first_due;

                if (client->connected && client->listens)
                        r = take_for(h, client, now_usec, ret);
                if (r <= 0)
                        drop_first_due(c);
        }
        return r;
}

int hub_c2d_take(Hub *h, usec_t now_usec, HubC2dDelivery *ret) {
        HubC2dDelivery d = { 0 };
        int r;

        if (!atomic_load(&hub_c2d(h)->has_due))
                return 0;
        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, take_locked(h, now_usec, &d));
        if (r > 0)
                *ret = d;
        else
                hub_c2d_delivery_done(&d);
        return r;
}

/* The service side. */

/* As the ids stand, or percent-decoded. */
static int find_identity(Hub *h, const char *device, const char *module, HubDevice *ret) {
        _cleanup_free_ char *decoded_device = NULL, *decoded_module = NULL;
        size_t n;
        int r;

        r = hub_device_get(h, device, module, ret);
        if (r != -ENOENT || (!strchr(device, '%') && !(module && strchr(module, '%'))))
                return r;
        r = percent_decode(device, strlen(device), &decoded_device, &n);
        if (r >= 0 && module)
                r = percent_decode(module, strlen(module), &decoded_module, &n);
        if (r < 0)
                return r == -EINVAL ? -ENOENT : r;
        return hub_device_get(h, decoded_device, decoded_module, ret);
}

static int resolve(Hub *h, const char *to, HubDevice *ret, const char **reterr_reason) {
        _cleanup_free_ char *device = NULL, *module = NULL;
        int r;

        r = to ? hub_c2d_parse_to(to, &device, &module) : -EINVAL;
        if (r < 0) {
                *reterr_reason = "\"to\" is not /devices/ID/messages/devicebound";
                return r;
        }
        r = find_identity(h, device, module, ret);
        if (r < 0)
                *reterr_reason = module ? "there is no such module" : "there is no such device";
        return r;
}

static int send_locked(Hub *h, const HubC2dMessage *m, usec_t now_usec, uint64_t *ret_sequence,
                       const char **reterr_reason) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
        _cleanup_free_ char *client_id = NULL;
        uint64_t n;
        int r;

        r = resolve(h, m->to, &d, reterr_reason);
        if (r >= 0)
                r = hub_c2d_make_row(m, &d, now_usec, &row, reterr_reason);
        if (r >= 0)
                r = hub_device_client_id(d.id, d.module_id, &client_id);
        if (r >= 0)
                r = hub_store_c2d_count(hub_store(h), d.id, d.module_id, now_usec, &n);
        if (r < 0)
                return r;
        if (n >= HUB_C2D_PENDING_MAX) {
                *reterr_reason = "50 messages wait for the device already";
                return -EDQUOT;
        }
        r = hub_store_c2d_put(hub_store(h), &row, ret_sequence);
        if (r < 0)
                return r;
        hub_c2d_wake_at(hub_c2d(h), row.expires_usec);
        make_due(hub_c2d(h), find_client(hub_c2d(h), client_id));
        return 0;
}

int hub_c2d_send(Hub *h, const HubC2dMessage *m, usec_t now_usec, uint64_t *ret_sequence,
                 const char **reterr_reason) {
        uint64_t sequence;
        int r;

        assert(m->ack >= 0 && m->ack < _HUB_C2D_ACK_MAX);

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, send_locked(h, m, now_usec, &sequence, reterr_reason));
        if (r >= 0)
                *ret_sequence = sequence;
        return r;
}

static int purge_locked(Hub *h, const char *device_id, const char *module_id, usec_t now_usec,
                        uint64_t *ret_purged) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        int r;

        r = hub_device_get(h, device_id, module_id, &d);
        if (r < 0)
                return r;
        for (;;) {
                _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
                bool expired;

                r = hub_store_c2d_behind(hub_store(h), device_id, module_id, 0, &row);
                if (r < 0)
                        return r == -ENOENT ? 0 : r;
                expired = row.expires_usec <= now_usec;
                r = end_row(h, &row, expired ? HUB_C2D_EXPIRED : HUB_C2D_PURGED, now_usec);
                if (r < 0)
                        return r;
                *ret_purged += !expired;
        }
}

int hub_c2d_purge(Hub *h, const char *device_id, const char *module_id, usec_t now_usec,
                  uint64_t *ret_purged) {
        uint64_t n = 0;
        int r;

        r = hub_begin(h);
        if (r < 0)
                return r;
        r = hub_end(h, purge_locked(h, device_id, module_id, now_usec, &n));
        if (r >= 0)
                *ret_purged = n;
        return r;
}

static int settle_locked(Hub *h, uint64_t sequence, HubC2dEnd end, usec_t now_usec) {
        _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
        int r;

        r = hub_store_c2d_get(hub_store(h), sequence, &row);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        return end_row(h, &row, end, now_usec);
}

int hub_c2d_settle(Hub *h, uint64_t sequence, HubC2dEnd end, usec_t now_usec) {
        int r;

        r = hub_begin(h);
        return r < 0 ? r : hub_end(h, settle_locked(h, sequence, end, now_usec));
}

/* Time. */

static int expire_locked(Hub *h, usec_t now_usec) {
        for (;;) {
                _cleanup_(hub_c2d_row_done) HubC2dRow row = { 0 };
                int r;

                r = hub_store_c2d_first_to_expire(hub_store(h), &row);
                if (r < 0)
                        return r == -ENOENT ? 0 : r;
                if (row.expires_usec > now_usec) {
                        hub_c2d_wake_at(hub_c2d(h), row.expires_usec);
                        return 0;
                }
                r = end_row(h, &row, HUB_C2D_EXPIRED, now_usec);
                if (r < 0)
                        return r;
        }
}

int hub_c2d_run_timers(Hub *h, usec_t now_usec) {
        HubC2d *c = hub_c2d(h);
        int r;

        if (atomic_load(&c->next_usec) > now_usec)
                return 0;
        r = hub_begin(h);
        if (r < 0)
                return r;
        atomic_store(&c->next_usec, USEC_INFINITY);
        r = expire_locked(h, now_usec);
        if (r >= 0)
                r = hub_feedback_run_timers(h, now_usec);
        r = hub_end(h, r);
        if (r < 0) {
                hub_lock(h);
                hub_c2d_wake_at(c, usec_add(now_usec, USEC_PER_SEC));
                hub_unlock(h);
        }
        return r;
}
