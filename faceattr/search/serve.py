"""A page to look and search with: `faceattr serve`.

Nothing but the page, its answers and indexed photos is served. On this machine alone the name that the browser asks for
has to be this machine's: a page elsewhere whose name is made to lead here gets nothing. Elsewhere a token is needed.
What a page of another site asks for is refused.
"""

from __future__ import annotations

import argparse
import hmac
import io
import ipaddress
import json
import os
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from faceattr.crops import carried
from faceattr.images import ImageError, load_photo
from faceattr.search.command import name_below
from faceattr.search.index import ORDERS, Index

PAGE_SIZE = 100
"""Photos an answer to a search, at most."""
PHOTO_SIDE = 1600
LARGEST_UPLOAD = 64 * 2**20
COOKIE = "faceattr-token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Refused(Exception):
    """An answer other than 200: its status, and what is said."""

    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one index.

    host, port: where to listen. token: what has to be known where others than this machine can reach it.
    load_model: gives the pipeline for photos that are dropped on the page; called when the first one is.
    """

    daemon_threads = True

    def __init__(self, index: Index, host: str, port: int, token: str | None, load_model: Callable, weights=None):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)
        self.index, self.token, self.weights = index, token, weights
        self.local = is_loopback(host)
        if not self.local and not token:
            self.server_close()
            raise ValueError(f"{host}: a token is needed where others than this machine can reach the page")
        self._load_model, self._model = load_model, None
        self._net = None
        # SQLite's connection and the nets are used by one request at a time.
        self.lock, self.model_lock = threading.Lock(), threading.Lock()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        token = f"/?token={self.token}" if self.token else "/"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{token}"

    def model(self):
        if self._model is None:
            self._model = self._load_model()
        return self._model

    def net(self):
        """The nets with what it takes to explain them."""
        if self._net is None:
            from faceattr.explain.nets import read_net

            self._net = read_net(self.weights)
        return self._net

    def handle_error(self, request, client_address) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):  # a browser that went away
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "faceattr", ""
    timeout = 60

    def do_GET(self) -> None:
        pages = {"": self._page, "api": self._api, "thumbnail": self._thumbnail, "photo": self._photo}
        self._answer({**pages, "regions": self._regions})

    def do_POST(self) -> None:
        self._answer({"try": self._try})

    def log_message(self, *_) -> None:
        pass  # what people search for is their own business

    def _answer(self, pages: dict[str, Callable]) -> None:
        try:
            url = urlsplit(self.path)
            self._parameters = {key: values[-1] for key, values in parse_qs(url.query).items()}
            self._check()
            parts = url.path.strip("/").split("/")
            page = pages.get(parts[0])
            if page is None:
                raise Refused(HTTPStatus.NOT_FOUND, "no such page")
            page(*parts[1:])
        except Refused as refused:
            self._send(str(refused).encode(), "text/plain; charset=utf-8", refused.status)
        except (ImageError, ValueError) as error:
            self._send(str(error).encode(errors="replace"), "text/plain; charset=utf-8", HTTPStatus.BAD_REQUEST)
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            self._send(b"failed; see where the server runs", "text/plain", HTTPStatus.INTERNAL_SERVER_ERROR)

    def _check(self) -> None:
        """Refuses whom the page is not for."""
        host = self.headers.get("Host", "")
        if self.server.local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Refused(HTTPStatus.FORBIDDEN, f"{host!r}: this page answers to the names of this machine alone")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            # A link on another site may be followed, but nothing else.
            opened = (
                self.headers.get("Sec-Fetch-Mode") == "navigate" and self.headers.get("Sec-Fetch-Dest") == "document"
            )
            if not (opened and self.command == "GET" and urlsplit(self.path).path == "/"):
                raise Refused(HTTPStatus.FORBIDDEN, "asked for by a page of another site")
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise Refused(HTTPStatus.FORBIDDEN, "asked for by a page of another site")
        if self.server.token is not None:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
            given = self._parameters.get("token") or (cookie.value if cookie else "")
            if not hmac.compare_digest(given.encode(), self.server.token.encode()):
                raise Refused(HTTPStatus.UNAUTHORIZED, "give the token, as faceattr serve prints it with the address")

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, keep: bool = False) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "private, max-age=3600" if keep else "no-store")
        if self.server.token is not None and status == HTTPStatus.OK and "token" in self._parameters:
            # The address with the token is asked for once.
            self.send_header("Set-Cookie", f"{COOKIE}={self.server.token}; HttpOnly; SameSite=Strict; Path=/")
        if status >= 400:
            self.close_connection = True  # what was sent along has perhaps not been read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _json(self, content) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _page(self) -> None:
        page = resources.files("faceattr.search").joinpath("serve.html").read_bytes()
        self._send(page, "text/html; charset=utf-8")

    def _api(self, what: str = "", *_) -> None:
        index, given = self.server.index, self._parameters
        if what == "about":
            with self.server.lock:
                self._json({"attributes": index.attributes, **index.counts()})
            return
        query, name = given.get("q", ""), given.get("name", "")
        if what == "histogram":
            with self.server.lock:
                self._json({"attributes": index.histogram(query, name), "ages": index.ages(query, name)})
            return
        if what != "search":
            raise Refused(HTTPStatus.NOT_FOUND, "no such page")
        order, offset = given.get("order", "probability"), _whole(given.get("offset", "0"))
        if order not in ORDERS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"order: one of {', '.join(ORDERS)}")
        with self.server.lock:
            roots = index.roots
            hits = list(index.search(query, name=name, order=order, limit=PAGE_SIZE, offset=offset))
            total = index.count(query, name=name) if offset == 0 else None
            photos = [
                {
                    "id": hit.id,
                    "name": printable_name(hit.prediction.image, roots),
                    "width": hit.prediction.width,
                    "height": hit.prediction.height,
                    "probability": hit.probability,
                    "faces": [
                        {**face.to_dict(), "number": number, "fits": number in hit.numbers}
                        for number, face in enumerate(index.faces_of(hit.id), 1)
                    ],
                }
                for hit in hits
            ]
        self._json({"total": total, "photos": photos})

    def _thumbnail(self, photo: str = "", *_) -> None:
        with self.server.lock:
            jpeg = self.server.index.thumbnail(_whole(photo))
        if jpeg is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no such photo")
        self._send(jpeg, "image/jpeg", keep=True)

    def _path(self, photo: str) -> str:
        """The file of an indexed photo; not that of a link that leads out of what was indexed."""
        with self.server.lock:
            path, roots = self.server.index.photo_path(_whole(photo)), self.server.index.roots
        if path is None:
            raise Refused(HTTPStatus.NOT_FOUND, "no such photo")
        real = os.path.realpath(path)
        if not any(real.startswith(os.path.join(os.path.realpath(root), "")) for root in roots):
            raise Refused(HTTPStatus.FORBIDDEN, "links out of the folders that were indexed")
        return real

    def _photo(self, photo: str = "", *_) -> None:
        pixels = load_photo(self._path(photo), PHOTO_SIDE).pixels
        self._send(_jpeg(pixels), "image/jpeg", keep=True)

    def _regions(self, photo: str = "", face: str = "", *_) -> None:
        """What speaks for and against the labels of a face, as `faceattr explain regions` draws it."""
        try:
            from faceattr.explain.regions import explain_face
        except ImportError as error:
            problem = f"explanations need more packages ({error}); pip install 'faceattr[train]'"
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, problem) from error

        path, number = self._path(photo), _whole(face)
        with self.server.lock:
            index = self.server.index
            faces, frame = index.faces_of(_whole(photo)), index.framing(_whole(photo))
        if not 1 <= number <= len(faces):
            raise Refused(HTTPStatus.NOT_FOUND, "no such face")
        picture = io.BytesIO()
        with self.server.model_lock:
            net = self.server.net()
            box = carried(faces[number - 1].frame, frame, net.aligned_box)
            explain_face(net, load_photo(path), box).figure.savefig(picture, format="png")
        self._send(picture.getvalue(), "image/png", keep=True)

    def _try(self, *_) -> None:
        """The faces of a photo that is sent along, which is kept nowhere."""
        length = self.headers.get("Content-Length")
        if length is None or not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the photo's length is needed")
        if int(length) > LARGEST_UPLOAD:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {LARGEST_UPLOAD // 2**20} MiB")
        data = self.rfile.read(int(length))
        with self.server.model_lock:
            [photo] = self.server.model().iter_predict([data], workers=1)
        if photo.error is not None:
            raise Refused(HTTPStatus.BAD_REQUEST, photo.error)
        faces = [{**face.to_dict(), "number": number, "fits": True} for number, face in enumerate(photo.faces, 1)]
        self._json({"width": photo.width, "height": photo.height, "faces": faces})


def is_loopback(host: str) -> bool:
    """Whether a name or address is that of this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def printable_name(path: str, roots) -> str:
    """A photo's name as text, whatever bytes it has."""
    return os.fsencode(name_below(path, roots)).decode(errors="replace")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refused(HTTPStatus.BAD_REQUEST, "a number is needed")
    return int(text)


def _jpeg(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=88)
    return data.getvalue()


def run(options: argparse.Namespace) -> int:
    """Serves until it is interrupted."""
    from faceattr.pipeline import load

    if not 0 <= options.port < 2**16:
        raise ValueError(f"--port {options.port}: 0 to 65535")
    token = options.token or (None if is_loopback(options.host) else secrets.token_urlsafe(24))
    if token is not None and not (token.isascii() and token.replace("-", "").replace("_", "").isalnum()):
        raise ValueError("--token: letters, digits, - and _ alone")
    with Index(options.db, read_only=True) as index:
        load_model = lambda: load(options.weights, device=options.device)  # noqa: E731
        try:
            server = Server(index, options.host, options.port, token, load_model, options.weights)
        except OSError as error:
            raise ValueError(
                f"{options.host}:{options.port}: cannot listen ({error.strerror}); choose another"
            ) from error
        with server:
            print(f"faceattr: {server.url} (Ctrl+C ends it)", file=sys.stderr, flush=True)
            server.serve_forever()
    return 0
