"""The zoo: laws whose constant, samples and diffused scores are known."""

from sde_score.models.targets.target import Target

__all__ = ["Target"]
