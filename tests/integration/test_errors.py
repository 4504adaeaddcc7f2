#!/usr/bin/env python3
"""Goal: every error that a hub can answer is shown with its code, its meaning and what to do, and with its own exit code.
Method: the table that iothubctl explain prints, each code answered by the emulator on request; and each that the emulator's
registry gives by itself, provoked as it comes about. What only AMQP gives (detached links) is not here."""
import concurrent.futures
import json
import os
import socketserver
import threading

from device import Mqtt, device_token, key_of
from harness import Hub, free_port, main, test, write_private
from registry import Registry
from scripted_hub import run
from service import Service

EX_USAGE, EX_DATAERR, EX_NOT_FOUND, EX_NO_HOST, EX_UNAVAILABLE, EX_EXISTS, EX_TRY_AGAIN, EX_NOPERM = (
    64, 65, 66, 68, 69, 73, 75, 77)
AT_ONCE = 8  # beneath the number of troubles that the emulator keeps

# reference: limits and errors of the documents, of which each must be known by its number and its name.
DOCUMENTED = """
400000 400001 400003 400004 400005 400006 400008 400012 400013 400014 400015 400016 400020 400023 400024 400027 400028
400029 400030 400035 400036 401000 401001 401002 401003 403000 403001 403002 403003 403004 403006 403007 403009 403010
403012 403800 404000 404001 404002 404010 404012 404013 404103 404104 404301 405000 405102 409000 409001 409002 409103
409301 409401 412000 412001 412002 413000 413001 413002 413003 413101 415000 429000 429001 429002 429003 429004 429005
499000 500000 500001 500008 502000 503000 503001 503003 503005 503006 503101 503102 504000 504101
"""


def rules():
    return [json.loads(line) for line in run("explain", "--json").stdout.splitlines()]


def assert_shown(r, rule, text=""):
    assert r.returncode == rule["exitCode"], (rule, r)
    status = rule["code"] // 1000
    meaning = rule["meaning"].removeprefix("it ")  # "The twin of d1 was changed meanwhile"
    assert f"{meaning} (HTTP {status} {rule['code']} {rule['name']})" in r.stderr, (rule, r)
    if "remedy" in rule:
        assert f"What to do: {rule['remedy']}\n" in r.stderr, (rule, r)
    assert text in r.stderr, (text, r)


@test
def every_code_is_explained(_):
    table = rules()
    assert sorted(r["code"] for r in table) == sorted(map(int, DOCUMENTED.split()))
    assert len({r["name"] for r in table}) == len(table)
    for rule in (table[0], table[-1]):
        for wanted in (str(rule["code"]), rule["name"], rule["name"].lower()):
            assert json.loads(run("explain", wanted, "--json").stdout) == rule
    r = run("explain", "403002")
    assert r.stdout.startswith("403002 IotHubQuotaExceeded: the day's messages are used up\n") and "Exit code:  75" in r.stdout
    told = json.loads(run("explain", "amqp:not-found", "--json").stdout)
    assert told["condition"] == "amqp:not-found" and "--consumer-group" in told["remedy"] and "code" not in told, told
    r = run("explain", "amqp:link:stolen", "com.microsoft:auth-failed")
    assert "amqp:link:stolen: another reader" in r.stdout and r.stdout.count("What to do: ") == 2, r
    assert "com.microsoft:auth-failed, 401003 " in r.stdout, r
    for wrong in ("403", "999999", "Nonsense", ""):
        r = run("explain", "403002", wrong)
        assert r.returncode == EX_NOT_FOUND and f'"{wrong}" is no error of a hub' in r.stderr and "403002" in r.stdout, r


@test
def every_code_is_shown_as_it_is_explained(folder):
    with Hub(folder) as hub:

        def meet(rule):
            device = f"d{rule['code']}"
            hub.ctl("device", "create", device)
            hub.trouble("https", "--answer", rule["code"], "--retry-after", 1, "--device", device)
            # A call that may run twice is made again after a fault of the service, one of a method is not.
            verb = ["device", "show", device] if rule["code"] < 500000 else ["invoke", device, "m"]
            r = hub.ctl(*verb, check=False)
            assert hub.trouble("https", "--off", "--device", device) == ""
            assert_shown(r, rule)
            return r

        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            for r in pool.map(meet, sorted(rules(), key=lambda rule: rule["code"] // 1000 != 429)):
                assert r.stdout == "", r
        assert hub.trouble_status()["troubles"] == []


@test
def the_tracking_id_comes_with_verbose(folder):
    with Hub(folder) as hub:
        for code in (403002, 404103):  # both forms of a body
            hub.trouble("https", "--answer", code, "--count", 2)
            assert "Tracking id: " not in hub.ctl("device", "show", "d1", check=False).stderr
            r = hub.ctl("device", "show", "d1", "--verbose", check=False)
            assert "\niothubctl: Tracking id: " in r.stderr and "-TimeStamp:" in r.stderr, r


def by_code():
    return {rule["code"]: rule for rule in rules()}


@test
def the_registry_gives_its_own_errors(folder):
    with Hub(folder) as hub, Service(hub) as service:
        known = by_code()
        hub.ctl("device", "create", "d1")
        hub.ctl("device", "create", "edge", "--edge")
        hub.ctl("module", "create", "d1", "m1")
        etag = service.good("GET", "/devices/d1")["etag"]
        hub.ctl("device", "disable", "d1")
        cases = (
            (400004, ["query", "SELECT FROM"], "FROM is missing"),
            (400004, ["device-twin", "update", "d1", "--tag", "a=" + "x" * 5000], "4096"),
            (404001, ["device", "show", "nobody"], "nobody"),
            (404001, ["device", "delete", "nobody", "--force"], "nobody"),
            (404001, ["device-twin", "show", "nobody"], "nobody"),
            (404001, ["invoke", "nobody", "m"], "nobody"),
            (404010, ["module", "show", "d1", "nothing"], "nothing"),
            (401002, ["module", "show", "nobody", "m"], "that its device exists"),
            (404103, ["invoke", "d1", "m"], "--connect-timeout"),
            (409001, ["device", "create", "d1"], "d1"),
            (409301, ["module", "create", "d1", "m1"], "m1"),
            (412001, ["device", "update", "d1", "--status-reason", "x", "--etag", etag], "changed meanwhile"),
            (412001, ["device-twin", "update", "d1", "--tag", "a=1", "--etag", "AAAAAAAAAAk="], "changed meanwhile"),
        )
        for code, verb, text in cases:
            assert_shown(hub.ctl(*verb, check=False), known[code], text)
        either = "module not found, or its device is missing (HTTP 404 404001 DeviceNotFound)"
        for device, verb, text in (
            ("d1", ["device-twin", "show", "d1"], either),
            ("nobody", ["device-twin", "show", "nobody"], either),  # the hub does not tell which of both it is
            ("d1", ["device-twin", "update", "d1", "--tag", "a=1"], either),
            ("d1", ["invoke", "d1", "m"], "module not found (HTTP 404 404010 ModuleNotFound)"),
        ):
            r = hub.ctl(*verb, "--module", "zz", check=False)
            assert r.returncode == EX_NOT_FOUND and text in r.stderr, r
            assert f"iothubctl module list {device}\n" in r.stderr, r
        for n in range(49):
            hub.ctl("module", "create", "d1", f"x{n}")
        assert_shown(hub.ctl("module", "create", "d1", "x49", check=False), known[413003])


class RefusingProxy(socketserver.ThreadingTCPServer):
    daemon_threads = True


class RefuseAll(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nConnection: close\r\n"
                             b"Content-Length: 0\r\n\r\n")


@test
def a_dead_proxy_is_named_and_not_the_hub(folder):
    with Hub(folder) as hub:
        port = free_port()
        for variable in ("https_proxy", "ALL_PROXY"):
            environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
            environment[variable] = f"http://user:secret@127.0.0.1:{port}"
            r = hub.ctl("device", "list", check=False, env=environment)
            assert r.returncode == EX_UNAVAILABLE, r
            assert f"proxy 127.0.0.1:{port}: connecting" in r.stderr and f"check {variable}" in r.stderr, r
            assert "secret" not in r.stderr and "--https-port" not in r.stderr, r
            r = hub.ctl("device", "list", env={**environment, "no_proxy": "localhost"})
        for scheme, place in (("foo://", "127.0.0.1:1"), ("http://", "127.0.0.1:99999"), ("", "127.0.0.1:99999")):
            # curl quotes what it does not understand, all of it.
            for more in ((), ("--verbose",)):
                r = hub.ctl("device", "list", *more, check=False,
                            env={**environment, "ALL_PROXY": f"{scheme}user:secret@{place}"})
                assert r.returncode == EX_UNAVAILABLE and "proxy" in r.stderr and "check ALL_PROXY" in r.stderr, r
                assert "secret" not in r.stderr and "user" not in r.stderr.replace("user-agent", "").lower(), r
        with RefusingProxy(("127.0.0.1", 0), RefuseAll) as proxy:
            thread = threading.Thread(target=proxy.serve_forever)
            thread.start()
            try:
                port = proxy.server_address[1]
                r = hub.ctl("device", "list", check=False, env={**environment, "ALL_PROXY": f"127.0.0.1:{port}"})
            finally:
                proxy.shutdown()
                thread.join()
        assert r.returncode == EX_UNAVAILABLE and f"proxy 127.0.0.1:{port}: " in r.stderr and "407" in r.stderr, r


@test
def methods_give_their_own_errors(folder):
    with Hub(folder) as hub:
        known = by_code()
        key = key_of(Registry(hub).create("d1"))
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            m.subscribe("$iothub/methods/POST/#")
            assert m.receive() == (0x90, b"\0\1\1")
            assert_shown(hub.ctl("invoke", "d1", "m", "--timeout", "5s", check=False), known[504101])


def login(hub, folder, name, **changes):
    with open(hub.login_file, encoding="utf-8") as f:
        fields = dict(part.split("=", 1) for part in f.read().strip().split(";"))
    path = os.path.join(folder, name)
    write_private(path, ";".join(f"{k}={v}" for k, v in {**fields, **changes}.items()) + "\n")
    return path


@test
def a_login_that_is_not_good_is_told_with_what_to_check(folder):
    with Hub(folder) as hub:
        known = by_code()[401002]
        logins = (
            login(hub, folder, "key", SharedAccessKey="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="),
            login(hub, folder, "policy", SharedAccessKeyName="nobody"),
            login(hub, folder, "right", SharedAccessKeyName="device"),
        )
        for path in logins:
            r = run("--login-file", path, "--ca-file", hub.ca_file, "--https-port", str(hub.https_port), "device", "list")
            assert_shown(r, known, "timedatectl")


if __name__ == "__main__":
    main()
