"""What a mesh says on the wire as documents that other tools read: AsyncAPI 3.0, and JSON schemas.

All of it is made from the code (subjects, models, handlers) and from what the registry knows, and none of it by hand.
"""
