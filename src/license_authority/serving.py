"""Commands around `serve`: tokens, the listening socket, TLS, the process.

Rules: without TLS only on loopback, unless somebody says that a proxy does it; who calls is who is connected, unless
somebody says which proxy is believed; the address is taken before anything is
said; what the web library logs goes to stderr, one line each, without documents, tokens or keys.

What this module does not do: it answers no call (`serve`).
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import uvicorn

from .desk import open_register
from .errors import ListenError
from .files import read_password
from .keyring import LiveKeyring
from .screens import COLUMNS, json_text, say, table
from .serve import make_app
from .tokens import add_token, list_tokens, revoke_token

_BACKLOG = 128
_MAX_CONNECTIONS = 64  # beyond it 503, at once
_SHUTDOWN_S = 10


def _token(options: argparse.Namespace) -> int:
    now = int(time.time())
    with open_register(options) as register:
        if options.act == "add":
            say(add_token(register, options.name, customer_id=options.customer_id or "", now=now))
        elif options.act == "revoke":
            revoke_token(register, options.name, now=now)
        else:
            rows = list_tokens(register)
            say(json_text(rows) if options.json else table(COLUMNS["tokens"], rows))
    return 0


def _serve(options: argparse.Namespace) -> int:
    keyring = LiveKeyring(options.directory, read_password(options.password_file))
    with open_register(options) as register, _listen(options) as listener:
        config = uvicorn.Config(
            make_app(register, keyring, rate=options.rate),
            ssl_certfile=options.certfile,
            ssl_keyfile=options.keyfile,
            log_config=None,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_SHUTDOWN_S,
            server_header=False,
            proxy_headers=options.proxy is not None,
            forwarded_allow_ips=options.proxy,
        )
        _load_tls(config, options.certfile)
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:  # before uvicorn listens to signals, and when it raises them anew at its end
            server.should_exit = True

        signal.signal(signal.SIGTERM, stop)
        host, port = listener.getsockname()[:2]
        scheme = "https" if options.certfile else "http"
        say(f"serving {scheme}://{f'[{host}]' if ':' in host else host}:{port}")
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        server.run(sockets=[listener])
    return 0


def _listen(options: argparse.Namespace) -> socket.socket:
    where = f"cannot serve on {options.host} port {options.port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        is_local = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
        if not (is_local or options.certfile or options.insecure):
            raise ListenError(f"{where}: without TLS only on this machine (--certfile and --keyfile, or --insecure)")
        return socket.create_server((str(address[0]), options.port), family=family, backlog=_BACKLOG)
    except socket.gaierror as error:
        raise ListenError(f"{where}: {error.strerror}") from error
    except OSError as error:  # its text says the address again
        raise ListenError(f"{where}: {os.strerror(error.errno or 0)}") from error


def _load_tls(config: uvicorn.Config, certfile: Path | None) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"cannot serve with the certificate {certfile}: {error}") from error


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"token": _token, "serve": _serve}
