#!/usr/bin/env python3
"""Goal: the socket speaks Varlink as others understand it: varlinkctl(1), a client that we did not write, lists,
describes and calls it. Where this machine has none (systemd 257 brings it), a Debian 13 tree does; our socket is bound
into it, so that only the client is from there."""
import json
import os
import shutil
import subprocess

import container
import harness
from harness import DEADLINE_SEC, Daemon, Skip, test

RELEASE = "trixie"
PACKAGES = ("systemd",)


def client(folder, socket):
    """The command line that runs varlinkctl, and the socket's address as it sees it."""
    own = shutil.which("varlinkctl")
    if own:
        return ["env", "SYSTEMD_COLORS=0", own], socket
    container.check_means()
    base = container.base_tree(RELEASE, PACKAGES)
    return [
        "systemd-nspawn", "--quiet", "--register=no", "--directory", base, "--read-only", "--pipe",
        *([] if os.path.isdir("/run/systemd/system") else ["--keep-unit"]),
        "--machine", f"iothubd-varlinkctl-{os.getpid()}", f"--bind={folder}:/mnt", "--setenv=SYSTEMD_COLORS=0",
        "--", "varlinkctl",
    ], f"/mnt/{os.path.basename(socket)}"


class Varlinkctl:
    def __init__(self, folder, daemon):
        self.command, self.address = client(folder, daemon.socket)

    def __call__(self, verb, *arguments, options=(), check=True):
        result = subprocess.run(
            [*self.command, *options, verb, self.address, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_SEC, check=False,
        )
        # nspawn's own word where /run is no file system of its own; nothing of ours is in that folder.
        result.stderr = "".join(line for line in result.stderr.splitlines(True) if "nspawn/propagate" not in line)
        print(f"# $ varlinkctl {verb} {self.address} {' '.join(arguments)}")
        for line in (result.stdout + result.stderr).splitlines()[:20]:
            print(f"#     {line}")
        if check and result.returncode != 0:
            raise AssertionError(f"varlinkctl {verb} ended with {result.returncode}: {result.stderr} {result.stdout}")
        return result

    def call(self, method, parameters=None):
        return json.loads(self("call", method, json.dumps(parameters or {}), options=["--json=short"]).stdout)


@test
def info_names_the_service_and_its_interfaces(folder):
    with Daemon(folder) as d:
        text = Varlinkctl(folder, d)("info").stdout
    assert "iothubd" in text and "io.iothubd" in text and "org.varlink.service" in text, text


@test
def introspect_shows_the_interface_with_its_methods_and_errors(folder):
    """varlinkctl parses the text and prints it anew, so it takes our grammar for its own."""
    with Daemon(folder) as d:
        ctl = Varlinkctl(folder, d)
        text = ctl("introspect", "io.iothubd").stdout
        assert not ctl("introspect", "org.varlink.service", check=False).returncode
    for word in ("interface io.iothubd", "method Send", "method GetStatus", "error OutboxFull", "type Message"):
        assert word in text, (word, text)


@test
def calls_are_answered(folder):
    with Daemon(folder) as d:
        ctl = Varlinkctl(folder, d)
        sent = ctl.call("io.iothubd.Send", {"messages": [{"body": "from varlinkctl"}, {"body": "twice"}]})
        assert sent["last"] == sent["first"] + 1, sent
        status = ctl.call("io.iothubd.GetStatus")
        assert status["accepted"] == 2 and status["queued"] == 2, status
        found = ctl.call("io.iothubd.GetMessage", {"sequenceNumber": sent["first"]})
        assert found["message"]["state"] == "queued", found


@test
def an_error_is_told_by_its_name(folder):
    with Daemon(folder) as d:
        ctl = Varlinkctl(folder, d)
        result = ctl("call", "io.iothubd.GetMessage", '{"sequenceNumber": 99}', check=False)
        assert result.returncode != 0 and "io.iothubd.NoSuchMessage" in result.stderr + result.stdout, result
        result = ctl("call", "io.iothubd.NoSuchMethod", "{}", check=False)
        assert result.returncode != 0 and "MethodNotFound" in result.stderr + result.stdout, result


if __name__ == "__main__":
    harness.main()
