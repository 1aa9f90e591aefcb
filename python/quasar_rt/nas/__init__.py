"""Hardware-aware search of a space for a board: which subnets are worth running, and what they cost there."""
