"""What HTTP answers: health, metrics, and the page's files, all from memory."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import attrs
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tavern.setting_values import IPNetwork
from tavern.web.invites import invite_link, qr_code
from tavern.web.proxies import client_host

# The page needs nothing from elsewhere, and holds a private key: nothing from elsewhere runs in it or frames it.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
        "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Asked for anew each time and answered with 304: an updated server has an updated page at once.
    "cache-control": "no-cache",
}
_MAY_BE_MISSING = "noise/"
"""The noise model, which is not part of the program (scripts/fetch-noise-model): the page asks whether it is there."""
_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml", ".html": "text/html; charset=utf-8"}

_IMPORT = re.compile(rb'^import [^;]*?"\./([\w-]+\.js)"', re.MULTILINE)
_EXPOSITION_TYPES = ("text/plain", "application/openmetrics-text")
"""What Prometheus and its kin ask for; existing users' scripts and browsers ask for neither, and get JSON."""


@attrs.frozen
class Health:
    """What the health and metrics answers are made of, asked at each request."""

    draining: Callable[[], bool]
    taverns: Callable[[], int]
    metrics: Callable[[], dict[str, Any]]
    exposition: Callable[[str], tuple[bytes, str]]
    """By an Accept header: the metrics as Prometheus reads them, and their media type."""
    readiness: Callable[[], Awaitable[dict[str, str]]]
    """What was looked at lately, and `ok` or what is wrong with it."""
    trusted_proxies: Sequence[IPNetwork] = ()


@attrs.frozen
class _File:
    content: bytes
    media_type: str
    etag: str
    compressed: bytes | None
    """With gzip; None where that makes it no smaller."""


def make_app(health: Health) -> ASGIApp:
    """The ASGI application. The page's files are read now, once."""
    page = _load_page()
    page_headers = dict(_PAGE_HEADERS)
    if any(path.startswith(_MAY_BE_MISSING) for path in page):
        # To compile it; nothing else is, and no script gets more by it.
        policy = page_headers["content-security-policy"]
        allowed = policy.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
        page_headers["content-security-policy"] = allowed

    async def get_health(_request: Request) -> Response:
        if health.draining():
            return JSONResponse({"status": "draining", "taverns": health.taverns()}, status_code=503)
        return JSONResponse({"status": "ok", "taverns": health.taverns()})

    async def get_ready(request: Request) -> Response:
        checks = {"draining": "the server is about to stop"} if health.draining() else await health.readiness()
        ready = all(found == "ok" for found in checks.values())
        status = "ready" if ready else "not ready"
        # Who asks learns whom limits count him as: behind a proxy that is not named, everybody is one.
        client = request.client and client_host(request.client.host, request.headers.raw, health.trusted_proxies)
        answer = {"status": status, "checks": checks, "client": client}
        return JSONResponse(answer, status_code=200 if ready else 503)

    async def get_metrics(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if any(media_type in accept for media_type in _EXPOSITION_TYPES):
            content, media_type = health.exposition(accept)
            return Response(content, headers={"content-type": media_type, "vary": "accept"})
        return JSONResponse(health.metrics(), headers={"vary": "accept"})

    async def get_page(request: Request) -> Response:
        return _answer_file(request, page.get("index.html"), page_headers)

    async def get_qr(request: Request) -> Response:
        secure = "secure" in request.query_params
        link = invite_link(request.headers.get("host", ""), request.path_params["tavern_id"], secure=secure)
        if link is None:
            return PlainTextResponse("Not Found", status_code=404)
        headers = {**_PAGE_HEADERS, "cache-control": "private, max-age=86400"}
        return Response(qr_code(link), media_type="image/svg+xml", headers=headers)

    async def get_file(request: Request) -> Response:
        path = request.path_params["path"]
        if path not in page and path.startswith(_MAY_BE_MISSING):
            return Response(status_code=204, headers=_PAGE_HEADERS)
        return _answer_file(request, page.get(path), page_headers)

    app = Starlette(
        routes=[
            Route("/health", get_health),
            Route("/ready", get_ready),
            Route("/metrics", get_metrics),
            Route("/", get_page),
            Route("/join/{tavern_id}", get_page),
            Route("/qr/{tavern_id}.svg", get_qr),
            Route("/static/{path:path}", get_file),
        ]
    )
    # It would redirect to the host that the request named, and to http: behind TLS.
    app.router.redirect_slashes = False
    return app


def _answer_file(request: Request, file: _File | None, page_headers: Mapping[str, str]) -> Response:
    if file is None:
        return PlainTextResponse("Not Found", status_code=404)
    headers = {**page_headers, "vary": "accept-encoding"}
    content, etag = file.content, file.etag
    if file.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        content, etag = file.compressed, f'{file.etag[:-1]}-gzip"'
        headers["content-encoding"] = "gzip"
    headers["etag"] = etag
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=file.media_type, headers=headers)


def _load_page() -> dict[str, _File]:
    contents = {path: entry.read_bytes() for path, entry in _walk(files("tavern.web") / "static", "")}
    contents["index.html"] = _with_preloads(contents)
    return {path: _make_file(path, content) for path, content in contents.items()}


def _with_preloads(contents: Mapping[str, bytes]) -> bytes:
    """The page, with all modules that `main.js` leads to: a browser would find them one round trip after the other."""
    found, ahead = set[str](), ["main.js"]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += [name.decode() for name in _IMPORT.findall(contents[path])]
    links = "".join(f'    <link rel="modulepreload" href="/static/{path}">\n' for path in sorted(found))
    return contents["index.html"].replace(b"  </head>", links.encode() + b"  </head>")


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _make_file(path: str, content: bytes) -> _File:
    suffix = "." + path.rpartition(".")[2]
    media_type = _MEDIA_TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    compressed = gzip.compress(content, mtime=0)
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, media_type, etag, compressed if len(compressed) < len(content) else None)
