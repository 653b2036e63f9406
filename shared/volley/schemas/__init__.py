"""What the bytes mean: messages, manifests, run specifications and status."""
