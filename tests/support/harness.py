"""harness.py: what the integration tests share: a TAP runner, the emulator and the daemon as fixtures on free ports
of 127.0.0.1, a Varlink client, and waiting for events.

A test waits for a condition with a deadline, never for a time to pass. The deadline is generous, because it only
decides how long a broken program is waited for. Whatever a fixture started is ended by its process id.
"""
import base64
import contextlib
import glob
import inspect
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import leaks  # noqa: E402
from chaos_proxy import ChaosProxy  # noqa: E402

SOURCE = os.environ.get("IOTHUBD_SOURCE") or os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
)
BUILD = os.environ.get("IOTHUBD_BUILD") or os.path.join(SOURCE, "build")
IOTHUBD = os.path.join(BUILD, "daemon", "iothubd")
IOTHUBCTL = os.path.join(BUILD, "client", "iothubctl")
# The hub may come from another build: ThreadSanitizer makes nothing of a broker that was built without it.
EMULATOR = os.path.join(os.environ.get("IOTHUBD_EMULATOR_BUILD") or BUILD, "emulator", "iothub-emulator")
LONG = os.environ.get("IOTHUBD_TEST_LONG") == "1"


def sanitizer_runtimes(program):
    """The libraries that a sanitizer wants to be loaded before any other."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"=> (\S*/lib[at]san\.so\S*)", text)


# ---- programs under a checker ----

# Where valgrind and the sanitizers write: a file for each process that did wrong, which fails the test that ran it.
FINDINGS = tempfile.mkdtemp(prefix="iothubd-findings.")
SANITIZERS = sanitizer_runtimes(IOTHUBD)
WRAPPER = os.environ.get("IOTHUBD_TEST_WRAPPER")
INSTRUMENTED = bool(SANITIZERS or WRAPPER)  # slower, and its memory tells nothing


def _script(name, command):
    """A program that runs the command with its own arguments."""
    path = os.path.join(FINDINGS, f".{name}")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o755), "w", encoding="utf-8") as f:
        f.write(f'#!/bin/sh\nexec {command} "$@"\n')
    return path


def _set_up_checkers():
    """The sanitizers' options, and scripts in the place of programs that are run by something else: a wrapper (in it
    @FINDINGS@ is a name for the files that it writes), or with a sanitizer for the broker to find, whose plugin needs
    it. What the broker itself leaves at exit is not ours."""
    os.chmod(FINDINGS, 0o1777)  # some run programs as another user
    log = os.path.join(FINDINGS, "finding")
    asan = f"log_path={log}:exitcode=99:detect_leaks="
    leaks = int(os.geteuid() == 0)  # the check attaches to the program, which lets only root do that
    os.environ["ASAN_OPTIONS"] = f"{asan}{leaks}"
    os.environ["UBSAN_OPTIONS"] = f"log_path={log}:halt_on_error=1:exitcode=99:print_stacktrace=1"
    os.environ["TSAN_OPTIONS"] = f"log_path={log}:exitcode=99"

    programs = [IOTHUBD, IOTHUBCTL, EMULATOR]
    runtimes = sanitizer_runtimes(EMULATOR)
    if runtimes:
        programs[2] = _script("iothub-emulator", f"env LD_PRELOAD={':'.join(runtimes)} ASAN_OPTIONS={asan}0 {EMULATOR}")
    if WRAPPER:
        wrapper = WRAPPER.replace("@FINDINGS@", f"{log}.%p")
        programs[:2] = [_script(os.path.basename(program), f"{wrapper} {program}") for program in programs[:2]]
    return programs


IOTHUBD, IOTHUBCTL, EMULATOR = _set_up_checkers()


def _take_findings():
    """What the checkers wrote since the last call, as lines."""
    lines = []
    for name in sorted(n for n in os.listdir(FINDINGS) if not n.startswith(".")):
        path = os.path.join(FINDINGS, name)
        with open(path, encoding="utf-8", errors="replace") as f:
            lines += f.read().splitlines()
        os.unlink(path)
    return lines


def check_memory(kib, max_kib):
    """Promise P5; what a checker takes on top is not the program's."""
    assert INSTRUMENTED or kib <= max_kib, f"{kib} KiB are more than {max_kib}"


DEADLINE_SEC = 1200 if LONG else 600 if WRAPPER else 120


# ---- TAP ----

_tests = []


class Skip(Exception):
    """Raised by a test whose means this machine lacks; the text says which."""


def need(*programs):
    """Skips where one of them is not installed."""
    for program in programs:
        if not shutil.which(program):
            raise Skip(f"{program} is not installed")


def test(function):
    """Registers a test; its name is the promise, with underscores for spaces."""
    _tests.append(function)
    return function


def long_test(function):
    """A soak that runs with `scripts/test --long` only."""

    def run_or_skip(*arguments):
        if not LONG:
            raise Skip("takes long: scripts/test --long")
        function(*arguments)

    run_or_skip.__name__ = function.__name__
    return test(run_or_skip)


def main():
    """Runs the registered tests whose name contains the first argument (default all), each in a folder of its own."""
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    tests = [t for t in _tests if only in t.__name__]
    print(f"1..{len(tests)}", flush=True)
    failed = 0
    for number, function in enumerate(tests, 1):
        name = function.__name__
        folder = tempfile.mkdtemp(prefix="iothubd-test.")
        keep = False
        try:
            arguments = [folder] if inspect.signature(function).parameters else []
            function(*arguments)
            leaks.check_folder(folder)
            findings = _take_findings()
            if findings:
                raise AssertionError("valgrind or a sanitizer found something:\n" + "\n".join(findings))
            print(f"ok {number} - {name}", flush=True)
        except Skip as reason:
            print(f"ok {number} - {name} # SKIP {reason}", flush=True)
        except Exception:  # the next test runs in any case
            failed += 1
            keep = os.environ.get("IOTHUBD_TEST_KEEP") == "1"
            print(f"not ok {number} - {name}", flush=True)
            for line in traceback.format_exc().splitlines() + _take_findings():
                print(f"#   {line}")
            _print_logs(folder)
            if keep:
                print(f"# kept: {folder}")
            sys.stdout.flush()
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(FINDINGS, ignore_errors=True)
    sys.exit(1 if failed else 0)


def _print_logs(folder):
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if not name.endswith(".log"):
                continue
            path = os.path.join(parent, name)
            with open(path, encoding="utf-8", errors="replace") as f:
                lines = f.read().splitlines()
            print(f"#   --- {os.path.relpath(path, folder)}, last of {len(lines)} lines")
            for line in lines[-40:]:
                print(f"#   {line}")


# ---- waiting ----


def wait_until(condition, what, deadline_sec=None):
    """Returns the first true value of condition(). A deadline that passes is a failure that names what was missed."""
    end = time.monotonic() + (deadline_sec or DEADLINE_SEC)
    pause_sec = 0.002
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_sec or DEADLINE_SEC} s: {what() if callable(what) else what}")
        time.sleep(pause_sec)  # between two looks, not a guess how long something takes
        pause_sec = min(pause_sec * 1.5, 0.1)


def hold_port():
    """A socket bound to a free port of 127.0.0.1 and not listening: as long as it is open nobody else is given the
    port, and a program that sets SO_REUSEADDR can still listen there, also again after it ended."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 0))
    return s


_held = []


def free_port():
    """A port at which nobody listens until this test program has ended."""
    _held.append(hold_port())
    return _held[-1].getsockname()[1]


def stop_process(process, timeout_sec=30):
    """SIGTERM, and SIGKILL to a process that does not end by it. Returns the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_sec)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{process.args[0]} did not end within {timeout_sec} s of SIGTERM") from None
    return process.returncode


class Notify:
    """The receiving end of sd_notify(). A thread takes every message at once, as a service manager does: a datagram
    socket holds only some ten, and whoever sends one more waits."""

    def __init__(self, folder, name):
        self.path = os.path.join(folder, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages = []
        self.caught_up = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while data := self.socket.recv(65536):
            if data == b"CAUGHT-UP":
                self.caught_up.set()
            else:
                self.messages += data.decode().splitlines()
        self.socket.close()

    def read(self):
        """All lines sent before the call."""
        self.caught_up.clear()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"CAUGHT-UP", self.path)
        self.caught_up.wait(DEADLINE_SEC)
        return self.messages

    def close(self):
        """Ends the thread by an empty datagram; the programs send none."""
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"", self.path)
            self.thread.join()
            os.unlink(self.path)

    def wait_ready(self, process, what):
        def ready():
            if process.poll() is not None:
                raise AssertionError(f"{what} ended with {process.returncode} before it was ready")
            return "READY=1" in self.messages

        wait_until(ready, f"{what} is ready")


# ---- the hub ----


class Hub:
    """The emulator with its registry in a folder; start() again after kill() keeps ports and devices."""

    def __init__(self, folder, name="hub", arguments=()):
        self.folder = os.path.join(folder, name)
        os.makedirs(self.folder, exist_ok=True)
        self.arguments = list(arguments)
        self.process = None
        # Chosen and held here: between a stop and the next start another test would be given a port that is free.
        self.held = [hold_port() for _ in range(3)]
        self.mqtt_port, self.https_port, self.amqp_port = (s.getsockname()[1] for s in self.held)
        self.log_path = os.path.join(folder, f"{name}.log")
        self.events = EventLog(os.path.join(self.folder, "events.jsonl"))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()
        for s in self.held:
            s.close()

    @property
    def ca_file(self):
        return os.path.join(self.folder, "ca.pem")

    @property
    def login_file(self):
        return os.path.join(self.folder, "connection-string")

    def start(self):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [EMULATOR, "--state", self.folder, "--mqtt-port", str(self.mqtt_port), "--https-port", str(self.https_port),
             "--amqp-port", str(self.amqp_port)]
            + self.arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
        )
        log.close()
        for line in self.process.stdout:
            if line.startswith(b"READY"):
                break
        else:
            raise AssertionError(f"the emulator ended with {self.process.wait()} before it was ready")
        # What it prints later is not read by anyone, so it must never fill a pipe.
        threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True).start()
        with open(os.path.join(self.folder, "ports"), encoding="utf-8") as f:
            ports = dict(re.findall(r"(\w+)\W+(\d+)", f.read()))
        self.mqtt_port = int(ports["mqtt"])
        self.https_port = int(ports["https"])
        self.amqp_port = int(ports["amqp"])
        with open(self.login_file, encoding="utf-8") as f:
            leaks.keep_connection_string(f.read())
        leaks.keep_private_keys(self.folder)

    @staticmethod
    def _drain(stream):
        with stream:
            for _ in stream:
                pass

    def stop(self):
        if self.process:
            leaks.check_processes(self.process.pid)
            stop_process(self.process)
            self.process = None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def ctl(self, *arguments, **kwargs):
        """iothubctl against the registry of this hub."""
        return iothubctl(
            *arguments,
            "--login-file", self.login_file, "--ca-file", self.ca_file, "--https-port", str(self.https_port),
            **kwargs,
        )

    def trouble(self, *arguments, check=True, **kwargs):
        """iothub-emulator ctl: hub.trouble("refuse", 3, "--code", "cut"). Returns what it printed."""
        kwargs.setdefault("timeout", DEADLINE_SEC)
        result = subprocess.run(
            [EMULATOR, "ctl", "--state", self.folder, *map(str, arguments)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **kwargs,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"ctl {arguments[0]} ended with {result.returncode}: {result.stderr.strip()}")
        return result if not check else result.stdout

    def trouble_status(self, device=None):
        """Which trouble is on, counters, connections: of a device or in all."""
        return json.loads(self.trouble("status", "--json", *(["--device", device] if device else [])))

    def count(self, counter, device=None):
        """How often, since the emulator started: "connects", "accepted", "publishes", … as iothub-emulator(1) lists."""
        return self.trouble_status(device)["counters"][counter]

    def wait_count(self, counter, total, device=None):
        """Waits until a counter is at total or more, without polling; returns its value. What is to happen after now
        is total = hub.count(...) + 1, asked for before it can happen."""
        limit = ["--timeout", f"{DEADLINE_SEC}s"]
        return int(self.trouble("wait", counter, "--total", total, *limit, *(["--device", device] if device else []),
                                timeout=DEADLINE_SEC + 10))

    def create_device(self, device="windmill"):
        """Creates a device; returns the path of a file with its connection string."""
        self.ctl("device", "create", device)
        path = os.path.join(self.folder, f"{device}.connection-string")
        text = self.ctl("device", "connection-string", device).stdout
        leaks.keep_connection_string(text)
        write_private(path, text)
        return path


def write_private(path, text):
    """Whole or not at all, as a rename does it; readable by its owner only."""
    with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(f"{path}.new", path)


class EventLog:
    """Reads DIR/events.jsonl and the files that it was before, as they grow and go: one stream, in which each line's
    offset is its place. Keeps bodies and ids, not whole events: a soak has a million."""

    def __init__(self, path):
        self.path = path
        self.offset = 0
        self.events = []  # (body, message id)
        self.keep = None  # a list that takes whole events, when a test wants to look into them

    def poll(self):
        with contextlib.ExitStack() as stack:
            # The newest first: when it gets its lasting name meanwhile, it is found under that one.
            newest = None
            with contextlib.suppress(FileNotFoundError):
                newest = stack.enter_context(open(self.path, "rb"))
            for path in sorted(glob.glob(f"{glob.escape(os.path.splitext(self.path)[0])}-*.jsonl")):
                with contextlib.suppress(FileNotFoundError), open(path, "rb") as f:
                    self.read(f, int(re.search(r"-(\d+)\.jsonl$", path)[1]))
            first = newest and re.search(rb'"offset":"(\d+)"', newest.read(1024))
            if first:
                self.read(newest, int(first[1]))
        return self.events

    def read(self, f, base):
        """Takes the lines of one file that are new; base: the offset of its first one."""
        if self.offset >= base + os.fstat(f.fileno()).st_size:
            return
        self.offset = max(self.offset, base)
        f.seek(self.offset - base)
        data = f.read()
        end = data.rfind(b"\n") + 1
        self.offset += end
        for line in data[:end].splitlines():
            event = json.loads(line)
            body = event["body"] if "body" in event else base64.b64decode(event["bodyBase64"])
            self.events.append((body, event["systemProperties"].get("messageId")))
            if self.keep is not None:
                self.keep.append(event)

    def bodies(self):
        return [body for body, _ in self.poll()]

    def wait_count(self, n, deadline_sec=None):
        """Waits until n different messages arrived (a duplicate has the id of its first)."""
        seen = set()
        position = 0

        def enough():
            nonlocal position
            for event in self.poll()[position:]:
                seen.add(event[1])
                position += 1
            return len(seen) >= n

        wait_until(enough, lambda: f"{n} events, {len(seen)} arrived", deadline_sec)
        return self.bodies()


# ---- programs ----


class TimeWarp:
    """Clocks of a process of their own: they run `factor` times as fast as the machine's and can be set.
    tests/support/time-warp.c tells how, and what stays real."""

    LIBRARY = os.path.join(BUILD, "tests", "libtime-warp.so")

    def __init__(self, folder, name, factor=1, clock_offset_sec=0):
        if not os.path.exists(self.LIBRARY):
            raise Skip("the time warp needs a machine of 64 bits")
        if WRAPPER and factor > 1:
            raise Skip("a wrapped daemon is too slow to live faster")
        self.factor = factor
        self.offsets_sec = [clock_offset_sec, 0]  # of the wall clock and of the time since boot
        self.path = os.path.join(folder, f"{name}.time-warp")

    def environment(self, sanitizers=()):
        warp = ":".join(str(n) for n in [self.factor] + [int(sec * 10**9) for sec in self.offsets_sec])
        return {"LD_PRELOAD": ":".join([*sanitizers, self.LIBRARY]), "IOTHUBD_TIME_WARP": warp, "IOTHUBD_TIME_WARP_SOCKET": self.path}

    def command(self, word, seconds):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(self.path)
            s.sendall(f"{word} {seconds}".encode())
            answer = s.recv(256).decode().strip()
        assert answer == "ok", answer
        self.offsets_sec[0] += seconds
        if word == "suspend":
            self.offsets_sec[1] += seconds


def iothubctl(*arguments, check=True, **kwargs):
    """Runs iothubctl to its end; text mode. A result other than 0 is a failure unless check is False."""
    kwargs.setdefault("timeout", DEADLINE_SEC)
    if "input" not in kwargs:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    result = subprocess.run([IOTHUBCTL, *arguments], capture_output=True, text=True, **kwargs)
    leaks.check_text(result.stderr, f"what iothubctl {arguments[0]} says")
    if arguments[0] in ("send", "status", "flush", "simulate"):  # others print keys when asked to
        leaks.check_text(result.stdout, f"what iothubctl {arguments[0]} prints")
    if check and result.returncode != 0:
        raise AssertionError(f"iothubctl {arguments[0]} ended with {result.returncode}: {result.stderr.strip()}")
    return result


def config_text(settings):
    """libconfig's syntax from a dict; a dict inside is a group."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines.append(f"{name} = {{ {' '.join(config_text(value).split())} }};")
        elif isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()};")
        elif isinstance(value, int):
            lines.append(f"{name} = {value};")
        else:
            lines.append(f"{name} = {json.dumps(str(value))};")
    return "\n".join(lines) + "\n"


class Daemon:
    """iothubd with a generated configuration. settings: a dict that is merged over the defaults of the tests.
    time_warp: how much faster its time passes; 1 is enough for step_clock() and suspend(). clock_offset_sec: how far
    its wall clock is off from the start. environment: what is added to ours."""

    def __init__(
        self, folder, hub=None, connection_string_file=None, mqtt_port=None, name="iothubd", settings=None,
        time_warp=None, clock_offset_sec=0, environment=None,
    ):
        self.folder = folder
        self.name = name
        self.socket = os.path.join(folder, f"{name}.sock")
        self.state = os.path.join(folder, f"{name}.state")
        self.log_path = os.path.join(folder, f"{name}.log")
        self.config_path = os.path.join(folder, f"{name}.conf")
        self.process = None
        self.notify = None
        self.environment = environment or {}
        self.time_warp = TimeWarp(folder, name, time_warp or 1, clock_offset_sec) if time_warp or clock_offset_sec else None
        self.settings = {
            "state_directory": self.state,
            "socket": self.socket,
            "log_target": "stderr",
            # The defaults suit a hub far away; a test wants to see the next try soon.
            "uplink": {"retry_min": "50ms", "retry_max": "300ms", "retry_cut_max": "300ms"},
            "outbox": {"max_size": "256M", "keep_free": "1M"},
        }
        if hub:
            self.settings["ca_file"] = hub.ca_file
            self.settings["mqtt_port"] = mqtt_port or hub.mqtt_port
        if connection_string_file:
            self.settings["connection_string_file"] = connection_string_file
        self.configure(settings or {})

    def configure(self, settings):
        for key, value in settings.items():
            if isinstance(value, dict):
                self.settings.setdefault(key, {}).update(value)
            else:
                self.settings[key] = value
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(config_text(self.settings))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *exception):
        if kind:
            self.kill()
        else:
            self.stop()

    def start(self, wait=True):
        self.notify = Notify(self.folder, f"{self.name}.notify")
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen(
            [IOTHUBD, "-c", self.config_path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "NOTIFY_SOCKET": self.notify.path,
                **(self.time_warp.environment(SANITIZERS) if self.time_warp else {}),
                **self.environment,
            },
        )
        log.close()
        if wait:
            self.notify.wait_ready(self.process, self.name)

    def step_clock(self, seconds):
        """The daemon's wall clock is set by that much, forward or back; it stays so over a restart."""
        self.time_warp.command("step", seconds)

    def suspend(self, seconds):
        """The daemon wakes up from a sleep of the machine."""
        self.time_warp.command("suspend", seconds)

    def _ended(self):
        self.process = None
        self.notify.close()

    def stop(self):
        if self.process:
            leaks.check_processes(self.process.pid)
            code = stop_process(self.process)
            self._ended()
            if code != 0:
                raise AssertionError(f"{self.name} ended with {code}")

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self._ended()

    def ctl(self, *arguments, **kwargs):
        return iothubctl(*arguments, "--socket", self.socket, **kwargs)

    def status(self):
        with Varlink(self.socket) as v:
            return v.call("io.iothubd.GetStatus")

    def wait_connected(self):
        wait_until(lambda: self.status()["connected"], "the daemon is connected to the hub")

    def wait_queue_empty(self, deadline_sec=None):
        """Waits until every accepted message has ended; returns the last status."""
        status = {}

        def empty():
            status.update(self.status())
            check_books(status)
            return status["queued"] == 0

        wait_until(empty, lambda: f"an empty queue, {status.get('queued')} wait; {status.get('retry')}", deadline_sec)
        return status

    def memory_kib(self, field="RssAnon"):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            return int(re.search(rf"{field}:\s+(\d+) kB", f.read())[1])

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()


def check_books(status):
    """Promise P2."""
    settled = sum(status[key] for key in ("confirmed", "expired", "dropped", "rejected", "queued"))
    assert status["accepted"] == settled, f"the books do not balance: {status}"


class Setup:
    """Emulator, device and daemon, with a chaos proxy between the two if asked for."""

    def __init__(self, folder, proxy=False, settings=None, start=True, device="windmill", **daemon_options):
        self.folder = folder
        self.want_proxy = proxy
        self.settings = settings
        self.want_start = start
        self.device = device
        self.daemon_options = daemon_options
        self.hub = self.daemon = self.proxy = None
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.hub = stack.enter_context(Hub(self.folder))
            if self.want_proxy:
                self.proxy = stack.enter_context(ChaosProxy(self.hub.mqtt_port))
            self.daemon = Daemon(
                self.folder,
                self.hub,
                self.hub.create_device(self.device),
                self.proxy.port if self.proxy else None,
                settings=self.settings,
                **self.daemon_options,
            )
            if self.want_start:
                self.daemon.start()
            stack.push(self.daemon)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        return self.stack.__exit__(*exception)

    def send(self, lines, *arguments, **kwargs):
        """Pipes lines (an iterable of str) through `iothubctl send` to its end."""
        lines = list(lines)
        for line in lines[:100]:
            leaks.keep_payload(line)
        return self.daemon.ctl("send", *arguments, input="".join(f"{line}\n" for line in lines), **kwargs)


class Sender:
    """`iothubctl send` fed line by line while the test does something else."""

    def __init__(self, daemon, *arguments, log_name=None):
        self.stderr = open(os.path.join(daemon.folder, f"{log_name or 'sender'}.log"), "wb")
        self.process = subprocess.Popen(
            [IOTHUBCTL, "send", *arguments, "--socket", daemon.socket],
            stdin=subprocess.PIPE,
            stdout=self.stderr,
            stderr=self.stderr,
        )

    def write(self, line):
        leaks.keep_payload(line)
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def write_all(self, lines):
        for line in lines:
            self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def finish(self, timeout_sec=None):
        """End of input; returns the exit code."""
        self.process.stdin.close()
        try:
            return self.process.wait(timeout_sec or DEADLINE_SEC)
        finally:
            self.process.kill()
            self.stderr.close()

    def abort(self):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.stderr.close()


# ---- Varlink ----


class VarlinkError(Exception):
    def __init__(self, error, parameters):
        super().__init__(f"{error} {parameters}")
        self.error = error
        self.parameters = parameters


class Varlink:
    """One connection; calls may be pipelined with send() and receive()."""

    def __init__(self, path, timeout_sec=None):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_sec or DEADLINE_SEC)
        self.socket.connect(path)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, method, parameters=None, more=False, oneway=False):
        call = {"method": method}
        if parameters is not None:
            call["parameters"] = parameters
        if more:
            call["more"] = True
        if oneway:
            call["oneway"] = True
        self.socket.sendall(json.dumps(call).encode() + b"\0")

    def receive_raw(self):
        """The next whole reply as a dict; EOFError when the daemon closed the connection."""
        while b"\0" not in self.buffer:
            data = self.socket.recv(1 << 20)
            if not data:
                raise EOFError("the daemon closed the connection")
            self.buffer += data
        frame, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(frame)

    def receive(self):
        """(parameters, continues) of the next reply; an error reply raises VarlinkError."""
        reply = self.receive_raw()
        if "error" in reply:
            raise VarlinkError(reply["error"], reply.get("parameters") or {})
        return reply.get("parameters") or {}, reply.get("continues", False)

    def call(self, method, parameters=None):
        self.send(method, parameters)
        return self.receive()[0]


# ---- what was sent and what arrived ----


def compare(sent, received):
    """Compares two lists of texts that are unique in sent. Returns a dict: lost, foreign, duplicates (counts), and
    in_order: whether the first arrivals come in the order in which they were sent."""
    position = {text: i for i, text in enumerate(sent)}
    assert len(position) == len(sent), "what is sent must be unique"
    seen = set()
    foreign = duplicates = 0
    last = -1
    in_order = True
    for text in received:
        i = position.get(text)
        if i is None:
            foreign += 1
        elif i in seen:
            duplicates += 1
        else:
            in_order = in_order and i > last
            seen.add(i)
            last = i
    return {"lost": len(sent) - len(seen), "foreign": foreign, "duplicates": duplicates, "in_order": in_order}


def lines(n, start=0):
    return [f"reading {i}" for i in range(start, start + n)]


def assert_delivered(sent, received, duplicates_max=0):
    """Promises P1 and P3; duplicates_max=None: any number may come again."""
    result = compare(sent, received)
    assert result["lost"] == 0 and result["foreign"] == 0 and result["in_order"], result
    assert duplicates_max is None or result["duplicates"] <= duplicates_max, result


class InBackground:
    """Runs function(*arguments) in a thread; result() waits for it and raises what it raised."""

    def __init__(self, function, *arguments):
        self.queue = queue.Queue()
        self.thread = threading.Thread(target=self._run, args=(function, arguments), daemon=True)
        self.thread.start()

    def _run(self, function, arguments):
        try:
            self.queue.put((function(*arguments), None))
        except BaseException as e:
            self.queue.put((None, e))

    def result(self, timeout_sec=None):
        value, error = self.queue.get(timeout=timeout_sec or DEADLINE_SEC)
        if error:
            raise error
        return value
