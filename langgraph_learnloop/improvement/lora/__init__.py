"""Take a job in; give a LoRA adapter out, trained in a process of its own."""
