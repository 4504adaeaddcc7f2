#!/usr/bin/env python3
"""Goal: azure-iot-device works against the emulator as against a hub, seen from azure-iothub on the other side.
Method: scenes/device.js."""
import hashlib
import os
import ssl
import subprocess

from harness import test
from interop import RealPortsHub, main, play


def events(hub):
    """What is stored, whole."""
    hub.events.keep = []
    hub.events.poll()
    return hub.events.keep


@test
def telemetry_arrives_whole_with_its_properties(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.telemetry")
        stored = events(hub)
        assert len(stored) == 7, stored
        first = stored[0]
        assert first["body"] == '{"windSpeed":11.2}' and first["deviceId"] == "d1", first
        assert first["properties"] == {"alert": "true", "a b&=$/ü": "c d&=%/ö"}, first
        system = first["systemProperties"]
        assert system == {
            "messageId": "m/1 ä&=?#+", "correlationId": "c-1", "contentType": "application/json",
            "contentEncoding": "utf-8", "userId": "u 1",
        }, system
        bodies = hub.events.bodies()
        assert [len(b) for b in bodies[1:4]] == [5, 255 * 1024, 0] and bodies[1] == b"\0\xff\n\r\0", bodies[1]
        assert bodies[4:] == ["at once 1", "at once 2", "at once 3"], bodies[4:]


@test
def wrong_keys_and_unknown_or_disabled_devices_are_refused(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.refused")


@test
def disabling_or_deleting_a_device_cuts_it_off(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.cut")


@test
def twins_go_both_ways(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.twin")


@test
def methods_answer_time_out_and_wait_for_a_device(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.methods")


@test
def a_module_has_a_life_of_its_own(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.module")
        stored = events(hub)
        assert [e.get("moduleId") for e in stored] == ["m1", "m1", None], stored
        assert stored[1]["systemProperties"]["outputName"] == "out", stored


def certificate(folder, name):
    """(files, SHA-256 thumbprint) of a certificate that only itself has signed."""
    files = {"cert": os.path.join(folder, f"{name}.pem"), "key": os.path.join(folder, f"{name}-key.pem")}
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
         "-keyout", files["key"], "-out", files["cert"]],
        check=True, capture_output=True,
    )
    with open(files["cert"], encoding="ascii") as f:
        return files, hashlib.sha256(ssl.PEM_cert_to_DER_cert(f.read())).hexdigest()


@test
def a_certificate_opens_the_door_that_names_its_thumbprint(folder):
    files, thumbprint = certificate(folder, "device")
    other, _ = certificate(folder, "other")
    with RealPortsHub(folder) as hub:
        play(hub, "device.certificate", **files, thumbprint=thumbprint, other=other)
        assert hub.events.wait_count(1) == ["by certificate"]


@test
def a_connection_outlives_its_tokens(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "device.renewal")
        assert hub.count("connects") >= 5, hub.count("connects")


if __name__ == "__main__":
    main()
