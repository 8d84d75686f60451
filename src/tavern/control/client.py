"""Asking a running server over its control socket. Blocking; for the command line."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from tavern.control.messages import MAX_ANSWER_BYTES, ControlRefused, decode_line, encode_line

TIMEOUT_S = 10.0


def ask(path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The server's answer. Raises ControlRefused, also where no server listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(encode_line(request))
            content = bytearray()
            while not content.endswith(b"\n") and len(content) < MAX_ANSWER_BYTES:
                data = sock.recv(65536)
                if not data:
                    break
                content += data
    except FileNotFoundError:
        raise ControlRefused(
            f"no server runs here: there is no {path} (TAVERN_CONTROL_SOCKET, TAVERN_DB_PATH)"
        ) from None
    except ConnectionRefusedError:
        raise ControlRefused(f"no server runs here any more: nobody listens at {path}") from None
    except PermissionError:
        raise ControlRefused(f"you may not open {path}: be the user that the server runs as, or root") from None
    except OSError as error:
        raise ControlRefused(f"the server does not answer at {path}: {error}") from None
    answer = decode_line(bytes(content))
    if not answer.pop("ok", False):
        raise ControlRefused(str(answer.get("error", "the server refused")))
    return answer
