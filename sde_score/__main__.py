"""`python -m sde_score` is the `sde-score` command; `torchrun -m sde_score train ...` trains on
many processes."""

import sys

from sde_score.cli import main

if __name__ == "__main__":
    sys.exit(main())
