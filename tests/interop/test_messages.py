#!/usr/bin/env python3
"""Goal: events that devices send are read, and messages to devices sent, with Microsoft's SDKs over the AMQP door.
Method: scenes/messages.js; iothubd, iothubctl and azure-iot-device at the other ends."""
import os
import re

from harness import Daemon, test
from interop import RealPortsHub, Scene, main, need_event_hubs, play


def events_login(hub):
    with open(os.path.join(hub.folder, "event-hubs-connection-string"), encoding="utf-8") as f:
        return f.read().strip()


def of_device(said, device):
    """What was said of a device's events, which are in one partition and so in order."""
    return [e for e in said if e["annotations"]["iothub-connection-device-id"] == device]


@test
def the_tutorials_reader_shows_what_iothubd_sent(folder):
    """From the hub's connection string alone, over the redirect, on the real ports."""
    with RealPortsHub(folder) as hub, Daemon(folder, hub, hub.create_device()) as daemon:
        texts = [f'{{"windSpeed": {i}}}' for i in range(5)]
        sent = "".join(f"{text}\n" for text in texts)
        with Scene(hub, "messages.explorer", count=10) as scene:
            daemon.ctl("send", "--property", "alert=true", "--content-type", "application/json", input=sent)
            shown = [scene.line() for _ in range(5)]
            daemon.ctl("send", input=sent)  # while it reads
            shown += scene.end()
        assert [e["body"] for e in of_device(shown, "windmill")] == [{"windSpeed": i % 5} for i in range(10)], shown
        first = shown[0]
        assert first["applicationProperties"] == {"alert": "true"}, first
        assert first["properties"]["contentType"] == "application/json", first
        notes = first["annotations"]
        assert notes["iothub-message-source"] == "Telemetry" and notes["x-opt-sequence-number"] == 0, notes
        daemon.wait_queue_empty()


@test
def event_hubs_reads_from_its_endpoint(folder):
    need_event_hubs()
    with RealPortsHub(folder) as hub:
        play(hub, "messages.eventHubs", events=events_login(hub))


@test
def event_hubs_reads_after_a_redirect(folder):
    need_event_hubs()
    with RealPortsHub(folder) as hub:
        play(hub, "messages.eventHubs")


@test
def a_wrong_key_reads_nothing(folder):
    need_event_hubs()
    with RealPortsHub(folder) as hub:
        play(hub, "messages.wrongKey", events=events_login(hub))


@test
def messages_reach_a_device_now_and_when_it_comes(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "messages.toDevice")


@test
def a_message_to_nobody_and_a_fifty_first_are_refused(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "messages.refusedMessages")


@test
def feedback_tells_what_became_of_messages(folder):
    with RealPortsHub(folder) as hub:
        play(hub, "messages.feedback")


@test
def a_redirect_is_told_in_the_frames_of_a_hub(folder):
    """As published traces show them: the link is attached, then detached and closed, with an error that has the
    place as a map of symbols; the greeting asks for a frame each four minutes."""
    with RealPortsHub(folder) as hub:
        with Scene(hub, "messages.frames") as scene:
            said = scene.end()
        for frames, end in zip(said, ("", "$management"), strict=True):
            greeting = frames["open"]
            assert re.fullmatch("DeviceGateway_[0-9a-f]{32}", greeting["container_id"]), greeting
            assert (greeting["max_frame_size"], greeting["idle_time_out"]) == (65536, 240000), greeting
            assert frames["attach"] == {"role": False}, frames  # neither source nor target
            place = {"hostname": "localhost", "network-host": "localhost", "port": 5671,
                     "address": f"amqps://localhost:5671/localhost/{end}"}
            detach = frames["detach"]
            assert detach["closed"] and detach["condition"] == "amqp:link:redirect" and detach["info"] == place, detach


if __name__ == "__main__":
    main()
