"""Streams of random numbers in a run: each draw is a function of (seed, stream, step, ...).

No random state is stored, and a resumed run draws the same numbers.
"""

from __future__ import annotations

INIT = 0
"""Initial weights."""

ORDER = 1
"""Order of the examples, per epoch."""

OBJECTIVE = 2
"""Times and noise of the objective, per step."""

DEQUANTIZE = 3
"""Uniform noise on discrete data, per step."""

NETWORK = 4
"""Dropout inside the network, per step and process."""

CONDITION = 6
"""Examples that are shown without their condition, per step."""

SETUP = 5
"""First state of an objective."""

AUGMENT = 8
"""Changes of the examples, per step."""

MASK = 9
"""Columns that are hidden from the network, per step."""

COUPLE = 7
"""Noise that examples are paired with, per step; potentials of a coupling."""

ITEMS = 9
"""Random numbers of data sets of others, per epoch and item."""
