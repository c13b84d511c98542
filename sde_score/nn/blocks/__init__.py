"""The parts that backbones are built of."""
