#!/usr/bin/env python3
"""Goal: iothubctl send accounts for every line, whatever daemon and connection do: P1 at the sender's end.
Method: a stand-in for the daemon that loses calls and replies, refuses, fills up and forgets on request."""
import json
import os
import signal
import socket
import subprocess

from fake_daemon import LOSE_CALL, LOSE_REPLY, FakeDaemon
from harness import DEADLINE_SEC, IOTHUBCTL, WRAPPER, Skip, main, test

EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_TEMPFAIL, EX_PROTOCOL, EX_USAGE = 65, 66, 69, 75, 76, 64


def ctl(daemon, *arguments, data=b"", verb="send"):
    """Runs to the end; (exit code, stdout, stderr)."""
    r = subprocess.run(
        [IOTHUBCTL, verb, "--socket", daemon.socket, *arguments], input=data, capture_output=True, timeout=DEADLINE_SEC
    )
    assert not daemon.complaints, daemon.complaints
    return r.returncode, r.stdout.decode(), r.stderr.decode()


def start(daemon, *arguments, **kwargs):
    return subprocess.Popen(
        [IOTHUBCTL, "send", "--socket", daemon.socket, *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **{"stdout": subprocess.PIPE, **kwargs},
    )


def lines(n):
    return b"".join(b"line %d\n" % i for i in range(n))


def expect(daemon, n):
    assert daemon.bodies() == [b"line %d" % i for i in range(n)]


@test
def every_line_is_stored_once_and_in_order(folder):
    with FakeDaemon(folder) as d:
        assert ctl(d, data=lines(20000)) == (0, "", "")
        expect(d, 20000)
        assert len(d.next) == 1, "one stream per run"


@test
def lost_calls_and_lost_replies_cost_nothing(folder):
    for what in (LOSE_CALL, LOSE_REPLY):
        for victim in range(1, 9):
            sub = os.path.join(folder, f"{what}-{victim}")
            os.mkdir(sub)
            with FakeDaemon(sub) as d:
                d.on_send = lambda number, _, v=victim, w=what: w if number == v else None
                code, _, err = ctl(d, data=lines(20000))
                assert code == 0, err
                expect(d, 20000)


@test
def a_connection_that_is_lost_again_and_again_costs_nothing(folder):
    with FakeDaemon(folder) as d:
        d.on_send = lambda number, _: (LOSE_REPLY, None, LOSE_CALL)[number % 3]
        code, _, err = ctl(d, data=lines(20000))
        assert code == 0, err
        expect(d, 20000)


@test
def a_daemon_that_is_away_is_waited_for(folder):
    with FakeDaemon(folder) as d:
        p = start(d)
        p.stdin.write(b"line 0\n")
        p.stdin.flush()
        d.wait_count(1)
        d.stop()
        p.stdin.write(b"line 1\n")
        p.stdin.flush()
        assert b"Lost the connection" in p.stderr.readline()
        d.start()
        d.wait_count(2)
        _, err = p.communicate(b"line 2\n", timeout=DEADLINE_SEC)
        assert p.returncode == 0, err
        expect(d, 3)


@test
def giving_up_on_a_daemon_tells_how_far_it_came(folder):
    with FakeDaemon(folder) as d:
        p = start(d, "--timeout", "300ms")
        p.stdin.write(b"line 0\n")
        p.stdin.flush()
        d.wait_count(1)
        d.stop()
        _, err = p.communicate(b"line 1\n", timeout=DEADLINE_SEC)
        assert p.returncode == EX_UNAVAILABLE, p.returncode
        assert b"1 accepted; line 2 is the first that was not" in err, err


@test
def a_faulty_line_is_told_and_the_rest_goes_on(folder):
    for faulty in ([0], [1], [2], [0, 1, 2], [0, 2], [7, 19999], list(range(0, 20000, 1999))):
        sub = os.path.join(folder, str(faulty)[:20])
        os.mkdir(sub)
        n = 3 if max(faulty) < 3 else 20000
        text = [b"faulty %d" % i if i in faulty else b"line %d" % i for i in range(n)]
        with FakeDaemon(sub) as d:
            code, _, err = ctl(d, data=b"\n".join(text))
            assert code == EX_DATAERR, err
            told = [line for line in err.splitlines() if "it is faulty" in line]
            assert told == [f"iothubctl: line {i + 1}: body: it is faulty" for i in faulty], err
            assert f"{len(faulty)} refused, {n - len(faulty)} accepted" in err
            assert d.bodies() == [t for t in text if not t.startswith(b"faulty")]
            assert list(d.next.values()) in ([n - len(faulty)], []), "positions have no gap"


@test
def faults_and_lost_replies_together_cost_only_the_faulty(folder):
    text = [b"faulty" if i % 500 == 3 else b"line %d" % i for i in range(5000)]
    with FakeDaemon(folder) as d:
        d.on_send = lambda number, _: LOSE_REPLY if number % 3 == 0 else None
        code, _, err = ctl(d, data=b"\n".join(text))
        assert code == EX_DATAERR, err
        assert d.bodies() == [t for t in text if t != b"faulty"]


@test
def a_full_outbox_ends_the_run_with_what_was_accepted(folder):
    with FakeDaemon(folder) as d:
        d.capacity = 7000
        code, _, err = ctl(d, data=lines(20000))
        assert code == EX_TEMPFAIL, err
        n = len(d.messages)
        assert 0 < n <= 7000
        assert f"{n} accepted; line {n + 1} is the first that was not" in err, err
        assert "full, says the test" in err
        expect(d, n)


@test
def a_full_outbox_is_waited_for_on_request(folder):
    with FakeDaemon(folder) as d:
        d.capacity = 0
        p = start(d, "--when-full=wait")
        p.stdin.write(lines(10))
        p.stdin.close()
        assert b"full, says the test" in p.stderr.readline()
        with d.lock:
            d.capacity = None
        assert p.wait(DEADLINE_SEC) == 0
        expect(d, 10)


@test
def a_full_outbox_is_told_with_its_numbers_and_once_while_it_drains(folder):
    numbers = {"usedBytes": 3 << 20, "maxBytes": 4 << 20, "freeBytes": 5 << 30, "keepFreeBytes": 1 << 30}
    full = ("OutboxFull", {"reason": "full", **numbers})
    with FakeDaemon(folder) as d:
        full_at = [0, 5000, 10000, 15000]  # messages; each time once

        def on_send(_number, _messages):
            if full_at and len(d.messages) >= full_at[0]:
                full_at.pop(0)
                return full
            return None

        d.on_send = on_send
        code, _, err = ctl(d, "--when-full=wait", data=lines(20000))
        assert code == 0 and not full_at, err
        assert err.count("waiting") == 1 and "3.0M of at most 4.0M used" in err and "5.0G free" in err, err
        expect(d, 20000)
        d.on_send = lambda number, _: full
        code, _, err = ctl(d, "x")
        assert code == EX_TEMPFAIL and "1.0G stay free; iothubctl status" in err, err


@test
def waiting_for_room_ends_with_the_timeout(folder):
    with FakeDaemon(folder) as d:
        d.capacity = 0
        code, _, err = ctl(d, "--when-full=wait", "--timeout", "200ms", data=lines(1))
        assert code == EX_TEMPFAIL and "giving up" in err, err


@test
def passing_refusals_are_tried_again(folder):
    for name in ("LimitExceeded", "ShuttingDown"):
        sub = os.path.join(folder, name)
        os.mkdir(sub)
        with FakeDaemon(sub) as d:
            d.on_send = lambda number, _, e=name: (e, {"reason": "not now"}) if number < 4 else None
            code, _, err = ctl(d, data=lines(10000))
            assert code == 0, err
            expect(d, 10000)


@test
def a_failed_disk_ends_the_run(folder):
    with FakeDaemon(folder) as d:
        d.on_send = lambda number, _: ("DiskError", {"errno": 5, "reason": "Input/output error"})
        code, _, err = ctl(d, data=lines(3))
        assert code == 74 and "Input/output error" in err and "0 accepted; line 1" in err, err


@test
def what_is_no_varlink_ends_the_run(folder):
    with FakeDaemon(folder) as d:
        d.garbage = True
        code, _, err = ctl(d, data=lines(3))
        assert code == EX_PROTOCOL, err


@test
def replies_of_another_shape_end_the_run(folder):
    end = {"sequenceNumber": 1, "position": 0, "state": "confirmed"}
    for number, (method, reply) in enumerate(
        [("Resume", r) for r in ({}, {"next": "0"}, {"next": -1}, {"next": None}, {"next": 1.5})]
        + [("Subscribe", {"missed": "x"}), ("Subscribe", {"ends": 5}), ("Subscribe", {"ends": {}})]
        + [("Subscribe", {"ends": [e]}) for e in (5, None, [], {}, {**end, "state": 5}, {**end, "position": -1})]
        + [("Subscribe", {"ends": [{**end, "position": 1 << 60}]}), ("Subscribe", {"ends": [{**end, "messageId": 5}]})]
    ):
        sub = os.path.join(folder, str(number))
        os.mkdir(sub)
        with FakeDaemon(sub) as d:
            d.replies[method] = reply
            d.on_send = lambda number, _: LOSE_REPLY if number == 1 else None
            code, _, err = ctl(d, *(["--wait"] if method == "Subscribe" else []), data=lines(2))
            assert code == EX_PROTOCOL, (method, reply, code, err)
    for error in ({"index": 2, "reason": "x"}, {"index": -1}, {"index": "0"}, {}):
        sub = os.path.join(folder, str(error)[:20])
        os.mkdir(sub)
        with FakeDaemon(sub) as d:
            d.on_send = lambda number, _, e=error: ("InvalidMessage", e)
            assert ctl(d, data=lines(2))[0] == EX_PROTOCOL, error


@test
def status_shows_what_it_understands(folder):
    with FakeDaemon(folder) as d:
        for reply in ({}, {"lanes": 5, "retry": [], "outbox": "x"}, {"accepted": "x", "hub": 5, "lanes": {"bulk": {}}}):
            d.replies["GetStatus"] = reply
            code, out, _ = ctl(d, verb="status")
            assert code == 0 and "0 accepted" in out, (reply, out)


@test
def a_forgotten_stream_is_replaced(folder):
    with FakeDaemon(folder) as d:
        p = start(d)
        p.stdin.write(b"line 0\n")
        p.stdin.flush()
        d.wait_count(1)
        with d.lock:
            d.next.clear()
        _, err = p.communicate(b"line 1\nline 2\n", timeout=DEADLINE_SEC)
        assert p.returncode == 0, err
        expect(d, 3)


@test
def an_interactive_line_goes_out_at_once(folder):
    with FakeDaemon(folder) as d:
        p = start(d)
        for i in range(5):
            p.stdin.write(b"line %d\n" % i)
            p.stdin.flush()
            d.wait_count(i + 1)
        p.communicate(timeout=DEADLINE_SEC)
        expect(d, 5)


@test
def a_signal_stops_reading_and_sees_the_rest_through(folder):
    with FakeDaemon(folder) as d:
        p = start(d)
        p.stdin.write(lines(3))
        p.stdin.flush()
        d.wait_count(3)
        p.send_signal(signal.SIGTERM)
        assert p.wait(DEADLINE_SEC) == -signal.SIGTERM
        assert b"Stopped; 3 accepted" in p.stderr.read()
        p.stdin.close()
        expect(d, 3)


@test
def arguments_are_one_message(folder):
    with FakeDaemon(folder) as d:
        assert ctl(d, "wind", "12 m/s", "--lane=urgent", "--", "-3")[0] == 0
        assert d.messages[0]["message"] == {"body": "wind 12 m/s -3", "lane": "urgent"}
        assert len(d.messages) == 1


@test
def modes_split_as_they_say(folder):
    for arguments, data, want in (
        ([], b"a\nb", [b"a", b"b"]),
        ([], b"a\n\n\nb\r\n", [b"a", b"b\r"]),
        (["-z"], b"a\nb\0c\0", [b"a\nb", b"c"]),
        (["--whole"], b"a\nb\n", [b"a\nb\n"]),
        (["--whole"], b"", []),
        ([], b"", []),
    ):
        sub = os.path.join(folder, f"{arguments}-{len(data)}")
        os.mkdir(sub)
        with FakeDaemon(sub) as d:
            assert ctl(d, *arguments, data=data)[0] == 0
            assert d.bodies() == want, (arguments, data, d.bodies())


@test
def empty_lines_are_skipped_and_counted(folder):
    with FakeDaemon(folder) as d:
        code, _, err = ctl(d, data=b"\na\n\n\nfaulty\n")
        assert code == EX_DATAERR and "3 empty lines skipped" in err and "line 5: body" in err, err


@test
def any_bytes_arrive_as_they_were(folder):
    text = [bytes([i]) + b"x" for i in range(256) if i != 10] + ["ü€😀\u2028".encode(), b'"\\\t', b"\xed\xa0\x80"]
    with FakeDaemon(folder) as d:
        assert ctl(d, data=b"\n".join(text))[0] == 0
        assert d.bodies() == text


@test
def lines_that_are_too_long_are_told_and_skipped(folder):
    longest, control = b"x" * 262144, b"\1" * 262144
    with FakeDaemon(folder) as d:
        code, _, err = ctl(d, data=b"\n".join([b"a", longest, longest + b"y", b"y" * 3000000, control, b"b"]))
        assert code == EX_DATAERR, err
        assert "line 3: longer than 262144 bytes" in err and "line 4: longer" in err, err
        assert d.bodies() == [b"a", longest, control, b"b"]


@test
def fields_and_counters_arrive(folder):
    with FakeDaemon(folder) as d:
        code, _, err = ctl(
            d,
            *("--message-id", "message_%n", "--correlation-id", "%%n-%n%", "-p", "site=roof %n", "--property=a=b=c"),
            *("--content-type", 'x/"y', "--content-encoding", "utf-8", "--lane", "bulk", "--ttl", "1min 30s"),
            data=b"a\n\nb\n",
        )
        assert code == 0, err
        for i, text in enumerate("ab", 1):
            assert d.messages[i - 1]["message"] == {
                "body": text,
                "messageId": f"message_{i}",
                "correlationId": f"%n-{i}%",
                "properties": {"site": "roof %n", "a": "b=c"},
                "contentType": 'x/"y',
                "contentEncoding": "utf-8",
                "lane": "bulk",
                "timeToLiveUSec": 90000000,
            }


@test
def mistakes_are_told_before_anything_is_sent(folder):
    with FakeDaemon(folder) as d:
        for arguments in (
            ["--message-id", "ü%n"],
            ["-p", "noequals"],
            ["-p", "$.mid=1"],
            ["-p", "a=1", "-p", "a=2"],
            ["--lane", "fast"],
            ["--ttl", "soon"],
            ["-z", "--whole"],
            ["-z", "text"],
            ["--nonsense"],
        ):
            code, _, err = ctl(d, *arguments, data=b"a\n")
            assert code == EX_USAGE and err.startswith("iothubctl: "), (arguments, code, err)
        assert d.n_sends == 0


@test
def no_socket_fails_at_once_with_the_remedy(folder):
    d = FakeDaemon(folder)
    code, _, err = ctl(d, data=b"a\n")
    assert code == EX_UNAVAILABLE and "iothubd is not running" in err, err
    r = subprocess.run([IOTHUBCTL, "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "/run/iothubd/iothubd.sock" in r.stdout


@test
def a_refused_connection_is_tried_again(folder):
    d = FakeDaemon(folder)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(d.socket)  # nobody listens
    code, _, err = ctl(d, "--timeout", "200ms", data=b"a\n")
    assert code == EX_UNAVAILABLE and "trying again" in err and "not running" in err, err

    p = start(d)
    assert b"trying again" in p.stderr.readline()
    replacement = FakeDaemon(folder)
    replacement.socket = d.socket + ".new"
    replacement.start()
    os.rename(replacement.socket, d.socket)
    replacement.socket = d.socket
    try:
        _, err = p.communicate(b"line 0\n", timeout=DEADLINE_SEC)
        assert p.returncode == 0, err
        expect(replacement, 1)
    finally:
        replacement.stop()


@test
def wait_tells_the_end_of_each(folder):
    with FakeDaemon(folder) as d:
        code, out, err = ctl(d, "--wait", "--message-id", "m%n", "-p", "site=roof", data=b"a\nfaulty\nb\n")
        assert code == EX_DATAERR, err
        rows = [line.split() for line in out.splitlines()]
        assert rows[1:] == [
            ["1", "m1", "-", "site=roof", "confirmed"],
            ["2", "m3", "-", "site=roof", "confirmed"],
            ["2", "of", "2", "confirmed"],
        ], out


@test
def wait_counts_the_numbers_of_correlation_ids_past_faulty_lines(folder):
    text = [b"faulty" if i in (2, 3, 400, 999) else b"line %d" % i for i in range(1000)]
    with FakeDaemon(folder) as d:
        code, out, _ = ctl(d, "--json", "--wait", "--message-id=m%n", "--correlation-id=c%n", data=b"\n".join(text))
        assert code == EX_DATAERR
        *ends, totals = [json.loads(line) for line in out.splitlines()]
        assert totals == {
            **{"accepted": 996, "refused": 4, "confirmed": 996},
            **{"expired": 0, "dropped": 0, "rejected": 0, "unknown": 0},
        }
        assert len(ends) == 996
        assert all(e["messageId"][1:] == e["correlationId"][1:] for e in ends)


@test
def wait_looks_up_what_ended_unheard(folder):
    with FakeDaemon(folder) as d:
        d.confirms = False
        p = start(d, "--wait", "--json")
        p.stdin.write(lines(100))
        p.stdin.close()
        d.wait_count(100)
        d.stop()
        d.settle()
        d.start()
        out = p.stdout.read()
        assert p.wait(DEADLINE_SEC) == 0, p.stderr.read()
        assert json.loads(out.splitlines()[-1])["confirmed"] == 100
        assert sorted(json.loads(line)["sequenceNumber"] for line in out.splitlines()[:-1]) == list(range(1, 101))


@test
def wait_finds_a_message_that_ended_out_of_order_unheard(folder):
    with FakeDaemon(folder) as d:
        d.confirms = False
        p = start(d, "--wait", "--json")
        p.stdin.write(lines(3))
        p.stdin.close()
        d.wait_count(3)
        d.stop()
        with d.changed:
            d._settle([1], "rejected", "set aside")
        d.start()
        d.wait(lambda: "GetMessage" in d.calls, "the look-up of the first, which is queued")
        d.settle()
        out = p.stdout.read()
        assert p.wait(DEADLINE_SEC) == EX_DATAERR, p.stderr.read()
        totals = json.loads(out.splitlines()[-1])
        assert totals["confirmed"] == 2 and totals["rejected"] == 1, out


@test
def wait_asks_by_id_where_the_reply_was_lost(folder):
    with FakeDaemon(folder) as d:
        d.confirms = False
        d.on_send = lambda number, _: LOSE_REPLY
        p = start(d, "--wait", "--json")
        p.stdin.write(lines(3))
        p.stdin.close()
        d.wait_count(3)
        d.stop()
        d.settle("expired", "too late")
        d.start()
        out = p.stdout.read()
        assert p.wait(DEADLINE_SEC) == EX_TEMPFAIL, p.stderr.read()
        assert json.loads(out.splitlines()[-1])["expired"] == 3, out


@test
def wait_goes_on_after_a_forgotten_stream(folder):
    with FakeDaemon(folder) as d:
        d.confirms = False
        p = start(d, "--wait", "--json")
        p.stdin.write(b"line 0\n")
        p.stdin.flush()
        d.wait_count(1)
        with d.lock:
            d.next.clear()
        p.stdin.write(b"line 1\n")
        p.stdin.close()
        d.wait(lambda: d.calls.count("Subscribe") == 2 and len(d.messages) == 2, "the second stream")
        d.settle()
        out = p.stdout.read()
        assert p.wait(DEADLINE_SEC) == 0, p.stderr.read()
        assert json.loads(out.splitlines()[-1])["confirmed"] == 2, out


@test
def wait_tells_what_was_not_confirmed(folder):
    for state, want in (("rejected", EX_DATAERR), ("expired", EX_TEMPFAIL)):
        sub = os.path.join(folder, state)
        os.mkdir(sub)
        with FakeDaemon(sub) as d:
            d.confirms = False
            p = start(d, "--wait")
            p.stdin.write(lines(2))
            p.stdin.close()
            d.wait_count(2)
            d.settle(state, "too wild\x1b[31m")
            out = p.stdout.read().decode()
            assert p.wait(DEADLINE_SEC) == want
            assert f"{state}: too wild?[31m" in out and f"0 of 2 confirmed, 2 {state}" in out, out


@test
def a_reader_that_goes_away_does_not_stop_the_sending(folder):
    with FakeDaemon(folder) as d:
        reader, writer = os.pipe()
        p = start(d, "--wait", stdout=writer)
        os.close(writer)
        os.close(reader)
        p.communicate(lines(5000), timeout=DEADLINE_SEC)
        assert p.returncode == 74
        expect(d, 5000)


@test
def status_shows_the_equation_and_single_messages(folder):
    with FakeDaemon(folder) as d:
        assert ctl(d, "--message-id=m%n", data=lines(3))[0] == 0
        code, out, _ = ctl(d, verb="status")
        assert code == 0
        assert "3 accepted = 3 confirmed + 0 expired + 0 dropped + 0 rejected + 0 queued" in out, out
        assert "dns: no such host" in out and "IDLE" in out and "windmill" in out, out
        code, out, _ = ctl(d, "--json", verb="status")
        assert code == 0 and json.loads(out)["accepted"] == 3
        code, out, _ = ctl(d, "2", "--message-id", "m3", verb="status")
        assert code == 0 and [line.split()[:3] for line in out.splitlines()[1:]] == [
            ["3", "m3", "confirmed"],
            ["2", "m2", "confirmed"],
        ], out
        code, _, err = ctl(d, "99", verb="status")
        assert code == EX_NOINPUT and "99" in err, err
        assert ctl(d, verb="flush")[0] == 0


@test
def simulate_is_the_device_of_the_tutorial(folder):
    with FakeDaemon(folder) as d:
        code, out, err = ctl(d, "--count", "3", "--interval", "1ms", verb="simulate")
        assert code == 0, err
        assert "3 of 3 confirmed" in out and "message_2: confirmed" in out and "IDLE" in out, out
        assert "(correlation_3, property_name=property_3, 3 confirmed so far)" in out, out
        for i, m in enumerate(d.messages, 1):
            m = m["message"]
            assert m["messageId"] == f"message_{i}" and m["correlationId"] == f"correlation_{i}"
            assert len(m["properties"]) == 1 and m["contentType"] == "application/json"
            reading = json.loads(m["body"])
            assert reading["deviceId"] == "windmill" and 8 <= reading["windSpeed"] <= 12
            assert "timeToLiveUSec" not in m
        code, out, err = ctl(d, "-n1", "--ttl=10s", "--json", verb="simulate")
        assert code == 0 and d.messages[-1]["message"]["timeToLiveUSec"] == 10000000, (out, err)
        result = [json.loads(line) for line in out.splitlines() if '"result"' in line]
        assert result == [
            {
                "event": "result",
                "messageId": "message_1",
                "state": "confirmed",
                "correlationId": "correlation_1",
                "properties": {"property_name": "property_1"},
                "totalConfirmed": 1,
            }
        ], out


@test
def a_closed_stream_never_becomes_the_connection(folder):
    if WRAPPER:
        raise Skip("valgrind itself opens the streams that are closed")
    with FakeDaemon(folder) as d:
        for closed, code in (("<&-", 74), (">&-", 74), ("2>&-", 0)):
            before = len(d.messages)
            command = f'"$1" send --socket "$2" --wait {"" if closed[0] == "<" else "hello"} {closed}'
            r = subprocess.run(
                ["sh", "-c", command, "sh", IOTHUBCTL, d.socket],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=DEADLINE_SEC,
            )
            assert r.returncode == code, (closed, r)
            assert len(d.messages) - before == (0 if closed[0] == "<" else 1), (closed, d.messages)
        assert not d.complaints, d.complaints


@test
def a_daemon_that_is_missing_is_told_once_and_nothing_else(folder):
    for arguments in (["send", "x"], ["send", "--wait", "x"], ["send", "--json", "x"], ["simulate"], ["status"], ["flush"]):
        r = subprocess.run(
            [IOTHUBCTL, "--socket", os.path.join(folder, "none"), *arguments], capture_output=True, timeout=DEADLINE_SEC
        )
        assert r.returncode == EX_UNAVAILABLE and r.stdout == b"", (arguments, r)
        assert r.stderr.count(b"iothubd is not running") == 1, (arguments, r)


@test
def what_cannot_be_meant_is_a_usage_error_before_anything_is_sent(folder):
    with FakeDaemon(folder) as d:
        for arguments in (["--ttl=0"], ["--ttl=infinity"], ["--ttl=soon"], ["--lane=fast"], ["-p", "x"], ["--socket="]):
            code, out, err = ctl(d, *arguments, "x")
            assert code == EX_USAGE and out == "" and len(err.splitlines()) == 1, (arguments, out, err)
        for arguments in (["0"], ["x"], ["--message-id="]):
            assert ctl(d, *arguments, verb="status")[0] == EX_USAGE, arguments
        assert d.bodies() == []


@test
def one_id_for_many_messages_is_warned_of_once(folder):
    with FakeDaemon(folder) as d:
        code, _, err = ctl(d, "--message-id=100%%", data=lines(5))
        assert code == 0 and err.count("same id") == 1, err
        for arguments, data in ((["--message-id=%n"], lines(5)), (["--message-id=x"], lines(1)), ([], lines(5))):
            assert ctl(d, *arguments, data=data)[2] == "", arguments


@test
def help_before_and_behind_the_verb_is_the_same(folder):
    def out(*arguments):
        r = subprocess.run([IOTHUBCTL, *arguments], capture_output=True, timeout=DEADLINE_SEC)
        assert r.returncode == 0 and not r.stderr, r
        return r.stdout

    for verb in (["send"], ["status"], ["flush"], ["simulate"], ["device", "create"], ["device", "list"]):
        assert out("help", *verb) == out(*verb, "--help") == out("--help", *verb) == out(*verb, "x", "-h"), verb
        assert ("Usage: iothubctl " + " ".join(verb)).encode() in out("help", *verb), verb
    assert out("help") == out("--help") == out("-h")


if __name__ == "__main__":
    main()
