"""A SOCKS5 proxy on loopback, which finds every host on this machine."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        methods = self.rfile.read(2)[1]
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")  # no password
        kind = self.rfile.read(4)[3]
        length = {1: 4, 4: 16}[kind] if kind != 3 else self.rfile.read(1)[0]
        host, port = self.rfile.read(length), int.from_bytes(self.rfile.read(2))
        self.server.hosts.append(host.decode() if kind == 3 else "")  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", port)) as other:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            threading.Thread(target=_copy, args=(other, self.connection), daemon=True).start()
            _copy(self.connection, other)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    hosts: list[str]


@contextlib.contextmanager
def socks_server() -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the names of the hosts that it was asked for."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.hosts = []
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"socks5h://127.0.0.1:{server.server_address[1]}", server.hosts
        server.shutdown()
