"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A deadline for one example would measure how busy the machine is. A hang ends with the whole test's timeout.
settings.register_profile("tavern", deadline=None)
settings.load_profile("tavern")
