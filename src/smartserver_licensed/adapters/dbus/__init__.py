"""The D-Bus service: `service` is the adapter, `methods` its interface's methods, `steady` the connection."""

from .service import DbusService

__all__ = ["DbusService"]
