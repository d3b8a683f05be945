"""The broker, by paho-mqtt: `bus` is the adapter, `session` one connection, `client` what is done to paho."""

from .bus import MqttBus

__all__ = ["MqttBus"]
