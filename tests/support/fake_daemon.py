"""fake_daemon.py: the interface of iothubd without disk or hub, which errs on request. It tests what iothubctl does
about trouble that a real daemon has once in a year.

    with FakeDaemon(folder) as d:
        d.on_send = lambda number, parameters: ...   # before each Send; number counts from 1
        d.capacity = 100                             # OutboxFull beyond
        ...
        d.bodies()                                   # what was stored, in order

What on_send returns decides: None (as usual), a tuple (error name, parameters), LOSE_CALL (the connection ends, nothing
is stored) or LOSE_REPLY (stored, then the connection ends).
"""
import base64
import contextlib
import json
import os
import socket
import threading

FRAME_BYTES_MAX = 1024 * 1024
LOSE_CALL = "lose call"
LOSE_REPLY = "lose reply"


class _Error(Exception):
    def __init__(self, name, parameters=None):
        super().__init__(name)
        self.name = name if "." in name else f"io.iothubd.{name}"
        self.parameters = parameters or {}


class _Lost(Exception):
    pass


class _Client:
    def __init__(self, daemon, connection):
        self.daemon = daemon
        self.connection = connection
        self.lock = threading.Lock()
        self.stream = None  # subscribed to

    def reply(self, parameters, continues=False, error=None):
        message = {"parameters": parameters}
        if error:
            message["error"] = error
        if continues:
            message["continues"] = True
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\0")

    def run(self):
        buffer = b""
        with contextlib.suppress(OSError, _Lost):
            while True:
                data = self.connection.recv(1 << 20)
                if not data:
                    break
                buffer += data
                *frames, buffer = buffer.split(b"\0")
                for frame in frames:
                    self._serve(frame)
                assert len(buffer) < FRAME_BYTES_MAX
        self.close()

    def _serve(self, frame):
        if len(frame) >= FRAME_BYTES_MAX:
            self.daemon.complaints.append(f"a frame of {len(frame)} bytes")
        call = json.loads(frame)
        try:
            result = self.daemon.handle(self, call["method"], call.get("parameters") or {})
        except _Error as e:
            self.reply(e.parameters, error=e.name)
        else:
            if result is not None:
                self.reply(result, continues=call.get("more", False))

    def close(self):
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        self.daemon.clients.discard(self)


class FakeDaemon:
    def __init__(self, folder):
        self.folder = folder
        self.socket = os.path.join(folder, "fake.sock")
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.clients = set()
        self.messages = []  # {"stream", "position", "message", "state"}; the sequence number is the index + 1
        self.next = {}  # of each stream
        self.n_sends = 0
        self.on_send = None
        self.capacity = None
        self.confirms = True  # at once
        self.garbage = False
        self.replies = {}  # parameters to give instead, by method
        self.calls = []  # names of the methods
        self.complaints = []  # about what no sender may do
        self.listener = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()

    def start(self):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.socket)
        listener.listen(16)
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self):
        """As a daemon that is killed; what it stored stays."""
        if self.listener:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
            os.unlink(self.socket)
        for client in list(self.clients):
            with contextlib.suppress(OSError):
                client.connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                client = _Client(self, connection)
                with self.lock:
                    self.clients.add(client)
                threading.Thread(target=client.run, daemon=True).start()

    def wait(self, condition, what):
        with self.changed:
            if not self.changed.wait_for(condition, 60):
                raise AssertionError(f"not within 60 s: {what}")

    def wait_count(self, n):
        self.wait(lambda: len(self.messages) >= n, f"{n} messages")

    def bodies(self):
        with self.lock:
            return [body(m["message"]) for m in self.messages]

    def settle(self, state="confirmed", reason=None):
        """Ends everything that is queued."""
        with self.changed:
            self._settle(range(len(self.messages)), state, reason)

    def _settle(self, indexes, state, reason=None):
        ends = {}
        for i in indexes:
            m = self.messages[i]
            if m["state"] == "queued":
                m["state"] = state
                m["reason"] = reason
                ends.setdefault(m["stream"], []).append(self._end(i))
        for client in list(self.clients):
            if client.stream in ends:
                client.reply({"ends": ends[client.stream]}, continues=True)
        self.changed.notify_all()

    def _end(self, i):
        m = self.messages[i]
        end = {
            "sequenceNumber": i + 1,
            "messageId": m["message"].get("messageId", f"made-{i + 1}"),
            "state": m["state"],
        }
        if m["stream"]:
            end["position"] = m["position"]
        if m["reason"]:
            end["reason"] = m["reason"]
        return end

    # -- methods --

    def handle(self, client, method, parameters):
        with self.changed:
            name = method.removeprefix("io.iothubd.")
            self.calls.append(name)
            self.changed.notify_all()
            if self.garbage:
                client.connection.sendall(b"[1,2\0")
                return None
            if name in self.replies:
                return self.replies[name]
            return getattr(self, f"_{name.lower()}")(client, parameters)

    def _send(self, client, parameters):
        messages = parameters["messages"]
        stream, position = parameters.get("stream"), parameters.get("position")
        self.n_sends += 1
        what = self.on_send(self.n_sends, parameters) if self.on_send else None
        if what == LOSE_CALL:
            client.close()
            raise _Lost
        if isinstance(what, tuple):
            raise _Error(*what)
        if not messages:
            self.complaints.append("a call without messages")
        if position > self.next.get(stream, 0):
            raise _Error("StreamGap", {"next": self.next.get(stream, 0)})
        for i, message in enumerate(messages):
            if "faulty" in message.get("body", ""):
                raise _Error("InvalidMessage", {"index": i, "field": "body", "reason": "it is faulty"})
        new = messages[self.next.get(stream, 0) - position :]
        if self.capacity is not None and len(self.messages) + len(new) > self.capacity:
            raise _Error("OutboxFull", {"reason": "full, says the test"})
        first = len(self.messages)
        for message in new:
            position_now = self.next.get(stream, 0)
            self.messages.append(
                {"stream": stream, "position": position_now, "message": message, "state": "queued", "reason": None}
            )
            self.next[stream] = position_now + 1
        self.changed.notify_all()
        if what == LOSE_REPLY:
            client.close()
            raise _Lost
        client.reply({"first": first + 1, "last": len(self.messages), "duplicates": len(messages) - len(new)})
        if self.confirms:
            self._settle(range(first, len(self.messages)), "confirmed")
        return None

    def _resume(self, client, parameters):
        return {"next": self.next.get(parameters["stream"], 0)}

    def _subscribe(self, client, parameters):
        client.stream = parameters["stream"]
        return {}

    def _flush(self, client, parameters):
        if any(m["state"] == "queued" for m in self.messages):
            raise _Error("LimitExceeded", {"reason": "the test wants it all settled before"})
        return {}

    def _getmessage(self, client, parameters):
        for i, m in enumerate(self.messages):
            if parameters.get("sequenceNumber") == i + 1 or (
                "messageId" in parameters and m["message"].get("messageId") == parameters["messageId"]
            ):
                return {"message": self._end(i)}
        raise _Error("NoSuchMessage")

    def _getstatus(self, client, parameters):
        count = {s: sum(m["state"] == s for m in self.messages) for s in ("confirmed", "expired", "queued", "rejected")}
        return {
            "version": "0",
            "hub": "hub.example",
            "device": "windmill",
            "connected": True,
            "connectionState": "connected",
            "connectionSinceUSec": 1,
            "sendStatus": "BUSY" if count["queued"] else "IDLE",
            "accepted": len(self.messages),
            "confirmed": count["confirmed"],
            "expired": count["expired"],
            "dropped": 0,
            "rejected": count["rejected"],
            "queued": count["queued"],
            "inFlight": 0,
            "lanes": {"normal": {"queued": count["queued"], "queuedBytes": 2048, "oldestAgeUSec": 5000000}},
            "retry": {"attempt": 2, "lastErrorClass": "dns", "lastError": "no such host"},
            "outbox": {"usedBytes": 1536, "maxBytes": 1 << 20, "keepFreeBytes": 0, "full": "reject"},
        }


def body(message):
    """A message's body as bytes."""
    if "bodyBase64" in message:
        return base64.b64decode(message["bodyBase64"])
    return message.get("body", "").encode()
