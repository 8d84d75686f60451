"""A TURN server's decisions (RFC 8656): who may, where to, for how long. Pure; the driver is `tavern.relay`."""
