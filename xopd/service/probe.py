"""Is a service on this machine well? `python -m xopd.service.probe PORT PATH`, for the health checks of containers.

Ends with 0 when PATH answers 200, else with 1 and a line that says why. Finds out by itself whether the port speaks
TLS. The certificate is not checked and nothing secret is sent: /healthz and /readyz are open, and it is this very
container that is asked.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys

HOST = "127.0.0.1"
TIMEOUT_S = 4.0


def probe(port: int, path: str) -> str | None:
    """None where it answers 200, else why not."""
    first = bool(os.environ.get("XOPD_SECURITY__TLS_CERT"))
    problem = "does not answer"
    for over_tls in (first, not first):
        try:
            status, text = _ask(port, path, over_tls)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
            if isinstance(error, ConnectionRefusedError):
                break
            continue
        return None if status == 200 else f"{status} {text}"
    return problem


def _ask(port: int, path: str, over_tls: bool) -> tuple[int, str]:
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    if over_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(HOST, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(300).decode(errors="replace")
    finally:
        connection.close()


def main() -> int:
    """Ask once."""
    if len(sys.argv) != 3 or not sys.argv[1].isdigit():
        sys.stderr.write("usage: python -m xopd.service.probe PORT PATH\n")
        return 2
    problem = probe(int(sys.argv[1]), sys.argv[2])
    if problem is not None:
        sys.stderr.write(f"{sys.argv[2]}: {problem}\n")
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main())
