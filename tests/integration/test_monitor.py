#!/usr/bin/env python3
"""Goal: iothubctl monitor shows every event once, in each partition's order, whatever happens to the connection or to
the reader of its output. Method: devices that speak MQTT by hand, the emulator, real processes."""
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import sqlite3
import struct
import termios
import time

import harness
from device import Mqtt, device_token, key_of
from harness import Hub, test, wait_until, write_private
from monitor import Monitor, run
from registry import Registry

EX_USAGE, EX_NOTFOUND, EX_UNAVAILABLE, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = (
    64, 66, 69, 74, 75, 77, 78)


def telemetry(device):
    return f"devices/{device}/messages/events/"


class Device:
    """A device that is connected and sends with confirmation."""

    def __init__(self, hub, name="d1", key=None):
        self.hub, self.name = hub, name
        self.key = key or key_of(Registry(hub).create(name))
        self.mqtt, self.mid = None, 0

    def __enter__(self):
        self.connect()
        return self

    def __exit__(self, *exception):
        if self.mqtt:
            self.mqtt.__exit__(*exception)

    def connect(self):
        self.mqtt = Mqtt(self.hub).__enter__()
        assert self.mqtt.connect(self.name, device_token(self.name, self.key)) == 0

    def send(self, *bodies, bag=""):
        for body in bodies:
            self.mid = self.mid % 60000 + 1
            self.mqtt.publish(telemetry(self.name) + bag, body if isinstance(body, bytes) else body.encode(),
                              mid=self.mid)
            assert self.mqtt.receive() == (0x40, self.mid.to_bytes(2, "big"))


@contextlib.contextmanager
def hub_and_device(folder, name="d1", **hub_arguments):
    with Hub(folder, **hub_arguments) as hub, Device(hub, name) as device:
        yield hub, device


def endpoint_login(hub, folder, policy=None, key=None):
    """The connection string of the events endpoint, as the portal would show it, in a file."""
    with open(hub.login_file, encoding="utf-8") as f:
        fields = dict(part.split("=", 1) for part in f.read().strip().split(";"))
    said = run(hub, "monitor", "-v", "--timeout", "1ms").stderr
    host, port, entity = re.search(r"The events are at (\S+):(\d+), (\S+)", said).groups()
    path = os.path.join(folder, "endpoint")
    write_private(path, f"Endpoint=sb://{host}:{port}/;SharedAccessKeyName={policy or fields['SharedAccessKeyName']};"
                        f"SharedAccessKey={key or fields['SharedAccessKey']};EntityPath={entity}")
    return path


def read_json(result):
    return [json.loads(line)["event"] for line in result.stdout.splitlines()]


def numbers(events):
    return [int(e["payload"]) for e in events]


# ---- finding and reading ----


@test
def the_hubs_string_leads_to_its_events(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1", "2", "3")
        result = run(hub, "monitor", "--from", "earliest", "--count", "3", "--json")
        events = read_json(result)
        assert numbers(events) == [1, 2, 3], events
        assert [e["annotations"]["x-opt-sequence-number"] for e in events] == [0, 1, 2]
        assert all(e["origin"] == "d1" and e["annotations"]["iothub-message-source"] == "Telemetry" for e in events)
        assert "3 events" in result.stderr and "Watching" in result.stderr, result.stderr


@test
def the_endpoints_own_string_does_as_well(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1", "2")
        login = endpoint_login(hub, folder)
        for path in (login, os.path.join(hub.folder, "event-hubs-connection-string")):
            events = read_json(run(hub, "monitor", "--from", "earliest", "--count", "2", "--json", login_file=path))
            assert numbers(events) == [1, 2]
        # It opens no other door.
        other = run(hub, "device", "list", login_file=login, check=False)
        assert other.returncode == EX_CONFIG and "HostName=" in other.stderr, other


@test
def devices_of_all_partitions_are_shown_each_in_its_order(folder):
    with Hub(folder) as hub, contextlib.ExitStack() as stack:
        devices = [stack.enter_context(Device(hub, f"d{i}")) for i in range(12)]
        for i in range(5):
            for device in devices:
                device.send(str(i))
        events = read_json(run(hub, "monitor", "--from", "earliest", "--count", "60", "--json"))
        assert len({e["partition"] for e in events}) > 1
        for device in devices:
            mine = [e for e in events if e["origin"] == device.name]
            assert numbers(mine) == [0, 1, 2, 3, 4] and len({e["partition"] for e in mine}) == 1


@test
def a_line_for_people_has_ids_and_properties(folder):
    with hub_and_device(folder) as (hub, device):
        device.send('{"windSpeed": 11.2}', bag="%24.mid=message_1&%24.cid=correlation_1&%24.ct=application%2Fjson&"
                                               "%24.ce=utf-8&Property=PropMsg_1")
        device.send(b"\xff\x00", "a\nb\x1b[31mc")
        lines = run(hub, "monitor", "--from", "earliest", "--count", "3").stdout.splitlines()
        assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z d1: {"windSpeed": 11.2} '
                            r"\[message_id=message_1 correlation_id=correlation_1 Property=PropMsg_1\]", lines[0]), lines
        assert lines[1].endswith("d1: (2 bytes, no text)") and lines[2].endswith("d1: a b?[31mc"), lines

        lines = run(hub, "monitor", "--from", "earliest", "--count", "1", "--properties", "all").stdout.splitlines()
        assert "message_id=message_1" in lines[1] and "content_type=application/json" in lines[1], lines
        assert lines[2] == "    application: Property=PropMsg_1", lines
        assert "iothub-connection-device-id=d1" in lines[3] and "x-opt-offset=" in lines[3], lines

        event, = read_json(run(hub, "monitor", "--from", "earliest", "--count", "1", "--json"))
        assert event["payload"] == {"windSpeed": 11.2} and event["properties"] == {
            "system": {"message_id": "message_1", "correlation_id": "correlation_1", "content_encoding": "utf-8",
                       "content_type": "application/json", **{k: v for k, v in event["properties"]["system"].items()
                                                              if k == "to"}},
            "application": {"Property": "PropMsg_1"}}, event


@test
def a_body_is_shown_as_it_was_asked_for(folder):
    with hub_and_device(folder) as (hub, device):
        device.send('{"a":1}')

        def payload(content):
            event, = read_json(run(hub, "monitor", "--from", "earliest", "--count", "1", "--json", "--properties",
                                   "application", "--content", content))
            assert "annotations" not in event and list(event["properties"]) == ["application"], event
            return event.get("payload", event.get("payloadBase64"))

        assert payload("auto") == payload("json") == {"a": 1}
        assert payload("text") == '{"a":1}' and payload("base64") == "eyJhIjoxfQ=="


@test
def devices_are_chosen_by_name_and_wildcard(folder):
    with Hub(folder) as hub, Device(hub, "mill-1") as a, Device(hub, "mill-2") as b, Device(hub, "pump") as c:
        a.send("1")
        b.send("2")
        c.send("3")

        def shown(*names, count):
            result = run(hub, "monitor", *names, "--from", "earliest", "--count", str(count), "--json")
            return sorted(numbers(read_json(result)))

        assert shown("pump", count=1) == [3]
        assert shown("mill-*", count=2) == [1, 2]
        assert shown("*1", "pump", count=2) == [1, 3]
        assert shown("*", count=3) == [1, 2, 3]
        none = run(hub, "monitor", "mill", "--from", "earliest", "--timeout", "300ms")
        assert none.stdout == "" and "0 events, and 3 of other devices" in none.stderr, none


@test
def a_device_that_does_not_exist_is_told(folder):
    with hub_and_device(folder) as (hub, device):
        result = run(hub, "monitor", "nobody", "d1", "--timeout", "1ms")
        assert "has no device nobody" in result.stderr and "d1;" not in result.stderr, result.stderr
        result = run(hub, "monitor", "d1/cam", "--timeout", "1ms")
        assert "has no module d1/cam" in result.stderr, result.stderr
        # What is no id is not asked for, nor is anything with the endpoint's string.
        assert "has no" not in run(hub, "monitor", "nob*", "--timeout", "1ms").stderr
        login = endpoint_login(hub, folder)
        assert "has no" not in run(hub, "monitor", "nobody", "--timeout", "1ms", login_file=login).stderr


@test
def a_policy_that_may_not_read_the_registry_reads_events(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1")
        service = policy_login(hub, folder, "service")
        result = run(hub, "monitor", "d1", "--from", "earliest", "--count", "1", "--json", login_file=service)
        assert numbers(read_json(result)) == [1] and "401" not in result.stderr, result.stderr
        # One that may not read events is told so.
        result = run(hub, "monitor", login_file=policy_login(hub, folder, "registryRead"), check=False)
        assert result.returncode == EX_NOPERM and "amqp:unauthorized-access" in result.stderr, result


def policy_login(hub, folder, policy):
    """The login of another policy, whose keys the emulator keeps in its registry."""
    with contextlib.closing(sqlite3.connect(os.path.join(hub.folder, "registry.db"))) as database:
        key, = database.execute("SELECT secondary_key FROM policy WHERE name = ?", (policy,)).fetchone()
    path = os.path.join(folder, f"{policy}.login")
    write_private(path, f"HostName=localhost;SharedAccessKeyName={policy};SharedAccessKey={key}")
    return path


# ---- from where on ----


@test
def now_shows_only_what_comes(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1", "2")
        with Monitor(hub, "--json") as m:
            device.send("3", "4")
            assert [int(m.event()["payload"]) for _ in range(2)] == [3, 4]
            assert m.signal() == -signal.SIGINT


@test
def a_time_or_an_age_divides_what_came_before(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1", "2")
        first = read_json(run(hub, "monitor", "--from", "earliest", "--count", "2", "--json"))
        last_msec = first[-1]["annotations"]["x-opt-enqueued-time"]
        wait_until(lambda: time.time() * 1000 > last_msec + 50, "a later time")
        between = time.time()
        wait_until(lambda: time.time() > between + 0.05, "a later time still")
        device.send("3", "4")
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + f".{int(between % 1 * 1000):03}Z"
        assert numbers(read_json(run(hub, "monitor", "--from", when, "--count", "2", "--json"))) == [3, 4]
        assert numbers(read_json(run(hub, "monitor", "--from", "1h", "--count", "4", "--json"))) == [1, 2, 3, 4]
        # The very time of an event counts it.
        third = read_json(run(hub, "monitor", "--from", when, "--count", "1", "--json"))[0]
        msec = third["annotations"]["x-opt-enqueued-time"]
        exact = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(msec // 1000)) + f".{msec % 1000:03}Z"
        assert numbers(read_json(run(hub, "monitor", "--from", exact, "--count", "1", "--json"))) == [3]


@test
def consumer_groups_and_readers_do_not_disturb_each_other(folder):
    with hub_and_device(folder) as (hub, device):
        with Monitor(hub, "--json") as a, Monitor(hub, "--json", "--consumer-group", "$default") as b:
            device.send("1", "2", "3")
            for m in (a, b):
                assert [int(m.event()["payload"]) for _ in range(3)] == [1, 2, 3]


# ---- the end ----


@test
def a_signal_ends_it_at_once_with_a_summary(folder):
    with hub_and_device(folder) as (hub, device):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with Monitor(hub) as m:
                device.send("1")
                m.line()
                assert m.signal(number) == -number
                assert re.search(r"1 event in ", m.error_text()), m.error_text()


@test
def what_a_reader_did_not_take_at_the_end_is_told(folder):
    with hub_and_device(folder) as (hub, device):
        device.send(*(json.dumps(str(i) * 30000) for i in range(5)))
        whole = run(hub, "monitor", "--from", "earliest", "--count", "5", "--json").stdout.encode()
        with Monitor(hub, "--json", "--from", "earliest", read=False) as m:
            pipe = m.process.stdout.fileno()

            def is_full():
                # What is left of it takes less than is written at once.
                n = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
                return n >= fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - select.PIPE_BUF

            wait_until(is_full, "the pipe is full")
            m.process.send_signal(signal.SIGINT)
            assert m.process.wait(harness.DEADLINE_SEC) == -signal.SIGINT
            taken = m.process.stdout.read()
            m.wait_said("events? in")
            m.wait_said("missing")
            n = int(re.search(r"(\d+) events? in", m.error_text())[1])
            lost = int(re.search(r"last (\d+) bytes are missing", m.error_text())[1])
            shown = b"".join(whole.splitlines(keepends=True)[:n])
            assert taken == shown[:len(taken)] and len(taken) + lost == len(shown), (n, lost, len(taken), len(shown))


@test
def count_and_silence_end_it(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1", "2", "3")
        result = run(hub, "monitor", "--from", "earliest", "--count", "2", "--json")
        assert numbers(read_json(result)) == [1, 2]
        result = run(hub, "monitor", "--from", "earliest", "--timeout", "500ms", "--json")
        assert numbers(read_json(result)) == [1, 2, 3]
        result = run(hub, "monitor", "--from", "earliest", "--count", "4", "--timeout", "500ms", check=False)
        assert result.returncode == EX_TEMPFAIL and len(result.stdout.splitlines()) == 3, result


@test
def a_reader_that_goes_away_ends_it_quietly(folder):
    with hub_and_device(folder) as (hub, device):
        for body in ("1", None):  # with an event to write, and without
            m = Monitor(hub, read=False)
            try:
                m.wait_said(Monitor.READY)
                m.process.stdout.close()
                if body:
                    device.send(body)
                assert m.process.wait(harness.DEADLINE_SEC) == EX_IOERR
                assert "events" not in m.error_text() and "Cannot" not in m.error_text(), m.error_text()
            finally:
                if m.process.poll() is None:
                    m.process.kill()
                    m.process.wait()


@test
def a_slow_reader_takes_no_memory_and_misses_nothing(folder):
    """Bodies of 100,000 bytes, 40 MB of them: what waits is at the hub, not here."""
    n = 400
    with hub_and_device(folder) as (hub, device):
        for i in range(n):
            device.send(f"{i} " + "x" * 100000)
        m = Monitor(hub, "--from", "earliest", "--content", "text", "--count", str(n), read=False)
        try:
            m.wait_said(Monitor.READY)

            def resident_kib():
                with open(f"/proc/{m.process.pid}/status", encoding="ascii") as f:
                    return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

            # Its output is full when it waits for nothing but that; then its memory has grown to what it will.
            seen = [0, 0]

            def steady():
                seen[0], seen[1] = seen[1], resident_kib()
                return seen[0] == seen[1]

            wait_until(steady, "memory that grows no more")
            harness.check_memory(resident_kib(), 64 * 1024)
            lines = [m.process.stdout.readline() for _ in range(n)]
            assert [int(line.split(b": ", 1)[1].split()[0]) for line in lines] == list(range(n))
            assert m.process.stdout.read() == b"" and m.process.wait(harness.DEADLINE_SEC) == 0
        finally:
            m.__exit__()


@test
def a_signal_ends_it_when_nobody_reads_its_output(folder):
    with hub_and_device(folder) as (hub, device):
        for _ in range(20):
            device.send("x" * 60000)
        m = Monitor(hub, "--from", "earliest", "--content", "text", read=False)
        try:
            m.wait_said(Monitor.READY)
            assert m.process.stdout.read(4096)  # it writes, and more than a pipe holds
            m.process.send_signal(signal.SIGTERM)
            assert m.process.wait(harness.DEADLINE_SEC) == -signal.SIGTERM
        finally:
            m.__exit__()


# ---- connections that are lost ----


@test
def a_hub_that_is_killed_and_comes_back_costs_no_event(folder):
    with hub_and_device(folder) as (hub, device):
        with Monitor(hub, "--json") as m:
            device.send(*map(str, range(20)))
            seen = [int(m.event()["payload"]) for _ in range(20)]
            device.mqtt.__exit__()
            hub.kill()
            m.wait_said("Connection lost")
            hub.start()
            device.connect()
            device.send(*map(str, range(20, 40)))
            seen += [int(m.event()["payload"]) for _ in range(20)]
            assert seen == list(range(40)), seen
            assert m.signal() == -signal.SIGINT and "40 events" in m.error_text()
            assert not m.rest()


@test
def a_connection_or_link_that_the_hub_ends_costs_no_event(folder):
    with hub_and_device(folder) as (hub, device):
        with Monitor(hub, "--json") as m:
            seen, sent = [], 0
            for kind in ("--close", "--detach", "--close"):
                device.send(*map(str, range(sent, sent + 20)))
                seen += [int(m.event()["payload"]) for _ in range(20)]
                hub.trouble("amqp", kind, "1")  # met by the next event, which is not handed out then
                device.send(*map(str, range(sent + 20, sent + 40)))
                seen += [int(m.event()["payload"]) for _ in range(20)]
                sent += 40
            assert seen == list(range(sent)), seen
            m.wait_said("Connection lost", times=3)
            assert m.signal() == -signal.SIGINT and f"{sent} events" in m.error_text()
            assert not m.rest()


@test
def a_hub_that_is_lost_before_the_first_event_costs_none(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("0")
        with Monitor(hub, "--json") as m:
            device.mqtt.__exit__()
            hub.kill()
            m.wait_said("Connection lost")
            hub.start()
            device.connect()
            device.send("1")  # perhaps before it is back
            assert int(m.event()["payload"]) == 1


# ---- what is refused, and by whom ----


@test
def every_failure_names_host_stage_and_remedy(folder):
    with hub_and_device(folder) as (hub, device):
        def fails(code, *words, login_file=None, arguments=()):
            r = run(hub, "monitor", *arguments, login_file=login_file, check=False)
            assert r.returncode == code and all(w in r.stderr for w in words) and not r.stdout, r

        fails(EX_UNAVAILABLE, "localhost", "TLS", "certificate", "--ca-file",
              arguments=["--ca-file", "/etc/ssl/certs/ca-certificates.crt"])
        fails(EX_CONFIG, "/nonexistent", "--ca-file", arguments=["--ca-file", "/nonexistent"])
        fails(EX_UNAVAILABLE, "connecting", "refused", "--amqp-port",
              arguments=["--amqp-port", str(harness.free_port())])
        login = os.path.join(folder, "login")
        with open(hub.login_file, encoding="utf-8") as f:
            text = f.read()
        key = re.search("SharedAccessKey=(.*)", text)[1]
        wrong = "A" * 43 + "="
        write_private(login, text.replace(key, wrong))
        fails(EX_NOPERM, "SASL", "amqp:unauthorized-access", "What to do", login_file=login)
        write_private(login, text.replace("HostName=localhost", "HostName=nobody.invalid"))
        fails(EX_UNAVAILABLE, "nobody.invalid", "name resolution", "HostName", login_file=login)
        endpoint = endpoint_login(hub, folder, key=wrong)
        fails(EX_NOPERM, "token ($cbs)", "401", "What to do", login_file=endpoint)
        with open(endpoint_login(hub, folder), encoding="utf-8") as f:
            write_private(login, re.sub("EntityPath=.*", "EntityPath=nothing-there", f.read()))
        r = run(hub, "monitor", login_file=login, check=False)
        assert r.returncode in (EX_NOTFOUND, EX_NOPERM) and "localhost" in r.stderr, r


@test
def a_hub_that_was_never_reached_is_no_silence(folder):
    with Hub(folder) as hub:
        hub.trouble("amqp", "--refuse", "100000")
        r = run(hub, "monitor", "--timeout", "1s", check=False)
        assert r.returncode == EX_TEMPFAIL and "Cannot read the events" in r.stderr and not r.stdout, r


@test
def bad_input_is_refused_by_name(folder):
    with Hub(folder) as hub:
        for arguments, word in [
            (["--from", "tomorrow"], "--from"), (["--from", ""], "--from"), (["--from", "2999-01-01"], "past"),
            (["--count", "0"], "--count"), (["--count", "x"], "--count"), (["--timeout", "0"], "--timeout"),
            (["--timeout", "soon"], "--timeout"), (["--properties", "none"], "--properties"),
            (["--content", "xml"], "--content"), (["--consumer-group", ""], "--consumer-group"),
            (["--consumer-group", "a/b"], "--consumer-group"), (["a b"], "a b"), (["d1/"], '""'),
            (["x" * 129], "device id"), (["--amqp-port", "0"], "--amqp-port"), (["--nonsense"], "nonsense"),
        ]:
            r = run(hub, "monitor", *arguments, check=False)
            assert r.returncode == EX_USAGE and word in r.stderr and not r.stdout, (arguments, r)
        bad = os.path.join(folder, "bad")
        for text, word in [("Endpoint=sb://h/;EntityPath=e", "SharedAccessKeyName"), ("HostName=h", "SharedAccessKeyName"),
                           ("", ""), ("Endpoint=sb://h/;SharedAccessKeyName=p;SharedAccessKey=k", "EntityPath")]:
            write_private(bad, text)
            r = run(hub, "monitor", login_file=bad, check=False)
            assert r.returncode == EX_CONFIG and word in r.stderr, (text, r)


@test
def verbose_shows_stages_and_frames_without_secrets(folder):
    with hub_and_device(folder) as (hub, device):
        device.send("1")
        r = run(hub, "monitor", "-v", "--from", "earliest", "--count", "1")
        for word in ("Looking up localhost", "verified", "sasl-init", "The events are at", "put-token", "attach"):
            assert word in r.stderr, word
        assert "sig=***" in r.stderr and not re.search("sig=[A-Za-z0-9%]", r.stderr)


if __name__ == "__main__":
    harness.main()
