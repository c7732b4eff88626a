"""Serves a home with other limits than a gateway has by default: what takes a minute in life takes a second here."""

import json
import os
import sys

import anyio

from gateway import settings
from gateway.app import serve
from gateway.cli import banner
from gateway.observe import logs
from gateway.runtime.worker import Limits

if __name__ == "__main__":
    logs.configure("info")
    limits = Limits(**json.loads(sys.argv[1]))
    anyio.run(
        lambda: serve(settings.read(os.environ), "127.0.0.1", 0, limits=limits, up=banner),
        backend_options={"use_uvloop": True},
    )
