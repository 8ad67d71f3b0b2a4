"""Redis as a carrier: options, connections, plain pub/sub. Start at `pubsub`; needs the extra ``hubplane[redis]``."""
