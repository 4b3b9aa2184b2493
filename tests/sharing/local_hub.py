"""A Hugging Face Hub of a few lines on the loopback: what the library asks for to push and to pull a model."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalHub(ThreadingHTTPServer):
    """``repos``: repository -> path -> content; ``asked``: every request, and what came with it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str]] = []
        self.created: list[dict] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


def _sha(repo: str) -> str:
    return hashlib.sha1(repo.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, content: bytes, status=200, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _say(self, content, status=200, **headers):
        self._answer(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

    def do_POST(self):
        body, path = self.rfile.read(int(self.headers["Content-Length"])), self.path.partition("?")[0]
        self.server.asked.append(("POST", path))
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            if repo.startswith("forbidden/"):
                return self._say({"error": "Invalid credentials"}, 401)
            self.server.created.append(asked)
            self.server.repos.setdefault(repo, {})
            return self._say({"url": f"{self.server.endpoint}/{repo}", "name": repo})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if match := re.fullmatch("/api/models/(.+)/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self._say({"files": files})
        if match := re.fullmatch("/api/models/(.+)/commit/main", path):
            for line in body.splitlines():
                if (part := json.loads(line))["key"] == "file":
                    self.server.repos[match[1]][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            url = f"{self.server.endpoint}/{match[1]}/commit/{_sha(match[1])}"
            return self._say({"commitUrl": url, "commitOid": _sha(match[1]), "hookOutput": ""})
        return self._say({"error": "not found"}, 404)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append((self.command, path))
        if match := re.fullmatch("/api/models/(.+)/revision/main", path):
            if (files := self.server.repos.get(match[1])) is None:
                return self._say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            about = {"id": match[1], "sha": _sha(match[1]), "private": True, "tags": [], "downloads": 0, "likes": 0}
            return self._say(about | {"siblings": [{"rfilename": name} for name in files]})
        if match := re.fullmatch("/api/models/(.+)/tree/[0-9a-f]+", path):
            files = self.server.repos[match[1]]
            return self._say(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        if match := re.fullmatch("/(.+)/resolve/[0-9a-f]+/(.+)", path):
            content = self.server.repos[match[1]][match[2]]
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._answer(content, ETag=tag, X_Repo_Commit=_sha(match[1]))
        return self._say({"error": "not found"}, 404)

    do_HEAD = do_GET
