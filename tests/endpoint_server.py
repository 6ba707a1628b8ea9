"""A small OpenAI-compatible server in a process of its own, with faults on demand.

    python tests/endpoint_server.py FOLDER [FAULT ...]

It writes its port to FOLDER/port and one line a request to FOLDER/requests.jsonl. Faults are served in turn, one a
request, before anything else: 429, 429:SECONDS (with Retry-After), 500, 401, stall, cut (half of the JSON), empty,
filter. It refuses prompts that hold "harmfu", as those of `task_folder` do.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER, FAULTS = Path(sys.argv[1]), sys.argv[2:]
LOCK = threading.Lock()
ACTIVE = 0


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        global ACTIVE
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            ACTIVE += 1
            fault = FAULTS.pop(0) if FAULTS else ""
            row = {"path": self.path, "authorization": self.headers["Authorization"], "active": ACTIVE, "body": body}
            row |= {"fault": fault, "time": time.monotonic()}
            with (FOLDER / "requests.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        time.sleep(0.05)
        if fault == "stall":
            time.sleep(3)
        with LOCK:  # before the answer, after which the client may ask again at once
            ACTIVE -= 1
        self.respond(fault, body)

    def respond(self, fault: str, body: dict) -> None:
        prompt = body["messages"][-1]["content"]
        text = "I'm sorry, but I can't help with that." if "harmfu" in prompt else f"Here is how: {prompt}"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        if fault == "filter":
            choice = {"message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"}
        answer = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        if fault == "empty":
            answer = {"choices": []}
        status, _, patience = fault.partition(":") if fault[:1].isdigit() else ("200", "", "")
        if status != "200":
            # As some providers do, the key is repeated in the message.
            answer = {"error": {"message": f"no, {self.headers['Authorization']}", "code": None}}
        content = json.dumps(answer).encode()
        try:
            self.send_response(int(status))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if patience:
                self.send_header("Retry-After", patience)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        except ConnectionError:
            pass  # the client has given up on a stalled request

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
(FOLDER / "port.tmp").write_text(str(server.server_port))
(FOLDER / "port.tmp").rename(FOLDER / "port")
server.serve_forever()
