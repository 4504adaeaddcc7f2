/* Many identities in one call and one transaction: each item succeeds or fails by itself. */
#include <strings.h>

#include "emulator/hub-registry-private.h"
#include "emulator/hub-twins.h"
#include "lib/string-util.h"

#define ITEMS_MAX 100U

typedef enum BulkMode {
        BULK_CREATE,
        BULK_UPDATE,
        BULK_UPDATE_IF_MATCH,
        BULK_DELETE,
        BULK_DELETE_IF_MATCH,
        BULK_UPDATE_TWIN,
        BULK_UPDATE_TWIN_IF_MATCH,
        BULK_CREATE_OR_UPDATE,
        BULK_CREATE_OR_UPDATE_IF_MATCH,
        _BULK_MODE_MAX,
} BulkMode;

static const char *const mode_names[_BULK_MODE_MAX] = {
        [BULK_CREATE] = "create",
        [BULK_UPDATE] = "update",
        [BULK_UPDATE_IF_MATCH] = "updateIfMatchETag",
        [BULK_DELETE] = "delete",
        [BULK_DELETE_IF_MATCH] = "deleteIfMatchETag",
        [BULK_UPDATE_TWIN] = "updateTwin",
        [BULK_UPDATE_TWIN_IF_MATCH] = "updateTwinIfMatchETag",
        [BULK_CREATE_OR_UPDATE] = "createOrUpdate",
        [BULK_CREATE_OR_UPDATE_IF_MATCH] = "createOrUpdateIfMatchETag",
};

typedef struct Item {
        Hub *hub;
        struct json_object *object; /* borrowed */
        HubDevice wanted;
        BulkMode mode;
        const char *reason; /* of -EINVAL */
        RegistryCondition condition;
        uint64_t existing; /* of -ESTALE */
} Item;

/* The registry's etag of the item; NULL: none, which matches any, as seen. */
static const uint64_t *item_etag(Item *i, const char *field) {
        RegistryCondition *c = &i->condition;
        const char *text = NULL;

        (void) json_get_string(i->object, field, &text, NULL); /* absent is absent */
        if (!text || registry_condition_read(text, c) < 0 || !c->given || c->any)
                return NULL;
        return streq(field, "eTag") ? &c->etag : &c->twin_etag;
}

static int read_item(struct json_object *o, Item *i) {
        const char *mode = NULL;
        int r;

        i->object = o;
        i->reason = "An item is no object";
        if (!json_object_is_type(o, json_type_object))
                return -EINVAL;
        r = hub_device_from_json(o, HUB_DEVICE_FORM_BULK, &i->wanted, &i->reason);
        if (r < 0)
                return r;
        i->reason = "importMode is missing or unknown";
        if (json_get_string(o, "importMode", &mode, NULL) <= 0)
                return -EINVAL;
        for (BulkMode m = 0; m < _BULK_MODE_MAX; m++)
                if (strcasecmp(mode, mode_names[m]) == 0) {
                        i->mode = m;
                        return 0;
                }
        return -EINVAL;
}

static int twin_parts(Item *i, struct json_object **ret_tags, struct json_object **ret_desired) {
        struct json_object *properties = NULL;

        *ret_tags = *ret_desired = NULL;
        i->reason = "tags, properties and properties.desired are objects";
        if (json_get_object(i->object, "tags", ret_tags) < 0 ||
            json_get_object(i->object, "properties", &properties) < 0 ||
            (properties && json_get_object(properties, "desired", ret_desired) < 0))
                return -EINVAL;
        return 0;
}

static int create(Item *i) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        struct json_object *tags, *desired;
        int r;

        r = twin_parts(i, &tags, &desired);
        if (r >= 0 && (tags || desired))
                r = hub_twin_make(&i->wanted, tags, desired, now_usec(CLOCK_REALTIME),
                                  &i->wanted.twin, &i->reason);
        return r < 0 ? r : hub_device_create(i->hub, &i->wanted, &made);
}

static int update_twin(Item *i, bool if_match) {
        _cleanup_(hub_device_done) HubDevice d = { 0 };
        _cleanup_(hub_twin_done) HubTwin t = { 0 };
        HubTwinChange change = {
                .patch = i->object,
                .if_etag = if_match ? item_etag(i, "twinETag") : NULL,
        };

        return hub_twins_change(i->hub, i->wanted.id, i->wanted.module_id, &change, &d, &t,
                                &i->reason);
}

static int update(Item *i, bool if_match) {
        _cleanup_(hub_device_done) HubDevice made = { 0 };
        struct json_object *tags, *desired;
        int r;

        r = twin_parts(i, &tags, &desired);
        if (r >= 0)
                r = hub_device_update(i->hub, &i->wanted, if_match ? item_etag(i, "eTag") : NULL,
                                      &made, &i->existing);
        if (r < 0 || (!tags && !desired))
                return r;
        return update_twin(i, /* if_match= */ false);
}

static int delete(Item *i, bool if_match) {
        return hub_device_delete(i->hub, i->wanted.id, i->wanted.module_id,
                                 if_match ? item_etag(i, "eTag") : NULL, &i->existing);
}

static int run_item(Item *i) {
        int r;

        switch (i->mode) {
        case BULK_CREATE: return create(i);
        case BULK_UPDATE:
        case BULK_UPDATE_IF_MATCH: return update(i, i->mode == BULK_UPDATE_IF_MATCH);
        case BULK_DELETE:
        case BULK_DELETE_IF_MATCH: return delete(i, i->mode == BULK_DELETE_IF_MATCH);
        case BULK_UPDATE_TWIN:
        case BULK_UPDATE_TWIN_IF_MATCH: return update_twin(i, i->mode == BULK_UPDATE_TWIN_IF_MATCH);
        default:
                r = create(i);
                return r == -EEXIST ? update(i, i->mode == BULK_CREATE_OR_UPDATE_IF_MATCH) : r;
        }
}

/* The text of the answer to the same call alone serves as the status of the item. */
static int add_error(struct json_object *errors, const Item *i, int error) {
        _cleanup_json_ struct json_object *o = json_object_new_object();
        _cleanup_(registry_answer_done) RegistryAnswer a = { 0 };
        RegistryCall c = { .hub = i->hub, .if_match = i->condition };
        const char *message = "", *text;
        int r;

        /* As they were sent: what is no id is named too. */
        if (json_object_is_type(i->object, json_type_object)) {
                (void) json_get_string(i->object, "id", &c.device, NULL); /* absent is absent */
                (void) json_get_string(i->object, "moduleId", &c.module, NULL);
        }
        c.device = strempty(c.device);
        registry_answer_init(&a);
        if (error == -EINVAL)
                r = registry_error(&a, 400, "ArgumentInvalid", "%s", i->reason);
        else if (i->mode == BULK_UPDATE_TWIN || i->mode == BULK_UPDATE_TWIN_IF_MATCH)
                r = registry_twin_failure(&a, error, &c, i->reason);
        else
                r = registry_failure(&a, error, &c, i->existing);
        if (r < 0)
                return r;
        if (json_get_string(a.body, "Message", &message, NULL) <= 0)
                (void) json_get_string(a.body, "message", &message, NULL); /* one of both is there */
        text = strchr(message, ';');
        if (!o || json_add_string(o, "deviceId", c.device) < 0 ||
            json_add_string(o, "errorCode", a.error) < 0 ||
            json_add_string(o, "errorStatus", text ? text + 1 : message) < 0 ||
            hub_device_add_text(o, "moduleId", c.module) < 0 ||
            json_add_string(o, "operation", mode_names[i->mode]) < 0)
                return -ENOMEM;
        return json_object_array_add(errors, TAKE_PTR(o)) < 0 ? -ENOMEM : 0;
}

static bool is_items_own(int error) {
        return error == -EINVAL || error == -ENOENT || error == -EEXIST || error == -ESTALE ||
               error == -EOVERFLOW;
}

/* 0, or what spoils the whole call. */
static int run_items(Hub *h, struct json_object *items, struct json_object *errors) {
        for (size_t n = 0; n < json_object_array_length(items); n++) {
                Item i = { .hub = h };
                int r;

                r = read_item(json_object_array_get_idx(items, n), &i);
                if (r >= 0)
                        r = run_item(&i);
                if (is_items_own(r))
                        r = add_error(errors, &i, r);
                hub_device_done(&i.wanted);
                if (r < 0)
                        return r;
        }
        return 0;
}

int registry_bulk(const RegistryCall *c, RegistryAnswer *a) {
        _cleanup_json_ struct json_object *items = NULL, *errors = json_object_new_array();
        bool successful;
        int r;

        r = registry_parse_body(c, json_type_array, a, &items);
        if (r <= 0)
                return r;
        if (!errors)
                return -ENOMEM;
        if (json_object_array_length(items) > ITEMS_MAX)
                return registry_error(a, 413, "TooManyDevices", "At most 100 items are taken at once.");
        r = hub_begin(c->hub);
        if (r >= 0)
                r = hub_end(c->hub, run_items(c->hub, items, errors));
        if (r < 0)
                return registry_failure(a, r, c, 0);

        successful = json_object_array_length(errors) == 0;
        a->status = successful ? 200 : 400;
        a->error = successful ? NULL : "BulkRegistryOperationFailure";
        a->body = json_object_new_object();
        if (!a->body || json_add_bool(a->body, "isSuccessful", successful) < 0 ||
            json_add(a->body, "errors", TAKE_PTR(errors)) < 0)
                return -ENOMEM;
        return json_add(a->body, "warnings", json_object_new_array());
}
