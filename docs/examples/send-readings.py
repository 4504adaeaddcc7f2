#!/usr/bin/env python3
"""Sends each line of standard input as one message.

    send-readings.py [SOCKET [STREAM]] <readings

STREAM is 32 hex digits. Started again with the same one and the same
input, the program skips what is stored already.
"""
import base64
import json
import secrets
import socket
import sys
import time

NOT_NOW = ("OutboxFull", "DiskError", "LimitExceeded", "ShuttingDown")
MESSAGES_PER_CALL = 1000


class Refused(Exception):
    pass


def fail(what):
    print(what, file=sys.stderr)
    sys.exit(65)


class Sender:
    def __init__(self, path, stream):
        self.path = path
        self.stream = stream
        self.socket = None
        self.stored = 0  # so many messages of the stream are safe

    def call(self, method, **parameters):
        """Returns the reply's parameters. OSError: no connection."""
        call = {"method": f"io.iothubd.{method}", "parameters": parameters}
        self.socket.sendall(json.dumps(call).encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the connection was closed")
            reply += data
        reply = json.loads(reply[:-1])
        if "error" in reply:
            name = reply["error"].removeprefix("io.iothubd.")
            raise Refused(name, reply.get("parameters"))
        return reply["parameters"]

    def connect(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.path)
        stored = self.call("Resume", stream=self.stream)["next"]
        if stored < self.stored:
            fail("iothubd has forgotten this stream")
        self.stored = stored

    def send(self, position, lines):
        """Returns when lines, the first of them at position, are safe."""
        while self.stored < position + len(lines):
            try:
                if not self.socket:
                    self.connect()
                    continue
                rest = lines[self.stored - position:]
                self.call("Send", stream=self.stream, position=self.stored,
                          messages=[message(line) for line in rest])
                self.stored += len(rest)
            except OSError as e:
                print(f"trying again: {e}", file=sys.stderr)
                self.socket = None
                time.sleep(1)
            except Refused as e:
                if e.args[0] not in NOT_NOW:
                    fail(f"behind message {self.stored}: {e}")
                print(f"trying again: {e}", file=sys.stderr)
                time.sleep(1)


def message(line):
    try:
        return {"body": line.decode()}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(line).decode()}


def read_lines():
    """What has come by now: many lines of a file, one of a sensor."""
    rest = b""
    while data := sys.stdin.buffer.read1(65536):
        *lines, rest = (rest + data).split(b"\n")
        for i in range(0, len(lines), MESSAGES_PER_CALL):
            yield lines[i:i + MESSAGES_PER_CALL]
    if rest:
        yield [rest]


path = sys.argv[1] if len(sys.argv) > 1 else "/run/iothubd/iothubd.sock"
stream = sys.argv[2] if len(sys.argv) > 2 else secrets.token_hex(16)
sender = Sender(path, stream)
position = 0
for lines in read_lines():
    sender.send(position, lines)
    position += len(lines)
print(position, "readings are safe")
