#!/usr/bin/env python3
"""Goal: what we install for systemd is right before any machine starts it. Installs into a folder and lets systemd's
own tools read it: units, presets, users."""
import glob
import os
import re
import shutil
import subprocess

import harness
from harness import BUILD, IOTHUBD, SOURCE, Skip, test

EXPOSURE_MAX = 13  # tenths, as `systemd-analyze security --threshold` counts


def tool(name):
    path = shutil.which(name)
    if not path:
        raise Skip(f"no {name} on this machine")
    return path


def install(folder):
    """`meson install` below the folder; returns where the units are."""
    subprocess.run(
        [tool("meson"), "install", "-C", BUILD, "--destdir", folder, "--no-rebuild", "--quiet"],
        check=True, stdout=subprocess.DEVNULL,
    )
    (path,) = glob.glob(f"{folder}/**/systemd/system/iothubd.service", recursive=True)
    return os.path.dirname(path)


def run(*command):
    """(exit code, everything printed)"""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return result.returncode, result.stdout.strip()


def settings(path):
    """{name: last value} of a unit, continued over its sections."""
    with open(path, encoding="utf-8") as f:
        return dict(re.findall(r"^(\w+)=(.*)$", f.read(), re.MULTILINE))


@test
def systemd_reads_the_units_without_a_word(folder):
    analyze = tool("systemd-analyze")
    units = install(folder)
    # The program is not where it will be, so the one that was built stands in for it.
    for path in glob.glob(f"{units}/*.service"):
        with open(path, encoding="utf-8") as f:
            text = re.sub(r"^ExecStart=\S+", f"ExecStart={IOTHUBD}", f.read(), flags=re.MULTILINE)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    os.rename(f"{units}/iothubd@.service", f"{units}/iothubd@site1.service")
    os.rename(f"{units}/iothubd@.socket", f"{units}/iothubd@site1.socket")
    paths = sorted(glob.glob(f"{units}/*"))
    assert len(paths) == 4, paths
    code, output = run(analyze, "verify", "--man=no", *paths)
    assert code == 0 and not output, output


@test
def exposure_is_at_most_1_3(folder):
    analyze = tool("systemd-analyze")
    units = install(folder)
    for unit in ("iothubd.service", "iothubd@.service"):
        code, output = run(
            analyze, "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE_MAX}", f"{units}/{unit}"
        )
        figure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
        assert figure, output
        print(f"# systemd-analyze security {unit}: {figure[1]}")
        assert code == 0, output


@test
def units_give_up_neither_service_nor_socket(folder):
    units = install(folder)
    for suffix in ("", "@"):
        service = settings(f"{units}/iothubd{suffix}.service")
        socket = settings(f"{units}/iothubd{suffix}.socket")
        assert service["Restart"] == "always" and service["StartLimitIntervalSec"] == "0", service
        # A unit that no longer restarts is started by the socket in a loop.
        assert "RestartPreventExitStatus" not in service, service
        assert socket["TriggerLimitIntervalSec"] == socket["StartLimitIntervalSec"] == "0", socket


@test
def units_wait_for_a_stop_as_long_as_it_takes_by_default(folder):
    """A longer stop_timeout is asked for with EXTEND_TIMEOUT_USEC; by then the daemon must be running still."""
    service = settings(f"{install(folder)}/iothubd.service")
    with open(os.path.join(SOURCE, "etc", "iothubd.conf"), encoding="utf-8") as f:
        stop_sec = int(re.search(r'#stop_timeout = "(\d+)s"', f.read())[1])
    with open(os.path.join(SOURCE, "daemon", "manager.c"), encoding="utf-8") as f:
        rest_sec = int(re.search(r"STOP_REST_USEC \((\d+) \* USEC_PER_SEC\)", f.read())[1])
    assert int(service["TimeoutStopSec"].rstrip("s")) > stop_sec + rest_sec, service


@test
def preset_enables_the_plain_service_and_socket(folder):
    systemctl = tool("systemctl")
    install(folder)
    code, output = run(systemctl, f"--root={folder}", "preset", "iothubd.service", "iothubd.socket")
    assert code == 0, output
    links = f"{folder}/etc/systemd/system"
    assert os.path.islink(f"{links}/multi-user.target.wants/iothubd.service"), output
    assert os.path.islink(f"{links}/sockets.target.wants/iothubd.socket"), output


@test
def sysusers_keeps_senders_and_the_key_apart(folder):
    """Who may send must not read the device's key, so the two have a group each."""
    sysusers = tool("systemd-sysusers")
    if os.getuid() != 0:
        raise Skip("systemd-sysusers wants to be root")
    install(folder)
    code, output = run(sysusers, f"--root={folder}")
    assert code == 0, output
    with open(f"{folder}/etc/group", encoding="utf-8") as f:
        groups = {line.split(":")[0]: line.strip().split(":")[3] for line in f}
    assert groups["iothubd"] == "" and groups["iothub"] == "iothubd", groups


if __name__ == "__main__":
    harness.main()
