#!/usr/bin/env python3
"""Goal: iothubctl shows and changes twins, asks queries, calls methods and makes tokens as it says.
Method: the emulator; a device that speaks MQTT by hand for the methods; a hub that answers by script where the
emulator cannot fail."""
import json
import threading

from device import Mqtt, device_token, hub_with_device
from harness import DEADLINE_SEC, Hub, main, test
from scripted_hub import against

EX_USAGE, EX_DATAERR, EX_NOT_FOUND, EX_OFFLINE, EX_TRY_AGAIN = 64, 65, 66, 68, 75


def twin(hub, *arguments):
    return json.loads(hub.ctl("device-twin", "show", *arguments, "--json").stdout)


@test
def a_twin_is_changed_from_arguments_file_and_input(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        hub.ctl("device-twin", "update", "d1", "--tag", "site.floor=3", "--tag", "name=x y", "--desired", "on=true")
        assert twin(hub, "d1")["tags"] == {"site": {"floor": 3}, "name": "x y"}
        path = f"{folder}/patch.json"
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"tags": {"name": None}, "properties": {"desired": {"a": [1, 2]}}}, f)
        hub.ctl("device-twin", "update", "d1", "--file", path, "--tag", "site.wing=n")
        assert twin(hub, "d1")["tags"] == {"site": {"floor": 3, "wing": "n"}}
        hub.ctl("device-twin", "update", "d1", "--file", "-", input='{"tags":{"site":null}}')
        shown = hub.ctl("device-twin", "update", "d1", '{"properties":{"desired":{"on":null}}}').stdout
        assert "tags" not in json.loads(shown) and len(shown.splitlines()) > 10
        desired = twin(hub, "d1")["properties"]["desired"]
        assert desired["a"] == [1, 2] and "on" not in desired
        hub.ctl("device-twin", "replace", "d1", '{"tags":{"z":1}}')
        assert twin(hub, "d1")["tags"] == {"z": 1} and "a" not in twin(hub, "d1")["properties"]["desired"]

        hub.ctl("module", "create", "d1", "m1")
        hub.ctl("device-twin", "update", "d1", "--module", "m1", "--tag", "m=1")
        assert twin(hub, "d1", "--module", "m1")["tags"] == {"m": 1} and twin(hub, "d1")["tags"] == {"z": 1}


@test
def a_wrong_change_of_a_twin_is_told_and_not_made(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        before = twin(hub, "d1")
        for arguments, want in (
            ([], EX_USAGE), (["{"], EX_DATAERR), (["[]"], EX_DATAERR), (['{"color":1}'], EX_DATAERR), (["{} x"], EX_DATAERR),
            (["--tag", "x"], EX_USAGE), (["--tag", "a=1", "--tag", "a.b=1"], EX_USAGE), (["{}", "--file", "-"], EX_USAGE),
            (["--file", f"{folder}/none"], EX_NOT_FOUND), (["--tag", "a b=1"], EX_DATAERR),
            (["--etag", "AAAAAAAAAAk=", "--tag", "a=1"], EX_TRY_AGAIN),
        ):
            r = hub.ctl("device-twin", "update", "d1", *arguments, check=False)
            assert r.returncode == want and r.stderr.startswith("iothubctl: "), (arguments, r)
        assert twin(hub, "d1") == before
        assert hub.ctl("device-twin", "show", "none", check=False).returncode == EX_NOT_FOUND
        hub.ctl("device-twin", "update", "d1", "--etag", before["etag"], "--tag", "a=1")
        r = hub.ctl("device-twin", "replace", "d1", '{"tags":{}}', "--etag", before["etag"], check=False)
        assert r.returncode == EX_TRY_AGAIN and twin(hub, "d1")["etag"] in r.stderr, r
        hub.ctl("device-twin", "replace", "d1", '{"tags":{}}', "--etag", before["etag"], "--force")


@test
def a_conflict_about_a_twin_says_what_changed(folder):
    old, new = {"etag": "AAAAAAAAAAE=", "tags": {"a": 1}}, {"etag": "AAAAAAAAAAI=", "tags": {"a": 2}}
    conflict = (412, {"iothub-errorcode": "PreconditionFailed"}, b"")
    with Hub(folder) as hub:
        answers = [(200, {}, json.dumps(old).encode()), conflict, (200, {}, json.dumps(new).encode())]
        r, requests = against(hub, answers, "device-twin", "replace", "d1", '{"tags":{}}')
    assert r.returncode == EX_TRY_AGAIN and "tags.a: was 1, is 2" in r.stderr, r
    assert requests[1][3]["If-Match"] == '"AAAAAAAAAAE="'


@test
def a_query_shows_its_rows_in_columns_or_as_they_are(folder):
    with Hub(folder) as hub:
        for n in range(7):
            hub.ctl("device", "create", f"d{n}")
        hub.ctl("device-twin", "update", "d3", "--tag", 'site={"floor":3}')
        lines = hub.ctl("query", "SELECT * FROM devices", "--page-size", "2").stdout.splitlines()
        assert lines[0].split() == ["deviceId", "status", "connectionState", "lastActivityTime", "tags"] and len(lines) == 8
        assert lines[4].split() == ["d3", "enabled", "Disconnected", "never", '{"floor":3}'] or '{"site"' in lines[4]
        rows = hub.ctl("query", "SELECT deviceId AS id, tags.site.floor FROM devices", "--json").stdout.splitlines()
        assert [json.loads(r) for r in rows][3] == {"id": "d3", "floor": 3} and len(rows) == 7
        assert hub.ctl("query", "SELECT COUNT() AS n FROM devices").stdout.split() == ["n", "7"]
        assert hub.ctl("query", "SELECT * FROM devices WHERE deviceId = 'x'").stdout == ""
        r = hub.ctl("query", "SELECT nonsense", check=False)
        assert r.returncode == EX_DATAERR and "400004" in r.stderr, r
        assert hub.ctl("query", "SELECT * FROM devices", "--page-size", "0", check=False).returncode == EX_USAGE
        assert hub.ctl("query", check=False).returncode == EX_USAGE
        hub.ctl("device", "disable", "d1", "d2")
        counts = json.loads(hub.ctl("stats", "--json").stdout)
        assert counts == {
            "totalDeviceCount": 7, "enabledDeviceCount": 5, "disabledDeviceCount": 2, "connectedDeviceCount": 0,
        }
        assert "disabledDeviceCount:" in hub.ctl("stats").stdout


def answering(m, status):
    topic, body = m.receive_message()
    m.publish(f"$iothub/methods/res/{status}/?{topic.partition('?')[2]}", body, qos=0)


@test
def a_method_is_called_and_offline_and_timeout_are_told_apart(folder):
    with hub_with_device(folder) as (hub, _, key):
        r = hub.ctl("invoke", "d1", "reboot", check=False)
        assert r.returncode == EX_OFFLINE and "404103" in r.stderr, r
        with Mqtt(hub) as m:
            assert m.connect("d1", device_token("d1", key)) == 0
            m.subscribe("$iothub/methods/POST/#")
            m.receive()
            for payload, status in (('{"a":[1]}', 200), ("5", 404)):
                thread = threading.Thread(target=answering, args=(m, status))
                thread.start()
                done = hub.ctl("invoke", "d1", "reboot", payload, "--json")
                thread.join(DEADLINE_SEC)
                assert json.loads(done.stdout) == {"status": status, "payload": json.loads(payload)}
            thread = threading.Thread(target=answering, args=(m, 200))
            thread.start()
            assert hub.ctl("invoke", "d1", "reboot", "--payload-file", "-", input="null").stdout.split()[:2] == ["status:", "200"]
            thread.join(DEADLINE_SEC)
            r = hub.ctl("invoke", "d1", "reboot", "--timeout", "5s", check=False)
            assert r.returncode == EX_TRY_AGAIN and "504101" in r.stderr and "trying again" not in r.stderr, r
        for arguments, want in (
            (["d1"], EX_USAGE), (["d1", "m", "x"], EX_DATAERR), (["d1", "m", "--timeout", "4s"], EX_USAGE),
            (["d1", "m", "--timeout", "301s"], EX_USAGE), (["d1", "m", "--connect-timeout", "31s"], EX_USAGE),
            (["none", "m"], EX_NOT_FOUND), (["a b", "m"], EX_USAGE),
        ):
            r = hub.ctl("invoke", *arguments, check=False)
            assert r.returncode == want and r.stderr, (arguments, r)
        r = hub.ctl("invoke", "d1", "m", "--payload-file", "-", input='"' + "x" * 131072 + '"', check=False)
        assert r.returncode == EX_DATAERR and "128 KiB" in r.stderr, r


@test
def a_method_is_never_called_twice_by_itself(folder):
    with Hub(folder) as hub:
        for status in (500, 502, 503, 504):
            r, requests = against(hub, [(status, {}, b"")], "invoke", "d1", "reboot")
            assert r.returncode == EX_TRY_AGAIN and len(requests) == 1, r
        r, requests = against(hub, [(429, {"Retry-After": "1"}, b""), (200, {}, b'{"status":1}')], "invoke", "d1", "reboot")
        assert r.returncode == 0 and len(requests) == 2, r


@test
def a_token_opens_what_it_is_for(folder):
    with hub_with_device(folder) as (hub, registry, _):
        policy = hub.ctl("sas", "--lifetime", "10min").stdout.strip()
        assert registry.call("GET", "/devices/d1", authorization=policy)[0] == 200
        for arguments in (["sas", "d1"], ["sas", "d1", "--secondary"]):
            with Mqtt(hub) as m:
                assert m.connect("d1", hub.ctl(*arguments).stdout.strip()) == 0
        hub.ctl("module", "create", "d1", "m1")
        token = hub.ctl("sas", "d1", "m1").stdout.strip()
        assert "%2Fmodules%2Fm1&" in token and "skn" not in token
        assert hub.ctl("sas", "none", check=False).returncode == EX_NOT_FOUND
        assert hub.ctl("sas", "--secondary", check=False).returncode == EX_USAGE
        assert hub.ctl("sas", "--lifetime", "0", check=False).returncode == EX_USAGE
        hub.ctl("device", "create", "ca", "--auth", "x509-ca")
        assert hub.ctl("sas", "ca", check=False).returncode == EX_DATAERR


@test
def a_queue_is_purged(folder):
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        assert hub.ctl("c2d", "purge", "d1").stdout == "0 messages to d1 purged\n"
        r, _ = against(hub, [(200, {}, b'{"deviceId":"d1","totalMessagesPurged":3}')], "c2d", "purge", "d1")
        assert r.stdout == "3 messages to d1 purged\n"
        assert hub.ctl("c2d", "purge", "none", check=False).returncode == EX_NOT_FOUND


if __name__ == "__main__":
    main()
