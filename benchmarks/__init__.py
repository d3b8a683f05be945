"""How close to the limit the daemon is: `make bench` measures it beside the limit, in one run on one machine."""
