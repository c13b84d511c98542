"""The linear-Gaussian problems of `benchmarks/`, and the exact moments of samples."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
