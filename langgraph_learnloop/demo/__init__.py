"""Show the whole circle on sample data: a small model, a toolbox, users who correct it, and the lesson learned."""
