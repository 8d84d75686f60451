"""Passing messages on in C (the `.c` files beside this one), optional: what Python knows of it."""
