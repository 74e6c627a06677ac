# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""A server on loopback that speaks the endpoints of the Hub that huggingface_hub 2.4 calls to create, fill and read
a model repository. Content lives in memory; `refuse_uploads` cuts the connection in the middle of a large file."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


TOKEN = "hf_right"
LARGE = 10_000  # bytes from which a file goes to large file storage


class HubStandIn:
    """`with HubStandIn() as hub:` serves at `hub.endpoint`; `hub.repositories` holds {name: {path: bytes}}."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, list[str]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refuse_uploads = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                return

            def do_POST(self):
                body = self._body()
                path = self.path.split("?")[0]
                hub.requests.append(f"POST {path}")
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self._json({"error": "Invalid credentials in Authorization header"}, 401)
                if path == "/api/repos/create":
                    return self._create(json.loads(body))
                if path == "/api/validate-yaml":
                    return self._json({"errors": [], "warnings": []})
                if found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
                    return self._preupload(found[1], json.loads(body))
                if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
                    return self._batch(json.loads(body))
                if found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
                    return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
                return self._json({"error": "unknown endpoint"}, 404)

            def do_PUT(self):
                hub.requests.append("PUT large file")
                length = int(self.headers["Content-Length"])
                if hub.refuse_uploads:
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    self.connection.close()
                    return None
                hub.large[self.path.rpartition("/")[2]] = self.rfile.read(length)
                return self._answer(b"", 200)

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                path = self.path.split("?")[0]
                hub.requests.append(f"{self.command} {path}")
                if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                    content = hub.repositories.get(found[1], {}).get(found[2])
                    if content is not None:
                        return self._answer(content, 200)
                    return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                    return self._json(self._describe(found[1]))
                return self._json({"error": "unknown endpoint"}, 404)

            def _body(self):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def _create(self, wish):
                name = f"{wish.get('organization') or 'me'}/{wish['name']}"
                answer = {"url": f"{hub.endpoint}/{name}", "name": name, "id": name}
                if name in hub.repositories:
                    return self._json({"error": "You already created this model repo", **answer}, 409)
                hub.repositories[name], hub.commits[name] = {}, []
                return self._json(answer)

            def _preupload(self, name, wish):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["size"] > LARGE else "regular",
                        "shouldIgnore": False,
                        "oid": _git_oid(hub.repositories[name].get(file["path"])),
                    }
                    for file in wish["files"]
                ]
                return self._json({"files": files})

            def _batch(self, wish):
                objects = []
                for item in wish["objects"]:
                    known = item["oid"] in hub.large
                    upload = {"upload": {"href": f"{hub.endpoint}/storage/{item['oid']}"}}
                    objects.append({**item, **({} if known else {"actions": upload})})
                return self._json({"transfer": "basic", "objects": objects})

            def _commit(self, name, lines):
                files = dict(hub.repositories[name])
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        files[value["path"]] = hub.large[value["oid"]]
                hub.repositories[name] = files
                hub.commits[name].append(next(line["value"]["summary"] for line in lines if line["key"] == "header"))
                oid = self._sha(name)
                return self._json(
                    {"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{name}/commit/{oid}"}
                )

            def _describe(self, name):
                siblings = [{"rfilename": path} for path in hub.repositories.get(name, {})]
                return {"id": name, "modelId": name, "sha": self._sha(name), "siblings": siblings, "tags": []}

            def _sha(self, name):
                return hashlib.sha1(str(len(hub.commits.get(name, []))).encode()).hexdigest()

            def _json(self, content, status=200, headers=None):
                return self._answer(json.dumps(content).encode(), status, headers, "application/json")

            def _answer(self, content, status, headers=None, kind="application/octet-stream"):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", kind)
                self.send_header("X-Repo-Commit", hashlib.sha1(b"1").hexdigest())
                self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
                for key, value in (headers or {}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Handler


def _git_oid(content):
    return None if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
