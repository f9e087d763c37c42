"""A Hugging Face hub of one folder: the parts of its HTTP interface that are read, on this machine."""

import hashlib
import json
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 20_000  # bytes from which a file is an LFS file


class Hub:
    """Serves ``folder/owner/name/...``; counts requests, breaks them off and alters them on request."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.requests = []
        self.cut_after = None  # bytes of a file after which the connection breaks
        self.altered = set()  # files whose content is not what the listing says
        self.gone = set()  # files that are listed and not there
        self.busy = None  # status that is answered instead of a file

    def files(self, repo):
        root = self.folder / repo
        return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}

    def info(self, repo):
        siblings = []
        for name, path in self.files(repo).items():
            content = path.read_bytes()
            entry = {"rfilename": name, "size": len(content)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            if len(content) >= LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        return {
            "id": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "private": False,
        }

    @contextmanager
    def serve(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                hub.requests.append((path, self.headers.get("Range")))
                parts = path.strip("/").split("/")
                if parts[0] == "api":
                    return self.answer_info("/".join(parts[2:4]))
                parts = parts[1:] if parts[0] == "datasets" else parts
                return self.answer_file("/".join(parts[:2]), "/".join(parts[4:]))

            def answer_info(self, repo):
                if not (hub.folder / repo).is_dir():
                    return self.refuse("RepoNotFound")
                body = json.dumps(hub.info(repo)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                return self.finish_with(body)

            def answer_file(self, repo, name):
                file = hub.files(repo).get(name)
                if file is None or name in hub.gone:
                    return self.refuse("EntryNotFound")
                if hub.busy:
                    self.send_response(hub.busy)
                    return self.finish_with(b"")
                content = file.read_bytes()
                if name in hub.altered:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                self.send_response(206 if start else 200)
                content = content[start:]
                if hub.cut_after is not None and len(content) > hub.cut_after:
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: hub.cut_after])
                    self.close_connection = True
                    return None
                return self.finish_with(content)

            def refuse(self, code):
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                return self.finish_with(b"")

            def finish_with(self, body):
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
