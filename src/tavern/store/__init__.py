"""Durable state: which taverns and channels exist. Presence is never stored."""
