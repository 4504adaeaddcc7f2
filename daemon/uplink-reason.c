/* The remedies name what is likely first. Where the hub gives no reason (it never does: MQTT 3.1.1
 * has no room for one) they follow docs/hub-limits.md, "Coming back" and "Topics". */
#include "daemon/uplink-reason.h"

static const UplinkReason reasons[_UPLINK_ERROR_MAX] = {
        [UPLINK_ERROR_DNS] = {
                .name = "dns",
                .what = "The hub's name cannot be looked up",
                .remedy = "check the network, the name server, and HostName in the connection string",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_NETWORK] = {
                .name = "network",
                .what = "The hub cannot be reached",
                .remedy = "check the network, the port, and that no firewall or proxy closes it",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_TIMEOUT] = {
                .name = "timeout",
                .what = "The hub, or something on the way to it, does not answer",
                .remedy = "check the link and its signal, and that a firewall lets the port out",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_UNCONFIRMED] = {
                .name = "unconfirmed",
                .what = "The hub takes messages and confirms none",
                .remedy = "check the link and its signal; where it lasts see the health of the "
                          "service",
                .law = BACKOFF_FAILED,
                .cure = UPLINK_CURE_CONFIRMED,
        },
        [UPLINK_ERROR_TLS] = {
                .name = "tls",
                .what = "TLS with the server failed",
                .remedy = "check the port, and that no proxy or firewall answers in the hub's place",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_TLS_ISSUER] = {
                .name = "tls-issuer",
                .what = "The server's certificate is signed by nobody this machine trusts",
                .remedy = "install or update ca-certificates, or set ca_file to the root the "
                          "certificate hangs from; a proxy that opens TLS shows this, too",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_TLS_EXPIRED] = {
                .name = "tls-expired",
                .what = "The server's certificate has ended by this machine's clock",
                .remedy = "check the clock first (is it ahead?), then the server",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_TLS_NAME] = {
                .name = "tls-name",
                .what = "The server's certificate is for another name",
                .remedy = "check HostName or GatewayHostName in the connection string, and that no "
                          "proxy answers in the hub's place",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_CLOCK] = {
                .name = "clock",
                .what = "This machine's clock is wrong",
                .remedy = "set the clock and check time synchronisation (timedatectl); the daemon "
                          "tries again as soon as the clock is set",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_CREDENTIALS] = {
                .name = "credentials",
                .what = "The device's key or connection string cannot be used",
                .remedy = "take the device's connection string from the hub anew and put it into "
                          "connection_string_file",
                .law = BACKOFF_REFUSED,
        },
        [UPLINK_ERROR_CERTIFICATE] = {
                .name = "certificate",
                .what = "The device's certificate or its key cannot be used",
                .remedy = "check that certificate and key are there, belong together, are readable "
                          "for the daemon and have not ended, and that the hub knows the "
                          "certificate's thumbprint or the authority that signed it",
                .law = BACKOFF_REFUSED,
        },
        [UPLINK_ERROR_REFUSED] = {
                .name = "refused",
                .what = "The hub refused the device",
                .remedy = "check in this order: that this machine's clock is right, that the device "
                          "exists and is enabled, that the key is the registry's, DeviceId, ModuleId "
                          "and HostName in the connection string, the hub's IP filter",
                .law = BACKOFF_REFUSED,
        },
        [UPLINK_ERROR_UNAVAILABLE] = {
                .name = "unavailable",
                .what = "The hub is not available now",
                .remedy = "wait, this passes; where it lasts see the health of the service",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_CUT] = {
                .name = "cut",
                .what = "The hub closed the connection",
                .remedy = "nothing to do while it is rare; if it goes on, look for a second program with "
                          "this identity, a firewall on the way, a hub at its limits",
                .law = BACKOFF_FAILED,
        },
        [UPLINK_ERROR_TAKEN_OVER] = {
                .name = "taken-over",
                .what = "The hub closes each connection soon after it accepted it",
                .remedy = "look for a second program or machine that uses this device's identity "
                          "(a copied disk, a test tool): the hub lets only the newest stay; give "
                          "each its own",
                .law = BACKOFF_TAKEN_OVER,
                .cure = UPLINK_CURE_LIVED,
        },
        [UPLINK_ERROR_THROTTLED] = {
                .name = "throttled",
                .what = "The hub takes less than it is sent",
                .remedy = "fewer or larger messages, or more units for the hub; the daemon has slowed "
                          "down, and nothing is lost",
                .law = BACKOFF_CUT,
                .cure = UPLINK_CURE_LIVED,
        },
        [UPLINK_ERROR_QUOTA] = {
                .name = "quota",
                .what = "The hub closes the connection at the first message, whichever that is",
                .remedy = "the hub's daily quota may be used up: it returns at 00:00 UTC, more units "
                          "raise it; else its tier does not allow what is sent",
                .law = BACKOFF_CUT,
                .cure = UPLINK_CURE_CONFIRMED,
        },
        [UPLINK_ERROR_LOCAL] = {
                .name = "local",
                .what = "This machine cannot prepare a connection",
                .remedy = "see the error; memory, ca_file and the state directory come first",
                .law = BACKOFF_FAILED,
        },
};

const UplinkReason *uplink_reason(UplinkErrorClass c) {
        return c > UPLINK_ERROR_NONE && c < _UPLINK_ERROR_MAX ? &reasons[c] : NULL;
}

const char *uplink_error_class_to_string(UplinkErrorClass c) {
        const UplinkReason *r = uplink_reason(c);

        return r ? r->name : NULL;
}
