"""scripted_hub.py: iothubctl against a hub that gives one answer after the other, for what the emulator never says."""
import http.server
import os
import ssl
import subprocess
import threading

from harness import DEADLINE_SEC, IOTHUBCTL


def run(*arguments, env=None):
    clean = {k: v for k, v in os.environ.items() if k not in ("IOTHUB_CONNECTION_STRING", "XDG_CONFIG_HOME")}
    return subprocess.run(
        [IOTHUBCTL, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_SEC,
        env={**clean, **(env or {})},
    )


class FailingHub:
    """Gives one answer after the other: (status, headers, body)."""

    def __init__(self, folder, answers):
        outer = self
        self.answers = list(answers)
        self.requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self):
                size = int(self.headers.get("Content-Length") or 0)
                outer.requests.append((self.command, self.path, self.rfile.read(size), dict(self.headers)))
                status, headers, body = outer.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _answer

            def log_message(self, *_):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(folder, "server.pem"), os.path.join(folder, "server-key.pem"))
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


def against(hub, answers, *arguments):
    """iothubctl against a hub that gives these answers, behind the emulator's certificate."""
    with FailingHub(os.path.dirname(hub.ca_file), answers) as failing:
        r = run("--login-file", hub.login_file, "--ca-file", hub.ca_file, "--https-port", str(failing.port), *arguments)
        return r, failing.requests
