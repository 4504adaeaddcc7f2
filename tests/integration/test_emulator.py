#!/usr/bin/env python3
"""Goal: the emulator behaves as the hub does where a device or a tool can see it. Method: mosquitto_pub, mosquitto_sub and
curl against it; a few bytes of MQTT by hand where the exact moment of a cut counts."""
import base64
import calendar
import contextlib
import hashlib
import hmac
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import time

import harness
from harness import Hub, test, wait_until
from device import Mqtt, device_token, events, hub_with_device, key_of, random_key, user_name
from registry import API, Registry, quote, token

LIMIT = 262144


def error_of(answer):
    """(status, name) of a refusal, checked for the form that SDKs read."""
    status, headers, body = answer
    name, _, text = body["Message"].removeprefix("ErrorCode:").partition(";")
    assert body["Message"].startswith("ErrorCode:") and name and text, body
    assert body["ExceptionMessage"].startswith("Tracking ID:"), body
    assert headers["iothub-errorcode"] == name, headers
    return status, name


def mosquitto(program, hub, client_id, password, *arguments, user=None):
    return [
        # By address: a minimal system has no hosts file, and these programs know localhost from there only.
        program, "-h", "127.0.0.1", "-p", str(hub.mqtt_port), "--cafile", hub.ca_file, "-V", "mqttv311", "-i", client_id,
        "-u", user or user_name(client_id), "-P", password, *arguments,
    ]


def publish(hub, device, password, message="x", topic=None, user=None, client_id=None, qos=1):
    """mosquitto_pub to its end; its exit code: 0 sent and acknowledged, 5 refused."""
    command = mosquitto(
        "mosquitto_pub", hub, client_id or device, password, "-q", str(qos),
        "-t", topic or f"devices/{device}/messages/events/", "-s",
        user=user,
    )
    return subprocess.run(command, input=message.encode(), capture_output=True, timeout=60, check=False).returncode


@contextlib.contextmanager
def subscriber(hub, device, key, *filters, **token_arguments):
    """mosquitto_sub -d in the background; yields a function that returns what it has printed so far."""
    log_path = f"{hub.folder}-sub-{device}.log"
    arguments = [a for f in filters for a in ("-t", f)]
    command = mosquitto("mosquitto_sub", hub, device, device_token(device, key, **token_arguments), "-d", "-q", "1", *arguments)
    with open(log_path, "wb") as log:
        process = subprocess.Popen(["stdbuf", "-oL", *command], stdout=log, stderr=log)

    def output():
        with open(log_path, encoding="utf-8") as f:
            return f.read()

    try:
        yield output
    finally:
        process.kill()
        process.wait()


# ---- registry ----


@test
def create_answers_with_the_whole_identity_and_an_etag(folder):
    with Hub(folder) as hub:
        status, headers, device = Registry(hub).call("PUT", "/devices/d1", {"deviceId": "d1"})
        assert status == 200
        assert headers["content-type"].startswith("application/json")
        assert headers["etag"] == f'"{device["etag"]}"'
        assert int(base64.b64decode(device["etag"])) > 0
        assert list(device) == [
            "deviceId", "generationId", "etag", "connectionState", "status", "statusReason", "connectionStateUpdatedTime",
            "statusUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "authentication", "capabilities",
        ]
        assert device["status"] == "enabled" and device["connectionState"] == "Disconnected"
        assert device["authentication"]["type"] == "sas"
        for which in ("primaryKey", "secondaryKey"):
            assert len(base64.b64decode(key_of(device, which), validate=True)) == 32


@test
def create_is_create_only(folder):
    with hub_with_device(folder) as (_, registry, key):
        assert error_of(registry.call("PUT", "/devices/d1", {"deviceId": "d1"})) == (409, "DeviceAlreadyExists")
        assert key_of(registry.show("d1")) == key
        # A quoted empty If-Match is what one SDK sends on create.
        assert registry.call("PUT", "/devices/d2", {"deviceId": "d2"}, if_match='""')[0] == 200
        assert registry.call("PUT", "/devices/d3", {"deviceId": "d3"}, if_match="*")[0] == 404


@test
def given_keys_are_kept_and_bad_bodies_refused(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        keys = {"primaryKey": random_key(), "secondaryKey": random_key()}
        device = registry.create("d1", authentication={"type": "sas", "symmetricKey": keys})
        assert device["authentication"]["symmetricKey"] == keys

        def put(body):
            return error_of(registry.call("PUT", "/devices/d2", body))

        for body in (
            {"deviceId": "other"}, {"deviceId": "with space"}, {"deviceId": 5}, {},
            {"deviceId": "d2", "status": "asleep"}, {"deviceId": "d2", "statusReason": "x" * 129},
            {"deviceId": "d2", "authentication": {"symmetricKey": {"primaryKey": keys["primaryKey"]}}},
            {"deviceId": "d2", "authentication": {"symmetricKey": {"primaryKey": "AAAA", "secondaryKey": "AAAA"}}},
            {"deviceId": "d2", "authentication": {"type": "none"}},
            {"deviceId": "d2", "authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "ab:cd"}}},
        ):
            assert put(body) == (400, "ArgumentInvalid"), body
        for text in ("", "nonsense", "[]", '{"deviceId":"d2"} {}'):
            assert put(text) == (400, "IotHubFormatError"), text
        assert put('{"deviceId":"d2","x":"' + "x" * 1100000 + '"}') == (413, "MessageTooLarge")
        assert registry.call("GET", "/devices/d2")[0] == 404


@test
def ids_with_reserved_characters_work_on_every_door(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        for device in ("a:b%20c", "d@x=1", "q?!(),'*$", "x.y-z_0"):
            key = key_of(registry.create(device))
            assert registry.show(device)["deviceId"] == device
            assert publish(hub, device, device_token(device, key)) == 0, device
            assert publish(hub, device, device_token(quote(device), key)) == 0, device
        assert error_of(registry.call("GET", "/devices/a%2Fb")) == (400, "ArgumentInvalid")


@test
def list_shows_all_and_top_limits(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        assert registry.call("GET", "/devices")[2] == []
        for i in range(3):
            registry.create(f"d{i}")
        for path in ("/devices", "/devices/"):
            status, _, devices = registry.call("GET", path)
            assert status == 200 and [d["deviceId"] for d in devices] == ["d0", "d1", "d2"]
        assert len(registry.call("GET", "/devices?top=2")[2]) == 2
        assert error_of(registry.call("GET", "/devices?top=1001"))[0] == 400
        assert registry.call("GET", "/statistics/devices")[2] == {
            "totalDeviceCount": 3, "enabledDeviceCount": 3, "disabledDeviceCount": 0,
        }


@test
def update_replaces_under_its_etag_only(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        device = registry.create("d1")
        device["status"], device["statusReason"] = "disabled", "repair"
        status, headers, updated = registry.update(device, f'"{device["etag"]}"')
        assert status == 200 and headers["etag"] == f'"{updated["etag"]}"'
        assert updated["status"] == "disabled" and updated["statusReason"] == "repair"
        assert updated["etag"] != device["etag"] and updated["generationId"] == device["generationId"]
        assert updated["statusUpdatedTime"] > device["statusUpdatedTime"]
        assert key_of(updated) == key_of(device)

        # The old etag, quoted or bare, is out of date now.
        for stale in (f'"{device["etag"]}"', device["etag"], "nonsense"):
            assert error_of(registry.update(device, stale)) == (412, "PreconditionFailed"), stale
        assert registry.show("d1")["etag"] == updated["etag"]

        # A body without authentication asks for new keys; without a reason it clears it.
        status, _, renewed = registry.update({"deviceId": "d1"}, updated["etag"])
        assert status == 200 and key_of(renewed) != key_of(device)
        assert renewed["statusReason"] is None and renewed["status"] == "enabled"
        assert error_of(registry.update({"deviceId": "nobody"})) == (404, "DeviceNotFound")


@test
def delete_needs_if_match_and_a_new_device_is_another_generation(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        first = registry.create("d1")
        assert error_of(registry.call("DELETE", "/devices/d1"))[0] == 412
        assert error_of(registry.call("DELETE", "/devices/d1", if_match='"MTIz"'))[0] == 412
        status, headers, body = registry.call("DELETE", "/devices/d1", if_match=f'"{first["etag"]}"')
        assert status == 204 and body == b"" and "content-type" not in headers
        assert error_of(registry.call("GET", "/devices/d1")) == (404, "DeviceNotFound")
        assert error_of(registry.call("DELETE", "/devices/d1", if_match="*")) == (404, "DeviceNotFound")
        second = registry.create("d1")
        assert int(second["generationId"]) > int(first["generationId"])
        assert second["etag"] != first["etag"]


@test
def only_good_tokens_with_the_right_open_the_registry(folder):
    with hub_with_device(folder) as (hub, registry, key):
        unauthorized = (401, "IotHubUnauthorizedAccess")
        bad = {
            "no header": None,
            "no token": "Bearer x",
            "wrong key": token("localhost", random_key(), registry.policy),
            "expired": token("localhost", registry.key, registry.policy, expires=time.time() - 1),
            "other hub": token("other.example", registry.key, registry.policy),
            "other resource": token("localhost/devices/d2", registry.key, registry.policy),
            "no policy": token("localhost", registry.key),
            "unknown policy": token("localhost", registry.key, "nobody"),
            "other policy": token("localhost", registry.key, "service"),
            "a device's own": device_token("d1", key),
        }
        for name, authorization in bad.items():
            assert error_of(registry.call("GET", "/devices/d1", authorization=authorization)) == unauthorized, name
        good = {
            "a resource below": token("localhost/devices/d1", registry.key, registry.policy),
            "case of the host": token("LOCALHOST", registry.key, registry.policy),
            "with a port": token(f"localhost:{hub.https_port}", registry.key, registry.policy),
            "fields in another order": "SharedAccessSignature "
            + "&".join(reversed(token("localhost", registry.key, registry.policy).split(" ")[1].split("&"))),
        }
        for name, authorization in good.items():
            assert registry.call("GET", "/devices/d1", authorization=authorization)[0] == 200, name


@test
def each_policy_has_its_rights(folder):
    with hub_with_device(folder) as (hub, registry, _):
        with contextlib.closing(sqlite3.connect(os.path.join(hub.folder, "registry.db"))) as database:
            policies = dict(database.execute("SELECT name, secondary_key FROM policy"))
        for policy, may_read, may_write, may_connect in (
            ("iothubowner", True, True, True),
            ("service", False, False, False),
            ("device", False, False, True),
            ("registryRead", True, False, False),
            ("registryReadWrite", True, True, False),
        ):
            authorization = token("localhost", policies[policy], policy)
            read = registry.call("GET", "/devices/d1", authorization=authorization)[0]
            write = registry.call("PUT", "/devices/d1", {"deviceId": "d1"}, "*", authorization)[0]
            connect = publish(hub, "d1", authorization)
            assert (read == 200, write == 200, connect == 0) == (may_read, may_write, may_connect), policy
            assert read in (200, 401) and write in (200, 401) and connect in (0, 5)


@test
def the_api_version_is_needed_and_unknown_calls_say_so(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        for query in ("", "api-version=", "api-version=new", "api-version=2015-01-01"):
            assert error_of(registry.call("GET", "/devices", query=query)) == (400, "InvalidProtocolVersion"), query
        for version in ("2016-02-03", "2018-06-30", "2020-05-31-preview", "2024-03-31"):
            assert registry.call("GET", "/devices", query=f"api-version={version}")[0] == 200
        assert error_of(registry.call("GET", "/nothing"))[0] == 501


@test
def one_connection_serves_many_calls(folder):
    with hub_with_device(folder) as (hub, registry, _):
        url = f"https://localhost:{hub.https_port}/devices/d1?{API}"
        command = ["curl", "-sS", "--cacert", hub.ca_file, "-H", "@-", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\\n"]
        command += [url, url, "-o", "/dev/null"]
        header = f"Authorization: {token('localhost', registry.key, registry.policy)}"
        done = subprocess.run(command, input=header, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.splitlines() == ["200 1", "200 0"], done.stdout


@test
def ready_is_told_once_the_doors_are_open(folder):
    notify = harness.Notify(folder, "notify")
    hub = Hub(folder)
    process = subprocess.Popen(
        [harness.EMULATOR, "--state", hub.folder, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "NOTIFY_SOCKET": notify.path},
    )
    try:
        notify.wait_ready(process, "the emulator")
        with open(os.path.join(hub.folder, "ports"), encoding="utf-8") as f:
            ports = dict(line.strip().split("=") for line in f)
        assert list(ports) == ["mqtt", "https", "amqp"], ports
        for port in ports.values():
            socket.create_connection(("127.0.0.1", int(port)), timeout=60).close()
        assert [m for m in notify.read() if m.startswith("STATUS=")] == ["STATUS=" + " ".join(f"{name}={port}" for name, port in ports.items())]
        process.terminate()
        assert process.wait(60) == 0
        assert notify.read().count("READY=1") == 1 and "STOPPING=1" in notify.read()
    finally:
        process.kill()
        process.wait()
        notify.close()


# ---- connecting ----


@test
def both_keys_of_a_device_open_its_door(folder):
    with Hub(folder) as hub:
        device = Registry(hub).create("d1")
        assert publish(hub, "d1", device_token("d1", key_of(device)), "one") == 0
        assert publish(hub, "d1", device_token("d1", key_of(device, "secondaryKey")), "two") == 0
        # The port may be part of the name, and C clients send the resource unencoded.
        name = f"localhost:{hub.mqtt_port}"
        assert publish(hub, "d1", token(f"{name}/devices/d1", key_of(device)), "three", user=f"{name}/d1/?{API}") == 0
        digest = hmac.new(base64.b64decode(key_of(device)), b"localhost/devices/d1\n4000000000", hashlib.sha256).digest()
        raw = f"SharedAccessSignature sr=localhost/devices/d1&sig={quote(base64.b64encode(digest).decode())}&se=4000000000"
        assert publish(hub, "d1", raw, "four", user=f"localhost/d1/{API}&DeviceClientType=x") == 0
        assert [e["body"] for e in events(hub)] == ["one", "two", "three", "four"]


@test
def every_refusal_is_connack_5_and_stores_nothing(folder):
    with hub_with_device(folder) as (hub, registry, key):
        other = key_of(registry.create("d2"))
        off = registry.create("off", status="disabled")
        good = device_token("d1", key)
        refused = {
            "wrong key": dict(password=device_token("d1", random_key())),
            "another device's token": dict(password=device_token("d2", other)),
            "another device's key": dict(password=device_token("d1", other)),
            "a key for the whole hub": dict(password=token("localhost", key)),
            "expired": dict(password=device_token("d1", key, expires=time.time() - 1)),
            "another hub's token": dict(password=token("other.example/devices/d1", key)),
            "a longer id's token": dict(password=token("localhost/devices/d12", key)),
            "no token": dict(password="secret"),
            "unknown device": dict(device="nobody", password=device_token("nobody", key)),
            "disabled device": dict(device="off", password=device_token("off", key_of(off))),
            "another hub's name": dict(password=good, user=f"other.example/d1/?{API}"),
            "another id in the name": dict(password=good, user=f"localhost/d2/?{API}"),
            "no api-version": dict(password=good, user="localhost/d1/"),
            "an id alone": dict(password=good, user="d1"),
            "client id of another": dict(password=good, client_id="d2", user=user_name("d1")),
        }
        for name, arguments in refused.items():
            assert publish(hub, arguments.pop("device", "d1"), **arguments) == 5, name
        assert events(hub) == []
        assert publish(hub, "d1", good) == 0


@test
def only_mqtt_3_1_1_gets_in(folder):
    with hub_with_device(folder) as (hub, _, key):
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key), level=4) == 0
        command = mosquitto("mosquitto_pub", hub, "d1", device_token("d1", key), "-t", "devices/d1/messages/events/", "-m", "x")
        command[command.index("mqttv311")] = "mqttv5"
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0
        assert events(hub) == []


@test
def nobody_can_claim_to_come_from_the_front(folder):
    """Its secret is needed also on the broker's local socket; what a client sends in its place is only a user name."""
    with hub_with_device(folder) as (hub, registry, _):
        thumbprint = hashlib.sha1(b"x").hexdigest()
        registry.create("x1", authentication={"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": thumbprint}})
        claim = f"{'0' * 32} {thumbprint} {'0' * 64} {user_name('x1')}"
        with Mqtt(hub) as m:
            assert m.connect("x1", user=claim) == 5

        m = Mqtt.__new__(Mqtt)
        m.buffer, m.socket = b"", socket.socket(socket.AF_UNIX)
        with m.socket:
            m.socket.settimeout(60)
            m.socket.connect(os.path.join(hub.folder, "broker.sock"))
            assert m.connect("x1", user=claim) == 5


@test
def a_self_signed_certificate_opens_only_its_own_device(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        pairs = []
        for name in ("one", "two"):
            pair = [os.path.join(folder, f"{name}.{kind}") for kind in ("pem", "key")]
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                 "-subj", f"/CN={name}", "-out", pair[0], "-keyout", pair[1]],
                check=True, capture_output=True,
            )
            pairs.append(pair)
        with open(pairs[0][0], encoding="utf-8") as f:
            der = ssl.PEM_cert_to_DER_cert(f.read())
        sha1, sha256 = hashlib.sha1(der).hexdigest().upper(), hashlib.sha256(der).hexdigest()
        for device, thumbprints in (("x1", {"primaryThumbprint": sha1}), ("x2", {"secondaryThumbprint": sha256})):
            registry.create(device, authentication={"type": "selfSigned", "x509Thumbprint": thumbprints})
            with Mqtt(hub, pairs[0]) as m:
                assert m.connect(device) == 0
                m.publish(f"devices/{device}/messages/events/", b"hello")
                assert m.receive() == (0x40, b"\0\1")
            assert events(hub)[-1]["authMethod"] == {"scope": "device", "type": "x509"}
            with Mqtt(hub, pairs[1]) as m:
                assert m.connect(device) == 5
            with Mqtt(hub) as m:
                assert m.connect(device) == 5

        # Neither does a certificate open a device with keys, nor a token one with a certificate.
        key = key_of(registry.create("d1"))
        with Mqtt(hub, pairs[0]) as m:
            assert m.connect("d1") == 5
        with Mqtt(hub) as m:
            assert m.connect("x1", device_token("x1", key)) == 5


@test
def the_newest_connection_wins(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with Mqtt(hub) as older, Mqtt(hub) as newer:
            assert older.connect("d1", device_token("d1", key)) == 0
            assert newer.connect("d1", device_token("d1", key)) == 0
            assert older.receive() is None
            newer.publish("devices/d1/messages/events/", b"still here")
            assert newer.receive() == (0x40, b"\0\1")
            assert registry.show("d1")["connectionState"] == "Connected"
            # A refused one throws nobody out.
            with Mqtt(hub) as refused:
                assert refused.connect("d1", device_token("d1", random_key())) == 5
            newer.publish("devices/d1/messages/events/", b"and here", mid=2)
            assert newer.receive() == (0x40, b"\0\2")
        wait_until(lambda: registry.show("d1")["connectionState"] == "Disconnected", "the registry knows that it left")


@test
def a_connection_ends_with_its_token(folder):
    with hub_with_device(folder) as (hub, _, key):
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key, expires=time.time() + 2)) == 0
            m.publish("devices/d1/messages/events/", b"in time")
            assert m.receive() == (0x40, b"\0\1")
            assert m.receive() is None
        # mosquitto_sub comes back by itself with the same token, and is refused then.
        with subscriber(hub, "d1", key, "devices/d1/messages/devicebound/#", expires=time.time() + 2) as output:
            wait_until(lambda: "received CONNACK (0)" in output(), "mosquitto_sub connects")
            wait_until(lambda: "received CONNACK (5)" in output(), "mosquitto_sub is cut and refused")


@test
def token_grace_lets_a_connection_outlive_its_token(folder):
    with hub_with_device(folder, arguments=["--token-grace", "1h"]) as (hub, _, key):
        with Mqtt(hub) as m:
            expires = int(time.time()) + 2
            password = device_token("d1", key, expires=expires)
            assert m.connect("d1", password) == 0
            # Half a second more than the broker's tick, which would have cut it.
            wait_until(lambda: time.time() > expires + 0.5, "the token has expired")
            m.publish("devices/d1/messages/events/", b"late")
            assert m.receive() == (0x40, b"\0\1")


@test
def disabling_or_deleting_a_device_cuts_it_off(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            device = registry.show("d1")
            assert device["connectionState"] == "Connected"
            assert registry.update({**device, "status": "disabled"})[0] == 200
            assert m.receive() is None
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 5
        assert registry.update({**device, "status": "enabled"})[0] == 200
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            registry.delete("d1")
            assert m.receive() is None


# ---- telemetry ----


@test
def an_event_is_stored_as_it_was_sent(folder):
    with hub_with_device(folder) as (hub, registry, key):
        before = time.time()
        bag = (
            "%24.mid=m%201&$.cid=c1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.uid=u&%24.ctime=2026-01-02T03%3A04%3A05Z"
            "&plain=a%2Bb&%C3%A9t%C3%A9=%22%26%3D&empty=&alone&twice=1&twice=2"
        )
        topic = f"devices/d1/messages/events/{bag}"
        assert publish(hub, "d1", device_token("d1", key), '{"speed":"5 m\\s"}\n\t\u00e9', topic) == 0
        event = events(hub)[0]
        assert event["deviceId"] == "d1" and event["sequenceNumber"] == 0
        assert event["generationId"] == registry.show("d1")["generationId"]
        assert event["systemProperties"] == {
            "messageId": "m 1", "correlationId": "c1", "contentType": "application/json", "contentEncoding": "utf-8",
            "userId": "u", "creationTimeUtc": "2026-01-02T03:04:05Z",
        }
        assert event["properties"] == {"plain": "a+b", "\u00e9t\u00e9": '"&=', "empty": "", "alone": "", "twice": "2"}
        assert event["body"] == '{"speed":"5 m\\s"}\n\t\u00e9'
        stamp = time.strptime(event["enqueuedTime"][:19], "%Y-%m-%dT%H:%M:%S")
        assert event["enqueuedTime"].endswith("Z") and abs(before - calendar.timegm(stamp)) < 60


@test
def bodies_are_kept_byte_for_byte(folder):
    with hub_with_device(folder) as (hub, _, key):
        bodies = [b"", b"\0", b"\xff\xfe", bytes(range(256)), "\u20ac\U0001f300".encode(), b"\xed\xa0\x80", b'"\\\x7f\x1f']
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            for mid, body in enumerate(bodies, 1):
                m.publish("devices/d1/messages/events/", body, mid=mid)
                assert m.receive() == (0x40, mid.to_bytes(2, "big"))
        stored = [e["body"].encode() if "body" in e else base64.b64decode(e["bodyBase64"]) for e in events(hub)]
        assert stored == bodies
        assert ["body" in e for e in events(hub)] == [True, True, False, False, True, False, True]


@test
def topic_variants_of_the_sdks_are_taken(folder):
    with hub_with_device(folder) as (hub, _, key):
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            for mid, tail in enumerate(("", "/", "/a=1", "/a=1/"), 1):
                m.publish(f"devices/d1/messages/events{tail}", b"x", mid=mid)
                assert m.receive() == (0x40, mid.to_bytes(2, "big")), tail
            m.publish("devices/d1/messages/events/a=1", b"x", qos=0)
            m.publish("devices/d1/messages/events/a=1", b"x", mid=9, retain=True)
            assert m.receive() == (0x40, b"\0\x09")
        properties = [e["properties"] for e in events(hub)]
        assert properties == [{}, {}, {"a": "1"}, {"a": "1"}, {"a": "1"}, {"a": "1", "mqtt-retain": "true"}]


@test
def a_publish_that_breaks_a_rule_is_cut_unacknowledged_and_stored_nowhere(folder):
    with hub_with_device(folder) as (hub, registry, key):
        registry.create("d2")
        own = "devices/d1/messages/events/"
        broken = {
            "QoS 2": dict(topic=own, qos=2),
            "another device": dict(topic="devices/d2/messages/events/"),
            "an id that begins like it": dict(topic="devices/d12/messages/events/"),
            "C2D": dict(topic="devices/d1/messages/devicebound/"),
            "a method": dict(topic="$iothub/methods/POST/reboot/?$rid=1"),
            "any topic": dict(topic="a"),
            "a level too much": dict(topic=own + "a=1/b=2"),
            "a bad escape": dict(topic=own + "a=%zz"),
            "one byte too many": dict(topic=own, body=b"x" * (LIMIT + 1)),
            "properties count": dict(topic=own + "a=b&%24.mid=1", body=b"x" * (LIMIT - 2)),
            "far too large": dict(topic=own, body=b"x" * 1000000),
        }
        for name, arguments in broken.items():
            with Mqtt(hub) as m:
                assert m.connect("d1", device_token("d1", key)) == 0
                with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
                    m.publish(**{"body": b"x", **arguments})
                assert m.receive() is None, name
        assert events(hub) == []
        # And by the usual tool.
        assert publish(hub, "d1", device_token("d1", key), topic=own, qos=2) != 0
        assert publish(hub, "d1", device_token("d1", key), topic="devices/d2/messages/events/") != 0
        assert events(hub) == []


@test
def the_largest_message_passes(folder):
    with hub_with_device(folder) as (hub, _, key):
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            m.publish("devices/d1/messages/events/%24.ct=ab&n=v", b"x" * (LIMIT - 4))
            assert m.receive() == (0x40, b"\0\1")
            name = "n" * 60000
            m.publish(f"devices/d1/messages/events/{name}=v", b"x" * (LIMIT - 60001), mid=2)
            assert m.receive() == (0x40, b"\0\2")
        assert [len(e["body"]) for e in events(hub)] == [LIMIT - 4, LIMIT - 60001]


@test
def foreign_subscriptions_get_nothing_and_own_ones_are_granted(folder):
    with hub_with_device(folder) as (hub, registry, key):
        spy_key = key_of(registry.create("spy"))
        own = (
            "devices/spy/messages/devicebound/#", "$iothub/methods/POST/#", "$iothub/twin/res/#",
            "$iothub/twin/PATCH/properties/desired/#",
        )
        with Mqtt(hub) as m:
            assert m.connect("spy", device_token("spy", spy_key)) == 0
            for topic in own:
                m.subscribe(topic, qos=2)
                assert m.receive() == (0x90, b"\0\1\1"), topic  # QoS 2 is granted as 1
        foreign = (
            "#", "+/#", "$iothub/#", "$SYS/#", "devices/d1/messages/events/#", "devices/d1/messages/devicebound/#",
            "devices/spy/messages/events/#", "$share/g/devices/#", "devices/#", "devices/spyglass/messages/devicebound/#",
        )
        for topic in foreign:
            with Mqtt(hub) as m:
                assert m.connect("spy", device_token("spy", spy_key)) == 0
                m.subscribe(topic)
                assert m.receive() is None, topic
        with subscriber(hub, "spy", spy_key, "#", "devices/d1/messages/events/#") as output:
            wait_until(lambda: "sending SUBSCRIBE" in output(), "mosquitto_sub subscribes")
            for i in range(20):
                assert publish(hub, "d1", device_token("d1", key), f"reading {i}") == 0
            assert "received PUBLISH" not in output() and "reading" not in output()
        assert len(events(hub)) == 20


# ---- staying ----


@test
def a_restart_keeps_devices_and_goes_on_counting(folder):
    with hub_with_device(folder) as (hub, registry, key):
        kept, gone = registry.create("kept"), registry.create("gone")
        registry.update({**kept, "status": "disabled", "statusReason": "why not"})
        kept = registry.show("kept")
        registry.delete("gone")
        assert publish(hub, "d1", device_token("d1", key), "one") == 0
        ports, login = (hub.mqtt_port, hub.https_port), registry.key
        for stop in (hub.stop, hub.kill):
            stop()
            hub.start()
            assert (hub.mqtt_port, hub.https_port) == ports
        assert Registry(hub).key == login
        assert registry.show("kept") == kept
        assert registry.call("GET", "/devices/gone")[0] == 404
        assert publish(hub, "d1", device_token("d1", key), "two") == 0
        assert [(e["sequenceNumber"], e["body"]) for e in events(hub)] == [(0, "one"), (1, "two")]
        fresh = registry.create("fresh")
        assert int(base64.b64decode(fresh["etag"])) > int(base64.b64decode(kept["etag"]))
        assert int(fresh["generationId"]) > int(gone["generationId"])


@test
def a_torn_last_line_is_cut_at_the_start(folder):
    with hub_with_device(folder) as (hub, registry, key):
        assert publish(hub, "d1", device_token("d1", key), "one") == 0
        path = os.path.join(hub.folder, "events.jsonl")
        with open(path, "rb") as f:
            whole = f.read()
        for cut in (1, 20, len(whole) - 1):
            hub.stop()
            with open(path, "wb") as f:
                f.write(whole + whole[:-cut])
            hub.start()
            with open(path, "rb") as f:
                assert f.read() == whole
        assert publish(hub, "d1", device_token("d1", key), "two") == 0
        assert [(e["sequenceNumber"], e["body"]) for e in events(hub)] == [(0, "one"), (1, "two")]


@test
def an_identity_that_was_told_survives_a_kill(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        for n in range(10):
            made = registry.create(f"d{n}")
            hub.kill()
            hub.start()
            assert registry.show(f"d{n}")["etag"] == made["etag"]
        assert len(registry.call("GET", "/devices")[2]) == 10


@test
def a_damaged_registry_stops_the_start_and_is_named(folder):
    with Hub(folder) as hub:
        hub.stop()
        with open(os.path.join(hub.folder, "registry.db"), "r+b") as f:
            f.write(b"x" * 100)
        process = subprocess.run(
            [harness.EMULATOR, "--state", hub.folder, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0"],
            capture_output=True, text=True, timeout=60, check=False,
        )
        assert process.returncode == 65 and "registry.db" in process.stderr, process


@test
def modules_belong_to_their_device(folder):
    with hub_with_device(folder) as (hub, registry, _):
        status, headers, module = registry.call("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})
        assert status == 200 and "etag" not in headers, headers
        assert list(module) == [
            "moduleId", "managedBy", "deviceId", "generationId", "etag", "connectionState",
            "connectionStateUpdatedTime", "lastActivityTime", "cloudToDeviceMessageCount", "authentication",
        ]
        again = registry.call("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})
        assert again[0] == 409 and again[2]["errorCode"] == 409301, again
        changed = registry.call("PUT", "/devices/d1/modules/m1", {**module, "managedBy": "me"}, if_match=module["etag"])
        assert changed[0] == 200 and changed[2]["managedBy"] == "me"
        assert changed[2]["authentication"] == module["authentication"]
        assert registry.call("PUT", "/devices/d1/modules/m1", module, if_match=module["etag"])[0] == 412
        assert registry.call("PUT", "/devices/d1/modules/$m", {"deviceId": "d1", "moduleId": "$m"})[0] == 400
        assert error_of(registry.call("GET", "/devices/d1/modules/m2")) == (404, "ModuleNotFound")
        assert registry.call("PUT", "/devices/d2/modules/m1", {"deviceId": "d2", "moduleId": "m1"})[0] == 401

        for n in range(2, 51):
            made = registry.call("PUT", f"/devices/d1/modules/m{n}", {"deviceId": "d1", "moduleId": f"m{n}"})
            assert made[0] == 200, made
        assert registry.call("PUT", "/devices/d1/modules/m51", {"deviceId": "d1", "moduleId": "m51"})[0] == 413
        assert len(registry.call("GET", "/devices/d1/modules")[2]) == 50
        assert registry.call("GET", "/statistics/devices")[2]["totalDeviceCount"] == 1
        registry.delete("d1")
        registry.create("d1")
        assert registry.call("GET", "/devices/d1/modules")[2] == []


@test
def a_module_signs_in_with_its_own_key(folder):
    with hub_with_device(folder) as (hub, registry, device_key):
        module = registry.call("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})[2]
        key = key_of(module)
        topic = "devices/d1/modules/m1/messages/events/"
        signed = token("localhost/devices/d1/modules/m1", key)
        assert publish(hub, "d1", signed, topic=topic, client_id="d1/m1") == 0
        event = events(hub)[-1]
        assert event["moduleId"] == "m1" and event["authMethod"] == {"scope": "module", "type": "sas"}, event
        for wrong in (token("localhost/devices/d1", device_key), token("localhost/devices/d1/modules/m2", key)):
            assert publish(hub, "d1", wrong, topic=topic, client_id="d1/m1") == 5
        assert publish(hub, "d1", token("localhost/devices/d1/modules/m2", key), client_id="d1/m2") == 5
        registry.update({**registry.show("d1"), "status": "disabled"})
        assert publish(hub, "d1", signed, topic=topic, client_id="d1/m1") == 5


@test
def an_edge_device_has_a_scope_and_two_modules(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        edge = registry.create("gateway", capabilities={"iotEdge": True})
        assert edge["deviceScope"] == f"ms-azure-iot-edge://gateway-{edge['generationId']}"
        modules = registry.call("GET", "/devices/gateway/modules")[2]
        assert [(m["moduleId"], m["managedBy"], m["authentication"]["type"]) for m in modules] == [
            ("$edgeAgent", "iotEdge", "none"), ("$edgeHub", "iotEdge", "none"),
        ]
        leaf = registry.create("leaf", deviceScope=edge["deviceScope"])
        assert leaf["parentScopes"] == [edge["deviceScope"]]
        other = {**edge, "deviceScope": "ms-azure-iot-edge://other-1"}
        assert error_of(registry.update(other)) == (400, "InvalidDeviceScope")
        assert registry.update(edge)[2]["deviceScope"] == edge["deviceScope"]
        assert error_of(registry.call("PUT", "/devices/x", {"deviceId": "x", "deviceScope": "mine"}))[0] == 400


def processes_in(folder):
    """Ids of the processes whose working directory is folder."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(folder):
                with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
                    if f.read().rpartition(")")[2].split()[0] != "Z":
                        found.append(int(pid))
    return found


@test
def killing_the_main_process_leaves_none_behind(folder):
    with Hub(folder) as hub:
        assert len(processes_in(hub.folder)) == 2  # itself and the broker
        hub.kill()
        wait_until(lambda: not processes_in(hub.folder), "all parts have ended")


@test
def the_end_of_the_broker_is_the_end_of_the_emulator(folder):
    with Hub(folder) as hub:
        broker = [pid for pid in processes_in(hub.folder) if pid != hub.process.pid]
        os.kill(broker[0], signal.SIGKILL)
        assert hub.process.wait(60) not in (0, None)
        hub.process = None


@test
def secrets_are_for_their_owner_only(folder):
    with Hub(folder) as hub:
        for name in ("connection-string", "registry.db", "ca-key.pem", "server-key.pem", "broker.conf"):
            assert os.stat(os.path.join(hub.folder, name)).st_mode & 0o077 == 0, name
        assert os.stat(hub.ca_file).st_mode & 0o777 == 0o644
        for name in ("broker.sock", "registry.sock"):
            assert os.stat(os.path.join(hub.folder, name)).st_mode & 0o007 == 0, name
        for pid in processes_in(hub.folder):
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                assert Registry(hub).key.encode() not in f.read()


@test
def one_state_folder_serves_one_emulator(folder):
    with Hub(folder) as hub:
        second = subprocess.run(
            [harness.EMULATOR, "--state", hub.folder, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0"],
            capture_output=True, text=True, timeout=60, check=False,
        )
        assert second.returncode == 75 and "another emulator" in second.stderr, second
        assert Registry(hub).call("GET", "/devices")[0] == 200


@test
def the_hub_may_have_another_name(folder):
    name = "my-hub.example"
    with Hub(folder, arguments=["--host", name]) as hub:
        with open(hub.login_file, encoding="utf-8") as f:
            assert f"HostName={name};" in f.read()
        context = ssl.create_default_context(cafile=hub.ca_file)
        for host in (name, "localhost", "127.0.0.1"):
            with socket.create_connection(("127.0.0.1", hub.mqtt_port), timeout=60) as raw:
                context.wrap_socket(raw, server_hostname=host).close()


@test
def clients_that_never_finish_do_not_disturb_others(folder):
    with hub_with_device(folder) as (hub, registry, key):
        with contextlib.ExitStack() as stack:
            for data in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff"):
                s = stack.enter_context(socket.create_connection(("127.0.0.1", hub.mqtt_port), timeout=60))
                s.sendall(data)
            for data in (b"\x10", b"\x10\x7f\0\4MQTT", b"\x10\xff\xff\xff\x7f", b"\x30\0", b"\x10\0", b"\xff" * 4000):
                m = stack.enter_context(Mqtt(hub))
                m.socket.sendall(data)
            assert publish(hub, "d1", device_token("d1", key)) == 0
            assert registry.show("d1")["deviceId"] == "d1"


@test
def a_hundred_devices_at_once_lose_nothing(folder):
    with Hub(folder) as hub:
        registry = Registry(hub)
        keys = {f"d{i}": key_of(registry.create(f"d{i}")) for i in range(100)}
        with contextlib.ExitStack() as stack:
            clients = {}
            for device, key in keys.items():
                m = clients[device] = stack.enter_context(Mqtt(hub))
                assert m.connect(device, device_token(device, key)) == 0
            for round_number in range(5):
                for device, m in clients.items():
                    m.publish(f"devices/{device}/messages/events/", f"{round_number}".encode(), mid=round_number + 1)
            for m in clients.values():
                assert [m.receive() for _ in range(5)] == [(0x40, bytes([0, i])) for i in range(1, 6)]
        stored = events(hub)
        for partition in range(4):
            numbers = [e["sequenceNumber"] for e in stored if e["partition"] == partition]
            assert numbers == list(range(len(numbers))) and numbers, numbers
        assert len(stored) == 500 and len({(e["deviceId"], e["partition"]) for e in stored}) == 100
        for device in keys:
            assert [e["body"] for e in stored if e["deviceId"] == device] == list("01234")


harness.main()
