#!/usr/bin/env python3
"""Goal: bad input to any verb that talks to the hub gets a sentence that names the option, the field, the line or the file,
and the exit code of the manual; nothing is done. Method: every verb of --help with options and arguments that it has not;
a table of bad values; files of import with one bad line each."""
import json
import os
import re

from harness import Hub, main, test
from scripted_hub import run

EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_CANTCREAT, EX_TRY_AGAIN, EX_CONFIG = 64, 65, 66, 69, 73, 75, 78
LONG = "x" * 129


def verbs():
    """[(words, arguments)] of --help."""
    found = []
    for line in run("--help").stdout.splitlines():
        m = re.match(r"  ((?:[a-z0-9-]+ ?)+)((?:[A-Z\[].*?)?)  ", line)
        if m:
            found.append((m[1].split(), m[2].split()))
    assert len(found) > 30, found
    return found


def options_of(words):
    """[(option, its argument or "")] of a verb."""
    own = run(*words, "--help").stdout.split("Options of every verb")[0]
    return re.findall(r"^  (?:  )?  (?:-., )?--([a-z-]+)(?: (\S+))?", own, re.MULTILINE)


@test
def every_verb_refuses_what_it_does_not_have(_):
    checked = 0
    for words, arguments in verbs():
        needed = [a for a in arguments if not a.startswith("[")]
        given = ["x"] * len(needed)
        r = run(*words, *given, "--no-such-option")
        assert r.returncode == EX_USAGE and "--no-such-option" in r.stderr, (words, r)
        if needed:
            r = run(*words, *given[:-1])
            assert r.returncode == EX_USAGE and "argument is missing" in r.stderr and f"usage: iothubctl {' '.join(words)}" in r.stderr, r
        if not any("..." in a for a in arguments):
            r = run(*words, *["x"] * (len(arguments) + 1))
            assert r.returncode == EX_USAGE and "Too many arguments" in r.stderr, (words, r)
        for option, value in options_of(words):
            checked += 1
            r = run(*words, *given, f"--{option}") if value else run(*words, *given, f"--{option}=x")
            assert r.returncode == EX_USAGE and f"--{option}" in r.stderr, (words, option, r)
            assert r.stdout == "" and r.stderr.count("\n") == 1, (words, option, r)
    assert checked > 60, checked


# (verb and arguments, exit code, what the sentence names)
CASES = (
    (["device", "create", "a b"], EX_USAGE, '"a b" is no device id'),
    (["device", "create", ""], EX_USAGE, '"" is no device id'),
    (["device", "create", LONG], EX_USAGE, "1 to 128"),
    (["device", "create", "ä"], EX_USAGE, "is no device id"),
    (["device", "create", "new", "--primary-key", "QUFB"], EX_DATAERR, "--primary-key: no key: base64 of 16 to 64 bytes"),
    (["device", "create", "new", "--primary-key-file", "@nokey"], EX_DATAERR, "nokey: no key"),
    (["device", "create", "new", "--primary-key-file", "@absent"], EX_NOINPUT, "absent: No such file"),
    (["device", "create", "new", "--primary-key", "x", "--primary-key-file", "x"], EX_USAGE, "Either --primary-key or --primary-key-file"),
    (["device", "create", "new", "--secondary-thumbprint", "zz"], EX_USAGE, "--secondary-thumbprint: 40 or 64 hexadecimal digits"),
    (["device", "create", "new", "--primary-thumbprint", "a" * 40, "--primary-certificate", "x"], EX_USAGE,
     "Either --primary-thumbprint or --primary-certificate"),
    (["device", "create", "new", "--primary-certificate", "@nokey"], EX_DATAERR, "nokey holds no certificate in PEM form"),
    (["device", "create", "new", "--primary-certificate", "@absent"], EX_NOINPUT, "absent: No such file"),
    (["device", "create", "new", "--auth", "magic"], EX_USAGE, '--auth: "magic" is not sas, x509 or x509-ca'),
    (["device", "create", "new", "--auth", "x509"], EX_USAGE, "--auth x509 needs --primary-thumbprint or --primary-certificate"),
    (["device", "update", "d1", "--auth", "x509"], EX_USAGE, "--auth x509 needs"),
    (["device", "create", "new", "--auth", "x509-ca", "--primary-key", "QUFB"], EX_USAGE, "--auth x509-ca does not go with"),
    (["device", "create", "new", "--primary-key", "QUFB", "--primary-thumbprint", "a" * 40], EX_USAGE, "not with both"),
    (["device", "create", "new", "--parent", "nobody"], EX_NOINPUT, "parent device nobody"),
    (["device", "create", "new", "--parent", "d1"], EX_DATAERR, "d1 is no IoT Edge device"),
    (["device", "update", "d1"], EX_USAGE, "What to change is missing"),
    (["module", "update", "d1", "m1", "--force"], EX_USAGE, "What to change is missing"),
    (["device", "update", "d1", "--edge", "--no-edge"], EX_USAGE, "--edge and --no-edge exclude each other"),
    (["device", "update", "d1", "--status", "maybe"], EX_USAGE, '--status: "maybe" is neither enabled nor disabled'),
    (["device", "delete", "d1", "--etag", ""], EX_USAGE, "--etag"),
    (["device", "delete", "d1", "--etag", "nonsense"], EX_TRY_AGAIN, "was changed meanwhile"),
    (["device", "list", "--top", "0"], EX_USAGE, "--top: at least 1"),
    (["device", "list", "--top", "-1"], EX_USAGE, '--top: "-1"'),
    (["device", "renew-key", "d1", "--key", "third"], EX_USAGE, '--key: "third" is not primary, secondary, both or swap'),
    (["device", "show", "d1", "--https-port", "0"], EX_USAGE, '--https-port: "0" is out of range'),
    (["device", "show", "d1", "--ca-file", "@absent"], EX_CONFIG, "check --ca-file"),
    (["device", "show", "d1", "--ca-file", "@nokey"], EX_CONFIG, "check --ca-file"),
    (["device", "show", "d1", "--login-file", "@absent"], EX_CONFIG, "absent: No such file"),
    (["device", "show", "d1", "--login-file", "@nokey"], EX_CONFIG, "nokey"),
    (["device", "fly"], EX_USAGE, 'Unknown verb "device fly"'),
    (["device", "import", "@absent"], EX_NOINPUT, "absent: No such file"),
    (["device", "import", "--calls", "33"], EX_USAGE, "--calls: 1 to 32"),
    (["device", "import", "--mode", "magic"], EX_USAGE, '--mode: "magic" is not create'),
    (["device", "import", "--if-match"], EX_USAGE, "--if-match does not go with --mode create"),
    (["device", "export", "--calls", "0"], EX_USAGE, "--calls: 1 to 32"),
    (["device", "export", "--format", "xml"], EX_USAGE, '--format: "xml"'),
    (["device", "export", "@absent/x"], EX_CANTCREAT, "absent/x.partial"),
    (["device", "export", "--where", "nonsense ="], EX_DATAERR, "Cannot export the devices"),
    (["module", "create", "d1", "m m"], EX_USAGE, '"m m" is no module id'),
    (["device-twin", "update", "d1"], EX_USAGE, "What to change is missing: JSON, --file, --tag or --desired"),
    (["device-twin", "update", "d1", "{"], EX_DATAERR, "The change is no JSON object, at byte 1"),
    (["device-twin", "update", "d1", "[]"], EX_DATAERR, "The change is no JSON object"),
    (["device-twin", "update", "d1", '{"colour":1}'], EX_DATAERR, 'neither "tags" nor "properties"'),
    (["device-twin", "update", "d1", '{"properties":{"reported":{"a":1}}}'], EX_DATAERR, "the device's alone"),
    (["device-twin", "update", "d1", "--tag", "x"], EX_USAGE, '--tag: "x" is not of the form NAME=VALUE'),
    (["device-twin", "update", "d1", "--tag", "a=1", "--tag", "a.b=2"], EX_USAGE, "--tag a.b=2"),
    (["device-twin", "update", "d1", "--file", "@absent"], EX_NOINPUT, "absent: No such file"),
    (["device-twin", "update", "d1", "--file", "@nokey"], EX_DATAERR, "nokey is no JSON object, at byte"),
    (["device-twin", "update", "d1", "--file", "-"], EX_DATAERR, "- is no JSON object, at byte 0"),
    (["device-twin", "update", "d1", "{}", "--file", "-"], EX_USAGE, "Either the JSON or --file"),
    (["device-twin", "show", "d1", "--module", "x y"], EX_USAGE, '"x y" is no module id'),
    (["invoke", "d1", ""], EX_USAGE, '"" is no name of a method'),
    (["invoke", "d1", "m", "{"], EX_DATAERR, "The payload is no JSON, at byte 1"),
    (["invoke", "d1", "m", "--payload-file", "@nokey"], EX_DATAERR, "nokey is no JSON, at byte"),
    (["invoke", "d1", "m", "--payload-file", "@absent"], EX_NOINPUT, "absent: No such file"),
    (["invoke", "d1", "m", "1", "--payload-file", "-"], EX_USAGE, "Either the payload or --payload-file"),
    (["invoke", "d1", "m", "--timeout", "1s"], EX_USAGE, "--timeout: 5s to 300s"),
    (["invoke", "d1", "m", "--timeout", "soon"], EX_USAGE, '--timeout: "soon" is no span of time'),
    (["invoke", "d1", "m", "--connect-timeout", "60s"], EX_USAGE, "--connect-timeout: not more than --timeout"),
    (["query", ""], EX_DATAERR, "a query begins with SELECT"),
    (["query", "SELECT * FROM nowhere"], EX_DATAERR, "Cannot query the hub"),
    (["query", "SELECT * FROM devices", "--page-size", "10001"], EX_USAGE, "--page-size: 1 to 10000"),
    (["sas", "--lifetime", "0"], EX_USAGE, "--lifetime"),
    (["sas", "--secondary"], EX_USAGE, "--secondary is for the token of a device or module"),
    (["sas", "a b"], EX_USAGE, '"a b" is no device id'),
    (["c2d", "purge", "a b"], EX_USAGE, '"a b" is no device id'),
    (["c2d", "send", "a b", "x"], EX_USAGE, '"a b" is no device id'),
    (["c2d", "send", "d1", "x", "--ack", "maybe"], EX_USAGE, '--ack: "maybe"'),
    (["c2d", "send", "d1", "x", "--property", "a"], EX_USAGE, '--property: "a" is not of the form NAME=VALUE'),
    (["c2d", "send", "d1", "x", "--file", "-"], EX_USAGE, "Either the body or --file"),
    (["monitor", "--from", "someday"], EX_USAGE, '--from: "someday" is none of'),
    (["monitor", "--content", "xml"], EX_USAGE, '--content: "xml" is none of'),
    (["monitor", "--properties", "none"], EX_USAGE, '--properties: "none"'),
    (["monitor", "a b"], EX_USAGE, '"a b" is no device id'),
)


@test
def bad_values_are_named_and_nothing_is_done(folder):
    nokey = os.path.join(folder, "nokey")
    with open(nokey, "w", encoding="utf-8") as f:
        f.write("no key, no JSON\n")
    with Hub(folder) as hub:
        hub.ctl("device", "create", "d1")
        hub.ctl("module", "create", "d1", "m1")
        before = hub.ctl("device", "show", "d1", "--json").stdout, hub.ctl("device-twin", "show", "d1", "--json").stdout
        for arguments, exit_code, text in CASES:
            arguments = [os.path.join(folder, a[1:]) if a.startswith("@") else a for a in arguments]
            base = ["--login-file", hub.login_file, "--ca-file", hub.ca_file, "--https-port", str(hub.https_port)]
            r = run(*base, *arguments)  # options that come later count
            assert r.returncode == exit_code and text in r.stderr, (arguments, exit_code, text, r)
            assert all(line.startswith("iothubctl: ") for line in r.stderr.splitlines()), r
        assert before == (hub.ctl("device", "show", "d1", "--json").stdout, hub.ctl("device-twin", "show", "d1", "--json").stdout)
        assert len(hub.ctl("device", "list", "--json").stdout.splitlines()) == 1


JSON_LINES = (
    ("nonsense", "line 2: it is no JSON object"),
    ("[]", "line 2: it is no JSON object"),
    ('{"id":"a"} x', "line 2: it is no JSON object"),
    ("{}", 'line 2: "id" is missing, or no id'),
    ('{"id":5}', 'line 2: "id" is missing, or no id'),
    ('{"id":"a b"}', 'line 2: "id" is missing, or no id'),
    ('{"id":"' + "a" * 300000 + '"}', "line 2: it is longer than 256 KiB"),
    ('{"id":"a","status":"maybe"}', "a: a value is not allowed (400004 ArgumentInvalid): status is neither enabled nor disabled"),
    ('{"id":"a","authentication":5}', "a: a value is not allowed (400004 ArgumentInvalid): authentication is not an object"),
    ('{"id":"a","tags":[]}', "a: a value is not allowed (400004 ArgumentInvalid): tags"),
)
CSV_LINES = (
    ("", None),
    ("a,b,c", "line 3: there are more fields than columns"),
    ('"a', "line 3: a quote without its end"),
    ("a b,", 'line 3: "id" is missing, or no id'),
    (",x", 'line 3: "id" is missing, or no id'),
)


@test
def a_bad_line_of_import_is_named_and_the_others_are_done(folder):
    path = os.path.join(folder, "in")
    with Hub(folder) as hub:
        for n, (line, text) in enumerate(JSON_LINES):
            with open(path, "w", encoding="utf-8") as f:
                f.write(f'{{"id":"g{n}"}}\n{line}\n{{"id":"h{n}"}}\n')
            r = hub.ctl("device", "import", path, check=False)
            assert r.returncode == EX_DATAERR and r.stdout.startswith("2 done, 0 were so already, 1 failed"), (line[:40], r)
            assert text in r.stderr, (line[:40], text, r)
            with open(path + ".failed", encoding="utf-8") as f:
                kept = f.read()
            if text.startswith("a: "):  # what the hub refuses is kept with the reason, what cannot be read as it was
                assert json.loads(kept)["importError"] in r.stderr
            else:
                assert kept == line + "\n", (line[:40], kept[:40])
        for n, (line, text) in enumerate(CSV_LINES):
            with open(path, "w", encoding="utf-8") as f:
                f.write(f"id,statusReason\nv{n},\n{line}\nw{n},\n")
            r = hub.ctl("device", "import", path, check=False)
            assert r.returncode == (EX_DATAERR if text else 0) and r.stdout.startswith("2 done"), (line, r)
            assert not text or text in r.stderr, (line, text, r)
        for header, text in (("colour,id", "must name the columns"), ("primaryKey", 'no column "id"')):
            r = hub.ctl("device", "import", input=f"{header}\nx,y\n", check=False)
            assert r.returncode == EX_DATAERR and "line 1: " in r.stderr and text in r.stderr, (header, r)
        r = hub.ctl("device", "import", input="")
        assert "The input is empty" in r.stderr and r.stdout.startswith("0 done"), r


if __name__ == "__main__":
    main()
