#!/usr/bin/env python3
"""Goal: a message to a device is delivered in its turn until the device has acknowledged it, and then never again, whatever
cuts the connection or the hub. Method: `iothub-emulator ctl send`, devices that speak MQTT by hand and acknowledge what they
like, kills, trouble on request."""
import contextlib
import os
import sqlite3
import threading

import harness
from device import Mqtt, device_token, hub_with_device, key_of
from harness import test, wait_until
from registry import quote

FILTER = "devices/d1/messages/devicebound/#"
TO = "%24.to=" + quote("/devices/d1/messages/devicebound")


@contextlib.contextmanager
def connected(hub, key, device="d1", clean=False):
    with Mqtt(hub) as m:
        assert m.connect(device, device_token(device, key), clean=clean) == 0
        yield m


@contextlib.contextmanager
def listening(hub, key, qos=1, device="d1", topic=FILTER, clean=False):
    """Connected and subscribed; the answer to the latter has been read."""
    with connected(hub, key, device, clean) as m:
        m.subscribe(topic, qos)
        assert m.receive() == (0x90, bytes([0, 1, min(qos, 1)]))
        yield m


def send(hub, body, *options, device="d1"):
    return int(hub.trouble("send", device, body, *options))


def pending(registry, device="d1"):
    return registry.show(device)["cloudToDeviceMessageCount"]


def take(m, *bodies):
    """Receives messages with these bodies, in order; returns their packet ids."""
    deliveries = [m.receive_delivery() for _ in bodies]
    assert [d.body.decode() for d in deliveries] == list(bodies), deliveries
    return [d.mid for d in deliveries]


def complete(hub, m, *mids):
    """Acknowledges, and returns when the hub has seen it."""
    before = hub.trouble_status()["counters"]["c2dCompleted"]
    for mid in mids:
        m.acknowledge(mid)
    hub.wait_count("c2dCompleted", before + len(mids))


def assert_nothing_else(m):
    """What the hub has sent is here before its answer to a ping."""
    m.send(0xC0, b"")
    assert m.receive() == (0xD0, b"")


def feedback(hub):
    with contextlib.closing(sqlite3.connect(os.path.join(hub.folder, "registry.db"))) as db:
        return db.execute("SELECT device, message_id, status FROM feedback ORDER BY id").fetchall()


@test
def messages_wait_for_the_device_and_come_in_order(folder):
    with hub_with_device(folder) as (hub, registry, key):
        bodies = [f"m{i}" for i in range(20)]
        sequences = [send(hub, body) for body in bodies]
        assert sequences == sorted(set(sequences))
        assert pending(registry) == 20
        with listening(hub, key) as m:
            mids = take(m, *bodies)
            assert len(set(mids)) == 20
            assert_nothing_else(m)
            assert pending(registry) == 20
            complete(hub, m, *mids[:15])
            wait_until(lambda: pending(registry) == 5, "what was acknowledged is gone")
            # One that is sent now comes now.
            send(hub, "now")
            (mid,) = take(m, "now")
            complete(hub, m, mid, *mids[15:])
            wait_until(lambda: pending(registry) == 0, "nothing waits")
        with connected(hub, key) as m:
            assert_nothing_else(m)


@test
def the_topic_carries_the_properties(folder):
    with hub_with_device(folder) as (hub, _, key):
        with listening(hub, key) as m:
            send(hub, "b", "--message-id", "id/1?", "--ack", "full", "--property", "a/b=c d+e&f", "--property", "ü=%41",
                 "--property", "empty=")
            d = m.receive_delivery()
            assert d.topic == (
                f"devices/d1/messages/devicebound/{TO}&%24.mid=id%2F1%3F&iothub-ack=full&a%2Fb=c%20d%2Be%26f"
                "&%C3%BC=%2541&empty="
            ), d.topic
            assert (d.body, d.qos, d.dup) == (b"b", 1, False)
            send(hub, "")
            d = m.receive_delivery()
            assert d.topic == f"devices/d1/messages/devicebound/{TO}" and d.body == b""
            send(hub, "t", "--ttl", "1h")
            assert "&%24.exp=20" in m.receive_delivery().topic


@test
def ids_of_all_sorts_have_their_queues(folder):
    with hub_with_device(folder) as (hub, registry, _):
        for device in ("a%41", "aA", "$d.e*f?g!h(i),j=k@l'm:n", "modules", "x" * 128):
            key = key_of(registry.create(device))
            send(hub, f"for {device}", device=device)
            assert pending(registry, device) == 1
            topic = f"devices/{device}/messages/devicebound/"
            with listening(hub, key, device=device, topic=topic + "#") as m:
                d = m.receive_delivery()
                assert d.body.decode() == f"for {device}"
                assert d.topic == f"{topic}%24.to=" + quote(f"/devices/{device}/messages/devicebound"), d.topic
                complete(hub, m, d.mid)
        with connected(hub, key_of(registry.show("aA")), "aA") as m:
            assert_nothing_else(m)


@test
def what_was_not_acknowledged_comes_again_on_the_next_connection_only(folder):
    with hub_with_device(folder) as (hub, registry, key):
        for body in ("a", "b", "c"):
            send(hub, body)
        with listening(hub, key) as m:
            mids = take(m, "a", "b", "c")
            complete(hub, m, mids[1])
            # Subscribing again is no new connection.
            m.subscribe(FILTER)
            assert m.receive() == (0x90, b"\0\1\1")
            send(hub, "d")
            take(m, "d")
            assert_nothing_else(m)
        # The session is resumed: the messages come before the device subscribes, under the ids that they had.
        with connected(hub, key) as m:
            again = [m.receive_delivery() for _ in range(3)]
            assert [(d.body, d.mid, d.dup) for d in again] == [
                (b"a", mids[0], True), (b"c", mids[2], True), (b"d", mids[2] + 1, True)], again
            assert_nothing_else(m)
            complete(hub, m, *(d.mid for d in again))
            wait_until(lambda: pending(registry) == 0, "nothing waits")


@test
def a_clean_session_hears_nothing_until_it_subscribes(folder):
    with hub_with_device(folder) as (hub, _, key):
        with listening(hub, key) as m:
            send(hub, "a")
            take(m, "a")
        with connected(hub, key, clean=True) as m:
            assert_nothing_else(m)
            m.subscribe(FILTER)
            assert m.receive() == (0x90, b"\0\1\1")
            d = m.receive_delivery()
            assert (d.body, d.dup) == (b"a", False)
            # Who unsubscribes hears no more.
            m.send(0xA2, b"\0\2" + m.text(FILTER))
            assert m.receive() == (0xB0, b"\0\2")
            send(hub, "b")
            assert_nothing_else(m)
        with connected(hub, key) as m:
            assert_nothing_else(m)


@test
def with_qos_0_a_message_is_complete_when_it_is_sent(folder):
    with hub_with_device(folder) as (hub, registry, key):
        send(hub, "a", "--ack", "positive", "--message-id", "i")
        with listening(hub, key, qos=0) as m:
            d = m.receive_delivery()
            assert (d.body, d.qos, d.mid) == (b"a", 0, None)
            assert d.topic.startswith(f"devices/d1/messages/devicebound/{TO}&"), d.topic
            wait_until(lambda: pending(registry) == 0, "it is complete")
            assert feedback(hub) == [("d1", "i", "Success")]
            assert hub.trouble_status("d1")["counters"]["c2dCompleted"] == 1
            m.subscribe(FILTER, 2)
            assert m.receive() == (0x90, b"\0\1\1")
            send(hub, "b")
            assert m.receive_delivery().qos == 1
        with connected(hub, key) as m:
            take(m, "b")


@test
def expired_messages_are_not_delivered(folder):
    with hub_with_device(folder) as (hub, registry, key):
        send(hub, "gone", "--ttl", "1ms", "--ack", "negative", "--message-id", "i1")
        send(hub, "gone too", "--ttl", "1ms", "--ack", "positive", "--message-id", "i2")
        send(hub, "here")
        with listening(hub, key) as m:
            take(m, "here")
            assert_nothing_else(m)
        wait_until(lambda: feedback(hub) == [("d1", "i1", "Expired")], "the sender is told")
        assert pending(registry) == 1
        # One that was delivered, and expires before it is acknowledged, does not come again either.
        with connected(hub, key) as m:
            take(m, "here")
            send(hub, "late", "--ttl", "5s", "--ack", "full", "--message-id", "i3")
            (mid,) = take(m, "late")
            wait_until(lambda: len(feedback(hub)) == 2, "it expires")
            complete(hub, m, mid)
        with connected(hub, key) as m:
            take(m, "here")
            assert_nothing_else(m)
        assert feedback(hub)[1:] == [("d1", "i3", "Expired")]


@test
def at_most_fifty_messages_wait_for_a_device(folder):
    with hub_with_device(folder) as (hub, registry, key):
        registry.create("d2")
        for i in range(50):
            send(hub, str(i))
        full = hub.trouble("send", "d1", "one more", check=False)
        assert full.returncode == 1 and "d1: 50 messages wait" in full.stderr, full
        send(hub, "its own queue", device="d2")
        with listening(hub, key) as m:
            mids = take(m, *map(str, range(50)))
            assert len(set(mids)) == 50
            complete(hub, m, mids[0])
            wait_until(lambda: pending(registry) == 49, "there is room")
            send(hub, "one more")
            take(m, "one more")


@test
def the_largest_message_arrives_whole(folder):
    with hub_with_device(folder) as (hub, _, key):
        name = "n" + "ü" * 5000
        body = "x" * (65536 - len("/devices/d1/messages/devicebound") - len(name.encode()))
        assert hub.trouble("send", "d1", body + "x", "--property", f"{name}=", check=False).returncode == 1
        send(hub, body, "--property", f"{name}=")
        send(hub, "next")
        with listening(hub, key) as m:
            take(m, body, "next")
        # What is small enough, but too long for a topic once it is encoded.
        refused = hub.trouble("send", "d1", "x", "--property", "a=" + "ü" * 12000, check=False)
        assert refused.returncode == 1 and "do not fit an MQTT topic" in refused.stderr, refused


@test
def messages_outlive_a_kill_of_the_hub(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            for i in range(4):
                send(hub, str(i), "--ack", "full", "--message-id", f"i{i}")
            mids = take(m, *"0123")
            complete(hub, m, mids[1])
            wait_until(lambda: feedback(hub), "it is recorded")
            last = send(hub, "4")
            hub.kill()
        hub.start()
        assert feedback(hub) == [("d1", "i1", "Success")]
        assert pending(registry) == 4
        assert send(hub, "5") > last
        with listening(hub, key) as m:
            assert complete(hub, m, *take(m, *"02345")) is None
            wait_until(lambda: pending(registry) == 0, "all are done")


@test
def what_was_acknowledged_before_a_disconnect_does_not_come_again(folder):
    with hub_with_device(folder) as (hub, _, key):
        with listening(hub, key):
            pass
        for i in range(50):
            send(hub, str(i))
        with connected(hub, key) as m:
            for mid in take(m, *map(str, range(50))):
                m.acknowledge(mid)
            m.send(0xE0, b"")
        with connected(hub, key) as m:
            assert_nothing_else(m)


@test
def only_the_device_can_complete_its_messages(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other = key_of(registry.create("d2"))
        send(hub, "a")
        with listening(hub, key) as m:
            (mid,) = take(m, "a")
            # Another device that acknowledges the same id, and one that was never given; a call of what is internal.
            with listening(hub, other, device="d2", topic="devices/d2/messages/devicebound/#") as m2:
                m2.acknowledge(mid)
                m2.acknowledge(0x1234)
                assert_nothing_else(m2)
            for topic in ("c2d/1/1/devices/d1/messages/devicebound/", "devices/d1/messages/devicebound/x"):
                with connected(hub, other, "d2") as m2:
                    m2.publish(topic, b"fake")
                    assert m2.receive() is None, topic
            for topic in ("c2d/#", FILTER, "devices/+/messages/devicebound/x"):
                with connected(hub, other, "d2") as m2:
                    m2.subscribe(topic)
                    assert m2.receive() is None, topic
            assert pending(registry) == 1
            complete(hub, m, mid)
            m.acknowledge(mid)
            assert_nothing_else(m)
            assert hub.trouble_status("d1")["counters"]["c2dCompleted"] == 1


@test
def a_module_has_a_queue_of_its_own(folder):
    with hub_with_device(folder) as (hub, registry, key):
        status, _, module = registry.call("PUT", "/devices/d1/modules/m", {"deviceId": "d1", "moduleId": "m"})
        assert status == 200
        module_key = key_of(module)

        def show():
            return registry.call("GET", "/devices/d1/modules/m")[2]["cloudToDeviceMessageCount"]

        send(hub, "to the module", device="d1/m")
        assert show() == 1 and pending(registry) == 0
        assert hub.trouble("send", "d1/n", "x", check=False).returncode == 1
        with listening(hub, key) as m:
            assert_nothing_else(m)
        password = device_token("d1/modules/m", module_key)
        for topic in ("devices/d1/modules/m/#", "devices/d1/modules/m/messages/devicebound/#"):
            with Mqtt(hub) as m:
                assert m.connect("d1/m", password, clean=True) == 0
                m.subscribe(topic)
                assert m.receive() == (0x90, b"\0\1\1")
                d = m.receive_delivery()
                assert d.topic == "devices/d1/modules/m/messages/devicebound/%24.to=" + quote(
                    "/devices/d1/modules/m/messages/devicebound"), d.topic
        with Mqtt(hub) as m:
            assert m.connect("d1/m", password, clean=True) == 0
            m.subscribe("devices/d1/modules/m/inputs/#")
            assert m.receive() == (0x90, b"\0\1\1")
            assert_nothing_else(m)
        registry.delete("d1")
        registry.create("d1")
        registry.call("PUT", "/devices/d1/modules/m", {"deviceId": "d1", "moduleId": "m"})
        assert show() == 0


@test
def a_purge_drops_what_waits(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            send(hub, "a", "--ack", "negative", "--message-id", "i")
            (mid,) = take(m, "a")
        send(hub, "b", "--ack", "positive")
        answer = registry.call("DELETE", "/devices/d1/commands")
        assert (answer[0], answer[2]) == (200, {"deviceId": "d1", "moduleId": None, "totalMessagesPurged": 2}), answer
        assert registry.call("DELETE", "/devices/d1/commands")[2]["totalMessagesPurged"] == 0
        assert registry.call("DELETE", "/devices/d9/commands")[0] == 404
        assert pending(registry) == 0 and feedback(hub) == [("d1", "i", "Purged")]
        assert "2" not in hub.ctl("c2d", "purge", "d1").stdout
        with connected(hub, key) as m:
            m.acknowledge(mid)
            assert_nothing_else(m)
        send(hub, "c")
        assert hub.ctl("device", "show", "d1", "--json").stdout.count('"cloudToDeviceMessageCount":1') == 1
        registry.delete("d1")
        key = key_of(registry.create("d1"))
        with listening(hub, key) as m:
            assert_nothing_else(m)
        assert len(feedback(hub)) == 1


@test
def a_newer_connection_takes_over_what_waits(folder):
    with hub_with_device(folder) as (hub, _, key):
        send(hub, "a")
        with listening(hub, key) as old:
            (mid,) = take(old, "a")
            with connected(hub, key) as new:
                assert take(new, "a") == [mid]
                assert old.receive() is None
                send(hub, "b")
                complete(hub, new, mid, *take(new, "b"))
        with connected(hub, key) as m:
            assert_nothing_else(m)


@test
def trouble_loses_and_doubles_deliveries(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            hub.trouble("c2d", "--drop", 1)
            send(hub, "a")
            (mid,) = take(m, "a")
            m.acknowledge(mid)
            assert_nothing_else(m)
            assert hub.trouble_status()["troubles"] == []
        with connected(hub, key) as m:
            complete(hub, m, *take(m, "a"))
            hub.trouble("c2d", "--duplicate", 2, "--device", "d1")
            for body in ("b", "c", "d"):
                send(hub, body)
            mids = take(m, "b", "c", "d")
            for mid in mids:
                m.acknowledge(mid)
            again = [m.receive_delivery() for _ in range(2)]
            assert [(d.body, d.mid, d.dup) for d in again] == [(b"b", mids[0], True), (b"c", mids[1], True)], again
            assert pending(registry) == 2
            complete(hub, m, *mids[:2])
            wait_until(lambda: pending(registry) == 0, "all are done")
            assert_nothing_else(m)


@test
def trouble_ends_messages_as_a_device_could_over_another_protocol(folder):
    with hub_with_device(folder) as (hub, _, key):
        with listening(hub, key) as m:
            hub.trouble("c2d", "--reject", 1)
            hub.trouble("c2d", "--exceed", 2)
            for i in range(4):
                send(hub, str(i), "--ack", "full", "--message-id", f"i{i}")
            complete(hub, m, *take(m, *"0123"))
            wait_until(lambda: len(feedback(hub)) == 4, "all are recorded")
        assert [status for _, _, status in feedback(hub)] == [
            "Rejected", "DeliveryCountExceeded", "DeliveryCountExceeded", "Success"]
        hub.trouble("c2d", "--drop", 3)
        hub.trouble("c2d", "--off")
        assert hub.trouble_status()["troubles"] == []


class Service:
    """iothubctl c2d send --wait in a thread of its own."""

    def __init__(self, hub, body, *options):
        self.done = None
        self.thread = threading.Thread(target=self._run, args=(hub, body, options))
        self.thread.start()

    def _run(self, hub, body, options):
        self.done = hub.ctl("c2d", "send", "d1", body, "--wait", "--timeout", f"{harness.DEADLINE_SEC}s", *options,
                            "--amqp-port", str(hub.amqp_port), check=False, timeout=harness.DEADLINE_SEC + 30)

    def result(self):
        """(exit code, last word)."""
        self.thread.join(harness.DEADLINE_SEC + 30)
        assert self.done, "it still waits"
        return self.done.returncode, (self.done.stdout.split() or [self.done.stderr])[-1]


@test
def a_service_sends_over_amqp_and_hears_how_it_ended(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with listening(hub, key) as m:
            service = Service(hub, "a", "--message-id", "i/1", "--property", "a b=c/d", "--content-type", "text/plain")
            d = m.receive_delivery()
            assert d.topic == (
                f"devices/d1/messages/devicebound/{TO}&%24.mid=i%2F1&%24.ct=text%2Fplain&iothub-ack=full&a%20b=c%2Fd"
            ), d.topic
            m.acknowledge(d.mid)
            assert service.result() == (0, "Success")
            hub.trouble("c2d", "--reject", 1)
            service = Service(hub, "b")
            m.acknowledge(m.receive_delivery().mid)
            assert service.result() == (65, "Rejected")
            hub.trouble("c2d", "--exceed", 1)
            service = Service(hub, "c")
            m.acknowledge(m.receive_delivery().mid)
            assert service.result() == (70, "DeliveryCountExceeded")
        assert Service(hub, "d", "--expires", "1s").result() == (68, "Expired")
        service = Service(hub, "e")
        wait_until(lambda: pending(registry) == 1, "it waits")
        assert registry.call("DELETE", "/devices/d1/commands")[2]["totalMessagesPurged"] == 1
        assert service.result() == (66, "Purged")
        wait_until(lambda: feedback(hub) == [], "what was read is gone")


@test
def bad_calls_say_what_is_wrong(folder):
    with hub_with_device(folder) as (hub, _, _):
        cases = {
            ("c2d",): "c2d: one of --drop N, --duplicate N, --reject N, --exceed N and --off is needed",
            ("c2d", "--drop", "1", "--off"): "c2d: one of --drop N",
            ("c2d", "--drop", "0"): '--drop: "0" is not a number from 1',
            ("send",): "send: DEVICE is needed",
            ("send", "d1"): "send: BODY is needed",
            ("send", "d1", "b", "c"): 'send: unexpected argument "c"',
            ("send", "d 1", "b"): '"d 1" is neither an id of a device',
            ("send", "d1", "b", "--ack", "maybe"): '--ack: "maybe" is not none, positive, negative or full',
            ("send", "d1", "b", "--ttl", "soon"): '--ttl: "soon" is not a span of time',
            ("send", "d1", "b", "--property", "a"): '--property: "a" is not NAME=VALUE',
            ("send", "d1", b"\xff"): "the body is no valid UTF-8",
            ("send", "d9", "b"): "d9: there is no such device",
            ("send", "d1/m", "b"): "d1/m: there is no such module",
            ("send", "d1", "b", "--message-id", "i" * 129): "the message id is over 128 bytes",
        }
        for arguments, text in cases.items():
            if isinstance(arguments[-1], bytes):
                arguments = (*arguments[:-1], os.fsdecode(arguments[-1]))
            result = hub.trouble(*arguments, check=False)
            assert result.returncode in (1, 64) and text in result.stderr, (arguments, result)
        with harness.Varlink(os.path.join(hub.folder, "ctl")) as v:
            for bad, field in (({"device": 1}, "device"), ({}, "device"), ({"device": "d1", "bodyBase64": "?"}, "bodyBase64"),
                               ({"device": "d1", "properties": {"a": 1}}, "properties"),
                               ({"device": "d1", "timeToLiveUSec": "x"}, "timeToLiveUSec")):
                try:
                    v.call("io.iothubd.emulator.SendMessage", bad)
                    raise AssertionError(f"taken: {bad}")
                except harness.VarlinkError as e:
                    assert (e.error, e.parameters) == (
                        "org.varlink.service.InvalidParameter", {"parameter": field}), (bad, e)


harness.main()
