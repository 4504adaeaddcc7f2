#!/usr/bin/env python3
"""Goal: the manual says what the programs do, no more and no less. The pages are held against lib/iothubd.varlink, the
tables of settings and options, --help and the sources, in both directions."""
import os
import re
import shutil
import subprocess

import harness
from harness import EMULATOR, IOTHUBCTL, IOTHUBD, SOURCE, Skip, test

PAGES = ("iothubd.8", "iothubd.conf.5", "iothubctl.1", "iothub-emulator.1", "iothubd-protocol.7")


def read(*path):
    with open(os.path.join(SOURCE, *path), encoding="utf-8") as f:
        return f.read()


def same(what, programs, page):
    """Fails when the two sets differ, with what is missing where."""
    missing, foreign = sorted(set(programs) - set(page)), sorted(set(page) - set(programs))
    assert not missing and not foreign, f"{what}: not in the manual: {missing}; in the manual only: {foreign}"


# ---- pages ----


def sections(name):
    """{(section, subsection or ""): lines} of a page; lines without comments."""
    found = {}
    key = ("", "")
    for line in read("man", name).splitlines():
        if line.startswith('.\\"'):
            continue
        if line.startswith(".Sh "):
            key = (title(line), "")
        elif line.startswith(".Ss "):
            key = (key[0], title(line))
        else:
            found.setdefault(key, []).append(line)
            continue
        assert key not in found, f"{name}: {key} is there twice"
        found[key] = []
    return found


def title(line):
    return line[4:].replace("\\&", "").replace('"', "")


def subsections(page, section):
    return {sub: lines for (name, sub), lines in page.items() if name == section and sub}


def section(page, name):
    """All lines of a section, those of its subsections among them."""
    return [line for (part, _), lines in page.items() if part == name for line in lines]


def heads(lines):
    """[(head, lines of its text)] of the items of lists."""
    found = []
    for line in lines:
        if line.startswith(".It "):
            found.append((line[4:], []))
        elif found:
            found[-1][1].append(line)
    return found


def names(text, macro):
    """The arguments of a macro in a line, up to the next macro: ".Va a , b" has a and b."""
    found = []
    inside = False
    for word in text.split():
        if word.lstrip(".") == macro:
            inside = True
        elif re.fullmatch(r"\.?[A-Z][a-z]", word):
            inside = False
        elif inside and re.search(r"\w", word):
            found.append(word)
    return found


# ---- form ----


@test
def mandoc_finds_nothing_to_say():
    if not shutil.which("mandoc"):
        raise Skip("no mandoc on this machine")
    for page in PAGES:
        result = subprocess.run(
            ["mandoc", "-T", "lint", "-W", "style", os.path.join(SOURCE, "man", page)], capture_output=True, text=True
        )
        # Whether a manual that is referred to is installed here, and when its index was made, is no fault of the page.
        said = [
            line
            for line in (result.stdout + result.stderr).splitlines()
            if "referenced manual not found" not in line and "outdated mandoc.db" not in line
        ]
        assert not said, "\n".join(said)


@test
def man_warns_of_nothing():
    if not shutil.which("man") or not shutil.which("groff"):
        raise Skip("no man-db or groff on this machine")
    for page in PAGES:
        result = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", os.path.join(SOURCE, "man", page)],
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
        )
        assert result.returncode == 0 and not result.stderr, result.stderr


@test
def every_page_that_is_written_is_checked_and_installed():
    same("pages", PAGES, [name for name in os.listdir(os.path.join(SOURCE, "man")) if re.search(r"\.[1-9]$", name)])
    same("installed pages", PAGES, re.findall(r"'([\w.-]+\.[1-9])'", read("man", "meson.build")))


# ---- iothubd-protocol(7) ----


def interface():
    """The interface's methods, types and errors: {kind: {name: what stands in its parentheses}}."""
    text = re.sub(r"#.*", "", read("lib", "iothubd.varlink"))
    found = {"method": {}, "type": {}, "error": {}}
    for kind, name, body in re.findall(r"^(method|type|error) (\w+) ?(\(.*?\)(?:\s*->\s*\(.*?\))?)$", text, re.M | re.S):
        found[kind][name] = body
    return found


def fields(body):
    """{(name, whether it is optional)}"""
    return {(name, bool(optional)) for name, optional in re.findall(r"(\w+):\s*(\??)", body)}


def fields_in(lines):
    """The same of a page: ".Va name", in ".Op" where optional anywhere."""
    optional, all_names = set(), set()
    for line in lines:
        if re.match(r"\.(It )?Op Va ", line):
            optional.update(names(line, "Va"))
        if re.match(r"\.(It )?(Op )?Va ", line):
            all_names.update(names(line, "Va"))
    return {(name, name in optional) for name in all_names}


@test
def the_protocol_page_has_every_method_with_its_arguments_and_results():
    page = subsections(sections("iothubd-protocol.7"), "METHODS")
    methods = interface()["method"]
    same("methods", methods, page)
    assert len(methods) >= 6
    for name, body in methods.items():
        same(f"{name}: arguments and results (name, optional)", fields(body), fields_in(page[name]))


@test
def the_protocol_page_has_every_type_with_its_fields():
    page = subsections(sections("iothubd-protocol.7"), "TYPES")
    types = interface()["type"]
    same("types", types, page)
    for name, body in types.items():
        if ":" in body:
            items = [".It " + head for head, _ in heads(page[name])]
            same(f"{name}: fields (name, optional)", fields(body), fields_in(items))
        else:
            items = [value for head, _ in heads(page[name]) for value in names(head, "Li")]
            same(f"{name}: values", re.findall(r"\w+", body), items)


@test
def the_protocol_page_has_every_error_with_its_fields():
    page = {names(head, "Li")[0]: lines for head, lines in heads(section(sections("iothubd-protocol.7"), "ERROR NAMES"))}
    errors = interface()["error"]
    same("errors", errors, page)
    for name, body in errors.items():
        # The text below the last one goes on with other things.
        lines = page[name][: page[name].index(".El")] if ".El" in page[name] else page[name]
        same(f"{name}: fields", fields(body), fields_in(lines))


@test
def the_protocol_page_shows_the_example_files_as_they_are():
    result = subprocess.run([os.path.join(SOURCE, "scripts", "embed-examples"), "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shown = re.findall(r'^\.\\" begin docs/examples/(\S+)$', read("man", "iothubd-protocol.7"), re.M)
    same("examples", os.listdir(os.path.join(SOURCE, "docs", "examples")), shown)
    same("installed examples", shown, re.findall(r"'examples/(\S+)'", read("docs", "meson.build")))


@test
def the_examples_can_be_copied_from_the_page():
    if not shutil.which("mandoc"):
        raise Skip("no mandoc on this machine")
    rendered = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=200", os.path.join(SOURCE, "man", "iothubd-protocol.7")],
        capture_output=True, text=True, check=True,
    ).stdout
    lines = [line.strip() for line in re.sub(r".\x08", "", rendered).splitlines()]
    for name in os.listdir(os.path.join(SOURCE, "docs", "examples")):
        wanted = [line.strip() for line in read("docs", "examples", name).splitlines()]
        start = lines.index(wanted[0])
        assert lines[start : start + len(wanted)] == wanted, name


# ---- options, verbs ----


def sources(*folders):
    """{path: text} of the C files of these folders."""
    return {
        f"{folder}/{name}": read(folder, name)
        for folder in folders
        for name in os.listdir(os.path.join(SOURCE, folder))
        if name.endswith(".c")
    }


def run_help(program, *arguments):
    result = subprocess.run([program, *arguments, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    return result.stdout


def options_in(lines):
    """{"-p", "--property"} that the items of lists in a page describe; both spellings of mdoc are understood."""
    found = set()
    for head, _ in heads(lines):
        for word in re.findall(r"(?:^|[ ,])Fl (Fl )?(-?[\w-]+)", head):
            name = word[1].lstrip("-")
            found.add(f"--{name}" if word[0] or word[1].startswith("-") else f"-{name}")
    return found


def getopt_table(text):
    """The same of a call of getopt_long()."""
    (table,) = re.findall(r"struct option \w+\[\] = \{(.*?)\n +\};", text, re.DOTALL)
    (letters,) = re.findall(r'getopt_long\(argc, argv, "([^"]*)"', text)
    return {f"--{name}" for name in re.findall(r'\{ "([\w-]+)"', table)} | {
        f"-{letter}" for letter in re.findall(r"\w", letters)
    }


def check_options(page, help_text, table):
    described = options_in(section(page, "DESCRIPTION"))
    same("options of getopt_long()", table, described)
    shown = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", help_text))
    same("long options of --help", shown, {option for option in table if option.startswith("--")})


@test
def iothubd_8_has_every_option():
    check_options(sections("iothubd.8"), run_help(IOTHUBD), getopt_table(read("daemon", "main.c")))


@test
def iothub_emulator_1_has_every_option():
    check_options(sections("iothub-emulator.1"), run_help(EMULATOR), getopt_table(read("emulator", "main.c")))


@test
def iothub_emulator_1_has_every_trouble():
    lines = section(sections("iothub-emulator.1"), "TROUBLE ON REQUEST")
    text = run_help(EMULATOR, "ctl").partition("VERB")[2]
    verbs_of_page = {names(head, "Cm")[0] for head, _ in heads(lines) if head.startswith("Cm ")}
    same("verbs of ctl", re.findall(r"^  ([a-z][a-z0-9-]*) ", text, re.MULTILINE), verbs_of_page)
    shown = {word.lstrip("-") for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)} | {"state", "help"}
    same("options of ctl", shown, {word[1:] for line in lines for word in re.findall(r"\bFl (-[a-z-]+)", line)})


def help_options(text):
    """Of a part of iothubctl's --help."""
    found = set()
    for letter, name in re.findall(r"^ +(?:-(\w), +)?--([\w-]+)", text, re.MULTILINE):
        found.update({f"--{name}"} | ({f"-{letter}"} if letter else set()))
    return found


def verbs():
    """{verb: its own options} as iothubctl itself tells; the general ones under ""."""
    text = run_help(IOTHUBCTL)
    common = help_options(text.partition("Options of every verb:")[2])
    found = {"": common}
    for line in re.findall(r"^  ([a-z].*?)  +\S", text.partition("Options of every verb:")[0], re.MULTILINE):
        verb = " ".join(re.match(r"(?:[a-z][a-z0-9-]* ?)+", line)[0].split())
        own, _, _ = run_help(IOTHUBCTL, *verb.split()).partition("Options of every verb:")
        found[verb] = help_options(own)
    return found


def page_verbs():
    """The same of the page: subsections "iothubctl VERB ..."; several may concern one verb."""
    page = sections("iothubctl.1")
    found = {"": options_in(page["DESCRIPTION", ""])}
    known = sorted(verbs(), key=len, reverse=True)
    for (_, sub), lines in page.items():
        if sub.startswith("iothubctl "):
            words = sub.removeprefix("iothubctl ")
            verb = next((v for v in known if v and re.match(rf"{re.escape(v)}\b", words)), words)
            found[verb] = found.get(verb, set()) | options_in(lines)
    return found


@test
def iothubctl_1_has_every_verb_with_its_options():
    programs, page = verbs(), page_verbs()
    assert len(programs) >= 9, programs
    same("verbs", programs, page)
    for verb, options in programs.items():
        same(f"options of {verb or 'every verb'}", options, page[verb])


@test
def the_synopsis_of_iothubctl_names_every_verb():
    lines = " ".join(section(sections("iothubctl.1"), "SYNOPSIS"))
    # ".Cm device create | show" stands for "device create" and "device show".
    found = set()
    for group, rest in re.findall(r"\.Cm ([a-z0-9-]+)([a-z0-9 |-]*)", lines):
        found.update({f"{group} {word}" for word in re.findall(r"[a-z][a-z0-9-]*", rest)} or {group})
    same("verbs", set(verbs()) - {""}, found)


# ---- settings ----


@test
def iothubd_conf_5_has_every_setting_where_it_belongs():
    """Their defaults are compared by the unit test of daemon/config.c."""
    programs = set()
    for group, name in re.findall(r'ROW\((NULL|"\w+"), "(\w+)"', read("daemon", "config.c")):
        programs.add(f"{group.strip(chr(34))}.{name}".removeprefix("NULL."))
    assert len(programs) >= 30, programs
    page = set()
    for (name, sub), lines in sections("iothubd.conf.5").items():
        if name == "SETTINGS":
            page.update(f"{sub}.{names(head, 'Va')[0]}".lstrip(".") for head, _ in heads(lines) if "Va " in head)
    same("settings", programs, page)


@test
def iothubd_conf_5_tells_what_is_allowed_as_the_daemon_does():
    text = read("daemon", "config.c")
    rows = re.findall(r'ROW\((?:NULL|"\w+"), "(\w+)", (?:"(?:[^"\\]|\\.)*"), "((?:[^"\\]|\\.)*)"', text)
    items = {names(head, "Va")[0]: " ".join(lines) for head, lines in heads(section(sections("iothubd.conf.5"), "SETTINGS"))}
    assert len(rows) >= 30
    for name, allowed in rows:
        wanted = f"Allowed: {allowed}.".replace('\\"', "\\(dq")
        assert wanted in items[name], f"{name}: not in the manual: {wanted}"


# ---- exit codes, environment, signals ----


def exit_codes(texts, aliases=""):
    """The numbers that the sources end with, by the names of sysexits.h and stdlib.h."""
    known = {"EXIT_SUCCESS": 0, "EXIT_FAILURE": 1}
    known.update({name: getattr(os, name) for name in dir(os) if name.startswith("EX_")})
    known.update({name: known[other] for name, other in re.findall(r"#define (EXIT_\w+) (EX_\w+)", aliases)})
    return {known[name] for text in texts for name in re.findall(r"\b(?:EX|EXIT)_[A-Z_]+\b", text)}


def page_exit_codes(page):
    return {int(head) for head, _ in heads(section(page, "EXIT STATUS")) if head.isdigit()}


@test
def the_pages_have_every_exit_code():
    for page, texts, aliases in (
        ("iothubd.8", [read("daemon", "main.c")], ""),
        ("iothubctl.1", sources("client").values(), read("client", "output.h")),
        ("iothub-emulator.1", sources("emulator").values(), ""),
    ):
        same(f"{page}: exit codes", exit_codes(texts, aliases), page_exit_codes(sections(page)))


# What a library or a service manager's call reads, with the call by which a program comes to read it.
READ_BY_LIBRARIES = {
    "sd_listen_fds(": {"LISTEN_FDS"},
    "sd_watchdog_enabled(": {"WATCHDOG_USEC"},
    "sd_notify(": {"NOTIFY_SOCKET"},
    "curl_easy_init(": {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"},
    "X509_get_default_cert_dir_env()": {"SSL_CERT_DIR"},
    "X509_get_default_cert_file_env()": {"SSL_CERT_FILE"},
}


@test
def the_pages_have_every_variable_of_the_environment():
    for page, folder in (("iothubd.8", "daemon"), ("iothubctl.1", "client"), ("iothub-emulator.1", "emulator")):
        programs = set()
        for text in sources(folder).values():
            programs.update(re.findall(r'getenv\("(\w+)"\)', text))
            for call, variables in READ_BY_LIBRARIES.items():
                if call in text:
                    programs.update(variables)
        lines = section(sections(page), "ENVIRONMENT")
        same(f"{page}: variables", programs, {name for head, _ in heads(lines) for name in names(head, "Ev")})


@test
def the_pages_have_every_signal():
    for page, texts in (
        ("iothubd.8", [read("daemon", "main.c")]),
        ("iothub-emulator.1", [read("emulator", "main.c")]),
    ):
        programs = {name for text in texts for name in re.findall(r"sigaddset\(&\w+, (SIG\w+)\)", text)}
        lines = section(sections(page), "SIGNALS")
        same(f"{page}: signals", programs, {name for head, _ in heads(lines) for name in names(head, "Dv")})


# ---- the journal ----


def diagnostics():
    """{head: text} of all items of DIAGNOSTICS of iothubd(8)."""
    lines = section(sections("iothubd.8"), "DIAGNOSTICS")
    return {name: " ".join(text) for head, text in heads(lines) for name in names(head, "Li")}


@test
def iothubd_8_has_every_message_id_with_its_subject():
    catalog = re.findall(r"^-- (\w{32})\nSubject: (.*)$", read("systemd", "iothubd.catalog"), re.MULTILINE)
    assert len(catalog) >= 16
    page = {name: text for name, text in diagnostics().items() if re.fullmatch(r"[0-9a-f]{32}", name)}
    same("message ids", dict(catalog), page)
    for message_id, subject in catalog:
        assert page[message_id].startswith(f"{subject}."), f"{message_id}: {page[message_id]}, not {subject}"


@test
def iothubd_8_has_every_field_of_the_journal():
    programs = {name for text in sources("daemon").values() for name in re.findall(r'"(IOTHUBD_\w+|ERRNO)=', text)}
    page = {name for name in diagnostics() if re.fullmatch(r"[A-Z_]+", name)}
    same("fields", programs, page)


@test
def iothubd_8_says_what_to_do_about_every_class_of_error():
    (text,) = [text for text in sources("daemon").values() if re.search(r"\[UPLINK_ERROR_DNS\] = ", text)]
    classes = re.findall(r'\[UPLINK_ERROR_\w+\] = (?:\{\s*\.name = )?"([\w-]+)"', text)
    assert len(classes) >= 10, classes
    same("classes", classes, {name for name in diagnostics() if re.fullmatch(r"[a-z-]+", name) and len(name) < 32})


if __name__ == "__main__":
    harness.main()
