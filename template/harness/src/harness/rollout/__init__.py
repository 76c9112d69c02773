"""Whether the model on trial is no worse, asked as often as anybody likes, and taken back when it is.

What is known of a stage comes from the audit and the store; what is not known is inconclusive, and holds.
"""
