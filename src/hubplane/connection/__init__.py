"""One client, seen from inside: identity, inbox, outbound buffer. Imports protocol and floor 0.

Start at `transport` (what an edge must offer), then `outbound`, then `hub_connection`.
"""
