"""The trusted process: front door, policy, supervision of workers, broker. It never runs an agent's code."""
