"""A real mosquitto on a free port, and a small synchronous client that records what it hears.

Rules:
- everything the configuration does not name is mosquitto's default: above all its queue limits, which lose messages
  just as they do on the SmartServer;
- without persistence (the default) every start is a start with an empty broker;
- the port stays the same over stop, kill and start;
- everybody may do everything, unless the test brings the lines that say who may do what.

What this module does not do: it knows nothing of topics or payloads.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

_SEARCH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin"
_START_TIMEOUT_S = 10.0


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """A mosquitto process on 127.0.0.1. A context manager starts it and removes every trace of it."""

    def __init__(self, *, is_persistent: bool = False, access: str = "allow_anonymous true") -> None:
        """`access`: the lines of the configuration that say who may do what."""
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="broker-"))
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", access, f"user {getpass.getuser()}"]
        if is_persistent:
            lines += ["persistence true", f"persistence_location {self._directory}/"]
        self._config = self._directory / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Broker:  # noqa: PYI034 - typing.Self is Python 3.11's
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def log(self) -> str:
        """What mosquitto said so far."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start, and return when the port accepts. Raises RuntimeError with mosquitto's log where it does not."""
        program = shutil.which("mosquitto", path=_SEARCH)
        if program is None:
            raise RuntimeError("cannot start a broker: mosquitto is not installed")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(self._config)], stdout=log, stderr=log)
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"cannot start a broker on port {self.port}: {self.log}")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """SIGKILL, and wait: what is retained is lost, but for what persistence saved earlier."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def restart(self) -> None:
        """Stop and start: an empty broker on the same port, unless it is persistent."""
        self.stop()
        self.start()


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was delivered. `retain` is set only on those out of the broker's store (MQTT 3.1.1)."""

    time_s: float  # monotonic
    topic: str
    payload: str
    retain: bool

    def json(self) -> Any:  # noqa: ANN401 - what is in it is for the test to say
        """The payload as a JSON value."""
        return json.loads(self.payload)


class Client:
    """A connected client; every call returns when the broker has acknowledged. Not for reconnecting."""

    def __init__(self, port: int, *, client_id: str = "", credentials: tuple[str, str] | None = None) -> None:
        """`credentials`: user and password. Raises ConnectionRefusedError where the broker does not let it in."""
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._acknowledged: set[int] = set()
        self._connected: ReasonCode | None = None
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        self._client.max_inflight_messages_set(100)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        if credentials is not None:
            self._client.username_pw_set(*credentials)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._wait(lambda: self._connected is not None, 10, "cannot connect: no answer from the broker")
        if self._connected is not None and self._connected.is_failure:
            self.close()
            raise ConnectionRefusedError(f"cannot connect: {self._connected}")

    def __enter__(self) -> Client:  # noqa: PYI034 - typing.Self is Python 3.11's
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._client._reset_sockets()  # paho leaves its wake-up sockets to the garbage collector

    @property
    def messages(self) -> list[Message]:
        """All messages so far, in the order of their arrival; a copy."""
        with self._changed:
            return list(self._messages)

    def clear(self) -> None:
        """Forget the messages so far."""
        with self._changed:
            self._messages.clear()

    def subscribe(self, *filters: str, qos: int = 1) -> None:
        """Subscribe in one request; mosquitto sends what is retained right after its acknowledgment."""
        _, mid = self._client.subscribe([(each, qos) for each in filters])
        self._wait(lambda: mid in self._acknowledged, 10, f"cannot subscribe to {filters}: no answer from the broker")

    def publish(
        self, topic: str, payload: object = "", *, qos: int = 1, retain: bool = False, wait: bool = True
    ) -> None:
        """Publish text or bytes as they are, anything else as JSON. `wait=False` only queues: for bursts."""
        data = payload if isinstance(payload, (str, bytes)) else json.dumps(payload, separators=(",", ":"))
        info = self._client.publish(topic, data, qos=qos, retain=retain)
        if wait:
            info.wait_for_publish(10)

    def wait_for(self, predicate: Callable[[Message], bool], timeout_s: float = 5.0) -> Message:
        """The first message, already here or still to come, that the predicate accepts. Raises TimeoutError."""
        found: list[Message] = []
        seen = 0

        def look() -> bool:
            nonlocal seen
            seen = min(seen, len(self._messages))  # after `clear`
            while seen < len(self._messages) and not found:
                if predicate(self._messages[seen]):
                    found.append(self._messages[seen])
                seen += 1
            return bool(found)

        self._wait(look, timeout_s, "no such message")
        return found[0]

    def wait_until(self, predicate: Callable[[list[Message]], bool], timeout_s: float = 5.0) -> list[Message]:
        """Wait until the predicate accepts the messages as a whole; returns them. Raises TimeoutError."""
        self._wait(lambda: predicate(self._messages), timeout_s, "the messages never became as expected")
        return self.messages

    def collect(self, duration_s: float) -> list[Message]:
        """The messages that arrive in the next `duration_s` seconds."""
        with self._changed:
            before = len(self._messages)
        time.sleep(duration_s)
        return self.messages[before:]

    def _wait(self, condition: Callable[[], bool], timeout_s: float, why: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                last = "\n".join(f"  {each.topic} {each.payload[:120]}" for each in self._messages[-15:])
                raise TimeoutError(f"{why} within {timeout_s} s; the last of {len(self._messages)} messages:\n{last}")

    # -- called by paho's thread; the border is crossed under `_changed` only ------------------------------------------

    def _on_connect(self, _client: paho.Client, _data: object, _flags: object, code: ReasonCode, _p: object) -> None:
        with self._changed:
            self._connected = code
            self._changed.notify_all()

    def _on_subscribe(self, _client: paho.Client, _data: object, mid: int, _codes: object, _p: object) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        text = message.payload.decode(errors="replace")
        with self._changed:
            self._messages.append(Message(time.monotonic(), message.topic, text, message.retain))
            self._changed.notify_all()
