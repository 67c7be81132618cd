"""schemathesis makes calls from the document, fitting ones and unfitting ones: no answer is an error of ours."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.conftest import Api
from tests.api.test_walk import MAKERS
from tests.api.walk import ROWS
from webapp.accounts.models import User
from webapp.corpus.models import Project

EXAMPLES = 3
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
AT = {row.route: row.at for row in ROWS}


@pytest.fixture
def in_process(settings: Any) -> Iterator[None]:
    """As Django's own test client does: a call leaves the test's connection open. And no limit, and a quiet log."""
    settings.API_PER_MINUTE = 1_000_000
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.one_database
def test_no_call_is_an_error_of_ours(
    world: Project, admin: User, api: Callable[..., Api], in_process: None
) -> None:
    # Its client knows no compression.
    headers = {**api(admin).headers, "Accept-Encoding": "identity"}
    found: list[str] = []
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application())
    tried, statuses = 0, set[int]()

    def call(case: Case) -> None:
        """What a call writes is taken back, so that the next one finds the same rows."""
        nonlocal tried
        tried += 1
        with transaction.atomic():
            maker = AT.get(f"{case.method.upper()} {case.path.removeprefix('/api/v1')}")
            case.path_parameters = dict(case.path_parameters or {})
            if "slug" in case.path_parameters:
                case.path_parameters["slug"] = world.slug
            if maker and case.path_parameters:
                case.path_parameters[list(case.path_parameters)[-1]] = MAKERS[maker](world, admin)
            response = case.call(headers=headers)
            statuses.add(response.status_code)
            transaction.set_rollback(True)
        try:
            case.validate_response(response, checks=CHECKS)
        except (Exception, BaseExceptionGroup) as failure:
            found.append(f"{case.method} {case.path}: {str(failure)[:600]}")

    for result in schema.get_all_operations():
        operation = result.ok()
        # The same seed each time, and no search for the smallest failing call: it would take minutes.
        bounded = settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        fitting, unfitting = (
            operation.as_strategy(generation_mode=mode)
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        )
        bounded(given(fitting | unfitting if operation.body or operation.query else fitting)(call))()
    assert found == []
    assert tried > 2 * len(AT)
    assert {200, 201, 404, 422} <= statuses, "both fitting and unfitting calls were made"
