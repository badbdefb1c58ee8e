"""The real services on a virtual clock, in a world held in memory."""
