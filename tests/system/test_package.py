#!/usr/bin/env python3
"""Goal: `apt install ./iothubd_*.deb` brings a running service, an upgrade loses nothing, and a purge leaves the keys.
Builds the packages from a copy of the source, and installs them into a booted Debian tree of this machine's release."""
import contextlib
import glob
import os
import shutil
import subprocess
import tempfile

import container
import harness
import leaks
from container import Machine
from harness import IOTHUBCTL, IOTHUBD, SOURCE, Hub, Skip, config_text, test, wait_until

_stack = contextlib.ExitStack()
_made = {}


def once(make):
    """Its result, or what it raised, for every test again."""
    if make not in _made:
        try:
            _made[make] = make()
        except Exception as e:
            _made[make] = e
    if isinstance(_made[make], Exception):
        raise _made[make]
    return _made[make]


def packages():
    """{name: path of the .deb}, built now."""
    for program in ("dpkg-buildpackage", "dh"):
        if not shutil.which(program):
            raise Skip(f"no {program} on this machine")
    folder = _stack.enter_context(tempfile.TemporaryDirectory(prefix="iothubd-package."))
    ignore = shutil.ignore_patterns("build*", "obj-*", ".git", ".cache", "__pycache__")
    shutil.copytree(SOURCE, f"{folder}/source", ignore=ignore, symlinks=True)
    # What a package may not depend on: the settings of whoever runs the tests.
    environment = {k: v for k, v in os.environ.items() if not k.endswith("FLAGS") and k not in ("CC", "DESTDIR")}
    result = subprocess.run(
        ["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=f"{folder}/source", text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**environment, "DEB_BUILD_OPTIONS": "nocheck noautodbgsym"},
    )
    if "Unmet build dependencies" in result.stdout:
        raise Skip("packages that the build needs are missing: scripts/install-packages")
    assert result.returncode == 0, result.stdout[-3000:]
    return {os.path.basename(path).split("_")[0]: path for path in glob.glob(f"{folder}/*.deb")}


def machine():
    """A booted tree with the two packages, and a hub outside."""
    container.check_means()
    debs = once(packages)
    name, release = container.os_release()
    if name != "debian" or not release:
        raise Skip("the packages are Debian's, and this machine is not")
    needed = {"systemd-sysv", *container.libraries_of(IOTHUBD, IOTHUBCTL)}
    base = container.base_tree(release, sorted(needed))
    _stack.enter_context(container.locked("boot"))  # two machines would share a control group
    folder = _stack.enter_context(container.copy_of(base))
    m = Machine(folder)
    m.write("/etc/hosts", "127.0.0.1 localhost\n")
    for package in ("iothubd", "iothubctl"):
        shutil.copy(debs[package], m.path("/root"))
    _stack.callback(m.power_off)
    m.boot()
    hub = _stack.enter_context(Hub(folder))
    apt(m, "install", *(f"/root/{os.path.basename(debs[p])}" for p in ("iothubd", "iothubctl")))
    m.run("useradd", "--create-home", "--user-group", "--groups", "iothub", "alice")
    return m, hub


def apt(m, verb, *arguments):
    m.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "APT::Sandbox::User=root", verb, "--yes",
          "--no-install-recommends", *arguments)


def active(m, unit):
    return m.property_of(unit, "ActiveState") == "active"


def contents(deb):
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
    return subprocess.run(["tar", "-t"], input=tar, check=True, capture_output=True).stdout.decode().split()


@test
def each_file_is_in_the_package_of_its_program():
    listed = {package: set(contents(path)) for package, path in once(packages).items()}
    assert set(listed) == {"iothubd", "iothubctl", "iothub-emulator"}, set(listed)
    for package, program, section in (
        ("iothubd", "sbin/iothubd", 8), ("iothubctl", "bin/iothubctl", 1), ("iothub-emulator", "bin/iothub-emulator", 1)
    ):
        assert {
            f"./usr/{program}", f"./usr/share/man/man{section}/{package}.{section}.gz",
            f"./usr/share/bash-completion/completions/{package}",
        } <= listed[package], package
    units = {os.path.basename(path) for path in listed["iothubd"] if "/systemd/system/" in path}
    assert units >= {"iothubd.service", "iothubd.socket", "iothubd@.service", "iothubd@.socket"}, units
    assert any(path.endswith("/iothubd/hub-mqtt.so") for path in listed["iothub-emulator"])


@test
def lintian_finds_nothing():
    debs = once(packages)
    if not shutil.which("lintian"):
        raise Skip("no lintian on this machine")
    result = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *debs.values()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    assert result.returncode == 0, result.stdout


@test
def an_installed_package_is_a_running_service():
    m, hub = once(machine)
    assert active(m, "iothubd.service") and active(m, "iothubd.socket")
    assert m.property_of("iothubd.service", "UnitFileState") == "enabled"
    assert m.property_of("iothubd.socket", "UnitFileState") == "enabled"
    # Before there is a device it stores.
    m.run("iothubctl", "send", "package reading 0", user="alice")
    with open(hub.create_device("packaged"), encoding="utf-8") as f:
        key = f.read()
    leaks.keep_connection_string(key)
    m.write("/etc/iothubd/connection-string", key, mode=0o640, group="iothubd")
    with open(hub.ca_file, encoding="utf-8") as f:
        m.write("/etc/iothubd/ca.pem", f.read())
    m.write("/etc/iothubd/iothubd.conf", config_text({
        "connection_string_file": "/etc/iothubd/connection-string", "ca_file": "/etc/iothubd/ca.pem",
        "mqtt_port": hub.mqtt_port, "outbox": {"max_size": "64M", "keep_free": "1M"},
    }))
    m.run("systemctl", "restart", "iothubd")
    m.run("iothubctl", "send", "--wait", "package reading 1", user="alice")
    assert hub.events.bodies() == ["package reading 0", "package reading 1"]


@test
def an_upgrade_in_mid_stream_loses_nothing():
    m, hub = once(machine)
    lines = [f"upgrade reading {n}" for n in range(1500)]
    pid = m.property_of("iothubd.service", "MainPID")
    socket_since = m.property_of("iothubd.socket", "ActiveEnterTimestampMonotonic")
    before = len(hub.events.bodies())
    sender = m.popen("iothubctl", "send", user="alice", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                     stderr=subprocess.STDOUT, text=True)
    with sender:
        for n, line in enumerate(lines):
            sender.stdin.write(f"{line}\n")
            if n == 500:
                sender.stdin.flush()
                wait_until(lambda: len(hub.events.bodies()) > before, "the stream flows")
                # To the maintainer scripts the same version is an upgrade like any other.
                apt(m, "install", "--reinstall", f"/root/{os.path.basename(once(packages)['iothubd'])}")
        output, _ = sender.communicate(timeout=harness.DEADLINE_SEC)
    assert sender.returncode == 0, output
    assert active(m, "iothubd.service")
    assert m.property_of("iothubd.service", "MainPID") != pid, "the old program still runs"
    assert m.property_of("iothubd.socket", "ActiveEnterTimestampMonotonic") == socket_since, "the socket was gone"
    m.run("iothubctl", "flush", user="alice")
    arrived = [b for b in hub.events.bodies() if b.startswith("upgrade ")]
    assert list(dict.fromkeys(arrived)) == lines, harness.compare(lines, arrived)


@test
def a_purge_takes_everything_but_the_keys():
    m, _ = once(machine)
    apt(m, "purge", "iothubd")
    assert m.property_of("iothubd.service", "LoadState") == "not-found"
    assert not active(m, "iothubd.socket")
    for path in ("/var/lib/iothubd", "/etc/iothubd/iothubd.conf", "/usr/sbin/iothubd"):
        assert not os.path.exists(m.path(path)), path
    assert os.path.exists(m.path("/etc/iothubd/connection-string"))


if __name__ == "__main__":
    with _stack:
        harness.main()
