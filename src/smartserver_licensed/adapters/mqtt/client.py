"""What is done to paho: the connection is made elsewhere, and fewer calls of the system are made (ADR 0003).

Rules: only what a profile asked for; it relies on private names of paho 2, which `tests/adapters/test_mqtt.py` runs
against a real broker.

What this module does not do: it knows no loop and no queue.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes

_READ_BYTES = 64 * 1024


class Client(paho.Client):
    """paho with a connection that was made elsewhere, and with fewer calls of the system; relies on paho 2's names.

    Reading comes to an end, and takes 64 KiB at once: paho asks the socket for the first byte of a packet, for each of
    its length, and for the rest. Packets that wait to be written are joined: paho sends each by itself.
    """

    made: socket.socket
    trouble = ""  # the last error that paho would log: above all the socket's, which `on_disconnect` is not told
    _arrived = memoryview(b"")

    @property
    def has_arrived(self) -> bool:
        """Whether something was taken from the socket and not read yet."""
        return bool(self._arrived)

    @property
    def in_flight(self) -> int:
        """Messages of QoS 1 that are not acknowledged."""
        return len(self._out_messages)

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._arrived:
            self._arrived = memoryview(super()._sock_recv(_READ_BYTES))
            # The broker's Nagle holds its next packet until this is acknowledged: at once, not in 40 ms (tcp(7)).
            self.made.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        taken, self._arrived = self._arrived[:bufsize], self._arrived[bufsize:]
        return taken.tobytes()

    def _handle_publish(self) -> MQTTErrorCode:
        """Not at QoS 2, which nobody asked for: paho would keep each payload until the broker releases it."""
        if self._in_packet["command"] & 0x04:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:  # noqa: ANN401 - paho's
        last = self._out_packet[-1] if self._out_packet else None
        if not (last and _is_plain(last["command"], last["qos"]) and _is_plain(command, qos)):
            return super()._packet_queue(command, bytearray(packet), mid, qos, info)
        if last["pos"] or last["to_process"] > _READ_BYTES:
            return super()._packet_queue(command, bytearray(packet), mid, qos, info)
        last["packet"] += packet  # in place: a bytearray, see above
        last["to_process"] += len(packet)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _easy_log(self, level: LogLevel, fmt: str, *args: object) -> None:
        """Errors only, and not by `on_log`: for that each packet would be described in a text (10 % of the time)."""
        if level == LogLevel.MQTT_LOG_ERR:
            self.trouble = fmt % args

    def _create_socket_connection(self) -> socket.socket:
        """Not paho's own, which blocks until the host answers."""
        return self.made

    def read(self, until_s: float) -> None:
        """Packets, until there is none left or the time (monotonic seconds) is up.

        Not paho's `loop_read`: it takes as many packets a call as there are messages without an acknowledgment.
        """
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and self.socket() is not None:
            code = self._packet_read()
            if time.monotonic() > until_s:
                break
        if code > MQTTErrorCode.MQTT_ERR_SUCCESS:  # below are "again" and the like
            self._loop_rc_handle(code)


def _is_plain(command: int, qos: int) -> bool:
    """Whether paho does nothing after writing it: it does after a DISCONNECT, and after a PUBLISH at QoS 0."""
    return command >> 4 != PacketTypes.DISCONNECT and not (command >> 4 == PacketTypes.PUBLISH and qos == 0)
