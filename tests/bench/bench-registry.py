#!/usr/bin/env python3
"""How long iothubctl takes over registries of some sizes, and how much memory it needs for that: import, list, query, export
and update against the emulator. Prints one line each; IOTHUBD_BENCH_DEVICES="1000 100000" names the sizes."""
import json
import os
import resource
import subprocess
import sys
import time

from harness import Hub, IOTHUBCTL, main, test

SIZES = [int(n) for n in os.environ.get("IOTHUBD_BENCH_DEVICES", "1000 10000 100000").split()]


def measure(hub, *arguments, stdout=subprocess.DEVNULL):
    """Seconds, CPU seconds and peak resident KiB of one run."""
    command = [IOTHUBCTL, *arguments, "--login-file", hub.login_file, "--ca-file", hub.ca_file, "--https-port", str(hub.https_port)]
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE)
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


@test
def registries_of_some_sizes(folder):
    for n in SIZES:
        here = os.path.join(folder, str(n))
        os.mkdir(here)
        path, out = os.path.join(here, "in.jsonl"), os.path.join(here, "out.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            f.writelines(json.dumps({"id": f"device-{i:06}", "tags": {"site": f"s{i % 100}"}}) + "\n" for i in range(n))
        with Hub(here) as hub:
            for name, arguments in (
                ("import", ["device", "import", path]),
                ("import again", ["device", "import", path]),
                ("list", ["device", "list"]),
                ("list --json", ["device", "list", "--json"]),
                ("query", ["query", "SELECT deviceId, tags FROM devices", "--json"]),
                ("export", ["device", "export", out]),
                ("export --no-keys", ["device", "export", out, "--no-keys"]),
                ("import --mode delete", ["device", "import", path, "--mode", "delete"]),
            ):
                seconds, cpu, kib = measure(hub, *arguments)
                print(f"# {n} devices, {name}: {seconds:.1f} s, {n / seconds:.0f}/s, CPU {cpu:.1f} s, peak {kib / 1024:.1f} MiB")
                sys.stdout.flush()
                if name.startswith("export"):
                    with open(out, encoding="utf-8") as f:
                        assert sum(1 for _ in f) == n


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
