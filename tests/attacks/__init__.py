"""Promises of the walls: what an agent may try, and that the operating system refuses it.

`attempts/` is code for the inside: plain modules of the standard library, copied beside an `agent.py`, or anywhere.
`stage.py` is for the outside: it makes the victims that the attempts are aimed at.
`test_attempts_work.py` is the control: without walls every attempt works, so that none is held for want of a tool.
"""
