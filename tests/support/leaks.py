"""leaks.py: promise P7, keys stay put, over everything that the tests let the programs write.

The fixtures register each key and each text that is sent, and hand over what was written: logs, output, the command
lines of processes, files that everybody may read. A find is a failure of the test that made it. The message names what
was found and where, not the secret.
"""
import base64
import contextlib
import glob
import os
import re
import stat
import urllib.parse

# What is secret whoever made it. The manual and the help texts write "..." where a key goes.
PATTERNS = {
    "a key of a connection string": re.compile(r"SharedAccessKey=[A-Za-z0-9+/%]{8}"),
    "a signature": re.compile(r"\bsig=[A-Za-z0-9+/%]{16}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
KEY_CHARS_MIN = 16  # a shorter text is no key that anybody uses, and is found by chance
PAYLOAD_CHARS_MIN = 12
PAYLOADS_MAX = 2000  # a soak sends a million
FILE_BYTES_MAX = 1 << 26

_keys = {}  # text -> what it is
_payloads = set()


class Leak(AssertionError):
    """A secret was written where it does not belong."""


def keep_key(text, what):
    """A key in base64: not to be seen as such, in a URL, nor as what it decodes to."""
    if len(text) < KEY_CHARS_MIN:
        return
    _keys[text] = what
    _keys[urllib.parse.quote(text, safe="")] = f"{what}, encoded for a URL"
    with contextlib.suppress(ValueError):
        _keys[base64.b64decode(text, validate=True).hex()] = f"{what}, in hexadecimal"


def keep_connection_string(text):
    fields = dict(re.findall(r"(\w+)=([^;\s]+)", text))
    if "SharedAccessKey" in fields:
        keep_key(fields["SharedAccessKey"], f"the key of {fields.get('DeviceId') or fields.get('SharedAccessKeyName')}")


def keep_private_keys(folder):
    """The PEM files with a private key in a folder: the middle line of each is as good as the key."""
    for path in glob.glob(os.path.join(glob.escape(folder), "**", "*"), recursive=True):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if os.path.isfile(path) and os.path.getsize(path) < 65536:
                with open(path, encoding="ascii") as f:
                    for body in re.findall(r"PRIVATE KEY-----\n(.*?)-----END", f.read(), re.DOTALL):
                        lines = body.split()
                        keep_key(lines[len(lines) // 2], f"the private key {os.path.basename(path)}")


def keep_payload(text):
    if len(text) >= PAYLOAD_CHARS_MIN and len(_payloads) < PAYLOADS_MAX:
        _payloads.add(text)


def check_text(text, where, payloads=True):
    """Raises Leak. payloads: also what was sent must not be in it."""
    for what, pattern in PATTERNS.items():
        if pattern.search(text):
            raise Leak(f"{what} is in {where}")
    for key, what in _keys.items():
        if key in text:
            raise Leak(f"{what} is in {where}")
    for payload in _payloads if payloads else ():
        if payload in text:
            raise Leak(f"the text of a message is in {where}")


def _read(path):
    with open(path, "rb") as f:
        return f.read(FILE_BYTES_MAX).decode("utf-8", "replace")


def check_folder(folder):
    """Every log of a test's folder, and every file there that everybody may read."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):
                mode = os.lstat(path).st_mode
                if not stat.S_ISREG(mode):
                    continue
                where = os.path.relpath(path, folder)
                if name.endswith(".log"):
                    check_text(_read(path), where)
                elif mode & stat.S_IROTH and not _is_private(parent, folder):
                    check_text(_read(path), f"{where}, which everybody may read", payloads=False)


def _is_private(parent, folder):
    """Nobody else gets into the folder or one above it, within the test's own (which is private to the test only)."""
    while parent != folder:
        if not os.stat(parent).st_mode & stat.S_IXOTH:
            return True
        parent = os.path.dirname(parent)
    return False


def processes_of(pid):
    """The process and its descendants."""
    found = [pid]
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as f:
            for child in f.read().split():
                found += processes_of(int(child))
    return found


def check_processes(pid):
    """What `ps` shows of a process and its descendants. Not their environment: that is the owner's to see only."""
    for each in processes_of(pid):
        with contextlib.suppress(OSError), open(f"/proc/{each}/cmdline", "rb") as f:
            line = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
            check_text(line, f"the command line of {line.split(' ')[0]}")
