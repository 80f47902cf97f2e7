"""One form for each text, so that equal texts are equal bytes, whichever program saved them."""

import unicodedata


def normalise(text: str) -> str:
    """Unicode NFC, line ends LF, outer white space removed (Unicode's white space, so the ideographic space
    U+3000 too).

    NFC keeps Chinese text and full-width forms as they are, except the compatibility ideographs (U+F900 to
    U+FAFF, U+2F800 to U+2FA1F): Unicode defines each of them as equal to a unified ideograph, which replaces
    it.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip() if text.isascii() else unicodedata.normalize("NFC", text).strip()
