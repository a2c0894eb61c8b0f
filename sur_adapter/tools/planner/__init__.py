"""plan: estimates rows, disk, hours and memory of every stage before a run."""
