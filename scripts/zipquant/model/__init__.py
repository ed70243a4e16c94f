"""The encoder's contract and loop, and what stands beside it."""
