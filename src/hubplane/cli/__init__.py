"""The `hubplane` command."""
