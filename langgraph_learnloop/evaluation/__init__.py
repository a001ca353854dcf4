"""Hold a candidate against the champion: held-out cases come in, a Scorecard goes out."""
