#!/usr/bin/env python3
"""Goal: what devices sent is in the emulator's files, in order and once, over restarts and while old files go. Method: MQTT
by hand, and the files as people read them."""
import glob
import json
import os
import subprocess

import harness
from harness import test, wait_until
from device import Mqtt, device_token, events, hub_with_device, user_name
from registry import API, token


def publish_all(hub, key, bodies, device="d1", password=None, user=None):
    """On one connection, each acknowledged before the next."""
    with Mqtt(hub) as m:
        assert m.connect(device, password or device_token(device, key), user=user) == 0
        for i, body in enumerate(bodies):
            mid = i % 65535 + 1
            m.publish(f"devices/{device}/messages/events/", body, mid=mid)
            assert m.receive() == (0x40, mid.to_bytes(2, "big"))


def names(hub):
    """As a shell sorts events*.jsonl."""
    return sorted(os.path.basename(path) for path in glob.glob(os.path.join(hub.folder, "events*.jsonl")))


def cat(hub):
    """All lines as the manual page tells people to read them."""
    text = ""
    for name in names(hub):
        with open(os.path.join(hub.folder, name), encoding="utf-8") as f:
            text += f.read()
    return [json.loads(line) for line in text.split("\n")[:-1]]


@test
def a_reader_sees_one_stream_over_files_and_restarts(folder):
    with hub_with_device(folder, arguments=["--retain-size", "1M"]) as (hub, _, key):
        sent = []
        for round_number in range(6):
            bodies = [f"{round_number}-{i} ".encode() + b"x" * 4000 for i in range(100)]
            publish_all(hub, key, bodies)
            sent += [b.decode() for b in bodies]
            assert hub.events.bodies() == sent
            (hub.stop if round_number % 2 else hub.kill)()
            hub.start()
            assert hub.events.bodies() == sent
        # 2.4 MB came, at most 1 MiB and a file stay.
        kept = cat(hub)
        assert [e["body"] for e in kept] == sent[-len(kept):] and 150 < len(kept) < 350, len(kept)
        assert [e["sequenceNumber"] for e in kept] == list(range(600 - len(kept), 600))
        offsets = [int(e["offset"]) for e in kept]
        assert offsets == sorted(set(offsets)) and offsets[0] > 1000000, offsets
        assert int(names(hub)[0].removeprefix("events-").removesuffix(".jsonl")) == offsets[0], names(hub)


@test
def old_events_go_and_numbers_stay(folder):
    with hub_with_device(folder, arguments=["--retain-time", "1s"]) as (hub, _, key):
        publish_all(hub, key, [b"one", b"two"])
        first = [e["body"] for e in events(hub)]
        assert first in (["one", "two"], ["two"], [])  # a slow machine may have lost some
        wait_until(lambda: not events(hub), "the events are deleted")
        wait_until(lambda: names(hub) == ["events.jsonl"], "their files are gone")
        hub.stop()
        hub.arguments = []
        hub.start()
        publish_all(hub, key, [b"three"])
        assert [(e["sequenceNumber"], e["body"]) for e in events(hub)] == [(2, "three")]
        assert int(events(hub)[0]["offset"]) > 300


@test
def changed_lines_stop_the_start_and_are_named(folder):
    with hub_with_device(folder) as (hub, _, key):
        publish_all(hub, key, [b"one", b"two", b"three"])
        hub.stop()
        path = os.path.join(hub.folder, "events.jsonl")
        with open(path, "rb") as f:
            lines = f.read().splitlines(keepends=True)
        for changed, line in (([lines[0], b"{}\n", lines[2]], 2), ([lines[0], lines[2]], 2), ([b"\n"] + lines, 1)):
            with open(path, "wb") as f:
                f.write(b"".join(changed))
            process = subprocess.run(
                [harness.EMULATOR, "--state", hub.folder, "--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0"],
                capture_output=True, text=True, timeout=60, check=False,
            )
            assert process.returncode != 0 and f"events.jsonl, line {line}: " in process.stderr, process
        os.unlink(path)
        hub.start()
        publish_all(hub, key, [b"again"])
        assert [e["body"] for e in events(hub)] == ["again"]


@test
def an_event_tells_how_its_device_signed_in_and_what_it_is(folder):
    with hub_with_device(folder) as (hub, registry, key):
        publish_all(hub, key, [b"device"])
        publish_all(hub, key, [b"policy"], password=token("localhost", registry.key, registry.policy))
        publish_all(hub, key, [b"model"], user=f"localhost/d1/?{API}&model-id=dtmi%3Acom%3Aexample%3AThing%3B1")
        publish_all(hub, key, [b"no model"], user=user_name("d1") + "&model-id=%zz")
        found = [(e["body"], e["authMethod"], e.get("modelId")) for e in events(hub)]
        own = {"scope": "device", "type": "sas"}
        assert found == [
            ("device", own, None), ("policy", {"scope": "hub", "type": "sas"}, None),
            ("model", own, "dtmi:com:example:Thing;1"), ("no model", own, None),
        ], found


@test
def limits_that_are_none_are_refused(folder):
    for option, value, allowed in (
        ("--retain-time", "soon", "a span of time"), ("--retain-time", "0", "at least 1s"),
        ("--retain-time", "999ms", "at least 1s"), ("--retain-size", "1023K", "at least 1M"), ("--retain-size", "-1", "a size"),
    ):
        process = subprocess.run(
            [harness.EMULATOR, "--state", folder, option, value], capture_output=True, text=True, timeout=60, check=False
        )
        assert process.returncode == 64 and option in process.stderr and allowed in process.stderr, process
    # What is right is taken: it ends at the option behind it.
    for option, value in (("--retain-time", "1s"), ("--retain-time", "infinity"), ("--retain-size", "1M")):
        process = subprocess.run(
            [harness.EMULATOR, "--state", folder, option, value, "--version"], capture_output=True, timeout=60, check=False
        )
        assert process.returncode == 0, process


harness.main()
