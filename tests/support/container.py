"""container.py: a Debian tree made by debootstrap, and a machine that systemd-nspawn boots from a copy of it.

A tree is made once for each release and list of packages, in a folder below /var/tmp that may be deleted at any time.
The machine shares the network of the host, so that it reaches an emulator on 127.0.0.1; its files are a copy that is
gone afterwards. Commands run in it by nsenter(1): nothing of ours has to be installed there but what is tested.
"""
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import leaks
from harness import DEADLINE_SEC, Notify, Skip, wait_until

CACHE = "/var/tmp/iothubd-tests"
TOOLS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv")


def os_release():
    """(id, code name) of this machine's release, such as ("debian", "bookworm")."""
    with open("/etc/os-release", encoding="utf-8") as f:
        values = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', f.read(), re.MULTILINE))
    return values.get("ID"), values.get("VERSION_CODENAME")


def check_means():
    """Skips where this machine cannot make or enter a tree."""
    if os.getuid() != 0:
        raise Skip("only root can make and boot a container")
    for name in TOOLS:
        if not shutil.which(name):
            raise Skip(f"no {name} on this machine")


def libraries_of(*programs):
    """The packages that hold the shared libraries of the programs, as dpkg knows them."""
    paths = set()
    for program in programs:
        output = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        paths.update(re.findall(r"=> (/\S+)", output))
    # The database names some files by /lib and some by /usr/lib; both are one folder.
    names = {name for path in paths for name in (path, f"/usr{path}", path.removeprefix("/usr"))}
    found = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True, check=False).stdout
    packages = dict(line.rsplit(": ", 1)[::-1] for line in found.splitlines())
    owners = set()
    for path in paths:
        holder = packages.get(path) or packages.get(f"/usr{path}") or packages.get(path.removeprefix("/usr"))
        if not holder:
            raise AssertionError(f"no package holds {path}")
        owners.add(holder.split(":")[0])
    return sorted(owners)


def package_source(release):
    """Where this machine gets its packages from, for debootstrap; its own default where apt does not say."""
    result = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    )
    sources = [line.split() for line in result.stdout.splitlines()]
    own = [s[0] for s in sources if len(s) == 2 and s[1] in (release, os_release()[1])]
    return own[:1]


def cache_folder():
    """Root's own, because what lies in there is booted as root."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(CACHE, 0o700)
    s = os.lstat(CACHE)
    if not stat.S_ISDIR(s.st_mode) or s.st_uid != 0 or s.st_mode & 0o077:
        raise AssertionError(f"{CACHE} is not a folder of root's alone")
    return CACHE


@contextlib.contextmanager
def locked(name):
    fd = os.open(os.path.join(cache_folder(), f"{name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def base_tree(release, packages):
    """Path of the tree, made now if it is missing. Skips where debootstrap does not get to its end."""
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    name = f"{release}-{key}"
    path = os.path.join(cache_folder(), name)
    with locked(name):
        if os.path.isdir(path):
            return path
        new = f"{path}.new"
        shutil.rmtree(new, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase"]
        if packages:
            command.append(f"--include={','.join(packages)}")
        result = subprocess.run(
            [*command, release, new, *package_source(release)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )
        if result.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise Skip(f"debootstrap {release}: {(result.stdout.strip().splitlines() or ['no reason given'])[-1]}")
        shutil.rmtree(f"{new}/var/cache/apt/archives", ignore_errors=True)
        os.rename(new, path)
    return path


def _remove_stale():
    """What a test that was killed left behind: nobody holds its lock any more."""
    for name in os.listdir(CACHE):
        path = os.path.join(CACHE, name)
        if not name.startswith("run.") or not os.path.isdir(path):
            continue
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


@contextlib.contextmanager
def copy_of(base):
    """A folder with a copy of the tree in "root", locked while in use and then removed."""
    _remove_stale()
    folder = tempfile.mkdtemp(prefix="run.", dir=cache_folder())
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        subprocess.run(["cp", "-a", "--reflink=auto", base, f"{folder}/root"], check=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


class Result:
    def __init__(self, code, output):
        self.code = code
        self.output = output


class Machine:
    """A booted tree. Everything run by run() is told to the story, a list of lines."""

    def __init__(self, folder):
        self.folder = folder
        self.root = os.path.join(folder, "root")
        self.log_path = os.path.join(folder, "nspawn.log")
        self.process = self.notify = self.journal = None
        self.story = []

    # -- boot and end --

    def boot(self):
        """Returns when the machine's own systemd says that it is up. Skips where no container gets that far."""
        try:
            self._start()
        except ChildProcessError as e:
            raise Skip(f"no container boots here: {e}") from None

    def _start(self):
        self.notify = Notify(self.folder, "nspawn.notify")
        # A host with systemd gives the container a scope of its own; elsewhere it stays where we are.
        unit = [] if os.path.isdir("/run/systemd/system") else ["--keep-unit"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--register=no", *unit,
                 "--directory", self.root, "--machine", f"iothubd-test-{os.getpid()}", 
                 "--notify-ready=yes", "--resolv-conf=off", "--timezone=off", "--boot"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": self.notify.path},
            )
        def up():
            if self.process.poll() is not None:
                raise ChildProcessError(f"systemd-nspawn ended with {self.process.returncode}: {self.log()[-500:]}")
            return "READY=1" in self.notify.messages

        wait_until(up, lambda: f"the container is up: {self.log()[-500:]}")
        self.journal = Journal(self)

    def reboot(self):
        """The machine boots again by its own will. nspawn starts it anew itself, or ends with 133 for whoever started
        it to do so (systemd-nspawn(1), --keep-unit)."""
        self.journal.close()
        n_boots = self.notify.messages.count("READY=1")
        self.run("systemctl", "reboot", check=False, tell=False)  # the way back may be gone first
        wait_until(lambda: self.notify.messages.count("READY=1") > n_boots or self.process.poll() is not None,
                   "the machine reboots")
        if self.process.poll() is None:
            self.journal = Journal(self)
            return
        assert self.process.returncode == 133, f"systemd-nspawn ended with {self.process.returncode}"
        self.notify.close()
        self._start()

    def power_off(self):
        if not self.process:
            return
        if self.journal:
            self.journal.close()
        if self.process.poll() is None:
            self.process.terminate()  # nspawn asks the machine to power off
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        self.notify.close()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    # -- inside --

    @property
    def leader(self):
        """Process id, here, of the machine's process 1."""
        return [m for m in self.notify.messages if m.startswith("X_NSPAWN_LEADER_PID=")][-1].split("=")[1]

    def command(self, *command, user=None):
        """The command line that runs a command inside."""
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        return ["nsenter", "--target", self.leader, "--all", "--", *as_user, *command]

    def popen(self, *command, user=None, **kwargs):
        self.story.append(f"{user or 'root'}@gateway {'$' if user else '#'} {' '.join(command)}   (goes on)")
        return subprocess.Popen(self.command(*command, user=user), env=INSIDE_ENVIRONMENT, **kwargs)

    def run(self, *command, user=None, check=True, tell=True, text=None):
        """Runs a command to its end; output is standard output and error together. text: its standard input."""
        kwargs = {"input": text} if text is not None else {"stdin": subprocess.DEVNULL}
        result = subprocess.run(
            self.command(*command, user=user), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            errors="replace", timeout=DEADLINE_SEC, env=INSIDE_ENVIRONMENT, **kwargs,
        )
        if tell:
            pipe = f"echo '{text.strip()}' | " if text and text.count("\n") <= 1 else ""
            self.story.append(f"{user or 'root'}@gateway {'$' if user else '#'} {pipe}{' '.join(command)}")
            self.story += [f"    {line}" for line in result.stdout.splitlines()]
            if result.returncode != 0:
                self.story.append(f"    (exit code {result.returncode})")
        leaks.check_text(result.stdout, f"output of {' '.join(command)}")
        if check and result.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {result.returncode}: {result.stdout.strip()}")
        return Result(result.returncode, result.stdout)

    def property_of(self, unit, name):
        return self.run("systemctl", "show", "--property", name, "--value", unit, tell=False).output.strip()

    def path(self, path):
        return f"{self.root}{path}"

    def write(self, path, text, mode=0o644, group=None):
        """A file of root's; group: a name of the machine's own."""
        os.makedirs(os.path.dirname(self.path(path)), exist_ok=True)
        with open(self.path(path), "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), mode)
            if group:
                os.fchown(f.fileno(), 0, self.group_id(group))
            f.write(text)

    def group_id(self, name):
        with open(self.path("/etc/group"), encoding="utf-8") as f:
            return int(re.search(rf"^{name}:[^:]*:(\d+):", f.read(), re.MULTILINE)[1])

    def user_id(self, name):
        with open(self.path("/etc/passwd"), encoding="utf-8") as f:
            return int(re.search(rf"^{name}:[^:]*:(\d+):", f.read(), re.MULTILINE)[1])

    def connect(self, path, user):
        """A connection that a user of the machine made: a child becomes that user, connects, and hands it over."""
        uid, gid = self.user_id(user), self.group_id("iothub")
        root = f"/proc/{self.leader}/root"
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(OSError):
                os.chroot(root)
                os.setgroups([gid])
                os.setgid(uid)
                os.setuid(uid)
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.connect(path)
                socket.send_fds(there, [b"."], [connection.fileno()])
                code = 0
            os._exit(code)
        there.close()
        with here:
            _, fds, _, _ = socket.recv_fds(here, 1, 1)
        assert os.waitpid(pid, 0)[1] == 0 and fds, f"{user} cannot connect to {path}"
        return socket.socket(fileno=fds[0])


# The programs inside get nothing from the test's own environment.
INSIDE_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
                      "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}


class Journal:
    """Follows the machine's journal from its beginning."""

    def __init__(self, machine):
        self.entries = []
        self.process = subprocess.Popen(
            machine.command("journalctl", "--follow", "--no-tail", "--output=json", "--all"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=INSIDE_ENVIRONMENT,
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                self.entries.append(json.loads(line))

    def mark(self):
        """A place to wait from; what was logged before a call that has returned may still come later."""
        return len(self.entries)

    def messages(self, since=0):
        """(unit, message) of each entry; systemd's own lines count for the unit that they are about."""
        return [
            (e.get("UNIT") or e.get("_SYSTEMD_UNIT") or "", str(e.get("MESSAGE", ""))) for e in self.entries[since:]
        ]

    def wait(self, pattern, unit="iothubd.service", since=0):
        def found():
            return [m for u, m in self.messages(since) if u == unit and re.search(pattern, m)]

        return wait_until(found, lambda: f"a line /{pattern}/ of {unit}; there is {self.messages(since)[-20:]}")[0]

    def close(self):
        for pid in leaks.processes_of(self.process.pid):  # nsenter has forked, to be inside
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.thread.join()
