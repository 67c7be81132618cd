"""The second factor by one-time codes, where it is on."""

import base64
import hashlib

from allauth.mfa.adapter import DefaultMFAAdapter
from cryptography.fernet import Fernet
from django.conf import settings


class MFAAdapter(DefaultMFAAdapter):
    """Secrets of one-time codes are encrypted in the database: a copy of it alone makes no codes."""

    @property
    def _fernet(self) -> Fernet:
        key = hashlib.blake2b(settings.SECRET_KEY.encode(), digest_size=32, person=b"caliper totp").digest()
        return Fernet(base64.urlsafe_b64encode(key))

    def encrypt(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return self._fernet.decrypt(encrypted_text.encode()).decode()
