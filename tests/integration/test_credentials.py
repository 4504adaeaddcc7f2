#!/usr/bin/env python3
"""Goal: new credentials are taken while the daemon runs, bad ones are named and stop neither it nor what it holds
(promises P6, P7). Real daemon, real emulator; files are replaced as an administrator would."""
import calendar
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import threading
import time

import harness
from harness import Daemon, Hub, InBackground, Setup, assert_delivered, lines, need, test, wait_until, write_private
from registry import Registry

CHANGED = "Credentials have changed, connecting anew"


def connection_string(hub, device="windmill", secondary=False):
    return hub.ctl("device", "connection-string", *(["--secondary"] if secondary else []), device).stdout


def key_in(text):
    return text.strip().rsplit("SharedAccessKey=", 1)[1]


@test
def a_new_key_is_taken_without_a_signal_and_without_a_loss(folder):
    with Setup(folder) as s:
        s.daemon.wait_connected()
        s.send(lines(300))
        fresh = connection_string(s.hub, secondary=True)
        write_private(s.daemon.settings["connection_string_file"], fresh)
        wait_until(lambda: CHANGED in s.daemon.log(), "the change is seen")
        s.send(lines(300, 300))
        assert_delivered(lines(600), s.hub.events.wait_count(600))
        s.daemon.wait_queue_empty()
        assert s.daemon.log().count(CHANGED) == 1
        assert key_in(fresh) not in s.daemon.log()


@test
def a_connection_string_that_appears_is_taken(folder):
    with Hub(folder) as hub:
        path = os.path.join(folder, "device")
        with Daemon(folder, hub, path) as d:
            status = d.status()
            assert status["connectionState"] == "holding"
            trouble = status["trouble"]
            assert trouble["class"] == "credentials" and trouble["tries"] >= 1 and trouble["remedy"], status
            assert "is missing" in status["hold"], status
            d.ctl("send", "reading 0")
            os.rename(hub.create_device(), path)
            wait_until(lambda: CHANGED in d.log(), "the file is seen")
            assert_delivered(lines(1), hub.events.wait_count(1))
            assert "trouble" not in d.status()


@test
def a_link_that_is_pointed_elsewhere_is_a_change(folder):
    with Hub(folder) as hub:
        link = os.path.join(folder, "device")
        os.mkdir(os.path.join(folder, "a"))
        target = os.path.join(folder, "a", "1")
        os.rename(hub.create_device(), target)
        os.symlink(target, link)
        with Daemon(folder, hub, link) as d:
            d.wait_connected()
            write_private(os.path.join(folder, "a", "2"), connection_string(hub, secondary=True))
            os.symlink(os.path.join(folder, "a", "2"), f"{link}.new")
            os.rename(f"{link}.new", link)
            wait_until(lambda: CHANGED in d.log(), "the link is followed")
            d.ctl("send", "reading 0")
            assert_delivered(lines(1), hub.events.wait_count(1))


@test
def a_folder_that_appears_or_is_replaced_is_watched(folder):
    with Hub(folder) as hub:
        place = os.path.join(folder, "etc", "keys")
        path = os.path.join(place, "device")
        first = hub.create_device()
        with Daemon(folder, hub, path) as d:
            wait_until(lambda: d.status()["connectionState"] == "holding", "the daemon waits for credentials")
            os.makedirs(os.path.join(folder, "new"))
            os.rename(first, os.path.join(folder, "new", "device"))
            os.mkdir(os.path.dirname(place))
            os.rename(os.path.join(folder, "new"), place)
            wait_until(lambda: d.log().count(CHANGED) == 1, "the folder that came is seen")
            d.wait_connected()

            fresh = os.path.join(folder, "fresh")
            os.mkdir(fresh)
            write_private(os.path.join(fresh, "device"), connection_string(hub, secondary=True))
            os.rename(place, f"{place}.old")
            os.rename(fresh, place)
            wait_until(lambda: d.log().count(CHANGED) == 2, "the folder in its place is seen")
            write_private(path, connection_string(hub))
            wait_until(lambda: d.log().count(CHANGED) == 3, "the new folder is watched")
            d.ctl("send", "reading 0")
            assert_delivered(lines(1), hub.events.wait_count(1))


@test
def a_bad_file_is_named_once_and_the_connection_stays(folder):
    with Setup(folder) as s:
        path = s.daemon.settings["connection_string_file"]
        good = connection_string(s.hub)
        s.daemon.wait_connected()
        since = s.daemon.status()["connectionSinceUSec"]
        write_private(path, good.strip()[:-3])
        named = f"{path} is not usable: SharedAccessKey: not valid base64"
        wait_until(lambda: named in s.daemon.log(), "the fault is named")
        s.daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: s.daemon.notify.read().count("READY=1") == 2, "the reload is over")
        s.send(lines(10))
        assert_delivered(lines(10), s.hub.events.wait_count(10))
        status = s.daemon.status()
        assert status["connectionSinceUSec"] == since and status["connected"], status
        log = s.daemon.log()
        assert log.count(named) == 1 and "The credentials read before stay in use" in log, log
        assert key_in(good)[:-3] not in log


@test
def a_systemd_credential_that_is_bad_asks_for_a_restart(folder):
    credentials = os.path.join(folder, "credentials")
    os.mkdir(credentials)
    write_private(os.path.join(credentials, "connection-string"), "HostName=h")
    os.environ["CREDENTIALS_DIRECTORY"] = credentials
    try:
        with Daemon(folder) as d:
            status = d.status()
    finally:
        del os.environ["CREDENTIALS_DIRECTORY"]
    assert "DeviceId: missing" in status["hold"] and "systemctl restart" in status["hold"], status


# ---- X.509 ----


def openssl(*arguments, **kwargs):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, **kwargs)


def make_pair(folder, name, passphrase=None):
    """Certificate and key, self-signed, in NAME.pem and NAME.key; returns both paths."""
    pair = [os.path.join(folder, f"{name}.{kind}") for kind in ("pem", "key")]
    lock = ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", *lock, "-days", "365",
        "-subj", f"/CN={name}", "-out", pair[0], "-keyout", pair[1],
    )  # fmt: skip
    return pair


def make_dated_pair(folder, name, begins, ends):
    """As make_pair(), valid between two times such as 20200101000000Z."""
    pair = make_pair(folder, name)
    ca = os.path.join(folder, f"{name}.ca")
    os.mkdir(ca)
    with open(os.path.join(ca, "conf"), "w", encoding="utf-8") as f:
        f.write(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=p\n[p]\ncommonName=supplied\n"
        )
    with open(os.path.join(ca, "index"), "w", encoding="utf-8"):
        pass
    openssl("req", "-new", "-key", pair[1], "-subj", f"/CN={name}", "-out", os.path.join(ca, "request"))
    openssl(
        "ca", "-batch", "-config", "conf", "-selfsign", "-keyfile", pair[1], "-in", "request", "-notext",
        "-startdate", begins, "-enddate", ends, "-out", pair[0], cwd=ca,
    )  # fmt: skip
    return pair


def thumbprint(certificate):
    with open(certificate, encoding="utf-8") as f:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(f.read())).hexdigest()


def register(hub, *certificates, device="windmill"):
    """The device by its one or two certificates; returns the file of its connection string."""
    names = ("primaryThumbprint", "secondaryThumbprint")
    Registry(hub).create(
        device, authentication={"type": "selfSigned", "x509Thumbprint": dict(zip(names, map(thumbprint, certificates)))}
    )
    path = os.path.join(hub.folder, f"{device}.connection-string")
    write_private(path, f"HostName=localhost;DeviceId={device};x509=true\n")
    return path


def x509_daemon(folder, hub, string, pair, **settings):
    return Daemon(folder, hub, string, settings={"certificate_file": pair[0], "private_key": pair[1], **settings})


def replace(path, other):
    os.rename(other, path)


@test
def a_certificate_opens_the_hub_and_everything_arrives(folder):
    with Hub(folder) as hub:
        pair = make_pair(folder, "windmill")
        with x509_daemon(folder, hub, register(hub, pair[0]), pair) as d:
            d.ctl("send", input="".join(f"{line}\n" for line in lines(500)))
            assert_delivered(lines(500), hub.events.wait_count(500))
            d.wait_queue_empty()


@test
def a_locked_key_is_opened_by_the_passphrase_in_its_file(folder):
    with Hub(folder) as hub:
        pair = make_pair(folder, "windmill", passphrase="correct horse")
        string = register(hub, pair[0])
        passphrase = os.path.join(folder, "passphrase")
        with x509_daemon(folder, hub, string, pair, private_key_passphrase_file=passphrase) as d:
            d.ctl("send", "reading 0")
            assert "passphrase is missing" in d.status()["hold"], d.status()
            write_private(passphrase, "correct horse\n")
            assert_delivered(lines(1), hub.events.wait_count(1))
        assert "horse" not in d.log()


@test
def certificates_are_rotated_under_a_running_daemon_without_a_loss(folder):
    n = 2000
    with Hub(folder) as hub:
        pair, fresh = make_pair(folder, "old"), make_pair(folder, "new")
        fresh_thumbprint = thumbprint(fresh[0])
        string = register(hub, pair[0], fresh[0])
        with x509_daemon(folder, hub, string, pair) as d:
            d.wait_connected()
            sending = InBackground(lambda: d.ctl("send", input="".join(f"{line}\n" for line in lines(n))))
            replace(pair[0], fresh[0])
            wait_until(lambda: "does not belong to the first certificate" in d.log(), "the half rotation is named")
            assert d.status()["connected"] and CHANGED not in d.log()
            replace(pair[1], fresh[1])
            wait_until(lambda: CHANGED in d.log(), "the new pair is taken")
            sending.result()
            assert_delivered(lines(n), hub.events.wait_count(n))
            d.wait_queue_empty()
            # Only the new one opens the hub from here on.
            body = Registry(hub).show("windmill")
            body["authentication"]["x509Thumbprint"] = {"primaryThumbprint": fresh_thumbprint}
            assert Registry(hub).update(body)[0] == 200
            hub.kill()
            hub.start()
            d.ctl("send", f"reading {n}")
            assert_delivered(lines(n + 1), hub.events.wait_count(n + 1))


@test
def a_certificate_that_the_registry_does_not_know_is_refused_and_the_right_one_heals_it(folder):
    with Hub(folder) as hub:
        right, wrong = make_pair(folder, "right"), make_pair(folder, "wrong")
        string = register(hub, right[0])
        with x509_daemon(folder, hub, string, wrong, uplink={"retry_refused_max": "100ms"}) as d:
            wait_until(lambda: d.status()["retry"].get("lastErrorClass") == "refused", "it is refused")
            d.ctl("send", "reading 0")
            replace(wrong[0], right[0])
            replace(wrong[1], right[1])
            assert_delivered(lines(1), hub.events.wait_count(1))


@test
def a_certificate_whose_time_is_over_is_named_when_the_hub_refuses(folder):
    with Hub(folder) as hub:
        ended, right = make_dated_pair(folder, "ended", "20200101000000Z", "20210101000000Z"), make_pair(folder, "right")
        string = register(hub, right[0])
        with x509_daemon(folder, hub, string, ended) as d:
            wait_until(lambda: d.status()["retry"].get("lastErrorClass") == "certificate", "the certificate is blamed")
            retry = d.status()["retry"]
            assert "ended at 2021-01-01T00:00:00.000Z" in retry["lastError"], retry
            assert f"{folder}/ended.pem" in retry["lastError"], retry


@test
def the_end_of_a_certificate_is_told_ahead_and_its_renewal_heals_it(folder):
    ends = time.gmtime(time.time() + 10 * 86400)
    with Hub(folder) as hub:
        pair = make_dated_pair(folder, "old", "20200101000000Z", time.strftime("%Y%m%d%H%M%SZ", ends))
        fresh = make_pair(folder, "new")
        string = register(hub, pair[0], fresh[0])
        with x509_daemon(folder, hub, string, pair) as d:
            d.wait_connected()
            status = d.status()
            assert status["certificateEndsUSec"] == calendar.timegm(ends) * 1000000, status
            assert "ends in 9d 23h" in status["certificateProblem"], status
            assert "ends in 9d 23h" in d.ctl("status").stdout
            assert d.log().count("ends in 9d 23h") == 1, d.log()
            assert any("certificate to be replaced" in m for m in d.notify.read()), d.notify.messages
            replace(pair[0], fresh[0])
            replace(pair[1], fresh[1])
            wait_until(lambda: "certificateProblem" not in d.status(), "the new one is taken")
            assert d.status()["certificateEndsUSec"] > calendar.timegm(ends) * 1000000


@contextlib.contextmanager
def demanding_server(hub, version):
    """A TLS server that trusts only its own authority and wants a certificate from it. Yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(os.path.join(hub.folder, "server.pem"), os.path.join(hub.folder, "server-key.pem"))
    context.load_verify_locations(hub.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(listener):
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                # Read to the end: a reset would overtake the alert.
                with connection.dup() as raw:
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as s:
                        s.recv(1)
                    with contextlib.suppress(OSError):
                        raw.shutdown(socket.SHUT_WR)
                        while raw.recv(4096):
                            pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@test
def a_certificate_that_tls_turns_down_is_named(folder):
    with Hub(folder) as hub:
        pair = make_pair(folder, "windmill")
        string = register(hub, pair[0])
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with demanding_server(hub, version) as port, x509_daemon(folder, hub, string, pair, mqtt_port=port) as d:
                wait_until(lambda: d.status()["retry"].get("lastError"), "the handshake fails")
                retry = d.status()["retry"]
                assert retry["lastErrorClass"] == "certificate" and "unknown ca" in retry["lastError"], (version, retry)


# ---- keys that OpenSSL finds by URI ----


def need_openssl(*modules):
    """Skips where OpenSSL lacks one of engines/NAME and modules/NAME."""
    for path in modules:
        kind, module = path.split("/")
        option = {"engines": "-e", "modules": "-m"}[kind]
        where = openssl("version", option).stdout.decode().split('"')[1]
        if not os.path.exists(os.path.join(where, f"{module}.so")):
            raise harness.Skip(f"OpenSSL has no {module}.so in {where}")


@contextlib.contextmanager
def environment(**variables):
    """For the programs that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def soft_hsm_module():
    for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"):
        if os.path.exists(path):
            return path
    raise harness.Skip("libsofthsm2.so is not installed")


@contextlib.contextmanager
def soft_hsm(folder, pin):
    """A token of SoftHSM with a key; yields its certificate and the key's URI."""
    need("softhsm2-util")
    need_openssl("engines/pkcs11")
    tokens = os.path.join(folder, "tokens")
    os.mkdir(tokens)
    config = os.path.join(folder, "softhsm2.conf")
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
    with environment(SOFTHSM2_CONF=config, PKCS11_MODULE_PATH=soft_hsm_module()):

        def util(*arguments):
            subprocess.run(["softhsm2-util", *arguments], check=True, capture_output=True, timeout=60)

        certificate, key = make_pair(folder, "token")
        util("--init-token", "--free", "--label", "iothubd", "--pin", pin, "--so-pin", "87654321")
        util("--import", key, "--token", "iothubd", "--label", "device", "--id", "a1", "--pin", pin)
        os.unlink(key)
        yield certificate, "pkcs11:token=iothubd;object=device;type=private"


@test
def a_key_in_a_pkcs11_token_opens_the_hub(folder):
    pin = "735182"
    with Hub(folder) as hub, soft_hsm(folder, pin) as (certificate, uri):
        pin_file = os.path.join(folder, "pin")
        write_private(pin_file, f"{pin}\n")
        string = register(hub, certificate)
        pair = (certificate, uri)
        with x509_daemon(folder, hub, string, pair, key_provider="engine:pkcs11", private_key_passphrase_file=pin_file) as d:
            d.ctl("send", input="".join(f"{line}\n" for line in lines(300)))
            assert_delivered(lines(300), hub.events.wait_count(300))
            d.wait_queue_empty()
            # The token is asked again for each connection.
            hub.kill()
            hub.start()
            d.ctl("send", "reading 300")
            assert_delivered(lines(301), hub.events.wait_count(301))
        assert pin not in d.log()


@test
def a_wrong_pin_is_offered_once_and_the_right_one_heals_it(folder):
    with Hub(folder) as hub, soft_hsm(folder, "735182") as (certificate, uri):
        pin_file = os.path.join(folder, "pin")
        write_private(pin_file, "111111\n")
        string = register(hub, certificate)
        uplink = {"retry_refused_max": "100ms"}
        with x509_daemon(
            folder, hub, string, (certificate, uri), key_provider="engine:pkcs11", private_key_passphrase_file=pin_file, uplink=uplink
        ) as d:
            wait_until(lambda: "as before" in d.status()["retry"].get("lastError", ""), "it is not offered again")
            assert d.status()["retry"]["lastErrorClass"] == "certificate", d.status()
            assert d.log().count("PIN incorrect") == 1, d.log()
            d.ctl("send", "reading 0")
            write_private(pin_file, "735182\n")
            assert_delivered(lines(1), hub.events.wait_count(1))
        assert "111111" not in d.log() and "735182" not in d.log()


@contextlib.contextmanager
def software_tpm(folder):
    """swtpm on a socket of its own; OpenSSL's tpm2 provider finds it."""
    need("swtpm")
    need_openssl("modules/tpm2")
    state, path = os.path.join(folder, "tpm"), os.path.join(folder, "tpm.sock")
    os.mkdir(state)
    with open(os.path.join(folder, "swtpm.log"), "wb") as log:
        process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={path}",
             "--ctrl", f"type=unixio,path={path}.ctrl", "--flags", "not-need-init,startup-clear"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: os.path.exists(path) and os.path.exists(f"{path}.ctrl"), "the TPM listens")
        with environment(TPM2OPENSSL_TCTI=f"swtpm:path={path}"):
            yield
    finally:
        harness.stop_process(process)


@test
def a_key_that_never_leaves_the_tpm_opens_the_hub(folder):
    providers = ["-provider", "tpm2", "-provider", "default"]
    with Hub(folder) as hub, software_tpm(folder):
        certificate, key = os.path.join(folder, "tpm.pem"), os.path.join(folder, "tpm.key")
        openssl("genpkey", *providers, "-algorithm", "EC", "-pkeyopt", "group:P-256", "-out", key)
        with open(key, encoding="ascii") as f:
            assert "TSS2 PRIVATE KEY" in f.read()
        openssl("req", "-x509", *providers, "-key", key, "-subj", "/CN=windmill", "-days", "30", "-out", certificate)
        string = register(hub, certificate)
        with x509_daemon(folder, hub, string, (certificate, key), key_provider="tpm2") as d:
            d.ctl("send", input="".join(f"{line}\n" for line in lines(300)))
            assert_delivered(lines(300), hub.events.wait_count(300))
            d.wait_queue_empty()
            for i in range(5):  # each connection loads the key into the TPM, which has room for three
                hub.kill()
                hub.start()
                d.ctl("send", f"reading {300 + i}")
                assert_delivered(lines(301 + i), hub.events.wait_count(301 + i))


if __name__ == "__main__":
    harness.main()
