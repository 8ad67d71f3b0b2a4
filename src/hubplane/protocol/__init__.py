"""Bytes to messages and back, without I/O. Imports floor 0 only; reads no clock, logs no payload.

Start at `messages`, then `hub_protocol`, then `session`.
"""
