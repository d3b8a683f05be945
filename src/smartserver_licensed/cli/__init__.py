"""licensectl: a D-Bus client with a terminal's manners."""
