"""Who hears what: connections, groups and users of this node, and the other nodes behind a backplane.

Start at `base` and `audience`, then `table`, then `scaleout`.
"""
