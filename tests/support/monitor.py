"""monitor.py: iothubctl monitor (or feedback) as a process whose lines the tests wait for."""
import json
import queue
import re
import signal
import subprocess
import threading

import harness
import leaks
from harness import DEADLINE_SEC


def service_arguments(hub, login_file=None):
    return ["--login-file", login_file or hub.login_file, "--ca-file", hub.ca_file,
            "--https-port", str(hub.https_port), "--amqp-port", str(hub.amqp_port)]


def run(hub, *arguments, login_file=None, check=True, **kwargs):
    """To its end, as hub.ctl(), with another login perhaps. The caller's options come last, and so win."""
    return harness.iothubctl(arguments[0], *service_arguments(hub, login_file), *arguments[1:], check=check, **kwargs)


class Monitor:
    """Runs until it is ended; "with" waits until it watches, so that what is sent then is seen."""

    READY = r"Watching |Waiting for feedback"

    def __init__(self, hub, *arguments, verb="monitor", login_file=None, read=True):
        self.process = subprocess.Popen(
            [harness.IOTHUBCTL, verb, *service_arguments(hub, login_file), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines, self.errors = queue.Queue(), []
        self.said = threading.Condition()
        self.threads = [threading.Thread(target=self._read_errors, daemon=True)]
        if read:
            self.threads.append(threading.Thread(target=self._read_lines, daemon=True))
        for thread in self.threads:
            thread.start()

    def __enter__(self):
        try:
            self.wait_said(self.READY)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self.threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()

    def _read_lines(self):
        for line in self.process.stdout:
            self.lines.put(line.decode())
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            with self.said:
                self.errors.append(line.decode())
                self.said.notify_all()
        with self.said:
            self.errors.append(None)
            self.said.notify_all()

    def error_text(self):
        with self.said:
            return "".join(line for line in self.errors if line)

    def wait_said(self, pattern, times=1):
        """Until stderr has so many lines that match."""
        def enough():
            return (sum(1 for line in self.errors if line and re.search(pattern, line)) >= times
                    or None in self.errors)

        with self.said:
            assert self.said.wait_for(enough, DEADLINE_SEC), f"it did not say {pattern}: {self.errors}"
            assert None not in self.errors or sum(
                1 for line in self.errors if line and re.search(pattern, line)) >= times, self.errors

    def line(self):
        """The next line of its output, which must come."""
        line = self.lines.get(timeout=DEADLINE_SEC)
        assert line is not None, f"it ended: {self.error_text()}"
        return line

    def event(self):
        return json.loads(self.line())["event"]

    def rest(self):
        """What comes until its end."""
        return list(iter(lambda: self.lines.get(timeout=DEADLINE_SEC), None))

    def signal(self, number=signal.SIGINT):
        """Sends it; returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        code = self.process.wait(DEADLINE_SEC)
        for thread in self.threads:
            thread.join()
        leaks.check_text(self.error_text(), "what iothubctl says")
        return code
