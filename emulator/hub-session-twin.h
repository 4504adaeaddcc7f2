/* hub-session-twin.h: what a device asks of its twin over MQTT, and the answers. */
#pragma once

#include "emulator/hub-session.h"
#include "lib/hub-topic.h"

/* topic: HUB_TOPIC_TWIN_GET or HUB_TOPIC_TWIN_REPORTED. Answers, also a refusal, where the device
 * listens to answers. 0, or an error as of hub_session_publish(). */
int hub_session_twin(const HubSession *s, Hub *hub, HubLink *link, const HubTopic *topic,
                     const HubPublish *p, const char **reterr_reason);
