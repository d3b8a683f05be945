"""Commands about keys and documents that need no register: `trust`, `rotate`, `inspect`.

What this module does not do: it makes no authority (`desk.init` makes the register with it).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping

from smartserver_licensed.documents.acceptance import inspect_document

from .files import output, read_document, read_password
from .keyring import load_authority_trust, trust_document
from .rotating import rotate
from .screens import inspection_screen, json_text, root_screen, say


def _trust(options: argparse.Namespace) -> int:
    document = trust_document(load_authority_trust(options.directory))
    with output(options.out) as write:
        write(document)
    return 0


def _rotate(options: argparse.Namespace) -> int:
    before = load_authority_trust(options.directory).current
    keyring = rotate(
        options.directory,
        now=int(time.time()),
        retire=options.retire,
        root_keys=options.root_keys,
        root_threshold=options.root_threshold,
        grant_keys=options.grant_keys,
        grant_threshold=options.grant_threshold,
        emergency_max_devices=options.emergency_devices,
        password=read_password(options.password_file),
        root_key_directories=options.root_key_dir,
        version=options.version,
    )
    say(root_screen(keyring.root, before))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    trust = load_authority_trust(options.directory) if options.directory else None
    found = inspect_document(read_document(options.file), trust)
    say(json_text(found) if options.json else inspection_screen(found))
    return 0 if found["verified"] or trust is None else 1


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"trust": _trust, "rotate": _rotate, "inspect": _inspect}
