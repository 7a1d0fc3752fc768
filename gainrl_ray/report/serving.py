"""A report served on loopback while its run goes on: rebuilt when the run has, and reloaded by the page itself."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from gainrl_ray.errors import ConfigError, GainrlError

ADDRESS = "127.0.0.1"
LOCAL_NAMES = ("127.0.0.1", "localhost")
POLL_S = 2.0


class Report(Protocol):
    """What can be served."""

    def page(self, version: str) -> str:
        """The page as it is now."""
        ...

    def stamp(self) -> str:
        """A text that changes when the page would."""
        ...


class ReportServer:
    """`/` is the page, `/version` what it was made from. Others than this machine's browsers are refused."""

    def __init__(self, report: Report, port: int) -> None:
        """Build the page and listen; port 0 takes any free one.

        Raises:
            ConfigError: the port cannot be listened on.
            DataError: there is nothing to report.
        """
        self._report = report
        self._stop = threading.Event()
        self._version, self._content = "", b""
        self._rebuild()
        try:
            self._http = ThreadingHTTPServer((ADDRESS, port), self._handler())
        except (OSError, OverflowError) as error:
            raise ConfigError(f"--serve {port}: cannot listen there ({error}); give another port") from error
        self.url = f"http://{ADDRESS}:{self._http.server_port}/"

    def run(self, say: Callable[[str], None]) -> None:
        """Serve and rebuild until `stop`; while the page cannot be built, that is told and the last one stays."""
        thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        thread.start()
        failed = ""
        try:
            while not self._stop.wait(POLL_S):
                try:
                    if self._report.stamp() not in (self._version, failed):
                        self._rebuild()
                except GainrlError as error:
                    failed = self._report.stamp()
                    say(f"warning: the page stays as it was: {error}")
        finally:
            self._http.shutdown()
            self._http.server_close()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def _rebuild(self) -> None:
        version = self._report.stamp()
        content = self._report.page(version).encode()
        self._version, self._content = version, content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                # A name that another site lets point here would give that site's scripts the page.
                name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
                if name not in LOCAL_NAMES:
                    self.send_error(403, "this page is for this machine only")
                elif self.path == "/":
                    self._answer("text/html; charset=utf-8", server._content)
                elif self.path == "/version":
                    self._answer("text/plain", server._version.encode())
                else:
                    self.send_error(404)

            def _answer(self, kind: str, content: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Requests are not logged."""

        return Handler
