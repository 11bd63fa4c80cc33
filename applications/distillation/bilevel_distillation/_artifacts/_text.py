"""Names from folders and files as text."""

import unicodedata

_REVERSING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def one_line(text: object) -> str:
    """A name on one line; a mark stands for what is no character or reverses the text after it.

    Examples:
        >>> one_line("two\\nlines")
        'two lines'
    """
    words = " ".join(str(text).split())
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_odd(one) else one for one in words)


def _is_odd(letter: str) -> bool:
    return letter in _REVERSING or unicodedata.category(letter) in ("Cc", "Cs")
