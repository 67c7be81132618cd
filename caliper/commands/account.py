"""`caliper login`, `logout` and `projects`."""

import argparse
import getpass
import ipaddress
import sys
from urllib.parse import urlsplit

from caliper import credentials
from caliper.client import Client
from caliper.commands.common import Adds, Stop, client_of, result, told


def add(command: Adds) -> None:
    sub = command("login", login, "Store a token, so that commands reach a Caliper.")
    sub.add_argument("--token-stdin", action="store_true", help="read the token from standard input")
    command("logout", logout, "Forget the stored token of an address.")
    command("projects", projects, "List the projects that you belong to.")


def login(options: argparse.Namespace) -> None:
    url, _ = credentials.found(options.url)
    if not url:
        raise Stop("Say which Caliper: caliper login --url https://caliper.example.org", 2)
    if options.token_stdin:
        token = sys.stdin.readline().strip()
    else:
        told(f"Make a token on {url.rstrip('/')}/account/tokens/ (it is shown once).")
        token = getpass.getpass("Token: ").strip()
    if not token:
        raise Stop("No token was given.", 2)
    with Client(url, token) as client:
        me = client.me()
        if "username" not in me:
            raise Stop(f"{url} answers, but not as Caliper does. Check the address.")
    kept = credentials.keep(url, token)
    if not _private(url):
        told(f"Note: {url} has no TLS: whoever sees the traffic sees the token.")
    result(
        options,
        {"url": url, "user": me["username"], "scopes": me["token"]["scopes"], "stored": str(kept)},
        f"Logged in at {url} as {me['username']} ({', '.join(me['token']['scopes'])}). The token is in {kept}.",
    )


def _private(url: str) -> bool:
    """Whether nobody else sees the traffic: TLS, or this machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def logout(options: argparse.Namespace) -> None:
    url, _ = credentials.found(options.url)
    gone = credentials.forget(url) if url else False
    words = (
        f"The token of {url} is forgotten here. It is still valid: revoke it on {url.rstrip('/')}/account/tokens/."
        if gone and url
        else "There was no stored token to forget."
    )
    result(options, {"url": url, "forgotten": gone}, words)


def projects(options: argparse.Namespace) -> None:
    rows = list(client_of(options).projects.list())
    width = max((len(row["slug"]) for row in rows), default=0)
    lines = [f"{row['slug']:<{width}}  {row['name']}" for row in rows]
    result(options, rows, "\n".join(lines) or "You belong to no project. Ask an admin for an invitation.")
