"""All views of one trained model, compared."""
