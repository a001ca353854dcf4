"""Take releases in; give a chat model out whose inside can be swapped while it serves."""
