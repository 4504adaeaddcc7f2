#include "emulator/hub-troubles.h"

#include <pthread.h>
#include <stdatomic.h>

#include "emulator/trouble-json.h"

#define DEPTH_MAX 4

struct HubTroubles {
        pthread_mutex_t lock;
        Troubles troubles;
        atomic_bool has_amqp; /* lets the door look without the lock */
};

int hub_troubles_new(HubTroubles **ret) {
        HubTroubles *t = malloc(sizeof(*t));

        if (!t)
                return -ENOMEM;
        *t = (HubTroubles){ .lock = PTHREAD_MUTEX_INITIALIZER };
        *ret = t;
        return 0;
}

HubTroubles *hub_troubles_free(HubTroubles *t) {
        if (!t)
                return NULL;
        troubles_done(&t->troubles);
        (void) pthread_mutex_destroy(&t->lock); /* nobody is left who could hold it */
        free(t);
        return NULL;
}

static void lock(HubTroubles *t) {
        (void) pthread_mutex_lock(&t->lock); /* it cannot fail where it is not taken twice */
        (void) troubles_expire(&t->troubles,
                               now_usec(CLOCK_MONOTONIC)); /* nobody waits for the next */
}

static void unlock(HubTroubles *t) {
        atomic_store(&t->has_amqp, troubles_have_amqp(&t->troubles));
        (void) pthread_mutex_unlock(&t->lock); /* it is held */
}

void hub_troubles_on_request(HubTroubles *t, const char *device, TroubleCalls calls,
                             TroubleRequest *ret) {
        lock(t);
        troubles_on_request(&t->troubles, device, calls, ret);
        unlock(t);
}

bool hub_troubles_on_amqp(HubTroubles *t, TroubleKind kind, char ret_condition[static TEXT_FINDER_MAX + 1]) {
        const char *condition;
        bool happens;

        if (!atomic_load(&t->has_amqp))
                return false;
        lock(t);
        happens = troubles_on_amqp(&t->troubles, kind, &condition);
        if (happens)
                strcpy(ret_condition, condition); /* no longer than that */
        unlock(t);
        return happens;
}

static int run_call(Troubles *t, HubCall call, struct json_object *parameters,
                    struct json_object *answer, const char **reterr_field) {
        const usec_t now = now_usec(CLOCK_MONOTONIC);
        _cleanup_json_ struct json_object *list = NULL;
        _cleanup_(trouble_done) Trouble x = { 0 };
        size_t ended;
        int r;

        switch (call) {
        case HUB_CALL_SET_TROUBLE:
                r = trouble_from_json(parameters, now, &x, reterr_field);
                return r < 0 ? r : troubles_set(t, &x, reterr_field);
        case HUB_CALL_END_TROUBLES:
                r = troubles_end_from_json(t, parameters, &ended, reterr_field);
                return r < 0 ? r : json_add_u64(answer, "ended", ended);
        case HUB_CALL_LIST_TROUBLES:
                list = json_object_new_array();
                r = list ? troubles_append_json(t, now, list) : -ENOMEM;
                return r < 0 ? r : json_add(answer, "troubles", TAKE_PTR(list));
        default: return -EINVAL;
        }
}

int hub_troubles_call(HubTroubles *t, HubCall call, const char *parameters, size_t n,
                      char **ret_answer) {
        _cleanup_json_ struct json_object *o = NULL, *answer = json_object_new_object();
        const char *field = NULL, *text;
        int r;

        r = answer ? json_parse(parameters, n, DEPTH_MAX, &o) : -ENOMEM;
        if (r < 0)
                return r == -ENOMEM ? r : -EINVAL;
        lock(t);
        r = run_call(&t->troubles, call, o, answer, &field);
        unlock(t);
        if (r < 0 && json_add_string(answer, "field", field) < 0)
                return -ENOMEM;
        text = json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN);
        *ret_answer = text ? strdup(text) : NULL;
        return *ret_answer ? r : -ENOMEM;
}
