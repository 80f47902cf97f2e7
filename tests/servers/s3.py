"""A real S3 server (Adobe's S3Mock: the S3 protocol with conditional puts and multipart uploads, on files).

One thread answers all requests: with more, S3Mock looks for an object and then writes it, and several of 16
conditional puts at once succeed, which S3 rules out. It checks no signatures: every key is right. `refusing`
is a server that refuses every key, as AWS does.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from pipelines.machine import find_java
from tests.processes import SHORT_JVM
from tests.servers.daemon import Daemon, fetch, free_port
from tests.servers.jars import find_jar

BUCKET = "lake"


class S3Server(Daemon):
    """Keeps its data and port over stop, kill and start."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        buckets: Sequence[str] = (BUCKET,),
        prefix: Sequence[str] = (),
    ) -> None:
        self.endpoint = f"http://{host}:{free_port(host)}"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        mock = "com.adobe.testing.s3mock"
        settings = {
            "server.address": host,
            "server.port": self.endpoint.rpartition(":")[2],
            "server.ssl.enabled": "false",
            "server.tomcat.threads.max": "1",
            "server.tomcat.threads.min-spare": "1",
            f"{mock}.httpPort": "0",  # a second port, which is not used
            f"{mock}.store.root": str(folder / "data"),
            f"{mock}.store.retainFilesOnExit": "true",
            f"{mock}.store.initialBuckets": ",".join(buckets),
        }
        command = [find_java().path, "-Xmx512m", *SHORT_JVM.split()]
        command += ["-jar", str(find_jar("servers", "s3mock"))]
        command += [f"--{name}={value}" for name, value in settings.items()]
        super().__init__(
            "the S3 server",
            command,
            log=folder / "s3.log",
            answers=lambda: b"ListAllMyBuckets" in (fetch(f"{self.endpoint}/") or b""),
            prefix=prefix,
        )


@contextmanager
def s3_server(folder: Path, **options: object) -> Iterator[S3Server]:
    """A server that runs while the context lasts; options as S3Server."""
    server = S3Server(folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


_REFUSAL = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>'
    b"<Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>"
)


@contextmanager
def refusing(host: str = "127.0.0.1") -> Iterator[str]:
    """The endpoint of a server that answers every request as AWS answers a key that it does not know."""

    class Refuse(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(403)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(_REFUSAL)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(_REFUSAL)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((host, 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
