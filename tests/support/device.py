"""device.py: a device at the hub's MQTT door, by hand: what is sent is exactly what the test says."""
import base64
import collections
import contextlib
import os
import socket
import ssl

from harness import EventLog, Hub
from registry import API, Registry, token


def random_key():
    return base64.b64encode(os.urandom(32)).decode()


def key_of(device, which="primaryKey"):
    return device["authentication"]["symmetricKey"][which]


def user_name(client_id):
    return f"localhost/{client_id}/?{API}"


def device_token(device, key, **kwargs):
    return token(f"localhost/devices/{device}", key, **kwargs)


Delivery = collections.namedtuple("Delivery", "topic body qos mid dup")


class Mqtt:
    """MQTT 3.1.1."""

    def __init__(self, hub, certificate=None):
        context = ssl.create_default_context(cafile=hub.ca_file)
        if certificate:
            context.load_cert_chain(*certificate)
        raw = socket.create_connection(("127.0.0.1", hub.mqtt_port), timeout=60)
        self.socket = context.wrap_socket(raw, server_hostname="localhost")
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    @staticmethod
    def text(data):
        data = data.encode() if isinstance(data, str) else data
        return len(data).to_bytes(2, "big") + data

    def send(self, kind, body):
        length, n = b"", len(body)
        while True:
            n, digit = n >> 7, n & 127
            length += bytes([digit | (128 if n else 0)])
            if not n:
                break
        self.socket.sendall(bytes([kind]) + length + body)

    def receive(self):
        """(kind, body) of the next packet; None when the hub has cut the connection."""
        while True:
            packet = self._take()
            if packet:
                return packet
            try:
                data = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError, BrokenPipeError):
                return None
            if not data:
                return None
            self.buffer += data

    def _take(self):
        """The next whole packet of the buffer."""
        length = 0
        for i, digit in enumerate(self.buffer[1:5]):
            length |= (digit & 127) << 7 * i
            if digit < 128:
                end = 2 + i + length
                if len(self.buffer) < end:
                    return None
                packet, self.buffer = self.buffer[:end], self.buffer[end:]
                return packet[0], packet[2 + i:]
        return None

    def receive_message(self):
        """(topic, body) of the next packet, which must be a PUBLISH of QoS 0."""
        kind, body = self.receive()
        assert kind == 0x30, (kind, body)
        n = int.from_bytes(body[:2], "big")
        return body[2:2 + n].decode(), body[2 + n:]

    def receive_delivery(self):
        """The next packet, which must be a PUBLISH, as a Delivery."""
        kind, body = self.receive()
        assert kind & 0xF0 == 0x30, (kind, body)
        n, qos = int.from_bytes(body[:2], "big"), kind >> 1 & 3
        rest = body[2 + n:]
        mid = int.from_bytes(rest[:2], "big") if qos else None
        return Delivery(body[2:2 + n].decode(), rest[2 if qos else 0:], qos, mid, bool(kind & 8))

    def acknowledge(self, mid):
        self.send(0x40, mid.to_bytes(2, "big"))

    def connect(self, client_id, password=None, user=None, level=4, clean=False, keep_alive=60):
        flags = (2 if clean else 0) | 0x80 | (0x40 if password is not None else 0)
        body = self.text("MQTT") + bytes([level, flags]) + keep_alive.to_bytes(2, "big") + self.text(client_id)
        body += self.text(user or user_name(client_id))
        if password is not None:
            body += self.text(password)
        self.send(0x10, body)
        answer = self.receive()
        return answer and answer[1][1]

    def publish(self, topic, body, qos=1, mid=1, retain=False):
        mid_bytes = mid.to_bytes(2, "big") if qos else b""
        self.send(0x30 | qos << 1 | retain, self.text(topic) + mid_bytes + body)

    def subscribe(self, topic, qos=1):
        self.send(0x82, b"\0\1" + self.text(topic) + bytes([qos]))


@contextlib.contextmanager
def hub_with_device(folder, device="d1", **hub_arguments):
    """Yields (hub, registry, the device's primary key)."""
    with Hub(folder, **hub_arguments) as hub:
        registry = Registry(hub)
        yield hub, registry, key_of(registry.create(device))


def events(hub):
    log = EventLog(os.path.join(hub.folder, "events.jsonl"))
    log.keep = []
    log.poll()
    return log.keep
