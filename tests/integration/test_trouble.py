#!/usr/bin/env python3
"""Goal: trouble on request acts as at a real hub, on whom it was asked for, and ends when it is told to. Method: a device
that speaks MQTT by hand; iothub-emulator ctl; each test sees the trouble act and then sees everything work again."""
import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time

import harness
from device import Mqtt, device_token, events, hub_with_device, key_of
from harness import Hub, test, wait_until

TOPIC = "devices/d1/messages/events/"


def acknowledgement(mid):
    return (0x40, mid.to_bytes(2, "big"))


def connected(hub, key, device="d1"):
    m = Mqtt(hub)
    assert m.connect(device, device_token(device, key)) == 0
    return m


def assert_works(hub, key, device="d1"):
    with connected(hub, key, device) as m:
        m.publish(f"devices/{device}/messages/events/", b"works")
        assert m.receive() == acknowledgement(1)


def kinds(hub):
    return [t["kind"] for t in hub.trouble_status()["troubles"]]


def assert_silent(m):
    """Nothing comes although it was asked for: the answer to a PINGREQ would be behind it."""
    m.socket.settimeout(0.3)
    try:
        m.receive()
    except TimeoutError:
        m.socket.settimeout(60)
        return
    raise AssertionError("something came")


# ---- each trouble ----


@test
def quota_lets_in_and_cuts_at_the_first_publish(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            m.publish(TOPIC, b"before")
            assert m.receive() == acknowledgement(1)
            hub.trouble("quota", "on")
            m.publish(TOPIC, b"over", mid=2)
            assert m.receive() is None
        with connected(hub, key) as m:
            m.subscribe("$iothub/methods/POST/#")
            assert m.receive() == (0x90, b"\0\1\1")
            m.publish(TOPIC, b"over", qos=0)
            assert m.receive() is None
        assert hub.count("cut") == 2
        hub.trouble("quota", "off")
        assert_works(hub, key)
        assert [e["body"] for e in events(hub)] == ["before", "works"]


@test
def refuse_answers_the_next_connects_with_the_code(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("refuse", 2)
        for _ in range(2):
            with Mqtt(hub) as m:
                assert m.connect("d1", device_token("d1", key)) == 5
                assert m.receive() is None
        assert_works(hub, key)
        for code in range(1, 6):
            hub.trouble("refuse", 1, "--code", code)
            with Mqtt(hub) as m:
                assert m.connect("d1", device_token("d1", key)) == code
        hub.trouble("refuse", 1, "--code", "cut")
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) is None
        assert kinds(hub) == []
        assert (hub.count("refused"), hub.count("cut")) == (7, 1)
        hub.trouble("refuse", 1000)
        hub.trouble("refuse", "off")
        assert_works(hub, key)


@test
def cut_ends_the_connections_that_are_there(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other_key = key_of(registry.create("d2"))
        with connected(hub, key) as one, connected(hub, other_key, "d2") as two:
            assert hub.trouble("cut", "d1") == "1 cut\n"
            assert one.receive() is None
            two.publish("devices/d2/messages/events/", b"untouched")
            assert two.receive() == acknowledgement(1)
            with connected(hub, key) as again:
                assert hub.trouble_status()["connections"] == 2
                assert hub.trouble("cut") == "2 cut\n"
                assert again.receive() is None and two.receive() is None
        assert hub.trouble("cut", "all") == "0 cut\n"
        nobody = hub.trouble("cut", "d1", check=False)
        assert nobody.returncode == 1 and "d1 has no connection" in nobody.stderr


@test
def cut_ends_by_fin_or_by_reset(folder):
    with hub_with_device(folder) as (hub, _, key):
        for arguments, reset in ((["cut"], False), (["cut", "--reset"], True)):
            with connected(hub, key) as m:
                raw = socket.socket(fileno=os.dup(m.socket.fileno()))
                with raw:
                    raw.settimeout(60)
                    hub.trouble(*arguments)
                    try:
                        while raw.recv(4096):
                            pass
                        assert not reset
                    except ConnectionResetError:
                        assert reset


@test
def a_delayed_puback_comes_late_and_in_order(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            hub.trouble("puback", "--delay", "400ms")
            start = time.monotonic()
            for mid in range(1, 6):
                m.publish(TOPIC, b"x", mid=mid)
            m.send(0xC0, b"")  # other answers are not late
            assert m.receive() == (0xD0, b"")
            for mid in range(1, 6):
                assert m.receive() == acknowledgement(mid)
            assert time.monotonic() - start >= 0.4
            assert hub.count("held") == 5
            hub.trouble("puback", "--off")
            m.publish(TOPIC, b"x", mid=6)
            assert m.receive() == acknowledgement(6)
        assert len(events(hub)) == 6  # they were stored all the same


@test
def what_is_held_back_leaves_when_the_trouble_ends(folder):
    with hub_with_device(folder) as (hub, _, key):
        for end in (["puback", "--off"], ["clear"], None):
            with connected(hub, key) as m:
                held = hub.count("held")
                hub.trouble("puback", "--delay", "1h", *(["--for", "1s"] if not end else []))
                for mid in range(1, 4):
                    m.publish(TOPIC, b"x", mid=mid)
                hub.wait_count("held", held + 3)
                if end:
                    assert_silent(m)
                    hub.trouble(*end)
                assert [m.receive() for _ in range(3)] == [acknowledgement(mid) for mid in range(1, 4)]
        assert kinds(hub) == []


@test
def a_dropped_puback_never_comes(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            hub.trouble("puback", "--drop", 2)
            for mid in range(1, 5):
                m.publish(TOPIC, b"x", mid=mid)
            assert [m.receive() for _ in range(2)] == [acknowledgement(3), acknowledgement(4)]
        assert hub.count("dropped") == 2 and kinds(hub) == []
        assert len(events(hub)) == 4


@test
def a_throttle_acknowledges_at_its_rate_and_cuts_beyond_its_backlog(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            hub.trouble("throttle", "10/s", "--burst", 3)
            start = time.monotonic()
            for mid in range(1, 9):
                m.publish(TOPIC, b"x", mid=mid)
            assert [m.receive() for _ in range(8)] == [acknowledgement(mid) for mid in range(1, 9)]
            assert time.monotonic() - start >= 0.4  # four of them wait, the burst and one do not
        hub.trouble("throttle", "1/min", "--max-wait", "90s")
        with connected(hub, key) as m:
            for mid in range(1, 4):
                m.publish(TOPIC, b"x", mid=mid)
            assert m.receive() == acknowledgement(1)  # the second waits, the third would wait too long
            assert m.receive() is None
        hub.trouble("throttle", "off")
        assert_works(hub, key)


@test
def a_throttle_of_connects_cuts_before_connack(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("throttle", "1000/s", "--connects", "1/h")
        assert_works(hub, key)
        for _ in range(2):
            with Mqtt(hub) as m:
                assert m.connect("d1", device_token("d1", key)) is None
        hub.trouble("throttle", "off")
        assert_works(hub, key)


@test
def a_marked_message_is_never_taken(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("cut-on-marked", "poison=1")
        with connected(hub, key) as m:
            m.publish(TOPIC + "a=1", b"good", mid=1)
            m.publish(TOPIC + "poison=1", b"bad", mid=2)
            m.publish(TOPIC, b"behind it", mid=3)
            assert m.receive() == acknowledgement(1)
            assert m.receive() is None
        for body in (b"poison=1", b"x" * 200000 + b"poison=1", b"poisonpoison=1" + b"x" * 200000):
            with connected(hub, key) as m:
                with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                    m.publish(TOPIC, body)
                assert m.receive() is None
        with connected(hub, key) as m:  # the mark in two messages is none
            m.publish(TOPIC, b"pois", mid=1)
            m.publish(TOPIC, b"on=1", mid=2)
            assert [m.receive() for _ in range(2)] == [acknowledgement(1), acknowledgement(2)]
        hub.trouble("cut-on-marked", "off")
        with connected(hub, key) as m:
            m.publish(TOPIC + "poison=1", b"now good")
            assert m.receive() == acknowledgement(1)
        assert [e["body"] for e in events(hub)] == ["good", "pois", "on=1", "now good"]


@test
def the_basic_tier_cuts_at_a_subscription(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("basic-tier", "on")
        assert_works(hub, key)
        with connected(hub, key) as m:
            m.subscribe("devices/d1/messages/devicebound/#")
            assert m.receive() is None
        hub.trouble("basic-tier", "off")
        with connected(hub, key) as m:
            m.subscribe("devices/d1/messages/devicebound/#")
            assert m.receive() == (0x90, b"\0\1\1")


@test
def a_silent_hub_takes_connections_and_answers_nothing(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            hub.trouble("silent", "on")
            m.publish(TOPIC, b"unheard")
            assert_silent(m)
            opened = hub.count("opened")
            with socket.create_connection(("127.0.0.1", hub.mqtt_port), timeout=60) as raw:
                hub.wait_count("opened", opened + 1)
                raw.settimeout(0.3)
                tls = ssl.create_default_context(cafile=hub.ca_file).wrap_socket(
                    raw, server_hostname="localhost", do_handshake_on_connect=False
                )
                with tls, contextlib.suppress(TimeoutError):
                    tls.do_handshake()
                    raise AssertionError("the hub has answered")
            assert events(hub) == []
            hub.trouble("silent", "off")
            assert m.receive() == acknowledgement(1)
        assert_works(hub, key)
        assert [e["body"] for e in events(hub)] == ["unheard", "works"]


@test
def silence_can_be_for_one_device(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other_key = key_of(registry.create("d2"))
        hub.trouble("silent", "on", "--device", "d1")
        with Mqtt(hub) as m:
            m.socket.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                m.connect("d1", device_token("d1", key))
                raise AssertionError("the hub has answered")
            assert_works(hub, other_key, "d2")
            m.socket.settimeout(60)
            hub.trouble("clear")
            assert m.receive() == (0x20, b"\0\0")


@test
def the_silence_ends_by_itself(folder):
    with hub_with_device(folder) as (hub, _, key):
        with connected(hub, key) as m:
            hub.trouble("silent", "on", "--for", "500ms")
            m.publish(TOPIC, b"x")
            assert m.receive() == acknowledgement(1)
        assert kinds(hub) == []


@test
def clients_that_leave_a_silent_hub_are_forgotten(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("silent", "on")
        before = len(os.listdir(f"/proc/{hub.process.pid}/fd"))
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", hub.mqtt_port), timeout=60):
                pass
        hub.wait_count("opened", 20)
        wait_until(lambda: len(os.listdir(f"/proc/{hub.process.pid}/fd")) <= before, "the descriptors are closed")


def verification_error(hub):
    try:
        Mqtt(hub).socket.close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return None


@test
def each_odd_certificate_is_refused_for_its_reason(folder):
    with hub_with_device(folder) as (hub, registry, key):
        reasons = {
            "expired": "certificate has expired",
            "not-yet-valid": "certificate is not yet valid",
            "unknown-issuer": "unable to get local issuer certificate",
            "wrong-name": "Hostname mismatch",
        }
        with connected(hub, key) as m:
            for kind, reason in reasons.items():
                aborted = hub.count("aborted")
                hub.trouble("certificate", kind)
                for _ in range(2):
                    assert reason in str(verification_error(hub)), (kind, verification_error(hub))
                hub.wait_count("aborted", aborted + 2)
                assert registry.show("d1")["deviceId"] == "d1"  # the registry's door has none
            m.publish(TOPIC, b"x")  # who was there stays
            assert m.receive() == acknowledgement(1)
        assert kinds(hub) == ["certificate"]
        hub.trouble("certificate", "good")
        assert_works(hub, key)
        hub.trouble("certificate", "expired", "--for", "200ms")
        wait_until(lambda: verification_error(hub) is None, "it is good again")


# ---- for whom and how long ----


@test
def trouble_for_one_device_leaves_the_others_alone(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other_key = key_of(registry.create("d12"))
        for trouble in (["quota", "on"], ["refuse", "5"], ["cut-on-marked", "works"], ["puback", "--drop", "9"]):
            hub.trouble(*trouble, "--device", "d1")
            assert_works(hub, other_key, "d12")
            hub.trouble("clear")
            assert_works(hub, key)
        assert hub.count("publishes", "d12") == 4 and hub.count("publishes", "d1") == 4
        assert hub.count("publishes") == 8 and hub.count("publishes", "d3") == 0


@test
def trouble_ends_by_itself_and_nothing_survives_a_restart(folder):
    with hub_with_device(folder) as (hub, _, key):
        hub.trouble("quota", "on", "--for", "300ms")
        hub.trouble("refuse", 3, "--for", "300ms")
        wait_until(lambda: kinds(hub) == [], "they have ended")
        assert_works(hub, key)
        hub.trouble("refuse", 1000)
        hub.kill()
        assert "no emulator runs" in hub.trouble("status", check=False).stderr
        hub.start()
        assert kinds(hub) == []
        assert_works(hub, key)


# ---- the verbs ----


@test
def status_tells_what_is_on_and_counts(folder):
    with hub_with_device(folder) as (hub, _, key):
        assert "No trouble." in hub.trouble("status")
        hub.trouble("refuse", 2, "--code", 3, "--device", "d9", "--for", "1h")
        hub.trouble("throttle", "100/min", "--burst", 7, "--connects", "5/s")
        hub.trouble("cut-on-marked", "a=b c")
        hub.trouble("certificate", "wrong-name")
        hub.trouble("certificate", "good")
        troubles = hub.trouble_status()["troubles"]
        assert 3590e6 < troubles[0].pop("endsInUSec") <= 3600e6
        assert troubles == [
            {"kind": "refuse", "device": "d9", "count": 2, "code": 3},
            {"kind": "throttle", "delayUSec": 30000000, "intervalUSec": 600000, "connectIntervalUSec": 200000, "burst": 7},
            {"kind": "cut-on-marked", "mark": "a=b c"},
        ]
        text = hub.trouble("status")
        for part in ("refuse         d9, 2 left, CONNACK 3, ends in 5", '"a=b c"', "Connections: 0", "connects"):
            assert part in text, text
        hub.trouble("clear")
        assert_works(hub, key)
        hub.wait_count("ended", 1)
        counters = hub.trouble_status()["counters"]
        assert counters == {
            "opened": 1, "aborted": 0, "connects": 1, "accepted": 1, "refused": 0, "cut": 0, "ended": 1, "publishes": 1,
            "pubacks": 1, "held": 0, "dropped": 0, "c2dSent": 0, "c2dCompleted": 0,
        }
        assert hub.trouble_status("d1")["counters"] == {**counters, "opened": 0}


@test
def wait_returns_when_it_has_happened(folder):
    with hub_with_device(folder) as (hub, _, key):
        assert hub.trouble("wait", "publishes", "--total", 0) == "0\n"
        late = hub.trouble("wait", "connects", "--timeout", "100ms", check=False)
        assert late.returncode == 75 and late.stdout == "" and "not within the time" in late.stderr, late
        values = []
        waiters = [
            threading.Thread(target=lambda total=total: values.append(hub.wait_count("publishes", total)))
            for total in (1, 2, 3)
        ]
        for waiter in waiters:
            waiter.start()
        with connected(hub, key) as m:
            for mid, waiter in enumerate(waiters, 1):
                m.publish(TOPIC, b"x", mid=mid)
                waiter.join(harness.DEADLINE_SEC)
                assert not waiter.is_alive() and len(values) == mid
        # An emulator that ends answers nobody.
        with subprocess.Popen(
            [harness.EMULATOR, "ctl", "--state", hub.folder, "wait", "refused"], stderr=subprocess.PIPE
        ) as process:
            # The socket is a client's before the answer to it can be missing.
            wait_until(lambda: hub.trouble_status() and os.listdir(f"/proc/{process.pid}/fd"), "it waits")
            hub.stop()
            assert process.wait(60) == 69


@test
def bad_input_names_what_is_allowed(folder):
    with Hub(folder) as hub:
        cases = {
            (): "a verb is needed: quota, basic-tier,",
            ("explode",): '"explode" is none of quota, basic-tier,',
            ("quota",): "quota: on|off is needed",
            ("quota", "maybe"): 'quota: "maybe" is neither on nor off',
            ("quota", "on", "off"): 'quota: unexpected argument "off"',
            ("quota", "on", "--burst", "3"): "quota: --burst does not belong to it",
            ("quota", "on", "--device", "no/such/id"): "--device: \"no/such/id\" is not an id of a device",
            ("quota", "on", "--for", "soon"): '--for: "soon" is not a span of time such as 30s',
            ("quota", "off", "--for", "3s"): "--for makes no sense when it is ended",
            ("throttle", "fast"): '"fast" is not a rate from 1 to 1000000, such as 12/s, 100/min or 5/h, nor off',
            ("throttle", "0/s"): "is not a rate from 1",
            ("throttle", "5/d"): "is not a rate from 1",
            ("throttle", "5", "--connects", "x"): "--connects",
            ("refuse", "0"): '"0" is not a number from 1 to 1000000000, nor off',
            ("refuse", "1", "--code", "6"): '--code: "6" is not a code of a CONNACK, 1 to 5, or cut',
            ("puback",): "one of --delay SPAN, --drop N and --off is needed",
            ("puback", "--delay", "1s", "--drop", "1"): "one of --delay",
            ("puback", "--drop", "-1"): '--drop: "-1" is not a number from 1',
            ("cut", "a b"): '"a b" is neither an id of a device nor all',
            ("cut-on-marked", ""): "the text has 1 to 256 bytes",
            ("cut-on-marked", "x" * 257): "the text has 1 to 256 bytes",
            ("certificate", "ugly"): "none of expired, not-yet-valid, unknown-issuer, wrong-name, good",
            ("wait", "luck"): '"luck" is none of opened, aborted, connects,',
            ("wait", "connects", "--count", "1", "--total", "1"): "exclude each other",
            ("wait", "connects", "--timeout", "x"): '--timeout: "x" is not a span of time',
            ("status", "--yaml"): "unknown option --yaml",
            ("status", "--device"): "--device needs a value",
        }
        for arguments, text in cases.items():
            result = hub.trouble(*arguments, check=False)
            assert result.returncode == 64 and text in result.stderr and not result.stdout, (arguments, result)
        assert kinds(hub) == []
        assert "cut-on-marked TEXT|off" in hub.trouble("--help")


@test
def the_socket_is_private_and_speaks_varlink(folder):
    with Hub(folder) as hub:
        path = os.path.join(hub.folder, "ctl")
        assert os.stat(path).st_mode & 0o777 == 0o600

        def call(method, **parameters):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.settimeout(60)
                s.connect(path)
                s.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\0")
                data = b""
                while not data.endswith(b"\0"):
                    data += s.recv(65536)
            return json.loads(data[:-1])

        interfaces = call("org.varlink.service.GetInfo")["parameters"]["interfaces"]
        assert "io.iothubd.emulator" in interfaces
        text = call("org.varlink.service.GetInterfaceDescription", interface="io.iothubd.emulator")
        with open(os.path.join(harness.SOURCE, "emulator", "emulator.varlink"), encoding="utf-8") as f:
            assert text["parameters"]["description"] == f.read()
        bad = call("io.iothubd.emulator.SetTrouble", trouble={"kind": "refuse", "count": 0})
        assert bad == {"error": "io.iothubd.emulator.InvalidTrouble", "parameters": {"field": "count"}}
        assert call("io.iothubd.emulator.Fly")["error"] == "org.varlink.service.MethodNotFound"
        # A client that sends what is no call is closed, the others go on.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(60)
            s.connect(path)
            s.sendall(b"quota on\0")
            assert s.recv(1) == b""
        assert hub.trouble_status()["troubles"] == []
        hub.stop()
        assert not os.path.exists(path)


harness.main()
