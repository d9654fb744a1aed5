"""A local stand-in for the HTTP interface of the Hugging Face Hub, for pushing and loading without a network."""

import json
import re
from base64 import b64decode
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from threading import Lock, Thread
from time import sleep
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit


Files = dict[str, bytes]


class Commit(NamedTuple):
    repo_id: str
    message: str
    paths: list[str]


class HubError(Exception):
    """An answer other than 200; the client picks its exception by the status and the error code."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "", **details: str) -> None:
        super().__init__(message)
        self.status = status
        self.content = {"error": message, **details}
        self.headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}


def blob_id(content: bytes) -> str:
    """The id that git gives to a file: the client compares it with its own to leave out unchanged files."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


def tree_id(files: Files) -> str:
    return sha1(repr(sorted((path, blob_id(content)) for path, content in files.items())).encode()).hexdigest()


def card_tags(card: str) -> list[str]:
    metadata = re.match(r"---\n(.*?)^---$", card, re.DOTALL | re.MULTILINE)
    tags = metadata and re.search(r"^tags:\n((?: *- .+\n)+)", metadata[1], re.MULTILINE)
    return re.findall(r"- (.+)", tags[1]) if tags else []


class HubServer(ThreadingHTTPServer):
    """
    Serves models and data sets on a free local port inside a `with` block, and shows what was pushed to their main
    branch. Data sets are kept as `datasets/user/name`. Commits whose message begins with `slow_commits` take a second.
    """

    token = "hf_test"

    def __init__(self, slow_commits: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.slow_commits = slow_commits
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Files] = {}
        self.private: set[str] = set()
        self.commits: list[Commit] = []
        self.lock = Lock()
        self._history: dict[tuple[str, str], Files] = {}

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def create(
        self, name: str, organization: str | None = None, visibility: str = "public", type: str = "model", **_: Any
    ) -> Any:
        own_id = f"{organization or 'user'}/{name}"
        repo_id = f"datasets/{own_id}" if type == "dataset" else own_id
        url = f"{self.url}/{repo_id}"
        if repo_id in self.repos:
            raise HubError(409, "You already created this model repo", url=url)
        self.repos[repo_id] = {}
        if visibility == "private":
            self.private.add(repo_id)
        return {"name": own_id, "url": url}

    def preupload(self, repo_id: str, revision: str, files: list[dict[str, Any]]) -> Any:
        _, known = self.checkout(repo_id, revision)
        oids = {path: blob_id(content) for path, content in known.items()}
        # "regular" keeps even the weights inside the commit request: no storage of large files has to be imitated.
        how = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": file["path"], "oid": oids.get(file["path"]), **how} for file in files]}

    def commit(self, repo_id: str, revision: str, header: dict[str, Any], *changes: dict[str, Any]) -> Any:
        if revision != "main":
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = dict(self.repos[repo_id])
        paths = [change["value"]["path"] for change in changes]
        for path, change in zip(paths, changes, strict=True):
            match change["key"]:
                case "file":
                    files[path] = b64decode(change["value"]["content"])
                case "deletedFile" if path in files:
                    del files[path]
                case "deletedFolder":
                    files = {name: files[name] for name in files if not name.startswith(f"{path.rstrip('/')}/")}
                case "deletedFile":
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                case key:
                    raise HubError(400, f"The stand-in does not know the change {key}")
        self.repos[repo_id] = files
        self.commits.append(Commit(repo_id, header["value"]["summary"], paths))
        commit, _ = self.checkout(repo_id, "main")
        return {"commitOid": commit, "commitUrl": f"{self.url}/{repo_id}/commit/{commit}"}

    def checkout(self, repo_id: str, revision: str) -> tuple[str, Files]:
        """The id of the commit that a revision stands for, and its files."""
        # A commit is named after its files alone, so that a test may also fill `repos` by hand.
        head = tree_id(self.repos[repo_id])
        self._history[repo_id, head] = dict(self.repos[repo_id])
        commit = head if revision == "main" else revision
        if (repo_id, commit) not in self._history:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit, self._history[repo_id, commit]

    def info(self, repo_id: str, revision: str = "main") -> Any:
        commit, files = self.checkout(repo_id, revision)
        return {
            "id": repo_id.removeprefix("datasets/"),
            "sha": commit,
            "private": repo_id in self.private,
            "tags": card_tags(files.get("README.md", b"").decode()),
            "siblings": [{"rfilename": p, "size": len(files[p]), "blobId": blob_id(files[p])} for p in sorted(files)],
        }

    def tree(self, repo_id: str, revision: str, folder: str, recursive: bool) -> Any:
        commit, files = self.checkout(repo_id, revision)
        root = PurePosixPath(folder)
        inside = {p: files[str(p)] for p in map(PurePosixPath, files) if root in p.parents}
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist", "EntryNotFound", commit)
        entries = {p: {"type": "file", "oid": blob_id(content), "size": len(content)} for p, content in inside.items()}
        for parent in {parent for path in inside for parent in path.parents if root in parent.parents}:
            entries[parent] = {"type": "directory", "oid": sha1(f"{commit}/{parent}".encode()).hexdigest(), "size": 0}
        return [{"path": str(p), **entries[p]} for p in sorted(entries) if recursive or p.parent == root]

    def file(self, repo_id: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
        commit, files = self.checkout(repo_id, revision)
        if path not in files:
            # The client remembers an absent file, if it is told in which commit.
            raise HubError(404, "Entry not found", "EntryNotFound", commit)
        return files[path], {"ETag": f'"{blob_id(files[path])}"', "X-Repo-Commit": commit}


class HubRequestHandler(BaseHTTPRequestHandler):
    server: HubServer

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers = 200, {}
        slow = self.server.slow_commits
        if slow is not None and "/commit/" in self.path and b'"summary": "' + slow in body:
            sleep(1)
        try:
            with self.server.lock:
                content = self.route(body)
        except HubError as error:
            status, content, headers = error.status, error.content, error.headers
        if isinstance(content, tuple):
            content, headers = content
        else:
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def route(self, body: bytes) -> Any:
        """The content of the answer: what JSON can hold, or the bytes of a file with their headers."""
        hub, url, authorization = self.server, urlsplit(self.path), self.headers["Authorization"]
        if authorization not in (None, f"Bearer {hub.token}"):
            raise HubError(401, "Invalid credentials in Authorization header")
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        self.collection = ""
        if "datasets" in parts[:2]:
            self.collection = "datasets/"
            parts = ["api", "models", *parts[2:]] if parts[0] == "api" else parts[1:]
        match [self.command, *parts]:
            case ["POST", "api", "validate-yaml"]:
                return {"errors": [], "warnings": []}
            case ["POST", "api", kind, *_] | ["GET", "api", "whoami-v2" as kind] if not authorization:
                # Over https the client takes a 401 on a repository for a missing one; over http it has to be told.
                raise HubError(401, "Invalid username or password.", "RepoNotFound" if kind == "models" else "")
            case ["GET", "api", "whoami-v2"]:
                return {"type": "user", "name": "user", "orgs": []}
            case ["POST", "api", "repos", "create"]:
                return hub.create(**json.loads(body))
            case ["POST", "api", "models", user, name, "preupload", revision]:
                return hub.preupload(self.repo_id(user, name), revision, json.loads(body)["files"])
            case ["POST", "api", "models", user, name, "commit", revision] if not url.query:
                return hub.commit(self.repo_id(user, name), revision, *map(json.loads, body.splitlines()))
            case ["GET", "api", "models", user, name]:
                return hub.info(self.repo_id(user, name))
            case ["GET", "api", "models", user, name, "revision", revision]:
                return hub.info(self.repo_id(user, name), revision)
            case ["GET", "api", "models", user, name, "tree", revision, *folder]:
                return hub.tree(self.repo_id(user, name), revision, "/".join(folder), "recursive=true" in url.query)
            case ["GET" | "HEAD", user, name, "resolve", revision, *path]:
                return hub.file(self.repo_id(user, name), revision, "/".join(path))
        raise HubError(404, f"The stand-in does not know {self.command} {self.path}")

    def repo_id(self, user: str, name: str) -> str:
        repo_id = f"{self.collection}{user}/{name}"
        # Without a token, a private repository looks like a missing one.
        if repo_id not in self.server.repos or (repo_id in self.server.private and not self.headers["Authorization"]):
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo_id

    def log_message(self, *_: object) -> None:
        """Keep the requests out of the output of the tests."""
