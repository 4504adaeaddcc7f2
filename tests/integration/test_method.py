#!/usr/bin/env python3
"""Goal: direct methods work as at the hub, on both sides. Method: curl calls, a device that speaks MQTT by hand answers, or
does not."""
import contextlib
import json
import subprocess
import threading
import time

import harness
from device import Mqtt, device_token, hub_with_device, key_of
from harness import test, wait_until

FILTER = "$iothub/methods/POST/#"


@contextlib.contextmanager
def listening(hub, key, device="d1", clean=False):
    with Mqtt(hub) as m:
        assert m.connect(device, device_token(device, key), clean=clean) == 0
        m.subscribe(FILTER)
        assert m.receive() == (0x90, b"\0\1\1")
        yield m


class Call:
    """A call in a thread of its own."""

    def __init__(self, registry, path="/twins/d1", **body):
        self.answer = None
        if "connectTimeoutInSeconds" not in body:
            # On a busy machine half a minute, the default, may pass before the test comes to answer.
            body.setdefault("responseTimeoutInSeconds", 300)
        self.thread = threading.Thread(target=self._run, args=(registry, path, body))
        self.thread.start()

    def _run(self, registry, path, body):
        with contextlib.suppress(subprocess.CalledProcessError):  # a hub that stops need not answer
            self.answer = registry.call("POST", f"{path}/methods", body)

    def result(self):
        self.thread.join(harness.DEADLINE_SEC)
        assert self.answer, "no answer yet"
        return self.answer[0], self.answer[2]

    def error(self):
        """(status, header, code) of a refusal in the form that methods have."""
        self.result()
        status, headers, body = self.answer
        return status, headers.get("iothub-errorcode"), json.loads(body["Message"])["errorCode"]


def take_request(m):
    """(name, rid, body) of the call that comes next."""
    topic, body = m.receive_message()
    parts = topic.split("/")
    assert parts[:3] == ["$iothub", "methods", "POST"] and parts[4].startswith("?$rid="), topic
    return parts[3], parts[4].removeprefix("?$rid="), body


def answer(m, rid, status=200, body=b"", qos=0):
    m.publish(f"$iothub/methods/res/{status}/?$rid={rid}", body, qos=qos)


@test
def a_call_reaches_the_device_and_its_answer_comes_back(folder):
    with hub_with_device(folder) as (hub, registry, key), listening(hub, key) as m:
        for payload in ({"seconds": 5}, [1, "zwei"], "text", 5, True, {}, {"deep": {"er": [None]}}):
            call = Call(registry, methodName="reboot", payload=payload)
            name, rid, body = take_request(m)
            assert name == "reboot" and json.loads(body) == payload
            answer(m, rid, 200, body)
            assert call.result() == (200, {"status": 200, "payload": payload})
        for status in (0, 404, 500, 1234567):
            call = Call(registry, methodName="lock-door")
            name, rid, body = take_request(m)
            assert (name, body) == ("lock-door", b"")
            answer(m, rid, status, qos=1)
            assert m.receive() == (0x40, b"\0\1")
            assert call.result() == (200, {"status": status, "payload": None})


@test
def calls_are_matched_by_their_rid_in_any_order(folder):
    with hub_with_device(folder) as (hub, registry, key), listening(hub, key) as m:
        calls, requests = {}, []
        for i in range(10):
            calls[f"m{i}"] = Call(registry, methodName=f"m{i}")
        for _ in range(10):
            requests.append(take_request(m))
        too_many = Call(registry, methodName="m10")
        assert too_many.error() == (403, "DeviceMaximumInflightMethodExceeded", 403800)
        assert len({rid for _, rid, _ in requests}) == 10
        for name, rid, _ in reversed(requests):
            answer(m, rid, 200, json.dumps(name).encode())
            answer(m, rid, 201, b'"twice"')  # dropped, as an answer to nothing
        for name, call in calls.items():
            assert call.result() == (200, {"status": 200, "payload": name})
        answer(m, "none", 200)
        m.publish("devices/d1/messages/events/", b"still here")
        assert m.receive() == (0x40, b"\0\1")


@test
def a_device_that_is_not_there_is_told_at_once(folder):
    with hub_with_device(folder) as (hub, registry, key):
        assert Call(registry, methodName="x").error() == (404, "DeviceNotOnline", 404103)
        with Mqtt(hub) as m:  # connected, but it does not listen
            assert m.connect("d1", device_token("d1", key)) == 0
            assert Call(registry, methodName="x").error() == (404, "DeviceNotOnline", 404103)
        status, headers, _ = registry.call("POST", "/twins/nobody/methods", {"methodName": "x"})
        assert (status, headers["iothub-errorcode"]) == (404, "DeviceNotFound")


@test
def a_call_can_wait_for_the_device_to_come(folder):
    with hub_with_device(folder) as (hub, registry, key):
        call = Call(registry, methodName="x", connectTimeoutInSeconds=120, responseTimeoutInSeconds=120)
        # A second call is refused at once, so the first has been taken by the time the second is answered.
        assert Call(registry, methodName="y").error()[2] == 404103
        with listening(hub, key) as m:
            name, rid, _ = take_request(m)
            answer(m, rid, 204)
            assert name == "x" and call.result() == (200, {"status": 204, "payload": None})
        start = time.monotonic()
        assert Call(registry, methodName="x", connectTimeoutInSeconds=1).error() == (404, "DeviceNotOnline", 404103)
        assert time.monotonic() - start >= 1


@test
def no_answer_in_time_is_a_timeout_and_a_late_one_is_dropped(folder):
    with hub_with_device(folder) as (hub, registry, key), listening(hub, key) as m:
        start = time.monotonic()
        call = Call(registry, methodName="slow", responseTimeoutInSeconds=5)
        _, rid, _ = take_request(m)
        assert call.error() == (504, "GatewayTimeout", 504101)
        assert time.monotonic() - start >= 5
        answer(m, rid, 200, b'"late"')
        call = Call(registry, methodName="quick")
        _, rid, _ = take_request(m)
        answer(m, rid, 200, b'"in time"')
        assert call.result() == (200, {"status": 200, "payload": "in time"})


@test
def a_call_ends_with_the_connection(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            call = Call(registry, methodName="x", responseTimeoutInSeconds=300)
            _, old_rid, _ = take_request(m)
        assert call.error() == (404, "DeviceNotOnline", 404103)
        # The newest connection of the device takes over, and the old one's call is void.
        with listening(hub, key) as older:
            call = Call(registry, methodName="x", responseTimeoutInSeconds=300)
            _, rid, _ = take_request(older)
            with listening(hub, key) as newer:
                assert call.error() == (404, "DeviceNotOnline", 404103)
                answer(newer, rid, 200)
                answer(newer, old_rid, 200)
                call = Call(registry, methodName="y")
                name, rid, _ = take_request(newer)
                answer(newer, rid, 200)
                assert name == "y" and call.result()[0] == 200


@test
def the_session_remembers_that_it_listens_unless_it_is_clean(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key):
            pass
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            call = Call(registry, methodName="again")
            _, rid, _ = take_request(m)
            answer(m, rid, 200)
            assert call.result()[0] == 200
            m.send(0xA2, b"\0\2" + m.text(FILTER))  # UNSUBSCRIBE
            assert m.receive() == (0xB0, b"\0\2")
            assert Call(registry, methodName="x").error()[2] == 404103
        with listening(hub, key):
            pass
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key), clean=True) == 0
            assert Call(registry, methodName="x").error()[2] == 404103


@test
def a_module_has_methods_of_its_own(folder):
    with hub_with_device(folder) as (hub, registry, key):
        status, _, module = registry.call("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})
        assert status == 200
        with listening(hub, key) as device, Mqtt(hub) as m:
            assert m.connect("d1/m1", device_token("d1/modules/m1", key_of(module))) == 0
            m.subscribe(FILTER)
            assert m.receive() == (0x90, b"\0\1\1")
            call = Call(registry, "/twins/d1/modules/m1", methodName="mine")
            name, rid, _ = take_request(m)
            answer(device, rid, 500)  # a rid is its client's own
            answer(m, rid, 201)
            assert name == "mine" and call.result() == (200, {"status": 201, "payload": None})


@test
def bad_calls_are_refused_by_name(folder):
    with hub_with_device(folder) as (hub, registry, key), listening(hub, key) as m:
        bad = [
            {}, {"methodName": ""}, {"methodName": 5}, {"methodName": "a/b"}, {"methodName": "a b"}, {"methodName": "x" * 101},
            {"methodName": "é"}, {"methodName": "x", "responseTimeoutInSeconds": 4},
            {"methodName": "x", "responseTimeoutInSeconds": 301}, {"methodName": "x", "connectTimeoutInSeconds": 301},
            {"methodName": "x", "connectTimeoutInSeconds": 31}, {"methodName": "x", "connectTimeoutInSeconds": -1},
        ]
        for body in bad:
            assert Call(registry, **body).error() == (400, "ArgumentInvalid", 400004), body
        assert Call(registry, methodName="x", payload="y" * 131071).error() == (413, "MessageTooLarge", 413001)
        assert registry.call("POST", "/twins/d1/methods", "{")[0] == 400
        largest = Call(registry, methodName="x", payload="y" * 131070)
        _, rid, body = take_request(m)
        assert len(body) == 131072
        answer(m, rid, 200, body)
        assert largest.result() == (200, {"status": 200, "payload": "y" * 131070})
        for odd, value in ((b" [1] \n", [1]), (b"7", 7), (b"null", None), (b" ", None)):
            call = Call(registry, methodName="x")
            _, rid, _ = take_request(m)
            answer(m, rid, 200, odd)
            if value is not None or odd == b"null":
                assert call.result() == (200, {"status": 200, "payload": value}), odd
            else:
                assert call.error()[0] == 502
        for broken in (b"{", b"no", b'{"a":1}x', b"\xff", b'"\xff"', b"\0"):
            call = Call(registry, methodName="x")
            _, rid, _ = take_request(m)
            answer(m, rid, 200, broken)
            assert call.error() == (502, "GenericBadGateway", 502000), broken
        call = Call(registry, methodName="x")
        _, rid, _ = take_request(m)
        answer(m, rid, 200, b"y" * 131073)
        assert m.receive() is None
        assert call.error()[2] == 404103


@test
def the_hub_stops_while_calls_are_open(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            calls = [Call(registry, methodName="x", responseTimeoutInSeconds=300) for _ in range(3)]
            for _ in calls:
                take_request(m)
            hub.stop()  # which would fail if it did not end in order
            assert m.receive() is None
        for call in calls:
            wait_until(lambda call=call: not call.thread.is_alive(), "the call has ended")


harness.main()
