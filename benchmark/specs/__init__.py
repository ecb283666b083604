"""What identifies a victim and a cell, and what a finished cell leaves behind: specs, keys, records, metrics.

Plain data and its JSON. No torch, no file, no plugin.
"""
