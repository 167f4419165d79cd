"""A real nginx asks forward-auth before it lets a request through (`auth_request`)."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.edge import Edge
from tests.support.ports import free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (Debian: apt-get install nginx-light)"),
]

POLICY = """
p role:reader url:app.example/reports/* GET
p user:* url:app.example/reports/secret* * deny
g user:alice role:reader
"""

CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream kasbah {{ server 127.0.0.1:{kasbah}; keepalive 4; }}
    server {{
        listen 127.0.0.1:{port};
        server_name app.example;
        location / {{
            auth_request /_kasbah;
            root {directory}/www;
            try_files /hello.txt =404;
        }}
        location = /_kasbah {{
            internal;
            proxy_pass http://kasbah/v1/forward-auth;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_http_version 1.1;
            proxy_set_header X-Kasbah-Key {key};
            proxy_set_header X-Kasbah-Subject $http_x_test_user;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-Host $host;
            proxy_set_header X-Original-URI $request_uri;
            proxy_set_header X-Forwarded-Method "";
            proxy_set_header X-Forwarded-Host "";
            proxy_set_header X-Forwarded-Uri "";
            proxy_set_header X-Tenant-ID "";
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory: Path, kasbah: str, key: str):
    """Run nginx in the foreground of a child; yields its port."""
    port = free_port()
    (directory / "www").mkdir()
    (directory / "www" / "hello.txt").write_text("protected")
    directory.chmod(0o755)
    (directory / "nginx.conf").write_text(
        CONFIGURATION.format(directory=directory, kasbah=kasbah, port=port, key=key)
        if os.getuid()
        else "user root;" + CONFIGURATION.format(directory=directory, kasbah=kasbah, port=port, key=key)
    )
    process = subprocess.Popen(
        [str(NGINX), "-p", str(directory), "-c", str(directory / "nginx.conf")], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(60)
        process.stderr.close()


def fetch(port, path, user="alice", method="GET", **headers):
    """Return the status and body that a client of nginx gets."""
    sent = {"Host": "app.example"} | ({"X-Test-User": user} if user else {}) | headers
    request = urllib.request.Request(f"http://127.0.0.1:{port}", headers=sent, method=method)
    request.selector = path  # as written: urllib would tidy it
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


async def test_nginx_lets_through_what_is_allowed_and_nothing_else(tmp_path):
    """And forged headers, spellings of a path, and a service that is down change nothing for the better."""
    import asyncio

    edge = Edge()
    key = edge.key(edge.tenant("acme", POLICY), "decision:check")
    async with edge.serving():
        with nginx(tmp_path, edge.url.rpartition(":")[2], key) as port:

            async def status(*args, **more):
                found, body = await asyncio.to_thread(fetch, port, *args, **more)
                assert (body == b"protected") is (found == 200)
                return found

            assert await status("/reports/1") == 200
            assert await status("/reports/1?q=/../x;y//z") == 200
            assert await status("/reports/secret") == 403
            assert await status("/other") == 403
            assert await status("/reports/1", "bob") == 403
            assert await status("/reports/1", None) == 401
            assert await status("/reports/1", "role:reader") == 403
            assert await status("/reports/1", method="DELETE") == 403
            assert await status("/reports/1", Host="other.example") == 403
            forged = {"X-Original-URI": "/reports/1", "X-Forwarded-Uri": "/reports/1", "X-Kasbah-Subject": "alice"}
            assert await status("/reports/secret", **forged) == 403
            assert await status("/reports/1", "bob", **forged) == 403
            assert await status("/reports/1", **{"X-Tenant-ID": "other", "X-Forwarded-Host": "x"}) == 200
            for path in (
                "/reports//secret", "/reports/./secret", "/reports/x/../secret", "/reports/%2e%2e/reports/secret",
                "/reports%2fsecret", "/reports/%2fsecret", "/reports/secret;x", "/reports/x;/../secret", "/reports\\secret",
                "/reports/sec%72et", "/reports/%73ecret", "/reports/%252e%252e/secret",
            ):  # fmt: skip
                assert await status(path) in {400, 403}, path
            edge.node.failure = RuntimeError("down")
            assert await status("/reports/1") == 500  # nginx's word for any failure of the decision point
            edge.node.failure = None
            assert await status("/reports/1") == 200
