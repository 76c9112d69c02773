"""The floor of a service: FastAPI and uvicorn as the decision service runs them, with nothing to do.

Run by the pilot's own Python, so that both have the same libraries.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors.multiprocess import Multiprocess

app = FastAPI(docs_url=None, redoc_url=None)


@app.post("/decide")
async def decide() -> dict[str, str]:
    return {"decision": "none"}


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    # With the protocol named, or asyncio leaves Nagle's delay of 40 ms on.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    options = {"log_level": "warning", "access_log": False, "server_header": False}
    if workers == 1:
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])
    else:
        sys.path.insert(0, str(Path(__file__).parent))  # each worker imports this file by its name
        config = uvicorn.Config("empty_service:app", workers=workers, **options)
        Multiprocess(config, [listener]).run()
