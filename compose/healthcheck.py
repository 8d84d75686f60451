"""Exit code 0 while the server in this container answers `/health` with 200; else 1 and one line that says why.

Standard library only, and its own connection: urllib would ask a proxy that the environment names.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

TIMEOUT_S = 4.0
"""Below the engine's own 5 s, which would kill this without a word."""


def check() -> None:
    """Raises OSError or HTTPException where nobody answers as they should."""
    host = os.environ.get("TAVERN_HOST", "").strip()
    if host in {"", "0.0.0.0", "::"}:
        host = "127.0.0.1"
    port = int(os.environ.get("PORT", "").strip() or "3001")
    connection: http.client.HTTPConnection
    acme = os.environ.get("TAVERN_ACME", "").strip().lower() in {"on", "1"}
    if acme or os.environ.get("TAVERN_TLS_CERT", "").strip():
        # The certificate is the domain's, this connection never leaves the container: there is no name to verify.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=unverified)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != http.client.OK:
        raise http.client.HTTPException(f"answered {status}")


def main() -> int:
    try:
        check()
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"unhealthy: {error!r}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
