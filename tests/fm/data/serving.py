"""Servers at 127.0.0.1: of a folder by HTTP, that can fail as real ones do, and of S3."""

import contextlib
import http.server
import logging
import re
import threading
from pathlib import Path
from types import MappingProxyType


@contextlib.contextmanager
def served(folder, failing=MappingProxyType({}), ranges=True, key=""):
    """The address of the folder.

    failing: name of a file or folder -> what each of the next requests for it meets before it is served again, a status
    or "reset": a connection that ends without an answer. ranges: whether the server knows them. key: what the query
    must hold, else 403.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(super().do_HEAD)

        def do_GET(self):
            self.answer(super().do_GET)

        def answer(self, whole):
            address, _, query = self.path.partition("?")
            due = failing.get(address.rstrip("/").rpartition("/")[2])
            failure = due.pop(0) if due else None
            if failure == "reset":
                self.close_connection = True
            elif failure or key not in query:
                self.send_error(failure or 403)
            elif ranges and self.command == "GET" and "Range" in self.headers:
                self.send_range(Path(self.translate_path(self.path)))
            else:
                whole()

        def send_range(self, path):
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())
            data = path.read_bytes()
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(part)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def moto(port=0):
    """The address of an S3-compatible server; what it holds outlives it in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
