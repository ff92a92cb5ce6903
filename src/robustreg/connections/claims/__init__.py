"""The claims, one file a source."""
