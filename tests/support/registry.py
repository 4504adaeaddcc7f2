"""registry.py: the hub's registry as the tests speak to it, by curl, and the tokens that open it."""
import base64
import hashlib
import hmac
import json
import os
import subprocess
import time
import urllib.parse

API = "api-version=2021-04-12"


def quote(text):
    return urllib.parse.quote(text, safe="")


def token(resource, key, policy=None, expires=None):
    expires = int(expires if expires is not None else time.time() + 3600)
    encoded = quote(resource)
    digest = hmac.new(base64.b64decode(key), f"{encoded}\n{expires}".encode(), hashlib.sha256).digest()
    text = f"SharedAccessSignature sr={encoded}&sig={quote(base64.b64encode(digest).decode())}&se={expires}"
    return text + (f"&skn={policy}" if policy else "")


class Registry:
    """The registry through curl."""

    def __init__(self, hub):
        self.hub = hub
        with open(hub.login_file, encoding="utf-8") as f:
            fields = dict(part.split("=", 1) for part in f.read().strip().split(";"))
        assert fields["HostName"] == "localhost", fields
        self.policy, self.key = fields["SharedAccessKeyName"], fields["SharedAccessKey"]

    def call(self, method, path, body=None, if_match=None, authorization="owner", query=API):
        """(status, headers, body) of one call; the body parsed where it is JSON."""
        arguments = ["curl", "-sS", "-i", "--cacert", self.hub.ca_file, "-X", method]
        if authorization == "owner":
            authorization = token("localhost", self.key, self.policy)
        secret_fd, fd = os.pipe()  # a token has no place in the process list
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(f"Authorization: {authorization}\n" if authorization else "")
        arguments += ["-H", f"@/dev/fd/{secret_fd}"]
        if if_match is not None:
            arguments += ["-H", f"If-Match: {if_match}"]
        if body is not None:
            data = body if isinstance(body, str) else json.dumps(body)
            arguments += ["-H", "Content-Type: application/json", "-H", "Expect:", "--data-binary", "@-"]
        else:
            data = ""
        arguments.append(f"https://localhost:{self.hub.https_port}{path}{'&' if '?' in path else '?'}{query}")
        try:
            done = subprocess.run(
                arguments, input=data.encode(), capture_output=True, timeout=60, check=True, pass_fds=(secret_fd,)
            )
        finally:
            os.close(secret_fd)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        if headers.get("content-type", "").startswith("application/json"):
            content = json.loads(content)
        return int(lines[0].split()[1]), headers, content

    def create(self, device, **fields):
        status, _, body = self.call("PUT", f"/devices/{quote(device)}", {"deviceId": device, **fields})
        assert status == 200, (status, body)
        return body

    def update(self, body, if_match="*"):
        return self.call("PUT", f"/devices/{quote(body['deviceId'])}", body, if_match)

    def delete(self, device):
        status, _, body = self.call("DELETE", f"/devices/{quote(device)}", if_match="*")
        assert status == 204, (status, body)

    def show(self, device):
        status, _, body = self.call("GET", f"/devices/{quote(device)}")
        assert status == 200, (status, body)
        return body
