"""The few endpoints of the hub that an upload needs, on the loopback: repositories, upload modes, large files, commits."""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub(ThreadingHTTPServer):
    """`repositories` holds what was made: name -> private; `files` what was committed: name -> path -> bytes."""

    daemon_threads = True

    def __init__(self, token: str = "hf_right", refuse: tuple[int, str] | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.refuse = token, refuse
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}  # sha256 -> content
        self.messages: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self._answer({"error": "Invalid username or password."}, 401)
        if self.server.refuse:
            return self._answer({"error": self.server.refuse[1]}, self.server.refuse[0])
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        name = self.path.removeprefix("/api/models/")
        if "/preupload/" in name:
            modes = [{"path": file["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self._answer({"files": modes})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            actions = [{**one, "actions": {"upload": {"href": f"{self.server.address}/large/{one['oid']}", "header": {}}}}
                       for one in json.loads(body)["objects"]]  # fmt: skip
            return self._answer({"transfer": "basic", "objects": actions})
        return self._commit(name.split("/commit/")[0], [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        oid = self.path.removeprefix("/large/")
        self.server.large[oid] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_GET(self):
        name = self.path.removeprefix("/api/models/").split("?")[0]
        if name not in self.server.repositories:
            return self._answer({"error": "Repository not found"}, 404)
        return self._answer({"id": name, "private": self.server.repositories[name], "siblings": []})

    def _create(self, asked: dict):
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self._answer({"error": "exists", "url": f"{self.server.address}/{name}"}, 409)
        self.server.repositories[name] = asked["visibility"] == "private"
        return self._answer({"url": f"{self.server.address}/{name}"})

    def _commit(self, name: str, lines: list[dict]):
        files = self.server.files.setdefault(name, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        return self._answer(
            {"success": True, "commitOid": "abc", "commitUrl": f"{self.server.address}/{name}/commit/abc"}
        )

    def _answer(self, told: dict, status: int = 200):
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if "error" in told:
            self.send_header("X-Error-Message", told["error"])
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextmanager
def hub(**options):
    """A hub that is gone afterwards."""
    server = Hub(**options)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
