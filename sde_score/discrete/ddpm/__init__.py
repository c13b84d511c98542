"""The hierarchical VAE: the view of a diffusion as a chain of latent layers."""
