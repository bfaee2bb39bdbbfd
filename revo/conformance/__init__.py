"""What a worker in any language must do on the wire, as checks that run against one (`docs/conformance.md`).

Knows the wire and nothing of our own worker: what is checked is what others see.
"""
