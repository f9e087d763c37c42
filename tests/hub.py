"""A local Hugging Face hub that serves one folder."""

import hashlib
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = 20_000  # bytes from which a file is an LFS file, with a sha256
# Information about a repository, the list of its files, and a file
ADDRESS = re.compile(
    r"/(api/models/|api/datasets/|datasets/|)(?P<repo>[^/]+/[^/]+)"
    r"(/(?P<action>revision|tree|resolve)/[^/]+)?(/(?P<file>.+))?"
)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Hub:
    """Serves ``folder/owner/name/...``, records downloads, and fails as a test demands."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.downloads = []  # files, in order
        self.cut_after = None  # bytes after which downloads break off
        self.altered = set()  # files whose content is not what the listing says
        self.refused = {}  # "revision", "tree" or "resolve": status and error code of the answer

    def listing(self, repo):
        """Commit and files of a repository, as the hub describes them."""
        files = {}
        for path in sorted((self.folder / repo).rglob("*")):
            if path.is_file():
                name, size, sha256 = (
                    path.relative_to(self.folder / repo).as_posix(),
                    path.stat().st_size,
                    digest(path),
                )
                files[name] = {
                    "type": "file",
                    "size": size,
                    "oid": sha256[:40],
                    "path": name,
                    "rfilename": name,
                }
                if size >= LARGE:
                    files[name]["lfs"] = {
                        "oid": sha256,
                        "sha256": sha256,
                        "size": size,
                        "pointerSize": 134,
                    }
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:40], files

    @contextmanager
    def serve(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                found = ADDRESS.fullmatch(path)
                if found is None or not (hub.folder / found["repo"]).is_dir():
                    return self.answer(404, {"X-Error-Code": "RepoNotFound"})
                repo, action = found["repo"], found["action"] or "revision"
                commit, files = hub.listing(repo)
                if action in hub.refused:
                    status, code = hub.refused[action]
                    return self.answer(status, {"X-Error-Code": code})
                if action == "resolve":
                    return self.answer_file(repo, found["file"], commit, files[found["file"]])
                siblings = list(files.values())
                body = (
                    siblings
                    if action == "tree"
                    else {"id": repo, "sha": commit, "siblings": siblings}
                )
                return self.answer(
                    200, {"Content-Type": "application/json"}, json.dumps(body).encode()
                )

            def do_HEAD(self):
                self.do_GET()

            def answer_file(self, repo, name, commit, entry):
                content = (hub.folder / repo / name).read_bytes()
                if name in hub.altered:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                if self.command == "GET":
                    hub.downloads.append(name)
                etag = entry.get("lfs", entry)["oid"]
                start = int(
                    self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
                )
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
                return self.answer(206 if start else 200, headers, content[start:])

            def answer(self, status, headers, body=b""):
                self.send_response(status)
                for header in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(*header)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if hub.cut_after is not None and "ETag" in headers:
                    body, self.close_connection = body[: hub.cut_after], True
                self.wfile.write(body)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
