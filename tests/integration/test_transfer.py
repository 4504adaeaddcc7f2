#!/usr/bin/env python3
"""Goal: import and export carry a whole registry, lose nothing, and can be stopped and given again.
Method: the emulator's registry out and in again; a hub that throttles and fails by script; a signal in the middle."""
import contextlib
import csv
import json
import os
import pty
import signal
import subprocess

from harness import DEADLINE_SEC, IOTHUBCTL, Hub, main, test, wait_until
from scripted_hub import against
from service import Service

EX_USAGE, EX_DATAERR, EX_NOT_FOUND, EX_TRY_AGAIN = 64, 65, 66, 75


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def lines_of(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def text_of(path):
    with open(path, encoding="utf-8", newline="") as f:
        return f.read()


def ids(hub):
    return [json.loads(line)["deviceId"] for line in hub.ctl("device", "list", "--json").stdout.splitlines()]


@test
def what_is_exported_is_imported_again_as_it_was(folder):
    with Hub(folder) as hub, Service(hub) as service:
        names = [f"d{n:04}" for n in range(750)]
        path = write(folder, "in.jsonl", "".join(
            json.dumps({"id": i, "status": "disabled" if i[-1] == "3" else "enabled", "tags": {"t": i}}) + "\n" for i in names
        ))
        r = hub.ctl("device", "import", path)
        assert r.stdout.startswith("750 done, 0 were so already, 0 failed"), r
        out = os.path.join(folder, "out.jsonl")
        hub.ctl("device", "export", out)
        assert os.stat(out).st_mode & 0o777 == 0o600
        exported = lines_of(out)
        assert [d["id"] for d in exported] == names
        for name in ("d0000", "d0503", "d0749"):
            device, line = service.good("GET", f"/devices/{name}"), exported[int(name[1:])]
            assert line["authentication"] == device["authentication"] and line["status"] == device["status"]
            assert line["tags"] == {"t": name}
        assert hub.ctl("device", "import", out, "--mode", "delete").stdout.startswith("750 done")
        assert ids(hub) == []
        hub.ctl("device", "import", out)
        again = os.path.join(folder, "again.jsonl")
        hub.ctl("device", "export", again)
        for device in exported + (second := lines_of(again)):
            device.pop("eTag")
        assert second == exported


@test
def modules_come_behind_their_devices_and_back(folder):
    with Hub(folder) as hub, Service(hub) as service:
        # The last call with devices is still under way when the first module is read; more than one list holds.
        devices, modules = [f"d{n:04}" for n in range(1050)], [(f"d{n:04}", f"m{k}") for n in range(1000, 1050) for k in range(3)]
        lines = [{"id": d} for d in devices] + [{"id": d, "moduleId": m, "tags": {"t": d + m}} for d, m in modules]
        path = write(folder, "in", "".join(json.dumps(line) + "\n" for line in lines))
        r = hub.ctl("device", "import", path, "--calls", "8")
        assert r.stdout.startswith(f"{len(lines)} done, 0 were so already, 0 failed"), r
        out = os.path.join(folder, "out")
        r = hub.ctl("device", "export", out)
        assert "1050 devices and 150 modules exported" in r.stderr, r
        exported = lines_of(out)
        assert [(e["id"], e.get("moduleId")) for e in exported] == [(d, None) for d in devices] + modules
        last = exported[-1]
        assert last["authentication"] == service.good("GET", "/devices/d1049/modules/m2")["authentication"]
        assert last["tags"] == {"t": "d1049m2"}
        assert hub.ctl("device", "import", out, "--mode", "update").stdout.startswith(f"{len(lines)} done")
        r = hub.ctl("device", "export", "--no-keys", "--where", "deviceId = 'd1049'")
        assert [json.loads(line).get("moduleId") for line in r.stdout.splitlines()] == [None]
        r = hub.ctl("device", "import", out, "--mode", "delete")
        assert r.stdout.startswith("1050 done, 150 were so already, 0 failed"), r
        assert ids(hub) == []
        hub.ctl("device", "import", out)
        again = os.path.join(folder, "again")
        hub.ctl("device", "export", again)
        for line in exported + (second := lines_of(again)):
            line.pop("eTag")
        assert second == exported
        hub.ctl("device", "create", "edge", "--edge")
        assert {e.get("moduleId") for e in map(json.loads, hub.ctl("device", "export").stdout.splitlines()) if e["id"] == "edge"} == {
            None, "$edgeAgent", "$edgeHub"
        }


@test
def a_small_hub_is_exported_with_one_list(folder):
    with Hub(folder) as hub, Service(hub) as service:
        service.create("d1")
        service.create("d2")
        # Each identity by itself would meet it: only one list and two queries are made.
        hub.trouble("https", "--answer", 403002, "--device", "d1")
        exported = [json.loads(line) for line in hub.ctl("device", "export").stdout.splitlines()]
        hub.trouble("clear")
        assert [e["authentication"] for e in exported] == [service.good("GET", f"/devices/{d}")["authentication"] for d in ("d1", "d2")]


@test
def progress_is_shown_on_a_terminal(folder):
    with Hub(folder) as hub:
        path = write(folder, "in", "".join(json.dumps({"id": f"d{n}"}) + "\n" for n in range(300)))
        hub.trouble("https", "--delay", "400ms", "--count", 3, "--calls", "bulk")
        hub.trouble("https", "--answer", 429001, "--retry-after", 1, "--count", 1, "--calls", "bulk")
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [IOTHUBCTL, "device", "import", path, "--calls", "1", "--login-file", hub.login_file, "--ca-file", hub.ca_file,
             "--https-port", str(hub.https_port)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := terminal.read(4096):
                shown += part
        assert process.communicate(timeout=DEADLINE_SEC)[0].startswith(b"300 done") and process.returncode == 0
        assert b"of 300 done" in shown and b"/s" in shown and b", throttled" in shown and b" left" in shown, shown


@test
def csv_carries_ids_keys_and_thumbprints(folder):
    key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
    text = (
        "\ufeffid,moduleId,primaryKey,secondaryKey,primaryThumbprint,authentication,statusReason\r\n"
        f"d1,,{key},{key},,,\"a \"\"b\"\", c\"\r\nd1,m1,,,,,\r\nd2,,,,{'A' * 40},selfSigned,\r\n"
    )
    with Hub(folder) as hub, Service(hub) as service:
        r = hub.ctl("device", "import", "-", input=text)
        assert r.stdout.startswith("3 done"), r
        device = service.good("GET", "/devices/d1")
        assert device["authentication"]["symmetricKey"]["primaryKey"] == key and device["statusReason"] == 'a "b", c'
        assert service.good("GET", "/devices/d2")["authentication"]["x509Thumbprint"]["primaryThumbprint"] == "A" * 40
        assert service.good("GET", "/devices/d1/modules/m1")
        rows = list(csv.DictReader(hub.ctl("device", "export", "--format", "csv").stdout.splitlines()))
        assert [(r["id"], r["moduleId"]) for r in rows] == [("d1", ""), ("d2", ""), ("d1", "m1")], rows
        assert rows[0]["primaryKey"] == key
        assert rows[0]["statusReason"] == 'a "b", c'
        keyless = hub.ctl("device", "export", "--no-keys", "--where", "deviceId = 'd1'").stdout
        assert key not in keyless and json.loads(keyless)["id"] == "d1"


@test
def failures_are_told_kept_and_given_again(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "old")
        good = [json.dumps({"id": f"d{n}"}) for n in range(5)]
        bad = json.dumps({"id": "bad", "authentication": {"symmetricKey": {"primaryKey": "x", "secondaryKey": "y"}}})
        path = write(folder, "in.jsonl", "\n".join(good + [bad, '{"id":"old"}', "nonsense", '{"id":"a b"}']) + "\n")
        r = hub.ctl("device", "import", path, check=False)
        assert r.returncode == EX_DATAERR and r.stdout.startswith("5 done, 1 were so already, 3 failed"), r
        assert "line 8:" in r.stderr and "line 9:" in r.stderr and "bad: " in r.stderr, r
        failed = [json.loads(line) for line in text_of(path + ".failed").splitlines() if "importError" in line]
        assert [f["id"] for f in failed] == ["bad"] and "key length" in failed[0]["importError"], failed
        assert os.stat(path + ".failed").st_mode & 0o777 == 0o600
        del failed[0]["authentication"]
        r = hub.ctl("device", "import", write(folder, "again", json.dumps(failed[0])))
        assert r.stdout.startswith("1 done"), r
        assert sorted(ids(hub)) == sorted(["bad", "old"] + [f"d{n}" for n in range(5)])
        r = hub.ctl("device", "import", path, "--mode", "delete", check=False)
        r = hub.ctl("device", "import", path, "--mode", "delete", check=False)
        assert "0 done, 6 were so already" in r.stdout, r


@test
def lines_that_cannot_be_read_are_kept_as_they_were(folder):
    long = '{"id":"' + "x" * 600_000 + '"}'  # comes in many pieces
    bad = ["nonsense", ' {"id":"a b"} ', '{"id":', long, '{"id":"no","moduleId":""}']
    path = write(folder, "in.jsonl", "\n".join(['{"id":"d1"}'] + bad + ['{"id":"d2"}']) + "\n")
    with Hub(folder) as hub:
        r = hub.ctl("device", "import", path, check=False)
        assert r.returncode == EX_DATAERR and r.stdout.startswith("2 done, 0 were so already, 5 failed"), r
        assert "5 bad lines" in r.stderr, r
        assert text_of(path + ".failed") == "\n".join(bad) + "\n"
        # A column is added for the reasons; what is given again need not have it.
        table = write(folder, "in.csv", 'id,authentication\r\nc1,\r\n"c2\r\nc3,sas,x\r\nc4,wrong\r\nc5,\r\n')
        r = hub.ctl("device", "import", table, check=False)
        assert r.returncode == EX_DATAERR and r.stdout.startswith("2 done, 0 were so already, 3 failed"), r
        kept = text_of(table + ".failed")
        assert kept.startswith('id,authentication,importError\r\n"c2\r\nc3,sas,x\r\nc4,wrong,'), kept
        r = hub.ctl("device", "import", table + ".failed", "--failed", table + ".failed2", check=False)
        assert r.stdout.startswith("0 done, 0 were so already, 3 failed") and text_of(table + ".failed2") == kept, r
        again = write(folder, "again.csv", kept.replace('"c2', "c2,").replace("c3,sas,x", "c3,sas").replace("c4,wrong,", "c4,sas,"))
        r = hub.ctl("device", "import", again)
        assert r.returncode == 0 and ids(hub) == ["c1", "c2", "c3", "c4", "c5", "d1", "d2"], r


@test
def of_many_bad_lines_the_first_are_told(folder):
    bad = [f"bad {n}" for n in range(5000)]
    path = write(folder, "in", "\n".join(['{"id":"d1"}'] + bad + [json.dumps({"id": "d2", "authentication": 5})]) + "\n")
    with Hub(folder) as hub:
        r = hub.ctl("device", "import", path, check=False)
        assert r.stdout.startswith("1 done, 0 were so already, 5001 failed"), r.stdout
        told = r.stderr.splitlines()
        assert [t for t in told if ": line " in t] == [f"iothubctl: line {n}: it is no JSON object" for n in range(2, 22)], told[:30]
        assert len(told) < 30 and "5000 bad lines" in r.stderr and path + ".failed" in r.stderr, told
        assert "d2: a value is not allowed" in r.stderr  # bad lines do not use up what is told of others
        assert text_of(path + ".failed").splitlines()[:5000] == bad


@test
def the_file_of_failures_is_of_the_last_import(folder):
    bad = '{"id":"d1"}\nnonsense\n'
    path = write(folder, "in", bad)
    failed = path + ".failed"
    with Hub(folder) as hub:
        assert hub.ctl("device", "import", path, check=False).returncode == EX_DATAERR and text_of(failed) == "nonsense\n"
        os.symlink(failed, link := os.path.join(folder, "link"))
        for named in (failed, link):
            write(folder, "in.failed", '{"id":"old"}\n')
            # Nothing was read: nothing is known of what has failed.
            hub.ctl("device", "import", "--failed", named, input="", check=False)
            assert text_of(failed) == '{"id":"old"}\n'
            assert hub.ctl("device", "import", "--failed", named, input=bad, check=False).returncode == EX_DATAERR
            assert text_of(failed) == "nonsense\n" and os.path.islink(link)
            r = hub.ctl("device", "import", write(folder, "in", '{"id":"d1"}\n'), "--failed", named)
            assert r.stdout.startswith("0 done, 1 were so already, 0 failed") and not os.path.exists(failed), r
        # What was read to its end and failed nowhere stays: it is the user's.
        write(folder, "in.failed", '{"id":"d3"}\n')
        assert hub.ctl("device", "import", failed).returncode == 0 and os.path.exists(failed)
        assert hub.ctl("device", "import", "--failed", "/dev/null", input=bad, check=False).returncode == EX_DATAERR
        assert not os.path.isfile("/dev/null")
        r = hub.ctl("device", "import", "--failed", "/dev/full", input=bad, check=False)
        assert r.returncode == 74 and "/dev/full" in r.stderr, r
        assert sorted(n for n in os.listdir(folder) if n.startswith("in")) == ["in", "in.failed"]


@test
def a_refused_item_is_told_with_its_code_and_what_to_do(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        path = write(folder, "in", '{"id":"none","moduleId":"m"}\n{"id":"none","moduleId":"n"}\n')
        r = hub.ctl("device", "import", path, check=False)
        assert "none/m: its device is missing or disabled (401002 IotHubUnauthorizedAccess)" in r.stderr, r
        assert r.stderr.count("What to do: create the device") == 1 and "login" not in r.stderr, r
        assert "(401002 IotHubUnauthorizedAccess)" in lines_of(path + ".failed")[0]["importError"]
        r = hub.ctl("device", "import", "--mode", "update", "--if-match", "--failed", path + ".failed",
                    input='{"id":"d1","eTag":"MQ=="}\n', check=False)
        assert "d1: it was changed meanwhile (412001 PreconditionFailed): Precondition failed" in r.stderr, r
        assert "existingVersion:0" not in r.stderr and "newVersion:1" in r.stderr and "What to do: look at it again" in r.stderr, r
        r = hub.ctl("device", "import", "--mode", "update-twin", "--if-match", "--failed", path + ".failed",
                    input='{"id":"d1","twinETag":"AAAAAAAAAAk=","tags":{"a":1}}\n', check=False)
        assert "(412001 PreconditionFailed): ETag mismatch" in r.stderr, r
        one = write(folder, "one", '{"id":"d2"}\n')
        for error, said in (
            ({"deviceId": "d2", "errorStatus": "Unauthorized"}, ["d2: the hub refuses it: Unauthorized"]),
            ({"deviceId": "d2", "errorCode": 413002, "errorStatus": ""}, ["d2: the hub's registry is full (413002 TooManyDevices)", "delete devices"]),
            ({"deviceId": "d2", "errorStatus": "ErrorCode:DeviceNotFound;d2"}, ["d2: device not found (404001 DeviceNotFound): d2", "list"]),
            ({"deviceId": "d2", "errorCode": "Strange", "errorStatus": "x" * 5000}, ["d2: the hub refuses it (Strange): x"]),
        ):
            body = json.dumps({"isSuccessful": False, "errors": [error], "warnings": []}).encode()
            r, _ = against(hub, [(400, {}, body)], "device", "import", one)
            assert r.returncode == EX_DATAERR and all(s in r.stderr for s in said), (error, r)
            assert [f["id"] for f in lines_of(one + ".failed")] == ["d2"]
        # Who is meant is not known: none counts as done.
        body = json.dumps({"isSuccessful": False, "errors": [{"errorStatus": "no"}], "warnings": []}).encode()
        r, _ = against(hub, [(400, {}, body)], "device", "import", one)
        assert r.returncode == 76 and r.stdout.startswith("0 done, 0 were so already, 1 failed"), r
        assert [f["id"] for f in lines_of(one + ".failed")] == ["d2"]


@test
def an_import_does_not_empty_what_it_reads(folder):
    with Hub(folder) as hub:
        path = write(folder, "in.jsonl", '{"id":"a b"}\n{"id":"good"}\n')
        os.link(path, os.path.join(folder, "link"))
        for failed in (path, os.path.join(folder, "link")):
            r = hub.ctl("device", "import", path, "--failed", failed, check=False)
            assert r.returncode == EX_USAGE and "--failed" in r.stderr, r
        with open(path, encoding="utf-8") as f:
            assert len(f.readlines()) == 2
        assert ids(hub) == []


@test
def a_device_with_a_certificate_keeps_it_without_keys(folder):
    with Hub(folder) as hub, Service(hub) as service:
        hub.ctl("device", "create", "x", "--auth", "x509", "--primary-thumbprint", "A" * 40)
        out = os.path.join(folder, "out.jsonl")
        hub.ctl("device", "export", "--no-keys", out)
        before = service.good("GET", "/devices/x")["authentication"]
        hub.ctl("device", "import", out, "--mode", "create-or-update")
        assert service.good("GET", "/devices/x")["authentication"] == before
        hub.ctl("device", "delete", "x")
        hub.ctl("device", "import", out)
        assert service.good("GET", "/devices/x")["authentication"] == before


@test
def the_modes_do_what_they_say(folder):
    with Hub(folder) as hub, Service(hub) as service:
        service.create("d1")
        items = write(folder, "in", '{"id":"d1","status":"disabled"}\n{"id":"d2","status":"disabled"}\n')
        r = hub.ctl("device", "import", items, "--mode", "update", check=False)
        assert r.returncode == EX_DATAERR and r.stdout.startswith("1 done, 0 were so already, 1 failed"), r
        hub.ctl("device", "import", items, "--mode", "create-or-update")
        assert service.good("GET", "/devices/d2")["status"] == "disabled"
        hub.ctl("device", "import", "--mode", "update-twin", input='{"id":"d1","tags":{"a":1}}\n')
        assert service.good("GET", "/twins/d1")["tags"] == {"a": 1}
        r = hub.ctl("device", "import", "--mode", "delete", "--if-match", "--failed", os.path.join(folder, "f"),
                    input='{"id":"d1","eTag":"MQ=="}\n', check=False)
        assert r.returncode == EX_DATAERR and "changed meanwhile" in r.stderr, r
        for wrong in (["--mode", "x"], ["--calls", "0"], ["--if-match"], ["--format", "json"], ["a", "b"]):
            assert hub.ctl("device", "import", *wrong, check=False, input="").returncode == EX_USAGE, wrong
        assert hub.ctl("device", "import", os.path.join(folder, "none"), check=False).returncode == EX_NOT_FOUND
        assert hub.ctl("device", "import", check=False, input="colour,id\n").returncode == EX_DATAERR
        assert hub.ctl("device", "export", "--format", "xml", check=False).returncode == EX_USAGE


@test
def a_hub_that_throttles_is_obeyed_and_one_that_fails_stops_the_import(folder):
    good = b'{"isSuccessful":true,"errors":[],"warnings":[]}'
    path = write(folder, "in", '{"id":"d1"}\n')
    with Hub(folder) as hub:
        answers = [(429, {"Retry-After": "1"}, b""), (503, {}, b""), (200, {}, good)]
        r, requests = against(hub, answers, "device", "import", path)
        assert r.returncode == 0 and len(requests) == 3 and r.stdout.startswith("1 done"), r
        numbered = b'{"isSuccessful":false,"errors":[{"deviceId":"d1","errorCode":409001,"errorStatus":"x"}],"warnings":[]}'
        r, _ = against(hub, [(400, {}, numbered)], "device", "import", path)
        assert r.returncode == 0 and "1 were so already" in r.stdout, r
        r, _ = against(hub, [(401, {}, b"")], "device", "import", path)
        assert r.returncode == 77 and [f["id"] for f in lines_of(path + ".failed")] == ["d1"], r


@test
def an_interrupted_import_is_given_again_without_harm(folder):
    with Hub(folder) as hub:
        command = [IOTHUBCTL, "device", "import", "--failed", os.path.join(folder, "f"), "--login-file", hub.login_file,
                   "--ca-file", hub.ca_file, "--https-port", str(hub.https_port)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        names = [f"d{n:03}" for n in range(350)]
        lines = [json.dumps({"id": i}) + "\n" for i in names]
        process.stdin.write("".join(lines[:250]))
        process.stdin.flush()
        with Service(hub) as service:
            wait_until(lambda: service.good("GET", "/statistics/devices")["totalDeviceCount"] >= 200, "two calls are done")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=DEADLINE_SEC)  # its input has no end yet
        _, said = process.communicate(timeout=DEADLINE_SEC)
        assert process.returncode == -signal.SIGINT and "Stopped" in said, (process.returncode, said)
        assert "not read of standard input" in said, said
        # What was read is done or in the file.
        assert [f["id"] for f in lines_of(os.path.join(folder, "f"))] == names[200:250]
        hub.ctl("device", "import", os.path.join(folder, "f"))
        assert ids(hub) == names[:250]
        r = hub.ctl("device", "import", "-", input="".join(lines))
        assert r.returncode == 0 and ids(hub) == names, r


def stopped_import(hub, *arguments, **settings):
    """Stops it once a first call is done and others are held up. What it printed."""
    command = [IOTHUBCTL, "device", "import", "--calls", "1", "--json", *arguments, "--login-file", hub.login_file, "--ca-file", hub.ca_file,
               "--https-port", str(hub.https_port)]
    with Service(hub) as service:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)
        wait_until(lambda: service.good("GET", "/statistics/devices")["totalDeviceCount"] >= 100, "a call is done")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=DEADLINE_SEC)
    assert process.returncode == -signal.SIGINT, (process.returncode, said)
    return json.loads(out), said


@test
def what_a_stop_left_undone_completes_the_import(folder):
    names = [f"d{n:05}" for n in range(20000)]
    for form, lines in (("jsonl", [json.dumps({"id": i}) for i in names]), ("csv", ["id,status"] + [f"{i},enabled" for i in names])):
        path = write(folder, f"in.{form}", "\n".join(lines))  # the last line has no end
        os.mkdir(home := os.path.join(folder, form))
        with Hub(home) as hub:
            hub.trouble("https", "--delay", "100ms", "--calls", "bulk")
            out, said = stopped_import(hub, path)
            hub.trouble("clear")
            assert out["done"] + out["notSent"] == len(names) and out["failed"] == 0 < out["notSent"], (out, said)
            assert "What was not sent is in " + path + ".failed" in said, said
            assert ids(hub) == names[:out["done"]]
            r = hub.ctl("device", "import", path + ".failed")
            assert r.stdout.startswith(f"{out['notSent']} done, 0 were so already, 0 failed") and ids(hub) == names, r


@test
def a_fault_leaves_all_that_was_not_done_in_its_order(folder):
    lines = [json.dumps({"id": f"d{n:04}"}) for n in range(5000)]
    lines[150] = "x" * 700_000  # too long, and not in the way of what ends meanwhile
    path = write(folder, "in", "\n".join(lines) + "\n")
    with Hub(folder) as hub:
        good = b'{"isSuccessful":true,"errors":[],"warnings":[]}'
        r, requests = against(hub, [(200, {}, good), (401, {}, b"")], "device", "import", path, "--calls", "1", "--json")
        out = json.loads(r.stdout)
        assert r.returncode == 77 and len(requests) == 2 and out["done"] == 100 and out["unreadable"] == 1, r
        kept = text_of(path + ".failed").splitlines()
        assert kept.count(lines[150]) == 1
        assert [json.loads(line)["id"] for line in kept if line != lines[150]] == [f"d{n:04}" for n in range(100, 5000) if n != 150]
        r = hub.ctl("device", "import", path + ".failed", check=False)
        assert r.returncode == EX_DATAERR and r.stdout.startswith("4899 done, 0 were so already, 1 failed"), r
        assert len(ids(hub)) == 4899 and text_of(path + ".failed.failed") == lines[150] + "\n"


@test
def a_stop_does_not_lose_the_file_of_failures_that_comes_in_by_a_pipe(folder):
    with Hub(folder) as hub:
        text = "".join(json.dumps({"id": f"d{n:05}"}) + "\n" for n in range(20000))
        path = write(folder, "f", text)
        hub.trouble("https", "--delay", "100ms", "--calls", "bulk")
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            out, _ = stopped_import(hub, "--failed", path, stdin=cat.stdout)
        assert out["notSent"] == len(lines_of(path)) > 0 and text_of(path + "~") == text, out


if __name__ == "__main__":
    main()
