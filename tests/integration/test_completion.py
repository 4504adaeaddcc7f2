#!/usr/bin/env python3
"""Goal: the tabulator offers what the programs take. Sources the completion in bash, types, and looks at the offers."""
import os
import re
import shutil
import subprocess

import harness
from harness import BUILD, EMULATOR, IOTHUBCTL, IOTHUBD, SOURCE, Skip, test

# The words as bash cuts them, the last of them is completed; the program is found by its path.
SCRIPT = """
. "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_iothub
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offers(*words, cwd=None):
    if not shutil.which("bash"):
        raise Skip("no bash on this machine")
    result = subprocess.run(
        ["bash", "-uc", SCRIPT, "bash", os.path.join(SOURCE, "completions", "iothub"), *words],
        capture_output=True, text=True, check=True, cwd=cwd, stdin=subprocess.DEVNULL,
    )
    assert not result.stderr, result.stderr
    return set(result.stdout.split())


def same(found, wanted):
    assert found == set(wanted), f"offered {sorted(found)}, not {sorted(wanted)}"


def help_verbs():
    """Every verb that iothubctl --help shows, as lists of words."""
    text = subprocess.run([IOTHUBCTL, "--help"], capture_output=True, text=True, check=True).stdout
    lines = re.findall(r"^  ([a-z].*?)  +\S", text.partition("Options of every verb")[0], re.MULTILINE)
    return [re.match(r"(?:[a-z][a-z0-9-]* ?)+", line)[0].split() for line in lines]


@test
def every_verb_of_iothubctl_is_offered():
    verbs = help_verbs()
    assert len(verbs) >= 9
    same(offers(IOTHUBCTL, ""), {words[0] for words in verbs} | {"help"})
    for group in {words[0] for words in verbs if len(words) > 1}:
        same(offers(IOTHUBCTL, group, ""), {words[1] for words in verbs if words[0] == group and len(words) > 1})
    assert offers(IOTHUBCTL, "--json", "--socket", "/x", "device", "cr") == {"create"}
    assert offers(IOTHUBCTL, "sta") >= {"status"}


@test
def the_options_of_the_verb_are_offered():
    general = {"--json", "--socket", "--help", "-h"}
    assert offers(IOTHUBCTL, "-") >= general
    assert "--when-full" not in offers(IOTHUBCTL, "--")
    send = offers(IOTHUBCTL, "send", "-")
    assert send >= general | {"--when-full", "--lane", "-p", "--property"}, send
    assert offers(IOTHUBCTL, "device", "show", "--ke") == {"--keys"}
    assert offers(IOTHUBCTL, "send", "--message") == {"--message-id"}


@test
def values_are_offered_where_they_are_known(folder):
    for words in (("--lane", ""), ("--lane", "="), ("--lane", "=", "")):
        same(offers(IOTHUBCTL, "send", *words), {"urgent", "normal", "bulk"})
    same(offers(IOTHUBCTL, "send", "--when-full", "w"), {"wait"})
    open(os.path.join(folder, "a-file"), "w", encoding="utf-8").close()
    same(offers(IOTHUBCTL, "--login-file", "a-", cwd=folder), {"a-file"})
    same(offers(IOTHUBD, "-c", "a-", cwd=folder), {"a-file"})
    same(offers(IOTHUBD, "--config", "", cwd=folder), {"a-file"})
    same(offers(IOTHUBCTL, "send", "-p", ""), set())  # what comes is the property's, no verb and no file


@test
def the_daemon_and_the_emulator_are_completed_too():
    same(offers(IOTHUBD, "--"), {"--config", "--check", "--help", "--version"})
    assert offers(EMULATOR, "--mq") == {"--mqtt-port"}
    assert offers(EMULATOR, "") == {"ctl"}
    assert offers(EMULATOR, "ctl", "") >= {"quota", "throttle", "clear", "status"}
    assert offers(EMULATOR, "ctl", "puback", "--dr") == {"--drop"}


@test
def a_program_that_is_not_there_offers_nothing(folder):
    same(offers(os.path.join(folder, "iothubctl"), ""), set())


@test
def it_is_installed_under_the_name_of_each_command(folder):
    if not shutil.which("meson"):
        raise Skip("no meson on this machine")
    subprocess.run(
        ["meson", "install", "-C", BUILD, "--destdir", folder, "--no-rebuild", "--quiet"],
        check=True, stdout=subprocess.DEVNULL,
    )
    found = [name for path, _, names in os.walk(folder) if path.endswith("bash-completion/completions") for name in names]
    same(set(found), {"iothubctl", "iothubd", "iothub-emulator"})


if __name__ == "__main__":
    harness.main()
