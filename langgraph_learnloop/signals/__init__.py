"""Turn what people say of a run into Feedback: words, scores and corrections come in, checked records go out."""
