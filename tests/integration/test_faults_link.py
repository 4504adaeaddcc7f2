#!/usr/bin/env python3
"""Goal: a link that is cut, stalled, half open or without a name service, in turn and mixed, delays no sender; the cause is
named each time; and delivery goes on as soon as the link is back (promises P1, P2, P3, P5, P6).
Method: a proxy between daemon and hub, a name service of our own, and, where the kernel has to tell of the link, a
network namespace with a link that goes down."""
import os
import random
import subprocess
import sys
import time

import harness
from faults import NameService, Story, assert_all_settled, last_error, probing, wait_healed, wait_trouble
from harness import ChaosProxy, Daemon, Hub, Skip, test, wait_until, write_private

HOST = "hub.test"
TIMEOUT_SEC = 1
SETTINGS = {"uplink": {"ack_timeout": f"{TIMEOUT_SEC}s", "connect_timeout": f"{TIMEOUT_SEC}s"}}


class NamedSetup:
    """As Setup, with a proxy, and a hub whose name has to be looked up."""

    def __init__(self, folder, address="127.0.0.1", settings=None):
        self.names = NameService(folder, address)
        self.hub = Hub(folder, arguments=["--host", HOST])
        self.folder = folder
        self.address = address
        self.settings = settings or SETTINGS

    def __enter__(self):
        self.hub.start()
        self.proxy = ChaosProxy(self.hub.mqtt_port, self.address).__enter__()
        client = {**os.environ, **self.names.environment(harness.IOTHUBCTL)}
        self.names.set("127.0.0.1")  # where the registry is
        self.hub.ctl("device", "create", "windmill", env=client)
        path = os.path.join(self.folder, "connection-string")
        text = self.hub.ctl("device", "connection-string", "windmill", env=client).stdout
        write_private(path, text)
        self.names.restore()
        self.daemon = Daemon(
            self.folder, self.hub, path, self.proxy.port, settings=self.settings,
            environment=self.names.environment(harness.IOTHUBD),
        )  # fmt: skip
        self.daemon.start()
        return self

    def __exit__(self, kind, *exception):
        self.names.restore()  # a look-up that hangs would outlive the daemon's patience
        self.daemon.__exit__(kind, *exception)
        self.proxy.__exit__(kind, *exception)
        self.hub.stop()


def heal(s):
    s.names.restore()
    s.proxy.restore()


def dns(s, fault):
    s.names.set(fault)
    s.proxy.cut()


FAULTS = {
    "link cut, port closed": (lambda s: s.proxy.refuse(), ("network",)),
    "link stalled": (lambda s: s.proxy.stall(), ("timeout", "unconfirmed")),
    # The next try stalls, too: a link that is well again at once is trouble for some milliseconds only.
    "half open": (lambda s: (s.proxy.half_open(), s.proxy.stall()), ("timeout", "unconfirmed")),
    "name server answers with an error": (lambda s: dns(s, "fail"), ("dns",)),
    "name server is silent": (lambda s: dns(s, "hang"), ("dns",)),
}


@test
def every_fault_of_the_link_is_named_and_delays_no_sender(folder):
    with NamedSetup(folder) as s:
        s.daemon.wait_connected()
        with probing(s.daemon) as probe:
            probe.wait_more(200)
            story = Story("the link, fault by fault, with a sender at work", s.daemon)
            story.tell(f"-- no fault: {probe.summary()}")
            for title, (begin, classes) in FAULTS.items():
                before = last_error(s.daemon)
                mark = probe.mark()
                begin(s)
                trouble = wait_trouble(s.daemon, *classes, after=before)
                probe.wait_more()
                # Whoever sends does not wait for what the network waits for.
                assert probe.median_sec(mark) < TIMEOUT_SEC, (title, probe.summary(mark))
                story.tell(f"-- {title}: {trouble['class']}: {trouble['what']}; {trouble['remedy']}")
                story.tell(f"   sender: {probe.summary(mark)}")
                heal(s)
                wait_healed(s.daemon)
            sent = probe.stop()
        assert_all_settled(s, sent)
        story.end()


@test
def faults_of_the_link_in_any_mixture_lose_nothing(folder):
    seed = int(os.environ.get("IOTHUBD_TEST_SEED") or random.randrange(1 << 32))
    chance = random.Random(seed)
    print(f"# IOTHUBD_TEST_SEED={seed}", flush=True)
    with NamedSetup(folder) as s, probing(s.daemon) as probe:
        for _ in range(100 if harness.LONG else 8):
            for begin, _ in chance.sample(list(FAULTS.values()), chance.randint(1, 3)):
                begin(s)
                if chance.random() < 0.5:
                    s.hub.kill()
                    s.hub.start()
            probe.wait_more(5)
            heal(s)
            if chance.random() < 0.7:
                s.daemon.wait_connected()
        heal(s)
        wait_healed(s.daemon)
        assert_all_settled(s, probe.stop())


# ---- a link that the kernel tells of ----

NAMESPACE = "IOTHUBD_TEST_NAMESPACE"
ADDRESS = "10.99.0.1/24"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def in_network_namespace(function):
    """The test runs in a network namespace of its own, by running this file in one, with a link "test0" that is up and
    carries ADDRESS. The test's folder is made and removed in there."""

    def run(folder):
        if os.environ.get(NAMESPACE):
            ip("link", "set", "lo", "up")
            ip("link", "set", "test1", "up")
            ip("link", "set", "test0", "up")
            ip("address", "add", ADDRESS, "dev", "test0")
            function(folder)
            return
        script = 'ip link add test0 type veth peer name test1 && exec "$@"'
        command = ["unshare", "--net", "--map-root-user", "sh", "-c", script, "sh"]
        try:
            able = subprocess.run(command + ["true"], capture_output=True, text=True, check=False)
        except FileNotFoundError as e:
            raise Skip(f"needs unshare(1): {e}") from e
        if able.returncode != 0:
            raise Skip(f"no network namespace with a link of its own: {able.stderr.strip()}")
        inside = subprocess.run(
            command + [sys.executable, os.path.abspath(__file__), function.__name__],
            env={**os.environ, NAMESPACE: "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert inside.returncode == 0, inside.stdout + inside.stderr

    run.__name__ = function.__name__
    return test(run)


@in_network_namespace
def a_link_that_comes_up_ends_the_wait(folder):
    # Tries so far apart that within the test only the kernel's word can bring one.
    settings = {"uplink": {"retry_min": "1h", "retry_max": "1h", "ack_timeout": "1s", "connect_timeout": "1s"}}
    with NamedSetup(folder, ADDRESS.split("/")[0], settings) as s:
        s.daemon.wait_connected()
        with probing(s.daemon) as probe:
            story = Story("the link's address goes and comes again; tries are an hour apart", s.daemon)
            ip("address", "del", ADDRESS, "dev", "test0")
            trouble = wait_trouble(s.daemon, "network", "timeout", "unconfirmed")
            wait_until(lambda: s.daemon.status()["connectionState"] == "backoff", "it waits for the next try")
            story.tell(f"-- {trouble['class']}: {trouble['what']}")
            story.show_status("while the address is gone")
            n_events = len(s.hub.events.poll())
            ip("address", "add", ADDRESS, "dev", "test0")
            begin = time.monotonic()
            wait_until(lambda: len(s.hub.events.poll()) > n_events, "the drain begins")
            story.tell(f"-- the first event arrived {time.monotonic() - begin:.2f} s after the address came")
            sent = probe.stop()
        assert_all_settled(s, sent)
        story.end()


if __name__ == "__main__":
    harness.main()
