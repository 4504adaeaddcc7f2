#!/usr/bin/env python3
"""Goal: the emulator answers as real hubs did, and iothubctl reads what real hubs answered.
Method: recordings of real hubs, if they lie beside the checkout (../shared/recordings) or where IOTHUBD_RECORDINGS says.
Each request is made again once the state that it needs is there; status, headers, and the names, their order, the kinds
and all values of the body that a hub does not choose are compared. The answers are given to iothubctl by a hub by script."""
import contextlib
import json
import re
import threading

import recordings
from device import Mqtt, device_token, key_of
from harness import Hub, main, test
from recordings import only, text
from registry import Registry, quote
from scripted_hub import against
from service import Service

# Requests that the emulator does not serve, with the reason.
LEFT_OUT = (
    (r"/jobs/", {200}, "import and export jobs work on storage accounts"),
    (r"/configurations/", {200, 204}, "configurations are no part of it"),
    (r"/messages/", {204, 412}, "devices are served over MQTT, not over HTTPS"),
)
COMPARED_HEADERS = ("etag", "content-type", "iothub-errorcode", "x-ms-item-type", "x-ms-request-id", "vary")
SAME_HEADERS = ("content-type", "iothub-errorcode", "x-ms-item-type", "vary")
NEWER_HEADERS = ("x-ms-request-id", "vary")  # hubs of 2016 to 2018 sent none
NEWER_VERSION = "api-version=2020"
# Nothing here is configured by a configuration.
CONFIGURED = ("configurations", "$lastUpdatedBy", "$lastUpdatedByDigest")
# Of a preview before twins.
GONE = ("isManaged", "deviceProperties", "configuration", "serviceProperties", "lastServicePropertiesUpdatedTime",
        "lastDevicePropertiesUpdatedTime")


def is_left_out(pair):
    return any(re.match(path, pair.path) or path == "/messages/" and path in pair.path
               for path, statuses, _ in LEFT_OUT if pair.status in statuses)


def without_masked(value):
    """Masked keys are no keys: left out, the hub makes them."""
    if isinstance(value, dict):
        kept = {n: without_masked(v) for n, v in value.items() if v != "Sanitized" and not str(v).startswith("AAAAAAAAAAAA")}
        return {n: v for n, v in kept.items() if n != "symmetricKey" or v}
    return [without_masked(v) for v in value] if isinstance(value, list) else value


class State:
    """Makes the hub what it was when the request was recorded."""

    def __init__(self, hub, service):
        self.hub, self.service = hub, service

    def exists(self, path):
        return self.service.call("GET", path)[0] == 200

    def ensure(self, identity):
        """A device or module as in the answer of a hub."""
        path = f"/devices/{quote(identity['deviceId'])}"
        if "moduleId" in identity:
            self.ensure({"deviceId": identity["deviceId"]})
            path += f"/modules/{quote(identity['moduleId'])}"
        if self.exists(path):
            return
        wanted = {n: v for n, v in identity.items() if v is not None and n in ("deviceId", "moduleId", "status", "statusReason", "managedBy")}
        prints = (identity.get("authentication") or {}).get("x509Thumbprint") or {}
        if any(prints.values()):
            wanted["authentication"] = {"type": "selfSigned", "x509Thumbprint": prints}
        self.service.good("PUT", path, wanted)

    def remove(self, path):
        if self.exists(path):
            self.service.good("DELETE", path, headers={"If-Match": "*"})

    def only_these(self, identities):
        wanted = [i["deviceId"] for i in identities]
        for device in self.service.good("GET", "/devices"):
            if device["deviceId"] not in wanted:
                self.remove(f"/devices/{quote(device['deviceId'])}")
        for identity in identities:
            self.ensure(identity)

    def desired(self, twin):
        """What a configuration had written there, which nobody does here."""
        desired = {n: v for n, v in twin["properties"]["desired"].items() if not n.startswith("$")}
        path = f"/twins/{quote(twin['deviceId'])}"
        if desired and self.service.good("GET", path)["properties"]["desired"]["$version"] == 1:
            self.service.good("PATCH", path, {"properties": {"desired": desired}})

    def make(self, pair):
        parts = pair.path.strip("/").split("/")
        found = {"deviceId": parts[1]} if len(parts) > 1 and parts[1] != "query" else None
        if found and len(parts) > 3 and parts[2] == "modules":
            found["moduleId"] = parts[3]
        if parts == ["devices"] and pair.method == "GET":
            self.only_these(pair.answer)
        elif pair.path == "/devices/query":
            for twin in pair.answer:
                self.ensure({n: twin[n] for n in ("deviceId", "moduleId") if n in twin})
                if "configurations" in twin:
                    self.desired(twin)
        elif parts == ["devices"] and pair.status == 200:
            for item in pair.body:
                path = f"/devices/{quote(item['id'])}"
                if item["importMode"] == "create" and "moduleId" not in item:
                    self.remove(path)
                else:
                    self.ensure({"deviceId": item["id"]})
        elif parts == ["statistics", "devices"]:
            self.only_these([{"deviceId": f"d{i}"} for i in range(pair.answer["totalDeviceCount"])])
        elif parts[0] in ("devices", "twins") and found:
            creates = pair.method == "PUT" and not pair.headers.get("if-match", "").strip('"') and pair.status == 200
            if pair.status == 404 or creates:
                self.remove(pair.path)
            if "moduleId" in found and creates:
                self.ensure({"deviceId": found["deviceId"]})
            elif pair.status != 404 and not creates:
                answered = pair.answer if isinstance(pair.answer, dict) and pair.method == "GET" else {}
                self.ensure({**(answered if parts[0] == "devices" else {}), **found})


@contextlib.contextmanager
def answering(hub, service, pair):
    """The device or module of a method call, which answers as it did."""
    if not pair.path.endswith("/methods"):
        yield
        return
    path = pair.path.removesuffix("/methods")
    client_id = "/".join(path.split("/")[2::2])
    key = key_of(service.good("GET", path.replace("/twins/", "/devices/")))
    with Mqtt(hub) as m:
        assert m.connect(client_id, device_token(path.removeprefix("/twins/"), key)) == 0
        m.subscribe("$iothub/methods/POST/#")
        assert m.receive()[0] == 0x90
        status, payload = pair.answer["status"], pair.answer["payload"]

        def answer():
            topic, _ = m.receive_message()
            body = b"" if payload is None else json.dumps(payload).encode()
            m.publish(f"$iothub/methods/res/{status}/{topic[topic.index('?'):]}", body, qos=0)

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def etag_now(service, path):
    """The etag that a recorded one stands for: the emulator has its own."""
    status, _, body = service.call("GET", path)
    return body["etag"] if status == 200 else "none"


def replay(service, pair):
    headers = {}
    match = pair.headers.get("if-match")
    if match is not None:
        stands = match.strip('"') not in ("", "*") and pair.status != 412
        headers["If-Match"] = f'"{etag_now(service, pair.path)}"' if stands else match
    body = without_masked(pair.body)
    if isinstance(body, str):
        body = json.dumps(body)
    return service.call(pair.method, pair.path, body, headers, query=pair.query)


def comparable(pair, answer):
    """(what the hub answered, what the emulator did), so far as they are to be the same."""
    want = pair.answer
    if pair.path == "/devices/query":
        if not want:
            return None, None  # the hub's index was not there yet
        by_id = {(r["deviceId"], r.get("moduleId")): r for r in answer}
        answer = [by_id[r["deviceId"], r.get("moduleId")] for r in want]
        want = without(want, CONFIGURED)
    elif pair.path == "/devices" and pair.method == "GET":
        by_id = {r["deviceId"]: r for r in answer}
        answer = [by_id[r["deviceId"]] for r in want]
    if NEWER_VERSION not in pair.query:  # the emulator has one form for all versions, that of the newest
        want = older_form(without(want, GONE))
        answer = older_form(only(answer, pair.answer))
    if "api-version=2016-02-03" in pair.query:  # it told no thumbprints
        want, answer = without(want, ("authentication",)), without(answer, ("authentication",))
    if pair.path == "/statistics/devices":  # 6 of 5 were enabled
        want, answer = list(want), list(answer)
    return want, answer


def without(value, names):
    if isinstance(value, dict):
        return {n: without(v, names) for n, v in value.items() if n not in names}
    return [without(v, names) for v in value] if isinstance(value, list) else value


def older_form(value):
    """In 2016, what is not there was null, and now is an object of nulls."""
    if isinstance(value, dict):
        value = {n: older_form(v) for n, v in value.items()}
        return value if any(v is not None for v in value.values()) or not value else None
    return [older_form(v) for v in value] if isinstance(value, list) else value


def compare(pair, status, headers, answer):
    where = (pair.file, pair.number, pair.method, pair.path, answer)
    assert status == pair.status, (pair.status, status, *where)
    for name in COMPARED_HEADERS:
        want = pair.answer_headers.get(name)
        newer = name in NEWER_HEADERS and NEWER_VERSION not in pair.query
        assert newer or (want is None) == (name not in headers), (name, want, headers, *where)
        assert not want or name not in SAME_HEADERS or headers[name] == want, (name, want, headers, *where)
    if pair.answer is not None:
        want, got = comparable(pair, answer)
        assert text(got) == text(want), (text(want), text(got), *where)


@test
def the_emulator_answers_as_a_hub_did(folder):
    done, left, wrong = 0, 0, []
    with Hub(folder) as hub, Service(hub) as service:
        state = State(hub, service)
        for _, pairs in recordings.pairs():
            for pair in pairs:
                if is_left_out(pair):
                    left += 1
                    continue
                state.make(pair)
                with answering(hub, service, pair):
                    got = replay(service, pair)
                try:
                    compare(pair, *got)
                except AssertionError as e:
                    wrong.append(e)
                done += 1
    assert not wrong, f"{len(wrong)} of {done} differ:\n" + "\n".join(str(e)[:1500] for e in wrong[:10])
    print(f"# {done} requests replayed, {left} left out", flush=True)
    assert done > 200, done



# ---- the answers, to iothubctl ----


def verb_for(pair):
    """The verb of iothubctl that gets such an answer; None: none does."""
    parts = pair.path.strip("/").split("/")
    module = "moduleId" in pair.answer if isinstance(pair.answer, dict) else False
    kind, ids = ("module", ["d", "m"]) if module else ("device", ["d"])
    if parts[0] == "twins":
        if parts[-1] == "methods":
            return ["invoke", "d", "m"]
        update = ["update", "d", "{\"tags\":{\"a\":1}}"] if pair.method == "PATCH" else ["show", "d"]
        return ["device-twin", *update, *(["--module", "m"] if module else [])]
    if parts == ["devices", "query"]:
        return ["query", "SELECT * FROM devices"]
    if parts == ["devices"] and pair.method == "GET":
        return ["device", "list"]
    if parts[-1] == "modules":
        return ["module", "list", "d"]
    if parts[0] == "devices" and isinstance(pair.answer, dict) and "deviceId" in pair.answer:
        return [kind, *(["show", *ids, "--keys"] if pair.method == "GET" else ["create", *ids])]
    return ["stats"] if parts == ["statistics", "devices"] else None


def objects(stdout):
    """The JSON objects that it printed, one after the other."""
    found, rest, decoder = [], stdout.strip(), json.JSONDecoder()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def answer_bytes(pair):
    return json.dumps(pair.answer).encode()


@test
def iothubctl_shows_what_hubs_answered_unchanged(folder):
    seen = set()
    with Hub(folder) as hub:
        for name, pairs in recordings.pairs():
            for pair in pairs:
                verb = verb_for(pair) if pair.status == 200 and pair.answer is not None else None
                key = (verb and tuple(verb), text(pair.answer))
                if not verb or verb == ["stats"] or key in seen:
                    continue
                seen.add(key)
                r, _ = against(hub, [(200, {"Content-Type": "application/json; charset=utf-8"}, answer_bytes(pair))], *verb, "--json")
                want = pair.answer if isinstance(pair.answer, list) else [pair.answer]
                if "list" in verb:
                    want = without(want, ("symmetricKey",))  # lists show no keys
                got = objects(r.stdout)
                assert r.returncode == 0 and json.dumps(got) == json.dumps(want), (name, pair.number, verb, want, r)
                r, _ = against(hub, [(200, {"Content-Type": "application/json; charset=utf-8"}, answer_bytes(pair))], *verb)
                assert r.returncode == 0 and not r.stderr, (name, pair.number, verb, r)
                shown = "moduleId" if verb[0] == "module" else "deviceId"
                assert all(one.get(shown, "") in r.stdout for one in want), (name, verb, want, r)
    assert len(seen) > 40, len(seen)
    print(f"# {len(seen)} different answers shown", flush=True)


@test
def iothubctl_explains_the_errors_that_hubs_gave(folder):
    # 429 and 500 are tried again for minutes; test_errors.py has them.
    errors = [(e["status"], e["headers"], e["body"]) for e in recordings.load("errors-from-issues.json")["errors"]
              if isinstance(e["body"], str) and e["status"] not in (None, 429, 500)]
    for _, pairs in recordings.pairs():
        errors += [(p.status, {}, json.dumps(p.answer)) for p in pairs if p.status >= 400]
    seen = {}
    for status, headers, body in errors:
        seen.setdefault((status, re.sub(r"[0-9a-f]{32}.*", "", body)), (status, headers, body))
    with Hub(folder) as hub:
        for status, headers, body in seen.values():
            headers = {n: v for n, v in headers.items() if n != "Content-Length"}
            r, _ = against(hub, [(status, headers, body.encode())], "invoke", "d1", "m", "--verbose")
            assert r.returncode not in (0, 70, 76) and f"HTTP {status}" in r.stderr, (status, body, r)
            tracking = re.search(r"[0-9a-fA-F]{16,32}-G", body)
            assert not tracking or tracking[0] in r.stderr, (status, body, r)
            what = re.search(r"ErrorCode:(\w+)", body) or re.search(r"errorCode\W+(\d+)", body)
            assert what[1] in r.stderr, (status, body, r)
    assert len(seen) >= 12, len(seen)
    print(f"# {len(seen)} different errors explained", flush=True)


# ---- errors that were quoted without their requests ----


def error_of(body):
    """(code, message) of either form."""
    inner = json.loads(body["Message"]) if body.get("Message", "").startswith("{") else body
    if "errorCode" in inner:
        return inner["errorCode"], inner["message"]
    name, message = re.fullmatch(r"ErrorCode:(\w+);(.*)", body["Message"], re.DOTALL).groups()
    return name, message


@test
def the_emulator_words_its_errors_as_hubs_do(folder):
    quoted = {}
    for e in recordings.load("errors-from-issues.json")["errors"]:
        body = recordings.parsed(e["body"])
        if isinstance(body, dict) and ("Message" in body or "message" in body):
            quoted.setdefault(error_of(body)[0], []).append((e["status"], list(body), error_of(body)[1]))
    with Hub(folder) as hub, Service(hub) as service:
        service.create("device004")
        service.create("tf-dev-01")
        service.good("PUT", "/devices/tf-dev-01/modules/telemetry", {"deviceId": "tf-dev-01", "moduleId": "telemetry"})
        method = "/twins/device004/methods"
        for code, *call in (
            ("DeviceAlreadyExists", "PUT", "/devices/device004", {"deviceId": "device004"}),
            (409301, "PUT", "/devices/tf-dev-01/modules/telemetry", {"deviceId": "tf-dev-01", "moduleId": "telemetry"}),
            (400004, "POST", method, {"methodName": "m", "responseTimeoutInSeconds": 1}),
            (400004, "POST", method, {"payload": 1}),
            ("IotHubUnauthorizedAccess", "GET", "/devices/device004", None, {"Authorization": "SharedAccessSignature sr=x"}),
            (404103, "POST", method, {"methodName": "m"}),
        ):
            status, headers, body = service.call(*call)
            known = quoted[code]
            assert error_of(body)[0] == code and status in [s for s, _, _ in known] + ([404] if code == 404103 else []), (code, status, body)
            assert list(body) in [names for _, names, _ in known], (code, list(body), known)
            if code in (400004, 409301):
                message = error_of(body)[1].replace("localhost", "tf-provider-dev")
                assert message in [text for _, _, text in known], (code, message, known)


# ---- events, as monitors of hubs have shown them ----


def kinds(annotations):
    """Names in their order with the kinds, and the values that no hub chooses."""
    same = ("iothub-connection-device-id", "iothub-connection-module-id", "iothub-connection-auth-method", "iothub-message-source")
    return [(n, v if n in same else type(v).__name__) for n, v in annotations.items()]


def shown_event(hub, registry, sample_annotations, bag, body, properties):
    """What iothubctl monitor shows of an event of that device or module."""
    device, module = (sample_annotations.get(f"iothub-connection-{what}-id") for what in ("device", "module"))
    identity = registry.create(device)
    name = device
    if module:
        path = f"/devices/{quote(device)}/modules/{quote(module)}"
        identity = registry.call("PUT", path, {"deviceId": device, "moduleId": module})[2]
        name = f"{device}/modules/{module}"
    with Mqtt(hub) as m:
        assert m.connect(f"{device}/{module}" if module else device, device_token(name, key_of(identity))) == 0
        m.publish(f"devices/{name}/messages/events/{bag}", body)
        m.receive()
    place = ("--amqp-port", str(hub.amqp_port), "--from", "earliest", "--count", "1", "--json", "--properties", properties)
    return json.loads(hub.ctl("monitor", device, *place).stdout)["event"]


@test
def an_event_has_the_annotations_of_a_hubs_event(folder):
    """Those that a device has sent: the emulator tells of no changes of identities and twins."""
    samples = recordings.load("monitor-events-samples.json")["samples"]
    telemetry = next(s["output"]["event"] for s in samples if s["kind"] == "telemetry")
    module = next(s["output"]["systemProperties"] for s in samples if "module telemetry" in s["kind"])
    with Hub(folder) as hub:
        registry = Registry(hub)
        shown = shown_event(hub, registry, telemetry["annotations"], "", telemetry["payload"].encode(), "annotations")
        assert kinds(shown["annotations"]) == kinds(telemetry["annotations"]), (shown, telemetry)
        assert [n for n in shown if n != "partition"] == list(telemetry) and shown["properties"] == {}, (shown, telemetry)
        assert shown["origin"] == telemetry["origin"], (shown, telemetry)

        bag = "%24.mid=c2de6a40&%24.ct=application%2Fjson&%24.ce=utf-8"
        shown = shown_event(hub, registry, module, bag, b"{}", "all")
        of_hub = {n: v for n, v in module.items() if n.startswith("iothub-")}
        stamped = {n: v for n, v in shown["annotations"].items() if n.startswith("iothub-")}
        assert kinds(stamped) == kinds(of_hub), (stamped, of_hub)
        system = {"message_id": "c2de6a40", "content_type": "application/json", "content_encoding": "utf-8"}
        assert shown["properties"]["system"] == system and shown["module"] == module["iothub-connection-module-id"], shown


if __name__ == "__main__":
    main()
