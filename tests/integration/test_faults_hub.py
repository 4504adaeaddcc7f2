#!/usr/bin/env python3
"""Goal: whatever the hub, the keys or the clock do, the daemon names the cause in status and log, keeps what it accepted,
and delivers all of it once the cause is gone, by itself (promises P1, P2, P3, P6).
Method: each cause is made for real at the emulator, in the key file or in the daemon's clock; readings are sent
meanwhile; then the cause is taken away."""
import contextlib
import os
import re

import harness
from faults import Story, assert_all_settled, last_error, wait_healed, wait_log, wait_trouble
from harness import Daemon, Setup, check_books, compare, lines, test, wait_until, write_private

WINDOW = 200  # messages in flight, the default
DAY_SEC = 86400


def replace_key(path, key):
    """Writes a connection string with another key in place of the old one."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    write_private(path, re.sub(r"SharedAccessKey=[^;\n]*", lambda _: f"SharedAccessKey={key}", text))


WRONG_KEY = "d3Jvbmcga2V5IHdyb25nIGtleSB3cm9uZyBrZXkgMDA="


def key_of(s, which):
    text = s.hub.ctl("device", "show", s.device, "--keys").stdout
    return re.search(rf"{which}[\s:]+(\S+)", text)[1]


@contextlib.contextmanager
def fault(folder, title, classes, settings=None, n_before=100, **daemon_options):
    """A daemon that has delivered n_before readings. Yields (setup, story, meet): the cause is made, then meet() sends on
    and waits until it is named; at the end of the block the cause must be gone, and all must arrive."""
    with Setup(folder, settings=settings, **daemon_options) as s:
        sent = lines(n_before)
        if n_before > 0:
            s.daemon.wait_connected()
            s.send(sent)
            s.daemon.wait_queue_empty()
        story = Story(title, s.daemon)
        before = last_error(s.daemon)

        def meet(cut=True):
            if cut:
                s.hub.trouble("cut", "all")
            more = lines(100, len(sent))
            s.send(more)
            sent.extend(more)
            trouble = wait_trouble(s.daemon, *classes, after=before)
            wait_log(s.daemon, trouble["remedy"])
            story.show_status("while it lasts")
            check_books(s.daemon.status())
            return trouble

        yield s, story, meet
        wait_healed(s.daemon)
        assert_all_settled(s, sent, WINDOW)
        story.show_status("afterwards")
        story.end()


@test
def a_disabled_device_is_named_and_goes_on_once_it_is_enabled(folder):
    with fault(folder, "disabled device", ["refused"]) as (s, _, meet):
        s.hub.ctl("device", "disable", s.device)
        meet()
        s.hub.ctl("device", "enable", s.device)


@test
def a_deleted_device_is_named_and_goes_on_once_it_exists_again(folder):
    with fault(folder, "deleted and created again, with new keys", ["refused"]) as (s, _, meet):
        s.hub.ctl("device", "delete", s.device)
        meet()
        s.hub.create_device(s.device)  # writes the file of the connection string anew


@test
def wrong_keys_are_named_and_the_file_is_read_again_after_a_refusal(folder):
    with fault(folder, "both keys wrong", ["refused"]) as (s, _, meet):
        path = s.daemon.settings["connection_string_file"]
        good = key_of(s, "primaryKey")
        replace_key(path, WRONG_KEY)
        meet()
        replace_key(path, good)


@test
def a_wrong_primary_key_is_no_outage_when_the_secondary_is_right(folder):
    with Setup(folder, start=False) as s:
        path = os.path.join(folder, "secondary")
        with open(s.daemon.settings["connection_string_file"], encoding="utf-8") as f:
            write_private(path, f.read())
        replace_key(path, key_of(s, "secondaryKey"))
        replace_key(s.daemon.settings["connection_string_file"], WRONG_KEY)
        s.daemon.configure({"secondary_connection_string_file": path})
        s.daemon.start()
        story = Story("wrong primary key, good secondary key", s.daemon)
        s.send(lines(100))
        assert_all_settled(s, lines(100), WINDOW)
        status = s.daemon.status()
        assert status["key"] == "secondary" and status["otherKeyRefused"], status
        wait_log(s.daemon, "primary key", "secondary")
        story.show_status("while it lasts")
        replace_key(s.daemon.settings["connection_string_file"], key_of(s, "primaryKey"))
        replace_key(path, WRONG_KEY)
        wait_until(lambda: s.daemon.status().get("key") == "primary", "the new primary key is taken")
        s.send(lines(100, 100))
        assert_all_settled(s, lines(200), WINDOW)
        story.show_status("afterwards")
        story.end()


@test
def a_used_up_quota_is_named_and_nothing_is_condemned_for_it(folder):
    with fault(folder, "quota used up", ["quota"]) as (s, _, meet):
        s.hub.trouble("quota", "on")
        meet(cut=False)
        s.hub.trouble("quota", "off")


@test
def a_throttling_hub_is_named_and_sent_less(folder):
    with fault(folder, "throttled", ["throttled"]) as (s, story, meet):
        s.hub.trouble("throttle", "6/s", "--max-wait", "20s")
        meet(cut=False)
        window = s.daemon.status()["sendWindow"]
        story.tell(f"-- send window while throttled: {window}")
        assert window < WINDOW, s.daemon.status()
        s.hub.trouble("throttle", "off")


@test
def a_hub_that_cuts_full_windows_is_sent_less(folder):
    """Nothing shows that it is a throttle: its queue is so short that no PUBACK is late before the cut."""
    with Setup(folder) as s:
        s.daemon.wait_connected()
        s.hub.trouble("throttle", "5/s", "--max-wait", "1s")
        sent = lines(300)
        s.send(sent)
        # 1 would be the search for a message that makes the hub cut
        wait_until(lambda: 1 < s.daemon.status()["sendWindow"] < WINDOW, "a smaller window")
        s.hub.trouble("throttle", "off")
        check_books(s.daemon.wait_queue_empty())
        result = compare(sent, s.hub.events.wait_count(len(sent)))
        assert result["lost"] == 0 and result["foreign"] == 0, result


@test
def a_poison_message_in_front_costs_itself_and_no_other(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        s.hub.trouble("cut-on-marked", "PoisonMark")
        story = Story("a poison message in front of 1,000 good ones", s.daemon)
        sent = lines(1000)
        s.send(["PoisonMark"] + sent)
        result = compare(sent, s.hub.events.wait_count(len(sent)))
        assert result["lost"] == 0 and result["in_order"], result
        status = s.daemon.wait_queue_empty()
        check_books(status)
        assert status["confirmed"] == 1000 and status["rejected"] == 1, status
        assert status["outbox"]["deadLetters"] == 1, status
        wait_healed(s.daemon)
        story.show_status("afterwards")
        story.end()


@test
def a_second_client_with_the_same_identity_is_named(folder):
    with fault(folder, "a second daemon with the same identity", ["taken-over"]) as (s, _, meet):
        other = Daemon(folder, s.hub, s.daemon.settings["connection_string_file"], name="other")
        with other:
            meet(cut=False)


CERTIFICATES = [("expired", "tls-expired"), ("unknown-issuer", "tls-issuer"), ("wrong-name", "tls-name"),
                ("not-yet-valid", "clock")]  # fmt: skip


@test
def a_server_that_cannot_prove_itself_is_named(folder):
    for kind, name in CERTIFICATES:
        with fault(os.path.join(folder, kind), f"the server's certificate: {kind}", [name]) as (s, _, meet):
            s.hub.trouble("certificate", kind)
            meet()
            s.hub.trouble("certificate", "good")


@test
def a_clock_one_day_behind_is_named_and_healed_by_setting_it(folder):
    with fault(folder, "the clock goes back by a day", ["clock", "refused"], time_warp=1) as (s, _, meet):
        s.daemon.step_clock(-DAY_SEC)
        # What was accepted before tells that the clock is behind; what is accepted after has the wrong time, too, and
        # then the clock is only the first thing that the remedy of a refusal names.
        wait_trouble(s.daemon, "clock")
        trouble = meet(cut=False)
        assert "clock" in trouble["remedy"], trouble
        s.daemon.step_clock(DAY_SEC)


@test
def a_clock_one_day_ahead_delivers(folder):
    with Setup(folder, clock_offset_sec=DAY_SEC) as s:
        s.send(lines(100))
        assert_all_settled(s, lines(100), WINDOW)
        s.daemon.step_clock(-DAY_SEC)
        s.send(lines(100, 100))
        assert_all_settled(s, lines(200), WINDOW)


def far_off(folder, title, offset_sec, classes):
    settings = {"uplink": {"clock_wait": "1s"}}
    options = {"clock_offset_sec": offset_sec}
    with fault(folder, title, classes, settings, n_before=0, **options) as (s, _, meet):
        meet(cut=False)
        s.daemon.step_clock(-offset_sec)


@test
def a_clock_in_1970_is_named_and_healed_by_setting_it(folder):
    far_off(folder, "a start 56 years behind, as without a clock battery", -56 * 365 * DAY_SEC, ["clock"])


@test
def a_clock_56_years_ahead_is_named_and_healed_by_setting_it(folder):
    far_off(folder, "a start 56 years ahead", 56 * 365 * DAY_SEC, ["tls-expired"])


@test
def a_start_waits_for_the_clock_and_goes_on_when_it_is_set(folder):
    offset_sec = -56 * 365 * DAY_SEC
    settings = {"uplink": {"clock_wait": "1h"}}
    with Setup(folder, settings=settings, clock_offset_sec=offset_sec) as s:
        story = Story("a start 56 years behind, within clock_wait", s.daemon)
        wait_until(lambda: s.daemon.status()["connectionState"] == "waiting-for-clock", "it waits for the clock")
        s.send(lines(100))
        wait_trouble(s.daemon, "clock")
        story.show_status("while it lasts")
        s.daemon.step_clock(-offset_sec)
        assert_all_settled(s, lines(100), WINDOW)
        story.show_status("afterwards")
        story.end()


@test
def five_refusals_are_named_and_lose_nothing(folder):
    with fault(folder, "five refusals", ["refused"]) as (s, _, meet):
        s.hub.trouble("refuse", "5")
        meet()


@test
def a_hub_that_is_not_available_is_named(folder):
    with fault(folder, "a hub that says five times that it is not available", ["unavailable"]) as (s, _, meet):
        s.hub.trouble("refuse", "5", "--code", "3")
        meet()


@test
def a_lost_confirmation_is_named_and_loses_nothing(folder):
    settings = {"uplink": {"ack_timeout": "1s"}}
    with fault(folder, "a confirmation is lost", ["unconfirmed"], settings) as (s, _, meet):
        s.hub.trouble("puback", "--drop", "1")
        meet(cut=False)


@test
def a_hub_that_stops_answering_is_noticed(folder):
    settings = {"uplink": {"ack_timeout": "1s", "connect_timeout": "1s"}}
    with fault(folder, "the hub is silent", ["timeout"], settings) as (s, _, meet):
        s.hub.trouble("silent", "on")
        meet(cut=False)
        s.hub.trouble("silent", "off")


if __name__ == "__main__":
    harness.main()
