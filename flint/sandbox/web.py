"""One web process: uvicorn on the listening socket that the supervisor handed over."""

import argparse
import os
import socket
import sys

import uvicorn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flint.sandbox.web")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of a listening TCP socket")
    arguments = parser.parse_args()
    config = uvicorn.Config(
        "flint.asgi:application",
        http="httptools",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        server_header=False,
        # Nobody stands in front of the sandbox, so nobody may claim another client's address.
        proxy_headers=False,
        timeout_graceful_shutdown=int(os.environ.get("FLINT_DRAIN_SECONDS", "30")),
    )
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=arguments.fd)])
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
