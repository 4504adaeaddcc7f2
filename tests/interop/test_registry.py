#!/usr/bin/env python3
"""Goal: azure-iothub's registry calls do to the emulator what they do to a hub, and iothubctl sees the same.
Method: scenes/registry.js; iothubctl beside it."""
import json

from harness import test
from interop import RealPortsHub, main, play


def scene(name):
    """The scene is the whole test."""

    def run(folder):
        with RealPortsHub(folder) as hub:
            play(hub, f"registry.{name}", host="localhost")

    return run


for scene_name, promise in (
    ("identity", "an_identity_is_created_read_changed_and_deleted"),
    ("names", "every_name_that_a_device_may_have_works_and_no_other"),
    ("errors", "errors_arrive_as_the_classes_of_the_sdk"),
    ("bulk", "a_hundred_devices_are_added_changed_and_removed_at_once"),
    ("modules", "modules_and_their_twins_follow_their_etags"),
    ("twins", "a_twin_is_patched_under_its_etag"),
    ("queries", "a_query_pages_through_and_selects"),
):
    function = scene(scene_name)
    function.__name__ = promise
    test(function)


def shown(hub, *arguments):
    return json.loads(hub.ctl(*arguments, "--json").stdout)


@test
def iothubctl_shows_what_the_sdk_stored(folder):
    with RealPortsHub(folder) as hub:
        stored = play(hub, "registry.store")
        device = shown(hub, "device", "show", "sdk")
        assert (device["etag"], device["generationId"]) == (stored["etag"], stored["generationId"]), (device, stored)
        assert (device["status"], device["statusReason"]) == ("disabled", "kept in stock"), device
        assert hub.ctl("device", "connection-string", "sdk").stdout.strip() == stored["key"]
        twin = shown(hub, "device-twin", "show", "sdk")
        assert twin["tags"] == {"site": "Ulm"} and twin["etag"] == stored["twin"]["etag"], (twin, stored)
        assert twin["properties"]["desired"] == stored["twin"]["properties"]["desired"], (twin, stored)
        auth = shown(hub, "device", "show", "sdk-x509")["authentication"]
        assert auth["type"] == "selfSigned" and auth["x509Thumbprint"]["primaryThumbprint"] == "AB" * 20, auth
        listed = [json.loads(line)["deviceId"] for line in hub.ctl("device", "list", "--json").stdout.splitlines()]
        assert sorted(listed) == ["sdk", "sdk-x509"], listed
        rows = hub.ctl("query", "SELECT deviceId FROM devices WHERE tags.site = 'Ulm'", "--json").stdout
        assert json.loads(rows) == {"deviceId": "sdk"}, rows
        assert "m1" in hub.ctl("module", "list", "sdk").stdout


@test
def the_sdk_finds_what_iothubctl_stored(folder):
    with RealPortsHub(folder) as hub:
        hub.ctl("device", "create", "ctl")
        hub.ctl("device", "disable", "ctl")
        hub.ctl("device-twin", "update", "ctl", "--tag", "site=Ulm", "--desired", "interval=5")
        hub.ctl("module", "create", "ctl", "m1")
        found = play(hub, "registry.find")
        assert found["status"] == "disabled" and found["etag"] == shown(hub, "device", "show", "ctl")["etag"], found
        assert found["key"] == hub.ctl("device", "connection-string", "ctl").stdout.strip()
        assert found["tags"] == {"site": "Ulm"} and found["desired"] == 5 and found["modules"] == ["m1"], found


if __name__ == "__main__":
    main()
