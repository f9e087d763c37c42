"""A local Hugging Face hub that serves one folder, and takes uploads."""

import base64
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

# Creating a repository, checking a card, and the steps of an upload
POSTED = re.compile(
    r"/api/(?P<api>repos/create|validate-yaml)"
    r"|/api/models/(?P<repo>[^/]+/[^/]+)/(?P<action>preupload|commit|branch)/(?P<branch>.+)"
    r"|/(?P<lfs>[^/]+/[^/]+)\.git/info/lfs/objects/batch"
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
        # "revision", "tree", "resolve", "create", "preupload", ...: status and error code
        self.refused = {}
        self.owners = {}  # of tokens that may write
        self.private = set()  # repositories
        self.objects = {}  # uploaded content of large files, by sha256
        self.commits = []  # title, branch or "pull request", and files of each
        self.branches = []

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

            def do_POST(self):
                path, _, query = urllib.parse.unquote(self.path).partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                found = POSTED.fullmatch(path)
                action = found["api"] or found["action"] or "batch"
                if action in hub.refused:
                    status, code = hub.refused[action]
                    return self.answer(status, {"X-Error-Code": code})
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in hub.owners:
                    return self.answer_json({"error": "Invalid username or password."}, 401)
                if action == "validate-yaml":
                    return self.answer_json({"errors": [], "warnings": []})
                lines = [json.loads(line) for line in body.splitlines()]
                if action == "repos/create":
                    repo = f"{lines[0]['organization']}/{lines[0]['name']}"
                    return self.create(repo, lines[0], hub.owners[token])
                repo = found["repo"] or found["lfs"]
                is_free = action == "batch" or "create_pr" in query  # for others, too
                if repo.split("/")[0] != hub.owners[token] and not is_free:
                    return self.answer_json({"error": "Forbidden."}, 403)
                return getattr(self, f"post_{action}")(repo, found["branch"], lines, query)

            def create(self, repo, options, owner):
                folder = hub.folder / repo
                if repo.split("/")[0] != owner:
                    return self.answer_json({"error": "You cannot create it."}, 403)
                if folder.is_dir():
                    return self.answer_json({"url": f"{address}/{repo}"}, 409)
                folder.mkdir(parents=True)
                (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
                if options.get("private") or options.get("visibility") == "private":
                    hub.private.add(repo)
                return self.answer_json({"url": f"{address}/{repo}"})

            def post_branch(self, repo, branch, lines, query):
                hub.branches.append(branch)
                return self.answer_json({})

            def post_preupload(self, repo, branch, lines, query):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                        "shouldIgnore": False,
                    }
                    for file in lines[0]["files"]
                ]
                return self.answer_json({"files": files})

            def post_batch(self, repo, branch, lines, query):
                objects = [
                    {**each, "actions": {"upload": {"href": f"{address}/put/{each['oid']}"}}}
                    for each in lines[0]["objects"]
                ]
                return self.answer_json({"transfer": "basic", "objects": objects})

            def do_PUT(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
                hub.objects[self.path.rpartition("/")[2]] = content
                return self.answer(200, {})

            def post_commit(self, repo, branch, lines, query):
                is_pr, files = "create_pr" in query, {}
                for line in lines[1:]:
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.objects[value["oid"]]
                    else:
                        files[value["path"]] = None
                title = lines[0]["value"]["summary"]
                hub.commits.append((title, "pull request" if is_pr else branch, files))
                if not is_pr and branch == "main":
                    for name, content in files.items():
                        if content is None:
                            (hub.folder / repo / name).unlink()
                        else:
                            (hub.folder / repo / name).write_bytes(content)
                made = {"commitUrl": f"{address}/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40}
                if is_pr:
                    made["pullRequestUrl"] = f"{address}/{repo}/discussions/1"
                return self.answer_json(made)

            def answer_json(self, body, status=200):
                headers = {"Content-Type": "application/json"}
                return self.answer(status, headers, json.dumps(body).encode())

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
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield address
        finally:
            server.shutdown()
            server.server_close()
