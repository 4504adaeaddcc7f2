#!/usr/bin/env python3
"""Goal: the tools that judge the others can be trusted. The sum must not call green what did not run, and the proxy must
do what its commands say."""
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time

import harness
from harness import SOURCE, ChaosProxy, TimeWarp, compare, test, wait_until


def tap_sum(folder, *tests):
    path = os.path.join(folder, "testlog.json")
    with open(path, "w", encoding="utf-8") as f:
        for i, (result, stdout) in enumerate(tests):
            f.write(json.dumps({"name": f"t{i}", "result": result, "stdout": stdout}) + "\n")
    done = subprocess.run([os.path.join(SOURCE, "scripts", "tap-sum"), path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()[-1]


@test
def the_sum_counts_every_line_of_every_program(folder):
    result = tap_sum(folder, ("OK", "1..3\nok 1 - a\nok 2 - b # SKIP no loop device\nok 3\n"), ("OK", "ok 1 - x\n1..1\n"))
    assert result == (0, "3 passed, 0 failed, 1 skipped"), result


@test
def a_failure_a_crash_and_a_missing_result_are_failures(folder):
    assert tap_sum(folder, ("FAIL", "1..2\nok 1\nnot ok 2 - b\n")) == (1, "1 passed, 1 failed, 0 skipped")
    assert tap_sum(folder, ("ERROR", "1..2\nok 1\n")) == (1, "1 passed, 1 failed, 0 skipped")
    assert tap_sum(folder, ("TIMEOUT", "")) == (1, "0 passed, 1 failed, 0 skipped")
    assert tap_sum(folder, ("OK", "1..2\nok 1\n")) == (1, "1 passed, 1 failed, 0 skipped")


@test
def a_program_without_tap_counts_by_its_exit_code(folder):
    os.makedirs(os.path.join(folder, "meson-info"))
    with open(os.path.join(folder, "meson-info", "intro-tests.json"), "w", encoding="utf-8") as f:
        json.dump([{"name": "t0", "protocol": "exitcode"}, {"name": "t1", "protocol": "tap"}], f)
    logs = os.path.join(folder, "meson-logs")
    os.mkdir(logs)
    assert tap_sum(logs, ("OK", "fine\n"), ("OK", "1..1\nok 1\n")) == (0, "2 passed, 0 failed, 0 skipped")
    assert tap_sum(logs, ("FAIL", "ok 1\n"), ("OK", "1..1\nok 1\n")) == (1, "1 passed, 1 failed, 0 skipped")
    assert tap_sum(logs, ("SKIP", ""), ("OK", "")) == (1, "0 passed, 1 failed, 1 skipped")


@test
def nothing_run_is_not_green(folder):
    assert tap_sum(folder) == (1, "0 passed, 0 failed, 0 skipped")
    assert tap_sum(folder, ("SKIP", "1..0 # SKIP nothing here\n")) == (1, "0 passed, 0 failed, 1 skipped")


@test
def the_comparison_sees_loss_duplicates_and_disorder():
    assert compare("abc", "abc") == {"lost": 0, "foreign": 0, "duplicates": 0, "in_order": True}
    assert compare("abc", "ac") == {"lost": 1, "foreign": 0, "duplicates": 0, "in_order": True}
    assert compare("abc", "ababc") == {"lost": 0, "foreign": 0, "duplicates": 2, "in_order": True}
    assert compare("abc", "acbx") == {"lost": 0, "foreign": 1, "duplicates": 0, "in_order": False}


@contextlib.contextmanager
def proxied_echo():
    """A proxy in front of a server that sends back what it gets; yields (proxy, connect)."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve(connection):
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(4096):
                    connection.sendall(data)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        stack.callback(lambda: server.shutdown(socket.SHUT_RDWR))
        proxy = stack.enter_context(ChaosProxy(server.getsockname()[1]))

        def connect():
            s = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            s.settimeout(harness.DEADLINE_SEC)
            return s

        yield proxy, connect


def echoes(s):
    s.sendall(b"x")
    return s.recv(1) == b"x"


def ends(s):
    try:
        return s.recv(1) == b""
    except ConnectionError:
        return True


def is_silent(s):
    """Nothing comes back. Absence has no event to wait for; a broken proxy answers well within this time."""
    s.sendall(b"x")
    s.settimeout(0.2)
    try:
        s.recv(1)
        return False
    except TimeoutError:
        return True
    finally:
        s.settimeout(harness.DEADLINE_SEC)


@test
def the_proxy_cuts_and_welcomes_again():
    with proxied_echo() as (proxy, connect):
        s = connect()
        assert echoes(s)
        proxy.cut()
        assert ends(s)
        s = connect()
        assert echoes(s)
        proxy.cut_after(1)
        with contextlib.suppress(OSError):
            s.sendall(b"xx")
        assert ends(s)
        assert echoes(connect())


@test
def the_proxy_refuses_and_keeps_its_port():
    with proxied_echo() as (proxy, connect):
        for _ in range(3):
            s = connect()
            assert echoes(s)
            proxy.refuse()
            assert ends(s)
            try:
                connect()
                raise AssertionError("not refused")
            except ConnectionRefusedError:
                pass
            proxy.restore()
        assert echoes(connect())


@test
def the_proxy_stalls_and_lets_go():
    with proxied_echo() as (proxy, connect):
        s = connect()
        assert echoes(s)
        proxy.stall()
        assert is_silent(s)
        proxy.restore()
        assert s.recv(1) == b"x"


@test
def the_proxy_leaves_a_connection_half_open():
    with proxied_echo() as (proxy, connect):
        s = connect()
        assert echoes(s)
        proxy.half_open()
        assert is_silent(s)
        assert echoes(connect())
        proxy.cut()
        assert ends(s)
        wait_until(lambda: not proxy.links, "no link is left")


# Evaluates a line at a time. Timers are those of timerfd_create(2), which Python does not have before 3.13.
WARPED_PROGRAM = """
import ctypes, errno, os, select, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def timer(clock, sec, flags=1):
    fd = libc.timerfd_create(clock, os.O_CLOEXEC)
    assert libc.timerfd_settime(fd, flags, struct.pack("4q", 0, 0, int(sec), int(sec % 1 * 10**9)), None) == 0
    return fd
def expired(fd, sec=0):
    return bool(select.select([fd], [], [], sec)[0])
def read(fd):
    try:
        return len(os.read(fd, 8))
    except OSError as e:
        return errno.errorcode[e.errno]
now = time.clock_gettime
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""
CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME = 0, 1, 7
CANCEL_ON_SET = 3  # with TFD_TIMER_ABSTIME


@contextlib.contextmanager
def warped_program(folder, **options):
    warp = TimeWarp(folder, "warped", **options)
    process = subprocess.Popen(
        [sys.executable, "-c", WARPED_PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **warp.environment()},
    )
    with process:

        def evaluate(line):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return eval(process.stdout.readline())

        yield warp, evaluate
        process.stdin.close()
    assert process.returncode == 0


@test
def warped_time_runs_faster(folder):
    with warped_program(folder, factor=1000) as (_, evaluate):
        for clock in (CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME):
            before = time.monotonic()
            first = evaluate(f"now({clock})")
            inner = time.monotonic()
            inner = time.monotonic() - inner
            last = evaluate(f"now({clock})")
            passed = time.monotonic() - before
            assert 1000 * inner <= last - first <= 1000 * passed, (inner, last - first, passed)
        # Ways to wait for 100 s.
        for wait in ("time.sleep(100)", "select.select([], [], [], 100)", "select.poll().poll(100000)",
                     "select.epoll().poll(100)", "expired(timer(7, now(7) + 100), 1000)", "read(timer(1, 100, 0))"):
            before = time.monotonic()
            passed = evaluate(f"(now(1), {wait}, now(1))")
            assert 100 <= passed[2] - passed[0] <= 1000 * (time.monotonic() - before), (wait, passed)


@test
def a_warped_clock_is_set_and_its_timers_follow(folder):
    with warped_program(folder) as (warp, evaluate):
        names = {"day": (CLOCK_REALTIME, 1), "set": (CLOCK_REALTIME, CANCEL_ON_SET), "boot": (CLOCK_BOOTTIME, 1),
                 "awake": (CLOCK_MONOTONIC, 1)}
        for name, (clock, flags) in names.items():
            evaluate(f"globals().update({name}=timer({clock}, now({clock}) + 3600, {flags}))")

        def expired():
            return [name for name in names if evaluate(f"expired({name})")]

        assert expired() == []
        before = [evaluate(f"now({clock})") for clock in (0, 1, 7)]
        warp.command("step", -10 * 365 * 86400)
        after = [evaluate(f"now({clock})") for clock in (0, 1, 7)]
        assert before[0] - after[0] > 9 * 365 * 86400 and before[1:] < after[1:], (before, after)
        assert expired() == ["set"]
        assert evaluate("read(set)") == "ECANCELED"
        assert expired() == []
        warp.command("step", 10 * 365 * 86400)
        assert expired() == ["set"]
        warp.command("suspend", 3600)
        assert expired() == ["day", "set", "boot"]
        assert evaluate("read(boot)") == 8


@test
def a_warped_clock_is_off_from_the_start(folder):
    with warped_program(folder, clock_offset_sec=-86400) as (_, evaluate):
        before = time.time()
        assert before - 86400 <= evaluate("time.time()") <= time.time() - 86400


if __name__ == "__main__":
    harness.main()
