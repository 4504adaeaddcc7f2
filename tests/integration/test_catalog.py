#!/usr/bin/env python3
"""Goal: every event that an operator acts on is explained. Compares the message ids of daemon/log.h with
systemd/iothubd.catalog, and has systemd's own tools read what we install where they are there."""
import os
import re
import shutil
import subprocess

import harness
from harness import SOURCE, Skip, test


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as f:
        return f.read()


def entries():
    """{id: (header lines, text)} of the catalog."""
    found = {}
    parts = re.split(r"^-- ([0-9a-f]{32})$", read("systemd", "iothubd.catalog"), flags=re.MULTILINE)
    for message_id, body in zip(parts[1::2], parts[2::2]):
        assert message_id not in found, f"{message_id} is there twice"
        header, _, text = body.strip().partition("\n\n")
        found[message_id] = header, text
    return found


@test
def every_message_id_has_a_catalog_entry():
    ids = dict(re.findall(r'#define (MSG_\w+) "([0-9a-f]{32})"', read("daemon", "log.h")))
    assert len(ids) >= 16, ids
    assert len(set(ids.values())) == len(ids), "two events share an id"
    found = entries()
    missing = [name for name, message_id in ids.items() if message_id not in found]
    foreign = [message_id for message_id in found if message_id not in ids.values()]
    assert not missing and not foreign, (missing, foreign)


@test
def every_catalog_entry_has_a_subject_and_says_what_to_do():
    for message_id, (header, text) in entries().items():
        assert re.search(r"^Subject: \S", header, re.MULTILINE), message_id
        assert re.search(r"^Defined-By: iothubd$", header, re.MULTILINE), message_id
        assert len(text.split()) >= 12, f"{message_id} explains little"


@test
def journald_accepts_the_catalog(folder):
    if not shutil.which("journalctl"):
        raise Skip("no journalctl on this machine")
    catalog = os.path.join(folder, "usr", "lib", "systemd", "catalog")
    os.makedirs(catalog)
    os.makedirs(os.path.join(folder, "var", "lib", "systemd", "catalog"))
    shutil.copy(os.path.join(SOURCE, "systemd", "iothubd.catalog"), catalog)
    result = subprocess.run(
        ["journalctl", f"--root={folder}", "--update-catalog"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and not result.stderr.strip(), result.stderr


if __name__ == "__main__":
    harness.main()
