"""From encoder outputs to text, and its error rates."""
