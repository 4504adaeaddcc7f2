#!/usr/bin/env python3
"""Goal: the installed service does under a real systemd what the manual says. Boots a Debian tree of this machine's
release, installs into it, and drives it as its administrator and as ordinary users; the hub runs outside.

IOTHUBD_TEST_STORY=FILE takes down what was typed and what it answered."""
import contextlib
import functools
import os
import signal
import subprocess

import container
import harness
import leaks
from container import Machine
from harness import (
    BUILD, Hub, Skip, Varlink, VarlinkError, check_books, config_text, test, wait_until,
)

PACKAGES = ("systemd-sysv",)
PROGRAMS = [os.path.join(BUILD, "daemon", "iothubd"), os.path.join(BUILD, "client", "iothubctl")]
SOCKET = "/run/iothubd/iothubd.sock"
# The defaults suit a hub far away; a test wants to see the next try soon.
UPLINK = {"retry_min": "50ms", "retry_max": "300ms", "retry_cut_max": "300ms", "retry_refused_max": "300ms"}

_stack = contextlib.ExitStack()


# ---- the machine, for all tests of this file ----


def own_release():
    container.check_means()
    name, release = container.os_release()
    if name != "debian" or not release:
        raise Skip("the programs run in a tree of the release that they were built on, and this one is not Debian's")
    return release


def make_machine():
    """(machine, hub), booted and installed. Skips where a tree or its boot, which are not ours, cannot be had."""
    release = own_release()
    base = container.base_tree(release, sorted({*PACKAGES, *container.libraries_of(*PROGRAMS)}))
    _stack.enter_context(container.locked("boot"))  # two machines would share a control group
    folder = _stack.enter_context(container.copy_of(base))
    os.makedirs(f"{folder}/root/var/log/journal", exist_ok=True)  # it shall outlive a boot
    machine = Machine(folder)
    machine.write("/etc/hosts", "127.0.0.1 localhost\n")
    machine.write("/etc/hostname", "gateway\n")
    _stack.callback(machine.power_off)
    machine.boot()
    hub = _stack.enter_context(Hub(folder))
    install(machine, hub)
    return machine, hub


_made = []  # what make_machine() returned or raised


def the_machine():
    if not _made:
        try:
            _made.append(make_machine())
        except Exception as e:  # each test tells it: one try has to do
            _made.append(e)
    if isinstance(_made[0], Exception):
        raise _made[0]
    return _made[0]


def install(machine, hub):
    """As docs/hacking.md says."""
    subprocess.run(["meson", "install", "-C", BUILD, "--destdir", machine.root, "--no-rebuild", "--quiet"],
                   check=True, stdout=subprocess.DEVNULL)
    machine.story.append("root@gateway # ninja -C build install")
    machine.run("systemd-sysusers")
    machine.run("systemd-tmpfiles", "--create")
    machine.run("systemctl", "daemon-reload")
    machine.run("journalctl", "--update-catalog")
    machine.run("systemctl", "preset", "iothubd.socket", "iothubd.service")
    machine.run("useradd", "--create-home", "--user-group", "--groups", "iothub", "alice")
    machine.run("useradd", "--create-home", "--user-group", "--groups", "iothub", "bob")
    machine.run("useradd", "--create-home", "--user-group", "mallory")
    with open(hub.ca_file, encoding="utf-8") as f:
        machine.write("/etc/iothubd/ca.pem", f.read())


def on_machine(function):
    """A test that gets machine and hub, and tells the end of the journal when it fails."""

    @functools.wraps(function)
    def run():
        machine, hub = the_machine()
        machine.story += ["", f"== {function.__name__.replace('_', ' ')}"]
        if not hub.process:
            hub.start()
        try:
            function(machine, hub)
        except Exception:
            for unit, message in machine.journal.messages()[-60:]:
                print(f"#   journal: {unit}: {message}")
            raise

    del run.__wrapped__  # the runner looks at the signature
    return test(run)


class Service:
    """A unit of the machine with a device, settings and state of its own, all new."""

    def __init__(self, machine, hub, device=None, instance=None, settings=None, drop_in=None, start=True):
        self.machine, self.hub = machine, hub
        self.name = instance or "iothubd"
        self.unit = f"iothubd@{instance}.service" if instance else "iothubd.service"
        self.socket_unit = self.unit.replace(".service", ".socket")
        self.socket = f"/run/iothubd/{self.name}.sock"
        self.key_file = f"/etc/iothubd/{self.name}.connection-string"
        self.device = device
        self._connection_string = None
        machine.run("systemctl", "stop", self.socket_unit, self.unit, tell=False, check=False)
        machine.run("rm", "-rf", f"/var/lib/iothubd/{self.name}", self.drop_in_folder, self.key_file, tell=False)
        if device:
            self.write_key(self.connection_string())
        self.configure(settings or {}, drop_in)
        self.since = machine.journal.mark()
        if start:
            machine.run("systemctl", "start", self.unit)

    @property
    def drop_in_folder(self):
        return f"/etc/systemd/system/{self.unit}.d"

    def connection_string(self):
        if not self._connection_string:
            with open(self.hub.create_device(self.device), encoding="utf-8") as f:
                self._connection_string = f.read()
            leaks.keep_connection_string(self._connection_string)
        return self._connection_string

    def write_key(self, text):
        self.machine.write(self.key_file, text, mode=0o640, group="iothubd")

    def configure(self, settings, drop_in=None):
        values = {"ca_file": "/etc/iothubd/ca.pem", "mqtt_port": self.hub.mqtt_port, "uplink": UPLINK,
                  "outbox": {"max_size": "64M", "keep_free": "1M"}, **settings}
        if self.device:
            values["connection_string_file"] = self.key_file
        self.machine.write(f"/etc/iothubd/{self.name}.conf", config_text(values))
        if drop_in:
            self.machine.write(f"{self.drop_in_folder}/test.conf", f"[Service]\n{drop_in}\n")
        self.machine.run("systemctl", "daemon-reload", tell=False)

    def ctl(self, verb, *arguments, user="alice", **kwargs):
        where = [] if self.name == "iothubd" else ["--socket", self.socket]
        return self.machine.run("iothubctl", verb, *where, *arguments, user=user, **kwargs)

    def send(self, lines, *arguments, **kwargs):
        text = "".join(f"{line}\n" for line in lines)
        for line in lines:
            leaks.keep_payload(line)
        return self.ctl("send", *arguments, text=text, **kwargs)

    def varlink(self, user="root"):
        v = Varlink.__new__(Varlink)
        v.buffer = b""
        v.socket = self.machine.connect(self.socket, user)
        v.socket.settimeout(harness.DEADLINE_SEC)
        return v

    def status(self):
        with self.varlink() as v:
            return v.call("io.iothubd.GetStatus")

    def wait_connected(self):
        wait_until(lambda: self.status()["connected"], f"{self.unit} is connected")

    def property(self, name):
        return self.machine.property_of(self.unit, name)

    def journal(self, pattern):
        return self.machine.journal.wait(pattern, self.unit, self.since)

    def wait_active(self):
        wait_until(lambda: self.property("ActiveState") == "active",
                   lambda: f"{self.unit}: {self.property('SubState')}")

    def bodies(self, prefix):
        return [b for b in self.hub.events.bodies() if isinstance(b, str) and b.startswith(prefix)]

    def wait_delivered(self, lines):
        """Each once or more, in order; returns how many came again."""
        prefix = lines[0].split(" ")[0] + " "
        wait_until(lambda: len(set(self.bodies(prefix))) >= len(lines),
                   lambda: f"{len(lines)} events {prefix}, {len(set(self.bodies(prefix)))} arrived")
        bodies = self.bodies(prefix)
        assert list(dict.fromkeys(bodies)) == lines, "order, or a foreign event"
        return len(bodies) - len(lines)


def lines_of(name, n):
    return [f"{name} reading {i}" for i in range(n)]


# ---- tests ----


@on_machine
def a_fresh_installation_starts_and_waits_for_senders(machine, hub):
    """The preset enabled both; the socket is the group's, the state the daemon's alone."""
    s = Service(machine, hub, "fresh")
    assert s.property("UnitFileState") == "enabled"
    assert machine.property_of("iothubd.socket", "UnitFileState") == "enabled"
    s.wait_connected()
    machine.run("systemctl", "status", "--no-pager", "iothubd", check=False)
    stat = machine.run("stat", "--format=%A %U:%G", SOCKET, "/var/lib/iothubd/iothubd", "/etc/iothubd/iothubd.conf")
    assert stat.output.splitlines() == ["srw-rw---- root:iothub", "drwx------ iothubd:iothubd", "-rw-r--r-- root:root"]
    warned = [m for u, m in machine.journal.messages() if u.startswith("iothubd") and "nknown" in m]
    assert not warned, warned


@on_machine
def a_user_of_the_group_sends_and_a_stranger_is_refused(machine, hub):
    s = Service(machine, hub, "member")
    s.send(["member reading"], "--wait")
    s.wait_delivered(["member reading"])
    refused = s.send(["stranger reading"], user="mallory", check=False)
    assert refused.code == os.EX_NOPERM and "group" in refused.output, (refused.code, refused.output)
    assert s.status()["accepted"] == 1
    s.ctl("status")


@on_machine
def senders_of_different_users_are_told_apart(machine, hub):
    """SO_PEERCRED goes through the sandbox: a stream belongs to who began it."""
    s = Service(machine, hub, "users")
    stream = "00112233445566778899aabbccddeeff"
    message = {"messages": [{"body": "users reading"}], "stream": stream, "position": 0}
    with s.varlink("alice") as alice, s.varlink("bob") as bob:
        alice.call("io.iothubd.Send", message)
        assert alice.call("io.iothubd.Resume", {"stream": stream})["next"] == 1
        try:
            bob.call("io.iothubd.Send", {**message, "position": 1})
            raise AssertionError("bob writes into a stream of alice's")
        except VarlinkError as e:
            assert e.error == "io.iothubd.StreamMismatch", e


@on_machine
def the_sandbox_holds(machine, hub):
    s = Service(machine, hub, "sandbox")
    s.wait_connected()
    pid = s.property("MainPID")
    lines = machine.run("cat", f"/proc/{pid}/status", tell=False).output.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", status
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0, status
    limits = machine.run("cat", f"/proc/{pid}/limits", tell=False).output
    assert [line for line in limits.splitlines() if line.startswith("Max core file size") and " 0 " in line], limits
    for path in ("/etc/x", "/usr/x", "/home/x", "/dev/x", "/var/lib/x"):
        inside = machine.run("nsenter", "--target", pid, "--mount", "touch", path, check=False, tell=False)
        assert inside.code != 0, f"{path} can be written in the sandbox"
    machine.run("systemd-analyze", "security", "--no-pager", "--threshold=13", "iothubd.service", tell=False)


@on_machine
def a_restart_in_mid_stream_loses_nothing(machine, hub):
    s = Service(machine, hub, "restarts")
    lines = lines_of("restarts", 3000)
    sender = machine.popen("iothubctl", "send", user="alice", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)
    with sender:
        for i, line in enumerate(lines, 1):
            leaks.keep_payload(line)
            sender.stdin.write(f"{line}\n")
            if i % 1000 == 500:
                sender.stdin.flush()
                wait_until(lambda n=i: len(s.bodies("restarts ")) >= n - 400, "the stream flows")
                machine.run("systemctl", "restart", "iothubd")
        output, _ = sender.communicate(timeout=harness.DEADLINE_SEC)
    leaks.check_text(output, "output of iothubctl send")
    assert sender.returncode == 0, output
    again = s.wait_delivered(lines)
    status = s.status()
    check_books(status)
    machine.story.append(f"    ({len(lines)} lines sent through three restarts, all arrived in order, {again} twice)")
    s.ctl("status")


@on_machine
def the_socket_starts_the_service(machine, hub):
    s = Service(machine, hub, "activation")
    machine.run("systemctl", "stop", "iothubd.service")
    assert s.property("ActiveState") == "inactive"
    assert machine.property_of("iothubd.socket", "ActiveState") == "active"
    s.send(["activation reading"], "--wait")
    assert s.property("ActiveState") == "active"
    s.wait_delivered(["activation reading"])


@on_machine
def a_hung_daemon_is_killed_by_the_watchdog_and_goes_on(machine, hub):
    s = Service(machine, hub, "watchdog", drop_in="WatchdogSec=5s\nRestartSec=100ms")
    s.wait_connected()
    pid = s.property("MainPID")
    machine.run("sh", "-c", f"kill -STOP {pid}")
    sender = machine.popen("iothubctl", "send", "watchdog reading", user="alice", stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    s.journal("Watchdog timeout")
    # Without a core, which would hold the key.
    assert "code=killed" in s.journal("Main process exited"), "it left a core"
    output, _ = sender.communicate(timeout=harness.DEADLINE_SEC)
    assert sender.returncode == 0, output
    s.wait_delivered(["watchdog reading"])
    assert s.property("MainPID") != pid and int(s.property("NRestarts")) >= 1
    machine.run("journalctl", "--no-pager", "--output=cat", "--unit=iothubd", "--lines=8")


@on_machine
def a_reload_takes_a_new_key(machine, hub):
    s = Service(machine, hub, "reload", settings={"uplink": {**UPLINK, "retry_min": "1h", "retry_max": "1h", "retry_refused_max": "1h"}}, start=False)
    good = s.connection_string()
    key = good.strip().rsplit("SharedAccessKey=", 1)[1]
    s.write_key(good.replace(key, key[:10][::-1] + key[10:]))
    machine.run("systemctl", "start", "iothubd")
    s.journal("refused|not authorized|CONNACK")
    s.send(["reload reading"])
    s.ctl("status")
    s.write_key(good)
    machine.run("systemctl", "reload", "iothubd")
    s.wait_connected()
    s.wait_delivered(["reload reading"])


@on_machine
def a_reload_tries_again_at_once(machine, hub):
    """Whoever reloads has mended something: it does not wait for the time that was set for the next try."""
    long = dict.fromkeys(UPLINK, "1h")
    s = Service(machine, hub, "mendedhub", settings={"uplink": long}, start=False)
    s.connection_string()
    hub.stop()
    machine.run("systemctl", "start", "iothubd")
    s.journal("Cannot connect")
    hub.start()
    machine.run("systemctl", "reload", "iothubd")
    s.wait_connected()


@on_machine
def a_backlog_outlives_a_reboot(machine, hub):
    s = Service(machine, hub, "reboot")
    s.wait_connected()
    hub.stop()
    lines = lines_of("reboot", 500)
    s.send(lines, tell=False)
    machine.story.append("alice@gateway $ read-sensor | iothubctl send   (500 lines; the hub is down)")
    s.ctl("status")
    machine.story.append("root@gateway # systemctl reboot")
    machine.reboot()
    machine.story.append("    (the machine has booted again)")
    s.since = 0
    s.wait_active()
    assert s.status()["queued"] == 500
    hub.start()
    s.wait_delivered(lines)
    wait_until(lambda: s.status()["queued"] == 0, "an empty queue")
    s.ctl("status")


@on_machine
def two_instances_run_side_by_side(machine, hub):
    one = Service(machine, hub, "sitedevice1", instance="site1")
    two = Service(machine, hub, "sitedevice2", instance="site2")
    hub.events.poll()
    hub.events.keep = []
    one.send(["site1 reading"], "--wait")
    two.send(["site2 reading"], "--wait")
    one.wait_delivered(["site1 reading"])
    two.wait_delivered(["site2 reading"])
    senders = {e["body"]: e["systemProperties"].get("iothub-connection-device-id") or e.get("deviceId")
               for e in hub.events.keep if e.get("body", "").startswith("site")}
    hub.events.keep = None
    assert senders == {"site1 reading": "sitedevice1", "site2 reading": "sitedevice2"}, senders
    machine.run("ls", "-l", "/run/iothubd", "/var/lib/iothubd")
    machine.run("systemctl", "stop", one.socket_unit, one.unit, two.socket_unit, two.unit)


@on_machine
def without_credentials_it_stays_up_and_stores(machine, hub):
    s = Service(machine, hub)
    s.send(["nokey reading 0"])
    machine.run("systemctl", "status", "--no-pager", "--lines=0", "iothubd", check=False)
    assert s.property("ActiveState") == "active" and s.property("NRestarts") == "0"
    assert s.status()["queued"] == 1
    # Malformed ones are no better, and are not told.
    s.device = "nokey"
    good = s.connection_string()
    s.write_key(good.replace("DeviceId", "DeviceName"))
    s.configure({})
    machine.run("systemctl", "restart", "iothubd")
    s.send(["nokey reading 1"])
    assert s.property("ActiveState") == "active" and s.status()["queued"] == 2
    s.write_key(good)
    machine.run("systemctl", "reload", "iothubd")
    s.wait_delivered(lines_of("nokey", 2))


@on_machine
def the_key_can_be_a_credential_of_systemd(machine, hub):
    s = Service(machine, hub, "credstore", start=False)
    machine.write("/etc/credstore/iothubd.connection-string", s.connection_string(), mode=0o600)
    s.device = None
    s.configure({})
    try:
        machine.run("systemctl", "start", "iothubd")
        s.send(["credstore reading"], "--wait")
        s.wait_delivered(["credstore reading"])
    finally:
        os.unlink(machine.path("/etc/credstore/iothubd.connection-string"))


@on_machine
def a_wrong_setting_costs_neither_socket_nor_sender(machine, hub):
    """More failed starts than the trigger limit of a socket allows, with senders waiting; then it is mended."""
    s = Service(machine, hub, "mended", drop_in="RestartSec=50ms\nRestartSteps=0", start=False)
    s.configure({"outbox": {"max_size": "plenty"}})
    machine.run("systemctl", "start", s.socket_unit, tell=False)
    failed = machine.run("systemctl", "start", "iothubd", check=False)
    assert failed.code != 0
    s.journal("max_size")
    told = machine.run("journalctl", "--no-pager", "-x", "--unit=iothubd", "--lines=20", tell=False).output
    assert "Subject: The settings are not right" in told, told
    senders = [
        machine.popen("iothubctl", "send", f"mended reading {i}", user="alice", stdin=subprocess.DEVNULL,
                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for i in range(3)
    ]
    wait_until(lambda: int(s.property("NRestarts")) >= 25, lambda: f"restarts, {s.property('NRestarts')}")
    assert machine.property_of(s.socket_unit, "ActiveState") == "active"
    s.configure({})
    for sender in senders:
        output, _ = sender.communicate(timeout=harness.DEADLINE_SEC)
        assert sender.returncode == 0, output
    s.wait_active()
    wait_until(lambda: len(set(s.bodies("mended "))) == 3, "the three readings")


@on_machine
def a_stop_takes_the_time_that_was_set(machine, hub):
    """stop_timeout is longer than TimeoutStopSec=: the daemon asks for more, and is not killed."""
    s = Service(machine, hub, "stopping", settings={"stop_timeout": "3s"}, drop_in="TimeoutStopSec=1s")
    s.wait_connected()
    with stalled(hub):
        s.send(["stopping reading"])
        machine.run("systemctl", "stop", s.socket_unit, s.unit)
        assert s.property("Result") == "success" and s.property("ExecMainStatus") == "0", s.property("Result")
    machine.run("systemctl", "start", s.unit)
    s.wait_delivered(["stopping reading"])


@contextlib.contextmanager
def stalled(hub):
    """Nothing of the hub moves: it confirms nothing."""
    pids = leaks.processes_of(hub.process.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@on_machine
def the_journal_tells_the_story_with_its_explanations(machine, hub):
    s = Service(machine, hub, "story")
    s.wait_connected()
    hub.stop()
    s.journal("(?i)next try|again in")
    hub.start()
    s.wait_connected()
    machine.run("systemctl", "stop", s.socket_unit, s.unit)
    told = machine.run("journalctl", "--no-pager", "-x", "--unit=iothubd", f"--since={since(machine, s)}").output
    for subject in ("iothubd has started", "The connection to the hub is up", "iothubd is stopping"):
        assert f"Subject: {subject}" in told, f"{subject}: {told}"
    entries = [e for e in machine.journal.entries[s.since:] if e.get("_SYSTEMD_UNIT") == s.unit]
    assert all(e.get("_TRANSPORT") == "journal" for e in entries), entries
    ids = {e.get("MESSAGE_ID") for e in entries}
    assert len(ids - {None}) >= 4, ids


def since(machine, service):
    """The time of the first entry of a service's run, as journalctl takes it."""
    usec = int(machine.journal.entries[service.since]["__REALTIME_TIMESTAMP"])
    return f"@{usec // 1000000}.{usec % 1000000:06d}"


@on_machine
def no_secret_is_in_the_journal_or_the_process_list(machine, hub):
    """Over all that the other tests have done, and at the most talkative level."""
    s = Service(machine, hub, "quiet", settings={"log_level": "debug"})
    s.send(["quiet reading that nobody is to log"], "--wait")
    s.write_key("HostName=localhost;DeviceId=quiet;SharedAccessKey=bm90IGEga2V5IG9mIGFueWJvZHk=\n")
    machine.run("systemctl", "restart", "iothubd")
    s.journal("refused|not authorized|CONNACK")
    leaks.check_processes(int(machine.leader))
    exported = machine.run("journalctl", "--no-pager", "--output=export", "--all", tell=False).output
    assert "quiet" in exported
    leaks.check_text(exported, "the journal")
    leaks.check_text(machine.log(), "the console")


def finish():
    """The end of the file: the story, and the machine goes off."""
    path = os.environ.get("IOTHUBD_TEST_STORY")
    if path and _made and not isinstance(_made[0], Exception):
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(_made[0][0].story) + "\n")
    _stack.close()


if __name__ == "__main__":
    try:
        harness.main()
    finally:
        finish()
