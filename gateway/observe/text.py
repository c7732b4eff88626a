"""Text of strangers, made fit to be shown: a worker's words may hold what a terminal obeys."""


def printable(text: str) -> str:
    """Return the text with a mark for each character that is no plain one; ends of lines stay."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)
