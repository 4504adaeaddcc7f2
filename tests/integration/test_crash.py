#!/usr/bin/env python3
"""Goal: kill -9 of the daemon at random moments loses nothing that a sender saw accepted (promises P1, P2, P3). Four
senders pipe all the while; the seed of a failing run is in its output and IOTHUBD_TEST_SEED repeats it."""
import os
import random
import threading
import time

import harness
from harness import LONG, Sender, Setup, check_books, compare, test

N_SENDERS = 4
N_KILLS = 100 if LONG else 20
WINDOW = 200
UNRECORDED_MAX = 1000  # confirmations that a crash may forget, as promised


class Feeder:
    """Writes numbered lines into one `iothubctl send` until it is told to end."""

    def __init__(self, daemon, number):
        self.number = number
        self.sent = []
        self.ending = threading.Event()
        self.sender = Sender(daemon, log_name=f"sender-{number}")
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.ending.is_set():
                batch = [f"{self.number} {len(self.sent) + i}" for i in range(20)]
                self.sender.write_all(batch)
                self.sent += batch
                self.ending.wait(0.005)  # the pace of the source: a daemon that is away makes the pipe fill
        except OSError as e:
            self.error = e

    def end(self):
        self.ending.set()
        self.thread.join(harness.DEADLINE_SEC)
        return self.sender.finish()


def assert_storm_is_survived(s, feeders, n_kills):
    events = s.hub.events
    sent = [body for feeder in feeders for body in feeder.sent]
    received = events.wait_count(len(sent))
    duplicates = 0
    for feeder in feeders:
        result = compare(feeder.sent, [body for body in received if body.startswith(f"{feeder.number} ")])
        assert result["lost"] == 0 and result["foreign"] == 0 and result["in_order"], (feeder.number, result)
        duplicates += result["duplicates"]
    print(f"# {len(sent)} lines, {n_kills} kills, {duplicates} duplicates")
    assert duplicates <= n_kills * (UNRECORDED_MAX + WINDOW), duplicates

    ids = {}
    for body, message_id in events.poll():
        assert message_id and ids.setdefault(body, message_id) == message_id, f"{body} came under two message ids"
    assert len(set(ids.values())) == len(ids), "two messages share an id"

    status = s.daemon.wait_queue_empty()
    assert status["accepted"] == len(sent), (status["accepted"], len(sent))  # stored once each, by the streams


@test
def a_storm_of_kills_loses_nothing(folder):
    seed = int(os.environ.get("IOTHUBD_TEST_SEED") or random.randrange(1 << 32))
    print(f"# IOTHUBD_TEST_SEED={seed}", flush=True)
    rng = random.Random(seed)
    with Setup(folder) as s:
        s.daemon.wait_connected()
        feeders = [Feeder(s.daemon, i) for i in range(N_SENDERS)]
        try:
            for _ in range(N_KILLS):
                # Not a wait for something: the moment of the kill is what is random.
                time.sleep(rng.choice((0, 0.02, 0.3)) * rng.random())
                before = s.daemon.status()
                s.daemon.kill()
                s.daemon.start()
                after = s.daemon.status()
                check_books(before)
                check_books(after)
                assert after["accepted"] >= before["accepted"], (before, after)
                for key in ("expired", "dropped", "rejected"):
                    assert after[key] >= before[key], (before, after)
            codes = [feeder.end() for feeder in feeders]
        except BaseException:
            for feeder in feeders:
                feeder.ending.set()
                feeder.sender.abort()
            raise
        assert codes == [0] * N_SENDERS and not any(f.error for f in feeders), (codes, [f.error for f in feeders])
        assert_storm_is_survived(s, feeders, N_KILLS)


@test
def a_daemon_that_dies_while_its_link_is_down_delivers_what_it_accepted(folder):
    with Setup(folder, proxy=True) as s:
        s.daemon.wait_connected()
        s.proxy.refuse()
        sent = [f"reading {i}" for i in range(3000)]
        for start in range(0, len(sent), 1000):
            s.send(sent[start : start + 1000])
            s.daemon.kill()  # at once after "accepted"
            s.daemon.start()
            status = s.daemon.status()
            check_books(status)
            assert status["queued"] == start + 1000, status
        s.proxy.restore()
        result = compare(sent, s.hub.events.wait_count(len(sent)))
        assert result == {"lost": 0, "foreign": 0, "duplicates": 0, "in_order": True}, result


@test
def a_second_daemon_on_the_same_state_is_refused(folder):
    with Setup(folder) as s:
        second = harness.Daemon(folder, name="second", settings={"state_directory": s.daemon.state})
        second.start(wait=False)
        code = second.process.wait(harness.DEADLINE_SEC)
        second.process = None
        second.notify.close()
        assert code != 0, "it ran"
        s.send(["still here"])
        s.hub.events.wait_count(1)


if __name__ == "__main__":
    harness.main()
