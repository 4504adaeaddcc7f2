"""service.py: calls to a hub's service API from a test, over http.client."""
import http.client
import json
import ssl
import time

from registry import API, quote, token


def service_token(login, lifetime_sec=3600):
    """A token of the policy of a service connection string."""
    fields = dict(part.split("=", 1) for part in login.strip().split(";"))
    policy = fields["SharedAccessKeyName"]
    return token(fields["HostName"], fields["SharedAccessKey"], policy, expires=time.time() + lifetime_sec)


class Service:
    """One connection to the emulator `hub` of harness.py."""

    def __init__(self, hub):
        with open(hub.login_file, encoding="utf-8") as f:
            self.token = service_token(f.read())
        context = ssl.create_default_context(cafile=hub.ca_file)
        self.connection = http.client.HTTPSConnection("localhost", hub.https_port, context=context, timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.connection.close()

    def call(self, method, path, body=None, headers=None, query=API):
        """(status, headers with lower-case names, body; parsed where it is JSON)."""
        headers = {"Authorization": self.token, "Content-Type": "application/json; charset=utf-8", **(headers or {})}
        data = None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body)
        self.connection.request(method, f"{path}{'&' if '?' in path else '?'}{query}", data, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        got = {name.lower(): value for name, value in answer.getheaders()}
        if got.get("content-type", "").startswith("application/json"):
            content = json.loads(content)
        return answer.status, got, content

    def good(self, *arguments, **kwargs):
        status, _, body = self.call(*arguments, **kwargs)
        assert status in (200, 204), (arguments, status, body)
        return body

    def create(self, device, **fields):
        return self.good("PUT", f"/devices/{quote(device)}", {"deviceId": device, **fields})

    def query_page(self, text, size=None, continuation=None):
        headers = {"x-ms-max-item-count": str(size)} if size else {}
        if continuation:
            headers["x-ms-continuation"] = continuation
        return self.call("POST", "/devices/query", {"query": text}, headers)

    def query(self, text, size=None):
        """All pages of a query, and how many there were."""
        rows, pages, continuation = [], 0, None
        while True:
            status, headers, body = self.query_page(text, size, continuation)
            assert status == 200, (text, status, body)
            rows += body
            pages += 1
            continuation = headers.get("x-ms-continuation")
            if not continuation:
                return rows, pages
