"""`make run`: the main job, end to end, on real parts, with a verdict that is checked.

A real mosquitto, a private dbus-daemon and the daemon; a demonstration authority and a license for 5 devices (the
SmartServer itself counts as one); a simulated engine creates six devices and provisions them; the daemon is killed with
-9 in the middle. Exit status 0 only if every check held. `--stay` leaves all of it up.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from engines.runner import Engine
from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client

CAPACITY, DEVICES = 5, 6
HANDLES = [f"acme-wm2000.d-{n}" for n in range(1, DEVICES + 1)]
_started = time.monotonic()


def say(text: str) -> None:
    """One line with the seconds since the start."""
    sys.stdout.write(f"{time.monotonic() - _started:6.2f}  {text}\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stay", action="store_true", help="leave everything up, with the commands to play with it")
    arguments = parser.parse_args()
    say("starting mosquitto, dbus-daemon and smartserver-licensed")
    with Box() as box, Client(box.broker.port) as client, Engine(box.broker.port, protocol="modbus", sid=INSTALL_CODE):
        problems = story(box, client)
        if arguments.stay:
            stay(box)
    if problems:
        say("FAILED: " + "; ".join(problems))
        return 1
    say(f"OK: {CAPACITY - 1} of {DEVICES} devices licensed, {DEVICES - CAPACITY + 1} refused, the same after kill -9")
    return 0


def story(box: Box, client: Client) -> list[str]:
    """What a SmartServer sees; returns what was not as promised."""
    client.subscribe(f"glp/0/{INSTALL_CODE}/#")
    grant = box.issue(CAPACITY)
    say(f"installing a license for {CAPACITY} devices: licensectl install {grant.name}")
    box.ctl("install", str(grant))
    say(f"creating {DEVICES} devices, each to be provisioned")
    for number, handle in enumerate(HANDLES, start=1):
        create = f'{{"action":"create","args":{{"unid":"{number:03}","type":"9B0001050004ED00","provision":true}}}}'
        client.publish(f"glp/0/{INSTALL_CODE}/rq/dev/modbus/{handle}/do", create)
    shown: set[str] = set()
    wait_until(lambda: show_answers(client, shown) == DEVICES, timeout_s=10, what="an answer to every device")
    wait_until(lambda: box.status()["used"] == CAPACITY, timeout_s=10, what="all licensed devices provisioned")
    before, seats_before = box.status(), box.devices()
    say(f"kill -9 {box.pid}: the daemon dies in the middle")
    box.kill()
    box.start()
    wait_until(lambda: box.status()["state"] != "starting", timeout_s=20, what="the first snapshot after the restart")
    after, seats_after = box.status(), box.devices()
    say("the daemon is back")
    sys.stdout.write(box.ctl("status").stdout.decode())
    checks = {
        f"{CAPACITY - 1} devices are licensed": sum(answers(client).values()) == CAPACITY - 1,
        f"{CAPACITY} of {CAPACITY} seats are used": before["used"] == before["capacity"] == CAPACITY,
        "the count is the same after the kill": counts(before) == counts(after),
        "the seats are the same after the kill": seats(seats_before) == seats(seats_after),
        "each refusal was told once": refusals(client) == DEVICES - CAPACITY + 1,
    }
    return [sentence for sentence, held in checks.items() if not held]


def answers(client: Client) -> dict[str, bool]:
    """The last `lic` each device heard."""
    said = {}
    for message in client.messages:
        if "/fb/dev/" in message.topic and message.topic.endswith("/lic"):
            said[message.topic.split("/")[-2]] = message.json()["licensed"]
    return said


def show_answers(client: Client, shown: set[str]) -> int:
    """Show the answers that have come since the last call; how many devices have one."""
    said = answers(client)
    for handle in sorted(said.keys() - shown):
        say(f"  modbus/{handle}: {'licensed' if said[handle] else 'refused'}")
    shown.update(said)
    return len(said)


def refusals(client: Client) -> int:
    """How many `ev/error` the daemon published."""
    errors = [each.json() for each in client.messages if each.topic.endswith("/ev/error")]
    return sum(error.get("source") == "licensed" for error in errors)


def counts(status: dict[str, object]) -> list[object]:
    """The numbers that must survive."""
    return [status[key] for key in ("state", "capacity", "used", "available", "licenses")]


def seats(devices: dict[str, dict[str, object]]) -> dict[str, object]:
    """Who has which seat."""
    return {name: row["seat"] for name, row in devices.items()}


def stay(box: Box) -> None:
    """Leave it up until Enter or Ctrl-C."""
    sys.stdout.write(
        f"\nEverything is up. In another terminal:\n"
        f"  export DBUS_SYSTEM_BUS_ADDRESS={box.bus.address}\n"
        f"  {BIN}/licensectl status | devices | licenses | explain modbus/{HANDLES[-1]}\n"
        f"  mosquitto_sub -p {box.broker.port} -v -t 'glp/0/#'\n"
        f"  mosquitto_pub -p {box.broker.port} -t glp/0/{INSTALL_CODE}/rq/dev/modbus/{HANDLES[0]}/do"
        f""" -m '{{"action":"delete"}}'\n"""
        f"  tail -f {box.directory}/daemon.log   (the daemon is process {box.pid})\n"
        f"Ctrl-C ends it.\n"
    )
    sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
