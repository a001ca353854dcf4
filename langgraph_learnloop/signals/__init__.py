"""Turn what people say of a run, and what they do not say, into Feedback.

Words, scores and corrections come in at `explicit`, and are checked; `implicit` looks at a turn and the one before.
"""
