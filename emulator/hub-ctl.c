#include "emulator/hub-ctl.h"

#include <assert.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "emulator/authorities.h"
#include "emulator/hub-report.h"
#include "emulator/trouble-json.h"
#include "lib/fd-util.h"
#include "lib/hub-topic.h"
#include "lib/varlink-wire.h"

#include "emulator-varlink-text.h"

#define INTERFACE "io.iothubd.emulator"
#define SERVICE "org.varlink.service"
#define CLIENTS_MAX 256U
#define READ_BYTES 65536U

/* A client's calls are answered one after the other; Wait holds up those behind it. Replies are
 * short, so one that does not fit the socket means a client that reads none: it is closed. */

typedef struct Client {
        HubCtl *ctl;
        int fd;
        VarlinkReader reader;
        bool dead;

        bool waiting;
        HubCounter counter;
        char *device;
        uint64_t until;

        uint64_t call; /* that the hub is to answer; 0: none */
        void (*on_answer)(struct Client *c, int result, struct json_object *answer);
        size_t n_ended;
        struct Client *next;
} Client;

struct HubCtl {
        Front *front;
        int fd;
        HubCtlMakeTls make_tls;
        void *userdata;
        Client *clients;
        size_t n_clients;
        uint64_t seen; /* serial of the counters */
        uint64_t last_call;
        Buffer answer;
};

static void client_free(Client *c) {
        if (c->fd >= 0)
                front_unwatch(c->ctl->front, c->fd);
        c->fd = safe_close(c->fd);
        varlink_reader_done(&c->reader);
        free(c->device);
        free(c);
}

static void send_buffer(Client *c, Buffer *b, int r) {
        if (r < 0 || send(c->fd, b->data, b->size, MSG_NOSIGNAL) != (ssize_t) b->size)
                c->dead = true;
}

/* r: what building the parameters gave. */
static void reply(Client *c, const VarlinkCall *call, struct json_object *parameters, int r) {
        _cleanup_(buffer_done) Buffer b = { 0 };

        if (call && call->oneway)
                return;
        if (r >= 0)
                r = varlink_append_reply(&b, parameters, /* continues= */ false);
        send_buffer(c, &b, r);
}

static void reply_number(Client *c, const VarlinkCall *call, const char *field, uint64_t v) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        reply(c, call, o, json_add_u64(o, field, v));
}

static void fail(Client *c, const VarlinkCall *call, const char *error, struct json_object *o,
                 int r) {
        _cleanup_(buffer_done) Buffer b = { 0 };

        if (call->oneway)
                return;
        if (r >= 0)
                r = varlink_append_error(&b, error, o);
        send_buffer(c, &b, r);
}

static void fail_text(Client *c, const VarlinkCall *call, const char *error, const char *field,
                      const char *text) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        fail(c, call, error, o, json_add_string(o, field, text));
}

static void invalid_parameter(Client *c, const VarlinkCall *call, const char *field) {
        fail_text(c, call, SERVICE ".InvalidParameter", "parameter", field);
}

/* A client id in a field. 1, 0 (absent), or -EINVAL, answered. */
static int get_device(Client *c, const VarlinkCall *call, const char **ret) {
        size_t n;
        int r;

        *ret = NULL;
        r = json_get_string(call->parameters, "device", ret, &n);
        if (r < 0 || (r > 0 && (strlen(*ret) != n || hub_client_id_check(*ret) < 0))) {
                invalid_parameter(c, call, "device");
                return -EINVAL;
        }
        return r;
}

/* The hub answers at its next turn; a client that is gone by then is not missed. Until then the client's
 * calls wait. */
static void call_hub(Client *c, const VarlinkCall *call, HubCall which,
                     struct json_object *parameters,
                     void (*on_answer)(Client *c, int result, struct json_object *answer)) {
        HubCtl *ctl = c->ctl;
        HubReport report = { .kind = HUB_REPORT_CALL, .value = which, .number = ctl->last_call + 1 };
        const char *text = json_object_to_json_string_ext(parameters, JSON_C_TO_STRING_PLAIN);
        int r;

        r = text ? hub_report_write(front_hub(ctl->front), &report, text, strlen(text)) : -ENOMEM;
        if (r == -EMSGSIZE)
                fail_text(c, call, INTERFACE ".MessageRefused", "reason",
                          "the message is over 65536 bytes");
        else if (r < 0)
                fail_text(c, call, INTERFACE ".Failed", "reason", strerror(-r));
        else {
                ctl->last_call++;
                c->on_answer = on_answer;
                c->call = call->oneway ? 0 : report.number;
        }
}

static int ensure_tls(HubCtl *ctl, TroubleCertificate certificate) {
        SSL_CTX *tls;
        int r;

        if (front_has_odd_tls(ctl->front, certificate))
                return 0;
        r = ctl->make_tls(certificate, &tls, ctl->userdata);
        if (r < 0)
                return r;
        front_set_odd_tls(ctl->front, certificate, tls);
        return 0;
}

static void tell_trouble(Client *c, const VarlinkCall *call, int r, const char *field) {
        _cleanup_json_ struct json_object *max = NULL;

        if (r == -EINVAL)
                fail_text(c, call, INTERFACE ".InvalidTrouble", "field", field);
        else if (r == -E2BIG) {
                max = json_object_new_object();
                fail(c, call, INTERFACE ".TooManyTroubles", max,
                     json_add_u64(max, "max", TROUBLES_MAX));
        } else if (r < 0)
                fail_text(c, call, INTERFACE ".Failed", "reason", strerror(-r));
        else
                reply(c, call, NULL, 0);
}

static void on_hub_set(Client *c, int result, struct json_object *answer) {
        static const VarlinkCall answered = { 0 };
        const char *field = "kind";
        size_t n;

        (void) json_get_string(answer, "field", &field, &n); /* else it stays */
        tell_trouble(c, &answered, result, field);
}

static void on_set(Client *c, const VarlinkCall *call) {
        _cleanup_(trouble_done) Trouble t = { 0 };
        struct json_object *o;
        const char *field = "kind";
        int r;

        if (json_get_object(call->parameters, "trouble", &o) <= 0) {
                invalid_parameter(c, call, "trouble");
                return;
        }
        r = trouble_from_json(o, now_usec(CLOCK_MONOTONIC), &t, &field);
        if (r >= 0 && trouble_kind_is_of_hub(t.kind)) {
                call_hub(c, call, HUB_CALL_SET_TROUBLE, o, on_hub_set);
                return;
        }
        if (r >= 0 && t.kind == TROUBLE_CERTIFICATE && t.certificate != TROUBLE_CERTIFICATE_GOOD &&
            ensure_tls(c->ctl, t.certificate) < 0) {
                fail_text(c, call, INTERFACE ".Failed", "reason", "cannot make the certificate");
                return;
        }
        if (r >= 0)
                r = troubles_set(front_troubles(c->ctl->front), &t, &field);
        tell_trouble(c, call, r, field);
}

static void on_hub_ended(Client *c, int result, struct json_object *answer) {
        uint64_t n = 0;

        if (result >= 0)
                (void) json_get_u64(answer, "ended", &n); /* it is there */
        reply_number(c, NULL, "ended", c->n_ended + n);
}

/* The front's, then those of the hub. */
static void on_end(Client *c, const VarlinkCall *call) {
        const char *field;

        if (troubles_end_from_json(front_troubles(c->ctl->front), call->parameters, &c->n_ended,
                                   &field) < 0) {
                invalid_parameter(c, call, field);
                return;
        }
        call_hub(c, call, HUB_CALL_END_TROUBLES, call->parameters, on_hub_ended);
}

static void on_cut(Client *c, const VarlinkCall *call) {
        const char *device;
        bool reset = false;

        if (json_get_bool(call->parameters, "reset", &reset) < 0)
                invalid_parameter(c, call, "reset");
        else if (get_device(c, call, &device) >= 0)
                reply_number(c, call, "connections", front_cut(c->ctl->front, device, reset));
}

static int counters_to_json(const HubCounts *counts, struct json_object **ret) {
        _cleanup_json_ struct json_object *o = json_object_new_object();

        for (HubCounter i = 0; i < _HUB_COUNTER_MAX; i++)
                if (json_add_u64(o, hub_counter_to_string(i), counts->of[i]) < 0)
                        return -ENOMEM;
        *ret = TAKE_PTR(o);
        return 0;
}

static int set_device(Client *c, const char *device) {
        free(c->device);
        c->device = device ? strdup(device) : NULL;
        if (device && !c->device)
                c->dead = true;
        return c->dead ? -ENOMEM : 0;
}

/* answer: the hub's, whose list gets ours before it. */
static void on_hub_listed(Client *c, int result, struct json_object *answer) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        struct json_object *list = json_object_new_array(), *part = NULL, *others;
        Front *f = c->ctl->front;
        HubCounts counts = hub_counters_get(front_counters(f), c->device);
        int r;

        r = list ? troubles_append_json(front_troubles(f), now_usec(CLOCK_MONOTONIC), list) :
                   -ENOMEM;
        if (r >= 0 && result >= 0 && json_get_array(answer, "troubles", &others) > 0)
                for (size_t i = 0; i < json_object_array_length(others); i++)
                        (void) json_object_array_add(
                                        list, json_object_get(json_object_array_get_idx(others, i)));
        if (r >= 0)
                r = json_add(o, "troubles", list);
        else
                json_object_put(list);
        if (r >= 0)
                r = counters_to_json(&counts, &part);
        if (r >= 0)
                r = json_add(o, "counters", part);
        if (r >= 0)
                r = json_add_u64(o, "connections", front_connections(f, c->device));
        reply(c, NULL, o, r);
}

static void on_get_status(Client *c, const VarlinkCall *call) {
        const char *device;

        if (get_device(c, call, &device) >= 0 && set_device(c, device) >= 0)
                call_hub(c, call, HUB_CALL_LIST_TROUBLES, call->parameters, on_hub_listed);
}

static uint64_t counted(const Client *c) {
        return hub_counters_get(front_counters(c->ctl->front), c->device).of[c->counter];
}

static void on_wait(Client *c, const VarlinkCall *call) {
        uint64_t more = 1, total;
        const char *name, *device;
        bool has_total;
        size_t n;

        c->counter = json_get_string(call->parameters, "counter", &name, &n) > 0 ?
                                     hub_counter_from_string(name) :
                                     _HUB_COUNTER_INVALID;
        if (c->counter < 0) {
                invalid_parameter(c, call, "counter");
                return;
        }
        if (json_get_u64(call->parameters, "count", &more) < 0) {
                invalid_parameter(c, call, "count");
                return;
        }
        if (json_get_u64(call->parameters, "total", &total) < 0) {
                invalid_parameter(c, call, "total");
                return;
        }
        has_total = json_get_u64(call->parameters, "total", &total) > 0;
        if (get_device(c, call, &device) < 0)
                return;
        if (set_device(c, device) < 0)
                return;
        c->until = has_total ? total : counted(c) + MIN(more, UINT64_MAX / 2);
        c->waiting = !call->oneway;
}

static void on_message_sent(Client *c, int result, struct json_object *answer) {
        static const VarlinkCall answered = { 0 };
        const char *field;
        size_t n;

        if (result >= 0)
                reply(c, NULL, answer, 0);
        else if (json_get_string(answer, "parameter", &field, &n) > 0)
                invalid_parameter(c, &answered, field);
        else
                fail(c, &answered, INTERFACE ".MessageRefused", answer, 0);
}

static void on_send_message(Client *c, const VarlinkCall *call) {
        call_hub(c, call, HUB_CALL_SEND_MESSAGE, call->parameters, on_message_sent);
}

static void on_add_authority(Client *c, const VarlinkCall *call) {
        const char *pem, *reason;
        size_t n;
        int r;

        if (json_get_string(call->parameters, "certificate", &pem, &n) <= 0) {
                invalid_parameter(c, call, "certificate");
                return;
        }
        r = authorities_add(front_authorities(c->ctl->front), pem, n, &reason);
        if (r == -EINVAL)
                fail_text(c, call, INTERFACE ".AuthorityRefused", "reason", reason);
        else if (r == -E2BIG)
                fail_text(c, call, INTERFACE ".AuthorityRefused", "reason",
                          "the hub has 25 authorities, which is the most");
        else if (r < 0)
                fail_text(c, call, INTERFACE ".Failed", "reason", strerror(-r));
        else
                reply(c, call, NULL, 0);
}

static void on_remove_authority(Client *c, const VarlinkCall *call) {
        const char *thumbprint;
        size_t n;
        int r;

        if (json_get_string(call->parameters, "thumbprint", &thumbprint, &n) <= 0) {
                invalid_parameter(c, call, "thumbprint");
                return;
        }
        r = authorities_remove(front_authorities(c->ctl->front), thumbprint);
        if (r == -ENOENT)
                fail_text(c, call, INTERFACE ".AuthorityRefused", "reason",
                          "no authority has that thumbprint");
        else if (r < 0)
                fail_text(c, call, INTERFACE ".Failed", "reason", strerror(-r));
        else
                reply(c, call, NULL, 0);
}

static void on_list_authorities(Client *c, const VarlinkCall *call) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        struct json_object *list = NULL;
        int r;

        r = authorities_to_json(front_authorities(c->ctl->front), &list);
        reply(c, call, o, r < 0 ? r : json_add(o, "authorities", list));
}

static void on_get_info(Client *c, const VarlinkCall *call) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        struct json_object *interfaces = json_object_new_array();
        int r;

        r = json_add_string(o, "vendor", "iothubd");
        if (r >= 0)
                r = json_add_string(o, "product", "iothub-emulator");
        if (r >= 0)
                r = json_add_string(o, "version", PROJECT_VERSION);
        if (r >= 0)
                r = json_add_string(o, "url", "");
        if (interfaces) {
                (void) json_object_array_add(interfaces, json_object_new_string(SERVICE));
                (void) json_object_array_add(interfaces, json_object_new_string(INTERFACE));
        }
        if (r >= 0)
                r = json_add(o, "interfaces", interfaces);
        else
                json_object_put(interfaces);
        reply(c, call, o, r);
}

static void on_get_description(Client *c, const VarlinkCall *call) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        const char *name;
        size_t n;

        if (json_get_string(call->parameters, "interface", &name, &n) <= 0)
                invalid_parameter(c, call, "interface");
        else if (streq(name, INTERFACE))
                reply(c, call, o, json_add_string(o, "description", emulator_varlink_text));
        else
                fail_text(c, call, SERVICE ".InterfaceNotFound", "interface", name);
}

static void handle_call(Client *c, const VarlinkCall *call) {
        static const struct {
                const char *name;
                void (*handle)(Client *c, const VarlinkCall *call);
        } methods[] = {
                { INTERFACE ".SetTrouble", on_set },
                { INTERFACE ".EndTroubles", on_end },
                { INTERFACE ".CutConnections", on_cut },
                { INTERFACE ".GetStatus", on_get_status },
                { INTERFACE ".Wait", on_wait },
                { INTERFACE ".SendMessage", on_send_message },
                { INTERFACE ".AddAuthority", on_add_authority },
                { INTERFACE ".RemoveAuthority", on_remove_authority },
                { INTERFACE ".ListAuthorities", on_list_authorities },
                { SERVICE ".GetInfo", on_get_info },
                { SERVICE ".GetInterfaceDescription", on_get_description },
        };

        for (size_t i = 0; i < ELEMENTSOF(methods); i++)
                if (streq(methods[i].name, call->method)) {
                        methods[i].handle(c, call);
                        return;
                }
        fail_text(c, call, SERVICE ".MethodNotFound", "method", call->method);
}

/* All that can be answered now. */
static void client_turn(Client *c) {
        while (!c->dead && c->call == 0) {
                _cleanup_json_ struct json_object *message = NULL;
                const char *reason;
                VarlinkCall call;
                int r;

                if (c->waiting) {
                        if (counted(c) < c->until)
                                return;
                        c->waiting = false;
                        reply_number(c, NULL, "value", counted(c));
                        continue;
                }
                r = varlink_reader_next(&c->reader, &message, NULL, &reason);
                if (r == 0)
                        return;
                if (r < 0 || varlink_call_parse(message, &call) < 0) {
                        c->dead = true; /* not Varlink: nothing to answer */
                        return;
                }
                handle_call(c, &call);
        }
}

static void bury(HubCtl *ctl) {
        Client **link = &ctl->clients;

        while (*link) {
                Client *c = *link;

                if (!c->dead) {
                        link = &c->next;
                        continue;
                }
                *link = c->next;
                ctl->n_clients--;
                client_free(c);
        }
}

static void on_client(void *userdata) {
        Client *c = userdata;
        uint8_t data[READ_BYTES];
        ssize_t n;

        n = recv(c->fd, data, sizeof(data), 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n <= 0 || varlink_reader_feed(&c->reader, data, (size_t) n) < 0 ||
            ((c->waiting || c->call > 0) && varlink_reader_pending(&c->reader) > VARLINK_FRAME_BYTES_MAX))
                c->dead = true; /* freed after the turn */
        client_turn(c);
}

static void on_listener(void *userdata) {
        HubCtl *ctl = userdata;
        Client *c;
        int fd;

        fd = accept4(ctl->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
                return;
        c = ctl->n_clients < CLIENTS_MAX ? malloc(sizeof(*c)) : NULL;
        if (!c) {
                safe_close(fd);
                return;
        }
        *c = (Client){ .ctl = ctl, .fd = fd, .next = ctl->clients };
        if (front_watch(ctl->front, fd, on_client, c) < 0) {
                safe_close(fd);
                free(c);
                return;
        }
        ctl->clients = c;
        ctl->n_clients++;
}

static void after_turn(void *userdata) {
        HubCtl *ctl = userdata;
        uint64_t serial = hub_counters_serial(front_counters(ctl->front));

        if (ctl->seen != serial) {
                ctl->seen = serial;
                for (Client *c = ctl->clients; c; c = c->next)
                        if (c->waiting)
                                client_turn(c);
        }
        bury(ctl);
}

/* Nobody else can connect at any moment: the mode is there with the socket. */
static int listen_private(const char *path) {
        _cleanup_close_ int fd = -EBADF;
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        mode_t old;
        int r;

        assert(strlen(path) < sizeof(address.sun_path));
        strcpy(address.sun_path, path);
        if (unlink(path) < 0 && errno != ENOENT)
                return -errno;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        old = umask(0177);
        r = bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
        (void) umask(old);
        if (r < 0)
                return r;
        if (listen(fd, SOMAXCONN) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static void answer_call(Client *c, const HubReport *report, struct json_object *o) {
        c->call = 0;
        c->on_answer(c, report->value, o);
        client_turn(c); /* what waited behind it */
}

static void on_hub(void *userdata) {
        HubCtl *ctl = userdata;
        HubReport report;

        while (hub_report_read(front_hub(ctl->front), &report, &ctl->answer) > 0) {
                _cleanup_json_ struct json_object *o = NULL;

                if (json_parse(ctl->answer.data, ctl->answer.size, 4, &o) < 0)
                        o = json_object_new_object(); /* the hub had no memory to say more */
                for (Client *c = ctl->clients; c; c = c->next)
                        if (c->call == report.number && !c->dead) {
                                answer_call(c, &report, o);
                                break;
                        }
        }
}

int hub_ctl_serve_hub(HubCtl *c) {
        return front_watch(c->front, front_hub(c->front), on_hub, c);
}

int hub_ctl_new(Front *front, HubCtlMakeTls make_tls, void *userdata, HubCtl **ret) {
        _cleanup_(hub_ctl_freep) HubCtl *c = NULL;
        int r;

        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (HubCtl){ .front = front, .fd = -EBADF, .make_tls = make_tls, .userdata = userdata };
        c->fd = listen_private(HUB_CTL_SOCKET);
        if (c->fd < 0)
                return c->fd;
        r = front_watch(front, c->fd, on_listener, c);
        if (r < 0)
                return r;
        front_after_turn(front, after_turn, c);
        *ret = TAKE_PTR(c);
        return 0;
}

HubCtl *hub_ctl_free(HubCtl *c) {
        if (!c)
                return NULL;
        front_after_turn(c->front, NULL, NULL);
        while (c->clients) {
                Client *client = c->clients;

                c->clients = client->next;
                client_free(client);
        }
        if (c->fd >= 0) {
                front_unwatch(c->front, c->fd);
                (void) unlink(HUB_CTL_SOCKET); /* it may be gone */
        }
        c->fd = safe_close(c->fd);
        buffer_done(&c->answer);
        free(c);
        return NULL;
}
