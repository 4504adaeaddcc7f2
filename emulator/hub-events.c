#include "emulator/hub-events.h"

#include <assert.h>

struct HubEvents {
        usec_t created_usec;
};

struct HubEventsReader {
        HubEvents *events;
};

int hub_events_open(int dir_fd, const HubEventsLimits *limits, HubEvents **ret,
                    char **reterr_what) {
        HubEvents *e = malloc(sizeof(*e));

        if (!e)
                return -ENOMEM;
        *e = (HubEvents) { .created_usec = now_usec(CLOCK_REALTIME) };
        *ret = e;
        return 0;
}

HubEvents *hub_events_free(HubEvents *e) {
        free(e);
        return NULL;
}

usec_t hub_events_created_usec(const HubEvents *e) {
        return e->created_usec;
}

/* FNV-1a, folded. */
unsigned hub_events_partition(const char *device_id) {
        uint32_t hash = UINT32_C(2166136261);

        for (; *device_id; device_id++)
                hash = (hash ^ (unsigned char) *device_id) * UINT32_C(16777619);
        return (hash ^ hash >> 16) % HUB_EVENTS_PARTITIONS;
}

int hub_events_append(HubEvents *e, const HubEvent *event) {
        return -EOPNOTSUPP;
}

void hub_events_tick(HubEvents *e, usec_t now_usec) {
}

void hub_events_info(HubEvents *e, unsigned partition, HubEventsInfo *ret) {
        assert(partition < HUB_EVENTS_PARTITIONS);
        *ret = (HubEventsInfo) { .last_sequence = -1, .last_offset = -1, .empty = true };
}

int hub_events_reader_open(HubEvents *e, unsigned partition, const HubEventsPosition *position,
                           HubEventsReader **ret, char **reterr_reason) {
        HubEventsReader *r = malloc(sizeof(*r));

        if (!r)
                return -ENOMEM;
        *r = (HubEventsReader) { .events = e };
        *ret = r;
        return 0;
}

HubEventsReader *hub_events_reader_free(HubEventsReader *r) {
        free(r);
        return NULL;
}

int hub_events_reader_next(HubEventsReader *r, const HubStoredEvent **ret) {
        return 0;
}

void hub_events_reader_seek(HubEventsReader *r, int64_t sequence) {
}

void hub_events_set_wake_fd(HubEvents *e, int event_fd) {
}
