#!/usr/bin/env python3
"""chaos_proxy.py: a TCP proxy between daemon and hub that misbehaves on request.

In a test:

    with ChaosProxy(hub.mqtt_port) as proxy:    # the daemon's mqtt_port is proxy.port
        proxy.cut()                             # every connection ends now; new ones are welcome
        proxy.cut_after(10000)                  # the same, once that many more bytes went to the hub
        proxy.refuse()                          # connections end, new ones get "connection refused"
        proxy.stall()                           # connections stay, new ones are accepted, no byte moves
        proxy.half_open()                       # the hub's side ends, the daemon's stays and hears nothing
        proxy.delay(0.05)                       # every run of bytes arrives that much later
        proxy.slow(20000)                       # bytes a second and direction
        proxy.restore()                         # as it was

From a shell: `chaos_proxy.py --target PORT --port-file FILE --control SOCKET` and then
`chaos_proxy.py --control SOCKET --send "cut"`; the commands have the names above.
"""
import argparse
import contextlib
import os
import socket
import struct
import sys
import threading
import time

CHUNK_BYTES = 65536


class _Link:
    """One connection: two sockets and a thread for each direction."""

    def __init__(self, proxy, near, far):
        self.proxy = proxy
        self.near = near
        self.far = far
        self.closing = False
        self.detached = False  # half open: what the near side sends goes nowhere, and it hears nothing
        self.n_pumps = 2

    def start(self):
        for source, sink, to_hub in ((self.near, self.far, True), (self.far, self.near, False)):
            threading.Thread(target=self._pump, args=(source, sink, to_hub), daemon=True).start()

    def _pump(self, source, sink, to_hub):
        try:
            while True:
                data = source.recv(CHUNK_BYTES)
                if not data:
                    break
                if self.detached:
                    if to_hub:
                        continue
                    break
                if not self.proxy._pass(self, len(data), to_hub):
                    break
                sink.sendall(data)
        except OSError:
            pass  # either side ended; both are ended below
        if not (self.detached and not to_hub):
            self.close()
        with self.proxy.changed:
            self.n_pumps -= 1
            if self.n_pumps == 0:
                self.near.close()
                self.far.close()
                self.proxy.links.discard(self)

    def close(self):
        """Ends both sides; the pumps see it and close."""
        with self.proxy.changed:
            self.closing = True
            self.proxy.changed.notify_all()
        for s in (self.near, self.far):
            _end(s)

    def detach(self):
        self.detached = True
        _end(self.far)


def _end(s):
    with contextlib.suppress(OSError):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.shutdown(socket.SHUT_RDWR)


class ChaosProxy:
    def __init__(self, target_port, address="127.0.0.1"):
        """address: where it listens; another than the loopback's only where the network is the test's own."""
        self.address = address
        self.target_port = target_port
        self.changed = threading.Condition()
        self.links = set()
        self.stopped = False
        self.n_connections = 0
        self.n_bytes_to_hub = 0
        self.mode = "pass"
        self.delay_sec = 0.0
        self.bytes_per_sec = 0
        self.cut_after_bytes = None
        self.refusing = False  # whatever the mode: a stall that follows does not open the port
        self.listener = self._bind(0)
        self.port = self.listener.getsockname()[1]

    def _bind(self, port):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((self.address, port))
        return s

    def __enter__(self):
        self._listen()
        return self

    def __exit__(self, *exception):
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        self._unlisten()
        self.cut()
        self.listener.close()

    # ---- commands ----

    def restore(self):
        with self.changed:
            was_refusing, self.refusing = self.refusing, False
            self.mode, self.delay_sec, self.bytes_per_sec, self.cut_after_bytes = "pass", 0.0, 0, None
            self.changed.notify_all()
        if was_refusing:
            self._listen()

    def cut(self):
        with self.changed:
            links = list(self.links)
        for link in links:
            link.close()

    def cut_after(self, n_bytes):
        with self.changed:
            self.cut_after_bytes = n_bytes

    def refuse(self):
        with self.changed:
            if self.refusing:
                return
            self.refusing, self.mode = True, "refuse"
        self._unlisten()
        self.cut()

    def stall(self):
        with self.changed:
            self.mode = "stall"

    def half_open(self):
        with self.changed:
            links = list(self.links)
        for link in links:
            link.detach()

    def delay(self, seconds):
        with self.changed:
            self.delay_sec = float(seconds)

    def slow(self, bytes_per_sec):
        with self.changed:
            self.bytes_per_sec = int(bytes_per_sec)

    # ---- inside ----

    def _pass(self, link, n, to_hub):
        """Holds n bytes back as the mode demands. False: drop them, the link ends."""
        with self.changed:
            if to_hub:
                self.n_bytes_to_hub += n
                if self.cut_after_bytes is not None:
                    self.cut_after_bytes -= n
                    if self.cut_after_bytes <= 0:
                        self.cut_after_bytes = None
                        return False
            pause_sec = self.delay_sec
            if self.bytes_per_sec:
                pause_sec += n / self.bytes_per_sec
            end = time.monotonic() + pause_sec
            while not (link.closing or self.stopped or link.detached):
                if self.mode == "stall":
                    self.changed.wait()
                    continue
                rest = end - time.monotonic()
                if rest <= 0:
                    return True
                self.changed.wait(rest)
            return False

    def _listen(self):
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _unlisten(self):
        """Stops listening but keeps the port: a second socket is bound to it before the first lets go, and one that
        is bound without listening answers with a reset, as a host without the service does."""
        old = self.listener
        with contextlib.suppress(OSError):
            old.shutdown(socket.SHUT_RDWR)
        self.listener = self._bind(self.port)
        old.close()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket()
            try:
                far.connect(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                far.close()
                continue
            for s in (near, far):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(self, near, far)
            with self.changed:
                refused = self.stopped or self.mode == "refuse"
                if not refused:
                    self.n_connections += 1
                    self.links.add(link)
            if refused:
                near.close()
                far.close()
            else:
                link.start()


COMMANDS = ("restore", "cut", "cut_after", "refuse", "stall", "half_open", "delay", "slow")


def _serve(proxy, path):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    server.bind(path)
    server.listen(8)
    while True:
        connection, _ = server.accept()
        with connection:
            words = connection.makefile().readline().split()
            try:
                if not words or words[0] not in COMMANDS:
                    raise ValueError(f"one of: {' '.join(COMMANDS)}")
                getattr(proxy, words[0])(*(float(w) for w in words[1:]))
                connection.sendall(b"ok\n")
            except (TypeError, ValueError) as e:
                connection.sendall(f"{e}\n".encode())


def main():
    parser = argparse.ArgumentParser(description="a TCP proxy that misbehaves on request")
    parser.add_argument("--target", type=int, help="port on 127.0.0.1 to pass connections on to")
    parser.add_argument("--port-file", help="file that gets the number of the port listened on")
    parser.add_argument("--control", required=True, help="path of the socket that takes commands")
    parser.add_argument("--send", help="a command for the proxy behind --control")
    options = parser.parse_args()

    if options.send:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(options.control)
            s.sendall(options.send.encode() + b"\n")
            answer = s.makefile().readline().strip()
        if answer != "ok":
            sys.exit(answer)
        return

    with ChaosProxy(options.target) as proxy:
        with open(f"{options.port_file}.new", "w", encoding="utf-8") as f:
            f.write(f"{proxy.port}\n")
        os.rename(f"{options.port_file}.new", options.port_file)
        _serve(proxy, options.control)


if __name__ == "__main__":
    main()
