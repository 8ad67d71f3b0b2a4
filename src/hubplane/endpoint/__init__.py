"""Wires one hub: its dispatcher, lifetime manager, transports and heartbeat, and owns their tasks."""
