"""Which chunks calibrate a model, and the files that the toolkit reads."""
