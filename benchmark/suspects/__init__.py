"""A classifier that somebody else fine-tuned: looked at, repaired, guarded. No matrix, no task and no attack is known of it.

Above the protocol, beside the matrix. Nothing here prints.
"""
