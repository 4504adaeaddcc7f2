#!/usr/bin/env python3
"""Goal: the device verbs of iothubctl do in the hub's registry what they say, and give keys to nobody else (P7).
Method: the emulator's registry, and a hub that fails on request behind the emulator's certificate."""
import base64
import contextlib
import json
import os
import socket
import subprocess
import threading

from harness import DEADLINE_SEC, Hub, main, test
from scripted_hub import against, run
from service import Service

EX_USAGE, EX_DATAERR, EX_NOT_FOUND, EX_UNAVAILABLE, EX_EXISTS = 64, 65, 66, 69, 73
EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 75, 77, 78
FIELDS = (
    *("deviceId", "generationId", "etag", "primaryKey", "secondaryKey", "connectionState", "status", "statusReason"),
    *("lastActivityTime", "cloudToDeviceMessageCount", "isManaged", "authMethod", "connectionString"),
)


def fields(text):
    return dict((part.strip() for part in line.split(":", 1)) for line in text.splitlines())


@test
def create_prints_the_device_and_its_connection_string(folder):
    with Hub(folder) as hub:
        created = fields(hub.ctl("device", "create", "myFirstDevice").stdout)
        assert all(name in created for name in FIELDS), created
        assert created["deviceId"] == "myFirstDevice" and created["status"] == "enabled"
        assert created["connectionState"] == "Disconnected" and created["authMethod"] == "sas"
        key = created["primaryKey"]
        assert created["connectionString"] == f"HostName=localhost;DeviceId=myFirstDevice;SharedAccessKey={key}"

        alone = hub.ctl("device", "connection-string", "myFirstDevice").stdout
        assert alone == created["connectionString"] + "\n"
        second = hub.ctl("device", "connection-string", "--secondary", "myFirstDevice").stdout
        assert second.strip().endswith(created["secondaryKey"])

        again = hub.ctl("device", "create", "myFirstDevice", check=False)
        assert again.returncode == EX_EXISTS and "exists" in again.stderr, again


@test
def keys_are_shown_only_where_that_is_the_job(folder):
    with Hub(folder) as hub:
        created = json.loads(hub.ctl("--json", "device", "create", "d1").stdout)
        keys = list(created["authentication"]["symmetricKey"].values())
        assert len(keys) == 2 and all(keys)
        for arguments in (["show", "d1"], ["show", "d1", "--json"], ["list"], ["list", "--json"], ["delete", "d1"]):
            r = hub.ctl("device", *arguments)
            assert not any(key in r.stdout + r.stderr for key in keys), (arguments, r)
        created = json.loads(hub.ctl("device", "create", "d1", "--json").stdout)
        key = created["authentication"]["symmetricKey"]["primaryKey"]
        assert key in hub.ctl("device", "show", "d1", "--keys").stdout
        assert json.loads(hub.ctl("device", "show", "d1", "--keys", "--json").stdout)["authentication"] == (
            created["authentication"]
        )


@test
def any_allowed_id_is_made_listed_and_deleted(folder):
    ids = ["a", "A-z:.+%_#*?!(),=@$'", "x" * 128]
    with Hub(folder) as hub:
        for device in ids:
            assert fields(hub.ctl("device", "create", "--disabled", device).stdout)["status"] == "disabled"
        listed = [json.loads(line) for line in hub.ctl("device", "list", "--json").stdout.splitlines()]
        assert [d["deviceId"] for d in listed] == sorted(ids)
        assert [line.split()[0] for line in hub.ctl("device", "list").stdout.splitlines()[1:]] == sorted(ids)
        for device in ids:
            assert json.loads(hub.ctl("device", "show", device, "--json").stdout)["deviceId"] == device
            hub.ctl("device", "delete", device)
            gone = hub.ctl("device", "show", device, check=False)
            assert gone.returncode == EX_NOT_FOUND, gone
            gone = hub.ctl("device", "delete", device, check=False)
            assert gone.returncode == EX_NOT_FOUND, gone
        for bad in ("", "a b", "x" * 129, "ü", "a/b"):
            assert hub.ctl("device", "create", bad, check=False).returncode == EX_USAGE, bad


@test
def the_login_comes_from_option_environment_or_file(folder):
    with Hub(folder) as hub:
        with open(hub.login_file, encoding="utf-8") as f:
            login = f.read()
        where = ["--ca-file", hub.ca_file, "--https-port", str(hub.https_port), "device", "list"]
        assert run(*where, env={"IOTHUB_CONNECTION_STRING": login}).returncode == 0

        home = os.path.join(folder, "home", ".config", "iothubd")
        os.makedirs(home)
        path = os.path.join(home, "connection-string")
        with open(path, "w", encoding="utf-8") as f:
            f.write(login)
        os.chmod(path, 0o600)
        env = {"HOME": os.path.join(folder, "home")}
        r = run(*where, env=env)
        assert r.returncode == 0 and not r.stderr, r
        os.chmod(path, 0o644)
        r = run(*where, env=env)
        assert r.returncode == 0 and "chmod 600" in r.stderr, r

        os.unlink(path)
        r = run(*where, env=env)
        assert r.returncode == EX_CONFIG and path in r.stderr, r
        r = run("--login-file", os.path.join(folder, "none"), *where)
        assert r.returncode == EX_CONFIG and "none" in r.stderr, r


@test
def a_wrong_login_names_the_cause_and_no_key(folder):
    with Hub(folder) as hub:
        with open(hub.login_file, encoding="utf-8") as f:
            login = f.read().strip()
        key = login.rsplit("SharedAccessKey=", 1)[1]
        other = "AAAA" + key[4:]
        where = ["--ca-file", hub.ca_file, "--https-port", str(hub.https_port), "device", "list"]
        for text, want in (
            (login.replace(key, other), EX_NOPERM),
            (login.replace("iothubowner", "nobody"), EX_NOPERM),
            (login.replace("SharedAccessKeyName", "DeviceId"), EX_CONFIG),
            (login + ";Colour=red", EX_CONFIG),
            (key, EX_CONFIG),
        ):
            r = run(*where, env={"IOTHUB_CONNECTION_STRING": text})
            assert r.returncode == want and r.stderr.startswith("iothubctl: "), (text, r)
            assert key not in r.stderr and other not in r.stderr, r


@test
def tls_is_verified(folder):
    with Hub(folder) as hub:
        where = ["--login-file", hub.login_file, "--https-port", str(hub.https_port), "device", "list"]
        r = run(*where)
        assert r.returncode == EX_UNAVAILABLE and "--ca-file" in r.stderr, r
        with open(hub.login_file, encoding="utf-8") as f:
            login = f.read().replace("HostName=localhost", "HostName=127.0.0.2")
        r = run("--ca-file", hub.ca_file, *where[2:], env={"IOTHUB_CONNECTION_STRING": login})
        assert r.returncode == EX_UNAVAILABLE, r


DEVICE = json.dumps(
    {"deviceId": "d1", "authentication": {"symmetricKey": {"primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25k"}}}
).encode()
EXISTS = (409, {"iothub-errorcode": "DeviceAlreadyExists"}, b'{"Message":"ErrorCode:DeviceAlreadyExists;d1"}')


@test
def requests_are_what_the_registry_expects(folder):
    with Hub(folder) as hub:
        r, requests = against(hub, [(200, {}, DEVICE)], "device", "create", "d#1")
    assert r.returncode == 0, r
    method, path, body, headers = requests[0]
    assert (method, path) == ("PUT", "/devices/d%231?api-version=2021-04-12")
    assert json.loads(body) == {"deviceId": "d#1", "status": "enabled"}
    assert headers["Authorization"].startswith("SharedAccessSignature sr=localhost&sig=")
    assert headers["Authorization"].endswith("&skn=iothubowner") and "If-Match" not in headers


@test
def a_throttling_or_failing_hub_is_asked_again(folder):
    answers = [(429, {"Retry-After": "1"}, b""), (503, {}, b"<html>"), (200, {}, b"[]")]
    with Hub(folder) as hub:
        r, requests = against(hub, answers, "device", "list")
    assert r.returncode == 0 and len(requests) == 3, r
    assert "HTTP 429" in r.stderr and "HTTP 503" in r.stderr, r


@test
def a_create_that_worked_in_spite_of_an_error_is_a_success(folder):
    with Hub(folder) as hub:
        r, requests = against(hub, [(500, {}, b""), EXISTS, (200, {}, DEVICE)], "device", "create", "d1")
    assert r.returncode == 0 and "cHJpbWFyeQ==" in r.stdout, r
    assert [q[0] for q in requests] == ["PUT", "PUT", "GET"]


@test
def every_shape_of_an_error_is_shown(folder):
    inner = json.dumps({"errorCode": 404001, "message": "gone, really"})
    with Hub(folder) as hub:
        for body, want in (
            (b'{"Message":"ErrorCode:DeviceNotFound;d1 is unknown","ExceptionMessage":"x"}', "d1 is unknown"),
            (json.dumps({"Message": inner}).encode(), "gone, really"),
            (inner.encode(), "gone, really"),
            (b"<html>", "not found"),
            (b"", "not found"),
            (b"[1", "not found"),
            (b'{"Message":5}', "not found"),
        ):
            r, _ = against(hub, [(404, {}, body)], "device", "show", "d1")
            assert r.returncode == EX_NOT_FOUND and want in r.stderr, r


@test
def an_answer_that_is_no_device_is_told(folder):
    with Hub(folder) as hub:
        for body in (b"", b"5", b"<html>", b'"x"', b"[]"):
            r, _ = against(hub, [(200, {}, body)], "device", "show", "d1")
            assert r.returncode == 76 and "not understood" in r.stderr, (body, r)


def show(hub, *name, group="device"):
    return json.loads(hub.ctl(group, "show", *name, "--keys", "--json").stdout)


def keys_of(identity):
    return list(identity["authentication"]["symmetricKey"].values())


def random_key(size=32):
    return base64.b64encode(os.urandom(size)).decode()


def make_certificate(folder):
    path = os.path.join(folder, "device.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=d1",
         "-keyout", os.path.join(folder, "device-key.pem"), "-out", path],
        check=True, capture_output=True, timeout=DEADLINE_SEC,
    )
    return path


@test
def keys_come_from_the_hub_a_file_or_the_command_line(folder):
    first, second = random_key(), random_key(64)
    path = os.path.join(folder, "key")
    with open(path, "w", encoding="utf-8") as f:
        f.write(first + "\n")
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1", "--primary-key-file", path, "--secondary-key", second)
        assert keys_of(show(hub, "d1")) == [first, second]
        hub.ctl("device", "create", "d2", "--secondary-key", second)
        made, kept = keys_of(show(hub, "d2"))
        assert kept == second and len(base64.b64decode(made)) == 32
        hub.ctl("device", "update", "d2", "--primary-key-file", path)
        assert keys_of(show(hub, "d2")) == [first, second]
        for bad in ("short", base64.b64encode(b"x" * 15).decode(), base64.b64encode(b"x" * 65).decode(), "=" * 44):
            r = hub.ctl("device", "create", "d3", "--primary-key", bad, check=False)
            assert r.returncode == EX_DATAERR and bad not in r.stderr, r
        r = hub.ctl("device", "create", "d3", "--primary-key-file", path + "x", check=False)
        assert r.returncode == EX_NOT_FOUND and path + "x" in r.stderr, r
        for wrong in (["--auth", "tpm"], ["--auth", "x509", "--primary-key", first],
                      ["--primary-key", first, "--primary-thumbprint", "a" * 40]):
            assert hub.ctl("device", "create", "d3", *wrong, check=False).returncode == EX_USAGE, wrong


@test
def certificates_are_known_by_their_thumbprints(folder):
    certificate = make_certificate(folder)
    printed = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"],
        check=True, capture_output=True, text=True, timeout=DEADLINE_SEC,
    ).stdout.strip().split("=")[1]
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1", "--primary-certificate", certificate, "--secondary-thumbprint", "ab" * 20)
        authentication = show(hub, "d1")["authentication"]
        assert authentication["type"] == "selfSigned"
        assert authentication["x509Thumbprint"] == {
            "primaryThumbprint": printed.replace(":", ""), "secondaryThumbprint": "AB" * 20,
        }
        hub.ctl("device", "create", "d2", "--primary-thumbprint", printed)
        assert show(hub, "d2")["authentication"]["x509Thumbprint"]["primaryThumbprint"] == printed.replace(":", "")
        assert hub.ctl("device", "connection-string", "d2").stdout == "HostName=localhost;DeviceId=d2;x509=true\n"
        assert hub.ctl("device", "renew-key", "d2", check=False).returncode == EX_DATAERR
        hub.ctl("device", "create", "d3", "--auth", "x509-ca")
        assert show(hub, "d3")["authentication"]["type"] == "certificateAuthority"
        hub.ctl("device", "update", "d3", "--auth", "sas")
        assert all(keys_of(show(hub, "d3")))
        bad = hub.ctl("device", "create", "d4", "--primary-thumbprint", "abc", check=False)
        assert bad.returncode == EX_USAGE, bad
        bad = hub.ctl("device", "create", "d4", "--primary-certificate", hub.login_file, check=False)
        assert bad.returncode == EX_DATAERR and "PEM" in bad.stderr, bad


@test
def an_update_changes_what_it_names_and_nothing_else(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1", "--status-reason", "new")
        before = show(hub, "d1")
        hub.ctl("device", "disable", "d1", "--reason", "broken")
        disabled = show(hub, "d1")
        assert (disabled["status"], disabled["statusReason"]) == ("disabled", "broken")
        assert keys_of(disabled) == keys_of(before) and disabled["generationId"] == before["generationId"]
        assert not disabled["statusUpdatedTime"].startswith("0001")
        hub.ctl("device", "create", "d2")
        hub.ctl("device", "enable", "d1", "d2")
        enabled = show(hub, "d1")
        assert (enabled["status"], enabled["statusReason"]) == ("enabled", None)
        missing = hub.ctl("device", "enable", "none", "d2", check=False)
        assert missing.returncode == EX_NOT_FOUND and "d2 is enabled" in missing.stdout, missing
        hub.ctl("device", "update", "d1", "--status", "disabled")
        assert show(hub, "d1")["status"] == "disabled"
        assert hub.ctl("device", "update", "d1", "--status", "off", check=False).returncode == EX_USAGE


@test
def a_stale_etag_stops_a_change_and_force_overrides(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        stale = show(hub, "d1")["etag"]
        hub.ctl("device", "disable", "d1")
        for verb in ("disable", "delete"):
            r = hub.ctl("device", verb, "d1", "--etag", stale, check=False)
            assert r.returncode == EX_TEMPFAIL and "--force" in r.stderr, r
        r = hub.ctl("device", "update", "d1", "--etag", stale, "--status", "enabled", check=False)
        assert r.returncode == EX_TEMPFAIL and show(hub, "d1")["etag"] in r.stderr, r
        hub.ctl("device", "update", "d1", "--etag", show(hub, "d1")["etag"], "--status", "enabled")
        hub.ctl("device", "update", "d1", "--etag", stale, "--force", "--status", "disabled")
        hub.ctl("device", "delete", "d1", "--etag", stale, "--force")
        assert hub.ctl("device", "show", "d1", check=False).returncode == EX_NOT_FOUND


@test
def a_conflict_says_what_changed(folder):
    old = {"deviceId": "d1", "etag": "MQ==", "status": "enabled",
           "authentication": {"symmetricKey": {"primaryKey": "cHJpbWFyeQ==", "secondaryKey": "c2Vjb25k"}}}
    new = {**old, "etag": "Mg==", "status": "disabled",
           "authentication": {"symmetricKey": {"primaryKey": "b3RoZXI=", "secondaryKey": "c2Vjb25k"}}}
    conflict = (412, {"iothub-errorcode": "PreconditionFailed"}, b'{"Message":"ErrorCode:PreconditionFailed;x"}')
    answers = [(200, {}, json.dumps(old).encode()), conflict, (200, {}, json.dumps(new).encode())]
    with Hub(folder) as hub:
        for method, arguments in ("PUT", ("update", "d1", "--status-reason", "x")), ("DELETE", ("delete", "d1")):
            r, requests = against(hub, answers, "device", *arguments)
            assert r.returncode == EX_TEMPFAIL, r
            assert requests[1][0] == method and requests[1][3]["If-Match"] == '"MQ=="', requests[1]
            assert 'status: was "enabled", is "disabled"' in r.stderr and "secondaryKey" not in r.stderr, r
            assert "primaryKey: another one" in r.stderr and "b3RoZXI=" not in r.stderr + r.stdout, r


@test
def keys_are_made_anew_one_by_one(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        first, second = keys_of(show(hub, "d1"))
        shown = fields(hub.ctl("device", "renew-key", "d1").stdout)
        assert shown["secondaryKey"] == second and shown["primaryKey"] not in (first, second)
        hub.ctl("device", "renew-key", "d1", "--key", "swap")
        assert keys_of(show(hub, "d1")) == [second, shown["primaryKey"]]
        hub.ctl("device", "renew-key", "d1", "--key", "both")
        assert not set(keys_of(show(hub, "d1"))) & {first, second, shown["primaryKey"]}
        assert hub.ctl("device", "renew-key", "d1", "--key", "third", check=False).returncode == EX_USAGE


@test
def edge_devices_are_parents(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "gateway", "--edge")
        scope = show(hub, "gateway")["deviceScope"]
        hub.ctl("device", "create", "leaf", "--parent", "gateway")
        leaf = show(hub, "leaf")
        assert leaf["deviceScope"] == scope and leaf["parentScopes"] == [scope]
        hub.ctl("device", "update", "leaf", "--parent", "")
        assert "deviceScope" not in show(hub, "leaf")
        hub.ctl("device", "update", "gateway", "--status-reason", "x")
        assert show(hub, "gateway")["deviceScope"] == scope
        r = hub.ctl("device", "create", "other", "--parent", "leaf", check=False)
        assert r.returncode == EX_DATAERR and "leaf" in r.stderr, r
        assert hub.ctl("device", "create", "other", "--parent", "none", check=False).returncode == EX_NOT_FOUND


@test
def modules_have_the_same_verbs(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        created = fields(hub.ctl("module", "create", "d1", "m#1", "--managed-by", "me").stdout)
        key = created["primaryKey"]
        want = f"HostName=localhost;DeviceId=d1;ModuleId=m#1;SharedAccessKey={key}"
        assert created["managedBy"] == "me" and created["connectionString"] == want
        assert hub.ctl("module", "connection-string", "d1", "m#1").stdout == want + "\n"
        hub.ctl("module", "update", "d1", "m#1", "--managed-by", "")
        assert show(hub, "d1", "m#1", group="module")["managedBy"] is None
        assert key not in hub.ctl("module", "renew-key", "d1", "m#1").stdout
        assert "m#1" in hub.ctl("module", "list", "d1").stdout
        again = hub.ctl("module", "create", "d1", "m#1", check=False)
        assert again.returncode == EX_EXISTS and "409301" in again.stderr, again
        hub.ctl("module", "delete", "d1", "m#1")
        gone = hub.ctl("module", "show", "d1", "m#1", check=False)
        assert gone.returncode == EX_NOT_FOUND and "ModuleNotFound" in gone.stderr, gone
        no_device = hub.ctl("module", "create", "none", "m1", check=False)
        assert no_device.returncode == EX_NOPERM and "its device exists" in no_device.stderr, no_device
        assert hub.ctl("module", "create", "d1", "a b", check=False).returncode == EX_USAGE


@test
def verbose_shows_the_calls_and_no_secret(folder):
    with Hub(folder) as hub:
        with open(hub.login_file, encoding="utf-8") as f:
            policy_key = f.read().strip().rsplit("SharedAccessKey=", 1)[1]
        given = random_key()
        r = hub.ctl("device", "create", "d1", "--primary-key", given, "--verbose")
        assert "> PUT /devices/d1?api-version=" in r.stderr and "< HTTP/1.1 200" in r.stderr, r.stderr
        assert "sig=***" in r.stderr and '"primaryKey":"***"' in r.stderr
        for secret in (policy_key, given, fields(r.stdout)["secondaryKey"]):
            assert secret not in r.stderr
        r = hub.ctl("device", "show", "none", "-v", check=False)
        assert "Tracking id: " in r.stderr and "404001 DeviceNotFound" in r.stderr and "What to do:" in r.stderr, r


@test
def a_list_goes_on_page_by_page_and_falls_back_without_the_right_to_query(folder):
    twin = {"deviceId": "d1", "status": "enabled", "authenticationType": "sas"}
    page = [{**twin, "deviceId": f"d{n}"} for n in range(3)]
    answers = [
        (200, {"x-ms-continuation": "next+1="}, json.dumps(page).encode()),
        (200, {"x-ms-continuation": "last"}, b"[]"),
        (200, {}, json.dumps([twin | {"deviceId": "d9"}]).encode()),
    ]
    with Hub(folder) as hub:
        r, requests = against(hub, answers, "device", "list")
        assert r.returncode == 0, r
        assert [line.split()[0] for line in r.stdout.splitlines()] == ["DEVICE", "d0", "d1", "d2", "d9"]
        assert [q[3].get("x-ms-continuation") for q in requests] == [None, "next+1=", "last"]
        assert len({q[2] for q in requests}) == 1 and len({q[3]["x-ms-max-item-count"] for q in requests}) == 1
        r, requests = against(hub, answers, "device", "list", "--top", "2")
        assert len(requests) == 1 and len(r.stdout.splitlines()) == 3, r
        r, requests = against(hub, [(401, {}, b""), (200, {}, b"[" + DEVICE + b"]")], "device", "list", "--json")
        assert r.returncode == 0 and requests[1][1].startswith("/devices?top=1000&"), r
        assert "cHJpbWFyeQ" not in r.stdout and json.loads(r.stdout)["deviceId"] == "d1", r
        assert hub.ctl("device", "list", "--top", "0", check=False).returncode == EX_USAGE


@test
def a_network_error_names_the_stage(folder):
    with Hub(folder) as hub:
        with open(hub.login_file, encoding="utf-8") as f:
            login = f.read().replace("HostName=localhost", "HostName=no-such-host.invalid")
        r = run("device", "list", env={"IOTHUB_CONNECTION_STRING": login})
        assert r.returncode == EX_UNAVAILABLE and "name resolution" in r.stderr, r
        r = run("--login-file", hub.login_file, "--https-port", "1", "device", "list")
        assert r.returncode == EX_UNAVAILABLE and "localhost:1: connecting" in r.stderr, r
        r = run("--login-file", hub.login_file, "--https-port", str(hub.https_port), "device", "list")
        assert r.returncode == EX_UNAVAILABLE and ": TLS: " in r.stderr, r


class Tunnel:
    """A proxy that takes CONNECT and passes bytes; `asked` is what for."""

    def __init__(self):
        self.asked = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def _accept(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            self.asked.append(request.split(b"\r\n")[0].decode())
            host, port = self.asked[-1].split()[1].rsplit(":", 1)
            with socket.create_connection((host, int(port))) as hub:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                other = threading.Thread(target=self._pass, args=(hub, client), daemon=True)
                other.start()
                self._pass(client, hub)
                other.join()

    @staticmethod
    def _pass(source, to):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)


@test
def a_proxy_of_the_environment_is_used_and_left_out(folder):
    with Hub(folder) as hub, Tunnel() as tunnel:
        hub.ctl("device", "create", "d1")
        arguments = ("--login-file", hub.login_file, "--ca-file", hub.ca_file, "--https-port", str(hub.https_port), "device", "show", "d1")
        r = run(*arguments, env={"https_proxy": tunnel.url, "no_proxy": ""})
        assert r.returncode == 0 and tunnel.asked == [f"CONNECT localhost:{hub.https_port} HTTP/1.1"], (r, tunnel.asked)
        r = run(*arguments, env={"https_proxy": tunnel.url, "no_proxy": "localhost"})
        assert r.returncode == 0 and len(tunnel.asked) == 1, (r, tunnel.asked)
    r = run(*arguments, env={"https_proxy": tunnel.url, "no_proxy": ""})
    assert r.returncode == EX_UNAVAILABLE and "connecting" in r.stderr, r


@test
def json_is_the_hubs_own_object(folder):
    with Hub(folder) as hub, Service(hub) as service:
        hub.ctl("device", "create", "d1", "--edge", "--status-reason", 'a "b" / \u00fc')
        hub.ctl("module", "create", "d1", "m1")
        hub.ctl("device-twin", "update", "d1", '{"tags":{"n":1.5e3,"a":[1,{"b":[]}]},"properties":{"desired":{"\u00fc":"/"}}}')
        for verb, path in (
            (["device", "show", "d1", "--keys"], "/devices/d1"),
            (["module", "show", "d1", "m1", "--keys"], "/devices/d1/modules/m1"),
            (["device-twin", "show", "d1"], "/twins/d1"),
            (["device-twin", "show", "d1", "--module", "m1"], "/twins/d1/modules/m1"),
        ):
            shown = json.loads(hub.ctl(*verb, "--json").stdout)
            shown.pop("connectionString", None)  # ours, beside the keys
            assert shown == service.good("GET", path), verb
        rows = [json.loads(line) for line in hub.ctl("query", "SELECT * FROM devices", "--json").stdout.splitlines()]
        assert rows == service.query("SELECT * FROM devices")[0]
        assert [json.loads(line) for line in hub.ctl("device", "list", "--json").stdout.splitlines()] == rows


if __name__ == "__main__":
    main()
