"""The world: broker, bus, clock, identity, systemd. Each adapter knows one library and no other adapter."""
