"""The composition root: read the configuration, wire adapters, store and controller, serve, stop.

Rules:
- READY only after the state is loaded and repaired and the bus is there; the broker may be away (STATUS says so);
- a missing or damaged ledger does not stop the daemon: it serves, admits nothing, and says why;
- the daemon never creates a ledger on a block device; in an empty directory it does (development);
- SIGHUP reads the configuration again: what can be taken over is, the rest is named;
- stopping leaves every retained `lic` as it is, and takes less than a second.

Exit codes: 0 stopped, 1 cannot serve (another daemon, no bus, no identity), 2 usage or configuration file.

What this module does not do: no rule stands here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from . import BUILD_TIME_S, VERSION, config
from .adapters import clock, dbus, identity, journal, mqtt, systemd, tpm
from .controller.anchoring import Anchoring
from .controller.audience import Audience
from .controller.keeper import Keeper
from .controller.licensing import Licensing
from .controller.loop import Controller
from .controller.policy import Policy
from .controller.service import Service
from .controller.storage_report import StorageReport
from .controller.telling import tell
from .controller.trusting import Trusted
from .documents.keys import SigningKey
from .documents.trust import Trust, load_trust
from .domain import messages
from .domain.binding import Identity
from .domain.errors import ConfigError, LicensedError, StorageError
from .domain.ledger_state import LedgerState
from .formats.ledger import encode_snapshot
from .ledger_writer import LedgerWriter
from .store.area import FILES
from .store.log import create

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_STOP_LIMIT_S = 0.9


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the exit code."""
    arguments = _parser().parse_args(argv)
    config_path = Path(arguments.config)
    try:
        if arguments.init_state is not None:
            return _init_state(Path(arguments.init_state), config_path)
        settings = config.load(config_path)
    except LicensedError as error:
        return _fail(error, EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)
    if arguments.check_config:
        sys.stdout.write(f"{config_path}: ok\n")
        return EXIT_OK
    journal.install(settings.log.level)
    try:
        return asyncio.run(_serve(settings, config_path))
    except LicensedError as error:
        return _fail(error, EXIT_FAILED)


def _fail(error: LicensedError, code: int) -> int:
    sys.stderr.write(f"smartserver-licensed: {error} [{error.code}]\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="smartserver-licensed", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default=str(config.DEFAULT_PATH), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--check-config", action="store_true", help="check the configuration and exit")
    parser.add_argument("--init-state", metavar="PATH", help="make a ledger on a device, an image file or a directory")
    parser.add_argument("--version", action="version", version=VERSION)
    return parser


def _init_state(path: Path, config_path: Path) -> int:
    """Make a ledger; one that is there is left alone. Without an identity yet, the first start binds it."""
    settings = config.load(config_path) if config_path.exists() else config.Config()
    install_code = ""
    with contextlib.suppress(ConfigError):
        install_code = identity.read_install_code(Path(settings.identity.environment_file))
    is_new = create(path, _new_state(install_code))
    sys.stdout.write(f"{path}: {'a new ledger' if is_new else 'a ledger is there already; nothing was changed'}\n")
    return EXIT_OK


def _new_state(install_code: str) -> bytes:
    return encode_snapshot(LedgerState(install_code=install_code, mark_s=BUILD_TIME_S))


def _fill_empty_directory(path: Path, install_code: str) -> None:
    """For development; on a device or in an image the ledger is `missing`."""
    with contextlib.suppress(OSError, StorageError):  # the keeper says what is wrong
        if path.is_dir() and {each.name for each in path.iterdir()} <= set(FILES):  # a kill may have left some of it
            create(path, _new_state(install_code))


async def _serve(settings: config.Config, config_path: Path) -> int:
    trusted = Trusted(_load_trust(Path(settings.trust.root)))
    known_as = _identity(settings.identity)
    clocks, manager = clock.SystemClocks(), systemd.Notifier()
    path = Path(settings.state.path)
    _fill_empty_directory(path, known_as.install_code)
    ledger = LedgerWriter(path)
    anchoring = Anchoring(tpm.TpmCounter(settings.state.anchor_tcti) if settings.state.anchor == "tpm" else None)
    keeper = Keeper(
        ledger,
        clocks,
        identity=known_as,
        check_documents=trusted.check,
        new_seed=lambda: SigningKey.generate().seed,
        floor_s=BUILD_TIME_S,
        anchoring=anchoring,
    )
    broker = mqtt.MqttBus(
        host=settings.mqtt.host,
        port=settings.mqtt.port,
        username=settings.mqtt.username or None,
        password=_password(settings.mqtt.password_file),
    )
    audience = Audience()
    controller = Controller(
        broker=broker,
        keeper=keeper,
        clocks=clocks,
        announcer=audience,
        notifier=manager,
        policy=Policy(
            settings.policy.settle_s,
            settings.policy.absence_grace_s,
            settings.policy.max_devices,
            is_reporting_only=settings.policy.enforcement == "report",
        ),
        install_code=known_as.install_code,
        version=VERSION,
        trusted=trusted,
        anchor=anchoring.kind,
    )
    storage = StorageReport(keeper, ledger, anchoring, clocks, path=settings.state.path)
    licensing = Licensing(controller, keeper, clocks, trusted, anchoring, identity=known_as)
    service = Service(
        controller,
        keeper,
        clocks,
        audience,
        licensing,
        controller.noticing,
        storage,
        install_code=known_as.install_code,
    )
    bus = dbus.DbusService(address=settings.bus.address)
    stopping = _stop_on_signals()
    reload = functools.partial(_reload, config_path, settings, manager)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    try:
        await controller.open()
        await licensing.see_release(_release(settings.identity))
        await bus.start(service)
        audience.listener = bus
        tell(messages.STARTED, VERSION=VERSION, STORAGE=keeper.storage.value)
        manager.ready()
        gc.freeze()  # what is there now stays: no collection has to walk over it again
        await _until_stopped(stopping, broker.run(), controller.run())
    finally:
        manager.stopping()
        await bus.stop()
        await ledger.close()
        tell(messages.STOPPED)
        manager.close()
    return EXIT_OK


def _reload(path: Path, running: config.Config, manager: systemd.Notifier) -> None:
    """SIGHUP: the log level is taken over, and what else has changed is named: it needs a restart."""
    manager.reloading()
    try:
        fresh = config.load(path)
    except ConfigError as error:
        tell(messages.RELOAD_REFUSED, CODE=error.code, REASON=error)
    else:
        journal.install(fresh.log.level)
        sections = ("mqtt", "state", "bus", "trust", "identity", "policy")
        changed = [name for name in sections if getattr(fresh, name) != getattr(running, name)]
        tell(messages.RELOADED, LEVEL=fresh.log.level, NEEDS_RESTART=", ".join(changed) or "nothing")
    manager.ready()


def _password(path: str) -> str | None:
    """The first line of the password file."""
    if not path:
        return None
    try:
        return Path(path).read_text("utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the password file {path}: {error}") from error


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _until_stopped(stopping: asyncio.Event, *works: Coroutine[object, object, None]) -> None:
    """Run until a signal comes or some work fails; its failure is raised. Every task is awaited."""
    tasks = [asyncio.create_task(work) for work in works]
    signaled = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([signaled, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (signaled, *tasks):
            task.cancel()
        done, _ = await asyncio.wait([signaled, *tasks], timeout=_STOP_LIMIT_S)
        for task in done:
            if not task.cancelled():
                task.result()


def _load_trust(path: Path) -> Trust:
    try:
        return load_trust(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the root of trust {path}: {error.strerror}") from error


def _release(settings: config.Identity) -> str:
    return identity.read_release(Path(settings.release_source), settings.release_key)


def _identity(settings: config.Identity) -> Identity:
    factors = identity.read_factors(settings.soc_serial, settings.emmc_cid, settings.mac_interface)
    return Identity(identity.read_install_code(Path(settings.environment_file)), factors)


if __name__ == "__main__":
    sys.exit(main())
