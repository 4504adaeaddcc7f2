#!/usr/bin/env python3
"""Goal: the daemon names what keeps it from delivering, says what to do, and goes on by itself when the cause is gone
(promise P6). Real daemon, the emulator as hub; each cause is made in turn, and the status and the log are read."""
import base64
import os
import time

import harness
from faults import wait_healed, wait_trouble
from harness import Daemon, Setup, test, wait_until, write_private


def with_wrong_key(path, name):
    """A copy of a connection string with a key that the hub does not know."""
    with open(path, encoding="utf-8") as f:
        head = f.read().split("SharedAccessKey=")[0]
    other = os.path.join(os.path.dirname(path), name)
    write_private(other, head + "SharedAccessKey=" + base64.b64encode(bytes(32)).decode() + "\n")
    return other


@test
def a_crash_is_followed_by_a_wait_and_an_orderly_stop_is_not(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        wait_until(lambda: os.path.exists(os.path.join(s.daemon.state, "uplink")), "the run is remembered")
        for n in range(1, 5):
            s.daemon.kill()
            s.daemon.start()
            s.daemon.wait_connected()
            assert s.daemon.log().count("The last run did not end in order") == n, s.daemon.log()
        s.daemon.stop()
        assert not os.path.exists(os.path.join(s.daemon.state, "uplink"))
        s.daemon.start()
        s.daemon.wait_connected()
        assert s.daemon.log().count("The last run did not end in order") == 4, s.daemon.log()


@test
def the_secondary_key_serves_when_the_primary_is_refused(folder):
    with Setup(folder, start=False) as s:
        right = s.daemon.settings["connection_string_file"]
        s.daemon.configure(
            {
                "connection_string_file": with_wrong_key(right, "primary"),
                "secondary_connection_string_file": right,
            }
        )
        s.daemon.start()
        status = wait_healed(s.daemon)
        assert status["key"] == "secondary" and status["otherKeyRefused"], status
        assert "refused the primary key and takes the secondary" in s.daemon.log(), s.daemon.log()
        text = s.daemon.ctl("status").stdout
        assert "secondary (the hub refused the other)" in text, text
        s.send(["one"])
        s.hub.events.wait_count(1)


@test
def two_wrong_keys_are_a_refusal_that_ends_with_a_right_one(folder):
    with Setup(folder, start=False) as s:
        with open(s.daemon.settings["connection_string_file"], encoding="utf-8") as f:
            right = f.read()
        wrong = with_wrong_key(s.daemon.settings["connection_string_file"], "wrong")
        s.daemon.configure({"connection_string_file": wrong, "secondary_connection_string_file": wrong + "2"})
        write_private(wrong + "2", open(wrong, encoding="utf-8").read())
        s.daemon.start()
        trouble = wait_trouble(s.daemon, "refused")
        assert "device exists and is enabled" in trouble["remedy"], trouble
        text = s.daemon.ctl("status").stdout
        for words in ("Trouble", "refused: The hub refused the device", "Remedy", "Lasting"):
            assert words in text, text
        write_private(wrong, right)  # no signal, no restart: the file is read again
        wait_healed(s.daemon)
        assert "Connected again to" in s.daemon.log(), s.daemon.log()


@test
def a_device_that_is_deleted_and_made_again_is_named_and_heals(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        s.hub.ctl("device", "delete", s.device)
        wait_trouble(s.daemon, "refused")
        s.hub.create_device(s.device)  # other keys, in the same file
        wait_healed(s.daemon)
        s.send(["one"])
        s.hub.events.wait_count(1)


@test
def a_clock_of_1970_is_waited_for_and_connected_when_it_is_set(folder):
    with Setup(folder, start=False) as s:


        off = int(time.time()) - 100
        d = Daemon(folder, hub=s.hub, connection_string_file=s.daemon.settings["connection_string_file"], clock_offset_sec=-off)
        try:
            d.start()
            assert d.status()["connectionState"] == "waiting-for-clock", d.status()
            assert "1970-01-01T00:0" in d.log() and "which cannot be" in d.log(), d.log()
            text = d.ctl("status").stdout
            assert "waiting-for-clock" in text, text
            d.step_clock(off)
            wait_healed(d)
        finally:
            d.stop()


@test
def a_wrong_clock_is_named_when_the_wait_is_over(folder):
    with Setup(folder, start=False) as s:
        for offset_sec, wanted in ((-30 * 365 * 86400, "clock"), (56 * 365 * 86400, "tls-expired")):
            d = Daemon(
                folder, hub=s.hub, connection_string_file=s.daemon.settings["connection_string_file"], clock_offset_sec=offset_sec,
                name=f"d{wanted}", settings={"uplink": {"clock_wait": "0"}},
            )  # fmt: skip
            try:
                d.start()
                trouble = wait_trouble(d, wanted)
                assert "clock" in trouble["remedy"], trouble
                d.step_clock(-offset_sec)
                wait_healed(d)
            finally:
                d.stop()


@test
def a_second_holder_of_the_identity_is_named_and_it_ends_with_it(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        other = Daemon(folder, hub=s.hub, connection_string_file=s.daemon.settings["connection_string_file"], name="copy")
        try:
            other.start()
            trouble = wait_trouble(s.daemon, "taken-over")
            assert "second program or machine" in trouble["remedy"], trouble
        finally:
            other.stop()
        s.daemon.wait_connected()
        s.send(["one"])
        s.hub.events.wait_count(1)


if __name__ == "__main__":
    harness.main()
