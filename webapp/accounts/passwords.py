"""What a password has to be, beside Django's own rules (OWASP ASVS 2.1: 12 to 128 characters, of any kind)."""

from typing import Any

from django.core.exceptions import ValidationError


class LongestValidator:
    """Nothing is ever cut off; beyond `longest` characters the form says so."""

    def __init__(self, longest: int = 128) -> None:
        self.longest = longest

    def validate(self, password: str, user: Any = None) -> None:
        if len(password) > self.longest:
            raise ValidationError(
                f"This password has {len(password)} characters; at most {self.longest} are taken.",
                code="password_too_long",
            )

    def get_help_text(self) -> str:
        return f"At most {self.longest} characters; spaces and letters of any alphabet count."


class NotBlankValidator:
    """White space may be part of a password, not all of it."""

    def validate(self, password: str, user: Any = None) -> None:
        if not password.strip():
            raise ValidationError(
                "This password is nothing but white space: use some letters too.", code="password_blank"
            )

    def get_help_text(self) -> str:
        return "Not white space alone."
