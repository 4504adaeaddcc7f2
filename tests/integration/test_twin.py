#!/usr/bin/env python3
"""Goal: a device and the services see one twin, and hear of each other's changes as at the hub. Method: curl on one side, a
device that speaks MQTT by hand on the other."""
import contextlib
import json

import harness
from device import Mqtt, device_token, hub_with_device, key_of
from harness import test

RESULTS = "$iothub/twin/res/#"
DESIRED = "$iothub/twin/PATCH/properties/desired/#"


@contextlib.contextmanager
def connected(hub, key, *filters, device="d1", resource=None):
    with Mqtt(hub) as m:
        assert m.connect(device, device_token(resource or device, key)) == 0
        for f in filters:
            m.subscribe(f)
            assert m.receive() == (0x90, b"\0\1\1")
        yield m


def get(m, rid="1"):
    m.publish(f"$iothub/twin/GET/?$rid={rid}", b"", qos=0)
    topic, body = m.receive_message()
    assert topic == f"$iothub/twin/res/200/?$rid={rid}", topic
    return json.loads(body)


def report(m, patch, rid="r"):
    """(status, what follows the rid, body)."""
    m.publish(f"$iothub/twin/PATCH/properties/reported/?$rid={rid}", json.dumps(patch).encode(), qos=0)
    topic, body = m.receive_message()
    status, _, rest = topic.removeprefix("$iothub/twin/res/").partition("/?$rid=")
    assert rest.startswith(rid), topic
    return int(status), rest.removeprefix(rid), json.loads(body) if body else None


def change(registry, desired, path="/twins/d1", method="PATCH"):
    status, _, twin = registry.call(method, path, {"properties": {"desired": desired}})
    assert status == 200, twin
    return twin


@test
def a_device_reads_its_twin(folder):
    with hub_with_device(folder) as (hub, registry, key), connected(hub, key, RESULTS) as m:
        assert get(m) == {"desired": {"$version": 1}, "reported": {"$version": 1}}
        status, _, _ = registry.call("PATCH", "/twins/d1", {"tags": {"site": "north"}})
        assert status == 200
        change(registry, {"interval": 5, "deep": {"er": [1, 2]}})
        for rid in ("2", "8f14e45f-ceea-467f-a1f4-5b1c4e4f9c33", "x"):
            assert get(m, rid) == {
                "desired": {"interval": 5, "deep": {"er": [1, 2]}, "$version": 2}, "reported": {"$version": 1},
            }
        m.publish("$iothub/twin/GET/?$rid=q1", b" ", qos=1)
        packets = [m.receive(), m.receive()]
        assert (0x40, b"\0\1") in packets and packets[0] != packets[1]


@test
def what_a_device_reports_is_merged_and_seen_by_services(folder):
    with hub_with_device(folder) as (hub, registry, key), connected(hub, key, RESULTS) as m:
        assert report(m, {"a": {"b": 1, "c": "zwei"}, "d": True}) == (204, "&$version=2", None)
        assert report(m, {"a": {"b": None, "e": 1.5}, "d": None, "never": None}) == (204, "&$version=3", None)
        assert get(m)["reported"] == {"a": {"c": "zwei", "e": 1.5}, "$version": 3}
        reported = registry.call("GET", "/twins/d1")[2]["properties"]["reported"]
        metadata = reported.pop("$metadata")
        assert reported == {"a": {"c": "zwei", "e": 1.5}, "$version": 3} and "$lastUpdated" in metadata["a"]["e"]
        before = registry.show("d1")["etag"]
        assert report(m, {"x": 1})[0] == 204
        assert registry.show("d1")["etag"] == before  # the identity has not changed
        hub.kill()
        hub.start()
        with connected(hub, key, RESULTS) as again:
            assert get(again)["reported"] == {"a": {"c": "zwei", "e": 1.5}, "x": 1, "$version": 4}


@test
def a_bad_report_is_answered_with_the_reason_and_changes_nothing(folder):
    with hub_with_device(folder) as (hub, registry, key), connected(hub, key, RESULTS) as m:
        assert report(m, {"good": 1})[0] == 204
        deep = {}
        for _ in range(12):
            deep = {"a": deep}
        bad = [
            [], 5, "text", None, {"a.b": 1}, {"a b": 1}, {"$x": 1}, {"a": 2**60}, {"a": "x" * 4097}, deep,
            {f"a{i}": "x" * 4000 for i in range(9)}, {"x" * 1025: 1},
        ]
        for patch in bad:
            status, rest, body = report(m, patch)
            assert (status, rest) == (400, "") and body["errorCode"] == 400004 and body["message"], (patch, body)
        for text in (b"", b"{", b'{"a":1}x', b'{"a":"\xff"}', b"{}\0", b"[" * 1000):
            m.publish("$iothub/twin/PATCH/properties/reported/?$rid=9", text, qos=0)
            assert m.receive_message()[0] == "$iothub/twin/res/400/?$rid=9", text
        assert get(m)["reported"] == {"good": 1, "$version": 2}


@test
def a_device_that_listens_hears_each_change(folder):
    with hub_with_device(folder) as (hub, registry, key), connected(hub, key, RESULTS, DESIRED) as m:
        changes = [{"a": 1}, {"b": {"c": [1, 2]}}, {"a": None}, {"b": {"c": None, "d": "x"}}]
        for version, desired in enumerate(changes, 2):
            change(registry, desired)
            topic, body = m.receive_message()
            assert topic == f"$iothub/twin/PATCH/properties/desired/?$version={version}"
            assert json.loads(body) == {**desired, "$version": version}
        assert get(m)["desired"] == {"b": {"d": "x"}, "$version": 5}
        # Tags are the services' own, and a device's report is no news to it.
        registry.call("PATCH", "/twins/d1", {"tags": {"site": "north"}})
        assert report(m, {"a": 1})[0] == 204
        change(registry, {"last": True})
        assert json.loads(m.receive_message()[1]) == {"last": True, "$version": 6}


@test
def nothing_is_kept_for_a_device_that_is_away(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with connected(hub, key, RESULTS, DESIRED):
            pass
        change(registry, {"missed": 1})
        with Mqtt(hub) as m:
            # The session remembers what it listens to.
            assert m.connect("d1", device_token("d1", key)) == 0
            assert get(m)["desired"] == {"missed": 1, "$version": 2}
            change(registry, {"heard": 1})
            assert json.loads(m.receive_message()[1]) == {"heard": 1, "$version": 3}


@test
def who_does_not_listen_gets_no_answer(folder):
    with hub_with_device(folder) as (hub, registry, key), connected(hub, key) as m:
        m.publish("$iothub/twin/GET/?$rid=1", b"", qos=0)
        m.publish("$iothub/twin/PATCH/properties/reported/?$rid=2", b'{"a":1}', qos=1, mid=7)
        change(registry, {"a": 1})
        assert m.receive() == (0x40, b"\0\7")
        m.send(0xC0, b"")
        assert m.receive() == (0xD0, b"")
        assert registry.call("GET", "/twins/d1")[2]["properties"]["reported"]["a"] == 1


@test
def devices_and_modules_have_twins_of_their_own(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other_key = key_of(registry.create("d2"))
        status, _, module = registry.call("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})
        assert status == 200
        with connected(hub, key, RESULTS, DESIRED) as one, connected(hub, other_key, RESULTS, DESIRED, device="d2") as two:
            with connected(
                hub, key_of(module), RESULTS, DESIRED, device="d1/m1", resource="d1/modules/m1"
            ) as mine:
                change(registry, {"for": "d1"})
                change(registry, {"for": "d2"}, "/twins/d2")
                change(registry, {"for": "m1"}, "/twins/d1/modules/m1")
                for m, name in ((one, "d1"), (two, "d2"), (mine, "m1")):
                    assert json.loads(m.receive_message()[1])["for"] == name
                    assert report(m, {"is": name})[0] == 204
                for m, name in ((one, "d1"), (two, "d2"), (mine, "m1")):
                    twin = get(m)
                    assert (twin["desired"]["for"], twin["reported"]["is"]) == (name, name)


@test
def a_topic_that_is_not_its_own_still_cuts(folder):
    with hub_with_device(folder) as (hub, _, key):
        for topic in (
            "$iothub/twin/GET/", "$iothub/twin/GET/?rid=1", "$iothub/twin/res/200/?$rid=1", "$iothub/methods/res/x/?$rid=1",
            "$iothub/twin/PATCH/properties/desired/?$version=1", "$iothub/twin/PATCH/properties/reported/", "$iothub/x",
        ):
            with connected(hub, key) as m:
                m.publish(topic, b"{}")
                assert m.receive() is None, topic


harness.main()
