#!/usr/bin/env python3
"""Goal: the emulator's twins, queries and bulk calls answer as the hub's do.
Method: calls over HTTPS; queries against what was written; every page size gives the same rows."""
import base64

from harness import Hub, main, test
from registry import quote
from service import Service


@test
def a_twin_is_the_devices_and_patches_merge_into_it(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        device = registry.create("d1")
        status, headers, twin = registry.call("GET", "/twins/d1")
        assert status == 200 and "etag" not in headers
        assert list(twin) == [
            "deviceId", "etag", "deviceEtag", "status", "statusUpdateTime", "connectionState", "lastActivityTime",
            "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "version", "properties", "capabilities",
        ]
        assert (twin["etag"], twin["version"], twin["deviceEtag"]) == ("AAAAAAAAAAE=", 2, device["etag"])
        patch = {"tags": {"site": {"floor": 3}}, "properties": {"desired": {"interval": 5}}}
        patched = registry.good("PATCH", "/twins/d1", patch, {"If-Match": f'"{twin["etag"]}"'})
        assert patched["tags"] == patch["tags"] and patched["version"] == 3
        desired = patched["properties"]["desired"]
        assert list(desired) == ["interval", "$metadata", "$version"] and desired["$version"] == 2
        assert desired["$metadata"]["interval"]["$lastUpdatedVersion"] == 2
        stale = registry.call("PATCH", "/twins/d1", patch, {"If-Match": f'"{twin["etag"]}"'})
        assert stale[0] == 412 and stale[2]["Message"].endswith("ETag mismatch for device ID 'd1'"), stale
        assert registry.good("PATCH", "/twins/d1", patched, {"If-Match": "*"})["tags"] == patch["tags"]
        replaced = registry.good("PUT", "/twins/d1", {"tags": {"a": 1}}, {"If-Match": "*"})
        assert replaced["tags"] == {"a": 1} and "interval" not in replaced["properties"]["desired"]
        for bad in ("5", "[]", "{", '{"tags":5}', '{"tags":{"a b":1}}'):
            assert registry.call("PATCH", "/twins/d1", bad)[0] == 400, bad
        assert registry.call("GET", "/twins/none")[1]["iothub-errorcode"] == "DeviceNotFound"
        assert registry.call("PATCH", "/twins/none", "{}")[0] == 404
        hub.kill()
        hub.start()
        with Service(hub) as again:
            assert again.good("GET", "/twins/d1") == replaced
            # The identity's writes leave the twin alone, and the other way round.
            changed = again.good("PUT", "/devices/d1", {**device, "status": "disabled"}, {"If-Match": "*"})
            after = again.good("GET", "/twins/d1")
            assert (after["etag"], after["deviceEtag"]) == (replaced["etag"], changed["etag"])
            assert after["status"] == "disabled" and after["tags"] == {"a": 1}


@test
def a_module_has_a_twin_of_its_own(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        registry.create("d1")
        registry.good("PUT", "/devices/d1/modules/m1", {"deviceId": "d1", "moduleId": "m1"})
        twin = registry.good("GET", "/twins/d1/modules/m1")
        assert twin["moduleId"] == "m1" and "capabilities" not in twin
        assert twin["properties"]["desired"]["$metadata"]["$lastUpdated"].startswith("0001-01-01")
        registry.good("PATCH", "/twins/d1/modules/m1", {"tags": {"a": 1}})
        assert "tags" not in registry.good("GET", "/twins/d1")
        assert registry.query("SELECT * FROM devices.modules WHERE tags.a = 1")[0][0]["moduleId"] == "m1"
        missing = registry.call("GET", "/twins/d1/modules/none")
        assert missing[0] == 404 and missing[1]["iothub-errorcode"] == "DeviceNotFound"


def bulk(registry, items):
    return registry.call("POST", "/devices", items)


@test
def bulk_items_succeed_or_fail_one_by_one(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        items = [{"id": f"d{n}", "importMode": "create", "status": "enabled"} for n in range(10)]
        assert bulk(registry, items)[::2] == (200, {"isSuccessful": True, "errors": [], "warnings": []})
        items = [
            {"id": "d3", "importMode": "create"},
            {"id": "new", "importMode": "Create", "tags": {"a": 1}, "properties": {"desired": {"x": 1}}},
            {"id": "none", "importMode": "update"},
            {"id": "d4", "importMode": "updateIfMatchETag", "eTag": base64.b64encode(b"1").decode(), "status": "disabled"},
            {"id": "d5", "importMode": "update", "eTag": "stale", "status": "disabled"},
            {"id": "d6", "importMode": "delete"},
            {"id": "d7", "importMode": "destroy"},
            {"id": "a b", "importMode": "create"},
            {"id": "d8", "moduleId": "m1", "importMode": "create"},
            {"id": "d9", "importMode": "updateTwin", "tags": {"b": 2}},
            {"id": "d9", "importMode": "updateTwin", "tags": {"b b": 2}},
            {"id": "d1", "importMode": "createOrUpdate", "status": "disabled"},
        ]
        status, headers, body = bulk(registry, items)
        assert status == 400 and headers["iothub-errorcode"] == "BulkRegistryOperationFailure"
        assert list(body) == ["isSuccessful", "errors", "warnings"] and body["isSuccessful"] is False
        assert [(e["deviceId"], e["errorCode"]) for e in body["errors"]] == [
            ("d3", "DeviceAlreadyExists"), ("none", "DeviceNotFound"), ("d4", "PreconditionFailed"),
            ("d7", "ArgumentInvalid"), ("a b", "ArgumentInvalid"), ("d9", "ArgumentInvalid"),
        ], body
        new = registry.good("GET", "/twins/new")
        assert new["tags"] == {"a": 1} and new["version"] == 2
        assert new["properties"]["desired"]["$metadata"]["x"]["$lastUpdatedVersion"] == 1
        assert registry.good("GET", "/devices/d5")["status"] == "disabled"
        assert registry.good("GET", "/devices/d1")["status"] == "disabled"
        assert registry.call("GET", "/devices/d6")[0] == 404
        assert registry.good("GET", "/devices/d8/modules/m1")["moduleId"] == "m1"
        assert registry.good("GET", "/twins/d9")["tags"] == {"b": 2}
        assert bulk(registry, [{"id": f"x{n}", "importMode": "create"} for n in range(101)])[0] == 413
        assert bulk(registry, [])[0] == 200 and bulk(registry, {})[0] == 400 and bulk(registry, [5])[0] == 400


@test
def every_page_size_gives_the_same_rows(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        ids = sorted(f"d{n:03}" for n in range(0, 300, 3)) + ["z:.+%_#*?!(),=@$'"]
        for first in range(0, len(ids), 100):
            items = [{"id": i, "importMode": "create", "tags": {"odd": i[-1] in "13579"}} for i in ids[first:first + 100]]
            assert bulk(registry, items)[0] == 200
        odd = [i for i in ids if i[-1] in "13579"]
        for size in (1, 7, 100, None, 1000):
            if size != 1:
                rows, _ = registry.query("SELECT * FROM devices", size)
                assert [r["deviceId"] for r in rows] == ids, size
            rows, pages = registry.query("SELECT deviceId FROM devices WHERE tags.odd = true", size)
            assert rows == [{"deviceId": i} for i in odd], size
            assert pages >= len(odd) / (size or 100)
            rows, _ = registry.query("SELECT deviceId FROM devices WHERE tags.odd ORDER BY deviceId DESC", size)
            assert rows == [{"deviceId": i} for i in reversed(odd)], size
            rows, _ = registry.query("SELECT TOP 13 deviceId FROM devices", size)
            assert [r["deviceId"] for r in rows] == ids[:13], size
        rows, _ = registry.query("SELECT tags.odd AS odd, COUNT() AS n FROM devices GROUP BY tags.odd")
        assert sorted(map(str, rows)) == sorted(map(str, [
            {"odd": True, "n": len(odd)}, {"odd": False, "n": len(ids) - len(odd)},
        ])), rows


@test
def a_query_that_is_none_and_a_foreign_continuation_are_refused(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        for n in range(3):
            registry.create(f"d{n}")
        for body in ({}, {"query": 5}, {"query": "nonsense"}, {"query": "SELECT * FROM devices.jobs"}, [], "x"):
            status, headers, _ = registry.call("POST", "/devices/query", body)
            assert status == 400 and headers["iothub-errorcode"], body
        text = "SELECT * FROM devices"
        headers = registry.query_page(text, 1)[1]
        assert headers["x-ms-item-type"] == "Twin" and headers["x-ms-continuation"]
        assert registry.query_page("SELECT deviceId FROM devices", 1)[1]["x-ms-item-type"] == "Raw"
        for token in ("x", "AAAA", base64.b64encode(b"{}").decode()):
            assert registry.query_page(text, 1, token)[0] == 400, token
        assert registry.query_page("SELECT deviceId FROM devices", 1, headers["x-ms-continuation"])[0] == 400
        # What is deleted or made between two pages spoils neither.
        registry.good("DELETE", "/devices/d0", headers={"If-Match": "*"})
        registry.create("d1x")
        status, headers, rows = registry.query_page(text, 10, headers["x-ms-continuation"])
        assert status == 200 and [r["deviceId"] for r in rows] == ["d1", "d1x", "d2"], rows
        assert registry.call("POST", "/devices/query", {"query": text}, {"x-ms-max-item-count": "x"})[0] == 400


@test
def calls_beside_the_registry_answer_as_the_hub(folder):
    with Hub(folder) as hub, Service(hub) as registry:
        device = "a#b"
        registry.create(device)
        purged = registry.good("DELETE", f"/devices/{quote(device)}/commands")
        assert purged == {"deviceId": device, "moduleId": None, "totalMessagesPurged": 0}
        assert registry.call("DELETE", "/devices/none/commands")[0] == 404
        gone = registry.call("DELETE", "/jobs/j1")
        assert gone[0] == 404 and gone[1]["iothub-errorcode"] == "JobNotFound"
        assert registry.call("GET", "/devices/a%b")[0] == 400
        assert registry.call("GET", "/devices/a%20b")[0] == 400
        status, headers, _ = registry.call("GET", f"/devices/{quote(device)}")
        assert status == 200 and headers["vary"] == "Origin" and headers["x-ms-request-id"].count("-") == 4


if __name__ == "__main__":
    main()
