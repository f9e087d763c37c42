"""A local server of files and answers, with ranges, that fails as a test demands."""

import hashlib
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """Serves `files` (bytes) and `answers` (JSON, or a status) by path, and records requests."""

    def __init__(self):
        self.files, self.answers = {}, {}
        self.requests = []  # paths in order, with the first byte asked for
        self.cut_after = []  # bytes after which the next downloads break off
        self.has_ranges = self.has_tags = self.has_length = True
        self.address = ""

    def paths(self):
        return [path for path, _ in self.requests]

    @contextmanager
    def serve(self):
        web = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                path = urllib.parse.unquote(self.path)
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                start = int(asked[1]) if asked else 0
                web.requests.append((path, start))
                if path in web.files:
                    return self.send_file(web.files[path], start if web.has_ranges else 0)
                answer = web.answers.get(path, 404)
                if isinstance(answer, int):
                    return self.send(answer, b"", {})
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                return self.send(200, body, {"Content-Type": "application/json"})

            def send_file(self, content, start):
                headers = {}
                if web.has_tags:
                    headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()[:9]}"'
                if start >= len(content) > 0:
                    return self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                if start:
                    span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                    headers["Content-Range"] = span
                cut = web.cut_after.pop(0) if web.cut_after else None
                return self.send(206 if start else 200, content[start:], headers, cut)

            def send(self, status, body, headers, cut=None):
                self.send_response(status)
                if web.has_length:
                    headers["Content-Length"] = str(len(body))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body[:cut])

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
