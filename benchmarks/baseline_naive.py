"""What a user would have otherwise: the same decision by a naive loop, as one would write it in an afternoon.

Subscribe `sts`, count, commit to SQLite (default journal, `synchronous = FULL`, one table), publish `lic`. It recounts
at each event, asks nobody whether the broker has dropped something, and believes what it read.

What this module does not do: documents, D-Bus, requests, restarts of engines, forged `lic`, an exchanged clock.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


class Naive:
    """One loop, one table."""

    def __init__(self, database: Path, capacity: int) -> None:
        self._capacity = capacity
        self._table = sqlite3.connect(database, isolation_level=None)
        self._table.execute("PRAGMA synchronous = FULL")
        self._table.execute("CREATE TABLE IF NOT EXISTS devices (name TEXT PRIMARY KEY, licensed INTEGER)")

    def decide(self, name: str, state: str) -> bool:
        """Whether the device is licensed now; durable."""
        if state == "deleted":
            self._table.execute("DELETE FROM devices WHERE name = ?", (name,))
            return False
        if row := self._table.execute("SELECT licensed FROM devices WHERE name = ?", (name,)).fetchone():
            return bool(row[0])
        (used,) = self._table.execute("SELECT count(*) FROM devices WHERE licensed").fetchone()
        is_licensed = used < self._capacity
        self._table.execute("INSERT INTO devices VALUES (?, ?)", (name, is_licensed))  # one commit
        return bool(is_licensed)


def main(port: int, sid: str, database: Path, capacity: int) -> None:
    """Serve for ever."""
    naive = Naive(database, capacity)
    client = paho.Client(CallbackAPIVersion.VERSION2)

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        topic = message.topic.split("/")
        is_licensed = naive.decide(f"{topic[5]}/{topic[6]}", json.loads(message.payload)["state"])
        client.publish(message.topic[:-3] + "lic", json.dumps({"licensed": is_licensed}), qos=1, retain=True)

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", port)
    client.subscribe(f"glp/0/{sid}/fb/dev/+/+/sts", qos=1)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
