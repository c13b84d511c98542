"""Names of the streams of random numbers in a run: each draw is a function of (seed, stream, ...).

So no random state is ever stored: a resumed run draws what it would have drawn.
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

SETUP = 5
"""What an objective with a state begins with."""
