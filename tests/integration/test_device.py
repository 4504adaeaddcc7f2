#!/usr/bin/env python3
"""Goal: the device verbs of iothubctl do in the hub's registry what they say, and give keys to nobody else (P7).
Method: the emulator's registry, and a hub that fails on request behind the emulator's certificate."""
import http.server
import json
import os
import ssl
import subprocess
import threading

from harness import DEADLINE_SEC, IOTHUBCTL, Hub, main, test

EX_USAGE, EX_NOT_FOUND, EX_UNAVAILABLE, EX_EXISTS, EX_NOPERM, EX_CONFIG = 64, 66, 69, 73, 77, 78
FIELDS = (
    *("deviceId", "generationId", "etag", "primaryKey", "secondaryKey", "connectionState", "status", "statusReason"),
    *("lastActivityTime", "cloudToDeviceMessageCount", "isManaged", "authMethod", "connectionString"),
)


def run(*arguments, env=None):
    clean = {k: v for k, v in os.environ.items() if k not in ("IOTHUB_CONNECTION_STRING", "XDG_CONFIG_HOME")}
    return subprocess.run(
        [IOTHUBCTL, *arguments], capture_output=True, text=True, timeout=DEADLINE_SEC, env={**clean, **(env or {})}
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
        keys = [created["primaryKey"], created["secondaryKey"]]
        for arguments in (["show", "d1"], ["show", "d1", "--json"], ["list"], ["list", "--json"], ["delete", "d1"]):
            r = hub.ctl("device", *arguments)
            assert not any(key in r.stdout + r.stderr for key in keys), (arguments, r)
        created = json.loads(hub.ctl("device", "create", "d1", "--json").stdout)
        assert created["primaryKey"] in hub.ctl("device", "show", "d1", "--keys").stdout


@test
def any_allowed_id_is_made_listed_and_deleted(folder):
    ids = ["a", "A-z:.+%_#*?!(),=@$'", "x" * 128]
    with Hub(folder) as hub:
        for device in ids:
            assert fields(hub.ctl("device", "create", "--disabled", device).stdout)["status"] == "disabled"
        listed = json.loads(hub.ctl("device", "list", "--json").stdout)
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


class FailingHub:
    """Gives one answer after the other: (status, headers, body)."""

    def __init__(self, folder, answers):
        outer = self
        self.answers = list(answers)
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self):
                size = int(self.headers.get("Content-Length") or 0)
                outer.requests.append((self.command, self.path, self.rfile.read(size), dict(self.headers)))
                status, headers, body = outer.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_DELETE = _answer

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(folder, "server.pem"), os.path.join(folder, "server-key.pem"))
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


def against(hub, answers, *arguments):
    """iothubctl against a hub that gives these answers, behind the emulator's certificate."""
    with FailingHub(os.path.dirname(hub.ca_file), answers) as failing:
        r = run("--login-file", hub.login_file, "--ca-file", hub.ca_file, "--https-port", str(failing.port), *arguments)
        return r, failing.requests


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


if __name__ == "__main__":
    main()
