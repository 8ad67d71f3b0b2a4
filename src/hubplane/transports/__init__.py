"""How a client reaches us: negotiate and the transports' rules, written against `exchange`, so both edges share them."""
