"""sde_score: score matching and diffusion as views of one trained model."""

__version__ = "0.1.0"
