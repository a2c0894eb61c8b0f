"""Files: atomic writes, Parquet and tar shards, images, hashes, the work cache."""
