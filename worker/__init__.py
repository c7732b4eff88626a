"""The untrusted side's runtime: what runs in a worker process, around one agent's code."""
