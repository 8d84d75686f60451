"""The operator's way in: a Unix socket that file permissions guard, and the commands that speak with it."""
