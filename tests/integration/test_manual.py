#!/usr/bin/env python3
"""Goal: the manual says what the programs do, no more and no less. The pages are held against lib/iothubd.varlink, the
tables of settings and options, --help and the sources, in both directions."""
import os
import re
import shutil
import subprocess

import harness
from harness import SOURCE, Skip, test

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


if __name__ == "__main__":
    harness.main()
