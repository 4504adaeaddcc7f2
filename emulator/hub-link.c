#include "emulator/hub-link.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

#include "lib/json-util.h"
#include "lib/string-util.h"

/* A call waits in one list: first for the device to listen (waiting), then for its answer. Which
 * calls have ended is found with the lock held; they are taken out, and told after it is let go,
 * because whoever is told may call again. */

typedef struct Client {
        bool connected;
        bool listens[_HUB_LISTEN_MAX];
} Client;

typedef struct Call {
        char *client_id, *name;
        char *rid; /* NULL: it waits for the device */
        void *payload;
        size_t n;
        usec_t response_usec, until_usec;
        HubMethodDone on_done;
        void *userdata;
        int error;
        struct Call *next;
} Call;

struct HubLink {
        pthread_mutex_t mutex;
        bool stopped;
        struct lh_table *clients; /* client id to Client */
        Call *calls;
        uint64_t last_rid;
        HubPacket *first, **last;
        size_t n_packets;
        atomic_bool has_packets; /* lets the broker look without the lock */
};

static void free_client(struct lh_entry *e) {
        free(lh_entry_k(e));
        free((void *) lh_entry_v(e));
}

static Call *call_free(Call *c) {
        if (!c)
                return NULL;
        free(c->client_id);
        free(c->name);
        free(c->rid);
        free(c->payload);
        free(c);
        return NULL;
}
DEFINE_CLEANUP(Call *, call_free);

HubPacket *hub_packet_free(HubPacket *p) {
        if (!p)
                return NULL;
        free(p->client_id);
        free(p->topic);
        free(p->payload);
        free(p);
        return NULL;
}

HubLink *hub_link_new(void) {
        _cleanup_(hub_link_freep) HubLink *l = NULL;

        l = calloc(1, sizeof(*l));
        if (!l)
                return NULL;
        (void) pthread_mutex_init(&l->mutex, NULL); /* cannot fail without attributes on Linux */
        l->last = &l->first;
        l->clients = lh_kchar_table_new(64, free_client);
        return l->clients ? TAKE_PTR(l) : NULL;
}

/* Tells and frees a list of ended calls. */
static void end_calls(Call *ended) {
        while (ended) {
                Call *c = ended;

                ended = c->next;
                c->on_done(c->error, 0, NULL, 0, c->userdata);
                call_free(c);
        }
}

HubLink *hub_link_free(HubLink *l) {
        if (!l)
                return NULL;
        assert(!l->calls);
        while (l->first) {
                HubPacket *p = l->first;

                l->first = p->next;
                hub_packet_free(p);
        }
        if (l->clients)
                lh_table_free(l->clients);
        pthread_mutex_destroy(&l->mutex);
        free(l);
        return NULL;
}

static void lock(HubLink *l) {
        (void) pthread_mutex_lock(
                        &l->mutex); /* cannot fail: not recursive, never destroyed in use */
}

static void unlock(HubLink *l) {
        (void) pthread_mutex_unlock(&l->mutex);
}

static Client *find_client(HubLink *l, const char *client_id) {
        void *v;

        return lh_table_lookup_ex(l->clients, client_id, &v) ? v : NULL;
}

static bool listens(const Client *c, HubListen what) {
        return c && c->connected && c->listens[what];
}

static int push_packet(HubLink *l, const char *client_id, const char *topic, const void *payload,
                       size_t n) {
        _cleanup_(hub_packet_freep) HubPacket *p = NULL;

        if (l->n_packets >= HUB_LINK_PACKETS_MAX)
                return -EBUSY;
        p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;
        p->client_id = strdup(client_id);
        p->topic = strdup(topic);
        p->payload = n > 0 ? malloc(n) : NULL;
        if (!p->client_id || !p->topic || (n > 0 && !p->payload))
                return -ENOMEM;
        if (n > 0)
                memcpy(p->payload, payload, n);
        p->n = n;

        *l->last = p;
        l->last = &p->next;
        l->n_packets++;
        atomic_store_explicit(&l->has_packets, true, memory_order_release);
        (void) TAKE_PTR(p);
        return 0;
}

HubPacket *hub_link_take(HubLink *l) {
        HubPacket *p;

        if (!atomic_load_explicit(&l->has_packets, memory_order_acquire))
                return NULL;
        lock(l);
        p = l->first;
        if (p) {
                l->first = p->next;
                l->n_packets--;
                p->next = NULL;
        }
        if (!l->first) {
                l->last = &l->first;
                atomic_store_explicit(&l->has_packets, false, memory_order_release);
        }
        unlock(l);
        return p;
}

/* Methods. */

/* Hands the call to the device. The rid is opaque to it. */
static int start_call(HubLink *l, Call *c, usec_t now_usec) {
        _cleanup_free_ char *rid = NULL, *topic = NULL;
        int r;

        r = format_string(&rid, "%" PRIx64, l->last_rid + 1);
        if (r >= 0)
                r = format_string(&topic, "$iothub/methods/POST/%s/?$rid=%s", c->name, rid);
        if (r >= 0)
                r = push_packet(l, c->client_id, topic, c->payload, c->n);
        if (r < 0)
                return r;
        l->last_rid++;
        c->rid = TAKE_PTR(rid);
        c->until_usec = usec_add(now_usec, c->response_usec);
        return 0;
}

static int new_call(const HubMethodCall *call, usec_t now_usec, HubMethodDone on_done,
                    void *userdata, Call **ret) {
        _cleanup_(call_freep) Call *c = NULL;

        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->client_id = strdup(call->client_id);
        c->name = strdup(call->name);
        c->payload = call->n > 0 ? malloc(call->n) : NULL;
        if (!c->client_id || !c->name || (call->n > 0 && !c->payload))
                return -ENOMEM;
        if (call->n > 0)
                memcpy(c->payload, call->payload, call->n);
        c->n = call->n;
        c->response_usec = call->response_usec;
        c->until_usec = usec_add(now_usec, call->connect_usec);
        c->on_done = on_done;
        c->userdata = userdata;
        *ret = TAKE_PTR(c);
        return 0;
}

static size_t count_calls(const HubLink *l, const char *client_id) {
        size_t n = 0;

        for (const Call *c = l->calls; c; c = c->next)
                n += streq(c->client_id, client_id);
        return n;
}

int hub_link_call(HubLink *l, const HubMethodCall *call, usec_t now_usec, HubMethodDone on_done,
                  void *userdata) {
        _cleanup_(call_freep) Call *c = NULL;
        const Client *client;
        int r;

        r = new_call(call, now_usec, on_done, userdata, &c);
        if (r < 0)
                return r;
        lock(l);
        client = find_client(l, call->client_id);
        if (l->stopped)
                r = -ECANCELED;
        else if (count_calls(l, call->client_id) >= HUB_METHODS_OPEN_MAX)
                r = -EBUSY;
        else if (listens(client, HUB_LISTEN_METHODS))
                r = start_call(l, c, now_usec);
        else if (call->connect_usec == 0)
                r = -ENOTCONN;
        if (r >= 0) {
                c->next = l->calls;
                l->calls = TAKE_PTR(c);
        }
        unlock(l);
        return r;
}

/* Takes the calls of a client (NULL: of all) that match out of the list. */
static Call *take_calls(HubLink *l, const char *client_id,
                        bool (*matches)(Call *c, const void *what), const void *what) {
        Call *taken = NULL, **link = &l->calls;

        while (*link) {
                Call *c = *link;

                if ((client_id && !streq(c->client_id, client_id)) || !matches(c, what)) {
                        link = &c->next;
                        continue;
                }
                *link = c->next;
                c->next = taken;
                taken = c;
        }
        return taken;
}

static bool has_rid(Call *c, const void *rid) {
        return c->rid && streq(c->rid, rid);
}

static bool was_started(Call *c, const void *unused) {
        c->error = -ENOTCONN;
        return c->rid != NULL;
}

static bool is_over(Call *c, const void *now) {
        c->error = c->rid ? -ETIMEDOUT : -ENOTCONN;
        return c->until_usec <= *(const usec_t *) now;
}

static bool is_open(Call *c, const void *unused) {
        c->error = -ECANCELED;
        return true;
}

static bool has_failed(Call *c, const void *unused) {
        return c->error == -EBUSY;
}

void hub_link_answered(HubLink *l, const char *client_id, const char *rid, unsigned status,
                       const void *payload, size_t n) {
        Call *c;

        lock(l);
        c = take_calls(l, client_id, has_rid, rid);
        unlock(l);
        if (!c)
                return;
        c->on_done(0, status, payload, n, c->userdata);
        call_free(c); /* rids are given once, so it is the only one */
}

usec_t hub_link_expire(HubLink *l, usec_t now_usec) {
        usec_t next = USEC_INFINITY;
        Call *over;

        lock(l);
        over = take_calls(l, NULL, is_over, &now_usec);
        for (const Call *c = l->calls; c; c = c->next)
                next = MIN(next, c->until_usec);
        unlock(l);
        end_calls(over);
        return next;
}

void hub_link_stop(HubLink *l) {
        Call *ended;

        lock(l);
        l->stopped = true;
        ended = take_calls(l, NULL, is_open, NULL);
        unlock(l);
        end_calls(ended);
}

/* Clients. */

/* Hands what waited for the client over, if it listens to methods now. Returns the calls for which
 * there was no room, for end_calls(). */
static Call *start_waiting(HubLink *l, const Client *client, const char *client_id) {
        usec_t now = now_usec(CLOCK_MONOTONIC);

        if (listens(client, HUB_LISTEN_METHODS))
                for (Call *c = l->calls; c; c = c->next)
                        if (!c->rid && streq(c->client_id, client_id) && start_call(l, c, now) < 0)
                                c->error = -EBUSY;
        return take_calls(l, client_id, has_failed, NULL);
}

int hub_link_connected(HubLink *l, const char *client_id, bool clean_session) {
        Call *failed;
        Client *c;
        int r = 0;

        lock(l);
        c = find_client(l, client_id);
        if (!c) {
                char *id = strdup(client_id);

                c = calloc(1, sizeof(*c));
                if (!c || !id || lh_table_insert(l->clients, id, c) < 0) {
                        free(c);
                        free(id);
                        c = NULL;
                        r = -ENOMEM;
                }
        }
        if (c) {
                if (clean_session)
                        *c = (Client){ 0 };
                c->connected = true;
        }
        failed = start_waiting(l, c, client_id);
        unlock(l);
        end_calls(failed);
        return r;
}

void hub_link_disconnected(HubLink *l, const char *client_id) {
        Call *ended;
        Client *c;

        lock(l);
        c = find_client(l, client_id);
        if (c)
                c->connected = false;
        ended = take_calls(l, client_id, was_started, NULL);
        unlock(l);
        end_calls(ended);
}

void hub_link_subscribed(HubLink *l, const char *client_id, HubListen what) {
        Call *failed;
        Client *client;

        lock(l);
        client = find_client(l, client_id);
        if (client)
                client->listens[what] = true;
        failed = start_waiting(l, client, client_id);
        unlock(l);
        end_calls(failed);
}

void hub_link_unsubscribed(HubLink *l, const char *client_id, HubListen what) {
        Client *c;

        lock(l);
        c = find_client(l, client_id);
        if (c)
                c->listens[what] = false;
        unlock(l);
}

bool hub_link_is_connected(HubLink *l, const char *client_id) {
        const Client *c;
        bool connected;

        lock(l);
        c = find_client(l, client_id);
        connected = c && c->connected;
        unlock(l);
        return connected;
}

int hub_link_send(HubLink *l, const char *client_id, HubListen what, const char *topic,
                  const void *payload, size_t n) {
        const Client *c;
        int r = 0;

        lock(l);
        c = find_client(l, client_id);
        if (listens(c, what)) {
                r = push_packet(l, client_id, topic, payload, n);
                r = r < 0 ? r : 1;
        }
        unlock(l);
        return r;
}
