/* mqtt-route.h: how the broker's plugin tells the front what a PUBLISH to a device is: by a prefix of its
 * topic that the front takes off again, "c2d/SEQUENCE/FLAGS/". Only the plugin can write one: the broker
 * hands nothing from one client to another. */
#pragma once

#define MQTT_ROUTE_BYTES_MAX 32U /* longest prefix */
