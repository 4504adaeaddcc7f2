#!/usr/bin/env python3
"""Goal: iothubctl c2d send and feedback: a message reaches the device as it was given, what became of it is told by name
and exit code, feedback of others stays with the hub. Method: devices that speak MQTT by hand, the emulator."""
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import urllib.parse

import harness
from device import Mqtt, device_token, key_of
from harness import Hub, InBackground, test, write_private
from monitor import Monitor, run
from registry import Registry

EX_USAGE, EX_DATAERR, EX_NOTFOUND, EX_NOINPUT, EX_OFFLINE, EX_UNAVAILABLE, EX_TEMPFAIL, EX_NOPERM = (
    64, 65, 66, 66, 68, 69, 75, 77)


def send(hub, *arguments, check=True, **kwargs):
    return run(hub, "c2d", "send", *arguments, check=check, **kwargs)


class Listener:
    """A device that is connected and takes its messages; those are acknowledged when the test says so."""

    def __init__(self, hub, name="d1", key=None):
        self.name, self.key = name, key or key_of(Registry(hub).create(name))
        self.hub = hub

    def __enter__(self):
        self.mqtt = Mqtt(self.hub).__enter__()
        assert self.mqtt.connect(self.name, device_token(self.name, self.key)) == 0
        self.mqtt.subscribe(f"devices/{self.name}/messages/devicebound/#")
        assert self.mqtt.receive()[0] == 0x90
        return self

    def __exit__(self, *exception):
        self.mqtt.__exit__(*exception)

    def take(self, acknowledge=True):
        """(properties, body) of the next message."""
        d = self.mqtt.receive_delivery()
        if acknowledge:
            self.mqtt.acknowledge(d.mid)
        bag = d.topic.split("/devicebound/", 1)[1]
        return dict(urllib.parse.parse_qsl(bag, keep_blank_values=True)), d.body


@test
def a_message_reaches_the_device_as_it_was_given(folder):
    with Hub(folder) as hub, Listener(hub) as device:
        said = send(hub, "d1", "slow down", "-p", "a=b=c", "--property", "grün=1", "--message-id", "m 1",
                    "--correlation-id", "c1", "--user-id", "me", "--content-type", "text/plain",
                    "--content-encoding", "utf-8", "--expires", "10min")
        assert said.stdout == "m 1: accepted\n", said
        properties, body = device.take()
        assert body == b"slow down"
        for name, value in {"a": "b=c", "grün": "1", "$.mid": "m 1", "$.cid": "c1", "$.uid": "me",
                            "$.ct": "text/plain", "$.ce": "utf-8"}.items():
            assert properties.get(name) == value, (name, properties)
        assert "$.exp" in properties and properties["$.to"] == "/devices/d1/messages/devicebound", properties


@test
def the_body_comes_from_a_file_or_from_standard_input(folder):
    with Hub(folder) as hub, Listener(hub) as device:
        path = os.path.join(folder, "body")
        with open(path, "wb") as f:
            f.write(bytes(range(256)))
        send(hub, "d1", "--file", path)
        assert device.take()[1] == bytes(range(256))
        send(hub, "d1", input="from a pipe")
        assert device.take()[1] == b"from a pipe"
        send(hub, "d1", "--file", "-", input="as well")
        assert device.take()[1] == b"as well"
        send(hub, "d1", "")
        assert device.take()[1] == b""
        with open(path, "wb") as f:
            f.truncate(65537)
        r = send(hub, "d1", "--file", path, check=False)
        assert r.returncode == EX_DATAERR and "64 KiB" in r.stderr, r
        r = send(hub, "d1", "--file", path + ".none", check=False)
        assert r.returncode == EX_NOINPUT and ".none" in r.stderr, r


@test
def ids_are_made_and_told_as_json(folder):
    with Hub(folder) as hub:
        Registry(hub).create("d1")
        ids = [json.loads(send(hub, "d1", "x", "--json").stdout) for _ in range(2)]
        assert ids[0]["messageId"] != ids[1]["messageId"] and ids[0]["deviceId"] == "d1"
        assert ids[0]["state"] == "accepted" and re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
                                                             ids[0]["messageId"])


@test
def an_id_of_any_characters_is_reached(folder):
    name = "a%2Fb:c@d$'(1)*"
    with Hub(folder) as hub:
        key_of(Registry(hub).create(name))
        send(hub, name, "x")
        assert "1 messages to" in run(hub, "c2d", "purge", name).stdout


@test
def waiting_tells_that_the_device_took_it(folder):
    with Hub(folder) as hub, Listener(hub) as device:
        waiting = InBackground(lambda: send(hub, "d1", "x", "--wait", "--json"))
        device.take()
        told = json.loads(waiting.result().stdout)
        assert told["state"] == "Success" and told["deviceId"] == "d1", told


@test
def waiting_tells_other_ends_by_exit_codes_of_their_own(folder):
    with Hub(folder) as hub:
        key = key_of(Registry(hub).create("d1"))
        r = send(hub, "d1", "x", "--wait", "--expires", "1s", check=False)
        assert r.returncode == EX_OFFLINE and r.stdout.endswith(": Expired\n"), r

        waiting = InBackground(lambda: send(hub, "d1", "y", "--wait", check=False))
        harness.wait_until(lambda: "1 messages" in run(hub, "c2d", "purge", "d1").stdout, "a message to purge")
        r = waiting.result()
        assert r.returncode == EX_NOTFOUND and r.stdout.endswith(": Purged\n"), r

        r = send(hub, "d1", "z", "--wait", "--timeout", "500ms", check=False)
        assert r.returncode == EX_TEMPFAIL and "with the hub" in r.stderr, r
        with Listener(hub, key=key) as device:
            assert device.take()[1] == b"z"


@test
def feedback_of_others_stays_with_the_hub(folder):
    with Hub(folder) as hub, Listener(hub, "d1") as one, Listener(hub, "d2") as two:
        send(hub, "d2", "theirs", "--ack", "full", "--message-id", "theirs")
        two.take()
        waiting = InBackground(lambda: send(hub, "d1", "ours", "--wait"))
        one.take()
        assert waiting.result().stdout.endswith(": Success\n")
        records = [json.loads(line) for line in run(hub, "feedback", "--count", "1", "--json").stdout.splitlines()]
        assert "theirs" in [r["originalMessageId"] for r in records], records


@test
def feedback_is_printed_once(folder):
    with Hub(folder) as hub, Listener(hub) as device:
        with Monitor(hub, verb="feedback") as m:
            for i in range(3):
                send(hub, "d1", "x", "--ack", "positive", "--message-id", f"m{i}")
                device.take()
            lines = [m.line() for _ in range(3)]
            assert sorted(re.search(r"message_id=(m\d)", line)[1] for line in lines) == ["m0", "m1", "m2"], lines
            assert all("d1: Success" in line for line in lines), lines
            assert m.signal() == -signal.SIGINT
        r = run(hub, "feedback", "--timeout", "2s")
        assert r.stdout == "", r
        r = run(hub, "feedback", "--timeout", "1s", "--count", "1", check=False)
        assert r.returncode == EX_TEMPFAIL, r


@test
def feedback_goes_on_when_the_hub_comes_back(folder):
    with Hub(folder) as hub:
        key = key_of(Registry(hub).create("d1"))
        with Monitor(hub, verb="feedback") as m:
            hub.kill()
            m.wait_said("Connection lost")
            hub.start()
            m.wait_said("Waiting on")
            with Listener(hub, key=key) as device:
                send(hub, "d1", "x", "--ack", "full", "--message-id", "m")
                device.take()
                assert "message_id=m" in m.line()


@test
def feedback_goes_on_when_the_hub_ends_the_connection(folder):
    with Hub(folder) as hub, Listener(hub) as device:
        with Monitor(hub, verb="feedback") as m:
            for i, kind in enumerate(("--close", "--detach", "--close")):
                hub.trouble("amqp", kind, "1")
                # The message itself would meet it, so the emulator's own command sends it.
                hub.trouble("send", "d1", "x", "--ack", "full", "--message-id", f"m{i}")
                device.take()
                m.wait_said("Connection lost", times=i + 1)
                line = m.line()
                assert f"message_id=m{i}" in line, line
            assert m.signal() == -signal.SIGINT
            assert not m.rest()


@test
def what_the_hub_refuses_has_its_reason_and_remedy(folder):
    with Hub(folder) as hub:
        Registry(hub).create("d1")

        def fails(code, *words, arguments, login_file=None):
            r = send(hub, *arguments, check=False, login_file=login_file)
            assert r.returncode == code and all(w in r.stderr for w in words) and not r.stdout, r

        fails(EX_NOTFOUND, "device not found", "404001", "What to do", arguments=["nobody", "x"])
        for device in ("d1", "nobody"):  # the hub does not tell which of both is missing
            fails(EX_NOTFOUND, "module not found, or its device is missing", "404010",
                  f"iothubctl module list {device}\n", arguments=[device, "x", "--module", "none"])
        for _ in range(50):
            send(hub, "d1", "x")
        fails(EX_TEMPFAIL, "50 messages", "403004", "c2d purge", arguments=["d1", "x"])
        login = os.path.join(folder, "login")
        with open(hub.login_file, encoding="utf-8") as f:
            write_private(login, re.sub("SharedAccessKey=.*", "SharedAccessKey=" + "A" * 43 + "=", f.read()))
        fails(EX_NOPERM, "SASL", "What to do", arguments=["d1", "x"], login_file=login)
        r = run(hub, "feedback", check=False, login_file=login)
        assert r.returncode == EX_NOPERM and "SASL" in r.stderr, r
        r = send(hub, "d1", "x", "--amqp-port", str(harness.free_port()), check=False)
        assert r.returncode == EX_UNAVAILABLE and "connecting" in r.stderr, r


class AcceptingPeer:
    """Speaks AMQP as far as one message: accepts it and ends the connection, in one piece."""

    def __init__(self, hub):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(os.path.join(hub.folder, "server.pem"), os.path.join(hub.folder, "server-key.pem"))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.n = 0

    @staticmethod
    def _list(code, *items):
        body = struct.pack(">I", len(items)) + b"".join(items)
        return b"\0\x53" + bytes([code]) + b"\xd0" + struct.pack(">I", len(body)) + body

    @staticmethod
    def _text(code, text):
        return bytes([code, len(text)]) + text.encode()

    @staticmethod
    def _uint(n):
        return b"\x70" + struct.pack(">I", n)

    def _frame(self, kind, *performative):
        body = self._list(*performative)
        return struct.pack(">IBBH", len(body) + 8, 2, kind, 0) + body

    def _receive(self, f):
        """The performative's code of the next frame; None: the end."""
        head = f.read(8)
        if len(head) < 8:
            return None
        if head[:4] == b"AMQP":
            return "SASL" if head[4] == 3 else "AMQP"
        body = f.read(struct.unpack(">I", head[:4])[0] - 8)
        return body[2] if body else 0

    def answers(self):
        n, text = self._uint, self._text
        error = self._list(0x1d, text(0xa3, "amqp:connection:forced"), text(0xa1, "moving"))
        return {
            "SASL": b"AMQP\x03\1\0\0" + self._frame(1, 0x40, text(0xa3, "PLAIN")),
            0x41: self._frame(1, 0x44, b"\x50\0"),
            "AMQP": b"AMQP\0\1\0\0" + self._frame(0, 0x10, text(0xa1, "peer")),
            0x11: self._frame(0, 0x11, b"\x60\0\0", n(0), n(100), n(100)),
            0x12: self._frame(0, 0x12, text(0xa1, "iothubctl-c2d"), n(0), b"\x41", b"\x50\2", b"\x50\0",
                              self._list(0x28), self._list(0x29, text(0xa1, "/messages/devicebound"))) +
                  self._frame(0, 0x13, n(0), n(100), n(0), n(100), n(0), n(0), n(10)),
            0x14: self._frame(0, 0x15, b"\x41", n(0), n(0), b"\x41", self._list(0x24)) + self._frame(0, 0x18, error),
        }

    def serve(self):
        answers = self.answers()
        client, _ = self.server.accept()
        with self.server, self.tls.wrap_socket(client, server_side=True) as connection, \
                connection.makefile("rb") as f, contextlib.suppress(OSError):
            while (code := self._receive(f)) is not None:
                self.n += code == 0x14
                if code in answers:
                    connection.sendall(answers[code])


@test
def a_message_that_was_accepted_counts_as_sent_though_the_connection_ends_with_it(folder):
    with Hub(folder) as hub:
        peer = AcceptingPeer(hub)
        serving = InBackground(peer.serve)
        r = send(hub, "d1", "x", "--message-id", "m", "--amqp-port", str(peer.port))
        assert r.stdout == "m: accepted\n" and not r.stderr, r
        serving.result()
        assert peer.n == 1


@test
def a_message_that_the_hub_never_took_is_not_called_accepted(folder):
    with Hub(folder) as hub:
        Registry(hub).create("d1")
        hub.trouble("amqp", "--refuse", "100000")
        r = send(hub, "d1", "x", "--wait", "--timeout", "1s", check=False)
        assert r.returncode == EX_TEMPFAIL and "not sent in time" in r.stderr and not r.stdout, r
        r = run(hub, "feedback", "--timeout", "1s", check=False)
        assert r.returncode == EX_TEMPFAIL and "Cannot read the feedback" in r.stderr and not r.stdout, r


@test
def bad_input_is_refused_by_name(folder):
    with Hub(folder) as hub:
        for arguments, word in [
            (["a b", "x"], "a b"), (["d1", "x", "--module", "a b"], "module id"), (["d1", "x", "y"], "Too many"),
            ([], "argument"), (["d1", "x", "-p", "=v"], "--property"), (["d1", "x", "-p", "n"], "--property"),
            (["d1", "x", "--ack", "some"], "--ack"), (["d1", "x", "--ack", "positive", "--wait"], "--wait"),
            (["d1", "x", "--timeout", "1s"], "--timeout"), (["d1", "x", "--expires", "0"], "--expires"),
            (["d1", "x", "--expires", "5d"], "two days"),
            (["d1", "x", "--expires", "yesterday"], "--expires"), (["d1", "x", "--expires", "never"], "--expires"),
            (["d1", "x", "--message-id", ""], "--message-id"), (["d1", "x", "--file", "/dev/null"], "--file"),
        ]:
            r = send(hub, *arguments, check=False)
            assert r.returncode == EX_USAGE and word in r.stderr and not r.stdout, (arguments, r)
        r = run(hub, "simulate", "--count", "0", check=False)
        assert r.returncode == EX_USAGE and "--count" in r.stderr, r
        for arguments in (["--count", "0"], ["--timeout", "x"], ["d1"]):
            r = run(hub, "feedback", *arguments, check=False)
            assert r.returncode == EX_USAGE and not r.stdout, (arguments, r)


if __name__ == "__main__":
    harness.main()
