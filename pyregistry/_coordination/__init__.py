"""Single flight of downloads across a fleet: waiting, leases and keepalive, on any backend."""
