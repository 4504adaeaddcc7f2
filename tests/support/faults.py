"""faults.py: what the tests of faults share: what is seen of one, who sends meanwhile, and a name service that fails."""
import contextlib
import os
import threading
import time

import harness
from harness import InBackground, Varlink, assert_delivered, check_books, wait_until


class NameService:
    """Names under .test for programs with environment(): all are at one address, as long as nothing is wrong."""

    LIBRARY = os.path.join(harness.BUILD, "tests", "libname-fault.so")

    def __init__(self, folder, address="127.0.0.1"):
        self.path = os.path.join(folder, "name-service")
        self.address = address
        self.restore()

    def set(self, fault):
        """"fail" (at once), "hang", or an address. Replaced as a whole: whoever reads it sees one of the two."""
        with open(self.path + ".new", "w", encoding="utf-8") as f:
            f.write(fault)
        os.replace(self.path + ".new", self.path)

    def restore(self):
        self.set(self.address)

    def environment(self, program):
        preload = harness.sanitizer_runtimes(program) + [self.LIBRARY]
        return {"LD_PRELOAD": ":".join(preload), "IOTHUBD_NAME_FAULT": self.path}


class Story:
    """What status, STATUS= and journal say at a fault. Appended to the file that $IOTHUBD_TEST_STORY names, if any."""

    def __init__(self, title, daemon):
        self.daemon = daemon
        self.seen_log = len(daemon.log())
        self.seen_notify = len(daemon.notify.read()) if daemon.process else 0
        self.lines = [f"== {title}"]

    def tell(self, text):
        self.lines.append(text)

    def show_status(self, what):
        self.lines.append(f"-- {what}: iothubctl status")
        self.lines += [f"   {line}" for line in self.daemon.ctl("status").stdout.splitlines()]

    def new_log(self):
        log = self.daemon.log()
        new, self.seen_log = log[self.seen_log :], len(log)
        return new

    def end(self):
        self.lines += ["-- journal"] + [f"   {line}" for line in self.new_log().splitlines()]
        statuses = []
        for line in self.daemon.notify.read()[self.seen_notify :]:
            if line.startswith("STATUS=") and line not in statuses[-1:]:
                statuses.append(line)
        self.lines += ["-- service manager, first and last"] + [f"   {line}" for line in (statuses[:2] + statuses[-1:])]
        path = os.environ.get("IOTHUBD_TEST_STORY")
        if path:
            with open(path, "a", encoding="utf-8") as f:
                f.write("\n".join(self.lines) + "\n\n")


def last_error(daemon):
    """When the last error was, for wait_trouble(): taken before a fault is made."""
    return daemon.status()["retry"].get("lastErrorUSec")


def wait_trouble(daemon, *classes, after=-1):
    """Waits until the status names one of the classes, and returns it: the text, the remedy and the tries belong to it.
    With after=last_error() a trouble that was over before the status was asked for serves as well; only its class and
    what happened are known then, and the remedy is empty."""
    last = {}

    def named():
        last.update(trouble=None)
        last.update(daemon.status())
        retry = last["retry"]
        if (last["trouble"] or {}).get("class") in classes:
            return True
        return after != -1 and retry.get("lastErrorClass") in classes and retry.get("lastErrorUSec") != after

    wait_until(named, lambda: f"trouble of class {' or '.join(classes)}, but it is {last.get('trouble')}, {last.get('retry')}, "
                              f"{last['connectionState']}")  # fmt: skip
    trouble = last["trouble"] or {}
    if trouble.get("class") not in classes:
        return {"class": last["retry"]["lastErrorClass"], "what": last["retry"]["lastError"], "remedy": ""}
    assert trouble["what"] and trouble["remedy"], trouble
    n_tries_min = 0 if last["connectionState"] == "waiting-for-clock" else 1
    assert trouble["tries"] >= n_tries_min and trouble["lastingUSec"] >= 0, trouble
    return trouble


def wait_log(daemon, *parts):
    """Waits until one line of the daemon's log holds all parts."""

    def found():
        return any(all(part in line for part in parts) for line in daemon.log().splitlines())

    wait_until(found, lambda: f"a line with {parts} in the log:\n{daemon.log()}")


def wait_healed(daemon):
    last = {}

    def healed():
        last.update(trouble=None)
        last.update(daemon.status())
        return last["connected"] and not last["trouble"]

    wait_until(healed, lambda: f"no trouble, but it is {last.get('trouble')}, {last['connectionState']}", 150)
    return last


def assert_all_settled(s, sent, duplicates_max=None):
    """All of sent has arrived, and the books of the daemon say so."""
    assert_delivered(sent, s.hub.events.wait_count(len(sent)), duplicates_max)
    status = s.daemon.wait_queue_empty()
    check_books(status)
    assert status["accepted"] == status["confirmed"] == len(sent), status


class Probe:
    """A sender that sends one reading after the other on one connection, and knows how long each took to be accepted."""

    def __init__(self, daemon, name="probe"):
        self.daemon = daemon
        self.name = name
        self.sent = []
        self.times_sec = []
        self.stopping = threading.Event()
        self.thread = InBackground(self._run)

    def _run(self):
        with Varlink(self.daemon.socket) as v:
            while not self.stopping.is_set():
                body = f"{self.name} {len(self.sent)}"
                begin = time.monotonic()
                v.call("io.iothubd.Send", {"messages": [{"body": body}]})
                self.times_sec.append(time.monotonic() - begin)
                self.sent.append(body)

    def mark(self):
        return len(self.sent)

    def wait_more(self, n=20):
        """Waits until n more were accepted: the daemon takes readings whatever its link does."""
        goal = len(self.sent) + n

        def enough():
            if not self.thread.thread.is_alive():
                self.thread.result()
            return len(self.sent) >= goal

        wait_until(enough, lambda: f"{goal} accepted, {len(self.sent)} are")

    def median_sec(self, begin=0):
        times = sorted(self.times_sec[begin:])
        return times[len(times) // 2]

    def summary(self, begin=0):
        times = sorted(self.times_sec[begin:])
        if not times:
            return "none"
        return (f"{len(times)} accepted, p50 {times[len(times) // 2] * 1000:.2f} ms, "
                f"p99 {times[len(times) * 99 // 100] * 1000:.2f} ms, longest {times[-1] * 1000:.1f} ms")  # fmt: skip

    def stop(self):
        self.stopping.set()
        self.thread.result()
        return self.sent


@contextlib.contextmanager
def probing(daemon, name="probe"):
    probe = Probe(daemon, name)
    try:
        yield probe
    finally:
        probe.stopping.set()
