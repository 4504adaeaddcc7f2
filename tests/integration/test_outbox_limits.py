#!/usr/bin/env python3
"""Goal: an outbox at its limits says so, loses nothing that it did not announce, and recovers unaided (promises P2, P4,
P5). The hub is down while the outbox fills."""
import contextlib
import os
import shutil
import subprocess

import harness
from harness import Setup, Skip, Varlink, VarlinkError, check_books, compare, test, wait_until

BODY_BYTES = 4000


def line(i):
    return f"{i:08d}".ljust(BODY_BYTES, ".")


def fill(s, n_max=100000, start=0):
    """Sends lines from number start on until not even a single one is taken, or n_max were. Returns (lines accepted,
    the error or None)."""
    accepted = []
    n_batch = 16
    with Varlink(s.daemon.socket) as v:
        while len(accepted) < n_max:
            batch = [line(start + len(accepted) + i) for i in range(n_batch)]
            try:
                v.call("io.iothubd.Send", {"messages": [{"body": body} for body in batch]})
            except VarlinkError as e:
                if n_batch == 1:
                    return accepted, e
                n_batch = 1
                continue
            accepted += batch
    return accepted, None


@test
def a_full_outbox_refuses_with_reasons_and_recovers(folder):
    with Setup(folder, start=False, settings={"outbox": {"max_size": "32M"}}) as s:
        s.hub.stop()
        s.daemon.start()
        accepted, error = fill(s)
        assert error and error.error == "io.iothubd.OutboxFull", error
        for field in ("usedBytes", "maxBytes", "keepFreeBytes", "freeBytes", "reason"):
            assert field in error.parameters, error
        used = sum(
            os.path.getsize(os.path.join(parent, name)) for parent, _, names in os.walk(s.daemon.state) for name in names
        )
        assert used <= 32 << 20, f"{used} bytes on disk"

        refused = s.send([line(0)], check=False)
        assert refused.returncode == 75, (refused.returncode, refused.stderr)
        status = s.daemon.status()
        check_books(status)
        assert status["queued"] == len(accepted), (status, len(accepted))

        s.hub.start()
        s.daemon.wait_queue_empty()
        more = [line(len(accepted) + i) for i in range(100)]
        s.send(more)
        sent = accepted + more
        result = compare(sent, s.hub.events.wait_count(len(sent)))
        assert result == {"lost": 0, "foreign": 0, "duplicates": 0, "in_order": True}, result


@test
def a_sender_can_wait_for_room(folder):
    with Setup(folder, start=False, settings={"outbox": {"max_size": "32M"}}) as s:
        s.hub.stop()
        s.daemon.start()
        accepted, _ = fill(s)
        sender = harness.Sender(s.daemon, "--when-full=wait")
        more = [line(len(accepted) + i) for i in range(50)]
        sender.write_all(more)
        s.hub.start()
        assert sender.finish() == 0
        sent = accepted + more
        result = compare(sent, s.hub.events.wait_count(len(sent)))
        assert result == {"lost": 0, "foreign": 0, "duplicates": 0, "in_order": True}, result


@test
def drop_oldest_keeps_the_newest_and_counts_what_it_drops(folder):
    settings = {"outbox": {"max_size": "32M", "full": "drop-oldest"}}
    with Setup(folder, start=False, settings=settings) as s:
        s.hub.stop()
        s.daemon.start()
        sent = [line(i) for i in range(20000)]
        s.send(sent)
        status = s.daemon.status()
        check_books(status)
        assert status["accepted"] == len(sent) and status["dropped"] > 0 and status["queued"] > 0, status
        s.daemon.kill()
        s.daemon.start()
        again = s.daemon.status()
        check_books(again)
        # Dropped is recorded before it is told.
        assert again["accepted"] == len(sent) and again["dropped"] >= status["dropped"], (status, again)
        s.hub.start()
        final = s.daemon.wait_queue_empty()
        received = s.hub.events.wait_count(final["confirmed"])
        assert received == sent[-len(received):], "not the newest, in order"
        assert final["dropped"] + final["confirmed"] == len(sent), final


@test
def an_alarm_is_never_dropped_for_room(folder):
    settings = {"outbox": {"max_size": "32M", "full": "drop-oldest"}}
    with Setup(folder, start=False, settings=settings) as s:
        s.hub.stop()
        s.daemon.start()
        s.send(["fire"], "--lane", "urgent")
        s.send([line(i) for i in range(15000)], "--lane", "bulk")
        status = s.daemon.status()
        check_books(status)
        assert status["dropped"] > 0 and status["lanes"]["urgent"]["queued"] == 1, status
        s.hub.start()
        s.daemon.wait_queue_empty()
        assert s.hub.events.bodies()[0] == "fire"


@test
def messages_expire_while_offline_and_are_counted(folder):
    with Setup(folder, start=False) as s:
        s.hub.stop()
        s.daemon.start()
        s.send([f"short {i}" for i in range(100)], "--ttl", "300ms")
        s.send([f"long {i}" for i in range(50)])

        def expired():
            status = s.daemon.status()
            check_books(status)
            return status["expired"] == 100

        wait_until(expired, "100 messages expire")
        s.daemon.kill()
        s.daemon.start()
        status = s.daemon.status()
        check_books(status)
        assert status["expired"] == 100 and status["queued"] == 50, status  # recorded before it was told
        s.hub.start()
        assert s.hub.events.wait_count(50) == [f"long {i}" for i in range(50)]
        s.daemon.wait_queue_empty()


@test
def a_segment_removed_while_the_daemon_runs_costs_what_was_in_it(folder):
    with Setup(folder, start=False, settings={"outbox": {"max_size": "32M", "segment_size": "1M"}}) as s:
        s.hub.stop()
        s.daemon.start()
        accepted, _ = fill(s, n_max=2000)
        segments = sorted(name for name in os.listdir(s.daemon.state) if name.startswith("segment-"))
        removed = segments[len(segments) // 2]
        os.unlink(os.path.join(s.daemon.state, removed))
        accepted += [line(2000 + i) for i in range(50)]
        s.send(accepted[2000:])

        s.hub.start()
        s.daemon.wait_queue_empty()
        status = s.daemon.status()
        check_books(status)
        n_lost = status["outbox"]["lostRecords"]
        assert 100 < n_lost < 300, status
        result = compare(accepted, s.hub.events.wait_count(len(accepted) - n_lost))
        assert result == {"lost": n_lost, "foreign": 0, "duplicates": 0, "in_order": True}, result
        lines = [x for x in s.daemon.log().splitlines() if "Damage on disk" in x]
        assert len(lines) == 1 and f"{removed} cost {n_lost} messages" in lines[0], lines


@contextlib.contextmanager
def small_file_system(folder, mib):
    """A small ext4 in a file, mounted; where this machine cannot do that the test is skipped."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not shutil.which("mount"):
        raise Skip("needs root, mkfs.ext4 and mount")
    image, mount_point = os.path.join(folder, "image"), os.path.join(folder, "mnt")
    os.mkdir(mount_point)
    with open(image, "wb") as f:
        f.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, mount_point], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        raise Skip(f"no loop device: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)


@test
def a_disk_that_fills_refuses_delivers_and_recovers(folder):
    with small_file_system(folder, 64) as mount_point:
        settings = {"state_directory": f"{mount_point}/state", "outbox": {"max_size": "200M", "keep_free": "2M"}}
        with Setup(folder, proxy=True, settings=settings) as s:
            s.daemon.wait_connected()
            s.proxy.refuse()
            accepted, error = fill(s, n_max=1600)
            assert error is None, error
            # Somebody else takes all the room that is left.
            hog = os.path.join(mount_point, "hog")
            with open(hog, "wb") as f, contextlib.suppress(OSError):
                while f.write(b"x" * 65536):
                    f.flush()
            more, error = fill(s, start=len(accepted))
            accepted += more
            assert error and error.error in ("io.iothubd.OutboxFull", "io.iothubd.DiskError"), error
            status = s.daemon.status()
            check_books(status)
            assert status["queued"] == len(accepted), (status["queued"], len(accepted))

            # What is stored is delivered though the disk is still full.
            s.proxy.restore()
            s.daemon.wait_queue_empty()

            os.unlink(hog)

            def accepts():
                return s.send([line(len(accepted))], check=False).returncode == 0

            wait_until(accepts, "messages are accepted again")
            sent = accepted + [line(len(accepted))]
            result = compare(sent, s.hub.events.wait_count(len(sent)))
            assert result["lost"] == 0 and result["foreign"] == 0 and result["in_order"], result
            s.daemon.wait_queue_empty()


@test
def a_disk_that_hangs_stops_nobody_who_does_not_need_it(folder):
    if not shutil.which("fsfreeze"):
        raise Skip("needs fsfreeze")
    with small_file_system(folder, 64) as mount_point:
        settings = {"state_directory": f"{mount_point}/state", "outbox": {"max_size": "32M", "keep_free": "2M"}}
        with Setup(folder, proxy=True, settings=settings) as s, contextlib.ExitStack() as stack:
            s.daemon.wait_connected()
            s.proxy.stall()
            s.send([line(i) for i in range(100)])
            subprocess.run(["fsfreeze", "-f", mount_point], check=True)
            thaw = stack.enter_context(contextlib.ExitStack())
            thaw.callback(subprocess.run, ["fsfreeze", "-u", mount_point], check=True)

            s.proxy.restore()
            waits = [stack.enter_context(Varlink(s.daemon.socket)) for _ in range(4)]
            waits[0].send("io.iothubd.Send", {"messages": [{"body": line(100)}]})
            for v in waits[1:3]:  # more than the outbox takes at a time, so that others would have to wait for room
                v.send("io.iothubd.Send", {"messages": [{"body": line(0)}] * 200})
            waits[3].send("io.iothubd.GetMessage", {"sequenceNumber": 1})
            wait_until(lambda: s.daemon.status()["confirmed"] == 100, "what is stored is delivered")
            wait_until(lambda: "diskBusyUSec" in s.daemon.status()["outbox"], "the status tells what it waits for")
            assert s.daemon.process.poll() is None

            thaw.close()
            assert waits[0].receive()[0]["first"] == 101
            assert waits[3].receive()[0]["message"]["state"] == "confirmed"
            for v in waits[1:3]:
                assert v.receive()[0]["duplicates"] == 0
            s.daemon.wait_queue_empty()


if __name__ == "__main__":
    harness.main()
