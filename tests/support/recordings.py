"""recordings.py: requests and answers of real hubs, as published, where they lie beside the checkout. They are compared
with, never part of the project."""
import collections
import glob
import json
import os
import re
import urllib.parse

from harness import SOURCE, Skip

# One request with its answer. Bodies are parsed where they are JSON; header names are lower case.
Pair = collections.namedtuple("Pair", "file number method path query headers body status answer_headers answer")


def folder():
    named = os.environ.get("IOTHUBD_RECORDINGS")
    for path in [named] if named else [os.path.join(SOURCE, *up, "shared", "recordings") for up in ([".."], ["..", ".."])]:
        if os.path.isfile(os.path.join(path, "INDEX.md")):
            return path
    raise Skip("no recordings beside the checkout")


def load(name):
    with open(os.path.join(folder(), name), encoding="utf-8") as f:
        return json.load(f)


def parsed(body):
    if not isinstance(body, str):
        return body
    try:
        return json.loads(body)
    except ValueError:
        return body


def _pair(file, number, method, uri, headers, body, status, answer_headers, answer):
    parts = urllib.parse.urlsplit(uri)
    lower = {n.lower(): v for n, v in headers.items()}
    return Pair(file, number, method, parts.path, urllib.parse.unquote(parts.query), lower, parsed(body), status,
                {n.lower(): v for n, v in answer_headers.items()}, parsed(answer))


def pairs():
    """Recording by recording: (name, its pairs in order)."""
    for path in sorted(glob.glob(os.path.join(folder(), "azure-sdk-for-net", "*.json"))):
        name = os.path.basename(path)
        entries = load(os.path.join("azure-sdk-for-net", name))["Entries"]
        yield name, [
            _pair(name, i, e["RequestMethod"], e["RequestUri"], e["RequestHeaders"], e["RequestBody"], e["StatusCode"],
                  e["ResponseHeaders"], e["ResponseBody"])
            for i, e in enumerate(entries)
        ]
    for path in sorted(glob.glob(os.path.join(folder(), "azure-cli_*.json"))):
        name = os.path.basename(path)
        content = load(name)
        entries = content["interactions"] if isinstance(content, dict) else [e["interaction"] for e in content]
        yield name, [
            _pair(name, i, e["request"]["method"], e["request"]["uri"], e["request"]["headers"], e["request"]["body"],
                  e["response"]["status"], e["response"]["headers"], e["response"]["body"] or None)
            for i, e in enumerate(entries)
        ]


# ---- what is compared ----

# What a hub chooses anew each time.
CHOSEN = re.compile(
    r"etag|deviceEtag|generationId|primaryKey|secondaryKey|.*Time|\$lastUpdated|trackingId|timestampUtc|ExceptionMessage|"
    r"scopeId|deviceScope", re.IGNORECASE)


def shape(value, name=""):
    """Names in their order, kinds, and values but for those that a hub chooses."""
    if isinstance(value, dict):
        return {n: shape(v, n) for n, v in value.items()}
    if isinstance(value, list):
        return [shape(v, name) for v in value]
    if name == "Message" and value.startswith("{"):
        return shape(json.loads(value))
    if value is not None and CHOSEN.fullmatch(name):
        return type(value).__name__
    return re.sub(r"Version:\d+", "Version:N", value) if isinstance(value, str) else value


def text(value):
    """To compare: dicts in Python forget the order of their names."""
    return json.dumps(shape(value), ensure_ascii=False)


def only(value, like):
    """Of value, what like has too: members of objects that like does not know are left out."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {n: only(v, like[n]) for n, v in value.items() if n in like}
    if isinstance(value, list) and isinstance(like, list):
        return [only(v, like[min(i, len(like) - 1)]) for i, v in enumerate(value)] if like else value
    return value
