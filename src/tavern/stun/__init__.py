"""STUN messages (RFC 8489): parsing, encoding, integrity. Pure; knows nothing of sockets or of TURN's rules."""
