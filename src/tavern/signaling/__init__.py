"""Signaling: who is in which tavern, channel or room, and whose offers reach whom."""
