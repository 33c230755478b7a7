"""Weights over https: what is fetched is what the hash says, or nothing."""

import functools
import hashlib
import http.server
import threading
import urllib.request

import numpy as np
import pytest
import weight_files as make

from zoo.errors import UserError
from zoo.weights import download, files

CONTENT = make.npz({"w": np.arange(3.0, dtype=np.float32)})
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of this machine in place of the network: its requests, and the https address that leads there."""
    monkeypatch.setenv("ZOO_CACHE_DIR", str(tmp_path / "cache"))
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://elsewhere.example/w.npz")
                self.end_headers()
            elif self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT[:50])
            elif self.path == "/w.npz":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(CONTENT)
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)

    class Local(urllib.request.HTTPSHandler):
        def https_open(self, req):
            req.host = f"127.0.0.1:{httpd.server_port}"
            return self.do_open(functools.partial(http.client.HTTPConnection), req)

    handlers = Local, next(h for h in download.opener.handlers if isinstance(h, download._OnlyHttps))
    monkeypatch.setattr(download, "opener", urllib.request.build_opener(*handlers))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield asked, "https://weights.example"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_fetched_once(server, tmp_path):
    asked, host = server
    for sha in (SHA, SHA.upper()):
        np.testing.assert_array_equal(files.read(f"{host}/w.npz#sha256={sha}").tensors["w"], [0, 1, 2])
    assert asked == ["/w.npz"]
    (kept,) = (tmp_path / "cache/weights").iterdir()
    assert kept.name == SHA
    kept.write_bytes(b"damaged")  # what is kept is checked too
    assert files.read(f"{host}/w.npz#sha256={SHA}").format == "npz"
    assert asked == ["/w.npz"] * 2


@pytest.mark.parametrize(
    "end, line",
    [
        (f"/w.npz#sha256={'0' * 64}", rf"has the sha256 {SHA}, not 0{{64}}; it was not used"),
        (f"/short#sha256={SHA}", r"(has the sha256 .* it was not used|cannot fetch .*read)"),
        (f"/none#sha256={SHA}", "cannot fetch https://weights.example/none: Not Found"),
        (f"/away#sha256={SHA}", "it leads to http://elsewhere.example/w.npz, which is not https"),
        ("/w.npz", r"needs the hash of its content: https://...#sha256="),
        ("/w.npz#sha256=abc", r"needs the hash of its content"),
    ],
)
def test_refused(server, tmp_path, end, line):
    asked, host = server
    with pytest.raises(UserError, match=line):
        files.read(host + end)
    folder = tmp_path / "cache/weights"
    assert not folder.exists() or not list(folder.iterdir())
    assert bool(asked) == (len(end) > 60)


def test_plain_http_is_refused():
    with pytest.raises(UserError, match="fetched by https:// only"):
        files.read(f"http://weights.example/w.npz#sha256={SHA}")
