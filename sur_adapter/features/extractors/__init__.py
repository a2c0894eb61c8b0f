"""One file for each thing the frozen models see: write(pairs, pictures, out, models, **settings)."""
