"""(lead's fallback)"""
from __future__ import annotations
import asyncio, json, sys, os
from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from smartserver_licensed.formats.bus import NAME, PATH, INTERFACE, error_code
from smartserver_licensed.formats.vocabulary import VOCABULARY
def plain(v):
    if isinstance(v, Variant): return plain(v.value)
    if isinstance(v, dict): return {k: plain(x) for k, x in v.items()}
    if isinstance(v, list): return [plain(x) for x in v]
    return v
async def go(argv):
    bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
    async def call(member, sig="", body=(), interface=INTERFACE):
        r = await bus.call(Message(destination=NAME, path=PATH, interface=interface, member=member, signature=sig, body=list(body)))
        if r.message_type is MessageType.ERROR:
            raise SystemExit2(error_code(r.error_name) or r.error_name, r.body)
        return plain(r.body[0])
    c = argv[0]
    if c == "status":
        p = await call("GetAll", "s", [INTERFACE], "org.freedesktop.DBus.Properties")
        out = {w.json: p[w.property] for w in VOCABULARY if w.property and w.json}
        out["licenses"] = await call("ListLicenses")
    elif c == "devices":
        out = []
        after = ""
        while True:
            rows = await call("ListDevices", "a{sv}", [{"after": Variant("s", after)}])
            out += rows
            if len(rows) < 1000: break
            after = rows[-1]["name"]
    elif c == "install":
        data = sys.stdin.buffer.read() if argv[1] == "-" else open(argv[1], "rb").read()
        out = await call("InstallDocument", "ay", [data])
    print(json.dumps(out))
class SystemExit2(Exception): pass
def main(argv=None):
    argv = [a for a in (argv or sys.argv[1:])]
    try:
        asyncio.run(go(argv)); return 0
    except SystemExit2 as e:
        print(json.dumps({"error": {"code": e.args[0], "message": str(e.args[1])}})); return 4
    except Exception as e:
        print(repr(e), file=sys.stderr); return 3
