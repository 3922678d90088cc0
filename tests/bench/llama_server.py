"""Stands in for a llama-server: the same options, the same answers, a continuation that counts up."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["temperature"] == 0.0
        assert asked["ignore_eos"]
        assert not asked["cache_prompt"]
        new, last = asked["n_predict"], asked["prompt"][-1]
        drafted = {"draft_n": 2 * new, "draft_n_accepted": new // 2} if "-md" in sys.argv else {}
        times = {
            "prompt_n": len(asked["prompt"]),
            "prompt_ms": 50.0,
            "predicted_n": new,
            "predicted_ms": 10.0 * (new - 1),
        }
        self._answer({"tokens": [last + 1 + index for index in range(new)], "timings": times | drafted})

    def _answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


if option("-m").endswith("broken.gguf"):
    sys.stdout.write("loading\nerror: failed to load model\n")
    sys.exit(1)
HTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()
