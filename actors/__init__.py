"""The actor model, and everything that is an actor. Stands on `bus`; never imports NATS."""
