#!/usr/bin/env python3
"""Goal: promise P7, keys stay put. The other files hand everything that they let the programs write to
tests/support/leaks.py; here are the cases that they do not meet, at the most talkative level, and the proof that the
check finds what it looks for."""
import base64
import os
import re
import subprocess

import harness
import leaks
from harness import IOTHUBD, Daemon, Hub, Setup, Varlink, VarlinkError, test, wait_until

KEY = base64.b64encode(b"thirty-two bytes of a device key").decode()
DEBUG = {"log_level": "debug"}


def leaks_found(action):
    try:
        action()
    except leaks.Leak as e:
        return str(e)
    return None


def write_log(folder, text):
    with open(os.path.join(folder, "noisy.log"), "a", encoding="utf-8") as f:
        f.write(text + "\n")


@test
def a_secret_in_a_log_is_found_in_each_of_its_forms(folder):
    """The check itself: written on purpose, found, and not shown."""
    leaks.keep_connection_string(f"HostName=localhost;DeviceId=noisy;SharedAccessKey={KEY}")
    leaks.keep_payload("a reading that is nobody's business")
    token = "SharedAccessSignature sr=h%2Fdevices%2Fd&sig=pZ0VqPqvRkEZk3n1jR%2FxkQ%3D%3D&se=1"
    pem = "-----BEGIN " + "PRIVATE KEY-----"
    for text in (
        f"SharedAccessKey={KEY}", f"key {KEY}", f"key {KEY.replace('=', '%3D')}", token, pem,
        f"key {base64.b64decode(KEY).hex()}", "got a reading that is nobody's business, sending",
    ):
        write_log(folder, f"one line\n{text}\nanother line")
        found = leaks_found(lambda: leaks.check_folder(folder))
        os.unlink(os.path.join(folder, "noisy.log"))
        assert found and "noisy.log" in found, text
        assert KEY not in found and "reading" not in found, "the failure tells the secret"
    write_log(folder, "HostName=localhost;DeviceId=noisy;SharedAccessKey=...")
    leaks.check_folder(folder)


@test
def a_file_that_everybody_may_read_is_searched_for_keys(folder):
    leaks.keep_key(KEY, "the key of noisy")
    path = os.path.join(folder, "state")
    with open(path, "w", encoding="utf-8") as f:
        f.write(KEY)
    os.chmod(path, 0o644)
    found = leaks_found(lambda: leaks.check_folder(folder))
    assert found and "state" in found
    os.chmod(path, 0o640)
    leaks.check_folder(folder)


@test
def a_key_on_a_command_line_is_found():
    leaks.keep_key(KEY, "the key of noisy")
    command = ["sh", "-c", "echo; read line", KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = leaks_found(lambda: leaks.check_processes(process.pid))
        process.stdin.close()
    assert found, "it was not"


@test
def the_daemon_dumps_no_core_and_nobody_traces_it(folder):
    with Daemon(folder) as d:
        with open(f"/proc/{d.process.pid}/limits", encoding="utf-8") as f:
            assert re.search(r"^Max core file size +0 +0 ", f.read(), re.MULTILINE)
        # Of a process that is not dumpable the files of /proc are root's, whoever runs it (proc(5)).
        assert os.stat(f"/proc/{d.process.pid}/environ").st_uid == 0


@test
def the_most_talkative_log_holds_no_key_token_or_message(folder):
    """Connect, refusal, renewal, delivery, a message that the hub will never take, and a stop."""
    with Setup(folder, settings={**DEBUG, "uplink": {"token_lifetime": "61s"}}) as s:
        s.send([f"nobody is to read reading {i} in a log" for i in range(50)], "--wait",
               "--property", "location=a property is part of it", "--correlation-id", "and so is an id of the sender's")
        leaks.keep_payload("a property is part of it")
        with Varlink(s.daemon.socket) as v:
            for message in ({"body": "a body of a faulty call", "lane": "none such"}, {"body": 5}, {"bodyy": "x"}):
                leaks.keep_payload(str(message.get("body", "")))
                try:
                    v.call("io.iothubd.Send", {"messages": [message]})
                    raise AssertionError("a faulty call was taken")
                except VarlinkError:
                    pass
        s.daemon.wait_queue_empty()
        s.daemon.stop()
        with open(s.daemon.settings["connection_string_file"], "w", encoding="utf-8") as f:
            f.write(f"HostName=localhost;DeviceId={s.device};SharedAccessKey={KEY}\n")
        leaks.keep_key(KEY, "the wrong key")
        s.daemon.start()
        wait_until(lambda: (s.daemon.status().get("retry") or {}).get("failures", 1) and "refus" in s.daemon.log(),
                   "a refusal")


@test
def a_malformed_connection_string_is_not_told(folder):
    """Each of these is wrong in its own way, and each holds a key."""
    leaks.keep_key(KEY, "the key in a malformed connection string")
    path = os.path.join(folder, "connection-string")
    for n, text in enumerate((
        f"SharedAccessKey={KEY}",
        f"HostName=localhost;SharedAccessKey={KEY}",
        f"HostName=localhost;DeviceId=d;SharedAccesKey={KEY}",
        f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY};{KEY}",
        f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY};SharedAccessKey={KEY}",
        f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY[:-1]}!",
        f"HostName=local host;DeviceId=d;SharedAccessKey={KEY}",
        f"{KEY}",
        f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY}\nHostName=localhost",
    )):
        with open(path, "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(text + "\n")
        with Daemon(folder, connection_string_file=path, name=f"d{n}", settings=DEBUG) as d:
            assert not d.status()["connected"], text
            leaks.check_text(str(d.status()) + str(d.notify.read()), "the status")
            d.ctl("status")


@test
def a_wrong_setting_with_a_key_is_not_told(folder):
    leaks.keep_key(KEY, "the key in a wrong setting")
    path = os.path.join(folder, "iothubd.conf")
    string = f"HostName=localhost;DeviceId=d;SharedAccessKey={KEY}"
    for text in (
        f'connection_string = "{string}" "x" 5;', f'connection_string = "{string}', f"connection_string = {string};",
        f'connection_string = [ "{string}" ];', f'mqtt_port = "{string}";', f'outbox = {{ full = "{string}"; }};',
        f'log_level = "{string}";', f'socket_mode = "{string}";',
    ):
        with open(path, "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(text + "\n")
        result = subprocess.run([IOTHUBD, "-c", path, "--check"], capture_output=True, text=True, check=False)
        assert result.returncode == os.EX_CONFIG, (text, result)
        leaks.check_text(result.stdout + result.stderr, f"what is said of {text.split('=')[0]}")


@test
def what_the_emulator_keeps_is_not_for_everybody(folder):
    """Its registry and keys lie in a folder that may be anybody's; it also tells no key in its log."""
    os.chmod(folder, 0o755)
    with Hub(folder) as hub:
        hub.create_device()
    leaks.check_folder(folder)


if __name__ == "__main__":
    harness.main()
