#!/usr/bin/env python3
"""Goal: the programs of docs/examples, which iothubd-protocol(7) shows, keep what they claim. Each sends readings to a
real daemon that is killed and restarted, and to one that loses calls and replies on request; none may be lost and
none stored twice."""
import os
import subprocess
import threading

import fake_daemon
import harness
from harness import SOURCE, Setup, check_books, need, test, wait_until

EXAMPLES = os.path.join(SOURCE, "docs", "examples")
ROUNDS = 4
READINGS_PER_ROUND = 40


def shell(folder):
    need("sh", "socat", "base64", "od")
    return ["sh", os.path.join(EXAMPLES, "send-readings.sh")]


def python(folder):
    need("python3")
    return ["python3", os.path.join(EXAMPLES, "send-readings.py")]


def node(folder):
    need("node")
    return ["node", os.path.join(EXAMPLES, "send-readings.js")]


def c(folder):
    need("cc", "pkg-config")
    program = os.path.join(folder, "send-readings")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "json-c"], check=True, capture_output=True, text=True
    ).stdout.split()
    source = os.path.join(EXAMPLES, "send-readings.c")
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source, *flags], check=True)
    return [program]


class Example:
    """One run of an example; what it says goes to a log of the test's folder."""

    def __init__(self, folder, command, socket, *arguments):
        self.log_path = os.path.join(folder, "example.log")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*command, socket, *arguments], stdin=subprocess.PIPE, stdout=log, stderr=log, bufsize=0
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()

    def write(self, readings):
        self.process.stdin.write("".join(f"{r}\n" for r in readings).encode())

    def finish(self):
        """End of input; returns exit code and everything that was said."""
        self.process.stdin.close()
        code = self.process.wait(harness.DEADLINE_SEC)
        with open(self.log_path, encoding="utf-8") as f:
            return code, f.read()


def reading(number):
    """Unlike all others, with what quoting could spoil."""
    return f"""{{"n": {number}, "text": "it's 5 $HOME \\\\ \\"°C\\" %d `x` 😀"}}"""


def survives_the_daemon(folder, make_command):
    command = make_command(folder)
    readings = [reading(n) for n in range(ROUNDS * READINGS_PER_ROUND)]
    with Setup(folder) as s, Example(folder, command, s.daemon.socket) as example:
        for n in range(ROUNDS):
            before = s.daemon.status()["accepted"]
            example.write(readings[n * READINGS_PER_ROUND : (n + 1) * READINGS_PER_ROUND])
            wait_until(lambda: s.daemon.status()["accepted"] > before, "the first reading of the round")
            if n % 2:
                s.daemon.stop()
            else:
                s.daemon.kill()
            s.daemon.start()
        code, said = example.finish()
        assert code == 0, said
        assert said.endswith(f"{len(readings)} readings are safe\n"), said
        s.hub.events.wait_count(len(readings))
        status = s.daemon.wait_queue_empty()
        check_books(status)
        # What the hub saw twice under one id was sent again by the daemon; a reading under two ids was stored twice.
        assert status["accepted"] == len(readings), status
        arrived = dict.fromkeys((body, message_id) for body, message_id in s.hub.events.events)
        bodies = [body if isinstance(body, str) else body.decode() for body, _ in arrived]
        assert bodies == readings, harness.compare(readings, bodies)


def survives_lost_calls_and_replies(folder, make_command):
    command = make_command(folder)
    readings = [reading(n) for n in range(30)]
    trouble = {
        2: fake_daemon.LOSE_REPLY,
        4: fake_daemon.LOSE_CALL,
        6: ("OutboxFull", {"usedBytes": 1, "maxBytes": 1, "reason": "full, says the test"}),
        8: ("ShuttingDown", {}),
        10: ("DiskError", {"errno": 5, "reason": "the test wants it"}),
        12: fake_daemon.LOSE_REPLY,
    }
    with fake_daemon.FakeDaemon(folder) as d:
        d.on_send = lambda number, parameters: trouble.pop(number, None)
        with Example(folder, command, d.socket) as example:
            for i in range(0, len(readings), 2):
                example.write(readings[i : i + 2])
                d.wait_count(i + 2)  # so that there are as many calls as the trouble needs
            code, said = example.finish()
        assert code == 0, said
        assert not trouble, f"not met: {trouble}"
        assert [b.decode() for b in d.bodies()] == readings
        assert not d.complaints, d.complaints


def goes_on_after_it_was_killed_itself(folder, make_command):
    command = make_command(folder)
    stream = os.urandom(16).hex()
    readings = [reading(n) for n in range(60)]
    with Setup(folder) as s:
        with Example(folder, command, s.daemon.socket, stream) as example:
            example.write(readings[:30])
            wait_until(lambda: s.daemon.status()["accepted"] >= 10, "ten readings")
        with Example(folder, command, s.daemon.socket, stream) as example:
            example.write(readings)
            code, said = example.finish()
        assert code == 0, said
        assert s.daemon.wait_queue_empty()["accepted"] == len(readings)
        bodies = [body if isinstance(body, str) else body.decode() for body in s.hub.events.wait_count(len(readings))]
        assert bodies == readings, harness.compare(readings, bodies)


def says_what_is_refused(folder, make_command):
    command = make_command(folder)
    with Setup(folder) as s, Example(folder, command, s.daemon.socket) as example:
        example.write(["first"])
        wait_until(lambda: s.daemon.status()["accepted"] == 1, "the good reading")
        # More than a pipe holds, so that a thread writes it.
        writer = threading.Thread(target=example.write, args=(["x" * 300000],))
        writer.start()
        writer.join()
        code, said = example.finish()
        assert code == 65, (code, said)
        assert "MessageTooLarge" in said, said
        assert s.daemon.status()["accepted"] == 1


def register():
    for promise in (
        survives_the_daemon, survives_lost_calls_and_replies, goes_on_after_it_was_killed_itself, says_what_is_refused
    ):
        for make_command in (shell, python, node, c):

            def run(folder, promise=promise, make_command=make_command):
                promise(folder, make_command)

            run.__name__ = f"the_{make_command.__name__}_example_{promise.__name__}"
            test(run)


register()

if __name__ == "__main__":
    harness.main()
