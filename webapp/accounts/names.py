"""Names that people sign in with: none may pass for another's."""

import re
import unicodedata

from django.core.exceptions import ValidationError

# Small letters of other alphabets that are drawn as Latin ones. Capitals are looked up by their small letter.
LOOKALIKES = set("аеорсухіјѕһԁӏԛԝ") | set("ορνυικαχ")
ALPHABETS = {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "GEORGIAN", "LISU"}
# Phonetic letters such as ɑ and ɡ: Latin by name, but on nobody's keyboard.
PHONETIC = re.compile("[\u0250-\u02af\u1d00-\u1dbf]")


def alphabets(name: str) -> set[str]:
    """Those of ALPHABETS that a name has letters of. Only these have letters which are drawn alike."""
    words = (unicodedata.name(character, "").partition(" ")[0] for character in name if character.isalpha())
    return ALPHABETS.intersection(words)


def validate_no_lookalike(name: str) -> None:
    """Refuse a name that could be read as another one. Names in one alphabet, whichever, are fine."""
    found = alphabets(name)
    if len(found) > 1:
        listed = " and ".join(sorted(word.title() for word in found))
        raise ValidationError(
            f"This name mixes {listed} letters, some of which look alike: write it in one alphabet.",
            code="mixed_alphabets",
        )
    letters = [character for character in name.lower() if character.isalpha()]
    if PHONETIC.search(name) or (found & {"CYRILLIC", "GREEK"} and LOOKALIKES.issuperset(letters)):
        raise ValidationError(
            "This name can be taken for one in Latin letters: write it in those, or choose another.",
            code="lookalike",
        )
