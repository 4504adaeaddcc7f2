#!/usr/bin/env python3
"""Goal: new credentials are taken while the daemon runs, bad ones are named and stop neither it nor what it holds
(promises P6, P7). Real daemon, real emulator; files are replaced as an administrator would."""
import os
import signal

import harness
from harness import Daemon, Hub, Setup, compare, test, wait_until

CHANGED = "Credentials have changed, connecting anew"


def write_private(path, text):
    """Whole or not at all, as a rename does it."""
    with open(os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(text)
    os.rename(f"{path}.new", path)


def connection_string(hub, device="windmill", secondary=False):
    return hub.ctl("device", "connection-string", *(["--secondary"] if secondary else []), device).stdout


def key_in(text):
    return text.strip().rsplit("SharedAccessKey=", 1)[1]


def lines(n, start=0):
    return [f"reading {i}" for i in range(start, start + n)]


def assert_all_arrived(hub, sent):
    result = compare(sent, hub.events.wait_count(len(sent)))
    assert result["lost"] == 0 and result["duplicates"] == 0 and result["in_order"], result


@test
def a_new_key_is_taken_without_a_signal_and_without_a_loss(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        s.send(lines(300))
        fresh = connection_string(s.hub, secondary=True)
        write_private(s.daemon.settings["connection_string_file"], fresh)
        wait_until(lambda: CHANGED in s.daemon.log(), "the change is seen")
        s.send(lines(300, 300))
        assert_all_arrived(s.hub, lines(600))
        s.daemon.wait_queue_empty()
        assert s.daemon.log().count(CHANGED) == 1
        assert key_in(fresh) not in s.daemon.log()


@test
def a_connection_string_that_appears_is_taken(folder):
    with Hub(folder) as hub:
        path = os.path.join(folder, "device")
        with Daemon(folder, hub, path) as d:
            assert d.status()["connectionState"] == "holding"
            d.ctl("send", "reading 0")
            os.rename(hub.create_device(), path)
            wait_until(lambda: CHANGED in d.log(), "the file is seen")
            assert_all_arrived(hub, lines(1))


@test
def a_link_that_is_pointed_elsewhere_is_a_change(folder):
    with Hub(folder) as hub:
        link = os.path.join(folder, "device")
        os.mkdir(os.path.join(folder, "a"))
        target = os.path.join(folder, "a", "1")
        os.rename(hub.create_device(), target)
        os.symlink(target, link)
        with Daemon(folder, hub, link) as d:
            d.wait_connected()
            write_private(os.path.join(folder, "a", "2"), connection_string(hub, secondary=True))
            os.symlink(os.path.join(folder, "a", "2"), f"{link}.new")
            os.rename(f"{link}.new", link)
            wait_until(lambda: CHANGED in d.log(), "the link is followed")
            d.ctl("send", "reading 0")
            assert_all_arrived(hub, lines(1))


@test
def a_bad_file_is_named_once_and_the_connection_stays(folder):
    with Setup(folder) as s:
        path = s.daemon.settings["connection_string_file"]
        good = connection_string(s.hub)
        s.daemon.wait_connected()
        since = s.daemon.status()["connectionSinceUSec"]
        write_private(path, good.strip()[:-3])
        named = f"{path} is not usable: SharedAccessKey: not valid base64"
        wait_until(lambda: named in s.daemon.log(), "the fault is named")
        s.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.daemon.notify.read().count("READY=1") == 2, "the reload is over")
        s.send(lines(10))
        assert_all_arrived(s.hub, lines(10))
        status = s.daemon.status()
        assert status["connectionSinceUSec"] == since and status["connected"], status
        log = s.daemon.log()
        assert log.count(named) == 1 and "The credentials read before stay in use" in log, log
        assert key_in(good)[:-3] not in log


@test
def a_systemd_credential_that_is_bad_asks_for_a_restart(folder):
    credentials = os.path.join(folder, "credentials")
    os.mkdir(credentials)
    write_private(os.path.join(credentials, "connection-string"), "HostName=h")
    os.environ["CREDENTIALS_DIRECTORY"] = credentials
    try:
        with Daemon(folder) as d:
            status = d.status()
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]
    assert "DeviceId: missing" in status["hold"] and "systemctl restart" in status["hold"], status


if __name__ == "__main__":
    harness.main()
