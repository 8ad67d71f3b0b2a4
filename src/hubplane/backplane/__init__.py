"""Carriers of payloads between nodes. Knows channels and bytes, no hubs; imports floor 0 only. Start at `base`."""
