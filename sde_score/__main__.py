"""`python -m sde_score` is the `sde-score` command; `torchrun -m sde_score train ...` trains on
many processes."""

from sde_score.cli import run

if __name__ == "__main__":
    run()
