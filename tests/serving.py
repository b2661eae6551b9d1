"""`faceattr serve` inside a test."""

import threading
from contextlib import contextmanager

import faceattr
from faceattr.search.index import Index
from faceattr.search.serve import Server


@contextmanager
def serving(db, weights, host="127.0.0.1", token=None):
    with Index(db, read_only=True) as index:
        server = Server(index, host, 0, token, lambda: faceattr.load(weights, device="cpu"), weights)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
