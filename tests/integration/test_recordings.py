#!/usr/bin/env python3
"""Goal: the emulator answers as real hubs did, and iothubctl reads what real hubs answered.
Method: recordings of real hubs, if they lie beside the checkout (../shared/recordings) or where
IOTHUBD_RECORDINGS says: their requests against the emulator, status, headers and shape of the body compared; their
answers to iothubctl from a hub by script."""
import glob
import json
import os
import urllib.parse

from harness import SOURCE, Hub, Skip, main, test
from scripted_hub import against
from service import Service

# What the emulator does not serve: jobs over storage accounts, configurations, methods without a device that answers.
LEFT_OUT = ("Jobs_", "ConfigurationsClient", "InvokeMethod", "QueryClient_GetAllDevicesTwinsWithTag.json", "Query_GetTwins")
HEADERS = ("ETag", "Content-Type", "iothub-errorcode", "x-ms-item-type", "x-ms-request-id", "Vary")


def recordings():
    named = os.environ.get("IOTHUBD_RECORDINGS")
    for folder in [named] if named else [os.path.join(SOURCE, *up, "shared", "recordings") for up in ([".."], ["..", ".."])]:
        files = glob.glob(os.path.join(folder, "azure-sdk-for-net", "*.json"))
        if files:
            return folder, sorted(f for f in files if not any(part in f for part in LEFT_OUT))
    raise Skip("no recordings beside the checkout")


def shape(value):
    """Names and kinds; what a hub chooses anew is not compared."""
    if isinstance(value, dict):
        return {name: shape(v) for name, v in value.items()}
    if isinstance(value, list):
        return [shape(v) for v in value[:1]]
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def without_sanitized(value):
    """Masked keys are no keys: left out, the hub makes them."""
    if isinstance(value, dict):
        return {n: without_sanitized(v) for n, v in value.items() if v != "Sanitized"}
    return [without_sanitized(v) for v in value] if isinstance(value, list) else value


def etag_now(service, path):
    """The etag that a recorded one stands for: the emulator has its own."""
    status, _, body = service.call("GET", path)
    return body["etag"] if status == 200 else "none"


@test
def the_emulator_answers_as_a_hub_did(folder):
    _, files = recordings()
    n = 0
    with Hub(folder) as hub, Service(hub) as service:
        for file in files:
            with open(file, encoding="utf-8") as f:
                entries = json.load(f)["Entries"]
            for entry in entries:
                path = urllib.parse.urlsplit(entry["RequestUri"]).path
                body = without_sanitized(entry["RequestBody"]) if entry["RequestBody"] is not None else None
                headers = {}
                match = entry["RequestHeaders"].get("If-Match")
                if match is not None:
                    stale = entry["StatusCode"] == 412
                    bare = match.strip('"')
                    headers["If-Match"] = match if bare in ("", "*") or stale else f'"{etag_now(service, path)}"'
                status, got, answer = service.call(entry["RequestMethod"], path, body, headers)
                where = (os.path.basename(file), entry["RequestMethod"], path, answer)
                assert status == entry["StatusCode"], (entry["StatusCode"], status, *where)
                for name in HEADERS:
                    want = entry["ResponseHeaders"].get(name)
                    assert (want is None) == (name.lower() not in got), (name, want, got, *where)
                    if want and name in ("Content-Type", "iothub-errorcode", "x-ms-item-type"):
                        assert got[name.lower()] == want, (name, want, got, *where)
                if entry["ResponseBody"] is not None and not (isinstance(answer, list) and not entry["ResponseBody"]):
                    assert shape(answer) == shape(entry["ResponseBody"]), (shape(entry["ResponseBody"]), *where)
                n += 1
    assert n > 50, n


@test
def iothubctl_reads_what_hubs_answered(folder):
    _, files = recordings()
    n = 0
    with Hub(folder) as hub:
        for file in files:
            with open(file, encoding="utf-8") as f:
                entries = json.load(f)["Entries"]
            for entry in entries:
                body, path = entry["ResponseBody"], urllib.parse.urlsplit(entry["RequestUri"]).path
                if not isinstance(body, dict) or "deviceId" not in body or entry["StatusCode"] != 200:
                    continue
                verb = ["device-twin", "show", "d"] if path.startswith("/twins/") else ["device", "show", "d"]
                r, _ = against(hub, [(200, {}, json.dumps(body).encode())], *verb, "--json")
                assert r.returncode == 0 and json.loads(r.stdout)["deviceId"] == body["deviceId"], (file, r)
                n += 1
                break  # one of each recording: they are alike within
    assert n > 10, n


@test
def iothubctl_explains_the_errors_that_hubs_gave(folder):
    where, _ = recordings()
    with open(os.path.join(where, "errors-from-issues.json"), encoding="utf-8") as f:
        errors = json.load(f)["errors"]
    n = 0
    with Hub(folder) as hub:
        for error in errors:
            if not isinstance(error["body"], str) or not error["status"] or error["status"] in (429, 500):
                continue
            r, _ = against(hub, [(error["status"], error["headers"], error["body"].encode())], "invoke", "d1", "m")
            assert r.returncode not in (0, 76) and f"HTTP {error['status']} {error['status']}" in r.stderr, (error, r)
            n += 1
    assert n >= 5, n


if __name__ == "__main__":
    main()
