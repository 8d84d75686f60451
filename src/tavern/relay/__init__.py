"""The shell of STUN and TURN: sockets, the data path's thread, the driver of `tavern.turn.server`."""
