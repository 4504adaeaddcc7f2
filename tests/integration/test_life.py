#!/usr/bin/env python3
"""Goal: a daemon that runs for years costs next to nothing while there is nothing to do, and does not grow while it
connects again and again. Method: its time runs faster (harness.py, time_warp), the hub and the proxy live in ours; what
it holds is read from /proc. With --long the idle minutes are real ones and the life lasts a day."""
import os
import random
import re
import threading
import time

import harness
from harness import INSTRUMENTED, LONG, Setup, Varlink, check_books, check_memory, compare, test, wait_until

# As shipped; the tests' own would wait shorter.
DEFAULTS = {"retry_min": "1s", "retry_max": "1min", "retry_cut_max": "5min"}
WATCHDOG = {"WATCHDOG_USEC": "60000000"}  # as systemd/iothubd.service
WAKE_UPS_MAX = 6  # a minute, all threads
RSS_ANON_KIB_MAX = 4096
WINDOW = 200


def threads(daemon):
    """Name and voluntary context switches of each thread of the daemon."""
    result = {}
    folder = f"/proc/{daemon.process.pid}/task"
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/status", encoding="utf-8") as f:
            text = f.read()
        name = re.search(r"^Name:\s+(\S+)", text)[1]
        if name != "time-warp":
            result[thread] = (name, int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1]))
    return result


def n_fds(daemon):
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def n_fed(daemon):
    return daemon.notify.read().count("WATCHDOG=1")


def count_idle(folder, factor, n_feeds):
    """Wake-ups a minute by thread, between two feeds of the watchdog that are n_feeds apart."""
    with Setup(folder, proxy=True, settings={"uplink": DEFAULTS}, time_warp=factor, environment=WATCHDOG) as s:
        s.daemon.wait_connected()
        s.send(["the last for long"])
        s.daemon.wait_queue_empty()
        # What follows a message has run down: its place is recorded, the connection proven.
        first = n_fed(s.daemon)
        wait_until(lambda: n_fed(s.daemon) > first + 2, "the watchdog is fed")

        before, bytes_before, fed = threads(s.daemon), s.proxy.n_bytes_to_hub, n_fed(s.daemon)
        start = time.monotonic()
        wait_until(lambda: n_fed(s.daemon) >= fed + n_feeds, "the watchdog is fed", 3600)
        after, minutes = threads(s.daemon), (time.monotonic() - start) * factor / 60
        rss = s.daemon.memory_kib()

        assert s.proxy.n_connections == 1 and s.daemon.status()["connected"]
        assert s.proxy.n_bytes_to_hub > bytes_before, "no keep-alive in all that time"
        assert sorted(before) == sorted(after), (before, after)
        counts = {name: (n - before[thread][1]) / minutes for thread, (name, n) in after.items()}
        text = ", ".join(f"{name} {n:.2f}" for name, n in sorted(counts.items()))
        print(f"# {minutes:.1f} idle minutes: {sum(counts.values()):.2f} wake-ups a minute ({text}); RssAnon {rss} KiB")
        assert INSTRUMENTED or sum(counts.values()) <= WAKE_UPS_MAX, counts  # a sanitizer has a thread of its own
        check_memory(rss, RSS_ANON_KIB_MAX)


@test
def an_idle_daemon_sleeps(folder):
    count_idle(folder, factor=1 if LONG else 20, n_feeds=18 if LONG else 9)


# ---- a long life ----


class Trickle:
    """Sends a few messages now and then, as a program that keeps its connection; counts them and ends on request."""

    def __init__(self, daemon, pause_sec):
        self.daemon = daemon
        self.pause_sec = pause_sec
        self.sent = []
        self.error = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            with Varlink(self.daemon.socket) as v:
                while not self.stopped.wait(self.pause_sec):
                    texts = [f"{len(self.sent) + i} {'x' * 400}" for i in range(5)]
                    v.call("io.iothubd.Send", {"messages": [{"body": text} for text in texts]})
                    self.sent += texts
        except BaseException as e:  # told by finish()
            self.error = e

    def finish(self):
        self.stopped.set()
        self.thread.join()
        if self.error:
            raise self.error
        return self.sent


class Life:
    """Troubles of the link, one after the other, and what the daemon holds in between."""

    def __init__(self, setup, factor, rng):
        self.daemon, self.proxy = setup.daemon, setup.proxy
        self.factor = factor
        self.rng = rng
        self.start = time.monotonic()
        self.n = {"cut": 0, "refuse": 0, "stall": 0, "half_open": 0, "renewal": 0}

    def hours(self):
        return (time.monotonic() - self.start) * self.factor / 3600

    def connected(self):
        return self.daemon.status()["connected"]

    def wait_connected(self):
        wait_until(self.connected, lambda: f"the daemon connects: {self.daemon.status()}")

    def trouble(self):
        kind = self.rng.choices(["cut", "refuse", "stall", "half_open", "renewal"], [16, 2, 1, 1, 1])[0]
        self.n[kind] += 1
        n_before = self.proxy.n_connections
        if kind == "renewal":
            pass  # the token's time runs out, and the daemon connects anew by itself
        elif kind == "cut":
            self.proxy.cut()
        elif kind == "half_open":
            self.proxy.half_open()
        else:
            getattr(self.proxy, kind)()
            wait_until(lambda: not self.connected(), "the daemon finds that the link is gone")
            self.proxy.restore()
        wait_until(lambda: self.proxy.n_connections > n_before, "the daemon tries again")
        self.wait_connected()

    def holds(self):
        """(kind, threads, descriptors, segments) while connected and no attempt is left behind; else None."""
        names = sorted(name for name, _ in threads(self.daemon).values())
        if not self.connected() or names.count("uplink") != 1:
            return None
        segments = sum(len(files) for _, _, files in os.walk(self.daemon.state))
        return len(names), n_fds(self.daemon), segments


def look(life):
    """What it holds once it is at rest, and RssAnon."""
    seen = wait_until(life.holds, lambda: f"one connection is left: {threads(life.daemon)}, {life.connected()}")
    return {"threads": seen[0], "fds": seen[1], "files": seen[2], "rss": life.daemon.memory_kib(), "hours": life.hours()}


def live(folder, factor, hours):
    seed = int(os.environ.get("IOTHUBD_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"# IOTHUBD_TEST_SEED={seed}")
    settings = {"uplink": {**DEFAULTS, "retry_cut_max": "1min", "token_lifetime": "10min"},
                "outbox": {"max_size": "16M", "segment_size": "512K", "keep_free": "1M"}}
    with Setup(folder, proxy=True, settings=settings, time_warp=factor, environment=WATCHDOG) as s:
        life = Life(s, factor, random.Random(seed))
        life.wait_connected()
        trickle = Trickle(s.daemon, pause_sec=0.02)
        looks, peak = [], 0
        while life.hours() < hours:
            until = life.hours() + hours / 20
            while life.hours() < until:
                life.trouble()
                peak = max(peak, s.daemon.memory_kib())
                check_books(s.daemon.status())
            looks.append(look(life))
        sent = trickle.finish()
        status = s.daemon.wait_queue_empty()
        received = [body.split()[0] for body in s.hub.events.wait_count(len(sent))]
        looks.append(look(life))

        n_connections = s.proxy.n_connections
        print(f"# {life.hours():.1f} simulated hours, {n_connections} connections to the proxy {life.n}, "
              f"{len(sent)} messages, {len(received) - len(sent)} duplicates, RssAnon at most {peak} KiB")
        for n in looks if LONG else looks[::5]:
            print(f"# {n['hours']:5.1f} h: {n['threads']} threads, {n['fds']} descriptors, {n['files']} files, "
                  f"RssAnon {n['rss']} KiB")
        result = compare([text.split()[0] for text in sent], received)
        assert (result["lost"], result["foreign"], result["in_order"]) == (0, 0, True), result
        assert result["duplicates"] <= WINDOW * n_connections, result
        assert status["accepted"] == status["confirmed"] == len(sent), status

        early = looks[len(looks) // 4 : len(looks) // 2]
        for what in ("threads", "fds"):  # a look may still meet the connection of the one before it
            most = min(n[what] for n in early)
            wait_until(lambda w=what, m=most: look(life)[w] <= m, lambda w=what, m=most: f"{m} {w}: {look(life)}", 30)
        assert looks[-1]["files"] <= max(n["files"] for n in early) + 1, looks  # a spare segment may follow
        check_memory(peak, RSS_ANON_KIB_MAX)
        check_memory(looks[-1]["rss"], max(n["rss"] for n in early) + 256)


@test
def a_life_of_reconnects_leaves_nothing_behind(folder):
    live(folder, factor=360, hours=24 if LONG else 2)


if __name__ == "__main__":
    harness.main()
