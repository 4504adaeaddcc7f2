#!/usr/bin/env python3
"""Goal: whoever speaks Varlink gets exactly what lib/iothubd.varlink says, in order, and nobody who speaks it badly or
not at all keeps another from being served (promises P1, P5).
Method: the running daemon without a hub, raw sockets, hostile clients held open beside a good one."""
import base64
import contextlib
import grp
import os
import re
import signal
import socket
import stat
import subprocess
import threading

import harness
from harness import INSTRUMENTED, IOTHUBD, Daemon, Setup, Skip, Varlink, VarlinkError, test, wait_until

SEND = "io.iothubd.Send"
NOBODY = 65534
STREAM = "00112233445566778899aabbccddeeff"
FRAME_MAX = 1 << 20


def daemon(folder, **settings):
    return Daemon(folder, settings=settings)


def expect_error(connection, call, parameters, error, **fields):
    try:
        reply = connection.call(call, parameters)
    except VarlinkError as e:
        assert e.error == error, f"{call} {parameters}: {e.error}, not {error}"
        for name, value in fields.items():
            assert e.parameters.get(name) == value, f"{call} {parameters}: {name} of {e}, not {value}"
        return e.parameters
    raise AssertionError(f"{call} {parameters} is taken: {reply}")


def message(i):
    return {"body": f"reading {i}", "messageId": f"m-{i}"}


# ---- the interface ----


@test
def the_service_describes_itself(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        info = v.call("org.varlink.service.GetInfo")
        assert info["interfaces"] == ["org.varlink.service", "io.iothubd"], info
        for interface in info["interfaces"]:
            text = v.call("org.varlink.service.GetInterfaceDescription", {"interface": interface})["description"]
            methods = re.findall(r"^method (\w+)", text, re.M)
            assert methods, text
            for method in methods:
                v.send(f"{interface}.{method}", {"unknownParameter": 1})
                reply = v.receive_raw()
                assert reply["error"] == "org.varlink.service.InvalidParameter", (method, reply)
                assert reply["parameters"] == {"parameter": "unknownParameter"}, (method, reply)
        with open(os.path.join(harness.SOURCE, "lib", "iothubd.varlink"), encoding="utf-8") as f:
            assert text == f.read()


@test
def status_has_every_field_of_the_interface_text(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        text = v.call("org.varlink.service.GetInterfaceDescription", {"interface": "io.iothubd"})["description"]
        fields = re.search(r"^method GetStatus\(\) -> \((.*?)^\)", text, re.M | re.S)[1]
        fields = re.findall(r"^  (\w+): (\??)", fields, re.M)
        status = v.call("io.iothubd.GetStatus")
        for name, optional in fields:
            assert optional or name in status, f"no {name} in {status}"
        unknown = set(status) - {name for name, _ in fields}
        assert not unknown, unknown
        assert status["connectionState"] == "holding" and "connection_string_file" in status["hold"], status


@test
def errors_name_what_is_wrong(folder):
    invalid, message_error = "org.varlink.service.InvalidParameter", "io.iothubd.InvalidMessage"
    with daemon(folder) as d, Varlink(d.socket) as v:
        expect_error(v, "io.iothubd.Nope", {}, "org.varlink.service.MethodNotFound", method="io.iothubd.Nope")
        expect_error(v, "com.example.Nope", {}, "org.varlink.service.InterfaceNotFound", interface="com.example")
        expect_error(v, "org.varlink.service.GetInterfaceDescription", {"interface": "com.example"},
                     "org.varlink.service.InterfaceNotFound", interface="com.example")
        for parameters, name in [
            ({}, "messages"), ({"messages": {}}, "messages"), ({"messages": None}, "messages"),
            ({"messages": [], "mesages": 1}, "mesages"), ({"messages": [{}], "stream": "x", "position": 0}, "stream"),
            ({"messages": [{}], "stream": STREAM}, "position"), ({"messages": [{}], "position": 0}, "position"),
            ({"messages": [{}], "stream": STREAM, "position": -1}, "position"),
        ]:
            expect_error(v, SEND, parameters, invalid, parameter=name)
        for wrong, field in [
            (1, ""), ({"bdy": "x"}, "bdy"), ({"body": 1}, "body"), ({"body": "x", "bodyBase64": "eA=="}, "bodyBase64"),
            ({"bodyBase64": "eA="}, "bodyBase64"), ({"messageId": "a b"}, "messageId"), ({"messageId": ""}, "messageId"),
            ({"messageId": "m" * 129}, "messageId"), ({"messageId": "a\0b"}, "messageId"), ({"lane": "fast"}, "lane"),
            ({"timeToLiveUSec": 0}, "timeToLiveUSec"), ({"timeToLiveUSec": "1"}, "timeToLiveUSec"),
            ({"creationTimeUSec": -1}, "creationTimeUSec"), ({"creationTimeUSec": 253402300800000000}, "creationTimeUSec"),
            ({"properties": []}, "properties"),
            ({"properties": {"site": 1}}, "properties.site"), ({"properties": {"site": None}}, "properties.site"),
            ({"properties": {"iothub-x": ""}}, "properties.iothub-x"), ({"contentType": "a\nb"}, "contentType"),
        ]:
            e = expect_error(v, SEND, {"messages": [message(0), wrong]}, message_error, index=1, field=field)
            assert e["reason"], (wrong, e)
        expect_error(v, SEND, {"messages": [{"body": "x"}, {"body": "x", "lane": "bulk"}], "stream": STREAM,
                               "position": 0}, message_error, index=1, field="lane")
        expect_error(v, SEND, {"messages": [{"body": "x" * (256 << 10), "messageId": "m"}]},
                     "io.iothubd.MessageTooLarge", index=0, field="body")
        for parameters, name in [({}, "messageId"), ({"sequenceNumber": 1, "messageId": "x"}, "messageId"),
                                 ({"sequenceNumber": 0}, "sequenceNumber"), ({"sequenceNumber": "1"}, "sequenceNumber")]:
            expect_error(v, "io.iothubd.GetMessage", parameters, invalid, parameter=name)
        expect_error(v, "io.iothubd.GetMessage", {"sequenceNumber": 12345}, "io.iothubd.NoSuchMessage")
        expect_error(v, "io.iothubd.Resume", {}, invalid, parameter="stream")
        expect_error(v, "io.iothubd.Subscribe", {}, "org.varlink.service.ExpectedMore")
        assert v.call("io.iothubd.GetStatus")["accepted"] == 0, "a refused call stored something"


@test
def text_that_is_no_call_is_refused_and_the_next_call_served(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        for text in [b"", b"x", b"[]", b"{}", b'{"method":1}', b'{"method":"a.b","parameters":[]}',
                     b'{"method":"io.iothubd.GetStatus","method":"io.iothubd.GetStatus"}',
                     b'{"method":"io.iothubd.Subscribe","more":true,"oneway":true}',
                     b'{"method":"io.iothubd.Send","parameters":{"messages":[{"body":"\xff"}]}}',
                     b'{"method":"io.iothubd.Send","parameters":{"messages":[{"body":"\\ud800"}]}}']:
            v.socket.sendall(text + b"\0")
            reply = v.receive_raw()
            assert reply["error"] == "io.iothubd.InvalidCall" and reply["parameters"]["reason"], (text, reply)
        v.socket.sendall(b'{"method":"io.iothubd.Send","parameters":{"messages":[' + b"0," * 70000 + b"0]}}\0")
        assert v.receive_raw()["error"] == "io.iothubd.LimitExceeded"
        v.socket.sendall(b'{"method":"io.iothubd.GetStatus","x":"' + b"x" * 100000 + b'"}\0')
        assert v.receive_raw()["error"] == "io.iothubd.LimitExceeded"
        assert v.call("io.iothubd.GetStatus")["accepted"] == 0


@test
def a_frame_of_the_limit_is_taken_and_one_byte_more_ends_the_connection(folder):
    head, tail = b'{"method":"io.iothubd.Send","parameters":{"messages":[{"body":"x"}]},"padding":"', b'"}\0'
    with daemon(folder) as d, Varlink(d.socket) as v:
        v.socket.sendall(head + b"x" * (FRAME_MAX - len(head) - len(tail)) + tail)
        assert v.receive()[0]["first"] == 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            v.socket.sendall(head + b"x" * (FRAME_MAX + 1 - len(head) - len(tail)) + tail)
        reply = v.receive_raw()
        assert reply["error"] == "io.iothubd.LimitExceeded", reply
        try:
            v.receive_raw()
        except (EOFError, ConnectionResetError):
            return
        raise AssertionError("the connection goes on")


# ---- order ----


@test
def pipelined_replies_come_in_the_order_of_the_calls(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        want = []
        seq = 0
        for i in range(600):
            kind = i % 6
            if kind == 3:
                v.send("io.iothubd.GetStatus")
                want.append(("status", seq))
            elif kind == 4:
                v.send(SEND, {"messages": [{"lane": f"x{i}"}]})
                want.append(("error", i))
            elif kind == 5:
                v.send(SEND, {"messages": [message(i)]}, oneway=True)
                seq += 1
            else:
                n = 1 + i % 7
                v.send(SEND, {"messages": [message(i)] * n})
                want.append(("send", (seq + 1, seq + n)))
                seq += n
        for kind, value in want:
            reply = v.receive_raw()
            if kind == "send":
                assert (reply["parameters"]["first"], reply["parameters"]["last"]) == value, (reply, value)
            elif kind == "status":
                assert reply["parameters"]["accepted"] == value, (reply["parameters"], value)
            else:
                assert reply["error"] == "io.iothubd.InvalidMessage", reply


@test
def a_client_that_closes_its_sending_side_gets_all_replies(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        for i in range(100):
            v.send(SEND, {"messages": [message(i)]})
        v.send("io.iothubd.GetStatus")
        v.socket.shutdown(socket.SHUT_WR)
        for i in range(100):
            assert v.receive()[0]["first"] == i + 1
        assert v.receive()[0]["accepted"] == 100
        try:
            v.receive_raw()
        except EOFError:
            return
        raise AssertionError("the connection stays open")


@test
def what_was_sent_before_the_client_died_is_stored(folder):
    with daemon(folder) as d:
        with Varlink(d.socket) as v:
            for i in range(50):
                v.send(SEND, {"messages": [message(i)]}, oneway=True)
        wait_until(lambda: d.status()["accepted"] == 50, "all 50 are accepted")


@test
def bodies_come_as_text_or_base64(folder):
    with daemon(folder) as d, Varlink(d.socket) as v:
        reply = v.call(SEND, {"messages": [
            {"body": "text ä\0\U0001f600"}, {"bodyBase64": base64.b64encode(bytes(range(256))).decode()}, {},
            {"bodyBase64": ""}, {"body": "", "bodyBase64": None},
            {"body": "x", "properties": {"ä": "ö", "leer": ""}, "lane": "urgent", "timeToLiveUSec": 3600000000,
             "contentType": "text/plain", "contentEncoding": "utf-8", "correlationId": "c", "messageId": "m",
             "creationTimeUSec": 1700000000000000},
        ]})
        assert reply == {"first": 1, "last": 6, "duplicates": 0}, reply
        assert v.call(SEND, {"messages": []}) == {"duplicates": 0}
        found = v.call("io.iothubd.GetMessage", {"sequenceNumber": 6})["message"]
        assert found["messageId"] == "m" and found["state"] == "queued", found
        assert v.call("io.iothubd.GetMessage", {"messageId": "m"})["message"]["sequenceNumber"] == 6


# ---- streams ----


@test
def a_long_call_is_taken_like_many_short_ones(folder):
    """Some thousand messages in one call, with all kinds of fields; a faulty one is named by its place."""
    def make(i):
        body = {"bodyBase64": base64.b64encode(b"\xff%d" % i).decode()} if i % 3 == 0 else {"body": f"{i} ],{{"} if i % 7 else {}
        more = {"messageId": f"id-{i}"} if i % 2 else {}
        return {**body, **more, "properties": {"n": str(i)}, "lane": ("normal", "urgent")[i % 5 == 0]}

    with Setup(folder) as s, Varlink(s.daemon.socket) as v:
        s.hub.events.keep = []
        messages = [make(i) for i in range(1500)]
        for place in (0, 1, 73, 74, 800, 1499):
            faulty = [*messages[:place], {"body": 1}, *messages[place + 1:]]
            expect_error(v, SEND, {"messages": faulty}, "io.iothubd.InvalidMessage", index=place, field="body")
        faulty = [*messages[:1100], {"noField": "x"}]
        expect_error(v, SEND, {"messages": faulty}, "io.iothubd.InvalidMessage", index=1100, field="noField")
        stream = {"stream": STREAM, "position": 0}
        expect_error(v, SEND, {"messages": messages, **stream}, "io.iothubd.InvalidMessage", index=1, field="lane")

        reply = v.call(SEND, {"messages": messages})
        assert reply == {"first": 1, "last": 1500, "duplicates": 0}, reply
        of_stream = [m for m in messages if m["lane"] == "normal"]
        reply = v.call(SEND, {"messages": of_stream, **stream})
        assert reply["last"] - reply["first"] + 1 == len(of_stream) == 1200, reply
        reply = v.call(SEND, {"messages": of_stream, **stream})
        assert reply == {"duplicates": 1200}, reply

        s.daemon.wait_queue_empty()
        s.hub.events.wait_count(1500 + 600)  # an id that was given is one message to it
        arrived = {}
        for event in s.hub.events.keep:
            body = event["body"].encode() if "body" in event else base64.b64decode(event["bodyBase64"])
            arrived.setdefault(event["properties"]["n"], set()).add((body, event["systemProperties"]["messageId"]))
        for i in range(1500):
            want = b"\xff%d" % i if i % 3 == 0 else b"%d ],{" % i if i % 7 else b""
            assert {body for body, _ in arrived[str(i)]} == {want}, (i, arrived[str(i)])
            assert i % 2 == 0 or {mid for _, mid in arrived[str(i)]} == {f"id-{i}"}, (i, arrived[str(i)])


@test
def a_stream_goes_on_after_kill_9_without_loss_or_repeat(folder):
    d = daemon(folder)
    with d:
        with Varlink(d.socket) as v:
            assert v.call("io.iothubd.Resume", {"stream": STREAM}) == {"next": 0}
            for position in range(0, 100, 10):
                v.send(SEND, {"messages": [message(position + i) for i in range(10)], "stream": STREAM,
                              "position": position})
            for _ in range(10):
                v.receive()
            reply = v.call(SEND, {"messages": [message(95 + i) for i in range(10)], "stream": STREAM, "position": 95})
            assert reply["duplicates"] == 5 and (reply["first"], reply["last"]) == (101, 105), reply
            expect_error(v, SEND, {"messages": [message(0)], "stream": STREAM, "position": 200},
                         "io.iothubd.StreamGap", next=105)
            expect_error(v, SEND, {"messages": [{"body": "x", "lane": "bulk"}], "stream": STREAM, "position": 105},
                         "io.iothubd.StreamMismatch")
        d.kill()
        d.start()
        with Varlink(d.socket) as v:
            assert v.call("io.iothubd.Resume", {"stream": STREAM}) == {"next": 105}
            reply = v.call(SEND, {"messages": [message(i) for i in range(105)], "stream": STREAM, "position": 0})
            assert reply == {"duplicates": 105}, reply
            assert v.call("io.iothubd.GetStatus")["queued"] == 105


@test
def a_subscription_starts_with_a_reply_and_status_changes_follow(folder):
    with daemon(folder) as d, Varlink(d.socket) as v, Varlink(d.socket) as w, Varlink(d.socket) as x:
        v.send("io.iothubd.Subscribe", more=True)
        assert v.receive() == ({"connected": False, "sendStatus": "IDLE"}, True)
        w.send("io.iothubd.Subscribe", {"stream": STREAM}, more=True)
        assert w.receive() == ({}, True)
        x.call(SEND, {"messages": [message(0)]})
        assert v.receive() == ({"connected": False, "sendStatus": "BUSY"}, True)


@test
def ends_reach_those_who_wait(folder):
    """A time-to-live is the one end that needs no hub."""
    with daemon(folder) as d, Varlink(d.socket) as v, Varlink(d.socket) as w, Varlink(d.socket) as x:
        w.send("io.iothubd.Subscribe", {"stream": STREAM}, more=True)
        w.receive()
        v.send(SEND, {"messages": [{"body": "x", "timeToLiveUSec": 1000 * (i + 1)} for i in range(3)],
                      "stream": STREAM, "position": 0}, more=True)
        assert v.receive() == ({"first": 1, "last": 3, "duplicates": 0}, True)
        x.send("io.iothubd.Flush")
        seen = []
        for i in range(3):
            reply, continues = v.receive()
            assert continues == (i < 2) and reply["end"]["state"] == "expired", (reply, continues)
            seen.append((reply["end"]["sequenceNumber"], reply["end"]["position"]))
        assert sorted(seen) == [(1, 0), (2, 1), (3, 2)], seen
        ends = []
        while len(ends) < 3:
            reply, continues = w.receive()
            assert continues and reply["missed"] == 0, reply
            ends += reply["ends"]
        assert sorted(e["position"] for e in ends) == [0, 1, 2], ends
        assert x.receive() == ({}, False)


# ---- hostile clients ----


def raw(d):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(d.socket)
    s.setblocking(False)
    return s


def push(s, data):
    """Sends until all is gone or the daemon takes no more; returns how much it took."""
    taken = 0
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while taken < len(data):
            taken += s.send(data[taken:taken + 65536])
    return taken


def hold_hostile_clients(d, stack):
    """Each kind, held open until the stack unwinds."""
    def opened():
        return stack.enter_context(contextlib.closing(raw(d)))

    half = b'{"method":"io.iothubd.Send","parameters":{"messages":[{"body":"' + b"x" * 1000000
    call = b'{"method":"io.iothubd.GetStatus"}\0'
    one = b'{"method":"io.iothubd.Send","parameters":{"messages":[{"body":"x"}]}}\0'
    for _ in range(20):
        push(opened(), half)
    for _ in range(5):
        push(opened(), os.urandom(300000))
    for _ in range(5):
        push(opened(), b"x" * (12 << 20))
    for _ in range(10):
        never_reads = opened()
        for _ in range(50):
            if push(never_reads, call * 1000) < len(call) * 1000:
                break
        else:
            raise AssertionError("a client that never reads its replies is still read")
        push(opened(), one * 1000)
    for _ in range(300):
        opened()
    push(opened(), b'{"method":"io.iothubd.Send","parameters":{"messages":[' + b"{}," * 300000)
    push(opened(), b"\0" * 1000000)
    push(opened(), b'{"a":' * 200000)


def good_client(path):
    """Sends, resumes, looks: every call must work at the first try, on one connection and on fresh ones."""
    stream = os.urandom(16).hex()
    with Varlink(path) as v:
        for i in range(200):
            reply = v.call(SEND, {"messages": [message(i)], "stream": stream, "position": i})
            assert reply["duplicates"] == 0, reply
        big = [{"body": "y" * 1000} for _ in range(900)]
        assert v.call(SEND, {"messages": big, "stream": stream, "position": 200})["duplicates"] == 0
        assert v.call("io.iothubd.Resume", {"stream": stream}) == {"next": 1100}
    for _ in range(20):
        with Varlink(path) as v:
            v.call("io.iothubd.GetStatus")


@test
def hostile_clients_do_not_stop_a_good_one_of_the_same_user(folder):
    with daemon(folder) as d, contextlib.ExitStack() as stack:
        hold_hostile_clients(d, stack)
        good_client(d.socket)
        stack.close()
        assert d.process.poll() is None


@test
def hostile_clients_do_not_stop_a_good_one_of_another_user(folder):
    if os.geteuid() != 0:
        raise Skip("needs root to become another user")
    os.chmod(folder, 0o711)
    with daemon(folder, socket_mode="0666") as d, contextlib.ExitStack() as stack:
        hold_hostile_clients(d, stack)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                good_client(d.socket)
                code = 0
            except BaseException as e:
                print(f"# {type(e).__name__}: {e}", flush=True)
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the good client failed, see above"


@test
def another_users_stream_is_out_of_reach(folder):
    if os.geteuid() != 0:
        raise Skip("needs root to become another user")
    os.chmod(folder, 0o711)
    with daemon(folder, socket_mode="0666") as d:
        with Varlink(d.socket) as v:
            v.call(SEND, {"messages": [message(0)], "stream": STREAM, "position": 0})
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setuid(NOBODY)
                with Varlink(d.socket) as v:
                    mismatch = "io.iothubd.StreamMismatch"
                    expect_error(v, SEND, {"messages": [message(1)], "stream": STREAM, "position": 1}, mismatch)
                    expect_error(v, "io.iothubd.Resume", {"stream": STREAM}, mismatch)
                    v.send("io.iothubd.Subscribe", {"stream": STREAM}, more=True)
                    assert v.receive_raw()["error"] == mismatch
                code = 0
            except BaseException as e:
                print(f"# {type(e).__name__}: {e}", flush=True)
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "see above"


@test
def memory_comes_back_after_big_and_hostile_calls(folder):
    """The limit is that of the whole daemon (RssAnon below 6 MB)."""
    with open(IOTHUBD, "rb") as f:
        if re.search(rb"__[at]san_init", f.read()):
            raise Skip("a sanitizer's memory is not the daemon's")
    with daemon(folder) as d:
        with contextlib.ExitStack() as stack:
            hold_hostile_clients(d, stack)
            with Varlink(d.socket) as v:
                for _ in range(5):
                    v.socket.sendall(b'{"method":"io.iothubd.Send","parameters":{"messages":['
                                     + b"{}," * 5000 + b"0]}}\0")
                    assert v.receive_raw()["error"] == "io.iothubd.InvalidMessage"
        wait_until(lambda: INSTRUMENTED or d.memory_kib() < 6 << 10, lambda: f"less than 6 MiB, {d.memory_kib()} KiB are in use", 30)


@test
def a_call_of_many_small_messages_takes_little_memory(folder):
    """At no moment: what the JSON library makes of such a text is forty times as long."""
    with daemon(folder) as d, Varlink(d.socket) as v:
        peak_kib, done = d.memory_kib(), threading.Event()

        def watch():
            nonlocal peak_kib
            while not done.is_set():
                peak_kib = max(peak_kib, d.memory_kib())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        for _ in range(10):
            v.call(SEND, {"messages": [{"body": "x"}] * 5000})
        done.set()
        thread.join()
        print(f"# RssAnon at most {peak_kib} KiB")
        harness.check_memory(peak_kib, 4 << 10)


@test
def a_user_at_its_limit_loses_its_idle_connections_first(folder):
    with daemon(folder, ipc={"connections_per_user_max": 8}) as d, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(Varlink(d.socket)) for _ in range(8)]
        idle[0].call("io.iothubd.GetStatus")
        new = stack.enter_context(Varlink(d.socket))
        new.call("io.iothubd.GetStatus")
        idle[0].call("io.iothubd.GetStatus")  # it made a call, so it is not the one that had to go
        try:
            idle[1].receive_raw()
        except (EOFError, ConnectionResetError):
            return
        raise AssertionError("the oldest connection that never made a call was not closed")


@test
def a_user_whose_connections_are_all_busy_is_told_so(folder):
    with daemon(folder, ipc={"connections_per_user_max": 4}) as d, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Varlink(d.socket)) for _ in range(4)]
        for v in busy:
            v.send("io.iothubd.Subscribe", more=True)
            v.receive()
        with Varlink(d.socket) as v:
            reply = v.receive_raw()
            assert reply["error"] == "io.iothubd.LimitExceeded", reply
            assert reply["parameters"]["limit"] == "ipc.connections_per_user_max", reply
        busy.pop().close()

        def accepted():
            with Varlink(d.socket) as v, contextlib.suppress(VarlinkError, BrokenPipeError, ConnectionResetError):
                return v.call("io.iothubd.GetStatus")
            return None

        wait_until(accepted, "a connection is accepted again")


# ---- start, stop and the socket ----


@test
def the_socket_has_the_mode_and_group_of_the_settings(folder):
    settings = {"socket_mode": "0620"}
    other = None
    if os.geteuid() == 0:
        other = next(g for g in grp.getgrall() if g.gr_gid not in (0, os.getegid()))
        settings["socket_group"] = other.gr_name
    with daemon(folder, **settings) as d:
        st = os.stat(d.socket)
        assert stat.S_ISSOCK(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o620, oct(st.st_mode)
        assert other is None or st.st_gid == other.gr_gid
        assert [name for name in os.listdir(folder) if name.startswith("iothubd.sock.")] == []
    assert not os.path.exists(d.socket), "the socket stays behind"


@test
def a_socket_handed_over_is_served_and_kept(folder):
    d = daemon(folder)
    path = os.path.join(folder, "activated.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.bind(path)
        s.listen()

        def run():
            # As the service manager does: the socket is descriptor 3, and the variables name the process itself.
            return subprocess.Popen(
                ["/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -c "$1" 3<&' + str(s.fileno()), IOTHUBD,
                 d.config_path],
                pass_fds=[s.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        for _ in range(2):
            process = run()
            with Varlink(path) as v:
                v.call("io.iothubd.GetStatus")
            assert harness.stop_process(process) == 0
            assert os.path.exists(path) and not os.path.exists(d.socket)


@test
def a_wrong_socket_handed_over_is_a_wrong_configuration(folder):
    d = daemon(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(os.path.join(folder, "datagrams"))
        result = subprocess.run(
            ["/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -c "$1" 3<&' + str(s.fileno()), IOTHUBD,
             d.config_path],
            pass_fds=[s.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert result.returncode == 78 and "handed over" in result.stderr, result


@test
def a_second_daemon_does_not_start_on_the_same_state_or_socket(folder):
    with daemon(folder) as d:
        same_state = Daemon(folder, name="second", settings={"state_directory": d.state})
        same_socket = Daemon(folder, name="third", settings={"socket": d.socket})
        for other in (same_state, same_socket):
            result = subprocess.run([IOTHUBD, "-c", other.config_path], capture_output=True, text=True, timeout=60)
            assert result.returncode == 75, (result.returncode, result.stderr)
        d.status()
        d.kill()
        d.start()  # the socket file of a killed daemon is in nobody's way
        d.status()


@test
def options_end_with_the_right_exit_code(folder):
    def run(*arguments):
        return subprocess.run([IOTHUBD, *arguments], capture_output=True, text=True, timeout=60)

    def config(text):
        path = os.path.join(folder, "some.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    assert re.fullmatch(r"iothubd \d+\.\d+\.\d+\n", run("--version").stdout)
    assert "--check" in run("--help").stdout
    assert run("--nonsense").returncode == 64
    assert run("argument").returncode == 64
    assert run("-c", os.path.join(folder, "missing.conf")).returncode == 78
    assert run("--check", "-c", config("mqtt_port = 8883;\n")).returncode == 0
    for text in ("mqtt_port = 0;\n", "mqtt_port = ;\n", 'outbox = { full = "never"; };\n'):
        result = run("--check", "-c", config(text))
        assert result.returncode == 78 and "some.conf" in result.stderr, (text, result)
    assert run("-c", config("mqtt_port = 0;\n")).returncode == 78


@test
def the_daemon_dumps_no_core_and_says_when_it_stops(folder):
    with daemon(folder) as d:
        with open(f"/proc/{d.process.pid}/limits", encoding="utf-8") as f:
            assert re.search(r"Max core file size\s+0\s+0", f.read())
        assert any(line.startswith("STATUS=") for line in d.notify.read())
        d.process.terminate()
        assert d.process.wait(60) == 0
        assert "STOPPING=1" in d.notify.read()
        extend = [line for line in d.notify.messages if line.startswith("EXTEND_TIMEOUT_USEC=")]
        assert extend and int(extend[0].split("=")[1]) > 10000000, "the manager may end it before stop_timeout has passed"


@test
def the_watchdog_is_fed_where_one_is_asked_for(folder):
    os.environ["WATCHDOG_USEC"] = "200000"
    try:
        d = daemon(folder)
        d.start()
    finally:
        del os.environ["WATCHDOG_USEC"]
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(d.stop)
        wait_until(lambda: d.notify.read().count("WATCHDOG=1") >= 3, "the watchdog is fed three times")


@test
def a_service_manager_that_does_not_listen_stops_nothing(folder):
    with harness.Hub(folder) as hub, harness.ChaosProxy(hub.mqtt_port) as proxy:
        path = os.path.join(folder, "deaf")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
            deaf.bind(path)
            d = Daemon(folder, hub, hub.create_device(), proxy.port)
            log = open(d.log_path, "ab")
            process = subprocess.Popen([IOTHUBD, "-c", d.config_path], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       env={**os.environ, "NOTIFY_SOCKET": path})
            log.close()
            try:
                wait_until(lambda: os.path.exists(d.socket), "the socket is there")
                with Varlink(d.socket) as v:
                    v.send("io.iothubd.Subscribe", more=True)
                    for _ in range(20):  # more changes of state than a queue of datagrams holds
                        while not v.receive()[0]["connected"]:
                            pass
                        proxy.cut()
                        while v.receive()[0]["connected"]:
                            pass
            finally:
                assert harness.stop_process(process) == 0


@test
def a_reload_takes_new_credentials(folder):
    path = os.path.join(folder, "connection-string")
    key = base64.b64encode(b"k" * 32).decode()
    with Daemon(folder, connection_string_file=path, settings={"mqtt_port": harness.free_port()}) as d:
        assert d.status()["connectionState"] == "holding"
        harness.write_private(path, f"HostName=localhost;DeviceId=windmill;SharedAccessKey={key}")
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.status().get("device") == "windmill", "the device is known")
        status = d.status()
        assert status["connectionState"] != "holding" and "hold" not in status, status
        assert key not in d.log() + str(status), "a key is shown"


@test
def messages_that_expire_all_the_time_do_not_fill_the_log(folder):
    d = daemon(folder)
    with d, Varlink(d.socket) as v:
        for i in range(30):
            v.call(SEND, {"messages": [{"body": "x", "timeToLiveUSec": 1}]})
            wait_until(lambda: d.status()["expired"] == i + 1, "it expires")
    lines = [line for line in d.log().splitlines() if "expired" in line]
    assert 5 <= len(lines) <= 6, lines
    assert "last of 25 such lines" in lines[-1], lines


@test
def a_reload_is_told_and_cuts_a_wait_short(folder):
    path = os.path.join(folder, "connection-string")
    key = base64.b64encode(b"k" * 32).decode()
    harness.write_private(path, f"HostName=localhost;DeviceId=windmill;SharedAccessKey={key}")
    settings = {"mqtt_port": harness.free_port(), "uplink": {"retry_min": "30min", "retry_max": "1h"}}
    with Daemon(folder, connection_string_file=path, settings=settings) as d:
        wait_until(lambda: d.status()["connectionState"] == "backoff", "the port is closed")
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.status()["retry"]["attempt"] == 2, "a second try")
        wait_until(lambda: d.notify.read().count("READY=1") == 2, "the end of the reload")
        lines = d.notify.messages
        assert lines.index("RELOADING=1") > lines.index("READY=1"), lines
        assert any(line.startswith("MONOTONIC_USEC=") for line in lines), lines


if __name__ == "__main__":
    harness.main()
