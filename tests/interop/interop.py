"""interop.py: Microsoft's Node SDKs as witnesses. A test starts the emulator on the real ports, which some of the SDKs
cannot be talked out of, in a network of the test's own, and runs a scene: a function of scenes/*.js, in Node.js, with the
packages that package-lock.json pins.

A scene and its test can talk: scene.line() is the next thing that the scene says, scene.say() what it hears next.
"""
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time

import harness
import leaks
from harness import BUILD, DEADLINE_SEC, Hub, Skip, need

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGES = os.path.join(BUILD, "tests", "interop-packages")
PINNED = ("package.json", "package-lock.json", ".npmrc")
IN_NETWORK = "IOTHUBD_TEST_OWN_NETWORK"
EVENT_HUBS_NODE = 20  # what @azure/event-hubs asks for; the others are content with less


# ---- the packages ----


def _wanted():
    digest = hashlib.sha256()
    for name in PINNED:
        with open(os.path.join(HERE, name), "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()


def _read(path):
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as f:
        return f.read()
    return None


def install_packages():
    """Into the build folder, once, whoever comes first. A try that fails skips all who waited for it."""
    need("node", "npm")
    os.makedirs(PACKAGES, exist_ok=True)
    done, failed = os.path.join(PACKAGES, "installed"), os.path.join(PACKAGES, "failed")
    came = time.time()
    with open(os.path.join(PACKAGES, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(done) == _wanted():
            return
        if os.path.exists(failed) and os.path.getmtime(failed) > came:
            raise Skip(_read(failed))
        for name in PINNED:
            shutil.copy(os.path.join(HERE, name), PACKAGES)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(done)
        reason = _npm_ci()
        with open(failed if reason else done, "w", encoding="utf-8") as f:
            f.write(reason or _wanted())
        if reason:
            raise Skip(reason)


def _npm_ci():
    """What went wrong, or None. The log of npm may name hosts and files of this machine, so only its last words are told."""
    command = ["npm", "ci", "--fetch-retries=1", "--fetch-timeout=60000"]
    try:
        r = subprocess.run(command, cwd=PACKAGES, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)
    except subprocess.TimeoutExpired:
        return "npm could not install the packages: it took too long"
    if r.returncode == 0:
        return None
    codes = re.findall(r"npm (?:ERR!|error) code (\w+)", r.stderr)
    return f"npm could not install the packages: {codes[0] if codes else f'exit code {r.returncode}'}"


@functools.lru_cache(None)
def node_major():
    text = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(re.match(r"v(\d+)", text)[1])


def need_event_hubs():
    """Skips where Node.js is too old for @azure/event-hubs."""
    if node_major() < EVENT_HUBS_NODE:
        raise Skip(f"@azure/event-hubs needs Node.js {EVENT_HUBS_NODE}, this is {node_major()}")


# ---- the network ----


def need_own_network():
    need("unshare", "ip")
    if os.geteuid() != 0:
        raise Skip("the SDKs cannot be given other ports than the real ones, and a network where these are free needs root")
    tried = subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    if tried.returncode != 0:
        raise Skip("this machine gives nobody a network of their own (unshare --net)")


def start_anew_in_own_network():
    """Where 443, 5671 and 8883 are free. Does not return."""
    shutil.rmtree(harness.FINDINGS, ignore_errors=True)
    os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, IN_NETWORK: "1"})


def main():
    """What a test file ends with, in the place of harness.main()."""
    if not os.environ.get(IN_NETWORK):
        try:
            need_own_network()
            install_packages()
        except Skip as reason:
            print(f"1..0 # SKIP {reason}")
            return
        start_anew_in_own_network()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    harness.main()


# ---- hub and scene ----


class RealPortsHub(Hub):
    def __init__(self, folder, name="hub", arguments=()):
        super().__init__(folder, name, arguments)
        self.mqtt_port, self.https_port, self.amqp_port = 8883, 443, 5671

    @property
    def login(self):
        with open(self.login_file, encoding="utf-8") as f:
            return f.read().strip()


class Scene:
    """One run of exports.NAME of scenes/FILE.js. arguments: what it finds in `t.arguments`."""

    def __init__(self, hub, scene, environment=None, **arguments):
        file, _, name = scene.partition(".")
        self.scene = scene
        self.heard = []
        self.queue = queue.Queue()
        self.log = open(os.path.join(os.path.dirname(hub.log_path), f"scene-{scene}.log"), "ab")
        self.process = subprocess.Popen(
            ["node", os.path.join(HERE, "scenes", "run.js"), os.path.join(HERE, "scenes", f"{file}.js"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "NODE_PATH": os.path.join(PACKAGES, "node_modules"), "NODE_EXTRA_CA_CERTS": hub.ca_file,
                 "NODE_OPTIONS": "--dns-result-order=ipv4first", **(environment or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.say({"login": hub.login, "arguments": arguments})

    def _read(self):
        for line in self.process.stdout:
            self.queue.put(line)
        self.queue.put(None)

    def __enter__(self):
        return self

    def __exit__(self, kind, *exception):
        if kind:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait()
        self.log.close()

    def say(self, value):
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def line(self):
        """The next thing that the scene says, for as long as it runs."""
        line = self.queue.get(timeout=DEADLINE_SEC)
        assert line is not None, f"scene {self.scene} ended with {self.process.wait()}"
        return json.loads(line)

    def end(self):
        """Waits until the scene has ended well; returns what it said since the last line()."""
        said = []
        while (line := self.queue.get(timeout=DEADLINE_SEC)) is not None:
            said.append(json.loads(line))
        assert self.process.wait(DEADLINE_SEC) == 0, f"scene {self.scene} ended with {self.process.returncode}"
        return said


def play(hub, scene, **arguments):
    """A scene from start to end; what it said last."""
    with Scene(hub, scene, **arguments) as s:
        said = s.end()
    return said[-1] if said else None
