#!/usr/bin/env python3
"""Goal: what a sender saw accepted reaches the hub, in order, whatever the link does (promises P1, P2, P3, P6).
Real daemon, real iothubctl, the emulator as hub and a proxy between them that misbehaves."""
import json

import harness
from harness import InBackground, Sender, Setup, Varlink, assert_delivered, check_books, lines, test, wait_until

WINDOW = 200  # messages in flight, the default


def wait_event_count_above(hub, n):
    wait_until(lambda: len(hub.events.poll()) > n, f"more than {n} events")


@test
def a_pipe_reaches_the_hub_exactly_once_and_in_order(folder):
    with Setup(folder) as s:
        sent = lines(5000)
        s.send(sent)
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))
        status = s.daemon.wait_queue_empty()
        assert status["accepted"] == status["confirmed"] == len(sent), status


@test
def what_a_message_carries_reaches_the_hub(folder):
    with Setup(folder) as s:
        s.hub.events.keep = kept = []
        s.daemon.ctl(
            "send", "--message-id", "message_7", "--correlation-id", "c 1", "-p", "alert=ja&nein=100%", "-p", "site=Kö/ln",
            "--content-type", "application/json", "--content-encoding", "utf-8", '{"windSpeed":', "12.5}",
        )  # fmt: skip
        s.hub.events.wait_count(1)
        event = kept[0]
        assert event["deviceId"] == s.device
        assert event["body"] == '{"windSpeed": 12.5}', event
        assert event["properties"] == {"alert": "ja&nein=100%", "site": "Kö/ln"}, event
        system = event["systemProperties"]
        for key, value in (("messageId", "message_7"), ("correlationId", "c 1"), ("contentType", "application/json"),
                           ("contentEncoding", "utf-8")):  # fmt: skip
            assert system[key] == value, event


@test
def a_link_cut_again_and_again_loses_nothing(folder):
    n_cuts = 10
    with Setup(folder, proxy=True) as s:
        sent = lines(30000)
        sending = InBackground(s.send, sent)
        for _ in range(n_cuts):
            # Mid-frame and mid-window: the proxy counts bytes, not messages. Each connection gets somewhere, or the
            # daemon would suspect the message that was first in flight each time.
            wait_event_count_above(s.hub, len(s.hub.events.poll()))
            s.proxy.cut_after(20011)
            wait_until(lambda: s.proxy.cut_after_bytes is None, "a cut")
        s.proxy.restore()
        sending.result()
        assert_delivered(sent, s.hub.events.wait_count(len(sent)), duplicates_max=n_cuts * WINDOW)
        status = s.daemon.wait_queue_empty()
        assert status["accepted"] == status["confirmed"] == len(sent), status


def outage(folder, begin, settings=None):
    """Sends around an outage that begin(proxy) starts in mid-stream and that ends when the daemon has noticed it."""
    with Setup(folder, proxy=True, settings=settings) as s:
        s.daemon.wait_connected()
        sent = lines(3000)
        s.send(sent[:1000])
        begin(s.proxy)
        s.send(sent[1000:2000])
        wait_until(lambda: not s.daemon.status()["connected"], "the daemon notices")
        status = s.daemon.status()
        check_books(status)
        assert status["queued"] > 0 and status["sendStatus"] == "BUSY", status
        s.send(sent[2000:])
        s.proxy.restore()
        assert_delivered(sent, s.hub.events.wait_count(len(sent)), duplicates_max=WINDOW)
        status = s.daemon.wait_queue_empty()
        assert status["sendStatus"] == "IDLE" and status["accepted"] == len(sent), status


@test
def a_refused_link_loses_nothing(folder):
    outage(folder, lambda proxy: proxy.refuse())


@test
def a_stalled_link_is_noticed_and_loses_nothing(folder):
    outage(folder, lambda proxy: proxy.stall(), {"uplink": {"ack_timeout": "1s", "connect_timeout": "1s"}})


@test
def a_half_open_link_is_noticed_and_loses_nothing(folder):
    with Setup(folder, proxy=True, settings={"uplink": {"ack_timeout": "1s", "connect_timeout": "5s"}}) as s:
        s.daemon.wait_connected()
        sent = lines(2000)
        s.send(sent[:1000])
        s.hub.events.wait_count(1000)
        s.proxy.half_open()
        s.send(sent[1000:])
        assert_delivered(sent, s.hub.events.wait_count(len(sent)), duplicates_max=WINDOW)
        s.daemon.wait_queue_empty()


@test
def a_slow_and_late_link_delivers_in_order(folder):
    with Setup(folder, proxy=True) as s:
        s.daemon.wait_connected()
        s.proxy.delay(0.02)
        s.proxy.slow(100000)
        sent = lines(1500)
        s.send(sent)
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))


@test
def a_backlog_of_a_hub_that_was_down_drains_in_order(folder):
    with Setup(folder, start=False) as s:
        s.hub.stop()
        s.daemon.start()
        sent = lines(5000)
        s.send(sent)
        status = s.daemon.status()
        check_books(status)
        assert status["queued"] == len(sent) and not status["connected"], status
        s.hub.start()
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))


@test
def a_hub_that_dies_in_mid_stream_gets_everything_after_it_is_back(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        sent = lines(10000)
        sending = InBackground(s.send, sent)
        wait_event_count_above(s.hub, 1000)
        s.hub.kill()
        sending.result()
        s.hub.start()
        assert_delivered(sent, s.hub.events.wait_count(len(sent)), duplicates_max=WINDOW)
        s.daemon.wait_queue_empty()


@test
def an_orderly_restart_keeps_the_books_and_sends_nothing_twice(folder):
    with Setup(folder) as s:
        sent = lines(4000)
        s.send(sent[:2000])
        s.daemon.stop()
        s.daemon.start()
        status = s.daemon.status()
        check_books(status)
        assert status["accepted"] == 2000, status
        s.send(sent[2000:])
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))
        status = s.daemon.wait_queue_empty()
        assert status["accepted"] == status["confirmed"] == len(sent), status
        s.daemon.stop()
        s.daemon.start()
        status = s.daemon.status()
        assert status["accepted"] == status["confirmed"] == len(sent), status
        assert len(s.hub.events.poll()) == len(sent)


@test
def a_stop_while_offline_keeps_what_waits(folder):
    with Setup(folder, start=False, settings={"stop_timeout": "1s"}) as s:
        s.hub.stop()
        s.daemon.start()
        sent = lines(1000)
        s.send(sent)
        s.daemon.stop()
        s.hub.start()
        s.daemon.start()
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))


@test
def a_token_is_renewed_without_loss(folder):
    # The hub ends a session when its token ends, so a daemon that did not renew would be cut, and would lose its order.
    with Setup(folder, proxy=True, settings={"uplink": {"token_lifetime": "5s"}}) as s:
        s.daemon.wait_connected()
        sender = Sender(s.daemon)
        sent = []

        def write_until_renewed():
            if len(s.hub.events.poll()) == len(sent):  # one in flight at a time: a renewal falls between any two
                sent.append(f"reading {len(sent)}")
                sender.write(sent[-1])
            return s.proxy.n_connections >= 4

        wait_until(write_until_renewed, "three renewals")
        assert sender.finish() == 0
        assert_delivered(sent, s.hub.events.wait_count(len(sent)))
        status = s.daemon.wait_queue_empty()
        assert status["accepted"] == status["confirmed"] == len(sent), status


@test
def an_alarm_overtakes_the_backlog(folder):
    with Setup(folder, start=False) as s:
        s.hub.stop()
        s.daemon.start()
        s.send(lines(1000), "--lane", "bulk")
        s.send(["fire"], "--lane", "urgent")
        lanes = s.daemon.status()["lanes"]
        assert lanes["bulk"]["queued"] == 1000 and lanes["urgent"]["queued"] == 1, lanes
        s.hub.start()
        assert s.hub.events.wait_count(1001)[0] == "fire"


@test
def send_with_wait_tells_the_end_of_each_message(folder):
    with Setup(folder) as s:
        result = s.send(lines(20), "--wait", "--message-id", "message_%n")
        told = result.stdout + result.stderr
        for i in range(20):
            assert f"message_{i}" in told or f"message_{i + 1}" in told, told
        assert "20" in told.splitlines()[-1] and "confirmed" in told.splitlines()[-1], told
        assert len(s.hub.events.poll()) == 20  # confirmed means that the hub has it


@test
def flush_returns_when_everything_accepted_before_has_ended(folder):
    with Setup(folder, proxy=True) as s:
        s.daemon.wait_connected()
        s.proxy.refuse()
        sent = lines(500)
        s.send(sent)
        early = s.daemon.ctl("flush", "--timeout", "200ms", check=False)
        assert early.returncode == 75, (early.returncode, early.stderr)
        with Varlink(s.daemon.socket) as v:
            v.send("io.iothubd.Flush")
            with Varlink(s.daemon.socket) as other:  # a waiting Flush holds nobody else up
                assert other.call("io.iothubd.GetStatus")["queued"] == len(sent)
            s.proxy.restore()
            v.receive()
            assert_delivered(sent, s.hub.events.bodies())
        s.daemon.ctl("flush")


@test
def status_shows_the_equation_to_people_and_programs(folder):
    with Setup(folder) as s:
        s.send(lines(10))
        s.daemon.ctl("flush")
        status = json.loads(s.daemon.ctl("status", "--json").stdout)
        check_books(status)
        expected = {"connected": True, "sendStatus": "IDLE", "accepted": 10, "confirmed": 10, "expired": 0, "dropped": 0,
                    "rejected": 0, "queued": 0}  # fmt: skip
        assert {key: status[key] for key in expected} == expected, status
        text = s.daemon.ctl("status").stdout
        assert "IDLE" in text and s.device in text, text
        for word in ("accepted", "confirmed", "expired", "dropped", "rejected", "queued"):
            assert word in text.lower(), text


if __name__ == "__main__":
    harness.main()
