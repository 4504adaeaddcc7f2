#!/usr/bin/env python3
"""Goal: a device signs in with a certificate of an authority that the hub knows, in whose name it was issued and while it is
valid, and with nothing else; the daemon does so. Method: chains made with openssl, shown over TLS by hand and by the daemon."""
import hashlib
import json
import os
import ssl
import subprocess

from device import Mqtt, device_token, events, key_of
from harness import Daemon, Hub, main, test, write_private
from registry import Registry

NOW = ("20200101000000Z", "20700101000000Z")
PAST = ("20200101000000Z", "20210101000000Z")
FUTURE = ("20690101000000Z", "20700101000000Z")


class Issuer:
    """Certificates with openssl ca: NAME.pem and NAME.key in a folder."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "issuer")
        os.mkdir(self.folder)
        self.write("index", "")
        self.write(
            "conf",
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\nunique_subject=no\n"
            "policy=p\nemail_in_dn=no\n[p]\ncommonName=supplied\norganizationName=optional\n"
            "[authority]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\nsubjectKeyIdentifier=hash\n"
            "[device]\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n[server]\nextendedKeyUsage=serverAuth\n",
        )

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as f:
            f.write(text)

    def openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, cwd=self.folder)

    def make(self, name, issuer=None, extensions="device", dates=NOW, subject=None, chain=()):
        """(certificate with chain behind it, key)"""
        self.openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key",
                     "-subj", subject or f"/CN={name}", "-out", f"{name}.csr")
        by = ["-cert", f"{issuer}.pem", "-keyfile", f"{issuer}.key"] if issuer else ["-selfsign", "-keyfile", f"{name}.key"]
        self.openssl("ca", "-batch", "-config", "conf", *by, "-in", f"{name}.csr", "-notext", "-extensions", extensions,
                     "-startdate", dates[0], "-enddate", dates[1], "-out", f"{name}.pem")
        path = os.path.join(self.folder, f"{name}.pem")
        if chain:
            path = os.path.join(self.folder, f"{name}.chain.pem")
            self.write(f"{name}.chain.pem", "".join(self.text(part) for part in (name, *chain)))
        return path, os.path.join(self.folder, f"{name}.key")

    def path(self, name):
        return os.path.join(self.folder, f"{name}.pem")

    def text(self, name):
        with open(self.path(name), encoding="utf-8") as f:
            return f.read()


def code(hub, device, pair=None, password=None):
    with Mqtt(hub, pair) as m:
        return m.connect(device, password)


def last_reason(hub):
    with open(hub.log_path, encoding="utf-8") as f:
        return [line for line in f if " refused: " in line][-1]


def create(hub, *devices, **fields):
    for device in devices:
        Registry(hub).create(device, authentication={"type": "certificateAuthority"}, **fields)


@test
def a_certificate_of_a_known_authority_opens_the_device_of_its_name(folder):
    issuer = Issuer(folder)
    with Hub(folder) as hub:
        create(hub, "d1", "d2", "off")
        issuer.make("root", extensions="authority")
        issuer.make("middle", "root", "authority")
        issuer.make("stranger", extensions="authority")
        d1 = issuer.make("d1", "root")
        deep = issuer.make("deep", "middle", subject="/O=o/CN=d2", chain=["middle"])
        assert code(hub, "d1", d1) == 5 and "no authority that the hub knows" in last_reason(hub)
        hub.trouble("ca", "add", issuer.path("root"))
        assert code(hub, "d1", d1) == 0 and code(hub, "d2", deep) == 0
        with Mqtt(hub, d1) as m:
            assert m.connect("d1") == 0
            m.publish("devices/d1/messages/events/", b"hello")
            assert m.receive() == (0x40, b"\0\1")
        assert [e["authMethod"] for e in events(hub)] == [{"scope": "device", "type": "x509"}]

        refused = (
            ("d2", d1, "common name"),
            ("d1", None, "none was shown"),
            ("d1", issuer.make("foreign", "stranger", subject="/CN=d1"), "no authority"),
            ("d1", issuer.make("self", subject="/CN=d1"), "no authority"),
            ("d2", issuer.make("torn", "middle", subject="/CN=d2"), "no authority"),
            ("d1", issuer.make("old", "root", subject="/CN=d1", dates=PAST), "expired"),
            ("d1", issuer.make("early", "root", subject="/CN=d1", dates=FUTURE), "not yet valid"),
            ("d1", issuer.make("server", "root", "server", subject="/CN=d1"), "purpose"),
            ("d2", issuer.make("leaf", "d1", subject="/CN=d2", chain=["d1"]), "invalid CA"),
        )
        for device, pair, reason in refused:
            assert code(hub, device, pair) == 5, reason
            assert reason in last_reason(hub), (reason, last_reason(hub))

        # Disabled, of another kind, or with a token: each is refused, whatever else is right.
        off = issuer.make("off", "root")
        assert code(hub, "off", off) == 0
        hub.ctl("device", "disable", "off")
        assert code(hub, "off", off) == 5 and "disabled" in last_reason(hub)
        key = key_of(Registry(hub).create("sas"))
        sas = issuer.make("sas", "root")
        assert code(hub, "sas", sas) == 5 and code(hub, "sas", sas, device_token("sas", key)) == 0
        assert code(hub, "d1", None, device_token("d1", key)) == 5

        # An authority below the root will do, and is kept; what was removed is not.
        shown = json.loads(hub.trouble("ca", "list", "--json"))
        assert shown["subject"] == "CN=root" and shown["notAfter"] == "2070-01-01T00:00:00Z"
        hub.trouble("ca", "remove", shown["thumbprint"].upper())
        hub.trouble("ca", "add", issuer.path("middle"))
        hub.trouble("ca", "add", issuer.path("middle"))
        assert code(hub, "d1", d1) == 5 and code(hub, "d2", deep) == 0
        hub.kill()
        hub.start()
        assert code(hub, "d1", d1) == 5 and code(hub, "d2", deep) == 0
        assert hub.trouble("ca", "list").count("\n") == 1


@test
def a_module_is_named_with_its_device(folder):
    issuer = Issuer(folder)
    with Hub(folder) as hub:
        create(hub, "d1")
        hub.ctl("module", "create", "d1", "m1", "--auth", "x509-ca")
        issuer.make("root", extensions="authority")
        hub.trouble("ca", "add", issuer.path("root"))
        assert code(hub, "d1/m1", issuer.make("m", "root", subject="/CN=d1\\/m1")) == 0
        assert code(hub, "d1/m1", issuer.make("d1", "root")) == 5


@test
def a_thumbprint_does_not_outlive_its_certificate(folder):
    issuer = Issuer(folder)
    with Hub(folder) as hub:
        for name, dates, expected in (("now", NOW, 0), ("old", PAST, 5), ("early", FUTURE, 5)):
            pair = issuer.make(name, dates=dates)
            sha1 = hashlib.sha1(ssl.PEM_cert_to_DER_cert(issuer.text(name))).hexdigest()
            Registry(hub).create(name, authentication={"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": sha1}})
            assert code(hub, name, pair) == expected, name


@test
def what_is_no_authority_is_not_added(folder):
    issuer = Issuer(folder)
    with Hub(folder) as hub:
        issuer.make("root", extensions="authority")
        issuer.make("leaf", "root")
        issuer.make("old", extensions="authority", dates=PAST)
        issuer.write("none.pem", "no certificate\n")
        issuer.write("zero.pem", "\0")
        cases = (("leaf", 1, "CA:TRUE"), ("old", 1, "not valid at this time"), ("none", 1, "no certificate in PEM"),
                 ("zero", 65, "is no text"), ("absent", 66, "cannot read"))
        for name, exit_code, text in cases:
            r = hub.trouble("ca", "add", issuer.path(name), check=False)
            assert r.returncode == exit_code and text in r.stderr and f"{name}.pem" in r.stderr, (name, r)
        for wrong in (["add"], ["remove"], ["list", "x"], ["fly"], []):
            assert hub.trouble("ca", *wrong, check=False).returncode == 64, wrong
        assert "no authority has that thumbprint" in hub.trouble("ca", "remove", "ab" * 20, check=False).stderr
        assert hub.trouble("ca", "list") == ""
        for n in range(25):
            issuer.make(f"ca{n}", extensions="authority")
            hub.trouble("ca", "add", issuer.path(f"ca{n}"))
        assert "25 authorities" in hub.trouble("ca", "add", issuer.path("root"), check=False).stderr


@test
def the_daemon_delivers_with_a_chain(folder):
    issuer = Issuer(folder)
    with Hub(folder) as hub:
        create(hub, "windmill")
        issuer.make("root", extensions="authority")
        issuer.make("middle", "root", "authority")
        certificate, key = issuer.make("windmill", "middle", chain=["middle"])
        hub.trouble("ca", "add", issuer.path("root"))
        string = os.path.join(hub.folder, "windmill.connection-string")
        write_private(string, "HostName=localhost;DeviceId=windmill;x509=true\n")
        with Daemon(folder, hub, string, settings={"certificate_file": certificate, "private_key": key}) as daemon:
            daemon.ctl("send", "--wait", "hello")
            assert hub.events.wait_count(1) == ["hello"]


if __name__ == "__main__":
    main()
