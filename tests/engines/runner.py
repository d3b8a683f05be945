"""The simulated engine on a real broker: in a thread of a test (`Engine`), or as a process of its own.

    python tests/engines/runner.py --port 1883 --kind idl --protocol example --sid 17qtest --start-window 0.2

Rules:
- one thread owns both paho and the machine: its loop reads, answers, ticks, subscribes; other threads hand in commands;
- subscriptions are QoS 0: at mosquitto's defaults a QoS 1 subscriber that is 1,020 messages behind loses the rest,
  one of QoS 0 only at some 4,000; a simulated engine must not be what loses messages in a test;
- a restart keeps what the kind of engine keeps: a `lic` reader what the broker retains, an older engine what it had;
  a lost connection is taken up again by the same run.

What this module does not do: it knows no rule of an engine (`idl`, `js`), and it keeps no session in the broker, so a
`do` sent while the engine is away is lost. As a process, an older engine forgets its devices with its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

if __package__ in {None, ""}:  # run as a script
    sys.path.insert(0, str(Path(__file__).parent.parent))

from engines.idl import Publish
from engines.machine import DEVICE_TYPE, PROTOCOL, Kind, Machine, succeed

_POLL_S = 0.01  # commands of other threads wait at most this long
_RECONNECT_S = 0.05
_CREATE_BATCH = 50

_Command = Callable[[Machine, float], list[Publish]]


class Engine:
    """One protocol engine. All methods may be called from any thread; the constructor connects to nothing."""

    def __init__(
        self,
        port: int,
        protocol: str | None = None,
        sid: str | None = "17qtest",
        start_window_s: float = 0.2,
        *,
        kind: Kind = "idl",
        unreachable: Iterable[str] = (),
        is_obedient: bool = True,
    ) -> None:
        """`sid=None`: the one retained on the broker. `unreachable`: handles that cannot be provisioned.

        Of older engines: `is_obedient=False` does not deprovision when asked to.
        """
        self.protocol = PROTOCOL[kind] if protocol is None else protocol
        self._kind: Kind = kind
        self._is_obedient = is_obedient
        self._port = port
        self._sid = sid
        self._window_s = start_window_s
        self._unreachable = set(unreachable)
        self._run: _Run | None = None
        self._last: Machine | None = None  # of the run before

    def __enter__(self) -> Engine:  # noqa: PYI034 - typing.Self is Python 3.11's
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start a new run; returns when it is connected and subscribed. Raises TimeoutError after 10 s."""
        machine = succeed(
            self._last,
            self._kind,
            protocol=self.protocol,
            sid=self._sid,
            start_window_s=self._window_s,
            unreachable=self._unreachable,
            is_obedient=self._is_obedient,
        )
        self._last = machine
        self._run = _Run(machine, self._port)
        self._run.start()
        if not self._run.is_ready.wait(10):
            self.kill()
            raise TimeoutError(f"cannot start the engine: no broker on port {self._port}")

    def stop(self) -> None:
        """End in order, as on SIGTERM: like the real one, without a word."""
        self._end(is_orderly=True)

    def kill(self) -> None:
        """End without DISCONNECT, as on SIGKILL; what was not sent yet is lost."""
        self._end(is_orderly=False)

    def restart(self) -> None:
        """Kill, and start a new run that knows what its kind of engine keeps."""
        self.kill()
        self.start()

    def set_unreachable(self, handles: Iterable[str]) -> None:
        """From now on these handles, and no others, cannot be provisioned; what is provisioned stays so."""
        self._unreachable = set(handles)

        def replace(machine: Machine, _now_s: float) -> list[Publish]:
            machine.unreachable = set(self._unreachable)
            return []

        self._running().commands.put(replace)

    def create_devices(self, count: int, *, prefix: str = "d", first: int = 1, provision: bool = False) -> list[str]:
        """Create `count` devices as if asked for on the bus, but without `do` messages. Returns their handles.

        Returns at once; `wait_settled` waits for the broker to have it all.
        """
        handles = [f"{prefix}{number}" for number in range(first, first + count)]
        run = self._running()
        for start in range(0, count, _CREATE_BATCH):
            run.commands.put(
                _creation(handles[start : start + _CREATE_BATCH], DEVICE_TYPE[self._kind], provision=provision)
            )
        return handles

    def wait_settled(self, timeout_s: float = 30.0) -> None:
        """Wait until no command is left and the broker has acknowledged every message. Raises TimeoutError."""
        run, end_s = self._running(), time.monotonic() + timeout_s
        while not run.is_settled:
            if time.monotonic() > end_s:
                raise TimeoutError(f"cannot settle within {timeout_s} s: {run.unacknowledged} messages unacknowledged")
            time.sleep(_POLL_S)

    def _running(self) -> _Run:
        if self._run is None:
            raise RuntimeError("cannot command the engine: it is not running")
        return self._run

    def _end(self, *, is_orderly: bool) -> None:
        if self._run is not None:
            self._run.end(is_orderly=is_orderly)
            self._run = None


def _creation(handles: list[str], device_type: str, *, provision: bool) -> _Command:
    def create(machine: Machine, now_s: float) -> list[Publish]:
        out: list[Publish] = []
        for handle in handles:
            args = {"unid": f"unid-{handle}", "type": device_type, "provision": provision}
            request = json.dumps({"action": "create", "args": args})
            out += machine.receive(now_s, machine.do_topic(handle), request, retain=False)
        return out

    return create


class _Run(threading.Thread):
    """From a start to its end: one machine, one connection (again and again), one thread."""

    def __init__(self, machine: Machine, port: int) -> None:
        super().__init__(name=f"engine-{machine.protocol}", daemon=True)
        self.commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self.is_ready = threading.Event()
        self.unacknowledged = 0  # written by the thread alone
        self._machine = machine
        self._port = port
        self._ending = threading.Event()
        self._is_orderly = True
        self._is_new = True
        self._is_busy = False
        self._subscribed: tuple[str, ...] = ()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_inflight_messages_set(100)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish

    @property
    def is_settled(self) -> bool:
        """Nothing to do and nothing on its way. Read in this order, a command on its way is never overlooked."""
        return self.commands.empty() and not self._is_busy and self.unacknowledged == 0

    def end(self, *, is_orderly: bool) -> None:
        """Tell the thread, and wait for it."""
        self._is_orderly = is_orderly
        self._ending.set()
        self.join(10)

    def run(self) -> None:
        self._connect()
        while not self._ending.is_set():
            if self._client.loop(self._pause_s()) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._connect()
            self._work()
        if self._is_orderly:
            self._client.disconnect()
            self._client.loop(_POLL_S)
        self._client._reset_sockets()  # paho leaves this to the garbage collector, and the broker waiting

    def _connect(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(OSError):
                self._client.connect("127.0.0.1", self._port)
                return
            self._ending.wait(_RECONNECT_S)

    def _pause_s(self) -> float:
        """How long the loop may wait for the bus."""
        deadline_s = self._machine.deadline_s
        return _POLL_S if deadline_s is None else min(_POLL_S, max(0.0, deadline_s - time.time()))

    def _work(self) -> None:
        """One command and the time; then whatever subscription the machine wants by now."""
        if self._is_new or not self._machine.sid:
            return  # not introduced yet, or no topics to speak on
        self._is_busy = True
        with contextlib.suppress(queue.Empty):
            self._publish(self.commands.get_nowait()(self._machine, time.time()))
        self._publish(self._machine.tick(time.time()))
        self._subscribe()
        self._is_busy = False

    def _subscribe(self) -> None:
        wanted = self._machine.subscriptions
        gone = [each for each in self._subscribed if each not in wanted]
        new = [(each, 0) for each in wanted if each not in self._subscribed]
        self._subscribed = wanted
        if gone:
            self._client.unsubscribe(gone)
        if new:
            self._client.subscribe(new)

    def _publish(self, messages: list[Publish]) -> None:
        for each in messages:
            self.unacknowledged += 1
            self._client.publish(each.topic, each.payload, qos=each.qos, retain=each.retain)

    # -- called by paho inside `loop`: in this thread ------------------------------------------------------------------

    def _on_connect(self, _client: paho.Client, _data: object, _flags: object, code: ReasonCode, _p: object) -> None:
        if code.is_failure:
            return
        if self._is_new:
            self._is_new = False
            self._publish(self._machine.start(time.time()))
        self._subscribed = ()  # a new connection is a new session
        self._subscribe()

    def _on_subscribe(self, _client: paho.Client, _data: object, _mid: int, _codes: object, _p: object) -> None:
        self.is_ready.set()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        payload = message.payload.decode(errors="replace")
        self._publish(self._machine.receive(time.time(), message.topic, payload, message.retain))

    def _on_publish(self, _client: paho.Client, _data: object, _mid: int, _code: object, _p: object) -> None:
        self.unacknowledged -= 1


def main(arguments: list[str] | None = None) -> int:
    """The engine as a process, until SIGTERM or SIGINT. Prints "ready" when it is subscribed."""
    parser = argparse.ArgumentParser(description="A simulated protocol engine.")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--kind", choices=sorted(PROTOCOL), default="idl", help="js: an older one, knows no `lic`")
    parser.add_argument("--protocol", help="default: that of the recorded engine of its kind")
    parser.add_argument("--sid", help="default: the one retained on the broker")
    parser.add_argument("--start-window", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--unreachable", nargs="*", default=[], metavar="HANDLE")
    parser.add_argument("--create", type=int, default=0, metavar="COUNT", help="devices d1, d2, ... at the start")
    parser.add_argument("--provision", action="store_true", help="create them with provision:true")
    options = parser.parse_args(arguments)
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    engine = Engine(
        options.port,
        options.protocol,
        options.sid,
        options.start_window,
        kind=options.kind,
        unreachable=options.unreachable,
    )
    with engine:
        engine.create_devices(options.create, provision=options.provision)
        print("ready", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
