"""What users write and call: Hub, HubContext, clients, groups, and the dispatch behind them. Start at `hub`."""
