"""Fetches images over HTTP: client, politeness, address guard, shard writer, removal requests."""
