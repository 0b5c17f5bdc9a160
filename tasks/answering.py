"""Whether a Ray cluster answers at an address, asked without Ray, which would try for minutes."""

import os
import socket

from fm.errors import UserError


def check_answers(address: str) -> None:
    """Raises: UserError if nothing listens at host:port, or what does is no Ray."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or os.environ.get("RAY_USE_TLS") == "1":
        return  # "local" and "auto" are looked up by Ray; by TLS it alone can speak
    try:
        with socket.create_connection((host, int(port)), timeout=5) as link:
            link.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")  # as each gRPC client begins
            answer = link.recv(9)
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers ({error.strerror or error})", address, "is it up (`fm status`)?"
        ) from None
    if answer[3:4] != b"\4":  # a frame of settings
        raise UserError("something answers there that is no Ray cluster", address, "give the address of Ray's head")
