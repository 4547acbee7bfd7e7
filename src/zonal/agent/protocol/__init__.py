"""The wire protocol between the host and the agent of a zone; shared by both, and described in docs/protocol.md.

Standard library only and light to import: it is part of the start-up time of every zone.
"""
