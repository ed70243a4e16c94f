"""How a job runs, and how it leaves its files."""
