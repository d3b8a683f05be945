"""Commands at the register: from `init` over orders, activation and returns to `show`.

Rules: an output is opened before anything is remembered, and written after. What was remembered and got lost on the
way can be had again: the same request gives the same grant, and `regrant --last` the last one.

What this module does not do: it holds no rule; they are in `authority` and what that calls.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import select

from .authority import Authority
from .errors import RegisterOccupiedError
from .files import output, read_document, read_password
from .keyring import EMERGENCY_MAX_DEVICES, Keyring, load_authority_trust, load_keyring, make_authority
from .orders import Purchase
from .register import Register, register_url
from .screens import COLUMNS, json_text, root_screen, say, table
from .tables import Customer


@contextmanager
def open_register(options: argparse.Namespace) -> Iterator[Register]:
    """The register that the options name."""
    register = Register.open(options.database or register_url(options.directory))
    try:
        yield register
    finally:
        register.close()


@contextmanager
def _authority(options: argparse.Namespace) -> Iterator[Authority]:
    """The authority; where the command has no password to say, without what signs grants."""
    if "password_file" in options:
        keyring = load_keyring(options.directory, read_password(options.password_file))
    else:
        keyring = Keyring(load_authority_trust(options.directory), ())
    with open_register(options) as register:
        yield Authority(register, keyring)


def _init(options: argparse.Namespace) -> int:
    password = None if options.demo else read_password(options.password_file)
    emergency = options.emergency_devices
    keyring = make_authority(
        options.directory,
        now=_now(),
        root_keys=options.root_keys,
        root_threshold=options.root_threshold,
        grant_keys=options.grant_keys,
        grant_threshold=options.grant_threshold,
        password=password,
        is_demonstration=password is None,
        emergency_max_devices=EMERGENCY_MAX_DEVICES if emergency is None else emergency,
        root_key_directories=options.root_key_dir,
        make_register=lambda: _make_register(options.database or register_url(options.directory)),
    )
    if password is None:
        say(
            f"demonstration authority in {options.directory}: keys without password, grants without activation; "
            f"root version {keyring.root.version}"
        )
    else:
        say(f"authority in {options.directory}\n{root_screen(keyring.root)}")
    return 0


def _make_register(url: str) -> None:
    try:
        Register.create(url).close()
    except RegisterOccupiedError:
        register = Register.open(url)
        with register.transaction() as session:
            is_used = session.execute(select(Customer.id).limit(1)).first() is not None
        register.close()
        if is_used:
            raise
        # An attempt that was cut made it: without a root nothing can have been issued.


def _customer(options: argparse.Namespace) -> int:
    with _authority(options) as authority:
        if options.act == "add":
            say(authority.add_customer(options.name, now=_now(), customer_id=options.id or ""))
        else:
            _say_rows(options, "customers", authority.customers())
    return 0


def _order(options: argparse.Namespace) -> int:
    purchase = Purchase(
        customer_id=options.customer_id,
        type=options.type,
        devices=options.devices,
        years=options.years,
        days=options.days,
        release=options.release,
        host=options.host,
        note=options.note,
        install_code=options.install_code,
        replaces=options.replaces,
    )
    with _authority(options) as authority:
        say(authority.order(purchase, now=_now()))
    return 0


def _issue(options: argparse.Namespace) -> int:
    purchase = Purchase(
        customer_id=options.customer_id,
        type=options.type,
        devices=options.devices,
        days=options.days,
        note=options.note,
        install_code=options.install_code,
    )
    return _write(options, lambda authority: authority.issue_unactivated(purchase, now=_now()))


def _activate(options: argparse.Namespace) -> int:
    request = read_document(options.file)
    return _write(
        options,
        lambda authority: authority.activate(request, now=_now(), confirm=options.confirm, add=options.license),
    )


def _return(options: argparse.Namespace) -> int:
    document = read_document(options.file)
    with _authority(options) as authority:
        credit = authority.credit(document, now=_now())
    known = " (this return is known; nothing more is credited)" if credit.is_known else ""
    say(
        json_text(credit)
        if options.json
        else f"license {credit.license_id}: {credit.devices_credited} devices credited, "
        f"{credit.at_authority} at the authority{known}"
    )
    return 0


def _transfer(options: argparse.Namespace) -> int:
    document = read_document(options.file)
    with _authority(options) as authority:
        credit = authority.transfer(document, options.to, now=_now())
    say(
        json_text(credit)
        if options.json
        else f"license {credit.license_id}: what came back is reserved for {options.to}, whose next request gets it; "
        f"{credit.at_authority} at the authority"
    )
    return 0


def _rma(options: argparse.Namespace) -> int:
    with _authority(options) as authority, output(options.out or "-", is_armored=options.armor) as write:
        result = authority.rma(options.from_code, options.to, now=_now())
        if options.out and result.grant is not None:
            write(result.grant)
    if options.out != "-":
        for license_id, devices in result.moved:
            say(f"license {license_id}: {devices} devices moved to {options.to}")
        say(
            f"{options.from_code} is retired: it is refused at its next contact"
            + ("" if result.grant is not None else f"; the next request of {options.to} gets what it had")
        )
    return 0


def _release(options: argparse.Namespace) -> int:
    with _authority(options) as authority:
        authority.release(options.install_code, now=_now())
    say(f"{options.install_code} is free for any customer")
    return 0


def _emergency(options: argparse.Namespace) -> int:
    return _write(
        options,
        lambda authority: authority.emergency(options.install_code, options.devices, options.days, now=_now()),
    )


def _regrant(options: argparse.Namespace) -> int:
    if options.last:
        return _write(options, lambda authority: authority.last_grant(options.install_code))
    return _write(options, lambda authority: authority.regrant(options.install_code, now=_now()))


def _show(options: argparse.Namespace) -> int:
    with _authority(options) as authority:
        ask: Mapping[str, Callable[[], Sequence[object]]] = {
            "balance": authority.balance,
            "customers": authority.customers,
            "orders": lambda: authority.orders(options.customer_id or ""),
            "licenses": lambda: authority.licenses(options.customer_id or ""),
            "smartservers": lambda: authority.smartservers(options.install_code),
            "forks": lambda: [
                {"install_code": row.install_code, **dataclasses.asdict(fork)}
                for row in authority.smartservers(options.install_code)
                for fork in row.forks
            ],
            "audit": authority.audit,
        }
        _say_rows(options, options.topic, ask[options.topic]())
    return 0


def _say_rows(options: argparse.Namespace, topic: str, rows: Sequence[object]) -> None:
    say(json_text(rows) if options.json else table(COLUMNS[topic], rows))


def _write(options: argparse.Namespace, make: Callable[[Authority], bytes]) -> int:
    """Write the document that `make` makes and remembers; the output is open before."""
    with _authority(options) as authority, output(options.out, is_armored=options.armor) as write:
        write(make(authority))
    return 0


def _now() -> int:
    return int(time.time())


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "init": _init,
    "customer": _customer,
    "order": _order,
    "issue": _issue,
    "activate": _activate,
    "return": _return,
    "transfer": _transfer,
    "rma": _rma,
    "release": _release,
    "emergency": _emergency,
    "regrant": _regrant,
    "show": _show,
}
