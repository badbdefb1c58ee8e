"""Speed and size against what is promised, measured on this machine at the time of the call: ``python -m bench``."""
