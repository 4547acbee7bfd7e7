"""Shares: directories of the host as zones see them, by a 9P2000.L server of our own.

The server's process may do nothing but serve the directories that it was handed; see ``confinement``.
"""
