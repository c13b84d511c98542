"""Tables and pictures of a sampler benchmark."""
