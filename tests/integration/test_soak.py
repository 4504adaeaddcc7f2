#!/usr/bin/env python3
"""Goal: memory does not grow with the backlog and a deep queue costs no time at start (promises P3 and P5). The figures
are printed; only what is promised is asserted. A million messages with --long, fewer otherwise."""
import time

import harness
from harness import LONG, InBackground, Setup, check_books, check_memory, compare, test

N = 1000000 if LONG else 50000
RSS_ANON_KIB_MAX = 6 * 1024
UNRECORDED_MAX = 1000
WINDOW = 200


class MemoryWatch:
    """The largest RssAnon seen while something runs."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.max_kib = 0

    def look(self):
        self.max_kib = max(self.max_kib, self.daemon.memory_kib())
        return self.max_kib

    def until(self, running):
        while running.thread.is_alive():
            self.look()
            running.thread.join(0.05)
        return running.result()


def numbers():
    return [str(i) for i in range(1, N + 1)]


@test
def a_long_pipe_into_a_connected_daemon_needs_little_memory(folder):
    with Setup(folder, settings={"outbox": {"max_size": "1G"}}) as s:
        s.daemon.wait_connected()
        sent = numbers()
        watch = MemoryWatch(s.daemon)
        start = time.monotonic()
        watch.until(InBackground(s.send, sent))
        accepted_sec = time.monotonic() - start
        received = watch.until(InBackground(s.hub.events.wait_count, N))
        print(f"# {N} accepted in {accepted_sec:.1f} s, received in {time.monotonic() - start:.1f} s")
        assert received == sent, compare(sent, received)
        status = s.daemon.wait_queue_empty()
        assert status["accepted"] == status["confirmed"] == N, status
        print(f"# RssAnon at most {watch.look()} KiB")
        check_memory(watch.max_kib, RSS_ANON_KIB_MAX)


@test
def a_deep_queue_costs_no_memory_and_no_time_at_start(folder):
    with Setup(folder, start=False, settings={"outbox": {"max_size": "1G"}}) as s:
        s.hub.stop()
        s.daemon.start()
        sent = numbers()
        watch = MemoryWatch(s.daemon)
        watch.until(InBackground(s.send, sent))
        check_memory(watch.max_kib, RSS_ANON_KIB_MAX)

        s.daemon.kill()
        start = time.monotonic()
        s.daemon.start()
        print(f"# ready {time.monotonic() - start:.3f} s after a kill with {N} queued; RssAnon before {watch.max_kib} KiB")
        status = s.daemon.status()
        check_books(status)
        assert status["queued"] == N, status

        s.hub.start()
        start = time.monotonic()
        received = watch.until(InBackground(s.hub.events.wait_count, N))
        print(f"# drained in {time.monotonic() - start:.1f} s; RssAnon at most {watch.look()} KiB")
        result = compare(sent, received)
        assert result == {"lost": 0, "foreign": 0, "duplicates": 0, "in_order": True}, result
        s.daemon.wait_queue_empty()
        check_memory(watch.max_kib, RSS_ANON_KIB_MAX)


if __name__ == "__main__":
    harness.main()
