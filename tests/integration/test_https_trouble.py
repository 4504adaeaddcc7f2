#!/usr/bin/env python3
"""Goal: trouble on request at the HTTPS door acts as a hub does, on the calls that it was asked for; iothubctl makes again
what is safe to make again, waits as long as the hub says, and loses nothing. Method: raw calls, then every kind of verb,
while iothub-emulator ctl makes trouble."""
import http.client
import json
import os
import threading
import time

from harness import Hub, main, test
from service import Service

EX_TRY_AGAIN = 75


def kinds(hub):
    return [t["kind"] for t in hub.trouble_status()["troubles"]]


@test
def an_error_is_answered_with_header_and_body_and_nothing_is_done(folder):
    with Hub(folder) as hub, Service(hub) as service:
        hub.trouble("https", "--answer", 429001, "--retry-after", 7, "--count", 2)
        for _ in range(2):
            status, headers, body = service.call("PUT", "/devices/d1", {"deviceId": "d1"})
            assert status == 429 and headers["retry-after"] == "7", (status, headers)
            assert headers["iothub-errorcode"] == "ThrottlingException"
            assert body["Message"].startswith("ErrorCode:ThrottlingException;") and "Tracking ID:" in body["ExceptionMessage"]
        assert service.call("GET", "/devices/d1")[0] == 404 and kinds(hub) == []
        hub.trouble("https", "--answer", 503001)
        for path in ("/devices/d1", "/twins/d1", "/devices", "/nowhere"):
            status, headers, _ = service.call("GET", path)
            assert (status, "retry-after" in headers) == (503, False), path
        hub.trouble("https", "--off")
        hub.trouble("https", "--answer", 404103, "--count", 1)
        status, _, body = service.call("POST", "/twins/d1/methods", {"methodName": "m"})
        assert status == 404 and json.loads(body["Message"])["errorCode"] == 404103, body
        hub.trouble("https", "--answer", 500001, "--done", "--count", 1)
        assert service.call("PUT", "/devices/d1", {"deviceId": "d1"})[0] == 500
        assert service.call("GET", "/devices/d1")[0] == 200


@test
def trouble_is_only_for_the_calls_and_devices_that_it_names(folder):
    with Hub(folder) as hub, Service(hub) as service:
        for name in ("d1", "d2"):
            service.create(name)
        calls = {
            "bulk": ("POST", "/devices", [{"id": "d1", "importMode": "update", "status": "enabled"}]),
            "query": ("POST", "/devices/query", {"query": "SELECT * FROM devices"}),
            "single": ("GET", "/devices/d1"),
        }
        for wanted in calls:
            hub.trouble("https", "--answer", 503001, "--calls", wanted)
            for name, call in calls.items():
                assert service.call(*call)[0] == (503 if name == wanted else 200), (wanted, name)
            hub.trouble("https", "--off")
        hub.trouble("https", "--answer", 503001, "--device", "d1")
        for path, expected in (("/devices/d1", 503), ("/twins/d1", 503), ("/devices/d1/modules", 503), ("/devices/d2", 200), ("/devices", 200)):
            assert service.call("GET", path)[0] == expected, path
        hub.trouble("https", "--answer", 429001)  # for all others; the device's own counts before it
        assert service.call("GET", "/devices/d1")[0] == 503 and service.call("GET", "/devices/d2")[0] == 429
        assert kinds(hub) == ["https-answer"] * 2
        hub.trouble("https", "--delay", "1h", "--calls", "query")
        hub.trouble("quota", "on")
        assert sorted(kinds(hub)) == ["https-answer", "https-answer", "https-delay", "quota"]
        hub.trouble("clear")
        assert kinds(hub) == [] and service.call("GET", "/devices/d1")[0] == 200
        hub.trouble("https", "--answer", 503001, "--for", "200ms")
        while service.call("GET", "/devices/d1")[0] != 200:
            pass


@test
def an_answer_is_late_and_others_are_not(folder):
    with Hub(folder) as hub, Service(hub) as service, Service(hub) as other:
        service.create("d1")
        hub.trouble("https", "--delay", "700ms", "--calls", "query")
        start = time.monotonic()
        thread = threading.Thread(target=service.query, args=("SELECT * FROM devices",))
        thread.start()
        assert other.call("GET", "/devices/d1")[0] == 200
        thread.join()
        assert time.monotonic() - start >= 0.7
        hub.trouble("https", "--delay", "1h")
        waiting = threading.Thread(target=lambda: call_until_the_end(service, "/devices/d1"))
        waiting.start()
    waiting.join()  # the end of the emulator ends what waits


def call_until_the_end(service, path):
    try:
        service.call("GET", path)
    except (OSError, http.client.HTTPException):
        pass


@test
def an_answer_that_is_cut_was_done(folder):
    with Hub(folder) as hub:
        hub.trouble("https", "--cut", 1)
        with Service(hub) as service:
            try:
                service.create("d1")
                raise AssertionError("the answer was whole")
            except http.client.IncompleteRead as e:
                assert 0 < len(e.partial) and e.expected > 0, e
        with Service(hub) as service:
            assert service.call("GET", "/devices/d1")[0] == 200
            hub.trouble("https", "--cut", 1)
            try:
                service.call("DELETE", "/devices/d1", headers={"If-Match": "*"})  # no body to cut: no answer at all
                raise AssertionError("there was an answer")
            except http.client.RemoteDisconnected:
                pass
        with Service(hub) as service:
            assert service.call("GET", "/devices/d1")[0] == 404


@test
def a_verb_goes_through_what_passes_and_says_what_it_waits_for(folder):
    with Hub(folder) as hub:
        hub.trouble("https", "--answer", 429001, "--retry-after", 2, "--count", 1)
        start = time.monotonic()
        r = hub.ctl("device", "create", "d1", check=True)
        assert time.monotonic() - start >= 2 and "throttling (HTTP 429), trying again in 2 s" in r.stderr, r
        for trouble in (["--answer", 503001, "--count", 1], ["--answer", 500001, "--count", 1], ["--cut", 1]):
            hub.trouble("https", *trouble)
            r = hub.ctl("device", "show", "d1", "--json")
            assert json.loads(r.stdout)["deviceId"] == "d1" and "trying again in 1 s" in r.stderr, r
        hub.trouble("https", "--answer", 503001)
        r = hub.ctl("device", "show", "d1", check=False)
        assert r.returncode == EX_TRY_AGAIN and "503001 ServiceUnavailable" in r.stderr and r.stderr.count("trying again") == 3, r


@test
def what_may_have_been_done_is_looked_at_before_it_is_told(folder):
    with Hub(folder) as hub, Service(hub) as service:
        for trouble in (["--answer", 500001, "--done", "--count", 1], ["--cut", 1]):
            hub.trouble("https", *trouble)
            r = hub.ctl("device", "create", "d1", "--json")
            assert json.loads(r.stdout)["generationId"] == service.good("GET", "/devices/d1")["generationId"], r
            hub.trouble("https", *trouble)
            assert hub.ctl("device", "delete", "d1", "--force").returncode == 0
            assert service.call("GET", "/devices/d1")[0] == 404
        service.create("d1")
        hub.trouble("https", "--answer", 500001, "--count", 1)  # a method may have run: it is not called again
        r = hub.ctl("invoke", "d1", "m", check=False)
        assert r.returncode == EX_TRY_AGAIN and "trying again" not in r.stderr and kinds(hub) == [], r


@test
def nothing_is_lost_or_doubled_on_the_way_through_trouble(folder):
    names = [f"d{n:04}" for n in range(1200)]
    path = os.path.join(folder, "in")
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps({"id": name}) + "\n" for name in names)
    with Hub(folder) as hub:

        def trouble(calls):
            hub.trouble("https", "--answer", 429003, "--retry-after", 1, "--count", 2, "--calls", calls)
            hub.trouble("https", "--cut", 1, "--calls", calls)

        trouble("bulk")
        r = hub.ctl("device", "import", path)
        # What was created by the call whose answer was cut is there already when it is made again.
        done, already = (int(part.split()[0]) for part in r.stdout.split(", ")[:2])
        assert done + already == 1200 and already in (0, 100) and ", 0 failed" in r.stdout, r
        hub.trouble("https", "--answer", 503001, "--done", "--count", 1, "--calls", "bulk")
        r = hub.ctl("device", "import", path, "--mode", "update")
        assert r.stdout.startswith("1200 done"), r
        for verb, key in ((["device", "list", "--json"], "deviceId"), (["query", "SELECT * FROM devices", "--json"], "deviceId"),
                          (["device", "export"], "id")):
            trouble("query")
            hub.trouble("https", "--answer", 500001, "--count", 1, "--calls", "single")
            r = hub.ctl(*verb)
            assert [json.loads(line)[key] for line in r.stdout.splitlines()] == names, verb
        hub.trouble("https", "--answer", 503001, "--calls", "query")
        r = hub.ctl("device", "export", os.path.join(folder, "out"), check=False)
        assert r.returncode == EX_TRY_AGAIN and not os.path.exists(os.path.join(folder, "out")), r


if __name__ == "__main__":
    main()
